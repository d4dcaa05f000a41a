"""Tiles of labels at coarser levels: every 2^L-th pixel, never a mean of ids."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from septum.studio.label_store import LabelStore, Plane
from septum.studio.tile_grid import SIDE, Place, empty_tile

_CACHED = 64


class LabelLevels:
    """Coarser tiles of a store; those above a changed tile are made anew.

    Parameters
    ----------
    store
        The labels.
    """

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self._cache: OrderedDict[tuple[int, int, Place], tuple[int, NDArray[np.int32]]] = OrderedDict()

    def tile(self, plane: Plane, level: int, place: Place) -> tuple[NDArray[np.int32], int]:
        """Return a tile and its version.

        Returns
        -------
        labels
            ``(SIDE, SIDE)`` int32 labels: ids of 1 and more, 0 background, -1 not annotated.
        version
            At level 0 the version of the tile; else the number of changes below it.
        """
        if level == 0:
            return self._store.tile(plane, place), self._store.version(plane, place)
        below = {p: v for p, v in self._store.versions(plane).items() if (p[0] >> level, p[1] >> level) == place}
        return self._make(plane, level, place, below), sum(below.values())

    def _make(self, plane: Plane, level: int, place: Place, below: dict[Place, int]) -> NDArray[np.int32]:
        if not below:
            return empty_tile()
        if level == 0:
            return self._store.tile(plane, place)
        key, version = (plane.id, level, place), sum(below.values())
        cached = self._cache.get(key)
        if cached is not None and cached[0] == version:
            return cached[1]
        array, half = empty_tile(), SIDE // 2
        for dy in (0, 1):
            for dx in (0, 1):
                inner, shift = (2 * place[0] + dy, 2 * place[1] + dx), level - 1
                part = {p: v for p, v in below.items() if (p[0] >> shift, p[1] >> shift) == inner}
                if part:
                    fine = self._make(plane, level - 1, inner, part)
                    array[dy * half : (dy + 1) * half, dx * half : (dx + 1) * half] = fine[::2, ::2]
        self._cache[key] = (version, array)
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return array
