// The tiles in memory: fetched when they are visible, dropped when they were not seen for long.

import * as api from "./api";
import { SIDE, placesIn, type Place, type Rect } from "./grid";
import type { Layer, Look, Painter } from "./gl";
import type { Stroke } from "./stroke";
import type { Size, View } from "./view";

const MOST_IMAGE = 220;
const MOST_LABELS = 120;
const AT_ONCE = 4;

interface ImageTile {
  texture: WebGLTexture;
  height: number;
  width: number;
}

export interface LabelTile {
  place: Place;
  data: Int32Array;
  texture: WebGLTexture;
  version: number;
}

const keyOf = (level: number, place: Place): string => `${level}/${place.ty}/${place.tx}`;

function rectOf(level: number, place: Place, height: number, width: number): Rect {
  const step = SIDE * 2 ** level;
  const y0 = place.ty * step;
  const x0 = place.tx * step;
  return { y0, x0, y1: y0 + height * 2 ** level, x1: x0 + width * 2 ** level };
}

/** Tiles of one plane. */
export class Tiles {
  private readonly images = new Map<string, ImageTile>();
  private readonly labelTiles = new Map<string, LabelTile>();
  private readonly asked = new Map<string, AbortController>();
  private readonly later = new Set<string>();
  private queue: (() => Promise<void>)[] = [];
  private running = 0;
  private closed = false;
  /** Strokes that are drawn or not saved: their tiles stay, and show them over what is loaded. */
  readonly strokes = new Set<Stroke>();

  constructor(
    readonly plane: api.Plane,
    private readonly size: Size,
    private readonly painter: Painter,
    private readonly changed: () => void,
    private readonly failed: (text: string) => void,
  ) {}

  close(): void {
    this.closed = true;
    for (const one of this.asked.values()) one.abort();
    for (const one of this.images.values()) this.painter.free(one.texture);
    for (const one of this.labelTiles.values()) this.painter.free(one.texture);
  }

  /** Keep the tiles of strokes only, while another plane is shown. */
  rest(): void {
    this.queue = [];
    for (const one of this.asked.values()) one.abort();
    for (const one of this.images.values()) this.painter.free(one.texture);
    this.images.clear();
    this.later.clear();
    for (const [key, tile] of this.labelTiles) if (!this.isPainted(tile)) this.drop(this.labelTiles, key);
  }

  /** Show a plane again that has rested: others may have changed the tiles that stayed. */
  async wake(): Promise<void> {
    await this.renew([...this.labelTiles.values()].map(({ place }) => [place.ty, place.tx, -1]));
  }

  private isPainted(tile: LabelTile): boolean {
    return [...this.strokes].some((stroke) => stroke.has(tile));
  }

  /** Fetch what is missing of a view, and forget what was asked for and is not visible any more. */
  want(rect: Rect, level: number, channels: number[], labelLevel: number): void {
    const wanted = new Set<string>();
    this.queue = [];
    for (const place of placesIn(rect, labelLevel)) {
      const key = `labels/${keyOf(labelLevel, place)}`;
      wanted.add(key);
      if (!this.labelTiles.has(keyOf(labelLevel, place)))
        this.fetch(key, (signal) => this.loadLabels(labelLevel, place, signal));
    }
    for (const place of placesIn(rect, level))
      for (const channel of channels) {
        const key = `${channel}/${keyOf(level, place)}`;
        wanted.add(key);
        if (!this.images.has(key) && !this.later.has(key))
          this.fetch(key, (signal) => this.loadImage(channel, level, place, signal));
      }
    for (const [key, one] of this.asked) if (!wanted.has(key)) one.abort();
    this.next();
  }

  private fetch(key: string, load: (signal: AbortSignal) => Promise<void>): void {
    if (this.asked.has(key)) return;
    this.queue.push(async () => {
      const control = new AbortController();
      this.asked.set(key, control);
      try {
        await load(control.signal);
      } catch (error) {
        if (!control.signal.aborted && !this.closed) this.failed((error as Error).message);
      } finally {
        this.asked.delete(key);
      }
    });
  }

  private next(): void {
    while (this.running < AT_ONCE && this.queue.length > 0) {
      const one = this.queue.shift()!;
      this.running += 1;
      void one().finally(() => {
        this.running -= 1;
        this.next();
      });
    }
  }

  private async loadImage(channel: number, level: number, place: Place, signal: AbortSignal): Promise<void> {
    const key = `${channel}/${keyOf(level, place)}`;
    const tile = await api.pixels(this.plane, channel, level, place, signal);
    if (this.closed) return;
    if (tile === null) {
      this.later.add(key);
      return;
    }
    const texture = this.painter.texture(tile.data, tile.height, tile.width);
    this.images.set(key, { texture, height: tile.height, width: tile.width });
    while (this.images.size > MOST_IMAGE) this.drop(this.images, this.images.keys().next().value!);
    this.changed();
  }

