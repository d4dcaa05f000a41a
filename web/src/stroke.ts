// A stroke of the brush on the tiles in memory, and what of it goes to the server.

import * as api from "./api";
import { mayPaint, segmentSpans } from "./brush";
import { SIDE, type Place } from "./grid";
import { changedRuns } from "./runs";
import { Refused } from "./saving";
import type { LabelTile, Tiles } from "./tiles";
import type { Size } from "./view";

export interface Brush {
  value: number;
  radius: number;
  protect: boolean;
  exempt: number;
}

interface PaintedTile {
  ty: number;
  tx: number;
  version: number;
  runs: number[];
}

const placeKey = ({ ty, tx }: Place): string => `${ty}/${tx}`;

/** A stroke; the tiles know it until it is saved or taken back. */
export class Stroke {
  private readonly before = new Map<LabelTile, Int32Array>(); // while it is drawn
  private readonly runs = new Map<LabelTile, number[]>(); // once it is drawn
  private readonly points: [number, number, number][] = []; // y, x, radius
  private readonly awaited = new Map<string, Place>(); // tiles that were painted on and are not here yet
  private drawn = false;

  constructor(
    readonly tiles: Tiles,
    private readonly size: Size,
    readonly brush: Brush,
    readonly name: string,
  ) {
    tiles.strokes.add(this);
  }

  /** Paint from the last point to this one. */
  to(y: number, x: number, radius = this.brush.radius): void {
    this.points.push([y, x, radius]);
    this.segment(this.points.length - 1, (tile, row, from, until) => {
      if (!this.before.has(tile)) this.before.set(tile, tile.data.slice());
      this.paint(tile, row, from, until);
      const [low, high] = this.rows.get(tile) ?? [row, row + 1];
      this.rows.set(tile, [Math.min(low, row), Math.max(high, row + 1)]);
    });
    this.show();
  }

  /** Give the pixels of the segment that ends at a point to `paint`, by rows of tiles that are here. */
  private segment(n: number, paint: (tile: LabelTile, row: number, from: number, until: number) => void): void {
    const [y, x, radius] = this.points[n]!;
    const last = this.points[n - 1] ?? [y, x];
    for (const span of segmentSpans(last[0], last[1], y, x, radius)) {
      if (span.y < 0 || span.y >= this.size.height) continue;
      const end = Math.min(span.x1, this.size.width);
      for (let from = Math.max(0, span.x0); from < end; ) {
        const until = Math.min(end, (Math.floor(from / SIDE) + 1) * SIDE);
        const tile = this.tiles.labelTile(span.y, from);
        if (tile) paint(tile, span.y % SIDE, from % SIDE, (from % SIDE) + until - from);
        else this.await({ ty: Math.floor(span.y / SIDE), tx: Math.floor(from / SIDE) });
        from = until;
      }
    }
  }

  private await(place: Place): void {
    this.awaited.set(placeKey(place), place);
  }

  private readonly rows = new Map<LabelTile, [number, number]>();

  private paint(tile: LabelTile, row: number, from: number, until: number): void {
    const { value, protect, exempt } = this.brush;
    for (let n = row * SIDE + from; n < row * SIDE + until; n++)
      if (mayPaint(tile.data[n]!, value, protect, exempt)) tile.data[n] = value;
  }

  private show(): void {
    for (const [tile, [low, high]] of this.rows) this.tiles.touched(tile, low, high);
    this.rows.clear();
  }

  /** Whether it has painted on a tile. */
  has(tile: LabelTile): boolean {
    return this.before.has(tile) || this.runs.has(tile);
  }

  /** Paint over a tile of this stroke that was loaded. */
  repaint(tile: LabelTile): void {
    if (!this.awaited.delete(placeKey(tile.place)) && !this.has(tile)) return;
    const before = tile.data.slice();
    for (let n = 0; n < this.points.length; n++)
      this.segment(n, (at, row, from, until) => {
        if (at === tile) this.paint(tile, row, from, until);
      });
    if (this.drawn) this.runs.set(tile, changedRuns(before, tile.data));
    else this.before.set(tile, before);
  }

  /** Put back what was there. */
  takeBack(): void {
    this.tiles.strokes.delete(this);
    for (const [tile, before] of this.before) {
      tile.data.set(before);
      this.tiles.touched(tile, 0, SIDE);
    }
  }

  /** The stroke is drawn: what comes later is not part of it. Tells whether there is something to save. */
  finish(): boolean {
    this.drawn = true;
    for (const [tile, before] of this.before) {
      const runs = changedRuns(before, tile.data);
      if (runs.length > 0) this.runs.set(tile, runs);
    }
    this.before.clear();
    const any = this.runs.size + this.awaited.size > 0;
    if (!any) this.tiles.strokes.delete(this);
    return any;
  }

  /** The runs of changed pixels of each tile. */
  private changes(): PaintedTile[] {
    return [...this.runs]
      .filter(([, runs]) => runs.length > 0)
      .map(([tile, runs]) => ({ ...tile.place, version: tile.version, runs }));
  }

  /** Save the stroke: on its tiles as they are now, where another window has changed them. */
  async save(say: (text: string) => void): Promise<void> {
    try {
      await Promise.all([...this.awaited.values()].map((place) => this.tiles.load(place)));
      await this.send();
    } catch (error) {
      if (!(error instanceof Refused)) throw error; // the stroke stays on the screen, and is sent again
      const known = [...this.runs.keys()].map(({ place }): [number, number, number] => [place.ty, place.tx, -1]);
      if (!(error instanceof api.Conflict)) {
        this.tiles.strokes.delete(this);
        await this.tiles.renew(known);
        throw error;
      }
      await this.tiles.renew(known); // paints all strokes that wait over what is loaded
      say(await this.sendAgain());
    }
    this.tiles.strokes.delete(this);
  }

  private async sendAgain(): Promise<string> {
    try {
      if (await this.send()) return "This place was changed in another window; your stroke was painted on the new state.";
      return "Nothing was left to paint of your stroke: the server has it already, or protected objects lie there now.";
    } catch (error) {
      throw error instanceof api.Conflict ? new Error(error.message) : error; // changed again: later
    }
  }

  /** Send what the stroke changes, if it changes anything; tells whether it does. */
  private async send(): Promise<boolean> {
    const tiles = this.changes();
    if (tiles.length === 0) return false;
    const done = await api.edit(this.tiles.plane, { kind: "paint", name: this.name, tiles });
    for (const [ty, tx, version] of done.tiles) {
      const tile = this.tiles.labelTile(ty * SIDE, tx * SIDE);
      if (tile) tile.version = version;
    }
    return true;
  }
}
