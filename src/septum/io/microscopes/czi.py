"""CZI of Zeiss, by pylibCZIrw: planes and parts of planes, scenes one by one, mosaics joined."""

from __future__ import annotations

import math
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.formats import STORED, UNBOUNDED, check_claim, format_path, split_scene
from septum.io.image import StoredImage
from septum.io.microscopes.libraries import choose_scene, explained, load_library, open_stored, planes_reader

_KIND = "CZI"
# By name of the pixel type: type of the values, and color samples (stored as blue, green, red).
_TYPES = {
    "Gray8": (np.uint8, 0),
    "Gray16": (np.uint16, 0),
    "Gray32Float": (np.float32, 0),
    "Bgr24": (np.uint8, 3),
    "Bgr48": (np.uint16, 3),
}
_PLANES = "TCZ"
_LEAST_PART = 256  # bytes of the smallest part of a plane in a file


def count_scenes(path: Path) -> int:
    """Return the number of scenes of a file, 1 where it has none."""
    with explained(path, _KIND):
        reader = _open(path)
        try:
            return max(1, len(reader.scenes_bounding_rectangle_no_pyramid))
        finally:
            reader.close()


def open_czi(place: Path, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open one scene of a CZI; parts of a plane that no tile covers are 0.

    Parameters
    ----------
    place
        The file, or ``file.czi#2`` for its second scene.
    axes
        See `septum.io.files.open_image`.
    labels
        Ignored: values are the same for masks.

    Raises
    ------
    FileError
        If the file is damaged, has several scenes and none is named, channels of several types, or other dimensions
        than T, Z, C.
    UsageError
        If the library is not installed.
    """
    path, wanted = split_scene(place)
    return open_stored(path, _KIND, lambda: _open(path), lambda reader: _stored(path, reader, wanted, axes))


def _open(path: Path) -> Any:
    return load_library("pylibCZIrw.czi", path, _KIND).CziReader(str(path))


def _stored(path: Path, reader: Any, wanted: int | None, axes: str | None) -> StoredImage:
    scenes = reader.scenes_bounding_rectangle_no_pyramid
    numbers = sorted(scenes) or [None]
    number = numbers[choose_scene(path, wanted, ["" for _ in numbers], _KIND)]
    area = scenes[number] if number is not None else reader.total_bounding_rectangle_no_pyramid
    box = reader.total_bounding_box_no_pyramid
    others = [a for a, (low, high) in box.items() if a not in "TCZYX" and high - low > 1]
    if others:
        raise FileError(
            f"{format_path(path)}: dimensions {', '.join(others)}",
            "T, Z and C",
            "save the image as OME-TIFF in ZEN or Fiji",
        )
    kinds = set(reader.pixel_types.values())
    if len(kinds) != 1 or not kinds <= set(_TYPES):
        known = ", ".join(_TYPES)
        raise FileError(
            f"{format_path(path)}: pixels of type {', '.join(sorted(kinds))}", f"one of {known}", "save it anew"
        )
    dtype, samples = _TYPES[next(iter(kinds))]
    first = {a: box[a][0] for a in _PLANES if a in box}
    lengths = {a: box[a][1] - box[a][0] for a in first}
    if samples and lengths.get("C", 1) > 1:
        raise FileError(f"{format_path(path)}: several color images as channels", "one", "save it as OME-TIFF")
    names = "".join(a for a in _PLANES if lengths.get(a, 1) > 1)
    lock = Lock()

    def read_plane(at: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        plane = {**first, **{a: first[a] + k for a, k in zip(names, at, strict=True)}}
        roi = (area.x + columns.start, area.y + rows.start, columns.stop - columns.start, rows.stop - rows.start)
        with lock, explained(path, _KIND):
            pixels = reader.read(roi=roi, plane=plane, scene=number)
        return np.asarray(pixels)[..., ::-1] if samples else np.asarray(pixels)[..., 0]

    shape = (*(lengths[a] for a in names), area.h, area.w, *([samples] if samples else []))
    claimed, length = math.prod(shape) * np.dtype(dtype).itemsize, path.stat().st_size
    check_claim(path, _KIND, shape=shape, claimed=claimed, length=length, ratio=UNBOUNDED)
    planes = math.prod(lengths[a] for a in names)
    check_claim(path, _KIND, shape=shape, claimed=planes * _LEAST_PART, length=length, ratio=STORED)
    stored = names + "YX" + ("C" if samples else "")
    notes = ElementTree.fromstring(reader.raw_metadata)
    size = {a: v for a, v in _pixel_size(notes).items() if a in stored or a == "Z"}
    read = planes_reader(stored, dtype, read_plane)
    channels = () if samples else tuple(_channel_names(notes))
    return StoredImage(
        shape, np.dtype(dtype), axes or stored, read, pixel_size_um=size, close=reader.close, channels=channels
    )


def _pixel_size(notes: ElementTree.Element) -> dict[str, float]:
    size = {}
    for distance in notes.iterfind(".//Scaling/Items/Distance"):
        axis, value = distance.get("Id", ""), distance.findtext("Value", "0")
        micrometers = float(value) * 1e6 if value else 0.0
        if axis in ("X", "Y", "Z") and micrometers > 0 and math.isfinite(micrometers):
            size[axis] = round(micrometers, 12)
    return size


def _channel_names(notes: ElementTree.Element) -> list[str]:
    """Return the names of the channels; those that a person gave come first."""
    shown = [c.get("Name", "") for c in notes.iterfind(".//DisplaySetting/Channels/Channel")]
    stored = [c.get("Name", "") for c in notes.iterfind(".//Information/Image/Dimensions/Channels/Channel")]
    return shown if any(shown) and len(shown) >= len(stored) else stored
