"""Prepare samples for drawing tiles: normalized image, target and weight map, computed once, when they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.arrays.normalize import normalize, statistics
from septum.arrays.targets import IGNORE_INDEX, class_target, connected_components, object_target, separate_touching
from septum.arrays.weight_map import border_reach, class_balance, class_counts, fiji_weight_map, weight_map
from septum.axes import relative_spacing
from septum.check.samples import bytes_of_pixel
from septum.pairing.sample import Sample, StoredSample, measured
from septum.settings import MaskKind
from septum.threads import map_in_threads
from septum.training.plan import Plan

Box = tuple[slice, ...]

# Sides of the blocks in which the weights of large images are computed, in pixels, by the number of axes.
_BLOCK = {2: 768, 3: 96}

# Pixels to draw tiles around: at most this many of each object and of each class, and one of each connected piece of a
# class that none of these lies in, for at most this many pieces.
_PLACES_PER_OBJECT, _PLACES_PER_CLASS, _MAX_PIECES = 8, 256, 4096


@dataclass(frozen=True)
class TilePlaces:
    """Pixels to draw tiles around: of one object (`value` 1) or of the class `value`; ``(n, D)`` int32 coordinates."""

    value: int
    pixels: NDArray[np.int32]


@dataclass(eq=False)
class Prepared:
    """One image ready for training.

    Parameters
    ----------
    image
        ``(C, *S)`` float32, normalized.
    target
        ``(*S)`` uint8, classes 0 .. K - 1, 255 where ignored.
    weight
        ``(*S)`` float32, the weight map w(x) >= 0, 0 where ignored.
    places
        Pixels to draw tiles around, of each object or of each class in the image.
    spacing
        Pixel size per axis relative to the smallest; None where unknown.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    places: tuple[TilePlaces, ...]
    spacing: tuple[float, ...] | None
    counted = True
    """Figures of all images together are computed from this one as well (`septum.pairing.sample.measured`)."""
    is_held = True
    """The arrays stay in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sides in pixels."""
        return self.target.shape

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return len(self.image)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Return the number of annotated pixels of each class, ``(n,)`` int64, 0 or more."""
        return np.bincount(self.target[self.target != IGNORE_INDEX]).astype(np.int64)

    @property
    def annotated(self) -> int:
        """Return the number of annotated pixels."""
        return int(self.counts.sum())

    @cached_property
    def values(self) -> frozenset[int]:
        """Return the values of `places`."""
        return frozenset(p.value for p in self.places)

    @property
    def blocks(self) -> list[Box]:
        """Return the parts in which the image is prepared."""
        return [tuple(slice(0, n) for n in self.shape)]

    def arrays(self, box: Box | None = None) -> tuple[NDArray[Any], ...]:
        """Return the image, the target and the weights; those outside of a box may not be computed yet.

        Parameters
        ----------
        box
            A slice for each axis; None for the whole image.

        Returns
        -------
        image, target, weight
            ``(C, *S)`` float32, normalized; ``(*S)`` uint8 classes, 255 ignored; ``(*S)`` float32 >= 0.
        """
        return self.image, self.target, self.weight


class _Counted(Prepared):
    """An image whose annotated pixels of each class, ``(K,)`` int64, are known before its arrays are made."""

    counts: NDArray[np.int64]
    _kind: MaskKind

    @cached_property
    def values(self) -> frozenset[int]:
        """Values around which tiles are drawn: the objects, or all classes of the image."""
        return frozenset(k for k in np.flatnonzero(self.counts).tolist() if k == 1 or self._kind == "classes")


class _PreparedLater(_Counted):
    """An image whose parts are computed when they are first needed: the weights block by block.

    Parameters
    ----------
    sample
        The image.
    labels
        ``(*S)`` int32: its mask, objects separated.
    counts
        ``(K,)`` int64: its annotated pixels of each class.
    plan, kind, number
        Plan, meaning of the mask, and index of the image, from which the places are drawn.
    balance
        ``(K,)`` float32, above 0: weights of the classes.
    """

    def __init__(
        self,
        sample: Sample,
        labels: NDArray[np.int32],
        counts: NDArray[np.int64],
        *,
        plan: Plan,
        kind: MaskKind,
        number: int,
        balance: NDArray[np.float32],
    ) -> None:
        self.spacing = sample.spacing_um
        self._raw, self._labels, self.counts, self._whole = sample.image, labels, counts, sample.whole
        self._plan, self._kind, self._number, self._balance = plan, kind, number, balance
        self._weight = np.empty(labels.shape, np.float32)
        self._missing, self._lock = dict(enumerate(self.blocks)), RLock()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._labels.shape

    @property
    def channels(self) -> int:
        return len(self._raw)

    @cached_property
    def image(self) -> NDArray[np.float32]:  # type: ignore[override]
        method = self._plan.normalization
        stats = statistics(self._raw, method) if self._whole is None else self._whole.statistics(method)
        self._raw = normalize(self._raw, stats)  # the raw one may go
        return self._raw

    @cached_property
    def target(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return object_target(self._labels) if self._kind == "objects" else class_target(self._labels)

    @property
    def weight(self) -> NDArray[np.float32]:  # type: ignore[override]
        return self.arrays()[2]

    @cached_property
    def places(self) -> tuple[TilePlaces, ...]:  # type: ignore[override]
        return _places(self._labels, self.target, self._kind, self._number)

    @property
    def blocks(self) -> list[Box]:
        return _blocks(self.shape, _reach(self._plan))

    def arrays(self, box: Box | None = None) -> tuple[NDArray[Any], ...]:
        with self._lock:
            image, target, _ = self.image, self.target, self._objects
        for number, block in list(self._missing.items()):
            if box is None or all(a.start < b.stop and b.start < a.stop for a, b in zip(block, box, strict=True)):
                self._weight[block] = self._weight_of(block)  # of two threads both write the same values
                self._missing.pop(number, None)
        return image, target, self._weight

    @cached_property
    def _objects(self) -> NDArray[np.int32]:
        """Labels of the objects between which the weight map draws borders."""
        if self._kind == "objects":
            return self._labels
        if self._plan.network.classes > 2:
            return np.minimum(self._labels, 1)
        return np.where(self._labels < 0, self._labels, connected_components(self._labels == 1))

    def _weight_of(self, block: Box) -> NDArray[np.float32]:
        """Compute the weight map of a plan in a block: to the bit as in the whole image."""
        sigma_px, spacing = self._plan.weights.sigma_px, self.spacing
        w0, reach = _border_height(self._plan), _reach(self._plan)
        if reach is None:
            return fiji_weight_map(self._objects, w0=w0, sigma_px=sigma_px, spacing=spacing)
        margins = [math.ceil(reach / size) for size in relative_spacing(spacing, len(block))]
        around = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(block, margins, strict=True))
        inner = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(around, block, strict=True))
        objects, target = np.ascontiguousarray(self._objects[around]), self.target[around]
        return weight_map(objects, target, self._balance, w0=w0, sigma_px=sigma_px, spacing=spacing)[inner]


class _PreparedAgain(_Counted):
    """An image whose arrays are made when they are needed, and given up when memory is needed for others.

    Parameters
    ----------
    sample
        The image, which stays in its file.
    counts
        ``(K,)`` int64, 0 or more: its annotated pixels of each class.
    make
        Makes the image anew.
    plan, kind
        Plan and meaning of the mask.
    """

    def __init__(
        self, sample: StoredSample, counts: NDArray[np.int64], make: Callable[[], Prepared], plan: Plan, kind: MaskKind
    ) -> None:
        self.spacing, self.is_held = sample.spacing_um, False
        self._sample, self.counts, self._make, self._plan, self._kind = sample, counts, make, plan, kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self._sample.sides

    @property
    def channels(self) -> int:
        return self._sample.channels

    @cached_property
    def places(self) -> tuple[TilePlaces, ...]:  # type: ignore[override]
        return self._made.places

    @property
    def target(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return self._made.target

    @property
    def blocks(self) -> list[Box]:
        return _blocks(self.shape, _reach(self._plan))

    def arrays(self, box: Box | None = None) -> tuple[NDArray[Any], ...]:
        return self._made.arrays(box)

    @property
    def _made(self) -> Prepared:
        needed = math.prod(self.shape) * bytes_of_pixel(self.channels)
        return self._sample.source.values.get(self, self._make, lambda _: needed)


def prepare(samples: Sequence[Sample], plan: Plan, *, kind: MaskKind) -> tuple[Prepared, ...]:
    """Prepare training samples; class weights are computed from all of them together.

    Weight maps, places and normalized images are computed when they are first needed, and do not depend on when. Those
    of samples that stay in their files are given up when memory is needed for others, and computed again.

    Parameters
    ----------
    samples
        The training images.
    plan
        Gives the normalization and the weight map.
    kind
        ``"objects"`` or ``"classes"``.

    Returns
    -------
    tuple of Prepared
        In the order of `samples`.
    """
    chosen = {id(sample): sample for sample in measured(samples)}

    def count(sample: Sample) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        labels = _separated(sample, kind)
        return (np.empty(0, np.int32) if isinstance(sample, StoredSample) else labels), _counts(labels, plan, kind)

    counted = dict(zip(chosen, map_in_threads(count, chosen.values()), strict=True))
    balance = class_balance(np.sum([counts for _, counts in counted.values()], axis=0), cap=plan.weights.balance)

    def later(number: int, sample: Sample) -> Prepared:
        labels, counts = counted.get(id(sample), (None, None))
        if not isinstance(sample, StoredSample):
            assert labels is not None and counts is not None
            return _PreparedLater(sample, labels, counts, plan=plan, kind=kind, number=number, balance=balance)
        known = counts if sample.source.counts is None else sample.source.counts
        assert known is not None

        def make() -> Prepared:
            return _PreparedLater(
                sample.held(), _separated(sample, kind), known, plan=plan, kind=kind, number=number, balance=balance
            )

        again = _PreparedAgain(sample, known, make, plan, kind)
        again.counted = id(sample) in chosen
        return again

    return tuple(later(number, sample) for number, sample in enumerate(samples))


def _separated(sample: Sample, kind: MaskKind) -> NDArray[np.int32]:
    """Return the mask with its objects separated, or as it is for classes; of stored samples it is kept for a while."""
    if kind == "classes" or not isinstance(sample, StoredSample):
        return sample.mask if kind == "classes" else separate_touching(sample.mask)
    key, values = ("separated", sample.name, sample.source.scale), sample.source.values
    labels: NDArray[np.int32] = values.get(key, lambda: separate_touching(sample.mask), lambda made: made.nbytes)
    return labels


def _counts(labels: NDArray[np.int32], plan: Plan, kind: MaskKind) -> NDArray[np.int64]:
    """Count the annotated pixels of each class, or of background and objects."""
    if kind == "classes":
        return class_counts(class_target(labels), classes=plan.network.classes)
    return np.array([np.count_nonzero(labels == 0), np.count_nonzero(labels > 0)])


def _blocks(shape: Sequence[int], reach: float | None) -> list[Box]:
    """Divide an image into the blocks in which its weights are computed."""
    side = max(shape) if reach is None else _BLOCK[len(shape)]
    starts = [range(0, n, side) for n in shape]
    return [
        tuple(slice(a, min(a + side, n)) for a, n in zip(corner, shape, strict=True)) for corner in product(*starts)
    ]


def _reach(plan: Plan) -> float | None:
    """Return how far the weight of a pixel depends on the objects around it, in pixels; None: on the whole image."""
    return None if plan.weights.method == "fiji" else border_reach(_border_height(plan), plan.weights.sigma_px)


def _border_height(plan: Plan) -> float:
    """Return w0 of a plan: more than two classes get the class balance without separation border."""
    return plan.weights.w0 if plan.weights.method == "fiji" or plan.network.classes == 2 else 0.0


def _places(mask: NDArray[np.int32], target: NDArray[np.uint8], kind: MaskKind, number: int) -> tuple[TilePlaces, ...]:
    """Draw pixels of each object, or of each class, with a fixed seed.

    They include at least one pixel of every connected piece of a class, so that no piece is too small to be reached.
    """
    draw = seeding.generator(0, "places", number)
    if kind == "objects":
        chosen = [(1, p[draw.integers(0, len(p), min(_PLACES_PER_OBJECT, len(p)))]) for p in _pixels_of(mask)]
    else:
        chosen = []
        for value in (int(v) for v in np.unique(target) if v != IGNORE_INDEX):
            pixels = np.flatnonzero(target == value)
            drawn = pixels[draw.integers(0, len(pixels), min(_PLACES_PER_CLASS, len(pixels)))]
            if value > 0:
                drawn = np.concatenate([drawn, _missed_pieces(connected_components(target == value), drawn, draw)])
            chosen.append((value, drawn))
    return tuple(
        TilePlaces(k, np.stack(np.unravel_index(c, mask.shape), axis=1).astype(np.int32)) for k, c in chosen if len(c)
    )


def _pixels_of(labels: NDArray[np.int32]) -> list[NDArray[np.intp]]:
    """Return the flat indices of the pixels of each label >= 1, in the order of the labels."""
    pixels = np.flatnonzero(labels > 0)
    if not len(pixels):
        return []
    owners = labels.reshape(-1)[pixels]
    if int(owners.max()) < 1 << 16:
        owners = owners.astype(np.uint16)  # sorted in linear time
    order = np.argsort(owners, kind="stable")
    return np.split(pixels[order], np.flatnonzero(np.diff(owners[order])) + 1)


def _missed_pieces(pieces: NDArray[np.int32], places: NDArray[np.intp], draw: np.random.Generator) -> NDArray[np.intp]:
    """Draw one pixel of each piece that contains none of `places`; if there are many, of `_MAX_PIECES` random ones."""
    reached = np.zeros(int(pieces.max(initial=0)) + 1, bool)
    reached[pieces.reshape(-1)[places]] = True
    missed = np.where(reached[pieces], np.int32(0), pieces)
    pixels = [p[int(draw.integers(len(p)))] for p in _pixels_of(missed)]
    return np.asarray(draw.permutation(pixels)[:_MAX_PIECES], np.intp)
