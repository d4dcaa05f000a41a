import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import type { Painter } from "../src/gl";
import { SIDE } from "../src/grid";
import { applyRuns } from "../src/runs";
import { Saving } from "../src/saving";
import { Stroke } from "../src/stroke";
import { Tiles, type LabelTile } from "../src/tiles";

const size = { height: SIDE, width: SIDE };
const plane = { image: "a", t: 0, z: 3 };
const painter = { free() {}, texture: () => ({}), refresh() {} } as unknown as Painter;
const real = globalThis.fetch;
afterEach(() => void (globalThis.fetch = real));

interface Sent {
  name: string;
  tiles: { ty: number; tx: number; version: number; runs: number[] }[];
}

/** A server of one tile; it takes nothing while `full`. */
class Server {
  data = new Int32Array(SIDE * SIDE).fill(-1);
  version = 0;
  full = false;
  deaf = false; // an edit is done, but its answer is lost
  meanwhile = (): void => undefined; // happens while labels are on their way
  sent: string[] = [];

  constructor() {
    globalThis.fetch = (async (path: string, options?: { body: string }): Promise<Response> => {
      if (path.startsWith("api/labels")) {
        const body = this.data.slice().buffer;
        const headers = { "x-version": String(this.version) };
        this.meanwhile();
        return new Response(body, { headers });
      }
      if (this.full) return new Response('{"error":"the disk is full"}', { status: 503 });
      return this.edit(JSON.parse(options!.body) as Sent);
    }) as typeof fetch;
  }

  private edit({ name, tiles }: Sent): Response {
    this.sent.push(`${name} ${tiles.length}`);
    if (tiles.some((one) => one.version !== this.version)) return new Response('{"error":"changed"}', { status: 409 });
    for (const one of tiles) this.change(() => applyRuns(this.data, one.runs));
    if (this.deaf) throw new TypeError("Failed to fetch");
    return Response.json({ name, t: 0, z: 3, tiles: tiles.map((one) => [one.ty, one.tx, this.version]) });
  }

  change(work: () => void): void {
    work();
    this.version += 1;
  }

  count(value: number): number {
    return this.data.filter((one) => one === value).length;
  }
}

function begun(): { server: Server; saving: Saving; said: string[]; draw: (tiles: Tiles, y: number, value: number) => void } {
  const said: string[] = [];
  const saving = new Saving(() => undefined, (text) => said.push(text), 1e6);
  const draw = (tiles: Tiles, y: number, value: number): void => {
    const stroke = new Stroke(tiles, size, { value, radius: 4, protect: true, exempt: -1 }, `stroke ${value}`);
    stroke.to(y, 50);
    stroke.to(y, 90);
    if (stroke.finish()) saving.add(() => stroke.save((text) => said.push(text)));
  };
  return { server: new Server(), saving, said, draw };
}

async function opened(): Promise<Tiles> {
  const tiles = new Tiles(plane, size, painter, () => undefined, assert.fail);
  tiles.want({ y0: 0, x0: 0, y1: SIDE, x1: SIDE }, 0, [], 0);
  while (!tiles.labelTile(0, 0)) await new Promise((done) => setTimeout(done, 1));
  return tiles;
}

const tileOf = (tiles: Tiles): LabelTile => tiles.labelTile(0, 0)!;

test("strokes of a plane that was left are saved, and shown when it is opened again", async () => {
  const { server, saving, said, draw } = begun();
  server.full = true;
  const tiles = await opened();
  draw(tiles, 100, 1);
  await saving.idle();
  tiles.rest();
  await tiles.wake();
  assert.equal(tiles.labelAt(100, 60), 1);
  draw(tiles, 200, 2);
  await saving.idle();
  tiles.rest();
  server.full = false;
  await saving.again();
  assert.deepEqual([server.sent, saving.unsaved], [["stroke 1 1", "stroke 2 1"], 0]);
  assert.ok(server.count(1) > 300 && server.count(1) === server.count(2));
  assert.equal(said.length, 1); // that the disk was full
  assert.equal(tiles.strokes.size, 0);
  tiles.rest();
  assert.equal(tiles.labelTile(0, 0), undefined); // nothing is kept that is saved
});

test("a stroke on a place that another window has changed is painted on the new state, also of a plane that was left", async () => {
  const { server, saving, said, draw } = begun();
  server.full = true;
  const tiles = await opened();
  draw(tiles, 100, 1);
  draw(tiles, 200, 2);
  await saving.idle();
  tiles.rest();
  server.change(() => server.data.fill(7, 100 * SIDE, 101 * SIDE)); // an object, which is protected
  server.full = false;
  await saving.again();
  assert.deepEqual(server.sent, ["stroke 1 1", "stroke 1 1", "stroke 2 1"]);
  assert.deepEqual([server.count(7), saving.unsaved], [SIDE, 0]);
  assert.ok(server.count(2) > server.count(1) && server.count(1) > 200);
  assert.match(said.at(-1)!, /painted on the new state/);
  assert.deepEqual(tileOf(tiles).data, server.data);
});

test("a stroke whose answer was lost is not sent twice, and one that protected objects cover is said", async () => {
  const { server, saving, said, draw } = begun();
  const tiles = await opened();
  server.deaf = true;
  draw(tiles, 100, 1);
  await saving.idle();
  server.deaf = false;
  await saving.again();
  assert.deepEqual([server.sent, server.version], [["stroke 1 1", "stroke 1 1"], 1]);
  assert.match(said.at(-1)!, /Nothing was left to paint/);
  server.change(() => server.data.fill(7));
  draw(tiles, 300, 2);
  await saving.idle();
  assert.match(said.at(-1)!, /protected objects lie there/);
  assert.deepEqual([server.count(7), saving.unsaved, tiles.strokes.size], [SIDE * SIDE, 0, 0]);
});

