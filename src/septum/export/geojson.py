"""Write objects as GeoJSON, as QuPath reads it: a feature an object and plane, in pixels of the full resolution.

The form follows QuPath 0.7 (`QuPathTypeAdapters`, `ROITypeAdapters`): closed rings, identifiers that stay the same when
a result is imported again, `objectType`, `classification`, `measurements`, and the plane where there are several.
"""

from __future__ import annotations

import gzip
import io
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from septum.export.outlines import trace_outlines
from septum.export.runs import Frame, complete_objects
from septum.io.atomic import storable, whole_file

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "septum")
_COLORS = ((255, 176, 0), (0, 190, 255), (120, 200, 60), (230, 80, 160), (150, 110, 240), (240, 110, 60))

Describe = Callable[[int, int, int], Mapping[str, float]]
"""Returns the measurements of an object by time point, slice of the label image, and label."""


def write_geojson(
    path: Path,
    frames: Iterable[Frame],
    *,
    classes: bool = False,
    name: str | None = None,
    describe: Describe | None = None,
    height: int | None = None,
    stretch: tuple[float, float] = (1, 1),
) -> int:
    """Write the objects of a label image as GeoJSON for QuPath, as a whole or not at all.

    Parameters
    ----------
    path
        The file: ``.geojson``, or ``.geojson.gz``, which is compressed.
    frames
        Of the label image, from `septum.export.runs.split_labels`.
    classes
        Labels are class values: one annotation a class. Otherwise one detection an object.
    name
        Name of the image, part of the identifiers; the file name of the label image where None.
    describe
        Measurements of an object.
    height
        Rows that are held at a time; None: by the number of pixels.
    stretch
        X and Y pixels of the full resolution in one of the label image.

    Returns
    -------
    int
        Number of features.

    Raises
    ------
    FileError, DataError
        If the label image cannot be read, or the file not written.
    """
    count = 0
    with whole_file(path) as part, open_text(part) as file:
        file.write('{"type":"FeatureCollection","features":[')
        for frame in frames:
            known = storable(name or Path(frame.labels.name).name)
            for runs in complete_objects(frame, height=height):
                for outline in trace_outlines(runs):
                    polygons = [[_closed(ring, stretch) for ring in polygon] for polygon in outline.polygons]
                    z = outline.z if frame.z is None else frame.z
                    measured = describe(frame.t, z, outline.label) if describe is not None else {}
                    file.write(",\n" if count else "\n")
                    identity = str(uuid.uuid5(_NAMESPACE, f"{known}:{frame.t}:{z}:{outline.label}"))
                    file.write(_feature((frame.t, z), outline.label, polygons, identity, measured, classes=classes))
                    count += 1
        file.write("\n]}\n")
    return count


def class_color(value: int) -> tuple[int, int, int]:
    """Return the color of a class: red, green and blue, 0 .. 255."""
    return _COLORS[value % len(_COLORS)]


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Open a text file to write; compressed, and without a time in it, if its name ends in ``.gz``."""
    with ExitStack() as opened:
        file: Any = opened.enter_context(path.open("wb"))
        if path.suffix == ".gz":
            file = opened.enter_context(gzip.GzipFile("", "wb", 6, file, 0))
        yield opened.enter_context(io.TextIOWrapper(file, encoding="utf-8", newline="\n"))


def _feature(
    place: tuple[int, int],
    label: int,
    polygons: list[list[list[list[float]]]],
    identity: str,
    measured: Mapping[str, float],
    *,
    classes: bool,
) -> str:
    t, z = place
    single = len(polygons) == 1
    geometry: dict[str, Any] = {
        "type": "Polygon" if single else "MultiPolygon",
        "coordinates": polygons[0] if single else polygons,
    }
    if z or t:
        geometry["plane"] = {"c": -1, "z": z, "t": t}
    properties: dict[str, Any] = {"objectType": "annotation" if classes else "detection", "name": str(label)}
    if classes:
        properties["classification"] = {"name": f"class {label}", "color": class_color(label)}
    if measured:
        properties["measurements"] = measured
    feature = {
        "type": "Feature",
        "id": identity,
        "geometry": geometry,
        "properties": properties,
    }
    return json.dumps(feature, separators=(",", ":"))


def _closed(ring: NDArray[np.int64], stretch: tuple[float, float]) -> list[list[float]]:
    """Return a ring that ends where it began, as GeoJSON asks for, in pixels of the full resolution."""
    corners = ring if stretch == (1, 1) else ring * stretch
    listed: list[list[float]] = corners.tolist()
    return [*listed, listed[0]]
