"""Set images aside for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from septum import seeding
from septum.io.names import shown

if TYPE_CHECKING:
    from septum.jobs.load import Sample


def hold_out(samples: Sequence[Sample], *, seed: int) -> tuple[list[int], list[int]]:
    """Choose the images for training and those for validation.

    Of each stack or sequence the contiguous last fifth is held out: neighbors are alike, a random choice would test on
    near copies of what was trained on. Of independent images (and groups of one) it is a seeded fifth. At least one
    image is held out, unless there is only one.

    Parameters
    ----------
    samples
        All annotated images.
    seed
        Of the run.

    Returns
    -------
    train, held_out
        Indices into `samples`, rising; together all of them.
    """
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(index)
    single = [i for group, members in groups.items() if not group or len(members) == 1 for i in members]
    groups = {group: members for group, members in groups.items() if group and len(members) > 1}
    held = {single[i] for i in seeding.generator(seed, "hold out").permutation(len(single))[: _fifth(len(single))]}
    for members in groups.values():
        members.sort(key=lambda i: samples[i].position)
        held.update(members[len(members) - _fifth(len(members)) :])
    return [i for i in range(len(samples)) if i not in held], sorted(held)


def _fifth(count: int) -> int:
    """Return a fifth, rounded; one of 2 to 7, none of one."""
    return max(1, round(count / 5)) if count > 1 else 0


def split_sentence(samples: Sequence[Sample], held_out: Sequence[int]) -> str:
    """Say in one sentence what is held out."""
    if not held_out:
        return "one image only: none is held out, so no score can be given"
    names = [shown(samples[i].name) for i in held_out]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{len(samples) - len(held_out)} images for training, {len(held_out)} held out for validation: {some}"


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
        sentences.append(f"{shown(samples[index].name)} is trained on: no other training image holds class {value}")
    return sorted(moved), sorted(held), tuple(sentences)


def _classes(sample: Sample) -> dict[int, int]:
    """Return the annotated pixels of each class that a mask holds."""
    counts = np.bincount(sample.mask[sample.mask >= 0])
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
