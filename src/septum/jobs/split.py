"""Set images aside for validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from septum import seeding
from septum.errors import UsageError
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


def named(samples: Sequence[Sample], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the split in which the samples of these names are held out; of none, all are for training.

    Raises
    ------
    UsageError
        If a name is not among the samples, or none is left to train on.
    """
    held = [i for i, sample in enumerate(samples) if sample.name in set(names)]
    if lacking := sorted(set(names) - {samples[i].name for i in held}):
        raise UsageError(f"no image {shown(lacking[0])} to hold out", "names as `septum check` has them", "look there")
    if len(held) == len(samples):
        raise UsageError("all images held out", "some to train on", "hold out fewer")
    return [i for i in range(len(samples)) if i not in set(held)], held


def _fifth(count: int) -> int:
    """Return a fifth, rounded; one of 2 to 7, none of one."""
    return max(1, round(count / 5)) if count > 1 else 0


def split_sentence(samples: Sequence[Sample], held_out: Sequence[int]) -> str:
    """Say in one sentence what is held out."""
    if not held_out:
        many = "one image only" if len(samples) == 1 else f"{len(samples)} images for training"
        return f"{many}: none is held out, so no score can be given"
    names = [shown(samples[i].name) for i in held_out]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{len(samples) - len(held_out)} images for training, {len(held_out)} held out for validation: {some}"
