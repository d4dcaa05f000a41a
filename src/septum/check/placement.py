"""How a mask lies on its image: axes in another order, mirrored, shifted; and putting it right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED


@dataclass(frozen=True)
class Placement:
    """What has to be done with a mask so that it fits its image, in this order.

    Attributes
    ----------
    order
        Axes of the mask in the order of the image's: ``(1, 0)`` transposes.
    flips
        Axes of the image along which it is mirrored.
    shift
        Pixels by which it is moved along the image's axes.
    """

    order: tuple[int, ...]
    flips: tuple[bool, ...]
    shift: tuple[int, ...]

    def words(self) -> str:
        """Say how the mask lies now, as a phrase: ``"transposed"``, ``"shifted by 3 pixels along Y"``."""
        names = "ZYX"[-len(self.order) :]
        done = []
        if self.order != tuple(range(len(self.order))):
            swapped = "transposed" if len(names) == 2 else "axes in the order " + "".join(names[a] for a in self.order)
            done.append(swapped)
        flipped = [n for n, flip in zip(names, self.flips, strict=True) if flip]
        if flipped:
            done.append("mirrored along " + " and ".join(flipped))
        moved = [f"{-s} pixels along {n}" for n, s in zip(names, self.shift, strict=True) if s]
        if moved:
            done.append("shifted by " + " and ".join(moved))
        return ", ".join(done)


def orientations(mask: Sequence[int], image: Sequence[int]) -> Iterator[Placement]:
    """Yield the orders and flips that bring a mask of some sides to those of its image, as it is first.

    Masks of volumes are not flipped: their axes come in a wrong order, the direction along one hardly ever.
    """
    rank = len(mask)
    still = (0,) * rank
    for order in permutations(range(rank)):
        if tuple(mask[a] for a in order) == tuple(image):
            for flips in product((False, True), repeat=rank) if rank == 2 else [(False,) * rank]:
                yield Placement(order, flips, still)


def placed(labels: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """Put a mask right.

    Parameters
    ----------
    labels
        ``(*S)``, signed integers or bool.
    placement
        What to do.

    Returns
    -------
    labels
        In the image's sides and the same dtype; integers are `UNANNOTATED` where a shift leaves nothing, bool False.
    """
    turned = np.flip(labels.transpose(placement.order), tuple(a for a, flip in enumerate(placement.flips) if flip))
    if not any(placement.shift):
        return np.ascontiguousarray(turned)
    moved = np.full(turned.shape, False if turned.dtype == np.bool_ else UNANNOTATED, turned.dtype)
    to = tuple(slice(max(0, s), max(0, n + min(0, s))) for s, n in zip(placement.shift, turned.shape, strict=True))
    source = tuple(slice(max(0, -s), max(0, n - max(0, s))) for s, n in zip(placement.shift, turned.shape, strict=True))
    moved[to] = turned[source]
    return moved
