"""Chunks of Zarr that decompress to more than the array allows are refused, for every codec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import google_crc32c
import imagecodecs
import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs

from septum.errors import FileError
from septum.io.files import open_image, read_image

HUGE = bytes(64 << 20)
BOMBS = {
    "zstd": lambda: imagecodecs.zstd_encode(HUGE),
    "gzip": lambda: imagecodecs.gzip_encode(HUGE),
    "zlib": lambda: imagecodecs.zlib_encode(HUGE),
    "blosc": lambda: imagecodecs.blosc_encode(HUGE),
    "bz2": lambda: imagecodecs.bz2_encode(HUGE),
    "lzma": lambda: imagecodecs.lzma_encode(HUGE),
    "lz4": lambda: imagecodecs.lz4_encode(HUGE, header=True),
}
THREE: dict[str, Any] = {
    "zstd": zarr.codecs.ZstdCodec,
    "gzip": zarr.codecs.GzipCodec,
    "blosc": zarr.codecs.BloscCodec,
}
TWO: dict[str, Any] = {
    "zstd": numcodecs.Zstd,
    "gzip": numcodecs.GZip,
    "zlib": numcodecs.Zlib,
    "blosc": numcodecs.Blosc,
    "bz2": numcodecs.BZ2,
    "lzma": numcodecs.LZMA,
    "lz4": numcodecs.LZ4,
}
VALUES = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("name", THREE)
def test_a_chunk_of_zarr_3(tmp_path: Path, name: str) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=VALUES, chunks=(16, 16), compressors=THREE[name]())
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr").array[0], VALUES)
    (tmp_path / "a.zarr/c/0/0").write_bytes(BOMBS[name]())
    with pytest.raises(FileError, match=f"c/0/0: the Zarr file is damaged.*{name}"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("name", TWO)
def test_a_chunk_of_zarr_2(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "a.zarr")
    zarr.create_array(path, data=VALUES, chunks=(16, 16), compressors=TWO[name](), zarr_format=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr").array[0], VALUES)
    (tmp_path / "a.zarr/0.0").write_bytes(BOMBS[name]())
    with pytest.raises(FileError, match=r"0\.0: the Zarr file is damaged"):
        read_image(tmp_path / "a.zarr")


def test_a_chunk_inside_of_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), data=VALUES, chunks=(8, 8), shards=(16, 16), compressors=zarr.codecs.ZstdCodec())
    bomb = BOMBS["zstd"]()
    # Four chunks; the index of the shard (offset and length of each, a checksum) follows them.
    index = np.array([[0, len(bomb)]] * 4, "<u8").tobytes()
    checksum = int(google_crc32c.value(index)).to_bytes(4, "little")
    (path / "c/0/0").write_bytes(bomb + index + checksum)
    with pytest.raises(FileError, match=r"c/0/0: the Zarr file is damaged.*zstd"):
        open_image(path)[0, :4, :4]


def test_the_description_that_was_checked_is_the_one_that_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), data=VALUES, chunks=(16, 16), compressors=None)
    image = open_image(path)
    document = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(document | {"shape": [10**9, 10**9]}))
    np.testing.assert_array_equal(image[...][0], VALUES)
