"""Do the outlines of a mask follow the edges of its image? Tells wrong pairs, shifts and turned masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.check.placement import Placement, orientations, placed

REACH = 3
"""Small shifts, of up to so many pixels, are tried by themselves."""

FAR = 32
"""The farthest shift that is looked for, in pixels; a quarter of the side at most."""

_FEWEST = 50  # outline pixels, below which nothing can be said
_MOST = 20_000  # a regular sample of so many is enough
_SIDE = {2: 1024, 3: 128}  # of larger images the middle part is looked at


@dataclass(frozen=True)
class Turned:
    """The orientation in which a mask fits best; see `septum.check.placement.orientations`.

    Attributes
    ----------
    placement
        What would have to be done.
    contrast
        As in `Agreement`, after that.
    other
        The best contrast of all other orientations, 0 if there is none.
    """

    placement: Placement
    contrast: float
    other: float


@dataclass(frozen=True)
class Agreement:
    """How well outlines and edges agree.

    Attributes
    ----------
    contrast
        Mean edge strength on the outlines over that elsewhere: about 1 where they have nothing to do with each other.
    shift
        Pixels along (Y, X) by which the mask would have to move to agree best, each within `REACH`.
    gain
        Edge strength on the outlines after that shift over that before, >= 1.
    far, far_contrast, clear
        The best shift within `FAR`, the contrast after it, and by how many deviations (from the median, of all
        shifts) it stands out.
    turned
        The best orientation.
    separation
        Correlation of brightness and being labeled, -1 .. 1.
    """

    contrast: float
    shift: tuple[int, int]
    gain: float
    far: tuple[int, int]
    far_contrast: float
    clear: float
    turned: Turned
    separation: float


def agreement(image: NDArray[Any], labels: NDArray[np.integer[Any]]) -> Agreement | None:
    """Compare outlines and edges of one 2D image.

    An edge is the difference of the largest and the smallest value among 3 x 3 pixels, 0 up to the image's median and
    1 from its 95th percentile, so that neither noise nor a few bright spots decide. Outline pixels are those with two
    labels among their 3 x 3, so the outline lies evenly on both sides of a border and is not shifted itself.

    Parameters
    ----------
    image
        ``(C, Y, X)``, finite.
    labels
        ``(Y, X)`` integers.

    Returns
    -------
    Agreement
        None if there are fewer than 50 outline pixels, or no edges.
    """
    middle = _middle(labels.shape)
    gray = image[(slice(None), *middle)].mean(axis=0, dtype=np.float32)
    labels = labels[middle]
    edges, outline = _edges(gray), _outline(labels)
    rows, columns = np.nonzero(outline)
    if edges is None or len(rows) < _FEWEST:
        return None
    far, far_contrast, clear = _farthest(edges, outline)
    step = -(-len(rows) // _MOST)
    rows, columns = rows[::step], columns[::step]
    strength = {
        (y, x): float(edges[rows + y, columns + x].mean()) for y, x in product(range(-REACH, REACH + 1), repeat=2)
    }
    best = max(strength, key=lambda shift: (strength[shift], -abs(shift[0]) - abs(shift[1])))
    return Agreement(
        contrast=_contrast(edges, outline),
        shift=best,
        gain=strength[best] / max(strength[0, 0], 1e-9),
        far=far,
        far_contrast=far_contrast,
        clear=clear,
        turned=_best([(p, _contrast(edges, placed(outline, p))) for p in orientations(outline.shape, edges.shape)]),
        separation=_separation(gray, labels > 0),
    )


def best_orientation(image: NDArray[Any], labels: NDArray[np.integer[Any]]) -> Turned | None:
    """Find the orientation in which a mask fits its image best.

    Parameters
    ----------
    image
        ``(C, *S)``, finite, two or three spatial axes.
    labels
        Integers; its sides are those of the image in some order.

    Returns
    -------
    Turned
        None if the sides do not fit, there are fewer than 50 outline pixels, or no edges.
    """
    middle = _middle(image.shape[1:])
    gray = image[(slice(None), *middle)].mean(axis=0, dtype=np.float32)
    edges, found = _edges(gray), []
    for placement in orientations(labels.shape, image.shape[1:]):
        outline = _outline(placed(labels, placement)[middle])
        if edges is None or np.count_nonzero(outline) < _FEWEST:
            return None
        found.append((placement, _contrast(edges, outline)))
    return _best(found) if found else None


def _best(found: Sequence[tuple[Placement, float]]) -> Turned:
    ranked = sorted(found, key=lambda f: -f[1])  # stable: as it is comes first
    return Turned(*ranked[0], ranked[1][1] if len(ranked) > 1 else 0.0)


def _middle(sides: Sequence[int]) -> tuple[slice, ...]:
    most = _SIDE[len(sides)]
    return tuple(slice(max(0, (n - most) // 2), max(0, (n - most) // 2) + most) for n in sides)


def _edges(gray: NDArray[Any]) -> NDArray[np.float32] | None:
    """Return edge strength 0 .. 1, None if there are no edges."""
    edges = _local(np.maximum, gray) - _local(np.minimum, gray)
    low, high = np.quantile(edges, [0.5, 0.95])
    if not high > low:
        return None
    strength: NDArray[np.float32] = np.clip((edges - low) / (high - low), 0, 1).astype(np.float32)
    return strength


def _outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the outline pixels, without those that a small shift would move out of the image."""
    outline: NDArray[np.bool_] = _local(np.maximum, labels) != _local(np.minimum, labels)
    for axis in range(outline.ndim):
        np.moveaxis(outline, axis, 0)[:REACH] = False
        np.moveaxis(outline, axis, 0)[outline.shape[axis] - REACH :] = False
    return outline


