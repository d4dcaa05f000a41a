"""Set images aside for validation: once, or in folds so that each image is held out once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from septum import seeding
from septum.errors import DataError, UsageError
from septum.io.paths import format_path
from septum.settings import Settings
from septum.train.every_class import with_every_class

if TYPE_CHECKING:
    from septum.check.samples import Sample

_FIFTH = 5


class SplitSettings(Settings):
    """What is held out, and what of the rest is trained on.

    Parameters
    ----------
    fold
        ``(k, n)``: the `k`-th of `n` folds is held out, from 1; see `make_folds`. None: see `hold_out`.
    names
        Names of the images to hold out, as `septum check` has them; may be none.
    group
        Regular expression that is searched for in the names of the images; those with an equal match (of its first
        group in parentheses, where it has one) belong together, and no group lies on both sides.
    seed
        Of the split; that of the run where not given.
    limit
        Train on so many of the images that are not held out, evenly drawn; those of a smaller number are among those of
        a larger one.
    """

    fold: tuple[int, int] | None = None
    names: tuple[str, ...] | None = None
    group: str | None = None
    seed: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)

    @field_validator("fold")
    @classmethod
    def _is_one_of_several(cls, fold: tuple[int, int] | None) -> tuple[int, int] | None:
        if fold is not None and not 1 <= fold[0] <= fold[1] > 1:
            raise ValueError(f"fold {fold[0]} of {fold[1]}: count from 1")
        return fold

    @field_validator("group")
    @classmethod
    def _can_be_searched_for(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from None
        return group


@dataclass(frozen=True)
class Split:
    """Which images are trained on and which are held out.

    Attributes
    ----------
    train, held_out
        Indices into the samples, rising; no image is in both, some may be in neither.
    sentence
        The same in words.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    sentence: str


def split(samples: Sequence[Sample], settings: SplitSettings, *, seed: int, classes: bool = False) -> Split:
    """Choose the images for training and those for validation.

    Parameters
    ----------
    samples
        All annotated images.
    settings
        How.
    seed
        Of the run.
    classes
        Masks hold classes: where nothing else is asked for, every class is trained on.

    Raises
    ------
    DataError
        If there are fewer images, or groups, than folds, or a pattern does not match the name of an image.
    """
    chosen = settings.seed if settings.seed is not None else seed
    if settings.group is not None:
        samples = grouped(samples, settings.group)
    if settings.names is not None:
        train, held_out = named(samples, settings.names)
        found = Split(tuple(train), tuple(held_out), split_sentence(samples, held_out))
    elif settings.fold is not None:
        found = make_folds(samples, settings.fold[1], seed=chosen, whole=settings.group is not None)[
            settings.fold[0] - 1
        ]
    elif settings.group is not None and len({s.group for s in samples}) > 1:
        parts = min(_FIFTH, len({s.group for s in samples}))
        found = make_folds(samples, parts, seed=chosen, whole=True)[0]
    else:
        train, held_out = hold_out(samples, seed=chosen)
        moved: tuple[str, ...] = ()
        if classes:
            train, held_out, moved = with_every_class(samples, train, held_out)
        found = Split(tuple(train), tuple(held_out), "; ".join((split_sentence(samples, held_out), *moved)))
    if settings.limit is None:
        return found
    some = nested(samples, found.train, seed=chosen)[: settings.limit]
    held = f"{len(found.held_out)} held out for validation: {_some(samples, found.held_out)}"
    sentence = f"{len(some)} of {len(found.train)} images for training, {held}"
    return Split(tuple(sorted(some)), found.held_out, sentence)