  private async loadLabels(level: number, place: Place, signal?: AbortSignal): Promise<void> {
    const key = keyOf(level, place);
    const asked = this.labelTiles.get(key)?.version;
    const { data, version } = await api.labels(this.plane, level, place, signal);
    if (this.closed) return;
    const old = this.labelTiles.get(key);
    if (old) {
      if (old.version !== asked && old.version > version) return; // a stroke was saved since this was read
      old.data.set(data);
      old.version = version;
      for (const stroke of this.strokes) stroke.repaint(old);
      this.painter.refresh(old.texture, old.data, 0, SIDE);
    } else {
      const tile = { place, data, version, texture: this.painter.texture(data, SIDE, SIDE) };
      this.labelTiles.set(key, tile);
      if (level === 0 && this.strokes.size > 0) {
        for (const stroke of this.strokes) stroke.repaint(tile);
        this.painter.refresh(tile.texture, data, 0, SIDE);
      }
      while (this.labelTiles.size > MOST_LABELS) {
        const [oldest] = [...this.labelTiles].find(([, tile]) => !this.isPainted(tile)) ?? [];
        if (oldest === undefined) break;
        this.drop(this.labelTiles, oldest);
      }
    }
    this.changed();
  }

  private drop<T extends { texture: WebGLTexture }>(map: Map<string, T>, key: string): void {
    this.painter.free(map.get(key)!.texture);
    map.delete(key);
  }

  /** Coarser tiles were made: those that were missing are asked for again. */
  askAgain(): void {
    this.later.clear();
    this.changed();
  }

  /** The tile of level 0 with a pixel, if it is here. */
  labelTile(y: number, x: number): LabelTile | undefined {
    return this.labelTiles.get(keyOf(0, { ty: Math.floor(y / SIDE), tx: Math.floor(x / SIDE) }));
  }

  /** The label of a point as a level shows it; undefined if its tile is not here. Outside of the image it is -1. */
  labelAt(y: number, x: number, level = 0): number | undefined {
    if (y < 0 || x < 0 || y >= this.size.height || x >= this.size.width) return -1;
    const [row, column] = [Math.floor(y / 2 ** level), Math.floor(x / 2 ** level)];
    const tile = this.labelTiles.get(keyOf(level, { ty: Math.floor(row / SIDE), tx: Math.floor(column / SIDE) }));
    return tile?.data[(row % SIDE) * SIDE + (column % SIDE)];
  }

  /** Load a tile of level 0. */
  load(place: Place): Promise<void> {
    return this.loadLabels(0, place);
  }

  /** The places of the tiles of level 0 that are here or on their way. */
  get places(): Place[] {
    const asked = [...this.asked.keys()].filter((key) => key.startsWith("labels/")).map((key) => key.slice("labels/".length));
    const keys = [...this.labelTiles.keys(), ...asked].filter((key) => key.startsWith("0/"));
    return keys.map((key) => key.split("/").map(Number)).map(([, ty, tx]) => ({ ty: ty!, tx: tx! }));
  }

  touched(tile: LabelTile, y0: number, y1: number): void {
    this.painter.refresh(tile.texture, tile.data, y0, y1);
    this.changed();
  }

  /** Load tiles of level 0 anew whose version is another; coarser ones are dropped. */
  async renew(tiles: [number, number, number][]): Promise<void> {
    for (const key of this.labelTiles.keys()) if (!key.startsWith("0/")) this.drop(this.labelTiles, key);
    await Promise.all(
      tiles.map(async ([ty, tx, version]) => {
        const key = keyOf(0, { ty, tx });
        const tile = this.labelTiles.get(key);
        // One that is on its way may have been read before the change.
        if (tile ? tile.version !== version : this.asked.has(`labels/${key}`)) await this.loadLabels(0, { ty, tx });
      }),
    );
    this.changed();
  }

  drawImage(rect: Rect, level: number, levels: number, channels: number[], layers: Layer[], invert: boolean, view: View, canvas: Size): void {
    // From coarse to fine: what is not here yet shows the coarser tile below it.
    for (let n = levels - 1; n >= level; n--)
      for (const place of placesIn(rect, n)) {
        const tiles = channels.map((channel) => this.images.get(`${channel}/${keyOf(n, place)}`));
        const first = tiles[0];
        if (!first || tiles.some((one) => one === undefined)) continue;
        for (const channel of channels) this.seen(this.images, `${channel}/${keyOf(n, place)}`);
        const whole = rectOf(n, place, first.height, first.width);
        const textures = tiles.map((one) => one!.texture);
        this.painter.drawImage(textures, layers, invert, whole, first, view, canvas);
      }
  }

  drawLabels(rect: Rect, level: number, look: Look, view: View, canvas: Size): void {
    for (const place of placesIn(rect, level)) {
      const tile = this.labelTiles.get(keyOf(level, place));
      if (!tile) continue;
      this.seen(this.labelTiles, keyOf(level, place));
      const whole = rectOf(level, place, SIDE, SIDE);
      this.painter.drawLabels(tile.texture, null, look, 0, whole, { height: SIDE, width: SIDE }, view, canvas);
    }
  }

  private seen<T>(map: Map<string, T>, key: string): void {
    const value = map.get(key)!;
    map.delete(key);
    map.set(key, value);
  }
}
