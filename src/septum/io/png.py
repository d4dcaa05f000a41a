"""PNG, JPEG, BMP and GIF: one plane of gray or color values."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.files import WriteRequest
from septum.io.formats import DAMAGE, DEFLATE, LZW, PNG, check_claim, damaged, format_path
from septum.io.image import StoredImage
from septum.io.upright import TAG, turn_upright

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG color type: gray, RGB, palette, gray + alpha, RGB + alpha


def open_png(path: Path, *, axes: str | None, labels: bool) -> StoredImage:
    """Read a PNG in its own bit depth: bool (1 bit), uint8 or uint16; turned upright by the orientation tag of EXIF.

    Alpha is dropped, but of masks: it may be the drawing. Gray of 2 and 4 bits keeps its values.

    Parameters
    ----------
    path, axes
        See `septum.io.files.open_image`.
    labels
        True keeps the indices of a palette, and alpha; False makes RGB of a palette.

    Raises
    ------
    FileError
        If the file is damaged, cut off, or claims more pixels than it can hold.
    """
    with path.open("rb") as file:
        head = file.read(33)
    if len(head) < 33 or head[12:16] != b"IHDR":
        raise damaged(path, "PNG", "no header")
    width, height, depth, color = struct.unpack(">IIBB", head[16:26])
    if color not in _CHANNELS or depth not in (1, 2, 4, 8, 16) or not width or not height:
        raise damaged(path, "PNG", f"{width} x {height} pixels of {depth} bits, color type {color}")
    channels = _CHANNELS[color]
    claimed = height * ((width * channels * depth + 7) // 8)
    length = path.stat().st_size
    shape = (height, width, channels)
    check_claim(path, "PNG", shape=shape, claimed=claimed, length=length, ratio=DEFLATE)
    try:
        tag = _orientation(_check_chunks(path))
        deep = depth == 16 and color
        array = _decode_deep(path)[..., :channels] if deep else _decode_png(path, depth, color, labels)
    except DAMAGE as error:
        raise damaged(path, "PNG", error) from error
    if color in (4, 6) and not labels:
        array = array[..., :-1]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return _plane(array, axes, tag)


def _plane(array: NDArray[Any], axes: str | None, tag: object) -> StoredImage:
    return turn_upright(StoredImage.from_array(array, axes or ("YX" if array.ndim == 2 else "YXC")), tag)


def _orientation(exif: bytes) -> object:
    """Return the value of the orientation tag in EXIF data; None where there is none, or the data are damaged."""
    from PIL.Image import Exif

    found = Exif()
    with suppress(*DAMAGE):
        found.load(exif)
    return found.get(TAG)


def _check_chunks(path: Path) -> bytes:
    """Verify the checksums to the last chunk: Pillow skips those of pixels, and does not notice a missing end.

    Returns
    -------
    bytes
        EXIF data; empty if there are none.
    """
    exif = b""
    with path.open("rb") as file:
        file.seek(8)
        name = b""
        while name != b"IEND":
            size, name = struct.unpack(">I4s", file.read(8))
            data = file.read(size)
            (checksum,) = struct.unpack(">I", file.read(4))
            if zlib.crc32(data, zlib.crc32(name)) != checksum:
                raise ValueError(f"the checksum of its {name.decode('ascii', 'replace')} chunk is wrong")
            if name == b"eXIf":
                exif = data
    return exif


def _decode_deep(path: Path) -> NDArray[Any]:
    # Pillow cuts 16-bit color down to 8 bits. Of a transparent color this makes alpha, which the file does not hold.
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(path.read_bytes()))


def _decode_png(path: Path, depth: int, color: int, labels: bool) -> NDArray[Any]:
    # The class rather than Image.open: sizes are checked already, and the limit of Pillow refuses valid large images.
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(path) as image:
        if color == 3 and not labels:
            return np.asarray(image.convert("RGB"))
        array = np.asarray(image)
    if color == 0 and depth in (2, 4):
        return array // np.uint8(255 // (2**depth - 1))  # Pillow stretches these to 0..255
    return array.astype(np.uint16) if depth == 16 else array


def open_photo(path: Path, *, axes: str | None, labels: bool) -> StoredImage:
    """Read a JPEG, BMP or GIF as bool or uint8, gray or RGB; turned upright by the orientation tag of EXIF.

    Parameters
    ----------
    path, axes
        See `septum.io.files.open_image`.
    labels
        True keeps the indices of a palette, False makes RGB of it.

    Raises
    ------
    FileError
        If the file is damaged, cut off, an animation, or claims more pixels than it can hold.
    """
    kind = "image"
    try:
        kind, image = _open_photo(path)
        with image:
            shape = (image.height, image.width, len(image.getbands()))
            claimed = shape[0] * shape[1] * shape[2]
            ratio = LZW if kind == "GIF" else DEFLATE
            check_claim(path, kind, shape=shape, claimed=claimed, length=path.stat().st_size, ratio=ratio)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise FileError(
                    f"{format_path(path)}: an animated {kind} of {frames} frames", "one image", "save it as TIFF pages"
                )
            wanted = "1" if image.mode == "1" else "L" if image.mode in ("L", "LA") else "RGB"
            if image.mode == "P" and labels:
                wanted = "P"
            array = np.asarray(image.convert(wanted))
            tag = _orientation(image.info.get("exif", b""))
    except DAMAGE as error:
        raise damaged(path, kind, error) from error
    return _plane(array, axes, tag)


def _open_photo(path: Path) -> tuple[str, ImageFile]:
    from PIL.BmpImagePlugin import BmpImageFile
    from PIL.GifImagePlugin import GifImageFile
    from PIL.JpegImagePlugin import JpegImageFile

    with path.open("rb") as file:
        head = file.read(2)
    if head == b"BM":
        return "BMP", BmpImageFile(path)
    return ("GIF", GifImageFile(path)) if head == b"GI" else ("JPEG", JpegImageFile(path))


def write_png(path: Path, array: NDArray[Any], axes: str, request: WriteRequest) -> None:
    """Write one plane.

    Parameters
    ----------
    path
        The file to write.
    array
        ``(Y, X)`` or ``(C, Y, X)`` with 1 or 3 channels. bool, uint8 and uint16 are written as they are; other integers
        of 0 to 65535 as the smaller of uint8 and uint16 that holds them.
    axes
        ``"YX"`` or ``"CYX"``.
    request
        Its name is for messages.

    Raises
    ------
    FileError
        If PNG cannot hold the array: floats, negative values, values above 65535, other channels, stacks.
    """
    name = request.path
    if axes == "CYX" and array.shape[0] in (1, 3):
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    elif axes != "YX":
        raise _no_png(name, f"axes {axes} of shape {array.shape}", "one plane, gray or RGB")
    if array.dtype.kind == "f":
        raise _no_png(name, f"{array.dtype} values", "whole numbers")
    if array.dtype.name not in PNG.dtypes:
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or high > 65535:
            raise _no_png(name, f"values from {low} to {high}", "values from 0 to 65535")
        array = array.astype(np.uint8 if high < 256 else np.uint16)
    if array.dtype == np.bool_ and array.ndim == 3:
        array = array.astype(np.uint8)
    from PIL import Image

    array = array.copy(order="C")  # not ascontiguousarray, which leaves strange strides where a side is 1
    if array.dtype == np.uint16 and array.ndim == 3:
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(array))
    else:
        Image.fromarray(array).save(path, format="PNG")


def _no_png(path: Path, given: str, expected: str) -> FileError:
    return FileError(
        f"{format_path(path)}: {given} cannot be kept in a PNG file", expected, "write to a name that ends in .tif"
    )