def grouped(samples: Sequence[Sample], pattern: str) -> list[Sample]:
    """Return the samples with the groups that a pattern finds in their names (see `SplitSettings`).

    Raises
    ------
    DataError
        If a name does not match.
    """
    found = [re.search(pattern, sample.name) for sample in samples]
    missed = [format_path(sample.name) for sample, match in zip(samples, found, strict=True) if match is None]
    if missed:
        raise DataError(
            f"--group {pattern!r} does not match {len(missed)} of {len(samples)} names: {', '.join(missed[:4])}",
            "a regular expression that is found in the name of every image",
            "names are those of the files, without ending",
        )
    keys = ["".join((m.group(1) if m.re.groups else m.group(0)) or "") for m in found if m is not None]
    return [replace(sample, group=f"={key}") for sample, key in zip(samples, keys, strict=True)]


def make_folds(samples: Sequence[Sample], number: int, *, seed: int, whole: bool = False) -> list[Split]:
    """Deal out images so that each is held out once.

    Sequences and stacks stay whole where there are as many of them (and of images on their own) as folds: the largest
    first, each goes to the fold with the fewest images. Otherwise each is cut into contiguous blocks, and the images
    next to a block are left out of the training of its fold, so that neighbors, which are near copies, are never on
    both sides.

    Parameters
    ----------
    samples
        All annotated images.
    number
        Folds, 2 or more.
    seed
        Of the order in which equals are dealt out.
    whole
        Never cut a group.

    Raises
    ------
    DataError
        If there are not enough images or groups, or a fold would have none to train on.
    """
    groups = _groups(samples)
    if len(groups) < number and whole:
        raise DataError(
            f"{len(groups)} group{'s' * (len(groups) != 1)} for {number} folds",
            "at least one group a fold",
            "give fewer --folds, or a --group that tells more groups apart",
        )
    if len(samples) < number:
        raise DataError(
            f"{len(samples)} annotated image{'s' * (len(samples) != 1)} for {number} folds",
            "at least one image a fold",
            "give fewer --folds or annotate more images",
        )
    cut = len(groups) < number
    held = _blocks(groups, number, seed) if cut else _dealt(groups, number, seed)
    near = _neighbors(samples, groups) if cut else {}
    folds = []
    for place, mine in enumerate(held):
        apart = {j for i in mine for j in near.get(i, ())} - set(mine)
        train = tuple(i for i in range(len(samples)) if i not in apart and i not in set(mine))
        if not train:
            raise DataError(
                f"fold {place + 1} of {number}: no image to train on that is not next to a held-out one",
                "more images in the sequence",
                "give another number of --folds, or annotate more images",
            )
        sentence = _fold_sentence(samples, f"fold {place + 1} of {number}", train, mine, len(apart))
        folds.append(Split(train, tuple(sorted(mine)), sentence))
    return folds


def folds_sentence(folds: Sequence[Split], samples: Sequence[Sample]) -> str:
    """Say in one sentence how images were dealt out to folds."""
    sizes = sorted({len(fold.held_out) for fold in folds})
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    start = f"{len(folds)} folds of {size} image{'s' * (sizes[-1] != 1)}"
    if any(len(fold.train) + len(fold.held_out) < len(samples) for fold in folds):
        return f"{start}: contiguous blocks, those next to a block are left out of its training"
    if any(sample.group for sample in samples):
        return f"{start}: groups stay whole"
    return f"{start}, drawn at random"


def nested(samples: Sequence[Sample], chosen: Sequence[int], *, seed: int) -> list[int]:
    """Return the chosen images in an order whose beginnings represent all of them.

    Images of each group are drawn without replacement, the groups in turn, so that a part holds images of as many
    groups as it can.
    """
    draw = seeding.generator(seed, "subsets")
    queues: dict[str, list[int]] = {}
    for index in (chosen[int(i)] for i in draw.permutation(len(chosen))):
        queues.setdefault(samples[index].group or f"{index}", []).append(index)
    order: list[int] = []
    while any(queues.values()):
        order += [queue.pop() for queue in queues.values() if queue]
    return order


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


