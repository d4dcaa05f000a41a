"""Small inputs of the situations that people met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

Cells = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def cells() -> Cells:
    """Return a function that makes an image of bright blobs on a dark ground, uint8, and their numbers from 1."""

    def make(seed: int, number: int = 8, side: int = 72) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:side, :side]
        ids = np.zeros((side, side), np.int32)
        while ids.max() < number:
            r = rng.uniform(4, 6)
            inside = (y - rng.uniform(8, side - 8)) ** 2 + (x - rng.uniform(8, side - 8)) ** 2 < r * r
            if not ids[inside].any():
                ids[inside] = ids.max() + 1
        bright = 40 + rng.normal(0, 6, ids.shape) + 110 * (ids > 0) * (0.7 + 0.3 * rng.random(number + 1))[ids]
        return bright.clip(0, 255).astype(np.uint8), ids

    return make


@pytest.fixture
def data(tmp_path: Path, cells: Cells) -> Callable[..., Path]:
    """Return a function that writes a data set: images as made, masks as `mask_of` returns them or writes them."""

    def make(mask_of: Callable[..., np.ndarray | None], *, count: int = 6, **kinds: int) -> Path:
        folder = tmp_path / "set"
        for role in ("images", "masks"):
            (folder / role).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            image, ids = cells(n, **kinds)
            tifffile.imwrite(folder / f"images/c{n}.tif", image)
            mask = mask_of(n, ids, folder / f"masks/c{n}")
            if mask is not None:
                tifffile.imwrite(folder / f"masks/c{n}.tif", mask, photometric="minisblack")
        return folder

    return make
