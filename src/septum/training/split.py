"""Hold out images for validation: once, or in folds so that each image is held out once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from septum import seeding
from septum.errors import DataError, UsageError
from septum.io.formats import format_path
from septum.pairing.grouping import grouped
from septum.pairing.sample import Sample, StoredSample
from septum.training.settings import SplitSettings
from septum.words import pluralize

# One in this many images is held out.
_FIFTH = 5


@dataclass(frozen=True)
class Split:
    """Indices of the images to train on and of those held out.

    Attributes
    ----------
    train, held_out
        Indices into the samples, rising; no image is in both, some may be in neither.
    sentence
        Description in words.
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
        Images to hold out, and images to train on.
    seed
        Of the run.
    classes
        True if masks hold classes: then the default split trains on every class.

    Raises
    ------
    DataError
        If there are fewer images, or groups, than folds, or a pattern makes no groups (`grouped`).
    """
    seed, keep_groups = settings.seed if settings.seed is not None else seed, settings.group is not None
    if settings.group is not None:
        samples = grouped(samples, settings.group)
    if settings.names is not None:
        train, held_out = named(samples, settings.names)
        result = Split(tuple(train), tuple(held_out), split_sentence(samples, held_out))
    elif settings.fold is not None:
        number, folds = settings.fold
        result = make_folds(samples, folds, seed=seed, keep_groups=keep_groups)[number - 1]
    else:
        result = _split_once(samples, seed=seed, classes=classes, keep_groups=keep_groups)
    if settings.limit is None:
        return result
    subset = nested_order(samples, result.train, seed=seed)[: settings.limit]
    held = f"{len(result.held_out)} held out for validation: {_names(samples, result.held_out)}"
    sentence = f"{len(subset)} of {len(result.train)} images for training, {held}"
    return Split(tuple(sorted(subset)), result.held_out, sentence)


def _split_once(samples: Sequence[Sample], *, seed: int, classes: bool, keep_groups: bool) -> Split:
    """Hold out about a fifth of the images, of groups that must not be cut whole ones; `classes` as in `split`."""
    groups = len({sample.group for sample in samples}) if keep_groups else 1
    choices = [hold_out(samples, seed=seed)]
    if groups > 1:
        folds = make_folds(samples, min(_FIFTH, groups), seed=seed, keep_groups=True)
        choices = [(list(fold.train), list(fold.held_out)) for fold in folds]
    for train, chosen in choices:  # the next groups, if the training needs all of these
        rest = train_on_every_class(samples, train, chosen, keep_groups=keep_groups) if classes else (train, chosen, ())
        _, held_out, moved = rest
        if held_out:
            break
    copies = _copies_of(samples, held_out)
    away = copies.union(held_out)
    train = [i for i in range(len(samples)) if i not in away]
    sentence = split_sentence(samples, held_out, copies=len(copies))
    return Split(tuple(train), tuple(held_out), "; ".join((sentence, *moved)))


def make_folds(samples: Sequence[Sample], number: int, *, seed: int, keep_groups: bool = False) -> list[Split]:
    """Split images into folds so that each is held out once.

    Sequences and stacks stay whole if there are at least as many of them (and of single images) as folds: the largest
    first, each goes to the fold with the fewest images. Otherwise each is cut into contiguous blocks, and the images
    next to a block are left out of the training of its fold: neighbors are near-duplicates and must not be on both
    sides. So are copies of held-out images (`Sample.copy_of`) in other groups or blocks.

    Parameters
    ----------
    samples
        All annotated images.
    number
        Number of folds, 2 or more.
    seed
        Of the order of equally large groups.
    keep_groups
        Never cut a group.

    Raises
    ------
    DataError
        If there are not enough images or groups, or a fold would have no image to train on.
    """
    groups = _groups(samples)
    if len(groups) < number and keep_groups:
        raise DataError(
            f"{pluralize(len(groups), 'group')} for {number} folds",
            "at least one group for each fold",
            "give fewer --folds, or a --group that makes more groups",
        )
    if len(samples) < number:
        raise DataError(
            f"{pluralize(len(samples), 'annotated image')} for {number} folds",
            "at least one image for each fold",
            "give fewer --folds or annotate more images",
        )
    cut = len(groups) < number
    parts = _blocks(groups, number, seed) if cut else _whole_groups(groups, number, seed)
    neighbors = _neighbors(samples, groups) if cut else {}
    folds = []
    for place, part in enumerate(parts):
        held_out = tuple(sorted(part))
        beside = {j for i in part for j in neighbors.get(i, ())} - set(part)
        copies = _copies_of(samples, part) - beside
        away = beside.union(copies, part)
        train = tuple(i for i in range(len(samples)) if i not in away)
        if not train:
            which = "" if keep_groups else f"fold {place + 1} of {number}: "
            raise DataError(
                f"{which}no image to train on but neighbors or copies of held-out ones",
                "groups without copies in all others" if keep_groups else "more images in the sequence",
                "give a --group that keeps copies together (septum check names them)"
                if keep_groups
                else "give another number of --folds, or annotate more images",
            )
        left = _left_out_words(len(beside), len(copies))
        trained = f"fold {place + 1} of {number}: {pluralize(len(train), 'image')} for training{left}"
        folds.append(Split(train, held_out, f"{trained}, {len(held_out)} held out: {_names(samples, held_out)}"))
    return folds


def folds_sentence(folds: Sequence[Split], samples: Sequence[Sample]) -> str:
    """Describe in one sentence how images were split into folds."""
    sizes = sorted({len(fold.held_out) for fold in folds})
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    start = f"{len(folds)} folds of {size} {'image' if sizes[-1] == 1 else 'images'}"
    if len(_groups(samples)) < len(folds):
        return f"{start}: contiguous blocks, those next to a block are left out of its training"
    copied = any(len(fold.train) + len(fold.held_out) < len(samples) for fold in folds)
    left = ", copies of held-out images are left out of the training" if copied else ""
    return f"{start}: groups stay whole{left}" if any(s.group for s in samples) else f"{start}, drawn at random{left}"


def nested_order(samples: Sequence[Sample], chosen: Sequence[int], *, seed: int) -> list[int]:
    """Return the chosen images in an order of which every beginning represents all groups as evenly as possible.

    The groups take turns; each gives one of its images, drawn without replacement.
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

    Hold out the contiguous last fifth of each stack or sequence: neighbors are alike, and a random choice would test on
    near-duplicates of training images. Hold out a random fifth of the independent images (and groups of one). At least
    one image is held out, unless there is only one. Copies of one image (`Sample.copy_of`) are all trained on or all
    held out; if their places in stacks contradict this, they are trained on.

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
    held = _random_fifth([[single[i] for i in same] for same in _copies([samples[i] for i in single])], seed)
    for members in groups.values():
        members.sort(key=lambda i: samples[i].position)
        held.update(members[len(members) - _fifth(len(members)) :])
    for same in _copies(samples):
        if not held.issuperset(same):
            held.difference_update(same)
    return [i for i in range(len(samples)) if i not in held], sorted(held)


