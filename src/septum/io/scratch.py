"""Arrays on the disk that a long job writes: Zarr, in shards that are each written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.errors import FileError
from septum.io.atomic import as_error, rename, sync_file, whole_file
from septum.io.formats import format_path
from septum.io.image import Index, resolve_index
from septum.io.zarr import ZarrArray, read_node
from septum.words import reason_of


class ShardedArray:
    """One Zarr array on this machine, written and read piece by piece.

    Writers that own whole shards may work side by side, in threads and in processes: every shard is one file, which
    zarr writes under another name and renames. A writer of a part of a shard reads and writes all of it, and must be
    alone.

    Parameters
    ----------
    path
        The folder of the array.
    keep_empty
        Write shards of zeros too, so that a missing file proves that a shard was not written.

    Attributes
    ----------
    shape, dtype
        Of the array.
    chunks
        Sides of a block that is compressed as one.
    shards
        Sides of a block that is stored as one file.
    """

    def __init__(self, path: Path, *, keep_empty: bool = False) -> None:
        import zarr

        self.path = path
        try:
            # Given to `open_array` itself, the setting is ignored (zarr 3.1).
            with zarr.config.set({"array.write_empty_chunks": keep_empty}):
                self._array: Any = zarr.open_array(str(path), mode="r+")
        except Exception as error:
            raise FileError(
                f"{format_path(path)}: cannot be opened to be written ({reason_of(error)})",
                "an array that Septum has begun",
                "delete it and run the command again",
            ) from error
        self.shape = tuple(int(n) for n in self._array.shape)
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        self.chunks = tuple(int(n) for n in self._array.chunks)
        self.shards = tuple(int(n) for n in (self._array.shards or self.chunks))

    @classmethod
    def create(
        cls, path: Path, shape: Sequence[int], dtype: DTypeLike, *, chunk: Sequence[int], shard: Sequence[int]
    ) -> ShardedArray:
        """Make an array of zeros, unless another process has made it meanwhile.

        Parameters
        ----------
        path
            The folder to be.
        shape, dtype
            Of the array.
        chunk
            Sides of a block that is compressed as one.
        shard
            Sides of a block that is stored as one file, multiples of `chunk`.
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
                rename(new, path)
        except OSError as error:
            if not path.exists():
                raise as_error(path, error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return ShardedArray(path)

    def write(self, index: Index, values: NDArray[Any]) -> None:
        """Write a part; whole shards where others write at the same time. It is on the disk when this returns.

        Parameters
        ----------
        index
            An integer or a slice with step 1 per axis; axes that are not named are written whole.
        values
            ``(*A)`` of the indexed part; any values of a dtype that converts to that of the array.

        Raises
        ------
        FileError
            If the disk is full or may not be written; shards are then the old or the new ones, never torn.
        """
        cuts = resolve_index(index, self.shape)
        where = tuple(slice(cut.start, cut.stop) for cut in cuts)
        stored = np.asarray(values, self.dtype).reshape([cut.stop - cut.start for cut in cuts])
        try:
            self._array[where] = stored
            for piece in self._pieces(where):
                with suppress(FileNotFoundError):  # a shard of zeros is no file
                    sync_file(piece)
        except OSError as error:
            raise as_error(self.path, error) from error

    def read(self, index: Index) -> NDArray[Any]:
        """Read a part.

        Parameters
        ----------
        index
            As for `write`.

        Returns
        -------
        ndarray
            The shape of the indexed part, dtype of the array, any values; pixels that are not written yet are 0.

        Raises
        ------
        FileError
            If a shard is damaged; it is named.
        """
        cuts = resolve_index(index, self.shape)
        where = tuple(slice(cut.start, cut.stop) for cut in cuts)
        try:
            return np.asarray(self._array[where])[tuple(cut.taken for cut in cuts)]
        except Exception:
            node = read_node(self.path)
            if node is not None and node.array is not None:
                ZarrArray(node).read(where)  # names the shard
            raise

    def missing(self) -> list[Path]:
        """Return the files of shards that are not written yet."""
        return [p for p in self._pieces(tuple(slice(0, n) for n in self.shape)) if not p.exists()]

    def _pieces(self, where: Sequence[slice]) -> list[Path]:
        spans = (range(s.start // n, -(-s.stop // n)) for s, n in zip(where, self.shards, strict=True))
        return [self.path / self._array.metadata.encode_chunk_key(cell) for cell in product(*spans)]


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a whole or not at all.

    Parameters
    ----------
    path
        The file; ends in ``.npz``.
    arrays
        By name ``(*A)`` of any shape and dtype without Python objects, any values.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict[str, Any](arrays))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays that `save_arrays` wrote, by name: the same shape and dtype, any values."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
