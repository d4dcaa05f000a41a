"""Make samples ready for drawing tiles: normalize, target, weight map, once per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.arrays.normalize import normalize, statistics
from septum.arrays.targets import IGNORE_INDEX, class_target, connected_components, object_target, separate_touching
from septum.arrays.weight_map import class_balance, fiji_weight_map, weight_map

if TYPE_CHECKING:
    from septum.check.samples import Sample
    from septum.train.plan import Plan

# So many places per object, and per class, are remembered to draw tiles around; and of so many pieces of a class, which
# none of these lies in, one each.
_PLACES_PER_OBJECT, _PLACES_PER_CLASS, _MOST_PIECES = 8, 256, 4096
# An image of which less than this share is annotated is sparse: its tiles are drawn around so many annotated pixels.
_SPARSE, _KNOWN_PLACES = 0.5, 4096


@dataclass(frozen=True)
class TilePlaces:
    """Pixels to draw tiles around: of an object (`value` 1) or of the class `value`; ``(m, D) int32``."""

    value: int
    pixels: NDArray[np.int32]


@dataclass(frozen=True)
class Prepared:
    """One image ready for training.

    Parameters
    ----------
    image
        ``(C, *S) float32``, normalized.
    target
        ``(*S) uint8``, classes, 255 ignored.
    weight
        ``(*S) float32``, w(x), 0 where ignored.
    places
        Of each object, or of each class that is there.
    spacing
        Pixel size per axis relative to the smallest; None where unknown.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    places: tuple[TilePlaces, ...]
    spacing: tuple[float, ...] | None


def prepare(samples: Sequence[Sample], plan: Plan, *, kind: str) -> Iterator[Prepared]:
    """Prepare training samples; class weights come from all of them together.

    Parameters
    ----------
    samples
        The training images.
    plan
        Says how to normalize and weigh.
    kind
        ``"objects"`` or ``"classes"``.
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


def _weight(
    objects: NDArray[np.int32],
    target: NDArray[np.uint8],
    balance: NDArray[np.float32],
    plan: Plan,
    spacing: tuple[float, ...] | None,
) -> NDArray[np.float32]:
    """Return the plan's weight map; several classes have no separation border, only the class balance."""
    if plan.weights.method == "fiji":
        return fiji_weight_map(objects, w0=plan.weights.w0, sigma_px=plan.weights.sigma_px, spacing=spacing)
    w0 = plan.weights.w0 if len(balance) == 2 else 0.0
    return weight_map(objects, target, balance, w0=w0, sigma_px=plan.weights.sigma_px, spacing=spacing)


def _places(mask: NDArray[np.int32], target: NDArray[np.uint8], kind: str, number: int) -> tuple[TilePlaces, ...]:
    """Return pixels of each object, or of each class, drawn once with a seed of their own.

    Of a class every connected piece has at least one pixel among them, so that none is too small to be reached.
    """
    draw = seeding.generator(0, "places", number)
    if kind == "objects":
        found = [(1, pixels) for pixels in _pixels_of(mask)]
        chosen = [(k, f[draw.integers(0, len(f), min(_PLACES_PER_OBJECT, len(f)))]) for k, f in found]
    else:
        chosen = []
        for value in (int(v) for v in np.unique(target) if v != IGNORE_INDEX):
            pixels = np.flatnonzero(target == value)
            some = pixels[draw.integers(0, len(pixels), min(_PLACES_PER_CLASS, len(pixels)))]
            if value > 0:
                some = np.concatenate([some, _missed(connected_components(target == value), some, draw)])
            chosen.append((value, some))
    return tuple(
        TilePlaces(k, np.stack(np.unravel_index(c, mask.shape), axis=1).astype(np.int32)) for k, c in chosen if len(c)
    )


def _pixels_of(labels: NDArray[np.int32]) -> list[NDArray[np.intp]]:
    """Return the flat indices of the pixels of each label of 1 and more."""
    flat = labels.reshape(-1)
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat[order], 1) :]
    return np.split(order, np.flatnonzero(np.diff(flat[order])) + 1) if len(order) else []


