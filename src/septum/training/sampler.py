"""Where training tiles are drawn, and the share of each class in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.arrays.targets import IGNORE_INDEX
from septum.threads import map_in_threads
from septum.training.plan import Plan
from septum.training.prepare import Prepared

SHARES_FROM = 16
"""Most blocks from which `class_shares` are computed; an image that is no larger is one block."""

# Of large blocks fewer are used, with about this number of pixels in all, but no fewer than half of the most.
_SHARES_PX = SHARES_FROM << 18

# An image is sparsely annotated if its share of annotated pixels is lower; its tiles are drawn around at most this many
# of them.
_SPARSE, _KNOWN_PLACES = 0.5, 4096


class Sampler:
    """Draws the places of training tiles.

    ``"uniform"``, and half of the tiles of ``"objects"``: anywhere in an image; in a sparsely annotated image around an
    annotated pixel. The other half of ``"objects"``: draw a class (the objects, or one of the classes), an image with
    it, a pixel of it, and where this pixel lies in the tile; the rarest class and the smallest object are drawn as
    often as any other. ``"density"``: anywhere, rejecting ignored pixels, and background with probability 0.9.

    Parameters
    ----------
    images
        All training images.
    plan
        Gives the sampler and the size of the tiles.
    """

    def __init__(self, images: Sequence[Prepared], plan: Plan) -> None:
        self._images = images
        self._plan = plan
        self._half = np.asarray(plan.output) / 2
        self.probabilities = draw_probabilities(images, plan)
        self._known: dict[int, NDArray[np.int32]] = {}
        self._holders: list[tuple[int, NDArray[np.intp], NDArray[np.float64]]] = []
        for value in sorted({value for image in images for value in image.values}):
            holders = np.flatnonzero([value in image.values for image in images])
            weights = self.probabilities[holders]
            self._holders.append((value, holders, weights / weights.sum()))

    def draw(self, rng: np.random.Generator) -> tuple[int, NDArray[np.float64]]:
        """Draw the image and the tile center of one training tile.

        Parameters
        ----------
        rng
            Random generator of the tile.

        Returns
        -------
        index
            Index of the image.
        center
            ``(D,)`` float64, pixel coordinates of the center of the tile in the image; may lie outside it.
        """
        if self._plan.sampler == "objects" and rng.random() < 0.5 and self._holders:
            value, holders, probabilities = self._holders[int(rng.integers(len(self._holders)))]
            index = int(holders[rng.choice(len(holders), p=probabilities)])
            places = [p.pixels for p in self._images[index].places if p.value == value]
            pixels = places[int(rng.integers(len(places)))]
            # At a random place of the output, not always in its center.
            return index, pixels[int(rng.integers(len(pixels)))] + rng.uniform(-self._half, self._half)
        index = int(rng.choice(len(self._images), p=self.probabilities))
        image = self._images[index]
        shape = np.asarray(image.shape)
        if self._plan.sampler != "density" and 0 < image.annotated < _SPARSE * shape.prod():
            known = self._known_pixels(index)
            return index, known[int(rng.integers(len(known)))] + rng.uniform(-self._half, self._half)
        anywhere = rng.uniform(-0.5, shape - 0.5)
        if self._plan.sampler == "density":
            for _ in range(1000):
                there = image.target[tuple(np.rint(anywhere).astype(int).clip(0, shape - 1))]
                if there != IGNORE_INDEX and (there > 0 or rng.random() < 0.1):
                    break
                anywhere = rng.uniform(-0.5, shape - 0.5)
        return index, anywhere

    def _known_pixels(self, index: int) -> NDArray[np.int32]:
        """Draw annotated pixels of a sparsely annotated image, the first time that it is needed."""
        if index not in self._known:
            target = self._images[index].target
            known = np.flatnonzero(target != IGNORE_INDEX)
            draw = seeding.generator(0, "known", index)
            drawn = known[draw.integers(0, len(known), min(_KNOWN_PLACES, len(known)))]
            self._known[index] = np.stack(np.unravel_index(drawn, target.shape), axis=1).astype(np.int32)
        return self._known[index]


def draw_probabilities(images: Sequence[Prepared], plan: Plan) -> NDArray[np.float64]:
    """Compute the probability to draw each image: proportional to the number of tiles that cover it.

    Returns
    -------
    ndarray
        ``(n,)`` float64 in 0..1, sum 1.
    """
    tiles = count_tiles(images, plan)
    probabilities: NDArray[np.float64] = tiles / tiles.sum()
    return probabilities


def count_tiles(images: Sequence[Prepared], plan: Plan) -> NDArray[np.float64]:
    """Count the tiles that cover the annotated part of each image.

    Returns
    -------
    ndarray
        ``(n,)`` float64 >= 1.
    """
    counts = []
    for image in images:
        tiles = np.prod([-(-n // o) for n, o in zip(image.shape, plan.output, strict=True)])
        counts.append(max(1.0, tiles * image.annotated / math.prod(image.shape)))
    return np.asarray(counts, dtype=np.float64)


def class_shares(images: Sequence[Prepared], classes: int) -> NDArray[np.float64]:
    """Compute the share of each class in the weight of the pixels.

    They are the probabilities that, predicted everywhere, have the lowest weighted cross entropy. Of many or large
    images at most `SHARES_FROM` blocks count, evenly spread, so that a training begins before all weights are computed;
    a class that is in none of them has the share of its annotated pixels.

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
    every = [(image, block) for image in images if image.counted for block in image.blocks]
    pixels = sum(math.prod(image.shape) for image in images if image.counted)
    number = min(len(every), SHARES_FROM, max(SHARES_FROM // 2, _SHARES_PX * len(every) // pixels))
    chosen = ((np.arange(number) + 0.5) * len(every) / number).astype(int)

    def weigh(place: int) -> NDArray[np.float64]:
        image, block = every[place]
        _, target, weight = image.arrays(block)
        sums = np.bincount(target[block].ravel(), weight[block].ravel(), minlength=IGNORE_INDEX + 1)
        return sums.astype(np.float64)

    weights = np.sum(map_in_threads(weigh, chosen.tolist()), axis=0)[:classes]
    counts = np.sum(
        [np.pad(image.counts, (0, classes - len(image.counts))) for image in images if image.counted], axis=0
    )
    known = np.maximum(np.where(weights > 0, weights, weights.sum() * counts / max(1, counts.sum())), 1.0)
    shares: NDArray[np.float64] = known / known.sum()
    return shares
