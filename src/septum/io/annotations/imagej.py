"""ImageJ: ``RoiSet.zip`` of the ROI Manager, and single ``.roi`` files; decoded by the library roifile.

Coordinates are those of pixel corners for selections with an area, as ImageJ fills them.
"""

from __future__ import annotations

import logging
import lzma
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.io.annotations.drawing import PAGE, Drawing, DrawnObject, Ring, ellipse, join_sections, rectangle, ring
from septum.io.annotations.texts import read_bytes, text
from septum.io.formats import DAMAGE, DEFLATE, check_memory, damaged

if TYPE_CHECKING:
    from roifile import ImagejRoi

_NO_AREA = {"LINE": "line", "FREELINE": "line", "POLYLINE": "line", "ANGLE": "angle", "POINT": "point", "NOROI": "text"}
_BY_PLACE = re.compile(r"(?:\d{4,}-){1,2}\d{4,}(?:-\d+)?")  # names that ImageJ makes of slice, y and x
_OF_SEPTUM = re.compile(r"^(\d{4,})-z\d{3,}(?:-t\d{3,})?$")  # label, section and frame, as Septum names what it writes
_CURVE = 16  # straight lines that one curve becomes


def read_rois(path: Path) -> tuple[Drawing, ...]:
    """Read a ``RoiSet.zip`` or a ``.roi`` file.

    Selections that lie in several sections of a volume and have one name are one object. A group of ImageJ is a class.

    Raises
    ------
    FileError
        If the file is damaged, or claims more than it can hold.
    """
    objects: list[DrawnObject] = []
    refused: list[tuple[str, str]] = []
    try:
        for name, data in _members(path):
            _add(name, data, objects, refused)
    except (*DAMAGE, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise damaged(path, "ImageJ ROI", error) from error
    names = ["" if _BY_PLACE.fullmatch(one.name) else _OF_SEPTUM.sub(r"\1", one.name) for one in objects]
    return (Drawing("ImageJ", join_sections(objects, names), tuple(refused)),)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each selection."""
    with path.open("rb") as file:
        if file.read(4) == b"Iout":
            yield path.stem, read_bytes(path, "ImageJ ROI")
            return
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if m.filename.casefold().endswith(".roi") and m.file_size]
        members = [m for m in members if not m.filename.startswith("__MACOSX")]
        for member in members:
            if member.file_size > member.compress_size * DEFLATE + 64:
                raise ValueError(f"{member.filename} claims {member.file_size} bytes but holds {member.compress_size}")
        check_memory(path, 4 * sum(m.file_size for m in members))
        for member in members:
            with archive.open(member) as stream:
                yield Path(member.filename).stem, stream.read(member.file_size)


def _add(name: str, data: bytes, objects: list[DrawnObject], refused: list[tuple[str, str]]) -> None:
    from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

    logging.getLogger("roifile").setLevel(logging.CRITICAL)  # what it logs becomes an error here, or does not matter
    roi = ImagejRoi.frombytes(data)
    name = text(roi.name or name)
    if roi.roitype.name in _NO_AREA or roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
        refused.append((_NO_AREA.get(roi.roitype.name, roi.subtype.name.lower()), name))
        return
    if roi.multi_coordinates is not None:
        part = tuple(_path(roi.multi_coordinates))
    elif roi.roitype == ROI_TYPE.OVAL:
        left, top, width, height = _box(roi)
        part = (ellipse((left + width / 2, top + height / 2), (width / 2, height / 2)),) if width and height else ()
    elif roi.roitype == ROI_TYPE.RECT:
        left, top, width, height = _box(roi)
        part = (rectangle(left, top, left + width, top + height),)
    else:
        part = (ring(roi.coordinates()),)
    place = _place(roi)
    label = f"group {roi.group}" if roi.group else ""
    objects.append(DrawnObject(name, (part,), None, label, place))


def _box(roi: ImagejRoi) -> tuple[float, float, float, float]:
    """Return left, top, width and height."""
    if roi.subpixelrect:
        return roi.xd, roi.yd, roi.widthd, roi.heightd
    return roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top


def _place(roi: ImagejRoi) -> dict[str, int]:
    """Return the page, counted from 0; ImageJ counts from 1, and 0 is no page."""
    axes = {"Z": roi.z_position - 1, "T": roi.t_position - 1}
    named = {axis: index for axis, index in axes.items() if index >= 0}
    return named or ({PAGE: roi.position - 1} if roi.position > 0 else {})


def _path(values: NDArray[np.float32]) -> Iterator[Ring]:
    """Yield the rings of a path of Java: 0 move, 1 line, 2 and 3 curves, 4 close."""
    numbers = values.astype(np.float64).tolist()
    points: list[tuple[float, float]] = []
    at = 0
    while at < len(numbers):
        command = int(numbers[at])
        if command not in (0, 1, 2, 3, 4):
            raise ValueError(f"a path with the command {command}")
        count = (2, 2, 4, 6, 0)[command]
        taken = numbers[at + 1 : at + 1 + count]
        if len(taken) < count:
            raise ValueError("a path that ends within a command")
        at += 1 + count
        if command in (0, 4):
            if len(points) > 2:
                yield ring(points)
            points = points[:1] if command == 4 else []
        if command and not points:
            raise ValueError("a path that begins without a place")
        if command in (2, 3):
            points += _curve(np.array([points[-1], *zip(taken[::2], taken[1::2], strict=True)]))
        elif command < 2:
            points.append((taken[0], taken[1]))
    if len(points) > 2:
        yield ring(points)


def _curve(controls: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return points of a Bezier curve after the first one."""
    t = np.linspace(0, 1, _CURVE + 1)[1:, np.newaxis, np.newaxis]
    levels = np.broadcast_to(controls, (_CURVE, *controls.shape))
    while levels.shape[1] > 1:
        levels = levels[:, :-1] * (1 - t) + levels[:, 1:] * t
    return [(float(x), float(y)) for x, y in levels[:, 0]]
