"""Make objects from foreground probabilities: threshold, seeds, watershed, removal of small objects, closing of gaps.

Each step has one exact result for an image, whatever part of it is computed at a time: `septum.arrays.stitch` makes the
same objects block by block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field

from septum.arrays.distance import squared_distance
from septum.arrays.learned import LearnedDecisions, decide
from septum.arrays.regions import Regions, regions_of_image
from septum.arrays.watershed import flood
from septum.axes import relative_spacing
from septum.settings import Settings

LEVELS = 2**16 - 1
"""Probabilities 0 .. 1 are rounded to the integers 0 .. `LEVELS` before objects are made."""

Share = Annotated[float, Field(ge=0, le=1)]
IntT = TypeVar("IntT", bound=np.integer[Any])


class ObjectSettings(Settings):
    """Settings that turn foreground probabilities into objects; tuned on validation images and stored in the model.

    The defaults were chosen on true masks of fluorescent nuclei and HeLa cells that were separated, blurred and given
    correlated noise. Seeds from probability alone lose objects where the borders between touching cells are partly
    missing; seeds from shape alone split objects with ragged outlines (SEG of HeLa cells with 30 % of the image without
    borders, at 2 px blur: 0.66 and 0.88; both together: 0.95). Where all borders are present, using both costs nothing
    (0.99).
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
    """Objects of fewer pixels are removed, or merged into the neighbor from which they were split."""

    grow_px: int = Field(default=0, ge=0, le=16)
    """Background pixels within this distance of two objects are assigned to these: this closes the gap that the
    training target left between touching objects. Outlines that face open background do not move."""

    learned: LearnedDecisions | None = None
    """Learned scores that merge the parts made by the settings above, and remove objects; None: these parts are the
    objects."""


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
    repeated without them. Then small objects are removed, the others are numbered, and gaps are closed. The result does
    not depend on the machine: probabilities are rounded to `LEVELS`, squared pixel sizes as `septum.arrays.distance`
    states.

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
        if share == 0:
            return labels, pixels
        seeded = np.bincount(labels[seeds(sure, ratio) > 0], minlength=len(pixels) + 1)
        weak = np.concatenate([[False], weak_seeds(seeded[1:], pixels, share)])
        if not weak.any():
            return labels, pixels
        kept = np.where(weak[labels], np.int32(0), seeds(sure, ratio))
        return flood(keep_above(values, threshold), seeds=kept)

    @lru_cache(maxsize=1)
    def cleaned(threshold: int, sure: int, ratio: float, share: float, min_size_px: int) -> NDArray[np.int32]:
        labels, pixels = redivided(threshold, sure, ratio, share)
        return _remove_small(values, labels, pixels, min_size_px)

    for choice in choices:
        threshold, sure = quantized_thresholds(choice)
        labels = cleaned(threshold, sure, choice.merge_ratio, choice.seed_share, choice.min_size_px)
        confidence = None
        if choice.learned is not None:
            regions = regions_of_image(labels, values, distances(threshold), sure=sure)
            numbers, confidence = decide(regions, choice.learned, labels.shape)
            labels = numbers.astype(np.int32)[labels]
        yield Labeled(choice, close_gaps(labels, choice.grow_px, sizes), confidence)


def find_regions(
    foreground: NDArray[np.float32], settings: ObjectSettings, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[np.int32], Regions]:
    """Find the parts of objects about which `ObjectSettings.learned` decides.

    Parameters
    ----------
    foreground, settings, spacing
        As for `label_objects`: ``(*S)`` float32, 0 .. 1; `learned` and `grow_px` are not used.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, 1 .. N regions in scan order.
    regions
        Their sums.
    """
    plain = settings.model_copy(update={"learned": None, "grow_px": 0})
    labels, values = label_objects(foreground, plain, spacing=spacing), quantize(foreground)
    threshold, sure = quantized_thresholds(settings)
    depths = squared_distance(values > threshold, relative_spacing(spacing, values.ndim))
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


