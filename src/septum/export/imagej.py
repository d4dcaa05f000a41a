"""Write objects as a zip of ImageJ ROIs: an ROI an object and plane, whose pixels are those of the object.

The form follows ImageJ's `RoiEncoder` and `RoiDecoder`. An object of one ring is a traced polygon of whole numbers; one
of several parts or with holes is a composite path. Both select the pixels whose centers lie inside.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from septum.errors import DataError
from septum.export.outlines import ObjectOutline, trace_outlines
from septum.export.runs import Frame, complete_objects
from septum.io.atomic import whole_file
from septum.io.formats import format_path

_VERSION, _RECTANGLE, _TRACED = 227, 1, 8
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0
_HEADER, _HEADER_2 = 64, 64
_LARGEST = 2**15 - 1  # places and numbers of corners are signed 16-bit integers
_TIME = (1980, 1, 1, 0, 0, 0)  # of all entries, so that equal objects give equal files


def write_rois(path: Path, frames: Iterable[Frame], *, height: int | None = None) -> int:
    """Write the objects of a label image as ROIs of ImageJ, as a whole or not at all.

    Names are labels with leading zeros, ``0001``; in stacks followed by slice and time point, counted from 1 as ImageJ
    does, ``0001-z003-t002``, which are the position of the ROI as well.

    Parameters
    ----------
    path
        The ``.zip`` file.
    frames
        Of the label image, from `septum.export.runs.split_labels`.
    height
        Rows that are held at a time; None: by the number of pixels.

    Returns
    -------
    int
        Number of ROIs.

    Raises
    ------
    DataError
        If an object lies farther from the top left corner than ROIs can state.
    FileError
        If the label image cannot be read, or the file not written.
    """
    count = 0
    with whole_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for frame in frames:
            for runs in complete_objects(frame, height=height):
                for outline in trace_outlines(runs):
                    name, position = _place(frame, outline)
                    entry = zipfile.ZipInfo(f"{name}.roi", _TIME)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(entry, encode_roi(outline, name, position))
                    count += 1
    return count


def _place(frame: Frame, outline: ObjectOutline) -> tuple[str, tuple[int, int]]:
    """Return the name of an ROI, and its slice and time point from 1; 0 where there is one only."""
    sides = dict(zip(frame.labels.axes, frame.labels.shape, strict=True))
    z = (outline.z if frame.z is None else frame.z) + 1 if "Z" in sides else 0
    t = frame.t + 1 if "T" in sides else 0
    if max(outline.box) > _LARGEST:
        raise DataError(
            f"{format_path(frame.labels.name)}: object {outline.label} reaches to pixel {max(outline.box)}",
            f"objects up to pixel {_LARGEST}, which ROIs of ImageJ can state",
            "write GeoJSON, or cut the image into parts",
        )
    name = f"{outline.label:04d}" + (f"-z{z:03d}" if z else "") + (f"-t{t:03d}" if t else "")
    return name, (z, t)


def encode_roi(outline: ObjectOutline, name: str, position: tuple[int, int] = (0, 0)) -> bytes:
    """Encode an outline as an ROI of ImageJ.

    Parameters
    ----------
    outline
        The outline.
    name
        Name of the ROI.
    position
        Slice and time point, from 1; 0 where there is one only.

    Returns
    -------
    bytes
        The content of a ``.roi`` file.
    """
    left, top, right, bottom = outline.box
    (first, *others), *parts = outline.polygons
    simple = not others and not parts and len(first) <= _LARGEST
    if simple:
        body = (first - (left, top)).T.astype(">i2").tobytes()
    else:
        body = b"".join(_path(ring) for polygon in outline.polygons for ring in polygon)
    z, t = position
    stack = z or t if not (z and t) else 0  # the position in a stack of one axis; in a stack of two both are stated
    header = struct.pack(
        ">4shBxhhhhH16xhi8xhh4xii",
        b"Iout",
        _VERSION,
        _TRACED if simple else _RECTANGLE,
        top,
        left,
        bottom,
        right,
        len(first) if simple else 0,
        0,
        0 if simple else len(body) // 4,
        0,
        0,
        stack,
        _HEADER + len(body),
    )
    offset = _HEADER + len(body) + _HEADER_2
    more = struct.pack(">4xiiiii40x", 0, z, t, offset, len(name))
    return header + body + more + name.encode("utf-16-be")


def _path(ring: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> bytes:
    """Return a closed ring, ``(N, 2)`` int64 pixels, as a piece of a composite path."""
    moves = np.full((len(ring), 3), _LINE, ">f4")
    moves[0, 0] = _MOVE
    moves[:, 1:] = ring
    return moves.tobytes() + np.array([_CLOSE], ">f4").tobytes()
