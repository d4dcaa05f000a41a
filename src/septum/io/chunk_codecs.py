"""Decompression of Zarr chunks that never makes more bytes than the chunk has: a bomb ends in an error, not in swap.

The libraries behind Zarr make what a chunk claims to hold; here every decompressor is given the length that is right.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import imagecodecs
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.registry import register_codec

_SLACK = 1 << 16  # checksums and the like
_DECODERS: dict[str, Callable[..., Any]] = {
    "zstd": imagecodecs.zstd_decode,
    "gzip": imagecodecs.gzip_decode,
    "zlib": imagecodecs.zlib_decode,
    "blosc": imagecodecs.blosc_decode,
    "bz2": imagecodecs.bz2_decode,
    "lzma": imagecodecs.lzma_decode,
    "lz4": lambda data, out: imagecodecs.lz4_decode(data, header=True, out=out),
}
COMPRESSORS = frozenset(_DECODERS)


def decompress(name: str, data: bytes, limit: int) -> bytes:
    """Return what `data` holds, which is at most `limit` bytes; any error is a `RuntimeError` or `ValueError`."""
    try:
        found = bytes(_DECODERS[name](data, out=limit))
    except MemoryError:
        raise
    except Exception as error:  # imagecodecs has one class of errors per codec
        raise ValueError(f"{name}: {error}") from error
    return found


def chunk_limit(shape: tuple[int, ...], itemsize: int) -> int:
    """Return the most bytes that a chunk can have while it is decoded: filters may have made its values wider."""
    return math.prod(shape) * max(itemsize, 8) + _SLACK


class _Bounded:
    """A codec of Zarr 3 whose decompression is bounded by its chunk."""

    bounded_name: str

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        limit = chunk_limit(chunk_spec.shape, int(chunk_spec.dtype.to_native_dtype().itemsize))
        return chunk_spec.prototype.buffer.from_bytes(decompress(self.bounded_name, chunk_bytes.to_bytes(), limit))

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)


class BoundedZstd(_Bounded, ZstdCodec):  # type: ignore[misc]
    """Zstandard."""

    bounded_name = "zstd"


class BoundedGzip(_Bounded, GzipCodec):  # type: ignore[misc]
    """Gzip."""

    bounded_name = "gzip"


class BoundedBlosc(_Bounded, BloscCodec):  # type: ignore[misc]
    """Blosc."""

    bounded_name = "blosc"


_CLASSES = {"zstd": BoundedZstd, "gzip": BoundedGzip, "blosc": BoundedBlosc}
for _name, _class in _CLASSES.items():
    register_codec(_name, _class)
# For `zarr.config.set` while an array is opened.
CONFIG = {f"codecs.{name}": f"{c.__module__}.{c.__qualname__}" for name, c in _CLASSES.items()}


def bound_version_2(array: Any) -> None:
    """Bound the decompression of an opened array of Zarr 2."""
    compressor = array.metadata.compressor
    if compressor is not None:
        limit = chunk_limit(array.chunks, int(array.dtype.itemsize))
        name = str(compressor.codec_id)
        # Zarr calls this method of this very object.
        compressor.decode = lambda data, out=None: decompress(name, bytes(data), limit)
