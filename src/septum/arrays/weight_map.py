"""Weight of each pixel in the loss: class balance, and borders between neighboring objects (paper, equation 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from septum.arrays.targets import IGNORE_INDEX, UNANNOTATED, check_labels, connected_components, relabel_consecutive
from septum.axes import relative_spacing
from septum.errors import UsageError

if TYPE_CHECKING:
    from septum.arrays._distance import Pairs

NEGLIGIBLE = 2e-8
"""A border term below this value is set to 0: half the spacing of float32 at a weight of 0.2, invisible in any sum."""

SLAB_PIXELS = 2**20
"""Pixels searched at a time for the two nearest objects, without margins: 16 MiB of candidates."""


def border_term(
    labels: NDArray[np.integer[Any]], *, w0: float = 10.0, sigma_px: float = 5.0, spacing: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Compute the border term of the weight map: the second term of equation 2 of the paper.

    ``w0 exp(-(d1 + d2)^2 / (2 sigma^2))`` on background pixels, where `d1` and `d2` are the Euclidean distances from
    the pixel center to the nearest pixel (center) of the nearest and the second nearest object: at least 1. Inside
    objects it is 0, as in the training data that the authors' released program makes.

    Parameters
    ----------
    labels
        ``(Y, X)`` or ``(Z, Y, X)`` integers: ids of 1 and more in any order, 0 background, `UNANNOTATED`. An id in
        several pieces is one object.
    w0
        Height of the term, 0 or more. The paper uses 10.
    sigma_px
        Width of the term in pixels (of the finest axis), above 0. The paper uses about 5.
    spacing
        Pixel size along each axis in any unit; only the ratios count. None: all equal.

    Returns
    -------
    term
        ``(*S)`` float32, 0 .. `w0`. Exactly 0 inside objects, at unannotated pixels, and where the formula is below
        `NEGLIGIBLE` (``d1 + d2`` above 31.7 px at the paper's values); therefore also if there are fewer than two
        objects.

    Raises
    ------
    UsageError
        If `spacing` does not fit the axes, or `w0` or `sigma_px` is out of range.
    DataError
        If a value of `labels` is negative and not `UNANNOTATED`.
    """
    if not (w0 >= 0 and sigma_px > 0):
        raise UsageError(
            f"w0 = {w0}, sigma_px = {sigma_px}",
            "w0 of 0 or more, sigma_px above 0",
            "the published values are 10 and 5",
        )
    check_labels(labels)
    sizes = relative_spacing(spacing, labels.ndim)
    term = np.zeros(labels.shape, np.float32)
    reach = border_reach(w0, sigma_px)
    if reach == 0 or labels.size == 0:
        return term
    ids = labels if np.can_cast(labels.dtype, np.int32) else relabel_consecutive(labels)[0]
    for rows, (_, square1, _, square2) in two_nearest(np.ascontiguousarray(ids, np.int32), spacing=sizes, reach=reach):
        both = square2 < np.inf
        distances = np.sqrt(square1[both], dtype=np.float64) + np.sqrt(square2[both], dtype=np.float64)
        values = w0 * np.exp(-(distances**2) / (2 * sigma_px**2))
        term[rows][both] = np.where(distances <= reach, values, 0)
    return term


def border_reach(w0: float, sigma_px: float) -> float:
    """Return the distance in pixels up to which an object adds to the border term of a pixel; see `border_term`."""
    return sigma_px * math.sqrt(2 * math.log(w0 / NEGLIGIBLE)) if w0 > NEGLIGIBLE else 0.0


