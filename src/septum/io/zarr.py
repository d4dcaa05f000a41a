"""Zarr on this machine or another: descriptions that are checked before they are used, and arrays."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError, SeptumError
from septum.io.formats import damaged, format_path
from septum.io.remote import fetch, reaching, too_long

_LONGEST_DESCRIPTION = 16 << 20
_LARGEST_CHUNK = 2 << 30
_MOST_CHUNKS_IN_SHARD = 1 << 22
_PLAIN_TYPE = re.compile(r"[<>|][biuf]\d{1,2}")
_FILTERS = frozenset(("delta", "shuffle", "bitround", "fixedscaleoffset", "quantize", "astype"))
_COMPRESSORS = frozenset(("zstd", "gzip", "zlib", "blosc", "bz2", "lzma", "lz4"))
_CODECS = frozenset(("bytes", "transpose", "sharding_indexed", "crc32c", "zstd", "gzip", "blosc", "endian"))
# The mark of arrays of which Septum has written every chunk: a file that is missing later was lost.
COMPLETE = "every_chunk_written"


@dataclass(frozen=True)
class Node:
    """One folder of a Zarr store.

    Attributes
    ----------
    place
        A path, or a URL as `str`.
    version
        2 or 3.
    array
        The description of the array; None for a group.
    attributes
        Notes of the writer.
    """

    place: Path | str
    version: int
    array: dict[str, Any] | None
    attributes: dict[str, Any]


def read_node(place: Path | str) -> Node | None:
    """Read the description of a folder; return None if it is no part of a Zarr store.

    Raises
    ------
    FileError
        If the description is damaged, or longer than any valid one.
    """
    description = read_description(place, "zarr.json")
    if description is not None:
        if description.get("zarr_format") != 3 or description.get("node_type") not in ("array", "group"):
            raise _unsound(place, "zarr.json describes neither an array nor a group")
        attributes = description.get("attributes") or {}
        return Node(
            place, 3, description if description["node_type"] == "array" else None, _dictionary(place, attributes)
        )
    array = read_description(place, ".zarray")
    attributes = read_description(place, ".zattrs")
    if array is None and attributes is None and read_description(place, ".zgroup") is None:
        return None
    return Node(place, 2, array, attributes or {})


def read_description(place: Path | str, name: str) -> dict[str, Any] | None:
    """Read a JSON document of a folder; return None if it is missing."""
    content = _content(place, name)
    if content is None:
        return None
    try:
        return _dictionary(place, json.loads(content))
    except (ValueError, RecursionError) as error:
        raise _unsound(place, f"{name}: {type(error).__name__}: {error}") from error


def _dictionary(place: Path | str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _unsound(place, "its description is not a JSON object")
    return value


def _content(place: Path | str, name: str) -> bytes | None:
    if isinstance(place, str):
        return fetch(f"{place.rstrip('/')}/{name}", limit=_LONGEST_DESCRIPTION)
    path = place / name
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_DESCRIPTION + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileError(
            f"{format_path(path)}: cannot be read ({error.strerror})", "a file that you may read", "check its rights"
        ) from error
    if len(content) > _LONGEST_DESCRIPTION:
        raise too_long(path, path.stat().st_size, _LONGEST_DESCRIPTION)
    return content


def _unsound(place: Path | str, why: object) -> FileError:
    return damaged(place, "Zarr", why)


def child_folder(place: Path | str, name: object) -> Path | str:
    """Return the folder `name` inside `place`; raise `FileError` if it leads out of it."""
    parts = str(name).split("/")
    if not isinstance(name, str) or any(p in ("", ".", "..") or "\\" in p or ":" in p for p in parts):
        raise _outside(place, name)
    if isinstance(place, str):
        return f"{place.rstrip('/')}/{name}"
    child = place / name
    if not child.resolve().is_relative_to(place.resolve()):
        raise _outside(place, name)
    return child


def _outside(place: Path | str, name: object) -> FileError:
    return FileError(
        f"{format_path(place)}: its description names data that lie outside of it: {str(name)[:80]!r}",
        "names of folders inside",
        "do not trust this file; get it again from its author",
    )


def check_array(node: Node) -> None:
    """Refuse an array with chunks too large for any machine, or with codecs that run code or are not known."""
    meta = node.array
    assert meta is not None
    try:
        if node.version == 2:
            _check_version_2(node.place, meta)
        else:
            _check_version_3(node.place, meta)
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise _unsound(node.place, f"{type(error).__name__}: {error}") from error


def _check_version_2(place: Path | str, meta: dict[str, Any]) -> None:
    if not isinstance(meta["dtype"], str) or not _PLAIN_TYPE.fullmatch(meta["dtype"]):
        raise FileError(
            f"{format_path(place)}: values of type {str(meta['dtype'])[:80]}",
            "whole or real numbers",
            "save the image as numbers",
        )
    _check_chunk(place, meta["shape"], meta["chunks"], np.dtype(meta["dtype"]).itemsize)
    names = [f["id"] for f in meta.get("filters") or []]
    _check_known(place, names, _FILTERS)
    _check_known(place, [meta["compressor"]["id"]] if meta.get("compressor") else [], _COMPRESSORS)


def _check_version_3(place: Path | str, meta: dict[str, Any]) -> None:
    kind = meta["data_type"]
    if not isinstance(kind, str) or not re.fullmatch(r"bool|u?int(8|16|32|64)|float(16|32|64)", kind):
        raise FileError(
            f"{format_path(place)}: values of type {str(kind)[:80]}",
            "whole or real numbers",
            "save the image as numbers",
        )
    grid = meta["chunk_grid"]
    if grid["name"] != "regular":
        raise FileError(
            f"{format_path(place)}: chunk grid {grid['name']!r}", "a regular chunk grid", "save the image again"
        )
    chunk = grid["configuration"]["chunk_shape"]
    codecs = [c if isinstance(c, dict) else {"name": c} for c in meta["codecs"]]
    _check_known(place, [c["name"] for c in codecs], _CODECS)
    shards = [c for c in codecs if c["name"] == "sharding_indexed"]
    itemsize = np.dtype(kind).itemsize
    for shard in shards:
        part = shard["configuration"]["chunk_shape"]
        nested = [*shard["configuration"]["codecs"], *shard["configuration"].get("index_codecs", [])]
        _check_known(place, [c["name"] if isinstance(c, dict) else c for c in nested], _CODECS - {"sharding_indexed"})
        if math.prod(int(c) // max(1, int(p)) for c, p in zip(chunk, part, strict=True)) > _MOST_CHUNKS_IN_SHARD:
            raise _unsound(place, f"shards {chunk} of chunks {part}")
        _check_chunk(place, meta["shape"], part, itemsize)
    if not shards or len(codecs) > 1:  # else only chunks inside of shards are decoded
        _check_chunk(place, meta["shape"], chunk, itemsize)


def _check_known(place: Path | str, names: list[Any], known: frozenset[str]) -> None:
    for name in names:
        if name not in known:
            raise FileError(
                f"{format_path(place)}: its values are encoded by {str(name)[:80]!r}",
                "a common lossless codec: zstd, blosc, gzip, zlib, lz4",
                "save the image again with one of these",
            )


def _check_chunk(place: Path | str, shape: Sequence[Any], chunk: Sequence[Any], itemsize: int) -> None:
    if len(shape) != len(chunk) or any(not isinstance(n, int) or n < 1 for n in chunk):
        raise ValueError(f"chunks {chunk} of an array {shape}")
    if math.prod(chunk) * itemsize > _LARGEST_CHUNK:
        sides = " x ".join(map(str, chunk))
        raise FileError(
            f"{format_path(place)}: chunks of {sides} values ({math.prod(chunk) * itemsize:,} bytes)",
            f"chunks of at most {_LARGEST_CHUNK:,} bytes, the piece that is read at once",
            "save the image again in smaller chunks; if it is not yours, it may be forged",
        )


class ZarrArray:
    """An array that is read piece by piece. Safe from several threads.

    Parameters
    ----------
    node
        The folder of the array.

    Attributes
    ----------
    shape, dtype
        Of the array.

    Raises
    ------
    FileError
        If the description is damaged, claims chunks that no machine could read, or needs unknown codecs.
    """

    def __init__(self, node: Node) -> None:
        assert node.array is not None
        check_array(node)
        self.place = node.place
        self._array = _open_array(node)
        self.shape = tuple(int(n) for n in self._array.shape)
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        self._files = tuple(int(n) for n in (getattr(self._array, "shards", None) or self._array.chunks))

    def read(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Read a part; a missing chunk has the fill value, unless the array is marked as completely written.

        Parameters
        ----------
        index
            A slice with step 1 per dimension.

        Returns
        -------
        ndarray
            The shape of the indexed part, dtype of the array, any values.

        Raises
        ------
        FileError
            If a chunk is damaged, cut off, missing, or cannot be fetched; it is named.
        """
        try:
            return self._read(index)
        except Exception as error:
            raise self._named(index, error) from error

    def _read(self, index: tuple[slice, ...]) -> NDArray[Any]:
        with reaching(self.place) if isinstance(self.place, str) else nullcontext():
            return np.asarray(self._array[index])

    def _named(self, index: tuple[slice, ...], error: Exception) -> SeptumError:
        """Return the error that names the first unreadable chunk of those that `index` touches."""
        spans = [range(s.start // c, -(-s.stop // c)) for s, c in zip(index, self._files, strict=True)]
        for cell in product(*spans):
            bounds = zip(cell, self._files, index, strict=True)
            part = tuple(slice(max(i * c, s.start), min((i + 1) * c, s.stop)) for i, c, s in bounds)
            try:
                self._read(part)
            except SeptumError as found:
                return found
            except Exception as found:  # a codec may raise anything
                if isinstance(found, MemoryError):
                    return damaged(self.place, "image", found)
                why = " ".join(str(found).split()) or type(found).__name__
                name = self._array.metadata.encode_chunk_key(cell)
                return _unsound(f"{self.place}/{name}", why)
        return _unsound(self.place, error)


def _open_array(node: Node) -> Any:
    import zarr

    from septum.io.zarr_store import checked_store

    assert node.array is not None
    marks = node.attributes.get("septum")
    complete = isinstance(marks, dict) and bool(marks.get(COMPLETE))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of extensions that are not in the specification
            store = checked_store(node.place, node.array, node.attributes, complete)
            return zarr.open_array(store, mode="r", zarr_format=node.version)
    except SeptumError:
        raise
    except Exception as error:  # any defect of a description
        raise _unsound(node.place, error) from error
