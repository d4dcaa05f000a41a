"""Prepare samples for drawing tiles: normalized image, target and weight map, computed once for each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.arrays.normalize import normalize, statistics
from septum.arrays.targets import IGNORE_INDEX, class_target, connected_components, object_target, separate_touching
from septum.arrays.weight_map import class_balance, fiji_weight_map, weight_map
from septum.check.samples import Sample
from septum.settings import MaskKind
from septum.training.plan import Plan

# Pixels to draw tiles around: at most this many of each object and of each class, and one of each connected piece of a
# class that none of these lies in, for at most this many pieces.
_PLACES_PER_OBJECT, _PLACES_PER_CLASS, _MAX_PIECES = 8, 256, 4096


@dataclass(frozen=True)
class TilePlaces:
    """Pixels to draw tiles around: of one object (`value` 1) or of the class `value`; ``(n, D)`` int32 coordinates."""

    value: int
    pixels: NDArray[np.int32]


@dataclass(frozen=True)
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


def prepare(samples: Sequence[Sample], plan: Plan, *, kind: MaskKind) -> Iterator[Prepared]:
    """Prepare training samples; class weights are computed from all of them together.

    Parameters
    ----------
    samples
        The training images.
    plan
        Gives the normalization and the weight map.
    kind
        ``"objects"`` or ``"classes"``.

    Yields
    ------
    Prepared
        In the order of `samples`.
    """
    classes = plan.network.classes
    labels = [separate_touching(s.mask) if kind == "objects" else s.mask for s in samples]
    counts = np.zeros(classes, dtype=np.int64)
    for mask in labels:
        target = object_target(mask) if kind == "objects" else class_target(mask)
        counts += np.bincount(target[target != IGNORE_INDEX], minlength=classes)[:classes]
    balance = class_balance(counts, cap=plan.weights.balance)
    for number, (sample, mask) in enumerate(zip(samples, labels, strict=True)):
        target = object_target(mask) if kind == "objects" else class_target(mask)
        objects = mask
        if kind == "classes":
            objects = np.where(mask < 0, mask, connected_components(mask == 1)) if classes == 2 else np.minimum(mask, 1)
        spacing = sample.spacing_um
        yield Prepared(
            image=normalize(sample.image, statistics(sample.image, plan.normalization)),
            target=target,
            weight=_weight(objects.astype(np.int32), target, balance, plan, spacing),
            places=_places(mask, target, kind, number),
            spacing=spacing,
        )


def class_shares(images: Sequence[Prepared], classes: int) -> NDArray[np.float64]:
    """Compute the share of each class in the weight of all pixels.

    They are the probabilities that, predicted everywhere, have the lowest weighted cross entropy.

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
    weights = np.zeros(IGNORE_INDEX + 1)
    for image in images:
        weights += np.bincount(image.target.ravel(), image.weight.ravel(), minlength=IGNORE_INDEX + 1)
    known = np.maximum(weights[:classes], 1.0)
    shares: NDArray[np.float64] = known / known.sum()
    return shares


def _weight(
    objects: NDArray[np.int32],
    target: NDArray[np.uint8],
    balance: NDArray[np.float32],
    plan: Plan,
    spacing: tuple[float, ...] | None,
) -> NDArray[np.float32]:
    """Compute the weight map of a plan; more than two classes get the class balance without separation border."""
    if plan.weights.method == "fiji":
        return fiji_weight_map(objects, w0=plan.weights.w0, sigma_px=plan.weights.sigma_px, spacing=spacing)
    w0 = plan.weights.w0 if len(balance) == 2 else 0.0
    return weight_map(objects, target, balance, w0=w0, sigma_px=plan.weights.sigma_px, spacing=spacing)


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
    flat = labels.reshape(-1)
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat[order], 1) :]
    return np.split(order, np.flatnonzero(np.diff(flat[order])) + 1) if len(order) else []


def _missed_pieces(pieces: NDArray[np.int32], places: NDArray[np.intp], draw: np.random.Generator) -> NDArray[np.intp]:
    """Draw one pixel of each piece that contains none of `places`; if there are many, of `_MAX_PIECES` random ones."""
    reached = np.zeros(int(pieces.max(initial=0)) + 1, bool)
    reached[pieces.reshape(-1)[places]] = True
    missed = np.where(reached[pieces], np.int32(0), pieces)
    pixels = [p[int(draw.integers(len(p)))] for p in _pixels_of(missed)]
    return np.asarray(draw.permutation(pixels)[:_MAX_PIECES], np.intp)
