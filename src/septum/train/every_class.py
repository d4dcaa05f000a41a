"""Hold out images so that each class is trained on, and scored where possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from septum.io.paths import format_path

if TYPE_CHECKING:
    from septum.check.samples import Sample


def with_every_class(
    samples: Sequence[Sample], train: Sequence[int], held_out: Sequence[int]
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Train on every class: a held-out image that alone holds one is trained on.

    Parameters
    ----------
    samples
        All annotated images; masks hold classes.
    train, held_out
        From `hold_out`.

    Returns
    -------
    train, held_out, sentences
        Indices into `samples`, rising, and one sentence for each image that was moved.
    """
    held = {i: _classes(samples[i]) for i in held_out}
    known = {value for i in train for value in _classes(samples[i])}
    moved, sentences = list(train), []
    for value in sorted({v for values in held.values() for v in values} - known):
        if value in known:
            continue
        index = max((i for i in held if value in held[i]), key=lambda i: held[i][value])
        known |= set(held.pop(index))
        moved.append(index)
        sentences.append(
            f"{format_path(samples[index].name)} is trained on: no other training image holds class {value}"
        )
    return sorted(moved), sorted(held), tuple(sentences)


def _classes(sample: Sample) -> dict[int, int]:
    """Return the annotated pixels of each class that a mask holds."""
    counts = np.bincount(sample.mask[sample.mask >= 0])
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
