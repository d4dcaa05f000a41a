// Run lengths of changed pixels: what a stroke sends to the server.

/** Triples of first index, number of pixels and label, for all pixels of a tile that differ from before. */
export function changedRuns(before: Int32Array, after: Int32Array): number[] {
  const runs: number[] = [];
  let index = 0;
  while (index < after.length) {
    if (after[index] === before[index]) {
      index += 1;
      continue;
    }
    const first = index;
    const label = after[index]!;
    while (index < after.length && after[index] === label && before[index] !== label) index += 1;
    runs.push(first, index - first, label);
  }
  return runs;
}

export function applyRuns(tile: Int32Array, runs: readonly number[]): void {
  for (let n = 0; n < runs.length; n += 3) tile.fill(runs[n + 2]!, runs[n]!, runs[n]! + runs[n + 1]!);
}
