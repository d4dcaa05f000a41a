"""Model selection: the main scores of held-out images, the selection score, candidate settings, learned decisions.

The selection score decides which weights are kept, which candidate settings turn probabilities into objects, whether
decisions about objects are learned, and whether a training still improves: all of this is changed here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from septum.arrays.instances import AREAS, ObjectSettings
from septum.evaluation.candidates import object_sizes
from septum.evaluation.object_scores import (
    FEWEST,
    FEWEST_OF_CONFIDENCE,
    LEAST_CONFIDENCE,
    ObjectExample,
    fit_decisions,
)
from septum.metrics.aggregate import Finish, finish_classes, finish_objects, object_columns
from septum.metrics.contingency import Table
from septum.pairing.sample import Sample
from septum.settings import MaskKind
from septum.training.distributed import Processes

CandidateColumns = dict[int, NDArray[np.float64]]
"""By the index of an image ``(candidates, ...) float64``: its part of the sums behind the scores of each setting."""

MAIN_SCORES: Mapping[MaskKind, tuple[str, ...]] = {
    "objects": ("SEG", "AP50", "AP"),
    "classes": ("V_Rand", "dice", "iou", "pixel_error"),
}
"""Names of the main scores by the kind of the masks; ``V_Rand`` exists only where lines part areas.

They are those of `septum.metrics.aggregate.finish_objects` and `septum.metrics.aggregate.finish_classes`. A model file,
the log of a run and the head of its report hold them.
"""

_CHOOSING = (("SEG", "AP50"), ("V_Rand", "dice"), ("dice",))
"""Names of the scores whose mean chooses: of the first group whose scores all exist; all are in `MAIN_SCORES`.

SEG alone would ignore false objects, AP50 alone the fit of outlines. V_Rand detects gaps in lines, which hardly
change Dice.
"""

GAIN = 0.002
"""The selection score must rise by more than this to count as a gain; without gains a training reaches a plateau."""

SEED_SHARES = (0.0, 0.15, 0.3, 0.45)
"""Values of `septum.arrays.instances.ObjectSettings.seed_share` that tuning tries."""

OUTLINE_LEVELS = (0.5, 0.65, 0.35, 0.2)
"""Values of `septum.arrays.instances.ObjectSettings.outline_level` that tuning tries; the first one until then.

