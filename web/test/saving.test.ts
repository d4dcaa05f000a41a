import assert from "node:assert/strict";
import test from "node:test";
import { Refused, Saving } from "../src/saving";

const soon = (ms = 30): Promise<void> => new Promise((done) => setTimeout(done, ms));

function begun(againMs: number): { saving: Saving; said: string[]; states: string[] } {
  const said: string[] = [];
  const states: string[] = [];
  const saving: Saving = new Saving(
    () => states.push(saving.failing ? "not saved" : saving.unsaved > 0 ? "saving" : "saved"),
    (text) => said.push(text),
    againMs,
  );
  return { saving, said, states };
}

test("an edit that fails stays unsaved and is sent again, before the edits after it", async () => {
  const { saving, said, states } = begun(10_000);
  const sent: string[] = [];
  let full = true;
  saving.add(async () => {
    if (full) throw new Error("the disk is full");
    sent.push("first");
  });
  saving.add(async () => void sent.push("second"));
  await saving.idle();
  assert.deepEqual([saving.unsaved, saving.failing, states.at(-1)], [2, true, "not saved"]);
  assert.ok(!states.includes("saved"));
  await saving.again();
  assert.equal(said.length, 1); // said once
  assert.match(said[0]!, /the disk is full/);
  full = false;
  await saving.again();
  assert.deepEqual(sent, ["first", "second"]);
  assert.deepEqual([saving.unsaved, saving.failing, states.at(-1)], [0, false, "saved"]);
});

test("it is sent again without another edit", async () => {
  const { saving, states } = begun(5);
  let tries = 0;
  saving.add(async () => {
    if (++tries < 3) throw new TypeError("Failed to fetch");
  });
  while (saving.unsaved > 0) await soon();
  assert.equal(tries, 3);
  await saving.idle();
  assert.equal(states.at(-1), "saved");
});

test("an edit that the server refuses is not sent again", async () => {
  const { saving, said } = begun(5);
  let tries = 0;
  saving.add(async () => {
    tries += 1;
    throw new Refused("no such object");
  });
  await saving.idle();
  assert.deepEqual([saving.unsaved, saving.failing, tries, said], [0, false, 1, ["no such object"]]);
});

test("what does not last is given up after a failure", async () => {
  const { saving, said } = begun(5);
  saving.add(() => Promise.reject(new Error("Failed to fetch")), false);
  await saving.idle();
  assert.deepEqual([saving.unsaved, said], [0, ["Failed to fetch"]]);
});
