"""From the probability of foreground to objects: threshold, seeds, flood, cleaning.

Every step has one answer for each image, whatever part of it is looked at: `septum.arrays.stitch` makes the same
objects of an image in blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from septum.arrays.distance import squared_depth
from septum.arrays.watershed import flood
from septum.arrays.weight_map import relative_spacing
from septum.settings import Settings

LEVELS = 2**16 - 1
"""Probabilities are made objects of in steps of one of so many."""

SEED_SHARES = (0.0, 0.15, 0.3, 0.45)
"""Values of `ObjectSettings.seed_share` among which tuning chooses."""

# Each size below which an object may be a speck is at most so many times the one before.
_SPECK_STEP = 1.25

Share = Annotated[float, Field(ge=0, le=1)]


class ObjectSettings(Settings):
    """How objects are made from the probability of foreground; tuned on validation images, stored in the model.

    The defaults were found on true masks of fluorescent nuclei and HeLa cells that were set apart, blurred and given
    correlated noise. Seeds by probability alone lose objects where the borders between touching cells are partly
    missing, seeds by shape alone divide ragged outlines (SEG of HeLa cells with 30 % of the image without borders, at
    2 px blur: 0.66 and 0.88, together 0.95); with all borders there, the two together lose nothing (0.99).
    """

    threshold: Share = 0.5
    """A pixel belongs to an object where its probability is above this."""

    seed_level: Share = 0.9
    """Objects grow from pixels above this: parts that are joined by pixels below it only are different objects."""

    seed_share: Share = 0.0
    """What fills less than this share of what is flooded from it does not count as a seed: of something dim and noisy,
    single pixels are sure by chance."""

    neck: Share = 0.5
    """Parts above `seed_level` are different objects if the neck between them is less than this share of the width
    of the narrower part; 0: shape is not looked at."""

    min_size_px: int = Field(default=8, ge=0)
    """Objects of fewer pixels are specks: they go, or to the neighbor from which they were divided."""

    grow_px: int = Field(default=0, ge=0, le=16)
    """Background that has two objects within this many pixels is given to them: closes the gap that the training
    target left between touching objects. Outlines that face open background stay where they are."""


AREAS = ObjectSettings(threshold=0.35, seed_level=0.8, neck=0.0)
"""How areas between lines are told apart where nothing was tuned: by how probable the line is, not by shape."""

IntT = TypeVar("IntT", bound=np.integer[Any])


def label_objects(
    foreground: NDArray[np.float32],
    *,
    threshold: float = 0.5,
    seed_level: float = 0.9,
    seed_share: float = 0.0,
    neck: float = 0.5,
    min_size_px: int = 8,
    grow_px: int = 0,
    spacing: Sequence[float] | None = None,
) -> NDArray[np.int32]:
    """Turn the probability of foreground into objects.

    The pixels above `threshold` are flooded (see `septum.arrays.watershed`) from seeds: the parts of the pixels above
    `seed_level` that are joined at most by necks. A face-connected component without a seed is one object. If seeds
    fill too small a share of what became of them, the image is flooded again without these. Then specks are removed,
    the objects numbered, and gaps are closed. The same input gives the same output on any machine. Probabilities are
    rounded to `LEVELS`, squares of pixel sizes as `septum.arrays.distance` says.

    Parameters
    ----------
    foreground
        ``(Y, X)`` or ``(Z, Y, X)`` float32, 0 .. 1, no NaN.
    threshold, seed_level, seed_share, neck, min_size_px, grow_px
        See `ObjectSettings`; `grow_px` counts pixels of the finest axis.
    spacing
        Pixel size along each axis in any unit; only the ratios count. None: all equal.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, 1 .. N objects, in the order in which a scan of the image meets them (before
        gaps are closed).

    Raises
    ------
    UsageError
        If `spacing` does not fit the axes, or the image has more pixels than can be flooded in one piece.
    """
    choice = ObjectSettings(
        threshold=threshold,
        seed_level=seed_level,
        seed_share=seed_share,
        neck=neck,
        min_size_px=min_size_px,
        grow_px=grow_px,
    )
    return next(label_each(foreground, [choice], spacing=spacing))[1]


def label_each(
    foreground: NDArray[np.float32], choices: Iterable[ObjectSettings], *, spacing: Sequence[float] | None = None
) -> Iterator[tuple[ObjectSettings, NDArray[np.int32]]]:
    """Make the objects of one image with each of several settings, as `label_objects` does.

    What settings share (depths, seeds, floods) is computed once: the settings of `candidates` take a third of the time
    of single calls.

    Parameters
    ----------
    foreground, spacing
        As in `label_objects`.
    choices
        Settings to try.

    Yields
    ------
    choice
        One of `choices`, in their order.
    labels
        ``(*S)`` int32.

    Raises
    ------
    UsageError
        If `spacing` does not fit the axes.
    """
    sizes = relative_spacing(spacing, foreground.ndim)
    values = levels(foreground)

    @lru_cache(maxsize=2)
    def depths(sure: int) -> NDArray[np.int32]:
        return squared_depth(values > sure, sizes)

    @lru_cache(maxsize=4)
    def seeds(sure: int, neck: float) -> NDArray[np.int32]:
        return flood(depths(sure) if neck > 0 else (values > sure).astype(np.uint32), ratio=neck**2)[0]

    @lru_cache(maxsize=1)
    def divided(threshold: int, sure: int, neck: float) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        return flood(above(values, threshold), seeds=seeds(sure, neck))

    @lru_cache(maxsize=1)
    def again(threshold: int, sure: int, neck: float, share: float) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Flood once more where seeds do not count as such."""
        labels, pixels = divided(threshold, sure, neck)
        if share == 0:
            return labels, pixels
        seeded = np.bincount(labels[seeds(sure, neck) > 0], minlength=len(pixels) + 1)
        lost = np.concatenate([[False], unsure(seeded[1:], pixels, share)])
        if not lost.any():
            return labels, pixels
        return flood(above(values, threshold), seeds=np.where(lost[labels], np.int32(0), seeds(sure, neck)))

    @lru_cache(maxsize=1)
    def cleaned(threshold: int, sure: int, neck: float, share: float, min_size_px: int) -> NDArray[np.int32]:
        labels, pixels = again(threshold, sure, neck, share)
        return _without_specks(values, labels, pixels, min_size_px)

    for choice in choices:
        threshold, sure = bounds(choice)
        labels = cleaned(threshold, sure, choice.neck, choice.seed_share, choice.min_size_px)
        yield choice, grown(labels, choice.grow_px, sizes)


