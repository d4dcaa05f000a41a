// Tiles over an image. Level 0 is the image; a pixel of level L stands for 2^L x 2^L pixels.

export const SIDE = 512;

export interface Rect {
  y0: number;
  x0: number;
  y1: number;
  x1: number;
}

export interface Place {
  ty: number;
  tx: number;
}

/** The number of levels: the coarsest fits into one tile. */
export function levelsOf(height: number, width: number): number {
  let levels = 1;
  while (Math.max(height, width) > SIDE * 2 ** (levels - 1)) levels += 1;
  return levels;
}

/** The level to show at a scale of screen pixels per image pixel. */
export function levelFor(scale: number, levels: number): number {
  const level = Math.floor(Math.log2(1 / scale) + 1e-9);
  return Math.max(0, Math.min(levels - 1, level));
}

export function clip(rect: Rect, height: number, width: number): Rect {
  return {
    y0: Math.max(0, rect.y0),
    x0: Math.max(0, rect.x0),
    y1: Math.min(height, rect.y1),
    x1: Math.min(width, rect.x1),
  };
}

export function isEmpty(rect: Rect): boolean {
  return rect.y1 <= rect.y0 || rect.x1 <= rect.x0;
}

/** The tiles of a level that a rectangle of image pixels touches, those in its middle first. */
export function placesIn(rect: Rect, level: number): Place[] {
  if (isEmpty(rect)) return [];
  const step = SIDE * 2 ** level;
  const found: Place[] = [];
  for (let ty = Math.floor(rect.y0 / step); ty * step < rect.y1; ty++)
    for (let tx = Math.floor(rect.x0 / step); tx * step < rect.x1; tx++) found.push({ ty, tx });
  const cy = (rect.y0 + rect.y1) / 2 / step - 0.5;
  const cx = (rect.x0 + rect.x1) / 2 / step - 0.5;
  const far = (p: Place): number => (p.ty - cy) ** 2 + (p.tx - cx) ** 2;
  return found.sort((a, b) => far(a) - far(b));
}