def named(samples: Sequence[Sample], names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the split that holds out the samples of these names; without names all are for training.

    Raises
    ------
    UsageError
        If a name is not among the samples, or none is left to train on.
    """
    held = [i for i, sample in enumerate(samples) if sample.name in set(names)]
    if lacking := sorted(set(names) - {samples[i].name for i in held}):
        raise UsageError(
            f"no image {format_path(lacking[0])} to hold out", "names as `septum check` prints them", "correct the name"
        )
    if len(held) == len(samples):
        raise UsageError("all images held out", "at least one image to train on", "hold out fewer images")
    return [i for i in range(len(samples)) if i not in set(held)], held


def _copies(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the indices of the images, copies of one another in one list."""
    same: dict[tuple[str, int], list[int]] = {}
    for index, sample in enumerate(samples):
        same.setdefault((sample.copy_of, 0) if sample.copy_of else ("", index), []).append(index)
    return list(same.values())


def _random_fifth(copies: Sequence[Sequence[int]], seed: int) -> set[int]:
    """Draw a fifth of the images; copies of one image are drawn together."""
    wanted = min(_fifth(sum(map(len, copies))), len(copies) - 1)  # the copies of one image may be all there are
    held: set[int] = set()
    for i in seeding.generator(seed, "hold out").permutation(len(copies)):
        if len(held) < wanted:
            held.update(copies[i])
    return held


def _copies_of(samples: Sequence[Sample], held_out: Sequence[int]) -> set[int]:
    """Return the images that are copies of held-out ones, and are not held out themselves."""
    held = {samples[i].copy_of for i in held_out} - {""}
    return {i for i, sample in enumerate(samples) if sample.copy_of in held} - set(held_out)


def _left_out_words(beside: int, copies: int) -> str:
    """Describe the images next to held-out ones, and the copies of held-out ones, that are not trained on."""
    words = [f"{beside} next to them"] * bool(beside)
    words += [f"{copies} near-duplicate{'s' * (copies > 1)} of them"] * bool(copies)
    return f" ({' and '.join(words)} left out)" if words else ""


def split_sentence(samples: Sequence[Sample], held_out: Sequence[int], *, copies: int = 0) -> str:
    """Describe in one sentence which images are held out; `copies` of them are not trained on."""
    if not held_out:
        many = "one image only" if len(samples) == 1 else f"{len(samples)} images for training"
        if len(samples) > 1 and len({s.copy_of for s in samples}) == 1 and samples[0].copy_of:
            many = "all images are copies of one"
        return f"{many}: none is held out, so no score can be given"
    trained = f"{pluralize(len(samples) - len(held_out) - copies, 'image')} for training{_left_out_words(0, copies)}"
    return f"{trained}, {len(held_out)} held out for validation: {_names(samples, held_out)}"


def _names(samples: Sequence[Sample], chosen: Sequence[int]) -> str:
    names = [format_path(samples[i].name) for i in chosen]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _fifth(count: int) -> int:
    """Return a fifth, rounded: 1 for 2 to 7 images, 0 for one."""
    return max(1, round(count / _FIFTH)) if count > 1 else 0


def _groups(samples: Sequence[Sample]) -> list[list[int]]:
    """Return sequences and stacks, each in order of time or depth, and single images with their copies."""
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        own = f"copy of {sample.copy_of}" if sample.copy_of else f"{index}"
        groups.setdefault(f"in {sample.group}" if sample.group else own, []).append(index)
    return [sorted(members, key=lambda i: samples[i].position) for members in groups.values()]


def _whole_groups(groups: Sequence[Sequence[int]], number: int, seed: int) -> list[list[int]]:
    """Return the held-out images of each fold; groups stay whole."""
    order = [int(i) for i in seeding.generator(seed, "folds").permutation(len(groups))]
    held: list[list[int]] = [[] for _ in range(number)]
    for members in sorted((groups[i] for i in order), key=len, reverse=True):
        min(held, key=len).extend(members)
    return held


def _blocks(groups: Sequence[Sequence[int]], number: int, seed: int) -> list[list[int]]:
    """Return the held-out images of each fold: a contiguous block of each group; shorter groups stay whole."""
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
            f"{pluralize(sum(map(len, groups)), 'image')} in {pluralize(len(groups), 'sequence')} for {number} folds",
            "as many sequences as folds, or a sequence with an image for each fold",
            "give fewer --folds",
        )
    return held


