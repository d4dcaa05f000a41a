"""Measure how well the outlines of a mask follow the edges of its image, in each way the mask may lie on the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import quantiles
from septum.arrays.targets import UNANNOTATED, local_extreme

REACH = 3
"""Shifts of up to this many pixels are tried one by one."""

FAR = 32
"""The longest shift that is searched for, in pixels; at most a quarter of the side."""

_RESIZED_PX = (1, -1, 2, -2)  # masks are often drawn a little outside or inside of the edges; by one pixel at a time
_EQUAL = 1e-5  # of shifts whose edge strengths differ by no more than rounding, the shortest is the best
_FEWEST_PX = 50  # outline pixels; fewer give no reliable contrast
_MOST_PX = 20_000  # a regular sample of this many outline pixels is enough
_SIDE = {2: 1024, 3: 128}  # of larger images the middle part is measured


@dataclass(frozen=True)
class Placement:
    """Changes that make a mask fit its image, in this order.

    Attributes
    ----------
    order
        Axes of the mask in the order of the image's axes: ``(1, 0)`` transposes.
    flips
        Axes of the image along which the mask is mirrored.
    shift
        Pixels by which the mask is moved along the image's axes.
    """

    order: tuple[int, ...]
    flips: tuple[bool, ...]
    shift: tuple[int, ...]

    def words(self) -> str:
        """Return how the mask lies now, as a phrase: ``"transposed"``, ``"shifted by 3 pixels along Y"``."""
        names, done = "ZYX"[-len(self.order) :], list[str]()
        if self.order != tuple(range(len(self.order))):
            swapped = "transposed" if len(names) == 2 else "axes in the order " + "".join(names[a] for a in self.order)
            done.append(swapped)
        flipped = [n for n, flip in zip(names, self.flips, strict=True) if flip]
        if flipped:
            done.append("mirrored along " + " and ".join(flipped))
        moved = [
            f"{-s} {'pixel' if abs(s) == 1 else 'pixels'} along {n}"
            for n, s in zip(names, self.shift, strict=True)
            if s
        ]
        if moved:
            done.append("shifted by " + " and ".join(moved))
        return ", ".join(done)


def shift_of(y: int, x: int) -> Placement:
    """Return the placement that only moves a 2D mask, by `y` and `x` pixels."""
    return Placement((0, 1), (False, False), (y, x))


def orientations(mask: Sequence[int], image: Sequence[int]) -> Iterator[Placement]:
    """Yield the axis orders and flips that give a mask of some sides those of its image; the unchanged one is first.

    Masks of volumes are not flipped: their axes are sometimes in another order, but hardly ever reversed.
    """
    rank = len(mask)
    unmoved = (0,) * rank
    for order in permutations(range(rank)):
        if tuple(mask[a] for a in order) == tuple(image):
            for flips in product((False, True), repeat=rank) if rank == 2 else [(False,) * rank]:
                yield Placement(order, flips, unmoved)


def apply_placement(labels: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """Reorder, mirror and shift a mask so that it fits its image.

    Parameters
    ----------
    labels
        ``(*S)`` signed integers (labels) or bool.
    placement
        The changes.

    Returns
    -------
    labels
        ``(*S)`` in the sides of the image, same dtype and values; where a shift leaves no labels, integers are
        `UNANNOTATED` and bool is False.
    """
    turned = np.flip(labels.transpose(placement.order), tuple(a for a, flip in enumerate(placement.flips) if flip))
    if not any(placement.shift):
        return np.ascontiguousarray(turned)
    moved = np.full(turned.shape, False if turned.dtype == np.bool_ else UNANNOTATED, turned.dtype)
    to = tuple(slice(max(0, s), max(0, n + min(0, s))) for s, n in zip(placement.shift, turned.shape, strict=True))
    source = tuple(slice(max(0, -s), max(0, n - max(0, s))) for s, n in zip(placement.shift, turned.shape, strict=True))
    moved[to] = turned[source]
    return moved


@dataclass(frozen=True)
class BestOrientation:
    """The orientation in which a mask fits its image best; see `orientations`.

    Attributes
    ----------
    placement
        The changes that give this orientation.
    contrast
        Contrast (see `Agreement`) in this orientation.
    other
        The best contrast of all other orientations; 0 if there is none.
    """

    placement: Placement
    contrast: float
    other: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of the outlines of a mask with the edges of its image.

    Attributes
    ----------
    contrast
        Mean edge strength on the outlines over that elsewhere: about 1 if outlines and edges are unrelated.
    shift
        Pixels along (Y, X) by which the mask agrees best if moved, each within `REACH`.
    gain
        Edge strength on the outlines after this shift over that before, >= 1.
    far, far_contrast, clear
        The best shift within `FAR`, the contrast after it (if objects were resized for it, `contrast` times what the
        shift gains at their new size), and its height above the median of all shifts, in robust
        standard deviations.
    orientation
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
    orientation: BestOrientation
    separation: float


def measure_agreement(image: NDArray[Any], labels: NDArray[np.integer[Any]]) -> Agreement | None:
    """Measure how well the outlines of a 2D mask agree with the edges of its image.

    Edge strength is the difference of the largest and the smallest value among 3 x 3 pixels, 0 up to the median of the
    image and 1 from its 95th percentile, so that neither noise nor a few bright spots decide. An outline pixel has two
    labels among its 3 x 3 pixels, so the outline lies evenly on both sides of a border and is not shifted itself.

    Parameters
    ----------
    image
        ``(C, Y, X)``, any real dtype, finite.
    labels
        ``(Y, X)`` integers, any labels.

    Returns
    -------
    Agreement
        None if there are fewer than 50 outline pixels, or no edges.
    """
    middle = _middle(labels.shape)
    gray = image[(slice(None), *middle)].mean(axis=0, dtype=np.float32)
    labels = _fill_rims(labels[middle])
    edges, outline = _edges(gray), _outline(labels)
    if edges is None or np.count_nonzero(outline) < _FEWEST_PX:
        return None
    search, contrast = _Search(edges), _contrast(edges, outline)
    best, shift, gain = search.farthest(outline), *_nearest(edges, outline)
    if any(best[0]) or any(shift):
        resized, sizes = outline, {0: labels}
        for by in _RESIZED_PX:
            sizes[by] = _resize(sizes[by - np.sign(by)], grow=by > 0)
            other = _outline(sizes[by])
            if 2 * np.count_nonzero(other) > np.count_nonzero(outline):
                best, resized = max((best, resized), (search.farthest(other), other), key=lambda found: found[0][1])
        best = (best[0], best[1] * contrast / max(_contrast(edges, resized), 1e-9), best[2])
        shift, gain = _nearest(edges, resized)
    return Agreement(
        contrast=contrast,
        shift=shift,
        gain=gain,
        far=best[0],
        far_contrast=best[1],
        clear=best[2],
        orientation=_best(_contrasts(edges, outline)),
        separation=_separation(gray, labels > 0),
    )


def _nearest(edges: NDArray[np.float32], outline: NDArray[np.bool_]) -> tuple[tuple[int, int], float]:
    """Return the best shift within `REACH`, and the edge strength after it over that before."""
    places, flat, width = np.flatnonzero(outline), edges.ravel(), edges.shape[1]
    places = places[:: -(-len(places) // _MOST_PX)]
    strength = {
        (y, x): float(flat[places + (y * width + x)].mean()) for y, x in product(range(-REACH, REACH + 1), repeat=2)
    }
    best = max(strength, key=lambda shift: (strength[shift], -abs(shift[0]) - abs(shift[1])))
    return best, strength[best] / max(strength[0, 0], 1e-9)


def _resize(labels: NDArray[Any], *, grow: bool) -> NDArray[Any]:
    """Grow all objects by one pixel, or shrink them."""
    high = local_extreme(np.maximum, labels)
    if grow:
        return np.where(labels == 0, high, labels)
    labels = np.where(labels == high, labels, 0)
    return np.where(local_extreme(np.minimum, labels) == labels, labels, 0)


def _fill_rims(labels: NDArray[Any]) -> NDArray[Any]:
    """Give pixels that are not annotated, up to `REACH` from others, the labels of their nearest neighbors."""
    unknown = labels == UNANNOTATED
    if not unknown.any() or unknown.all():
        return labels
    from scipy.ndimage import distance_transform_edt

    far, nearest = distance_transform_edt(unknown, return_indices=True)
    return np.where(far <= REACH, labels[tuple(nearest)], labels)


def best_orientation(image: NDArray[Any], labels: NDArray[np.integer[Any]]) -> BestOrientation | None:
    """Find the orientation in which a mask fits its image best.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, finite, two or three spatial axes.
    labels
        ``(*S)`` integers, any labels; the sides are those of the image in some order.

    Returns
    -------
    BestOrientation
        None if the sides do not fit, there are fewer than 50 outline pixels, or no edges.
    """
    middle = _middle(image.shape[1:])
    gray = image[(slice(None), *middle)].mean(axis=0, dtype=np.float32)
    edges, contrasts = _edges(gray), []
    for placement in orientations(labels.shape, image.shape[1:]):
        outline = _outline(apply_placement(labels, placement)[middle])
        if edges is None or np.count_nonzero(outline) < _FEWEST_PX:
            return None
        contrasts.append((placement, _contrast(edges, outline)))
    return _best(contrasts) if contrasts else None


def _best(contrasts: Sequence[tuple[Placement, float]]) -> BestOrientation:
    ranked = sorted(contrasts, key=lambda f: -f[1])  # stable: of equal ones the unchanged orientation is first
    return BestOrientation(*ranked[0], ranked[1][1] if len(ranked) > 1 else 0.0)


def _middle(sides: Sequence[int]) -> tuple[slice, ...]:
    most = _SIDE[len(sides)]
    return tuple(slice(max(0, (n - most) // 2), max(0, (n - most) // 2) + most) for n in sides)


def _edges(gray: NDArray[Any]) -> NDArray[np.float32] | None:
    """Return the edge strength, 0 .. 1; None if there are no edges."""
    edges = local_extreme(np.maximum, gray) - local_extreme(np.minimum, gray)
    low, high = quantiles(edges.ravel(), (0.5, 0.95))
    return np.asarray(np.clip((edges - low) / (high - low), 0, 1), np.float32) if high > low else None


def _outline(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the outline pixels, without those that a shift within `REACH` would move out of the image.

    The border of a part that is not annotated is none.
    """
    differs = np.zeros(labels.shape, bool)
    for axis in reversed(range(labels.ndim)):
        # A window has one label if its three lines (slices) have, and their middles are equal.
        ahead, result = np.moveaxis(labels, axis, 0), np.moveaxis(differs, axis, 0)
        wide = result.copy()
        wide[:-1] |= result[1:]
        wide[1:] |= result[:-1]
        step = ahead[1:] != ahead[:-1]
        wide[:-1] |= step
        wide[1:] |= step
        result[:] = wide
    if labels.size and labels.min() == UNANNOTATED:
        differs &= local_extreme(np.minimum, labels) != UNANNOTATED
    for axis in range(differs.ndim):
        np.moveaxis(differs, axis, 0)[:REACH] = False
        np.moveaxis(differs, axis, 0)[differs.shape[axis] - REACH :] = False
    return differs


