"""Labelme: ``NAME.json`` beside an image; polygons, rectangles, circles and masks.

Written after the format's documentation; labelme itself (GPL) is not used. Its coordinates are those of pixel corners:
a click in the middle of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from septum.io.annotations.drawing import Bitmap, Drawing, DrawnObject, ellipse, rectangle, ring
from septum.io.annotations.texts import exact, mapping, read_json, sequence, size_of, text, whole
from septum.io.formats import DAMAGE, DEFLATE, damaged

_NO_AREA = {"line": "line", "linestrip": "line", "point": "point", "points": "point"}
_MOST_PIXELS = 1 << 30


def read_labelme(path: Path) -> tuple[Drawing, ...]:
    """Read a file of labelme; shapes of one group and label are one object.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    document = mapping(read_json(path, "labelme"))
    objects: list[DrawnObject] = []
    refused: list[tuple[str, str]] = []
    try:
        for number, shape in enumerate(sequence(document.get("shapes")), start=1):
            _add(mapping(shape), number, objects, refused)
    except DAMAGE as error:
        raise damaged(path, "labelme", error) from error
    size = size_of(document.get("imageHeight"), document.get("imageWidth"))
    image = exact(document.get("imagePath")).replace("\\", "/").rpartition("/")[2]
    return (Drawing("labelme", tuple(objects), tuple(refused), image=image, size=size),)


def _add(shape: Mapping[str, Any], number: int, objects: list[DrawnObject], refused: list[tuple[str, str]]) -> None:
    kind, label = text(shape.get("shape_type")) or "polygon", text(shape.get("label"))
    name = f"shape {number}" + (f" ({label})" if label else "")
    if kind in _NO_AREA:
        refused.append((_NO_AREA[kind], name))
        return
    group = whole(shape.get("group_id"))
    identity = "" if group is None else f"group {group} {label}"
    points = ring(shape.get("points"))
    if kind == "mask":
        objects.append(DrawnObject(name, bitmap=_bitmap(shape, points), label=label, identity=identity))
        return
    if kind == "rectangle" and len(points) == 2:
        outline = rectangle(*points[0], *points[1])
    elif kind == "circle" and len(points) == 2:
        radius = math.hypot(*(points[1] - points[0]))
        outline = ellipse(points[0].tolist(), (radius, radius))
    elif kind in ("polygon", "rectangle", "oriented_rectangle"):
        outline = points
    else:
        refused.append((f"shape of type {kind}", name))
        return
    objects.append(DrawnObject(name, ((outline,),), label=label, identity=identity))


def _bitmap(shape: Mapping[str, Any], points: np.ndarray[Any, Any]) -> Bitmap:
    """Return the pixels of a mask: a PNG in base 64, its box in the points, last pixel included."""
    # The class rather than Image.open, whose limit refuses valid large masks; the size is checked here.
    from PIL.PngImagePlugin import PngImageFile

    try:
        data = base64.b64decode(text_of(shape.get("mask")), validate=True)
    except binascii.Error as error:
        raise ValueError("a mask that is not base64") from error
    with PngImageFile(io.BytesIO(data)) as image:
        width, height = image.size
        if width * height > min(_MOST_PIXELS, len(data) * DEFLATE * 8):
            raise ValueError(f"a mask that claims {width} x {height} pixels but holds {len(data)} bytes")
        inside = np.asarray(image.convert("L")) > 0
    left, top = (int(v) for v in np.floor(points.min(axis=0)))
    return Bitmap(left, top, inside)


def text_of(value: object) -> str:
    """Return a string as it is; raise ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError("a mask without pixels")
    return value