def _neighbors(samples: Sequence[Sample], groups: Sequence[Sequence[int]]) -> Mapping[int, list[int]]:
    """Return, by image, the images before and after it in its sequence."""
    near: dict[int, list[int]] = {}
    for members in groups:
        if samples[members[0]].group:
            for before, after in pairwise(members):
                near.setdefault(before, []).append(after)
                near.setdefault(after, []).append(before)
    return near


def train_on_every_class(
    samples: Sequence[Sample], train: Sequence[int], held_out: Sequence[int], *, keep_groups: bool = False
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Move held-out images into the training if no training image holds one of their classes, each with its copies.

    Parameters
    ----------
    samples
        All annotated images; masks hold classes.
    train, held_out
        Indices into `samples`.
    keep_groups
        Move whole groups.

    Returns
    -------
    train, held_out, sentences
        Indices into `samples`, rising, and one sentence for each moved image.
    """
    held = {i: _classes(samples[i]) for i in held_out}
    known = {value for i in train for value in _classes(samples[i])}
    moved, sentences = list(train), []
    for value in sorted({v for values in held.values() for v in values} - known):
        if value in known:
            continue
        index = max((i for i in held if value in held[i]), key=lambda i: held[i][value])
        together = _together(samples, index, held, keep_groups)
        known.update(*(held.pop(i) for i in together))
        moved += together
        which, more = "of its group" if keep_groups else "like it", len(together) - 1
        words = f"and {more} more {which} are" if more else "is"
        sentences.append(
            f"{format_path(samples[index].name)} {words} trained on: no other training image holds class {value}"
        )
    return sorted(moved), sorted(held), tuple(sentences)


def _together(samples: Sequence[Sample], index: int, held: Collection[int], keep_groups: bool) -> list[int]:
    """Return a held-out image and those of `held` that must stay on its side: its copies, and the group if it is kept.

    So must the copies and groups of these.
    """
    found = {index}
    while True:
        groups = {samples[i].group for i in found} if keep_groups else set()
        copies = {samples[i].copy_of for i in found} - {""}
        more = {i for i in held if samples[i].group in groups or samples[i].copy_of in copies} - found
        if not more:
            return sorted(found)
        found |= more


def _classes(sample: Sample) -> dict[int, int]:
    """Return the number of annotated pixels of each class in a mask."""
    counts = sample.source.counts if isinstance(sample, StoredSample) else None
    if counts is None:
        mask = sample.mask
        counts = np.bincount(mask[mask >= 0])
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
