"""From the probability of foreground to objects: threshold, seeds, watershed, cleaning."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from septum.arrays.targets import components, consecutive
from septum.arrays.weightmap import relative_spacing
from septum.settings import Settings

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

    neck: Share = 0.5
    """Parts above `seed_level` are different objects if the neck between them is less than this share of the width
    of the narrower part; 0: shape is not looked at."""

    min_size_px: int = Field(default=8, ge=0)
    """Objects of fewer pixels are specks: they go, or to the neighbor from which they were divided."""

    grow_px: int = Field(default=0, ge=0, le=16)
    """Background that has two objects within this many pixels is given to them: closes the gap that the training
    target left between touching objects. Outlines that face open background stay where they are."""


def label_objects(
    foreground: NDArray[np.float32],
    *,
    threshold: float = 0.5,
    seed_level: float = 0.9,
    neck: float = 0.5,
    min_size_px: int = 8,
    grow_px: int = 0,
    spacing: Sequence[float] | None = None,
) -> NDArray[np.int32]:
    """Turn the probability of foreground into objects.

    The pixels above `threshold` are flooded (watershed on the probability) from seeds: the parts of the pixels above
    `seed_level` that are joined at most by necks. A face-connected component without a seed is one object. Then specks
    are removed, gaps are closed, and the objects numbered. The same input gives the same output on any machine.

    Parameters
    ----------
    foreground
        ``(Y, X)`` or ``(Z, Y, X)`` float32, 0 .. 1, no NaN.
    threshold, seed_level, neck, min_size_px, grow_px
        See `ObjectSettings`; `grow_px` counts pixels of the finest axis.
    spacing
        Pixel size along each axis in any unit; only the ratios count. None: all equal.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, 1 .. N objects.

    Raises
    ------
    UsageError
        If `spacing` does not fit the axes.
    """
    choice = ObjectSettings(
        threshold=threshold, seed_level=seed_level, neck=neck, min_size_px=min_size_px, grow_px=grow_px
    )
    return next(label_each(foreground, [choice], spacing=spacing))[1]


def label_each(
    foreground: NDArray[np.float32], choices: Iterable[ObjectSettings], *, spacing: Sequence[float] | None = None
) -> Iterator[tuple[ObjectSettings, NDArray[np.int32]]]:
    """Make the objects of one image with each of several settings, as `label_objects` does.

    What consecutive settings share (components, seeds, watershed) is computed once: the settings of `candidates` take
    about half the time of single calls.

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

    @lru_cache(maxsize=1)
    def pieces(threshold: float) -> NDArray[np.int32]:
        return components(foreground > threshold)

    @lru_cache(maxsize=1)
    def divided(threshold: float, seed_level: float, neck: float) -> NDArray[np.int32]:
        return _flood(foreground, pieces(threshold), _seeds(foreground > max(seed_level, threshold), neck, sizes))

    @lru_cache(maxsize=1)
    def cleaned(threshold: float, seed_level: float, neck: float, min_size_px: int) -> NDArray[np.int32]:
        return _without_specks(foreground, divided(threshold, seed_level, neck), pieces(threshold), min_size_px)

    for choice in choices:
        labels = cleaned(choice.threshold, choice.seed_level, choice.neck, choice.min_size_px)
        yield choice, consecutive(_grown(labels, choice.grow_px, sizes))[0]


def candidates(object_sizes: ArrayLike = ()) -> tuple[ObjectSettings, ...]:
    """List the settings among which tuning chooses.

    Parameters
    ----------
    object_sizes
        Sizes of the true objects of the training images in pixels, any number of them: a speck has less than a
        quarter of the size that 99 % of the objects exceed.

    Returns
    -------
    choices
        A grid of 32 settings, ordered so that neighbors share most of the work in `label_each`.
    """
    sizes = np.asarray(object_sizes, np.float64)
    smallest = float(np.quantile(sizes, 0.01)) if sizes.size else 4.0 * ObjectSettings().min_size_px
    speck = max(1, int(smallest / 4))
    grid = itertools.product((0.35, 0.5, 0.65, 0.8), (0.8, 0.95), (0.0, 0.5), (0, 1))
    return tuple(
        ObjectSettings(threshold=threshold, seed_level=seed_level, neck=neck, min_size_px=speck, grow_px=grow)
        for threshold, seed_level, neck, grow in grid
    )