def candidates(object_sizes: ArrayLike = ()) -> tuple[ObjectSettings, ...]:
    """List the settings among which tuning chooses.

    Parameters
    ----------
    object_sizes
        Sizes of the true objects in pixels, any number of them; what a speck is follows from the smallest of them.

    Returns
    -------
    choices
        A grid of 32 settings, ordered so that neighbors share most of the work in `label_each`.
    """
    speck = min_size_candidates(object_sizes)[0]
    grid = itertools.product((0.35, 0.5, 0.65, 0.8), (0.8, 0.95), (0.0, 0.5), (0, 1))
    return tuple(
        ObjectSettings(threshold=threshold, seed_level=seed_level, neck=neck, min_size_px=speck, grow_px=grow)
        for threshold, seed_level, neck, grow in grid
    )


def area_candidates(area_sizes: ArrayLike = ()) -> tuple[ObjectSettings, ...]:
    """List the settings among which tuning chooses where lines part areas, as `candidates` does for objects.

    The threshold says how far areas reach, the seed level how faint a line may be that still parts two of them.
    """
    same = AREAS.model_copy(update={"min_size_px": min_size_candidates(area_sizes)[0]})
    grid = itertools.product((0.2, 0.35, 0.5, 0.65, 0.8), (0.5, 0.6, 0.7, 0.8, 0.9, 0.95))
    return tuple(same.model_copy(update={"threshold": t, "seed_level": s}) for t, s in grid if s >= t)


def draw_boundaries(labels: NDArray[IntT]) -> NDArray[IntT]:
    """Draw lines of background, one pixel wide, where areas touch, so that no two of them do, nor by corners.

    Parameters
    ----------
    labels
        ``(*S)`` integers, 0 background.

    Returns
    -------
    labels
        ``(*S)``, 0 at pixels beside an area of a lower number, as the line is taken from one side; an area one pixel
        wide can vanish by that. A pixel depends on its direct neighbors only.
    """
    own = (labels - 1).astype(f"u{labels.itemsize}")  # background becomes the highest number there is
    lowest = own.copy()
    for axis in range(labels.ndim):
        _spread(lowest, axis, 1, np.minimum)
    lined: NDArray[IntT] = labels * (lowest == own)
    return lined


def min_size_candidates(object_sizes: ArrayLike = ()) -> list[int]:
    """List the sizes in pixels, rising, below which an object may be a speck: what is false is mostly small.

    From a quarter of the size that 99 % of the true objects exceed up to the size that 90 % do. The lowest alone left
    many specks on the held-out images of four public data sets; tuning among all raised AP50 by 0.03 to 0.14 there.
    Steps are small, so that the lowest that removes what is false takes little more: images to come may hold smaller
    true objects than these.
    """
    sizes = np.asarray(object_sizes, np.float64)
    if not sizes.size:
        return [ObjectSettings().min_size_px]
    tiny, few = np.quantile(sizes, [0.01, 0.1])
    steps = int(np.ceil(np.log(4 * few / tiny) / np.log(_SPECK_STEP)))
    return sorted({max(1, int(round(size, 6))) for size in np.geomspace(tiny / 4, few, steps + 1)})