def _contrast(edges: NDArray[np.float32], outline: NDArray[np.bool_]) -> float:
    return float(edges[outline].mean() / max(float(edges[~outline].mean()), 1e-9))


def _farthest(edges: NDArray[np.float32], outline: NDArray[np.bool_]) -> tuple[tuple[int, int], float, float]:
    """Return the best shift, the contrast after it, and how it stands out; by correlation, all shifts at once."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    reach = min(FAR, min(edges.shape) // 4)
    size = [next_fast_len(n + reach, real=True) for n in edges.shape]
    mirrored = np.conj(rfft2(outline.astype(np.float32), size))
    total = irfft2(mirrored * rfft2(edges, size), size)
    inside = irfft2(mirrored * rfft2(np.ones_like(edges), size), size)
    strength = np.where(inside > np.count_nonzero(outline) / 2, total / np.maximum(inside, 1), 0)
    strength = np.roll(strength, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    row, column = np.unravel_index(int(strength.argmax()), strength.shape)
    shift = (int(row) - reach, int(column) - reach)
    middle = float(np.median(strength))
    deviation = 1.4826 * float(np.median(np.abs(strength - middle)))
    clear = (float(strength.max()) - middle) / max(deviation, 1e-9)
    # What a shift leaves without a mask is no place off the outlines.
    to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, edges.shape, strict=True))
    moved = placed(outline, Placement((0, 1), (False, False), shift))
    return shift, _contrast(edges[to], moved[to]), clear


def _separation(gray: NDArray[np.float32], labeled: NDArray[np.bool_]) -> float:
    clipped = np.clip(gray, *np.quantile(gray, [0.01, 0.99]))
    spread = float(clipped.std()) * float(labeled.std())
    return float(((clipped - clipped.mean()) * (labeled - labeled.mean())).mean()) / spread if spread > 0 else 0.0


def _local(extreme: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
    """Return the largest or smallest of 3 x 3 (x 3) pixels; slices take a tenth of the time of SciPy's filter."""
    found = np.pad(values, 1, mode="edge")
    for axis in range(values.ndim):
        ahead = np.moveaxis(found, axis, 0)
        found = np.moveaxis(extreme(extreme(ahead[:-2], ahead[1:-1]), ahead[2:]), 0, axis)
    return found


def turned(image: NDArray[Any], labels: NDArray[np.integer[Any]]) -> bool:
    """Say whether a mask with Y and X swapped fits its image better rotated by 90 degrees than transposed.

    Parameters
    ----------
    image
        ``(C, Y, X)``, finite.
    labels
        ``(X, Y)`` integers.
    """
    wanted = agreement(image, labels.T)
    ways = [agreement(image, np.rot90(labels, k)) for k in (1, 3)]
    rotated = max((way.contrast for way in ways if way), default=0.0)
    return wanted is not None and rotated > 1.3 * max(wanted.contrast, 1.0)