def _seeds(sure: NDArray[np.bool_], neck: float, sizes: tuple[float, ...]) -> NDArray[np.int32]:
    """Divide the pixels that are surely foreground into one part per object; ``(*S)`` int32."""
    if neck == 0:
        return components(sure)
    import edt

    from septum.arrays._basins import basins

    # The border of the image is no outline: half an object is as deep as the whole. A full image has no outline
    # at all, and infinite depth.
    depth = np.asarray(edt.edt(np.ascontiguousarray(sure), anisotropy=sizes, black_border=False), np.float32)
    return basins(np.minimum(depth, np.float32(sum(sure.shape)) * max(sizes)), neck=neck)


def _flood(foreground: NDArray[np.float32], pieces: NDArray[np.int32], seeds: NDArray[np.int32]) -> NDArray[np.int32]:
    """Divide `pieces` among their `seeds`, which lie inside them; a piece with no seed stays whole; ``(*S)`` int32."""
    from skimage.segmentation import watershed

    count = int(pieces.max(initial=0))
    inside = seeds > 0
    piece_of_seed = np.zeros(int(seeds.max(initial=0)) + 1, np.int64)
    piece_of_seed[seeds[inside]] = pieces[inside]
    number = np.zeros(count + 1, np.int32)
    number[piece_of_seed] = np.arange(len(piece_of_seed))  # the only seed where there is one
    seeds_in = np.bincount(piece_of_seed, minlength=count + 1)
    seeds_in[0] = number[0] = 0
    unseeded = np.flatnonzero(seeds_in[1:] == 0) + 1
    number[unseeded] = len(piece_of_seed) + np.arange(len(unseeded))
    labels = number[pieces]
    if seeds_in.max() > 1:
        contested = (seeds_in > 1)[pieces]
        flooded = watershed(-foreground, np.where(contested, seeds, 0), mask=contested)
        labels = np.where(contested, flooded, labels).astype(np.int32)
    return labels


def _without_specks(
    foreground: NDArray[np.float32], labels: NDArray[np.int32], pieces: NDArray[np.int32], min_size_px: int
) -> NDArray[np.int32]:
    """Remove objects of fewer than `min_size_px` pixels; larger objects of the same piece take their pixels."""
    speck = np.bincount(labels.ravel(), minlength=1) < min_size_px
    speck[0] = False
    if not speck.any():
        return labels
    kept = np.where(speck[labels], np.int32(0), labels)
    shared = np.zeros(int(pieces.max()) + 1, bool)
    shared[pieces[kept > 0]] = True
    return _flood(foreground, np.where(shared[pieces], pieces, np.int32(0)), kept)


def _grown(labels: NDArray[np.int32], grow_px: int, sizes: tuple[float, ...]) -> NDArray[np.int32]:
    """Give background with two objects within `grow_px` to the nearer; of equally near ones to the higher number."""
    from scipy.ndimage import maximum_filter

    windows = [int(grow_px / size) for size in sizes]
    top = int(labels.max(initial=0))
    if max(windows) == 0 or top < 2:
        return labels
    around = [2 * window + 1 for window in windows]
    highest = maximum_filter(labels, size=around)
    lowest = top + 1 - maximum_filter(np.where(labels > 0, top + 1 - labels, 0), size=around)
    gap = (labels == 0) & (highest > lowest)
    for _ in range(max(windows)):
        nearby = maximum_filter(labels, size=[min(3, width) for width in around])
        labels = np.where(gap & (labels == 0), nearby, labels)
    return labels
