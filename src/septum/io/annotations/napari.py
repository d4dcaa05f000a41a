"""napari: a CSV file of a shapes layer, one row a corner; polygons, rectangles and ellipses.

napari counts from the centers of pixels: the first pixel covers -0.5 to 0.5. Half a pixel is added.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from septum.io.annotations.drawing import PAGE, Drawing, DrawnObject, ellipse, ring
from septum.io.annotations.texts import read_bytes, text
from septum.io.formats import DAMAGE, damaged

_NO_AREA = {"line": "line", "path": "line"}
_SHIFT = 0.5


def read_napari(path: Path) -> tuple[Drawing, ...]:
    """Read the CSV file of a shapes layer; axes before the last two are the page of a stack.

    Raises
    ------
    FileError
        If the file is damaged, or a shape lies across pages.
    """
    data = read_bytes(path, "napari", growth=30)
    shapes: dict[str, tuple[str, list[list[float]]]] = {}
    objects: list[DrawnObject] = []
    refused: list[tuple[str, str]] = []
    try:
        for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")):
            index, kind = text(row.get("index")), text(row.get("shape-type"))
            shapes.setdefault(index, (kind, []))[1].append(_coordinates(row))
        for index, (kind, rows) in shapes.items():
            name = f"shape {index}"
            if kind in _NO_AREA:
                refused.append((_NO_AREA[kind], name))
            elif kind in ("polygon", "rectangle", "ellipse"):
                objects.append(_object(name, kind, np.array(rows, dtype=np.float64)))
            else:
                refused.append((f"shape of type {kind or 'nothing'}", name))
    except (*DAMAGE, csv.Error) as error:
        raise damaged(path, "napari", error) from error
    return (Drawing("napari", tuple(objects), tuple(refused)),)


def _coordinates(row: Mapping[str, str]) -> list[float]:
    names = [key for key in row if isinstance(key, str) and key.startswith("axis-")]
    return [float(row[name]) for name in sorted(names, key=lambda name: int(name[5:]))]


def _object(name: str, kind: str, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> DrawnObject:
    if rows.ndim != 2 or not 2 <= rows.shape[1] <= 4 or not np.isfinite(rows).all():
        raise ValueError(f"{name}: corners that are not finite coordinates of 2 to 4 axes")
    pages = np.rint(rows[:, :-2])
    if (pages != pages[0]).any() or (pages < 0).any() or (pages > 2**31).any():
        raise ValueError(f"{name}: corners on several pages")
    axes = {0: (), 1: (PAGE,), 2: ("T", "Z")}[pages.shape[1]]
    place = {axis: int(index) for axis, index in zip(axes, pages[0], strict=True)}
    corners = ring(rows[:, :-3:-1], shift=_SHIFT)
    if kind == "ellipse":
        # Four corners of a box, which may be turned: the ellipse touches the middle of each side.
        if len(corners) != 4:
            raise ValueError(f"{name}: an ellipse of {len(corners)} corners")
        across, along = (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
        largest = max(math.hypot(*across), math.hypot(*along))
        unit = ellipse((0, 0), (largest, largest)) / max(largest, 1e-9)
        corners = ring(unit[:, :1] * across + unit[:, 1:] * along + corners.mean(axis=0))
    return DrawnObject(name, ((corners,),), place=place)
