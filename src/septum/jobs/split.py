"""Set images aside for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from septum import seeding
from septum.io.names import shown

if TYPE_CHECKING:
    from septum.jobs.load import Sample


def hold_out(samples: Sequence[Sample], *, seed: int) -> tuple[list[int], list[int]]:
    """Choose the images for training and those for validation.

    Of each stack or sequence the contiguous last fifth is held out: neighbors are alike, a random choice would test on
    near copies of what was trained on. Of independent images (and groups of one) it is a seeded fifth. At least one
    image is held out, unless there is only one. Copies of one image (`Sample.copy_of`) are all trained on or all held
    out; where the places in stacks say otherwise they are trained on.

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
    held = _draw([[single[i] for i in same] for same in _copies([samples[i] for i in single])], seed)
    for members in groups.values():
        members.sort(key=lambda i: samples[i].position)
        held.update(members[len(members) - _fifth(len(members)) :])
    for same in _copies(samples):
        if not held.issuperset(same):
            held.difference_update(same)
    return [i for i in range(len(samples)) if i not in held], sorted(held)


def _copies(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the indices of images that are copies of one another, together; most are alone."""
    same: dict[tuple[str, int], list[int]] = {}
    for index, sample in enumerate(samples):
        same.setdefault((sample.copy_of, 0) if sample.copy_of else ("", index), []).append(index)
    return list(same.values())


def _draw(copies: Sequence[Sequence[int]], seed: int) -> set[int]:
    """Draw a fifth of the images, copies together."""
    wanted = min(_fifth(sum(map(len, copies))), len(copies) - 1)  # one image with its copies is all of them
    held: set[int] = set()
    for i in seeding.generator(seed, "hold out").permutation(len(copies)):
        if len(held) < wanted:
            held.update(copies[i])
    return held


def _fifth(count: int) -> int:
    """Return a fifth, rounded; one of 2 to 7, none of one."""
    return max(1, round(count / 5)) if count > 1 else 0


def split_sentence(samples: Sequence[Sample], held_out: Sequence[int]) -> str:
    """Say in one sentence what is held out."""
    if not held_out:
        only = "one image only" if len(samples) == 1 else "all images are copies of one"
        return f"{only}: none is held out, so no score can be given"
    names = [shown(samples[i].name) for i in held_out]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{len(samples) - len(held_out)} images for training, {len(held_out)} held out for validation: {some}"
