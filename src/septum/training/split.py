"""Hold out images for validation: once, or in folds so that each image is held out once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from septum import seeding
from septum.errors import DataError, UsageError
from septum.io.formats import format_path
from septum.pairing.grouping import copies_of, copy_groups, grouped, inseparable, largest_first, neighbors, sequences
from septum.pairing.sample import Sample, class_pixels, holds_objects
from septum.settings import MaskKind
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
    warning
        Why no score is possible although there are several images, and what to do; ``""`` otherwise.
    """

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    sentence: str
    warning: str = ""


def split(samples: Sequence[Sample], settings: SplitSettings, *, seed: int, kind: MaskKind | None = None) -> Split:
    """Choose the images for training and those for validation.

    Parameters
    ----------
    samples
        All annotated images.
    settings
        Images to hold out, and images to train on.
    seed
        Of the run.
    kind
        What masks hold. The default split trains on every class; of objects, there are some in the training and among
        the held-out images, if there are enough (`require_objects`). None: what masks hold does not count.

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
        result = _split_once(samples, seed=seed, kind=kind, keep_groups=keep_groups)
    if kind == "objects":
        result = replace(result, warning=_warning(samples, result, settings))
    if settings.limit is None:
        return result
    order = nested_order(samples, result.train, seed=seed)
    subset = order[: settings.limit]
    if kind == "objects" and not holds_objects(samples[i] for i in subset):
        subset[-1] = next((i for i in order if holds_objects([samples[i]])), subset[-1])
    held = f"{len(result.held_out)} held out for validation: {_names(samples, result.held_out)}"
    sentence = f"{len(subset)} of {len(result.train)} images for training, {held}"
    return replace(result, train=tuple(sorted(subset)), sentence=sentence)


def _split_once(samples: Sequence[Sample], *, seed: int, kind: MaskKind | None, keep_groups: bool) -> Split:
    """Hold out about a fifth of the images, of groups that must not be cut whole ones; `kind` as in `split`."""
    held_out, moved = list[int](), tuple[str, ...]()
    for held_out in _choices(samples, seed=seed, kind=kind, keep_groups=keep_groups):
        train = _others(samples, held_out)
        if kind == "classes":
            _, held_out, moved = train_on_every_class(samples, train, held_out, keep_groups=keep_groups)
        divided = kind != "objects" or all(holds_objects(samples[i] for i in side) for side in (train, held_out))
        if held_out and divided:
            break
    else:
        held_out = []
    train = _others(samples, held_out)
    sentence = split_sentence(samples, held_out, copies=len(samples) - len(train) - len(held_out))
    return Split(tuple(train), tuple(held_out), "; ".join((sentence, *moved)))


def _choices(samples: Sequence[Sample], *, seed: int, kind: MaskKind | None, keep_groups: bool) -> Iterator[list[int]]:
    """Yield the images that may be held out, best first: each further choice if objects or classes forbid those before.

    The last choices are for sets of which few images hold objects: a fifth of these images, or single groups.
    """
    groups = len({sample.group for sample in samples}) if keep_groups else 1
    if groups > 1:
        folds = make_folds(samples, min(_FIFTH, groups), seed=seed, keep_groups=True)
        yield from (list(fold.held_out) for fold in folds)
        if kind == "objects":
            by_size = largest_first(sequences(samples), seed)
            yield from (sorted(group) for group in by_size if holds_objects(samples[i] for i in group))
        return
    yield hold_out(samples, seed=seed)[1]
    if kind == "objects":
        holders = [i for i, sample in enumerate(samples) if holds_objects([sample])]
        yield [holders[i] for i in hold_out([samples[i] for i in holders], seed=seed)[1]]


def _others(samples: Sequence[Sample], held_out: Sequence[int]) -> list[int]:
    """Return the images to train on: those that are neither held out nor copies of held-out ones."""
    away = copies_of(samples, held_out).union(held_out)
    return [i for i in range(len(samples)) if i not in away]


def require_objects(samples: Sequence[Sample], chosen: Split, settings: SplitSettings) -> None:
    """Refuse a split that these settings asked for if no image to train on holds an object; masks hold objects.

    Raises
    ------
    DataError
        If none does.
    """
    if not holds_objects(samples[i] for i in chosen.train):
        fold = settings.fold
        raise DataError(
            f"{f'fold {fold[0]} of {fold[1]}: ' if fold else ''}no image to train on holds an object",
            "objects in the masks of some images for training",
            "draw objects in more images, or "
            + ("give another --seed or number of --folds" if fold else "hold out other images"),
        )


def _warning(samples: Sequence[Sample], chosen: Split, settings: SplitSettings) -> str:
    """Return a warning if no held-out image holds an object; of one image, or if none is to be held out, ``""``."""
    if len(samples) == 1 or settings.names == () or holds_objects(samples[i] for i in chosen.held_out):
        return ""
    if chosen.held_out:
        why, where = "the held-out images hold no object", "more images"
    else:
        why = "the images with objects cannot be divided into training and held-out ones"
        where = f"another {'group' if settings.group else 'image'}"
    return f"{why}: no score is possible, and how objects are made is not tuned; draw objects in {where}"


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
    groups = sequences(samples)
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
    near = neighbors(samples, groups) if cut else {}
    folds = []
    for place, part in enumerate(parts):
        held_out = tuple(sorted(part))
        beside = {j for i in part for j in near.get(i, ())} - set(part)
        copies = copies_of(samples, part) - beside
        away = beside.union(copies, part)
        train = tuple(i for i in range(len(samples)) if i not in away)
        which = f"fold {place + 1} of {number}: "
        if not train:
            raise DataError(
                f"{'' if keep_groups else which}no image to train on but neighbors or copies of held-out ones",
                "groups without copies in all others" if keep_groups else "more images in the sequence",
                "give a --group that keeps copies together (septum check names them)"
                if keep_groups
                else "give another number of --folds, or annotate more images",
            )
        trained = f"{which}{pluralize(len(train), 'image')} for training{_left_out_words(len(beside), len(copies))}"
        folds.append(Split(train, held_out, f"{trained}, {len(held_out)} held out: {_names(samples, held_out)}"))
    return folds


def folds_sentence(folds: Sequence[Split], samples: Sequence[Sample]) -> str:
    """Describe in one sentence how images were split into folds."""
    sizes = sorted({len(fold.held_out) for fold in folds})
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    start = f"{len(folds)} folds of {size} {'image' if sizes[-1] == 1 else 'images'}"
    if len(sequences(samples)) < len(folds):
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
    held = _random_fifth([[single[i] for i in same] for same in copy_groups([samples[i] for i in single])], seed)
    for members in groups.values():
        members.sort(key=lambda i: samples[i].position)
        held.update(members[len(members) - _fifth(len(members)) :])
    for same in copy_groups(samples):
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


def _random_fifth(copies: Sequence[Sequence[int]], seed: int) -> set[int]:
    """Draw a fifth of the images; copies of one image are drawn together."""
    wanted = min(_fifth(sum(map(len, copies))), len(copies) - 1)  # the copies of one image may be all there are
    held: set[int] = set()
    for i in seeding.generator(seed, "hold out").permutation(len(copies)):
        if len(held) < wanted:
            held.update(copies[i])
    return held


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


def _whole_groups(groups: Sequence[Sequence[int]], number: int, seed: int) -> list[list[int]]:
    """Return the held-out images of each fold; groups stay whole."""
    held: list[list[int]] = [[] for _ in range(number)]
    for members in largest_first(groups, seed):
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
    held = {i: class_pixels(samples[i]) for i in held_out}
    known = {value for i in train for value in class_pixels(samples[i])}
    moved, sentences = list(train), []
    for value in sorted({v for values in held.values() for v in values} - known):
        if value in known:
            continue
        index = max((i for i in held if value in held[i]), key=lambda i: held[i][value])
        together = inseparable(samples, index, held, keep_groups)
        known.update(*(held.pop(i) for i in together))
        moved += together
        which, more = "of its group" if keep_groups else "like it", len(together) - 1
        words = f"and {more} more {which} are" if more else "is"
        sentences.append(
            f"{format_path(samples[index].name)} {words} trained on: no other training image holds class {value}"
        )
    return sorted(moved), sorted(held), tuple(sentences)
