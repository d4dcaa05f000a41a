"""Make objects from foreground probabilities: threshold, seeds, watershed, removal of small objects, outlines.

Each step has one exact result, whatever part of an image is computed at a time (see `septum.arrays.stitch`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field

from septum.arrays.boundaries import close_gaps, close_gaps_reach
from septum.arrays.distance import squared_distance
from septum.arrays.learned import LearnedDecisions, decide
from septum.arrays.regions import Regions, regions_of_image
from septum.arrays.watershed import fill_holes, flood
from septum.axes import pixels_within, relative_spacing
from septum.settings import Settings

LEVELS = 2**16 - 1
"""Probabilities 0 .. 1 are rounded to the integers 0 .. `LEVELS` before objects are made."""

_ROUNDS = 2  # in which teeth at contacts are removed: a tooth of two pixels takes two

Share = Annotated[float, Field(ge=0, le=1)]


class ObjectSettings(Settings):
    """Settings that turn foreground probabilities into objects; tuned on validation images and stored in the model.

    The defaults were chosen on true masks that were separated, blurred and given correlated noise. Seeds from
    probability alone lose objects where the borders between touching cells are partly missing, seeds from shape alone
    split objects with ragged outlines (SEG of HeLa cells with 30 % of the image without borders: 0.66 and 0.88; both
    together: 0.95).
    """

    threshold: Share = 0.5
    """Pixels with a higher foreground probability belong to an object."""

    seed_level: Share = 0.9
    """Seeds are made of the pixels above this probability; parts connected only through less probable pixels become
    different objects."""

    seed_share: Share = 0.0
    """A seed that covers less than this share of its object is dropped: in dim, noisy regions single pixels exceed
    `seed_level` by chance."""

    merge_ratio: Share = Field(default=0.5, validation_alias=AliasChoices("merge_ratio", "neck"))
    """Two parts above `seed_level` merge unless the constriction between them is narrower than this share of the width
    of the narrower part; 0: all connected parts merge, and shape is not used. Model files of version 0.1 call this
    setting ``neck``."""

    min_size_px: int = Field(default=8, ge=0)
    """Objects of fewer pixels above the threshold are removed, or merged into the neighbor from which they were
    split."""

    outline_level: Share = 1.0
    """Objects extend over connected pixels above this probability, more probable ones first, so that contacts follow
    the valley between two objects: a high threshold keeps objects apart, and outlines lie where the probability says.
    A level of `threshold` or more changes nothing."""

    grow_px: int = Field(default=0, ge=0, le=16)
    """Background pixels within this distance of two objects are assigned to these: this closes the gap that the
    training target left between touching objects. Outlines that face open background do not move."""

    contacts: Literal["steps", "valley"] = "steps"
    """How the gap between two objects is divided: ``"steps"`` to the nearer object, as in older model files;
    ``"valley"`` to the object that is more probable around the pixel, and without teeth of one pixel
    (`finish_contacts`)."""

    fill_holes: bool = False
    """Background that one object encloses becomes part of it; see `fill_holes`."""

    learned: LearnedDecisions | None = None
    """Learned scores that merge the parts made by the settings above, and remove objects, before contacts are finished;
    None: these parts are the objects."""


AREAS = ObjectSettings(threshold=0.35, seed_level=0.8, merge_ratio=0.0)
"""Default settings for areas that are separated by lines: the probability of the line decides, not the shape."""


def label_objects(
    foreground: NDArray[np.float32],
    settings: ObjectSettings | None = None,
    *,
    spacing: Sequence[float] | None = None,
) -> NDArray[np.int32]:
    """Label the objects in a map of foreground probabilities.

    The pixels above the threshold are divided by a watershed (see `septum.arrays.watershed`) from seeds: the parts of
    the pixels above `ObjectSettings.seed_level` after merging across wide connections. A face-connected component
    without a seed is one object. Seeds that cover too small a share of their object are dropped and the watershed is
    repeated without them. Then small objects are removed, the others extend to their outlines and are numbered, gaps
    are closed, and holes are filled. The result does not depend on the machine: probabilities are rounded to `LEVELS`,
    squared pixel sizes as `septum.arrays.distance` states.

    Parameters
    ----------
    foreground
        ``(Y, X)`` or ``(Z, Y, X)`` float32, 0 .. 1, no NaN.
    settings
        How objects are made; None: the defaults. `grow_px` counts pixels of the finest axis.
    spacing
        Pixel size along each axis in any unit; only the ratios count. None: all equal.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, 1 .. N objects, numbered in scan order (before gaps are closed).

    Raises
    ------
    UsageError
        If `spacing` does not fit the axes, or the image has more pixels than one watershed can process.
    """
    return next(label_each(foreground, [settings or ObjectSettings()], spacing=spacing)).labels


class Labeled(NamedTuple):
    """The objects of one image, made with one choice of settings.

    Attributes
    ----------
    choice
        The settings.
    labels
        ``(*S)`` int32: 0 background, 1 .. N objects.
    confidence
        ``(N,)`` float32 in 0 .. 1: the probability that each object matches a true one with an IoU of one half. None
        without `ObjectSettings.learned`.
    """

    choice: ObjectSettings
    labels: NDArray[np.int32]
    confidence: NDArray[np.float32] | None


def label_each(
    foreground: NDArray[np.float32], choices: Iterable[ObjectSettings], *, spacing: Sequence[float] | None = None
) -> Iterator[Labeled]:
    """Label the objects of one image with each of several settings, as `label_objects` does.

    Results that settings share (distances, seeds, watersheds) are computed once: the candidates of
    `septum.training.model_selection` take a third of the time of single calls.

    Parameters
    ----------
    foreground
        ``(Y, X)`` or ``(Z, Y, X)`` float32, 0 .. 1, no NaN.
    choices
        Settings to apply; neighbors in this order should share much.
    spacing
        As in `label_objects`.

    Yields
    ------
    Labeled
        For each of `choices`, in their order.

    Raises
    ------
    UsageError
        If `spacing` does not fit the axes.
    """
    sizes = relative_spacing(spacing, foreground.ndim)
    values = quantize(foreground)

    @lru_cache(maxsize=2)
    def distances(sure: int) -> NDArray[np.int32]:
        return squared_distance(values > sure, sizes)

    @lru_cache(maxsize=4)
    def seeds(sure: int, ratio: float) -> NDArray[np.int32]:
        return flood(distances(sure) if ratio > 0 else (values > sure).astype(np.uint32), ratio=ratio**2)[0]

    @lru_cache(maxsize=1)
    def divided(threshold: int, sure: int, ratio: float) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return flood(keep_above(values, threshold), seeds=seeds(sure, ratio))

    @lru_cache(maxsize=1)
    def redivided(threshold: int, sure: int, ratio: float, share: float) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        labels, pixels = divided(threshold, sure, ratio)
        seeded = np.bincount(labels[seeds(sure, ratio) > 0], minlength=len(pixels) + 1)
        weak = np.concatenate([[False], weak_seeds(seeded[1:], pixels, share)])
        if not weak.any():
            return labels, pixels
        kept = np.where(weak[labels], np.int32(0), seeds(sure, ratio))
        return flood(keep_above(values, threshold), seeds=kept)

    @lru_cache(maxsize=1)
    def extended(divided_by: tuple[int, int, float, float], min_size_px: int, outline: int) -> NDArray[np.int32]:
        labels, pixels = redivided(*divided_by)
        return _extend(keep_above(values, outline), labels, pixels >= min_size_px)

    for choice in choices:
        divided_by = (*quantized_thresholds(choice), choice.merge_ratio, choice.seed_share)
        labels = extended(divided_by, choice.min_size_px, outline_threshold(choice))
        labels, confidence = _decided(labels, values, distances, choice)
        labels = finish_contacts(labels, values, choice, sizes)
        yield Labeled(choice, fill_holes(labels) if choice.fill_holes else labels, confidence)


def _decided(
    labels: NDArray[np.int32],
    values: NDArray[np.uint16],
    distances: Callable[[int], NDArray[np.int32]],
    choice: ObjectSettings,
) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """Apply the learned decisions of `choice`, if it has any; return the labels and the confidence of each object."""
    if choice.learned is None:
        return labels, None
    regions = regions_of_image(
        labels, values, distances(outline_threshold(choice)), sure=quantized_thresholds(choice)[1]
    )
    numbers, confidence = decide(regions, choice.learned, labels.shape)
    return numbers.astype(np.int32)[labels], confidence


def find_regions(
    foreground: NDArray[np.float32], settings: ObjectSettings, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[np.int32], Regions]:
    """Find the parts of objects about which `ObjectSettings.learned` decides.

    Parameters
    ----------
    foreground, settings, spacing
        As for `label_objects`: ``(*S)`` float32, 0 .. 1. What is done after the decisions is left out.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, 1 .. N regions in scan order.
    regions
        Their sums.
    """
    update = {"learned": None, "grow_px": 0, "contacts": "steps", "fill_holes": False}
    labels = label_objects(foreground, settings.model_copy(update=update), spacing=spacing)
    values, (_, sure) = quantize(foreground), quantized_thresholds(settings)
    depths = squared_distance(values > outline_threshold(settings), relative_spacing(spacing, values.ndim))
    return labels, regions_of_image(labels, values, depths, sure=sure)


def quantize(foreground: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Round probabilities to integers.

    Parameters
    ----------
    foreground
        ``(*S)`` floats, probabilities of 0 .. 1.

    Returns
    -------
    values
        ``(*S)`` uint16, 0 to 65535 (`LEVELS`).
    """
    scaled = np.multiply(foreground, LEVELS, dtype=np.float32)
    rounded: NDArray[np.uint16] = np.rint(scaled, out=scaled).astype(np.uint16)
    return rounded