def _contrast(edges: NDArray[np.float32], outline: NDArray[np.bool_]) -> float:
    """Return the mean edge strength on the outline over that elsewhere."""
    return _ratio(edges[outline], float(edges.sum(dtype=np.float64)), edges.size)


def _contrasts(edges: NDArray[np.float32], outline: NDArray[np.bool_]) -> list[tuple[Placement, float]]:
    """Return the contrast of an outline in each orientation on the image."""
    total, places = float(edges.sum(dtype=np.float64)), np.nonzero(outline)
    placed = {  # the edges on the outline, which takes no copy
        way: np.flip(edges, tuple(a for a, flip in enumerate(way.flips) if flip)).transpose(np.argsort(way.order))
        for way in orientations(outline.shape, edges.shape)
    }
    return [(way, _ratio(back[places], total, edges.size)) for way, back in placed.items()]


def _ratio(on: NDArray[np.float32], total: float, size: int) -> float:
    """Return the mean of the edge strengths on an outline over that of the others, of `size` with the sum `total`."""
    inside, count = float(on.sum(dtype=np.float64)), len(on)
    return inside / max(count, 1) / max((total - inside) / max(size - count, 1), 1e-9)


class _Search:
    """The best shift of outlines within `FAR`, by correlation of all shifts with the same edges, ``(Y, X)``."""

    def __init__(self, edges: NDArray[np.float32]) -> None:
        from scipy import fft  # faster than the transforms of NumPy, and imported only where it is needed

        self.edges, self._fft = edges, fft
        self.reach = min(FAR, min(edges.shape) // 4)
        self.size = [fft.next_fast_len(n + self.reach, real=True) for n in edges.shape]
        self.transform = self._transformed(edges)

    def _transformed(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Return the Fourier transform of values with zeros behind."""
        return np.asarray(self._fft.rfft2(values, s=self.size))

    def farthest(self, outline: NDArray[np.bool_]) -> tuple[tuple[int, int], float, float]:
        """Return the best shift, the contrast after it, and how clearly it stands out."""
        reach, edges = self.reach, self.edges
        product = np.conj(self._transformed(outline.astype(np.float32))) * self.transform
        shifts = np.arange(-reach, reach + 1)  # of the transform back only these rows are computed
        total = self._fft.irfft(self._fft.ifft(product, axis=0)[shifts], self.size[1], axis=1)[:, shifts]
        inside = _counts_inside(outline, reach)
        strength = total / np.maximum(inside, 1)
        strength = np.where(inside > np.count_nonzero(outline) / 2, strength, 0)
        rows, columns = np.nonzero(strength >= strength.max() * (1 - _EQUAL)) - np.array(reach)
        shortest = int(np.argmin(abs(rows) + abs(columns)))
        shift = (int(rows[shortest]), int(columns[shortest]))
        middle = float(np.median(strength))
        deviation = 1.4826 * float(np.median(np.abs(strength - middle)))
        clear = (float(strength.max()) - middle) / max(deviation, 1e-9)
        # Pixels that the shift leaves without labels do not count as pixels off the outlines.
        to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, edges.shape, strict=True))
        moved = apply_placement(outline, shift_of(*shift))
        return shift, _contrast(edges[to], moved[to]), clear


def _counts_inside(outline: NDArray[np.bool_], reach: int) -> NDArray[np.int64]:
    """Count the outline pixels that stay in the image, for each shift within `reach`, ``(2 reach + 1,) * 2``."""
    size = 2 * reach + 2
    # A pixel stays inside from a first to a last shift along each axis: its counts begin and end there.
    ends = [
        (reach - np.minimum(at, reach), reach + np.minimum(side - 1 - at, reach) + 1)
        for at, side in zip(np.nonzero(outline), outline.shape, strict=True)
    ]
    changes = np.zeros(size * size, np.int64)
    for (y, x), sign in zip(product(*ends), (1, -1, -1, 1), strict=True):
        changes += sign * np.bincount(y * size + x, minlength=size * size)
    return np.asarray(changes.reshape(size, size).cumsum(axis=0).cumsum(axis=1)[:-1, :-1])


def _separation(gray: NDArray[np.float32], labeled: NDArray[np.bool_]) -> float:
    clipped = np.clip(gray, *quantiles(gray.ravel(), (0.01, 0.99)))
    share = np.count_nonzero(labeled) / labeled.size
    spread = float(clipped.std()) * float(np.sqrt(share * (1 - share)))
    above = float((clipped[labeled].astype(np.float64) - float(clipped.mean())).sum()) / labeled.size
    return above / spread if spread > 0 else 0.0


def is_rotated(image: NDArray[Any], labels: NDArray[np.integer[Any]]) -> bool:
    """Return True if a mask with Y and X swapped fits its image better rotated by 90 degrees than transposed.

    Parameters
    ----------
    image
        ``(C, Y, X)``, any real dtype, finite.
    labels
        ``(X, Y)`` integers, any labels.
    """
    wanted = measure_agreement(image, labels.T)
    ways = [measure_agreement(image, np.rot90(labels, k)) for k in (1, 3)]
    rotated = max((way.contrast for way in ways if way), default=0.0)
    return wanted is not None and rotated > 1.3 * max(wanted.contrast, 1.0)
