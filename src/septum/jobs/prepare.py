"""Make samples ready for drawing tiles: normalize, target, weight map, once per image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.arrays.normalize import normalize, statistics
from septum.arrays.targets import class_target, components, object_target, separate
from septum.arrays.weightmap import class_balance, fiji_weight_map, weight_map
from septum.axes import relative_spacing

if TYPE_CHECKING:
    from septum.jobs.load import Sample
    from septum.jobs.plan import Plan

# So many places per object, and per class, are remembered to draw tiles around.
_PLACES_PER_OBJECT, _PLACES_PER_CLASS = 8, 256


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
        For each object (or class) ``(m, D) int32`` pixels of it.
    spacing
        Pixel size per axis relative to the smallest; None where unknown.
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    places: tuple[NDArray[np.int32], ...]
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
    labels = [separate(s.mask) if kind == "objects" else s.mask for s in samples]
    counts = np.zeros(classes, dtype=np.int64)
    for mask in labels:
        target = object_target(mask) if kind == "objects" else class_target(mask)
        counts += np.bincount(target[target != 255], minlength=classes)[:classes]
    balance = class_balance(counts, cap=plan.weights.balance)
    for number, (sample, mask) in enumerate(zip(samples, labels, strict=True)):
        target = object_target(mask) if kind == "objects" else class_target(mask)
        objects = mask
        if kind == "classes":
            objects = np.where(mask < 0, mask, components(mask == 1)) if classes == 2 else np.minimum(mask, 1)
        spacing = relative_spacing(sample.spacing_um)
        yield Prepared(
            image=normalize(sample.image, statistics(sample.image, plan.normalization)),
            target=target,
            weight=_weight(objects.astype(np.int32), target, balance, plan, spacing),
            places=_places(mask, target if kind == "classes" else None, number),
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


def _places(mask: NDArray[np.int32], classes: NDArray[np.uint8] | None, number: int) -> tuple[NDArray[np.int32], ...]:
    """Return pixels of each object, or of each class, drawn once with a seed of their own."""
    draw = seeding.generator(0, "places", number)
    if classes is not None:
        values, most = [v for v in np.unique(classes) if v != 255], _PLACES_PER_CLASS
        found = [np.flatnonzero(classes == v) for v in values]
    else:
        most = _PLACES_PER_OBJECT
        flat = mask.reshape(-1)
        order = np.argsort(flat, kind="stable")
        order = order[np.searchsorted(flat[order], 1) :]
        found = np.split(order, np.flatnonzero(np.diff(flat[order])) + 1) if len(order) else []
    chosen = [f[draw.integers(0, len(f), min(most, len(f)))] for f in found]
    return tuple(np.stack(np.unravel_index(c, mask.shape), axis=1).astype(np.int32) for c in chosen)


def draw_place(
    images: Sequence[Prepared], plan: Plan, rng: np.random.Generator, chances: NDArray[np.float64]
) -> tuple[int, NDArray[np.float64]]:
    """Draw the image and the tile center of one training tile.

    Parameters
    ----------
    images
        All training images.
    plan
        Says how to draw.
    rng
        The sample's generator.
    chances
        ``(N,)`` chance of each image, sum 1.

    Returns
    -------
    index, center
        The image, and ``(D,) float64`` pixel coordinates of the tile's center in it.
    """
    index = int(rng.choice(len(images), p=chances))
    image = images[index]
    shape = np.asarray(image.target.shape)
    anywhere = rng.uniform(-0.5, shape - 0.5)
    if plan.sampler == "objects" and rng.random() < 0.5 and image.places:
        places = image.places[int(rng.integers(len(image.places)))]
        pixel = places[int(rng.integers(len(places)))]
        # The object lands at a random place of the output, never always in its middle.
        half = np.asarray(plan.output) / 2
        return index, pixel + rng.uniform(-half, half)
    if plan.sampler == "density":
        for _ in range(1000):
            known = image.target[tuple(np.rint(anywhere).astype(int).clip(0, shape - 1))]
            if known != 255 and (known > 0 or rng.random() < 0.1):
                break
            anywhere = rng.uniform(-0.5, shape - 0.5)
    return index, anywhere


def image_chances(images: Sequence[Prepared], plan: Plan) -> NDArray[np.float64]:
    """Return the chance of each image: as many parts as tiles cover it, so that large images are seen more often."""
    parts = [np.prod([-(-n // o) for n, o in zip(p.target.shape, plan.output, strict=True)]) for p in images]
    chances: NDArray[np.float64] = np.asarray(parts, dtype=np.float64)
    chances /= chances.sum()
    return chances


def fingerprints(samples: Sequence[Sample]) -> dict[str, str]:
    """Return a hash of all that training and scoring take from each sample, by its name."""
    found = {}
    for sample in samples:
        said = f"{sample.group!r} {sample.position} {sample.spacing_um} {sample.image.shape} {sample.mask.shape}"
        digest = hashlib.blake2b(said.encode(errors="surrogateescape"), digest_size=16)
        for array in (sample.image, sample.mask, *([] if sample.gold is None else [sample.gold])):
            digest.update(np.ascontiguousarray(array).data)
        found[sample.name] = digest.hexdigest()
    return found


def fingerprint(images: Mapping[str, str]) -> str:
    """Return one hash of a whole data set from the `fingerprints` of its images."""
    said = json.dumps(sorted(images.items())).encode()
    return hashlib.blake2b(said, digest_size=16).hexdigest()