So the threshold and the seed level are chosen by how well they separate objects, not by where outlines lie.
"""

# Parts of the images that are left out in turn when learned decisions are judged.
_FOLDS = 5
# Ratio of neighboring candidates for `septum.arrays.instances.ObjectSettings.min_size_px`, at most.
_MIN_SIZE_STEP = 1.25
# Part of the usual object, by its size, that is kept whatever false objects there are.
_SMALLEST_SHARE = 0.2


def main_scores(scores: Mapping[str, float], kind: MaskKind) -> dict[str, float]:
    """Return the main scores among `scores`, in the order of `MAIN_SCORES`."""
    return {name: scores[name] for name in MAIN_SCORES[kind] if name in scores}


def selection_names(scores: Collection[str]) -> tuple[str, ...]:
    """Return the names of the scores whose mean is the selection score; the first one is the most important."""
    return next(names for names in _CHOOSING if all(name in scores for name in names))


def selection_score(scores: Mapping[str, float]) -> float:
    """Compute the number by which models are compared, 0 (worst) to 1; a score that is not defined counts 0.

    It is the mean of SEG and AP50 for objects, of V_Rand and Dice where lines part areas, and Dice for other classes.
    """
    names = selection_names(scores)
    return sum(scores[name] if np.isfinite(scores[name]) else 0.0 for name in names) / len(names)


def untuned(*, lines: bool = False, fill_holes: bool = False) -> ObjectSettings:
    """Return the settings of objects, or of areas between `lines`, where no image can be held out for tuning."""
    if lines:
        return AREAS
    return ObjectSettings(outline_level=OUTLINE_LEVELS[0], contacts="valley", fill_holes=fill_holes)


def candidates(object_sizes: ArrayLike = (), *, fill_holes: bool = False) -> tuple[ObjectSettings, ...]:
    """List the settings that tuning tries.

    Parameters
    ----------
    object_sizes
        ``(N,)`` integers, 1 or more: sizes of the true objects in pixels. The smallest of them determine `min_size_px`.
    fill_holes
        Fill holes of objects.

    Returns
    -------
    choices
        A grid of 32 settings, ordered so that neighbors share most of the work in
        `septum.arrays.instances.label_each`.
    """
    same = untuned(fill_holes=fill_holes).model_copy(update={"min_size_px": min_size_candidates(object_sizes)[0]})
    grid = itertools.product((0.35, 0.5, 0.65, 0.8), (0.8, 0.95), (0.0, 0.5), (0, 1))
    names = ("threshold", "seed_level", "merge_ratio", "grow_px")
    return tuple(same.model_copy(update=dict(zip(names, values, strict=True))) for values in grid)


def area_candidates(area_sizes: ArrayLike = ()) -> tuple[ObjectSettings, ...]:
    """List the settings that tuning tries for areas separated by lines; the counterpart of `candidates`.

    The threshold sets how far areas extend; the seed level sets how faint a line may be and still separate two areas.

    Parameters
    ----------
    area_sizes
        ``(N,)`` integers, 1 or more: sizes of the true areas in pixels.
    """
    same = AREAS.model_copy(update={"min_size_px": min_size_candidates(area_sizes)[0]})
    grid = itertools.product((0.2, 0.35, 0.5, 0.65, 0.8), (0.5, 0.6, 0.7, 0.8, 0.9, 0.95))
    return tuple(same.model_copy(update={"threshold": t, "seed_level": s}) for t, s in grid if s >= t)


def min_size_candidates(object_sizes: ArrayLike = ()) -> list[int]:
    """List candidates for `ObjectSettings.min_size_px`: most false objects are smaller than the true ones.

    The list runs from a quarter of the size that 99 % of the true objects exceed up to the size that 90 % exceed, but
    not beyond a fifth of their median. With the lowest value alone, many false objects remained on the held-out images
    of four public data sets; tuning over the list raised AP50 by 0.03 to 0.14 there. Steps are small, so that the
    lowest value that removes the false objects removes little else: new images may hold smaller true objects. Where
    objects are of much the same size, the highest values would remove them: of 42 cells in later frames of
    PhC-C2DH-U373, 4 were smaller than the smallest size that was tuned on earlier frames.

    Parameters
    ----------
    object_sizes
        ``(N,)`` integers, 1 or more: sizes of the true objects in pixels.

    Returns
    -------
    sizes
        Rising, in pixels, 1 or more.
    """
    sizes = np.asarray(object_sizes, np.float64)
    if not sizes.size:
        return [ObjectSettings().min_size_px]
    tiny, few, usual = np.quantile(sizes, [0.01, 0.1, 0.5])
    few = max(tiny / 4, min(few, usual * _SMALLEST_SHARE))
    steps = int(np.ceil(np.log(4 * few / tiny) / np.log(_MIN_SIZE_STEP)))
    return sorted({max(1, int(round(size, 6))) for size in np.geomspace(tiny / 4, few, steps + 1)})


def few_candidates(
    sizes: NDArray[np.float64], *, lines: bool = False, fill_holes: bool = False
) -> tuple[ObjectSettings, ...]:
    """List the settings tried during training: weights that score low with one may be the best with another.

    Parameters
    ----------
    sizes
        ``(n,) float64`` in pixels, 1 or more; from `septum.evaluation.candidates.object_sizes`.
    lines
        True if the two classes are lines and areas.
    fill_holes
        Fill holes of objects.
    """
    choices = first_candidates(sizes, lines=lines, fill_holes=fill_holes)
    if lines:
        return tuple(c for c in choices if c.threshold in (0.35, 0.8))
    few = [c for c in choices if c.threshold in (0.5, 0.8) and c.merge_ratio > 0 and not c.grow_px]
    every = min_size_candidates(sizes)
    min_sizes = sorted({every[0], every[len(every) // 2]})
    return tuple(c.model_copy(update={"min_size_px": size}) for c in few for size in min_sizes)


def first_candidates(
    sizes: NDArray[np.float64], *, lines: bool = False, fill_holes: bool = False
) -> tuple[ObjectSettings, ...]:
    """List what tuning tries first, `candidates` or `area_candidates`, for `sizes` ``(n,)`` float64, >= 1."""
    return area_candidates(sizes) if lines else candidates(sizes, fill_holes=fill_holes)


def refinements(sizes: NDArray[np.float64], *, lines: bool = False) -> dict[str, Sequence[float]]:
    """List the values that tuning tries after the first candidates, one setting after the other.

    Parameters
    ----------
    sizes
        ``(n,) float64`` in pixels, 1 or more: sizes of the true objects, or areas between `lines`.
    lines
        True if the two classes are lines and areas, which have no outline besides the lines.
    """
    outlines: dict[str, Sequence[float]] = {} if lines else {"outline_level": OUTLINE_LEVELS}
    return outlines | {"seed_share": SEED_SHARES, "min_size_px": min_size_candidates(sizes)}


@dataclass(frozen=True, eq=False)
class JudgedExample:
    """An image on which decisions about objects are learned and judged.

    Attributes
    ----------
    options
        Its parts of objects with each of `decision_options`.
    held_out
        False for a training image, which the network knows.
    place
        Place among the held-out images, or among the training images.
    """

    options: tuple[ObjectExample, ...]
    held_out: bool
    place: int


def decision_options(settings: ObjectSettings, object_sizes: ArrayLike) -> tuple[ObjectSettings, ObjectSettings]:
    """Return the settings to which learned decisions are added: the tuned ones, and the same with strict seeds.

    Strict seeds divide objects into too many parts, which are then merged by a learned score.

    Parameters
    ----------
    settings
        The tuned settings.
    object_sizes
        ``(N,)`` integers, 1 or more: sizes of the true objects in pixels.
    """
    seeds = {"seed_level": max(settings.threshold, 0.8), "seed_share": 0.0, "merge_ratio": 0.8}
    smallest = {"min_size_px": min_size_candidates(object_sizes)[0]}
    return settings, settings.model_copy(update=seeds | smallest)


def choose_decisions(
    options: Sequence[ObjectSettings], examples: Sequence[JudgedExample], object_sizes: ArrayLike
) -> ObjectSettings:
    """Add learned decisions to the settings of objects, as far as they are better on images they were not fitted on.

    Tried are a score of objects, by which false ones are removed, and strict seeds whose parts are merged by a score of
    contacts, before false objects are removed. Both are fitted on four fifths of the images and applied to the others,
    five times. Taken is what gains most selection score over the tuned settings, at least `GAIN`, and loses no more
    than that on the held-out images alone. Otherwise the objects stay as they are, and only get a confidence.

    Parameters
    ----------
    options
        From `decision_options`.
    examples
        Held-out and training images.
    object_sizes
        ``(N,)`` integers, 1 or more: sizes of the true objects in pixels.
    """
    sizes = np.asarray(object_sizes)
    if not sizes.size or not examples:
        return options[0]
    size_px, held_out = float(np.median(sizes)), np.array([one.held_out for one in examples])
    before = _columns([one.options[0].truth for one in examples])
    best, merges, gained = 0, False, 0.0
    for index, merge in ((0, False), (1, True)):
        decided = _cross_validated([one.options[index] for one in examples], size_px, merge=merge)
        if decided is None:
            continue
        gain, own = (_score(_columns(decided)[part]) - _score(before[part]) for part in (slice(None), held_out))
        if gain > max(GAIN, gained) and own >= -GAIN:
            best, merges, gained = index, merge, gain
    least, fewest = (LEAST_CONFIDENCE, FEWEST) if gained else (0.0, FEWEST_OF_CONFIDENCE)
    parts = [one.options[best] for one in examples]
    learned = fit_decisions(parts, size_px, merge=merges, least=least, fewest=fewest)
    if learned is None:
        return options[0]
    return options[best].model_copy(update={"learned": learned.model_copy(update={"gain": round(gained, 4)})})


def _cross_validated(examples: Sequence[ObjectExample], size_px: float, *, merge: bool) -> list[Table] | None:
    """Decide about the objects of each image by scores fitted on other images; None if there are too few for that."""
    decided: dict[int, Table] = {}
    for fold in range(_FOLDS):
        others = [example for i, example in enumerate(examples) if i % _FOLDS != fold]
        learned = fit_decisions(others, size_px, merge=merge, least=LEAST_CONFIDENCE)
        if learned is None:
            return None
        decided |= {i: examples[i].decided(learned) for i in range(fold, len(examples), _FOLDS)}
    return [decided[i] for i in range(len(examples))]


def _columns(tables: Sequence[Table]) -> NDArray[np.float64]:
    return np.stack([object_columns(one, one) for one in tables])


def _score(columns: NDArray[np.float64]) -> float:
    scores = finish_objects(columns.sum(axis=0))
    return selection_score({name: float(scores[name]) for name in MAIN_SCORES["objects"]})


def choose(columns: CandidateColumns, *, lines: bool = False) -> tuple[int, dict[str, float]]:
    """Return the index of the best candidate of `candidate_columns` (the first of equals), and its main scores."""
    if lines:
        return choose_by(columns, finish_classes((0, 1)), "classes")
    return choose_by(columns, finish_objects, "objects")


def choose_by(columns: CandidateColumns, finish: Finish, kind: MaskKind) -> tuple[int, dict[str, float]]:
    """Return the index of the best candidate (the first of equals) of scores computed by `finish`, and these."""
    totals = np.sum([columns[index] for index in sorted(columns)], axis=0)
    scored = finish(totals)
    if kind == "objects":
        # Without any reference object SEG is not defined; it is 0 here, as AP is.
        scored["SEG"] = np.nan_to_num(scored["SEG"])
    scores = [main_scores({name: float(v[k]) for name, v in scored.items()}, kind) for k in range(len(totals))]
    best = int(np.argmax([selection_score(one) for one in scores]))
    return best, scores[best]


def tune_objects(
    measure: Callable[[Sequence[ObjectSettings], Collection[int]], CandidateColumns],
    samples: Sequence[Sample],
    *,
    first: Sequence[ObjectSettings] | None = None,
    lines: bool = False,
    fill_holes: bool = False,
) -> ObjectSettings:
    """Choose how objects, or areas between lines, are made.

    Thresholds, seed level, merge ratio and growth are tuned first, then the outline level, the seed share, and the
    smallest size. As long as all candidates score 0, nothing can be chosen, and the settings are those of `untuned`.

    Parameters
    ----------
    measure
        Computes the columns of images for some settings: of as many images as there is time for, or of those whose
        indices are given. Without any, tuning ends with the best settings so far.
    samples
        Images from which the sizes of objects are known.
    first
        The settings to begin with; None: `first_candidates`.
    lines
        True if the two classes are lines and areas.
    fill_holes
        Fill holes of objects.
    """
    sizes = object_sizes(samples, lines=lines)
    choices = first or first_candidates(sizes, lines=lines, fill_holes=fill_holes)
    best, columns = untuned(lines=lines, fill_holes=fill_holes), measure(choices, ())
    if not columns:
        return best
    best = _best_of(choices, columns, lines) or best
    for name, values in refinements(sizes, lines=lines).items():
        choices = tuple(best.model_copy(update={name: value}) for value in values)
        if not (refined := measure(choices, columns.keys())):
            break
        best = _best_of(choices, refined, lines) or best
    return best


def _best_of(choices: Sequence[ObjectSettings], columns: CandidateColumns, lines: bool) -> ObjectSettings | None:
    """Return the best candidate; None if all score 0: the first of them is an extreme of the grid."""
    index, scores = choose(columns, lines=lines)
    return choices[index] if selection_score(scores) > 0 else None


def gather_columns(processes: Processes, columns: CandidateColumns) -> CandidateColumns:
    """Return the columns of all processes in each of them."""
    if processes.world == 1:
        return columns
    # Processes exchange integers: an image travels as its index, its shape, and the bits of its numbers.
    packed = [
        np.concatenate([[index, *array.shape], np.ascontiguousarray(array).view(np.int64).reshape(-1)])
        for index, array in columns.items()
    ]
    received = [array for arrays in processes.gather(packed) for array in arrays]
    return {int(flat[0]): flat[4:].copy().view(np.float64).reshape(flat[1:4]) for flat in received}


def gather_examples(processes: Processes, examples: Sequence[JudgedExample]) -> list[JudgedExample]:
    """Return the examples of all processes in each of them, held-out images first, in the order of their places."""
    if processes.world > 1:
        packed = [array for one in examples for array in _packed(one)]
        examples = [one for arrays in processes.gather(packed) for one in _unpacked(arrays)]
    return sorted(examples, key=lambda one: (not one.held_out, one.place))


def _packed(one: JudgedExample) -> list[NDArray[np.int64]]:
    return [np.array([len(one.options), one.held_out, one.place]), *(option.packed() for option in one.options)]


def _unpacked(arrays: Sequence[NDArray[np.int64]]) -> list[JudgedExample]:
    found, rest = [], iter(arrays)
    for options, held_out, place in rest:
        parts = tuple(map(ObjectExample.unpacked, itertools.islice(rest, int(options))))
        found.append(JudgedExample(parts, bool(held_out), int(place)))
    return found