def levels(foreground: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Round probabilities 0 .. 1 of any shape to whole numbers of 0 .. `LEVELS`."""
    scaled = np.multiply(foreground, LEVELS, dtype=np.float32)
    rounded: NDArray[np.uint16] = np.rint(scaled, out=scaled).astype(np.uint16)
    return rounded


def bounds(choice: ObjectSettings) -> tuple[int, int]:
    """Return the levels above which a pixel belongs to an object, and surely does."""
    threshold, sure = (round(share * LEVELS) for share in (choice.threshold, choice.seed_level))
    return threshold, max(threshold, sure)


def unsure(seeded: NDArray[np.int64], sizes: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Say which objects lose their seed, by how many of their pixels it has; those without a seed have none to lose."""
    lost: NDArray[np.bool_] = (seeded > 0) & (seeded < share * sizes)
    return lost


def above(values: NDArray[np.uint16], threshold: int) -> NDArray[np.uint32]:
    """Return the levels above `threshold`, 0 for others; of any shape, uint32."""
    return np.multiply(values, values > threshold, dtype=np.uint32)


def _without_specks(
    values: NDArray[np.uint16], labels: NDArray[np.int32], sizes: NDArray[np.int64], min_size_px: int
) -> NDArray[np.int32]:
    """Remove objects of fewer than `min_size_px` pixels; larger objects that they touch take their pixels."""
    large = np.concatenate([[False], sizes >= min_size_px])
    if large[1:].all():
        return labels
    kept = np.where(large, np.arange(len(large), dtype=np.int32), np.int32(0))[labels]
    merged = flood(np.where(labels > 0, values, np.uint16(0)), seeds=kept)[0]
    # What no large object reached has a number of its own: numbers of pixels that were kept stay, in their order.
    stays = np.zeros(int(merged.max(initial=0)) + 1, np.int32)
    stays[merged[kept > 0]] = 1
    return np.take(np.cumsum(stays, dtype=np.int32) * stays, merged)


def grown(labels: NDArray[np.int32], grow_px: int, sizes: Sequence[float]) -> NDArray[np.int32]:
    """Give background with two objects within `grow_px` to the nearer; of equally near ones to the higher number.

    Near is by steps through the faces of such pixels: what only corners join would be crumbs along the border.

    Parameters
    ----------
    labels
        ``(*S)`` int32.
    grow_px
        In pixels of the finest axis.
    sizes
        Pixel size along each axis in pixels of the finest.

    Returns
    -------
    labels
        ``(*S)`` int32. What is farther than `grow_reach` from a pixel does not matter to it.
    """
    windows = [int(grow_px / size) for size in sizes]
    if max(windows) == 0 or int(labels.max(initial=0)) < 2:
        return labels
    highest, lowest = labels.copy(), (labels - 1).astype(np.uint32)  # background becomes the highest number there is
    for axis, window in enumerate(windows):
        _spread(highest, axis, window, np.maximum)
        _spread(lowest, axis, window, np.minimum)
    gap = (labels == 0) & ((highest - 1).astype(np.uint32) > lowest)
    del highest, lowest
    ringed = np.pad(labels, 1)
    flat = ringed.ravel()
    left = np.flatnonzero(np.pad(gap, 1))
    strides = [stride // ringed.itemsize for stride in ringed.strides]
    steps = [step for s, w in zip(strides, windows, strict=True) if w for step in (-s, s)]
    for _ in range(sum(windows)):
        nearby = flat[left]
        for step in steps:
            np.maximum(nearby, flat[left + step], out=nearby)
        flat[left] = nearby
        left = left[nearby == 0]
    return np.ascontiguousarray(ringed[(slice(1, -1),) * labels.ndim])


def _spread(values: NDArray[Any], axis: int, window: int, choose: np.ufunc) -> None:
    """Replace each value by the chosen one of those within `window` pixels along an axis."""
    turned = np.moveaxis(values, axis, 0)
    reached = 0
    while reached < window:
        step = min(2 * reached + 1, window - reached)
        before = turned.copy()
        choose(turned[step:], before[:-step], out=turned[step:])
        choose(turned[:-step], before[step:], out=turned[:-step])
        reached += step


def grow_reach(grow_px: int, sizes: Sequence[float]) -> tuple[int, ...]:
    """Return how far `grown` looks along each axis, in pixels."""
    windows = [int(grow_px / size) for size in sizes]
    return tuple(window + min(1, window) * sum(windows) for window in windows)
