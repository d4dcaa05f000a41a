"""Prepare samples for drawing tiles: normalized image, target and weight map, computed once, when they are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from septum.check.samples import Sample
from septum.settings import MaskKind
from septum.threads import map_in_threads
from septum.training.plan import Plan

Box = tuple[slice, ...]

SHARES_FROM = 16
"""Blocks from which `class_shares` are computed; an image that is no larger is one block."""

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

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the sides in pixels."""
        return self.target.shape

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return len(self.image)

    @cached_property
    def annotated(self) -> int:
        """Return the number of annotated pixels."""
        return int(np.count_nonzero(self.target != IGNORE_INDEX))

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


class _PreparedLater(Prepared):
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
        self._raw, self._labels, self._counts = sample.image, labels, counts
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
    def annotated(self) -> int:
        return int(self._counts.sum())

    @cached_property
    def values(self) -> frozenset[int]:
        present = np.flatnonzero(self._counts).tolist()
        return frozenset(k for k in present if k == 1 or self._kind == "classes")

    @cached_property
    def image(self) -> NDArray[np.float32]:  # type: ignore[override]
        self._raw = normalize(self._raw, statistics(self._raw, self._plan.normalization))  # the raw one may go
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
        side = max(self.shape) if self._reach is None else _BLOCK[len(self.shape)]
        starts = [range(0, n, side) for n in self.shape]
        return [
            tuple(slice(a, min(a + side, n)) for a, n in zip(corner, self.shape, strict=True))
            for corner in product(*starts)
        ]

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

    @property
    def _reach(self) -> float | None:
        """How far the weight of a pixel depends on the objects around it, in pixels; None: on the whole image."""
        weights = self._plan.weights
        return None if weights.method == "fiji" else border_reach(self._w0, weights.sigma_px)

    @property
    def _w0(self) -> float:
        """More than two classes get the class balance without separation border."""
        two = self._plan.weights.method == "fiji" or len(self._balance) == 2
        return self._plan.weights.w0 if two else 0.0

    def _weight_of(self, block: Box) -> NDArray[np.float32]:
        """Compute the weight map of a plan in a block: to the bit as in the whole image."""
        sigma_px, spacing = self._plan.weights.sigma_px, self.spacing
        if self._reach is None:
            return fiji_weight_map(self._objects, w0=self._w0, sigma_px=sigma_px, spacing=spacing)
        margins = [math.ceil(self._reach / size) for size in relative_spacing(spacing, len(block))]
        around = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(block, margins, strict=True))
        inner = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(around, block, strict=True))
        objects, target = np.ascontiguousarray(self._objects[around]), self.target[around]
        return weight_map(objects, target, self._balance, w0=self._w0, sigma_px=sigma_px, spacing=spacing)[inner]


def prepare(samples: Sequence[Sample], plan: Plan, *, kind: MaskKind) -> tuple[Prepared, ...]:
    """Prepare training samples; class weights are computed from all of them together.

    Weight maps, places and normalized images are computed when they are first needed, and do not depend on when.

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
    classes = plan.network.classes

    def count(sample: Sample) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if kind == "classes":
            return sample.mask, class_counts(class_target(sample.mask), classes=classes)
        labels = separate_touching(sample.mask)
        return labels, np.array([np.count_nonzero(labels == 0), np.count_nonzero(labels > 0)])

    counted = map_in_threads(count, samples)
    balance = class_balance(np.sum([counts for _, counts in counted], axis=0), cap=plan.weights.balance)
    return tuple(
        _PreparedLater(sample, labels, counts, plan=plan, kind=kind, number=number, balance=balance)
        for number, (sample, (labels, counts)) in enumerate(zip(samples, counted, strict=True))
    )


def class_shares(images: Sequence[Prepared], classes: int) -> NDArray[np.float64]:
    """Compute the share of each class in the weight of the pixels.

    They are the probabilities that, predicted everywhere, have the lowest weighted cross entropy. Of many or large
    images `SHARES_FROM` blocks count, evenly spread, so that a training begins before all weights are computed.

    Parameters
    ----------
    images
        All training images.
    classes
        Number of classes K.

    Returns
    -------
    ndarray
        ``(K,)`` float64 in 0..1, sum about 1; a class without pixels counts as one pixel of weight 1.
    """
    every = [(image, block) for image in images for block in image.blocks]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(len(every), SHARES_FROM)).round().astype(int))

    def weigh(place: int) -> NDArray[np.float64]:
        image, block = every[place]
        _, target, weight = image.arrays(block)
        sums = np.bincount(target[block].ravel(), weight[block].ravel(), minlength=IGNORE_INDEX + 1)
        return sums.astype(np.float64)

    weights = np.sum(map_in_threads(weigh, chosen.tolist()), axis=0)
    known = np.maximum(weights[:classes], 1.0)
    shares: NDArray[np.float64] = known / known.sum()
    return shares


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