def two_nearest(
    labels: NDArray[np.int32], *, spacing: tuple[float, ...], reach: float
) -> Iterator[tuple[slice, Pairs]]:
    """Find the two nearest objects of each background pixel, in slabs of an image along its first axis.

    Parameters
    ----------
    labels
        ``(Y, X)`` or ``(Z, Y, X)`` int32, C-contiguous: object ids of 1 and more; 0 is background; pixels with a
        negative value are not objects, and no result is computed for them.
    spacing
        Pixel size along each axis, in the unit of `reach`.
    reach
        Pairs of objects whose distances add up to more need not be found.

    Yields
    ------
    rows
        The slab: a slice of the first axis.
    pairs
        ``(id1, square1, id2, square2)``, each of the slab's shape: id of the nearest object (int32) and its squared
        Euclidean distance between pixel centers (float32), and the same of the second nearest; id 0 and infinity if
        there is none within `reach`. Undefined where `labels` is not 0.
    """
    from septum.arrays import _distance as search  # imports numba

    margin = math.ceil(reach / spacing[0])
    plane = math.prod(labels.shape[1:])
    thick = max(SLAB_PIXELS // max(plane, 1), margin, 1)
    for start in range(0, labels.shape[0], thick):
        rows = slice(start, min(start + thick, labels.shape[0]))
        first, last = max(0, rows.start - margin), min(labels.shape[0], rows.stop + margin)
        rows_of_slab = labels[first:last].reshape(last - first, plane)
        pairs = search.sweep_pairs(rows_of_slab, rows.start - first, rows.stop - first, spacing[0], reach)
        shape = (rows.stop - rows.start, *labels.shape[1:])
        if labels.ndim == 3:
            # Along Y every pixel needs its pairs, also inside objects: they are candidates of the pixels along X.
            turned = _lines(pairs, shape, (0, 2, 1))
            pairs = search.scan(turned, np.zeros((len(turned[0]), shape[1]), np.int32), spacing[1], reach, False)
            pairs = _lines(pairs, (shape[0], shape[2], shape[1]), (0, 2, 1))
        lines = (-1, labels.shape[-1])
        pairs = search.scan(_lines(pairs, lines, (0, 1)), labels[rows].reshape(lines), spacing[-1], reach, True)
        yield rows, tuple(part.reshape(shape) for part in pairs)


def _lines(pairs: Pairs, shape: tuple[int, ...], order: tuple[int, ...]) -> Pairs:
    """Reshape the pairs, transpose them, and make the last axis the lines of a matrix."""
    turned = (np.ascontiguousarray(part.reshape(shape).transpose(order)) for part in pairs)
    return tuple(part.reshape(-1, part.shape[-1]) for part in turned)


def class_counts(target: NDArray[np.uint8], *, classes: int) -> NDArray[np.int64]:
    """Count the annotated pixels of each class; counts of several images may be added.

    Parameters
    ----------
    target
        ``(*S)`` uint8: classes 0 .. `classes` - 1, `IGNORE_INDEX` (255) where not annotated.
    classes
        Number of classes K, 1 or more.

    Returns
    -------
    counts
        ``(K,)`` int64, 0 or more.
    """
    return np.bincount(target.ravel(), minlength=IGNORE_INDEX + 1)[:classes].astype(np.int64)


def class_balance(counts: ArrayLike, *, cap: float = 10.0) -> NDArray[np.float32]:
    """Compute class weights from class frequencies: the term ``w_c`` of equation 2 of the paper.

    The paper does not give its formula. Here, with ``f_k`` the share of class ``k`` in the annotated pixels, a class
    counts ``r_k = min(max(f) / f_k, cap)`` times the most frequent one, and ``w_k = r_k / sum_j(f_j r_j)``, so that the
    mean weight over all annotated pixels is 1 and the learning rate means the same for any data. Without the cap (and
    with all classes present) this is ``1 / (K f_k)``.

    Parameters
    ----------
    counts
        ``(K,)`` numbers, integers or floats of 0 or more: annotated pixels of each class in the whole training set,
        from `class_counts`.
    cap
        Largest weight of a class relative to the most frequent one, 1 or more; 1 turns the balance off. Without a cap a
        class of a few pixels would dominate the loss; a class without pixels gets the cap.

    Returns
    -------
    class_weights
        ``(K,)`` float32, above 0; all 1 if nothing is annotated.
    """
    numbers = np.asarray(counts, np.float64)
    total = numbers.sum()
    if total == 0:
        return np.ones(numbers.shape, np.float32)
    share = numbers / total
    times = np.minimum(share.max() / np.maximum(share, share.max() / cap), cap)
    weights: NDArray[np.float32] = (times / (share * times).sum()).astype(np.float32)
    return weights


def weight_map(
    labels: NDArray[np.integer[Any]] | None,
    target: NDArray[np.uint8],
    class_weights: ArrayLike,
    *,
    w0: float = 10.0,
    sigma_px: float = 5.0,
    spacing: Sequence[float] | None = None,
) -> NDArray[np.float32]:
    """Compute the weight map of a training image: equation 2 of the paper, ``w_c(x) + border term``.

    Parameters
    ----------
    labels
        ``(*S)`` integers: object ids after `septum.arrays.targets.separate_touching`; `UNANNOTATED` pixels get weight
        0. None: the face-connected components of all classes but class 0 in `target`.
    target
        ``(*S)`` uint8: the classes, `IGNORE_INDEX` (255) where not annotated.
    class_weights
        ``(K,)`` floats, above 0: weight of each class, from `class_balance`.
    w0, sigma_px, spacing
        As in `border_term`.

    Returns
    -------
    weight
        ``(*S)`` float32, 0 or more; 0 where `labels` or `target` is not annotated.

    Raises
    ------
    UsageError, DataError
        As `border_term`.
    """
    objects = connected_components((target > 0) & (target != IGNORE_INDEX)) if labels is None else labels
    per_value = np.zeros(IGNORE_INDEX + 1, np.float32)
    weights = np.asarray(class_weights, np.float32)
    per_value[: len(weights)] = weights
    weight: NDArray[np.float32] = per_value[target]
    weight += border_term(objects, w0=w0, sigma_px=sigma_px, spacing=spacing)
    weight[(target == IGNORE_INDEX) | (objects == UNANNOTATED)] = 0
    return weight


def fiji_weight_map(
    labels: NDArray[np.integer[Any]],
    *,
    w0: float = 50.0,
    sigma_px: float = 6.0,
    background: float = 0.1,
    background_sigma_px: float = 10.0,
    spacing: Sequence[float] | None = None,
) -> NDArray[np.float32]:
    """Compute the weight map of the authors' Fiji plugin (Falk et al., Nature Methods 2019), which is not the paper's.

    Inside objects 1; on background ``v + (1 - v) exp(-d1^2 / (2 s1^2)) + w0 exp(-(d1 + d2)^2 / (2 sigma^2))``:
    background weighs little far from all objects and much between two. There is no class balance.

    Parameters
    ----------
    labels
        ``(*S)`` integers after `septum.arrays.targets.separate_touching`: ids, 0 background, `UNANNOTATED`.
    w0, sigma_px, spacing
        As in `border_term`, with the plugin's values.
    background
        ``v``, the weight far from all objects, 0 .. 1.
    background_sigma_px
        ``s1``, how far the weight of the background extends from an object, in pixels of the finest axis, above 0.

    Returns
    -------
    weight
        ``(*S)`` float32, 0 or more; 0 where not annotated.

    Raises
    ------
    UsageError, DataError
        As `border_term`.
    """
    import edt

    if not (0 <= background <= 1 and background_sigma_px > 0):
        raise UsageError(
            f"background = {background}, background_sigma_px = {background_sigma_px}",
            "a background weight between 0 and 1, background_sigma_px above 0",
            "the default values are 0.1 and 10",
        )
    sizes = relative_spacing(spacing, labels.ndim)
    outside = np.ascontiguousarray(labels <= 0)
    square = np.asarray(edt.edtsq(outside, anisotropy=sizes, black_border=False), np.float32)
    weight: NDArray[np.float32] = np.exp(square / np.float32(-2 * background_sigma_px**2))
    weight *= 1 - background
    weight += background
    weight[~outside] = 1
    weight += border_term(labels, w0=w0, sigma_px=sigma_px, spacing=spacing)
    weight[labels == UNANNOTATED] = 0
    return weight
