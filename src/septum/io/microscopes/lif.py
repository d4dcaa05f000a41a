"""LIF of Leica, by liffile: frames mapped from the file, images one by one."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.formats import STORED, check_claim, format_path, split_scene
from septum.io.image import MICROMETERS, StoredImage
from septum.io.microscopes.libraries import choose_scene, explained, load_library, open_stored, planes_reader

_KIND = "LIF"


def count_images(path: Path) -> int:
    """Return the number of images of a file."""
    with explained(path, _KIND), _open(path) as file:
        return len(file.images)


def open_lif(place: Path, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open one image of a LIF file; tiles of a mosaic that are not merged are refused.

    Parameters
    ----------
    place
        The file, or ``file.lif#2`` for its second image.
    axes
        See `septum.io.files.open_image`.
    labels
        Ignored: values are the same for masks.

    Raises
    ------
    FileError
        If the file is damaged or cut off, has several images and none is named, or other dimensions than T, Z, C.
    UsageError
        If the library is not installed.
    """
    path, wanted = split_scene(place)
    return open_stored(path, _KIND, lambda: _open(path), lambda file: _stored(path, file, wanted, axes))


def _open(path: Path) -> Any:
    return load_library("liffile", path, _KIND).LifFile(path)


def _stored(path: Path, file: Any, wanted: int | None, axes: str | None) -> StoredImage:
    images = list(file.images)
    image = images[choose_scene(path, wanted, [str(one.name) for one in images], _KIND)]
    sizes, dtype = {str(a): int(n) for a, n in image.sizes.items()}, np.dtype(image.dtype)
    samples = sizes.pop("S", 1)
    if not {"Y", "X"} <= set(sizes) <= set("TCZYX"):
        given = f"{format_path(path)}: {image.name} has the dimensions {', '.join(image.sizes)}"
        raise FileError(given, "T, Z, C, Y and X", "merge its tiles, or export it as OME-TIFF")
    claimed = int(np.prod(list(sizes.values()), dtype=object)) * samples * dtype.itemsize
    held = path.stat().st_size - image.memory_block.offset
    check_claim(path, _KIND, shape=tuple(sizes.values()), claimed=claimed, length=held, ratio=STORED)
    if samples > 1 and sizes.get("C", 1) > 1:
        raise FileError(f"{format_path(path)}: several color images as channels", "one", "export it as OME-TIFF")
    names = "".join(a for a in "TCZ" if sizes.get(a, 1) > 1)
    lock = Lock()

    def read_plane(at: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        with lock, explained(path, _KIND):
            frame = np.asarray(image.frame(**dict(zip(names, at, strict=True))))
            return np.array(frame[rows, columns])

    shape = (*(sizes[a] for a in names), sizes["Y"], sizes["X"], *([samples] if samples > 1 else []))
    stored = names + "YX" + ("C" if samples > 1 else "")
    read = planes_reader(stored, dtype, read_plane)
    size = {a: v for a, v in _pixel_size(image).items() if a in stored}
    channels = () if samples > 1 else tuple(_channel_names(image))
    return StoredImage(shape, dtype, axes or stored, read, pixel_size_um=size, close=file.close, channels=channels)


def _pixel_size(image: Any) -> dict[str, float]:
    """Return micrometers per pixel: the length of an axis is that from its first to its last pixel."""
    size = {}
    for one in image.xml_element.iterfind(".//DimensionDescription"):
        axis = {"1": "X", "2": "Y", "3": "Z"}.get(one.get("DimID", ""))
        count, unit = int(one.get("NumberOfElements", "0")), MICROMETERS.get(one.get("Unit", "").casefold())
        step = abs(float(one.get("Length", "0"))) / max(1, count - 1) * (unit or 0)
        if axis is not None and count > 1 and step > 0:
            size[axis] = round(step, 12)
    return size


def _channel_names(image: Any) -> list[str]:
    return [one.get("LUTName", "") for one in image.xml_element.iterfind(".//ChannelDescription")]
