"""Arrays on the disk that a long job works on: plain Zarr, in pieces that are each written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.errors import FileError
from septum.io.atomic import as_error, sync_file, whole_file
from septum.io.paths import format_path


class Scratch:
    """One array on the disk. Writers that own whole shards may work side by side, in several processes.

    Parameters
    ----------
    path
        The folder of an array made by `create`.
    """

    def __init__(self, path: Path) -> None:
        import zarr

        self.path = path
        self._array: Any = zarr.open_array(str(path), mode="r+")

    @classmethod
    def create(
        cls, path: Path, shape: Sequence[int], dtype: DTypeLike, *, chunk: Sequence[int], shard: Sequence[int]
    ) -> Scratch:
        """Make an array of zeros, unless another process has made it meanwhile.

        Parameters
        ----------
        chunk
            What is compressed together.
        shard
            The piece that is written at once, a multiple of `chunk`.
        """
        import zarr
        from zarr.codecs import ZstdCodec

        new = path.with_name(f"{path.name}-{secrets.token_hex(4)}.partial")
        try:
            if not path.exists():
                zarr.create_array(
                    str(new),
                    shape=tuple(shape),
                    dtype=np.dtype(dtype),
                    chunks=tuple(chunk),
                    shards=tuple(shard),
                    compressors=ZstdCodec(level=1),
                )
                new.rename(path)
        except OSError as error:
            if not path.exists():
                raise as_error(path, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return cls(path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides."""
        return tuple(self._array.shape)

    def read(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """Return a part; raise `FileError` where a piece is damaged."""
        try:
            return np.asarray(self._array[index])
        except (OSError, ValueError, RuntimeError) as error:
            raise FileError(
                f"{format_path(self.path)}: a piece cannot be read ({' '.join(str(error).split())[:200]})",
                "the pieces as they were written",
                f"delete {format_path(self.path.parent)} and run the command again",
            ) from error

    def write(self, index: tuple[int | slice, ...], values: NDArray[Any]) -> None:
        """Write a shard, or the part of it that lies in the array; it is on the disk when this returns.

        Raises
        ------
        FileError
            If the disk is full or may not be written.
        """
        cell = [
            part // side if isinstance(part, int) else part.start // side
            for part, side in zip(index, self._array.shards, strict=True)
        ]
        try:
            self._array[index] = values
            with suppress(FileNotFoundError):  # a piece of zeros is no file
                sync_file(self.path / self._array.metadata.encode_chunk_key(tuple(cell)))
        except OSError as error:
            raise as_error(self.path, error) from error


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a whole or not at all; `path` ends in ``.npz``."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict[str, Any](arrays))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
