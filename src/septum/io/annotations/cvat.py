"""CVAT for images: one XML file for many images; polygons, boxes, ellipses and masks.

Coordinates are those of pixel corners. Documents with a DOCTYPE are refused, so that no entity is ever expanded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.parsers import expat

import numpy as np

from septum.io.annotations.drawing import Bitmap, Drawing, DrawnObject, ellipse, rectangle, refuse, ring, rotated
from septum.io.annotations.rle import decode_runs
from septum.io.annotations.texts import read_bytes, size_of, text
from septum.io.formats import DAMAGE, check_memory, damaged

_NO_AREA = {"polyline": "line", "points": "point", "cuboid": "cuboid", "skeleton": "skeleton"}
_SHAPES = ("polygon", "box", "ellipse", "mask", *_NO_AREA)


class _Images:
    """Images with their shapes, filled while the document is parsed; an object lies on top by ``z_order``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.drawings: list[Drawing] = []
        self.tracks = 0
        self._image: Mapping[str, str] | None = None
        self._objects: list[tuple[int, DrawnObject]] = []
        self._refused: list[tuple[str, str]] = []

    def start(self, name: str, values: dict[str, str]) -> None:
        if name == "track":
            self.tracks += 1
        elif name == "image":
            self._image, self._objects, self._refused = values, [], []
        elif name in _SHAPES and self._image is not None:
            self._shape(name, values)

    def end(self, name: str) -> None:
        if name != "image" or self._image is None:
            return
        image, self._image = self._image, None
        size = size_of(_number(image, "height"), _number(image, "width"))
        objects = [one for _, one in sorted(self._objects, key=lambda pair: pair[0])]
        self.drawings.append(
            Drawing("CVAT", tuple(objects), tuple(self._refused), image=image.get("name", ""), size=size)
        )

    def _shape(self, kind: str, values: Mapping[str, str]) -> None:
        assert self._image is not None
        label = text(values.get("label"))
        number = len(self._objects) + len(self._refused) + 1
        name = f"shape {number}" + (f" ({label})" if label else "")
        if kind in _NO_AREA:
            self._refused.append((_NO_AREA[kind], name))
            return
        angle = _number(values, "rotation") if "rotation" in values else 0.0
        if kind == "mask":
            one = DrawnObject(name, bitmap=self._bitmap(values), label=label)
        elif kind == "polygon":
            one = DrawnObject(name, ((ring([p.split(",") for p in values["points"].split(";")]),),), label=label)
        elif kind == "box":
            x0, y0, x1, y1 = (_number(values, side) for side in ("xtl", "ytl", "xbr", "ybr"))
            turned = rotated(rectangle(x0, y0, x1, y1), ((x0 + x1) / 2, (y0 + y1) / 2), angle)
            one = DrawnObject(name, ((turned,),), label=label)
        else:
            center = _number(values, "cx"), _number(values, "cy")
            turned = rotated(ellipse(center, (_number(values, "rx"), _number(values, "ry"))), center, angle)
            one = DrawnObject(name, ((turned,),), label=label)
        self._objects.append((int(_number(values, "z_order")) if "z_order" in values else 0, one))

    def _bitmap(self, values: Mapping[str, str]) -> Bitmap:
        left, top, width, height = (int(values[side]) for side in ("left", "top", "width", "height"))
        runs = np.array(values["rle"].split(","), dtype=np.int64)
        if min(width, height) <= 0 or max(abs(left), abs(top)) > 2**31:
            raise ValueError(f"a mask of {width} x {height} pixels at {left}, {top}")
        check_memory(self.path, 3 * width * height)
        return Bitmap(left, top, decode_runs(runs, height, width, by_column=False))


def read_cvat(path: Path) -> tuple[Drawing, ...]:
    """Read a file of CVAT for images; one drawing for each image, also for those without objects.

    Raises
    ------
    FileError
        If the file is damaged, holds a DOCTYPE, or is CVAT for video.
    """
    data = read_bytes(path, "CVAT", growth=6)
    images = _Images(path)

    def forbid(*_: object) -> None:
        raise ValueError("a DOCTYPE, which CVAT does not write")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = forbid
    parser.StartElementHandler, parser.EndElementHandler = images.start, images.end
    try:
        parser.Parse(data, True)
    except (*DAMAGE, expat.ExpatError) as error:
        raise damaged(path, "CVAT", error) from error
    if images.tracks and not images.drawings:
        raise refuse(
            path, f"{images.tracks} tracks of CVAT for video", "CVAT for images 1.1", "export the task in this format"
        )
    return tuple(images.drawings)


def _number(values: Mapping[str, str], key: str) -> float:
    if key not in values:
        raise ValueError(f"a shape without {key}")
    return float(values[key])
