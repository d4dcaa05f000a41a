// A stroke of the brush on the tiles in memory, and what of it goes to the server.

import { mayPaint, segmentSpans } from "./brush";
import { SIDE } from "./grid";
import { changedRuns } from "./runs";
import type { LabelTile, Tiles } from "./tiles";
import type { Size } from "./view";

export interface Brush {
  value: number;
  radius: number;
  protect: boolean;
  exempt: number;
}

export interface PaintedTile {
  ty: number;
  tx: number;
  version: number;
  runs: number[];
}

export class Stroke {
  private readonly before = new Map<LabelTile, Int32Array>();
  readonly points: [number, number, number][] = []; // y, x, radius

  constructor(
    private readonly tiles: Tiles,
    private readonly size: Size,
    readonly brush: Brush,
    readonly name: string,
  ) {}

  /** Paint from the last point to this one. */
  to(y: number, x: number, radius = this.brush.radius): void {
    const last = this.points.at(-1) ?? [y, x, radius];
    this.points.push([y, x, radius]);
    for (const span of segmentSpans(last[0], last[1], y, x, radius)) {
      if (span.y < 0 || span.y >= this.size.height) continue;
      const end = Math.min(span.x1, this.size.width);
      for (let from = Math.max(0, span.x0); from < end; ) {
        const until = Math.min(end, (Math.floor(from / SIDE) + 1) * SIDE);
        this.paint(span.y, from, until);
        from = until;
      }
    }
    this.show();
  }

  private readonly rows = new Map<LabelTile, [number, number]>();

  private paint(y: number, x0: number, x1: number): void {
    const tile = this.tiles.labelTile(y, x0);
    if (!tile) return;
    if (!this.before.has(tile)) this.before.set(tile, tile.data.slice());
    const row = y % SIDE;
    const { value, protect, exempt } = this.brush;
    for (let n = row * SIDE + (x0 % SIDE), left = x1 - x0; left > 0; n++, left--)
      if (mayPaint(tile.data[n]!, value, protect, exempt)) tile.data[n] = value;
    const [low, high] = this.rows.get(tile) ?? [row, row + 1];
    this.rows.set(tile, [Math.min(low, row), Math.max(high, row + 1)]);
  }

  private show(): void {
    for (const [tile, [low, high]] of this.rows) this.tiles.touched(tile, low, high);
    this.rows.clear();
  }

  /** Put back what was there. */
  takeBack(): void {
    for (const [tile, before] of this.before) {
      tile.data.set(before);
      this.tiles.touched(tile, 0, SIDE);
    }
  }

  /** The runs of changed pixels of each tile. */
  changes(): PaintedTile[] {
    const found: PaintedTile[] = [];
    for (const [tile, before] of this.before) {
      const runs = changedRuns(before, tile.data);
      if (runs.length > 0) found.push({ ...tile.place, version: tile.version, runs });
    }
    return found;
  }

  /** The same stroke on the tiles as they are now. */
  again(): Stroke {
    const stroke = new Stroke(this.tiles, this.size, this.brush, this.name);
    for (const [y, x, radius] of this.points) stroke.to(y, x, radius);
    return stroke;
  }
}
