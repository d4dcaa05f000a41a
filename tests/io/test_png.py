from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image as Pillow

from septum.errors import FileError
from septum.io.files import read_image, write_image

GRAY = np.array([[0, 1, 2], [3, 128, 255]], np.uint8)
COLOR = np.stack([GRAY, GRAY // 2, 255 - GRAY], axis=-1)


def palette(path: Path) -> None:
    image = Pillow.frombytes("P", (2, 2), bytes([0, 1, 2, 1]))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(path)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp"])
def test_a_palette_is_color_for_images_and_indices_for_labels(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    palette(path)
    image = read_image(path)
    assert (image.axes, image.file_axes) == ("CYX", "YXC")
    assert image.array[:, 0, 0].tolist() == [255, 0, 0]
    assert image.array[:, 1, 0].tolist() == [0, 0, 255]
    assert read_image(path, labels=True).array.tolist() == [[[0, 1], [2, 1]]]


def test_small_palettes_keep_their_indices(tmp_path: Path) -> None:
    for bits in (1, 2, 4):
        image = Pillow.frombytes("P", (2, 1), bytes([0, 1]))
        image.putpalette([9, 9, 9, 200, 0, 0])
        image.save(tmp_path / "a.png", bits=bits)
        assert read_image(tmp_path / "a.png", labels=True).array.tolist() == [[[0, 1]]]


def test_alpha_is_dropped_but_of_masks(tmp_path: Path) -> None:
    alpha = np.array([[0, 255, 7], [1, 2, 3]], np.uint8)
    for given, wanted in [
        (np.dstack([GRAY, alpha]), GRAY[None]),
        (np.dstack([COLOR, alpha]), COLOR.transpose(2, 0, 1)),
    ]:
        for labels in (False, True):
            Pillow.fromarray(given).save(tmp_path / "a.png")
            expected = np.moveaxis(given, -1, 0) if labels else wanted
            np.testing.assert_array_equal(read_image(tmp_path / "a.png", labels=labels).array, expected)
            (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(given.astype(np.uint16) * 257))
            deep = read_image(tmp_path / "a.png", labels=labels).array
            np.testing.assert_array_equal(deep, expected.astype(np.uint16) * 257)


def test_color_of_16_bits_is_not_cut_to_8(tmp_path: Path) -> None:
    deep = (COLOR.astype(np.uint16) * 256 + 77).transpose(2, 0, 1)
    write_image(tmp_path / "a.png", deep, axes="CYX")
    image = read_image(tmp_path / "a.png")
    assert image.array.dtype == np.uint16
    np.testing.assert_array_equal(image.array, deep)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_rows(path: Path, bits: int, color: int, rows: list[bytes], *, more: bytes = b"") -> None:
    """Write three columns of packed pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, len(rows), bits, color, 0, 0, 0))
    packed = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + more + packed + chunk(b"IEND", b""))


@pytest.mark.parametrize("labels", [False, True])
def test_a_transparent_color_of_16_bits_is_no_channel(tmp_path: Path, labels: bool) -> None:
    deep = (COLOR.astype(np.uint16) * 250).astype(">u2")
    transparent = chunk(b"tRNS", deep[0, 1].tobytes())
    write_rows(tmp_path / "a.png", 16, 2, [row.tobytes() for row in deep], more=transparent)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", labels=labels).array, np.moveaxis(deep, -1, 0))


def test_gray_of_few_bits_keeps_its_values(tmp_path: Path) -> None:
    for bits, packed, values in [
        (1, [0b10100000], [1, 0, 1]),
        (2, [0b00011100], [0, 1, 3]),
        (4, [0x0F, 0x70], [0, 15, 7]),
    ]:
        write_rows(tmp_path / "a.png", bits, 0, [bytes(packed)])
        array = read_image(tmp_path / "a.png", labels=True).array
        assert array.tolist() == [[values]]
        assert array.dtype == (bool if bits == 1 else np.uint8)


def test_labels_get_the_smallest_type(tmp_path: Path) -> None:
    for highest, dtype in [(255, np.uint8), (256, np.uint16), (65535, np.uint16)]:
        write_image(tmp_path / "a.png", np.array([[0, highest]], np.int32), axes="YX")
        assert read_image(tmp_path / "a.png").array.dtype == dtype
    with pytest.raises(FileError, match="values from -1 to 0"):
        write_image(tmp_path / "a.png", np.array([[0, -1]], np.int32), axes="YX")
    with pytest.raises(FileError, match="axes ZYX"):
        write_image(tmp_path / "a.png", np.zeros((2, 3, 4), np.uint8), axes="ZYX")


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    Pillow.fromarray(np.full((16, 16), 90, np.uint8)).save(tmp_path / "a.jpg")
    assert abs(read_image(tmp_path / "a.jpg").array.astype(int) - 90).max() <= 1
    Pillow.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").array.shape == (3, 16, 16)


def test_a_moving_gif_is_refused(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(np.full((4, 4), v, np.uint8)) for v in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(FileError, match="animated GIF of 2 frames"):
        read_image(tmp_path / "a.gif")


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    Pillow.fromarray(GRAY).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    place = content.index(b"IDAT") + 10
    (tmp_path / "a.png").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    with pytest.raises(FileError, match="checksum of its IDAT"):
        read_image(tmp_path / "a.png")