def named(samples: Sequence[Sample], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the split in which the samples of these names are held out; of none, all are for training.

    Raises
    ------
    UsageError
        If a name is not among the samples, or none is left to train on.
    """
    held = [i for i, sample in enumerate(samples) if sample.name in set(names)]
    if lacking := sorted(set(names) - {samples[i].name for i in held}):
        raise UsageError(
            f"no image {format_path(lacking[0])} to hold out", "names as `septum check` has them", "look there"
        )
    if len(held) == len(samples):
        raise UsageError("all images held out", "some to train on", "hold out fewer")
    return [i for i in range(len(samples)) if i not in set(held)], held


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


def split_sentence(samples: Sequence[Sample], held_out: Sequence[int]) -> str:
    """Say in one sentence what is held out."""
    if not held_out:
        many = "one image only" if len(samples) == 1 else f"{len(samples)} images for training"
        if len(samples) > 1 and len({s.copy_of for s in samples}) == 1 and samples[0].copy_of:
            many = "all images are copies of one"
        return f"{many}: none is held out, so no score can be given"
    return f"{len(samples) - len(held_out)} images for training, {len(held_out)} held out for validation: " + _some(
        samples, held_out
    )


def _fold_sentence(
    samples: Sequence[Sample], fold: str, train: Sequence[int], held_out: Sequence[int], apart: int
) -> str:
    left = f" ({apart} next to them left out)" if apart else ""
    return (
        f"{fold}: {len(train)} images for training{left}, {len(held_out)} held out: {_some(samples, sorted(held_out))}"
    )


def _some(samples: Sequence[Sample], chosen: Sequence[int]) -> str:
    names = [format_path(samples[i].name) for i in chosen]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _fifth(count: int) -> int:
    """Return a fifth, rounded; one of 2 to 7, none of one."""
    return max(1, round(count / _FIFTH)) if count > 1 else 0


def _groups(samples: Sequence[Sample]) -> list[list[int]]:
    """Return sequences and stacks, in their order in time or depth, and images on their own with their copies."""
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        own = f"copy of {sample.copy_of}" if sample.copy_of else f"{index}"
        groups.setdefault(f"in {sample.group}" if sample.group else own, []).append(index)
    return [sorted(members, key=lambda i: samples[i].position) for members in groups.values()]


def _dealt(groups: Sequence[Sequence[int]], number: int, seed: int) -> list[list[int]]:
    """Deal out whole groups."""
    order = [int(i) for i in seeding.generator(seed, "folds").permutation(len(groups))]
    held: list[list[int]] = [[] for _ in range(number)]
    for members in sorted((groups[i] for i in order), key=len, reverse=True):
        min(held, key=len).extend(members)
    return held


def _blocks(groups: Sequence[Sequence[int]], number: int, seed: int) -> list[list[int]]:
    """Cut each group into as many contiguous blocks as there are folds; what is shorter is dealt out."""
    held: list[list[int]] = [[] for _ in range(number)]
    for members in groups:
        if len(members) >= number:
            ends = [round(len(members) * k / number) for k in range(number + 1)]
            for fold, (start, end) in zip(held, pairwise(ends), strict=True):
                fold.extend(members[start:end])
    short = [members for members in groups if len(members) < number]
    for members in (short[int(i)] for i in seeding.generator(seed, "folds").permutation(len(short))):
        min(held, key=len).extend(members)
    if not all(held):
        raise DataError(
            f"{sum(map(len, groups))} images in {len(groups)} sequences for {number} folds",
            "as many sequences as folds, or a sequence with an image for each fold",
            "give fewer --folds",
        )
    return held


def _neighbors(samples: Sequence[Sample], groups: Sequence[Sequence[int]]) -> Mapping[int, list[int]]:
    """Return for each image those before and after it in its sequence."""
    near: dict[int, list[int]] = {}
    for members in groups:
        if samples[members[0]].group:
            for before, after in pairwise(members):
                near.setdefault(before, []).append(after)
                near.setdefault(after, []).append(before)
    return near
