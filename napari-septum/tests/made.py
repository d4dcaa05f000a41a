"""Made images, and a way to run work that is made for a thread."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import numpy as np

U = TypeVar("U")
R = TypeVar("R")


def disks(number: int, shape: tuple[int, ...] = (44, 44)) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of two touching disks, and their ids."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: shape[0], : shape[1]]
    cy, cx = rng.uniform(14, 28, 2)
    labels = np.where((y - cy) ** 2 + (x - cx) ** 2 < 49, 1, np.where((y - cy) ** 2 + (x - cx - 14) ** 2 < 49, 2, 0))
    return (100.0 * (labels > 0) + rng.normal(50, 5, shape)).astype(np.float32), labels.astype(np.int32)


def done(work: Generator[U, None, R]) -> tuple[list[U], R]:
    """Run a generator to its end; return its updates and what it returns."""
    updates = []
    while True:
        try:
            updates.append(next(work))
        except StopIteration as end:
            return updates, end.value