def _remove_small(
    values: NDArray[np.uint16], labels: NDArray[np.int32], sizes: NDArray[np.int64], min_size_px: int
) -> NDArray[np.int32]:
    """Remove objects of fewer than `min_size_px` pixels; larger objects that touch them take over their pixels."""
    large = np.concatenate([[False], sizes >= min_size_px])
    if large[1:].all():
        return labels
    kept = np.where(large, np.arange(len(large), dtype=np.int32), np.int32(0))[labels]
    merged = flood(np.where(labels > 0, values, np.uint16(0)), seeds=kept)[0]
    # A component without a large object got a label of its own in the flood: only labels of kept pixels stay.
    stays = np.zeros(int(merged.max(initial=0)) + 1, np.int32)
    stays[merged[kept > 0]] = 1
    return np.take(np.cumsum(stays, dtype=np.int32) * stays, merged)


def draw_boundaries(labels: NDArray[IntT]) -> NDArray[IntT]:
    """Draw background lines, one pixel wide, so that no two areas touch, not even diagonally.

    A pixel of the result depends on its direct neighbors only.

    Parameters
    ----------
    labels
        ``(*S)`` integers: area ids, 0 background.

    Returns
    -------
    labels
        ``(*S)``, the dtype of `labels`: 0 at pixels beside an area with a lower id. The line is taken from one of the
        two areas; an area one pixel wide can vanish.
    """
    own = (labels - 1).astype(f"u{labels.itemsize}")  # unsigned wrap: background becomes the largest value
    lowest = own.copy()
    for axis in range(labels.ndim):
        _spread(lowest, axis, 1, np.minimum)
    lined: NDArray[IntT] = labels * (lowest == own)
    return lined


def close_gaps(labels: NDArray[np.int32], grow_px: int, sizes: Sequence[float]) -> NDArray[np.int32]:
    """Assign background pixels within `grow_px` of two objects to the nearer one, in a tie to the higher label.

    Distance counts steps between face neighbors inside the gap: connecting through corners would leave single pixels
    along the border. A pixel of the result depends only on pixels within `close_gaps_reach`.

    Parameters
    ----------
    labels
        ``(*S)`` int32, 0 background.
    grow_px
        In pixels of the finest axis.
    sizes
        Pixel size along each axis in pixels of the finest.

    Returns
    -------
    labels
        ``(*S)`` int32, 0 background.
    """
    windows = [int(grow_px / size) for size in sizes]
    if max(windows) == 0 or int(labels.max(initial=0)) < 2:
        return labels
    highest, lowest = (
        labels.copy(),
        (labels - 1).astype(np.uint32),
    )  # unsigned wrap: background becomes the largest value
    for axis, window in enumerate(windows):
        _spread(highest, axis, window, np.maximum)
        _spread(lowest, axis, window, np.minimum)
    gap = (labels == 0) & ((highest - 1).astype(np.uint32) > lowest)
    del highest, lowest
    ringed = np.pad(labels, 1)
    flat = ringed.ravel()
    open_pixels = np.flatnonzero(np.pad(gap, 1))
    strides = [stride // ringed.itemsize for stride in ringed.strides]
    steps = [step for s, w in zip(strides, windows, strict=True) if w for step in (-s, s)]
    for _ in range(sum(windows)):
        nearby = flat[open_pixels]
        for step in steps:
            np.maximum(nearby, flat[open_pixels + step], out=nearby)
        flat[open_pixels] = nearby
        open_pixels = open_pixels[nearby == 0]
    return np.ascontiguousarray(ringed[(slice(1, -1),) * labels.ndim])


def _spread(values: NDArray[Any], axis: int, window: int, choose: np.ufunc) -> None:
    """Replace each value by the minimum or maximum (`choose`) within `window` pixels along an axis, in place."""
    turned = np.moveaxis(values, axis, 0)
    reached = 0
    while reached < window:
        step = min(2 * reached + 1, window - reached)
        before = turned.copy()
        choose(turned[step:], before[:-step], out=turned[step:])
        choose(turned[:-step], before[step:], out=turned[:-step])
        reached += step


def close_gaps_reach(grow_px: int, sizes: Sequence[float]) -> tuple[int, ...]:
    """Return how far around a pixel `close_gaps` looks along each axis, in pixels."""
    windows = [int(grow_px / size) for size in sizes]
    return tuple(window + min(1, window) * sum(windows) for window in windows)
