"""Parts of one block of plain values in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.io.decoded import DAMAGE, Affine, damaged
from septum.io.opened import Opened


def plain_reader(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, offset: int, order: Literal["C", "F"] = "C"
) -> Callable[[tuple[slice, ...]], NDArray[Any]]:
    """Return a function that reads a part of an array of `shape` whose values begin at `offset` of the file."""

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        # Mapped for this part alone: pages of a lasting map would count as memory of the process, up to the whole file.
        try:
            whole = np.memmap(path, dtype, "r", offset=offset, shape=shape, order=order)
            return np.array(whole[index])
        except DAMAGE as error:
            raise damaged(path, "image", error) from error

    return read


def open_plain(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    offset: int,
    order: Literal["C", "F"],
    axes: str,
    pixel_size_um: Mapping[str, float] | None = None,
    affine: Affine | None = None,
) -> Opened:
    """Open an array whose values lie in the file as they are; the caller has checked that the file holds them all."""
    return Opened(
        shape=shape,
        dtype=dtype,
        axes=axes,
        read=plain_reader(path, shape, dtype, offset=offset, order=order),
        chunks=tuple(n if i == (0 if order == "F" else len(shape) - 1) else 1 for i, n in enumerate(shape)),
        pixel_size_um=pixel_size_um or {},
        affine=affine,
    )
