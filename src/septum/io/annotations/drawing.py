"""Drawn objects as every reader of their files returns them.

Coordinates are those of pixel corners: the pixel of column j and row i covers x from j to j + 1 and y from i to i + 1,
and its center lies at (j + 0.5, i + 0.5). A reader whose program counts otherwise converts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.formats import format_path

Ring = NDArray[np.float64]
"""Corners of a closed outline, ``(N, 2)`` float64, x and y of any finite values, in pixels."""

PAGE = "page"
"""Key of `DrawnObject.place` for a page of a stack of which the file does not state the axis."""


@dataclass(frozen=True)
class Bitmap:
    """Pixels of an object in a box.

    Attributes
    ----------
    left, top
        Column and row of the first pixel of the box.
    inside
        ``(height, width)`` bool, True inside of the object.
    """

    left: int
    top: int
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class DrawnObject:
    """One object: the pixels inside of one of its parts, and those of its bitmap.

    Attributes
    ----------
    name
        For messages; unique if the file names its objects uniquely.
    parts
        Each a shell and its holes: a pixel is inside if a line from its center crosses the rings an odd number of
        times.
    bitmap
        Pixels; None for an object that has outlines only.
    label
        Name of the class; ``""`` if the file names none.
    place
        Indices from 0 of the page that it lies on, by ``T`` and ``Z`` or by `PAGE`; empty if the file states no page.
    identity
        Objects of equal identity that is not ``""`` are one object, such as its outlines in several sections.
    """

    name: str
    parts: tuple[tuple[Ring, ...], ...] = ()
    bitmap: Bitmap | None = None
    label: str = ""
    place: Mapping[str, int] = field(default_factory=dict)
    identity: str = ""


@dataclass(frozen=True)
class Drawing:
    """The objects that a file holds for one image.

    Attributes
    ----------
    program
        Program or format, for messages: ``"labelme"``.
    objects
        In the order of the file: a later one lies on top.
    refused
        Kind and name of each shape that is no object: points, lines, boxes without an outline.
    notes
        How the file was read where that is not plain, as phrases.
    image
        Name of the image exactly as the file states it; ``""`` if it states none.
    size
        Height and width of the image in pixels as the file states them, or None.
    labels
        ``(*S)`` integers, 0 background, ids from 1, of a file that holds them; None for drawn shapes.
    key
        Name of the image in the place of a mask, see `septum.io.annotations.formats.read_drawings`.
    """

    program: str
    objects: tuple[DrawnObject, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    image: str = ""
    size: tuple[int, int] | None = None
    labels: NDArray[np.integer[Any]] | None = None
    key: str = ""


def refuse(path: Path, given: str, expected: str, todo: str) -> FileError:
    """Return the error for a file of drawn objects that cannot be used."""
    return FileError(f"{format_path(path)}: {given}", expected, todo)


def ring(values: object, *, shift: float = 0.0) -> Ring:
    """Return corners as a ring.

    Parameters
    ----------
    values
        Pairs of x and y, or one flat list of them.
    shift
        Added to both, in pixels: 0.5 for programs that count from the centers of pixels.

    Returns
    -------
    ring
        ``(N, 2)`` float64, finite, in pixels from the outer corner of the first pixel.

    Raises
    ------
    ValueError
        If the values are no pairs of finite numbers.
    """
    corners = np.asarray(values, dtype=np.float64)
    if corners.ndim == 1 and corners.size % 2 == 0:
        corners = corners.reshape(-1, 2)
    if corners.ndim != 2 or corners.shape[1] < 2:
        raise ValueError("corners that are not pairs of x and y")
    corners = corners[:, :2]
    if not np.isfinite(corners).all():
        raise ValueError("coordinates that are not finite")
    if np.abs(corners).max(initial=0) > 1e9:
        raise ValueError("coordinates above 10^9")
    return np.ascontiguousarray(corners + shift)


def resized(drawing: Drawing, full: tuple[int, int], sides: tuple[int, int]) -> Drawing:
    """Return a drawing on the largest level of a pyramid in the pixels of another level.

    Parameters
    ----------
    drawing
        The objects; if the file states another size than that of the largest level, they stay as they are.
    full, sides
        Height and width of the largest and of the other level, in pixels.
    """
    if drawing.size not in (None, full):
        return drawing
    y, x = sides[0] / full[0], sides[1] / full[1]
    objects = tuple(
        replace(
            one,
            parts=tuple(tuple(corners * (x, y) for corners in part) for part in one.parts),
            bitmap=None if one.bitmap is None else _resized(one.bitmap, y, x),
        )
        for one in drawing.objects
    )
    return replace(drawing, objects=objects, size=sides)


def _resized(bitmap: Bitmap, y: float, x: float) -> Bitmap:
    """Return the pixels of a coarser grid whose centers lie in a pixel of the bitmap."""
    places, begins = [], []
    for start, length, factor in ((bitmap.top, bitmap.inside.shape[0], y), (bitmap.left, bitmap.inside.shape[1], x)):
        own = np.arange(math.floor(start * factor), math.ceil((start + length) * factor))
        at = np.floor((own + 0.5) / factor).astype(np.intp) - start
        own, at = own[(at >= 0) & (at < length)], at[(at >= 0) & (at < length)]
        places.append(at)
        begins.append(int(own[0]) if len(own) else 0)
    return Bitmap(begins[1], begins[0], bitmap.inside[np.ix_(*places)])


def join_sections(objects: Sequence[DrawnObject], names: Sequence[str]) -> tuple[DrawnObject, ...]:
    """Return the objects, those of one name in several sections of a volume as one object.

    Parameters
    ----------
    objects
        The objects.
    names
        The name that a person gave to each; ``""`` for none. Names that two objects of one section have join nothing.
    """
    sections: dict[tuple[str, int], list[int]] = {}
    for one, name in zip(objects, names, strict=True):
        if name and "Z" in one.place:
            sections.setdefault((name, one.place.get("T", 0)), []).append(one.place["Z"])
    joined = {key for key, places in sections.items() if 1 < len(places) == len(set(places))}
    keys = [(name, one.place.get("T", 0)) for one, name in zip(objects, names, strict=True)]
    return tuple(
        replace(one, identity=f"{key[0]} {key[1]}") if key in joined else one
        for one, key in zip(objects, keys, strict=True)
    )


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Ring:
    """Return the outline of a rectangle, ``(4, 2)`` float64 finite coordinates, between two opposite corners."""
    return ring([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def ellipse(center: Sequence[float], radii: Sequence[float]) -> Ring:
    """Return the outline of an ellipse along the axes of the image.

    Parameters
    ----------
    center, radii
        x and y, in pixels.

    Returns
    -------
    ring
        ``(N, 2)`` float64 coordinates; the polygon is nowhere more than 0.01 px from the ellipse.
    """
    largest = max(abs(radii[0]), abs(radii[1]), 1.0)
    # A chord of a circle of radius r lies r (1 - cos(pi / n)) below its arc.
    number = min(4096, max(16, math.ceil(math.pi / math.acos(max(0.0, 1 - 0.01 / largest)))))
    angles = np.arange(number) * (2 * math.pi / number)
    return ring(np.stack([center[0] + radii[0] * np.cos(angles), center[1] + radii[1] * np.sin(angles)], axis=1))


def rotated(corners: Ring, center: Sequence[float], degrees: float) -> Ring:
    """Turn a ring around a point, clockwise on the screen.

    Parameters
    ----------
    corners
        ``(N, 2)`` float64 coordinates.
    center
        x and y of the point.
    degrees
        Angle.

    Returns
    -------
    ring
        ``(N, 2)`` float64 coordinates.
    """
    if not degrees:
        return corners
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return ring((corners - center) @ turn + center)
