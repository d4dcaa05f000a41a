import assert from "node:assert/strict";
import test from "node:test";
import { mayPaint, segmentSpans } from "../src/brush";
import { levelFor, levelsOf, placesIn } from "../src/grid";
import { KEYS, actionOf, keyName } from "../src/keys";
import { planeWord, sectionToOpen } from "../src/planes";
import { applyRuns, changedRuns } from "../src/runs";
import { fitted, toImage, toScreen, visible, zoomed } from "../src/view";

const press = (key: string, more: object = {}) => ({
  key, code: "", ctrlKey: false, metaKey: false, shiftKey: false, ...more,
});

test("the coarsest level fits into one tile", () => {
  assert.equal(levelsOf(512, 512), 1);
  assert.equal(levelsOf(513, 10), 2);
  assert.equal(levelsOf(20000, 20000), 7);
});

test("a level has at most two of its pixels on a pixel of the screen, and at least one", () => {
  assert.equal(levelFor(1, 7), 0);
  assert.equal(levelFor(8, 7), 0);
  assert.equal(levelFor(0.5, 7), 1);
  assert.equal(levelFor(0.3, 7), 1);
  assert.equal(levelFor(0.001, 7), 6);
});

test("the tiles of a rectangle, its middle first", () => {
  const found = placesIn({ y0: 0, x0: 500, y1: 512, x1: 1600 }, 0);
  assert.deepEqual(found.map((p) => p.tx).sort(), [0, 1, 2, 3]);
  assert.equal(found[0]!.ty, 0);
  assert.ok([1, 2].includes(found[0]!.tx));
  assert.deepEqual(placesIn({ y0: 5, x0: 5, y1: 5, x1: 9 }, 0), []);
  assert.equal(placesIn({ y0: 0, x0: 0, y1: 2048, x1: 2048 }, 2).length, 1);
});

test("runs repeat any change", () => {
  let seed = 1;
  const random = (n: number): number => (seed = (seed * 16807) % 2147483647) % n;
  for (let round = 0; round < 50; round++) {
    const before = Int32Array.from({ length: 60 }, () => random(4) - 1);
    const after = before.map((v) => (random(3) ? v : random(4) - 1));
    const again = before.slice();
    const runs = changedRuns(before, after);
    applyRuns(again, runs);
    assert.deepEqual(again, after);
    const count = runs.filter((_, n) => n % 3 === 1).reduce((a, b) => a + b, 0);
    assert.equal(count, after.filter((v, n) => v !== before[n]).length);
  }
});

test("ids beyond 16 bits and not annotated pixels pass through runs", () => {
  const before = Int32Array.of(-1, -1, 0, 7);
  const after = Int32Array.of(2147483647, 2147483647, -1, 7);
  assert.deepEqual(changedRuns(before, after), [0, 2, 2147483647, 2, 1, -1]);
});

test("a dab is the pixels whose centers are within the radius", () => {
  const pixels = new Set<string>();
  for (const s of segmentSpans(10.5, 10.5, 10.5, 10.5, 3)) for (let x = s.x0; x < s.x1; x++) pixels.add(`${s.y},${x}`);
  for (let y = 0; y < 21; y++)
    for (let x = 0; x < 21; x++)
      assert.equal(pixels.has(`${y},${x}`), (y - 10) ** 2 + (x - 10) ** 2 <= 9, `${y},${x}`);
});

test("a fast stroke leaves no gap", () => {
  const rows = segmentSpans(0.5, 0.5, 100.5, 40.5, 1).map((s) => s.y);
  for (let y = 0; y <= 100; y++) assert.ok(rows.includes(y));
});

test("the thinnest brush paints one pixel", () => {
  assert.deepEqual(segmentSpans(4.9, 7.2, 4.9, 7.2, 0.1), [{ y: 4, x0: 7, x1: 8 }]);
});

test("other objects are protected, that under the start of the stroke is not", () => {
  assert.equal(mayPaint(-1, 5, true, -1), true);
  assert.equal(mayPaint(0, 5, true, -1), true);
  assert.equal(mayPaint(7, 5, true, -1), false);
  assert.equal(mayPaint(7, 5, true, 7), true);
  assert.equal(mayPaint(7, 5, false, -1), true);
  assert.equal(mayPaint(7, -1, true, 7), true);
  assert.equal(mayPaint(8, -1, true, 7), false);
  assert.equal(mayPaint(8, -1, true, 0), true);
  assert.equal(mayPaint(5, 5, true, 5), false);
});

test("zoom keeps the point under the pointer", () => {
  const canvas = { height: 600, width: 800 };
  const view = { y: 100, x: 200, scale: 2 };
  const before = toImage(view, canvas, 50, 700);
  const after = toImage(zoomed(view, canvas, 50, 700, 1.5, 0.01), canvas, 50, 700);
  assert.ok(Math.abs(before[0] - after[0]) < 1e-9 && Math.abs(before[1] - after[1]) < 1e-9);
  const [sy, sx] = toScreen(view, canvas, ...before);
  assert.ok(Math.abs(sy - 50) < 1e-9 && Math.abs(sx - 700) < 1e-9);
});

test("the whole image is visible when fitted", () => {
  const canvas = { height: 600, width: 800 };
  const rect = visible(fitted({ height: 3000, width: 1000 }, canvas), canvas);
  assert.ok(rect.y0 <= 0 && rect.x0 <= 0 && rect.y1 >= 3000 && rect.x1 >= 1000);
});

test("each key has one meaning", () => {
  const all = KEYS.flatMap((one) => one.keys);
  assert.equal(new Set(all).size, all.length);
});

test("keys that people know from other programs", () => {
  assert.equal(actionOf(press("b")), "brush");
  assert.equal(actionOf(press("2")), "brush");
  assert.equal(actionOf(press("z", { ctrlKey: true })), "undo");
  assert.equal(actionOf(press("Z", { ctrlKey: true, shiftKey: true })), "redo");
  assert.equal(actionOf(press("y", { metaKey: true })), "redo");
  assert.equal(actionOf(press("ü", { code: "BracketLeft" })), "smaller");
  assert.equal(actionOf(press("?", { shiftKey: true })), "help");
  assert.equal(keyName(press("PageDown")), "pagedown");
  assert.equal(actionOf(press("w", { ctrlKey: true })), undefined);
});

test("a section that is asked for is opened, also the first; otherwise the middle", () => {
  assert.equal(sectionToOpen(9, 0), 0);
  assert.equal(sectionToOpen(9, 7), 7);
  assert.equal(sectionToOpen(9, null), 4);
  assert.equal(sectionToOpen(1, null), 0);
});

test("what is completed of a stack is a section", () => {
  assert.equal(planeWord({ sections: 9, frames: 3 }), "section");
  assert.equal(planeWord({ sections: 1, frames: 3 }), "frame");
  assert.equal(planeWord({ sections: 1, frames: 1 }), "image");
});
