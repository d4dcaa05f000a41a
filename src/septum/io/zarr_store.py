"""Zarr stores between zarr and a file that is not trusted: checked descriptions, bounded chunks, errors with names.

The libraries behind Zarr make as many bytes of a chunk as it claims to hold; here every decompressor gets the length
that the array allows, so that a decompression bomb ends in an error. Only public interfaces of zarr are used.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
from zarr.abc.codec import BytesBytesCodec
from zarr.registry import register_codec
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from septum.errors import FileError, SeptumError
from septum.io.formats import format_path
from septum.io.remote import filesystem, reaching

_SLACK = 1 << 16  # bytes of checksums and the like
_DECODERS: Mapping[str, Callable[..., Any]] = {
    "zstd": imagecodecs.zstd_decode,
    "gzip": imagecodecs.gzip_decode,
    "zlib": imagecodecs.zlib_decode,
    "blosc": imagecodecs.blosc_decode,
    "bz2": imagecodecs.bz2_decode,
    "lzma": imagecodecs.lzma_decode,
    "lz4": lambda data, out: imagecodecs.lz4_decode(data, header=True, out=out),
}
_BOUNDED = ("zstd", "gzip", "blosc")  # of Zarr 3
_PREFIX = "septum."


def decompress(name: str, data: bytes, shape: Iterable[int], itemsize: int) -> bytes:
    """Decompress a chunk of an array of `shape`; more bytes than the chunk can have are a `ValueError`."""
    limit = math.prod(shape) * max(itemsize, 8) + _SLACK  # filters may have made the values wider
    try:
        return bytes(_DECODERS[name](data, out=limit))
    except MemoryError:
        raise
    except Exception as error:  # imagecodecs has one class of errors per codec
        raise ValueError(f"{name}: {error}") from error


@dataclass(frozen=True)
class BoundedCodec(BytesBytesCodec):  # type: ignore[misc]
    """Decompression of Zarr 3 that is bounded by the chunk; registered under names of its own, such as septum.zstd."""

    name: str
    configuration: Mapping[str, Any]

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BoundedCodec:
        """Make the codec that a description names."""
        return cls(str(data["name"]), data.get("configuration") or {})

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the description."""
        return {"name": self.name, "configuration": dict(self.configuration)}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Return the size of an encoded chunk, which is not known."""
        raise NotImplementedError

    async def decode(self, chunks_and_specs: Iterable[tuple[Any, Any]]) -> list[Any]:
        """Decompress chunks in threads; a missing one stays None."""
        return await asyncio.gather(*(asyncio.to_thread(self._decode, *pair) for pair in chunks_and_specs))

    def _decode(self, chunk: Any, spec: Any) -> Any:
        if chunk is None:
            return None
        itemsize = int(spec.dtype.to_native_dtype().itemsize)
        data = decompress(self.name.removeprefix(_PREFIX), chunk.to_bytes(), spec.shape, itemsize)
        return spec.prototype.buffer.from_bytes(data)


for _name in _BOUNDED:
    register_codec(_PREFIX + _name, BoundedCodec)


def checked_store(place: Path | str, description: dict[str, Any], attributes: dict[str, Any], complete: bool) -> Any:
    """Return a store of one array whose description was checked before.

    Parameters
    ----------
    place
        A path, or a URL as `str`.
    description, attributes
        Of the array; zarr gets these, even if the file changes meanwhile.
    complete
        True if every chunk was written: a missing one is an error then.
    """
    if isinstance(place, str):
        filesystem(place)  # raises an error that names missing libraries
        with reaching(place):
            return CheckedStore(FsspecStore.from_url(place, read_only=True), place, description, attributes, complete)
    return CheckedStore(LocalStore(place, read_only=True), place, description, attributes, complete)


class CheckedStore(WrapperStore):  # type: ignore[misc]
    """See `checked_store`."""

    def __init__(
        self, store: Any, place: Path | str, description: dict[str, Any], attributes: dict[str, Any], complete: bool
    ) -> None:
        super().__init__(store)
        self._place, self._complete = place, complete
        self._decompress: Callable[[bytes], bytes] | None = None
        if description["zarr_format"] == 3:
            self._documents: dict[str, Any] = {
                "zarr.json": {**description, "codecs": _with_bounds(description["codecs"])}
            }
            return
        self._documents = {".zarray": {**description, "compressor": None}, ".zattrs": attributes}
        if description.get("compressor"):
            name, shape = description["compressor"]["id"], description["chunks"]
            itemsize = int(description["dtype"][2:])
            self._decompress = lambda data: decompress(name, data, shape, itemsize)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return a document or a chunk."""
        if key in self._documents:
            return prototype.buffer.from_bytes(json.dumps(self._documents[key]).encode())
        if key.rpartition("/")[2] in ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"):
            return None
        value = await super().get(key, prototype, byte_range)
        if value is None and self._complete:
            raise FileError(
                f"{format_path(self._place)}: the piece {key} is missing, which was there when the image was written",
                "all pieces",
                "copy the image again from the original",
            )
        if value is None or self._decompress is None:
            return value
        return prototype.buffer.from_bytes(await asyncio.to_thread(self._decompress, value.to_bytes()))


def _with_bounds(codecs: Iterable[Any]) -> list[Any]:
    """Return the codecs of a description, with bounded ones in place of those that decompress."""
    bounded: list[Any] = []
    for codec in codecs:
        entry = dict(codec) if isinstance(codec, Mapping) else {"name": codec}
        if entry["name"] in _BOUNDED:
            entry["name"] = _PREFIX + entry["name"]
        elif entry["name"] == "sharding_indexed":
            inner = dict(entry["configuration"])
            inner |= {k: _with_bounds(inner[k]) for k in ("codecs", "index_codecs") if k in inner}
            entry["configuration"] = inner
        bounded.append(entry)
    return bounded


class ExplainingStore(WrapperStore):  # type: ignore[misc]
    """A store whose errors name the chunk.

    Parameters
    ----------
    store
        The store that is read.
    explain
        Makes the error to raise of a key and the error of the store.
    """

    def __init__(self, store: Any, explain: Callable[[str, Exception], Exception]) -> None:
        super().__init__(store)
        self._explain = explain

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return a chunk."""
        try:
            return await super().get(key, prototype, byte_range)
        except (SeptumError, MemoryError):
            raise
        except Exception as error:
            raise self._explain(key, error) from error
