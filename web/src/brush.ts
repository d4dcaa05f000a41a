// Pixels of a stroke: those whose centers lie within the radius of a segment.

export interface Span {
  y: number;
  x0: number;
  x1: number; // one after the last pixel
}

/** Spans of the pixels near the segment from (ay, ax) to (by, bx); coordinates count from the corner of a pixel. */
export function segmentSpans(ay: number, ax: number, by: number, bx: number, radius: number): Span[] {
  const spans: Span[] = [];
  const r = Math.max(radius, 0.5);
  const dy = by - ay;
  const dx = bx - ax;
  const length = dy * dy + dx * dx;
  const near = (py: number, px: number): boolean => {
    const t = length === 0 ? 0 : Math.max(0, Math.min(1, ((py - ay) * dy + (px - ax) * dx) / length));
    const ey = py - ay - t * dy;
    const ex = px - ax - t * dx;
    return ey * ey + ex * ex <= r * r;
  };
  const first = Math.floor(Math.min(ay, by) - r);
  const last = Math.ceil(Math.max(ay, by) + r);
  for (let y = first; y < last; y++) {
    const low = Math.floor(Math.min(ax, bx) - r);
    const high = Math.ceil(Math.max(ax, bx) + r);
    let x0 = low;
    while (x0 < high && !near(y + 0.5, x0 + 0.5)) x0 += 1;
    let x1 = high;
    while (x1 > x0 && !near(y + 0.5, x1 - 0.5)) x1 -= 1;
    if (x1 > x0) spans.push({ y, x0, x1 });
  }
  // A brush thinner than a pixel still paints the pixel under the pointer.
  if (spans.length === 0) spans.push({ y: Math.floor(by), x0: Math.floor(bx), x1: Math.floor(bx) + 1 });
  return spans;
}

/** Whether a label may be replaced by `value`: `exempt` is the label under the start of the stroke. */
export function mayPaint(old: number, value: number, protect: boolean, exempt: number): boolean {
  if (old === value) return false;
  if (value < 0 && protect && exempt > 0) return old === exempt;
  if (value < 0) return true;
  return !protect || old <= 0 || old === exempt;
}