def _missed(pieces: NDArray[np.int32], places: NDArray[np.intp], draw: np.random.Generator) -> NDArray[np.intp]:
    """Return one pixel of each piece that none of `places` lies in; of many pieces, of some."""
    met = np.zeros(int(pieces.max(initial=0)) + 1, bool)
    met[pieces.reshape(-1)[places]] = True
    left = [f[int(draw.integers(len(f)))] for f in _pixels_of(np.where(met[pieces], np.int32(0), pieces))]
    return np.asarray(draw.permutation(left)[:_MOST_PIECES], np.intp)


class Sampler:
    """Where training tiles are drawn.

    ``"uniform"`` and the other half of ``"objects"``: anywhere in an image; where much is not annotated, around a pixel
    that is. ``"objects"``, half of the tiles: a class (the objects, or one of the classes), an image that holds it, a
    place of it in the image, and this at a random place of the tile: so the rarest class and the smallest object are
    drawn as often as any other.

    Parameters
    ----------
    images
        All training images.
    plan
        Says how to draw.
    """

    def __init__(self, images: Sequence[Prepared], plan: Plan) -> None:
        self._images = images
        self._plan = plan
        self.chances = image_chances(images, plan)
        self._known = [_known_pixels(image, number) for number, image in enumerate(images)]
        self._holders: list[tuple[int, NDArray[np.intp], NDArray[np.float64]]] = []
        for value in sorted({p.value for image in images for p in image.places}):
            holders = np.flatnonzero([any(p.value == value for p in image.places) for image in images])
            share = self.chances[holders]
            self._holders.append((value, holders, share / share.sum()))

    def draw(self, rng: np.random.Generator) -> tuple[int, NDArray[np.float64]]:
        """Draw the image and the tile center of one training tile.

        Parameters
        ----------
        rng
            The tile's generator.

        Returns
        -------
        index, center
            The image, and ``(D,) float64`` pixel coordinates of the tile's center in it.
        """
        half = np.asarray(self._plan.output) / 2
        if self._plan.sampler == "objects" and rng.random() < 0.5 and self._holders:
            value, holders, chances = self._holders[int(rng.integers(len(self._holders)))]
            index = int(holders[rng.choice(len(holders), p=chances)])
            places = [p.pixels for p in self._images[index].places if p.value == value]
            pixels = places[int(rng.integers(len(places)))]
            # It lands at a random place of the output, never always in its middle.
            return index, pixels[int(rng.integers(len(pixels)))] + rng.uniform(-half, half)
        index = int(rng.choice(len(self._images), p=self.chances))
        image, known = self._images[index], self._known[index]
        shape = np.asarray(image.target.shape)
        if self._plan.sampler != "density" and known is not None:
            return index, known[int(rng.integers(len(known)))] + rng.uniform(-half, half)
        anywhere = rng.uniform(-0.5, shape - 0.5)
        if self._plan.sampler == "density":
            for _ in range(1000):
                there = image.target[tuple(np.rint(anywhere).astype(int).clip(0, shape - 1))]
                if there != IGNORE_INDEX and (there > 0 or rng.random() < 0.1):
                    break
                anywhere = rng.uniform(-0.5, shape - 0.5)
        return index, anywhere


def _known_pixels(image: Prepared, number: int) -> NDArray[np.int32] | None:
    """Return some annotated pixels of a sparsely annotated image; None where most of it is annotated."""
    known = np.flatnonzero(image.target != IGNORE_INDEX)
    if not 0 < len(known) < _SPARSE * image.target.size:
        return None
    draw = seeding.generator(0, "known", number)
    some = known[draw.integers(0, len(known), min(_KNOWN_PLACES, len(known)))]
    return np.stack(np.unravel_index(some, image.target.shape), axis=1).astype(np.int32)


def image_chances(images: Sequence[Prepared], plan: Plan) -> NDArray[np.float64]:
    """Return the chance of each image: as many parts as tiles cover it, so that large images are seen more often."""
    parts = tiles_of(images, plan)
    chances: NDArray[np.float64] = parts / parts.sum()
    return chances


def tiles_of(images: Sequence[Prepared], plan: Plan) -> NDArray[np.float64]:
    """Return how many tiles cover each image; of what is not annotated none count, but each image has at least one."""
    parts = []
    for image in images:
        tiles = np.prod([-(-n // o) for n, o in zip(image.target.shape, plan.output, strict=True)])
        parts.append(max(1.0, tiles * np.count_nonzero(image.target != IGNORE_INDEX) / image.target.size))
    return np.asarray(parts, dtype=np.float64)