def quantized_thresholds(choice: ObjectSettings) -> tuple[int, int]:
    """Return the quantized values above which a pixel belongs to an object, and to a seed."""
    threshold, sure = (round(share * LEVELS) for share in (choice.threshold, choice.seed_level))
    return threshold, max(threshold, sure)


def outline_threshold(choice: ObjectSettings) -> int:
    """Return the quantized value above which a pixel can belong to an object, next to pixels above the threshold."""
    return round(min(choice.threshold, choice.outline_level) * LEVELS)


def weak_seeds(seeded: NDArray[np.int64], sizes: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Flag objects whose seed covers less than a share of their area; objects without a seed are not flagged.

    Parameters
    ----------
    seeded
        ``(N,)`` int64, 0 or more: pixels of each object's seed.
    sizes
        ``(N,)`` int64, 1 or more: pixels of each object.
    share
        0 .. 1, as `ObjectSettings.seed_share`.

    Returns
    -------
    weak
        ``(N,)`` bool: True where the seed must be dropped.
    """
    weak: NDArray[np.bool_] = (seeded > 0) & (seeded < share * sizes)
    return weak


def keep_above(values: NDArray[np.uint16], threshold: int) -> NDArray[np.uint32]:
    """Set values that are not above a threshold to 0.

    Parameters
    ----------
    values
        ``(*S)`` uint16, 0 to 65535, from `quantize`.
    threshold
        0 .. `LEVELS`.

    Returns
    -------
    kept
        ``(*S)`` uint32, 0 to 65535.
    """
    return np.multiply(values, values > threshold, dtype=np.uint32)


def _extend(values: NDArray[np.uint32], labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Extend the objects that are kept over the pixels of `values` connected to them, and drop the others."""
    if kept.all() and np.array_equal(values > 0, labels > 0):
        return labels
    numbers = np.arange(len(kept) + 1, dtype=np.int32) * np.concatenate([[False], kept])
    seeds = np.take(numbers, labels)
    extended = flood(values, seeds=seeds)[0]
    # A component without a kept object got a label of its own in the flood: only labels of kept pixels stay.
    stays = np.zeros(int(extended.max(initial=0)) + 1, np.int32)
    stays[extended[seeds > 0]] = 1
    return np.take(np.cumsum(stays, dtype=np.int32) * stays, extended)


def finish_contacts(
    labels: NDArray[np.int32],
    values: NDArray[np.uint16],
    choice: ObjectSettings,
    sizes: Sequence[float],
    origin: Sequence[int] = (),
) -> NDArray[np.int32]:
    """Close the gaps between objects, and with ``contacts="valley"`` remove teeth of one pixel where objects touch.

    With ``"valley"`` a gap is what a morphological closing of all objects by a box of ``2 grow_px + 1`` pixels adds, as
    far as the box around a pixel holds two objects: the ends of a gap do not protrude. Its pixels are assigned in
    layers, from all sides: a pixel joins that object, among those at its faces, whose probabilities in the 3 x 3 (x 3)
    pixels around it have the largest sum. Teeth are removed in two rounds (`septum.arrays._outlines.trim_teeth`). All
    objects remain connected. A pixel of the result depends only on pixels within `contacts_reach`.

    Parameters
    ----------
    labels
        ``(*S)`` int32 (or int64), 0 background.
    values
        ``(*S)`` uint16, 0 to 65535, from `quantize`.
    choice
        `grow_px` and `contacts` are used.
    sizes
        Pixel size along each axis in pixels of the finest.
    origin
        Place of the first pixel in the image, in pixels; empty: the first pixel of the image.

    Returns
    -------
    labels
        ``(*S)`` int32 (or int64), 0 background.
    """
    if choice.contacts == "steps":
        return close_gaps(labels, choice.grow_px, sizes)
    if int(labels.max(initial=0)) < 2:
        return labels
    from septum.arrays import _outlines as loops

    windows = pixels_within(choice.grow_px, sizes)
    gap, first = _find_gaps(labels, windows), 3 - labels.ndim
    sides = (1,) * first + labels.shape
    divided = labels.reshape(sides).copy()
    if max(windows) > 0:
        reach = (0,) * first + tuple(min(1, window) for window in windows)
        loops.divide_gaps(divided, values.reshape(sides), np.flatnonzero(gap), reach, sum(windows))
    loops.trim_teeth(divided, gap.view(np.uint8).reshape(sides), sum(origin) % 2, first, _ROUNDS)
    return divided.reshape(labels.shape)


def contacts_reach(choice: ObjectSettings, sizes: Sequence[float]) -> tuple[int, ...]:
    """Return how far around a pixel `finish_contacts` looks along each axis, in pixels."""
    if choice.contacts == "steps":
        return close_gaps_reach(choice.grow_px, sizes)
    windows = pixels_within(choice.grow_px, sizes)
    return tuple(2 * window + min(1, window) * sum(windows) + 2 * _ROUNDS for window in windows)


def _find_gaps(labels: NDArray[np.int32], windows: Sequence[int]) -> NDArray[np.bool_]:
    """Flag the background pixels between two objects that a closing of all objects adds; ``(*S)`` bool."""
    from scipy.ndimage import maximum_filter, minimum_filter

    if max(windows) == 0:
        return np.zeros(labels.shape, bool)
    box = tuple(2 * window + 1 for window in windows)
    padded = np.pad(labels, [(window, window) for window in windows])  # beyond the image lies background
    highest = maximum_filter(padded, box, mode="constant")
    lowest = minimum_filter(np.where(padded > 0, padded, np.iinfo(labels.dtype).max), box, mode="nearest")
    closed = minimum_filter((highest > 0).view(np.uint8), box, mode="nearest")
    gap = (padded == 0) & (highest > lowest) & (closed > 0)
    inner = tuple(slice(window, window + side) for window, side in zip(windows, labels.shape, strict=True))
    return np.ascontiguousarray(gap[inner])