test("a stroke on a place that changes again and again waits", async () => {
  const { server, saving, draw } = begun();
  const tiles = await opened();
  server.change(() => undefined);
  server.meanwhile = () => server.change(() => undefined);
  draw(tiles, 100, 1);
  await saving.idle();
  assert.deepEqual([saving.unsaved, server.count(1)], [1, 0]);
  server.meanwhile = () => undefined;
  await saving.again();
  assert.ok(saving.unsaved === 0 && server.count(1) > 300);
});

test("a tile that is loaded while a stroke waits shows the stroke, and one that was read before it was saved is left out", async () => {
  const { server, saving, draw } = begun();
  const tiles = await opened();
  server.full = true;
  draw(tiles, 100, 1);
  await saving.idle();
  server.change(() => server.data.fill(5, 0, SIDE));
  await tiles.renew([[0, 0, 1]]);
  assert.deepEqual([tiles.labelAt(0, 9), tiles.labelAt(100, 60)], [5, 1]);
  server.full = false;
  server.meanwhile = () => void saving.again(); // saved after the labels were read, before they arrive
  const loaded = tiles.renew([[0, 0, -1]]);
  await saving.idle();
  await loaded;
  assert.deepEqual([tiles.labelAt(100, 60), tileOf(tiles).version], [1, 2]);
  assert.deepEqual(tileOf(tiles).data, server.data);
});

test("a stroke that the server refuses is taken off the screen", async () => {
  const { server, saving, said, draw } = begun();
  const tiles = await opened();
  const taken = globalThis.fetch;
  globalThis.fetch = (async (path: string) =>
    path.startsWith("api/edit") ? new Response('{"error":"no such image"}', { status: 400 }) : taken(path)) as typeof fetch;
  draw(tiles, 100, 1);
  await saving.idle();
  assert.deepEqual([tiles.labelAt(100, 60), saving.unsaved, said, server.version], [-1, 0, ["no such image"], 0]);
});

test("coarser tiles that were not made yet are asked for when a plane is shown again", async () => {
  let asked = 0;
  globalThis.fetch = (async (path: string) => {
    if (path.startsWith("api/labels"))
      return new Response(new Int32Array(SIDE * SIDE).buffer, { headers: { "x-version": "0" } });
    asked += 1;
    return new Response(null, { status: 202 });
  }) as typeof fetch;
  const tiles = new Tiles(plane, size, painter, () => undefined, assert.fail);
  const soon = (): Promise<void> => new Promise((done) => setTimeout(done, 5));
  const want = (): void => tiles.want({ y0: 0, x0: 0, y1: SIDE, x1: SIDE }, 0, [0], 0);
  want();
  await soon();
  want();
  await soon();
  assert.equal(asked, 1);
  tiles.rest();
  await tiles.wake();
  want();
  await soon();
  assert.equal(asked, 2);
});

test("a stroke over a tile that is not loaded yet is painted once it is, before or after the stroke ends", async () => {
  for (const early of [true, false]) {
    const { server, saving } = begun();
    const tiles = new Tiles(plane, size, painter, () => undefined, assert.fail);
    const stroke = new Stroke(tiles, size, { value: 3, radius: 4, protect: true, exempt: -1 }, "stroke");
    stroke.to(100, 50);
    if (early) await tiles.load({ ty: 0, tx: 0 });
    stroke.to(100, 90);
    assert.ok(stroke.finish());
    saving.add(() => stroke.save(() => undefined));
    await saving.idle();
    assert.deepEqual([tiles.labelAt(100, 50), tiles.labelAt(100, 90), saving.unsaved, tiles.strokes.size], [3, 3, 0, 0]);
    assert.ok(server.count(3) > 300);
    assert.deepEqual(tileOf(tiles).data, server.data);
  }
});

test("a stroke over a tile that cannot be loaded waits", async () => {
  const { server, saving, draw } = begun();
  const taken = globalThis.fetch;
  globalThis.fetch = (async () => Promise.reject(new TypeError("Failed to fetch"))) as typeof fetch;
  const tiles = new Tiles(plane, size, painter, () => undefined, assert.fail);
  draw(tiles, 100, 1);
  await saving.idle();
  assert.equal(saving.unsaved, 1);
  tiles.rest();
  globalThis.fetch = taken;
  await saving.again();
  assert.deepEqual([saving.unsaved, tiles.strokes.size], [0, 0]);
  assert.ok(server.count(1) > 300);
});

test("a label is read at the level that is shown; one that is not loaded is not known", async () => {
  const { server } = begun();
  server.data[3 * SIDE + 5] = 8;
  const tiles = new Tiles(plane, { height: 4 * SIDE, width: 4 * SIDE }, painter, () => undefined, assert.fail);
  tiles.want({ y0: 0, x0: 0, y1: 4 * SIDE, x1: 4 * SIDE }, 2, [], 2);
  while (tiles.labelAt(0, 0, 2) === undefined) await new Promise((done) => setTimeout(done, 1));
  assert.deepEqual([tiles.labelAt(14, 21, 2), tiles.labelAt(16, 21, 2)], [8, -1]);
  assert.deepEqual([tiles.labelAt(14, 21), tiles.labelAt(-1, 21)], [undefined, -1]);
});
