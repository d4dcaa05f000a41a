"""GeoJSON of QuPath: features with polygons, holes and several parts, alone, in a list or in a collection.

Coordinates are those of pixel corners of the full-resolution image, as QuPath writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from septum.io.annotations.drawing import Drawing, DrawnObject, Ring, join_sections, ring
from septum.io.annotations.texts import mapping, read_json, sequence, text, whole
from septum.io.formats import DAMAGE, damaged

_NO_AREA = {"Point": "point", "MultiPoint": "point", "LineString": "line", "MultiLineString": "line"}
_FOUND = ("cell", "detection", "tile")
_DEEPEST = 64


def read_geojson(path: Path) -> tuple[Drawing, ...]:
    """Read a GeoJSON file of QuPath, the classification as the class of an object.

    Of a file with cells or detections, these are the objects: annotations are then the regions that they were sought
    in. Nested features (``childObjects``) follow the one that holds them, so that they lie on top.

    Raises
    ------
    FileError
        If the file is damaged or nested too deeply.
    """
    document = read_json(path, "GeoJSON")
    objects: list[tuple[str, str, DrawnObject]] = []
    refused: list[tuple[str, str]] = []
    try:
        for number, feature in enumerate(_features(document, 0), start=1):
            _add(feature, number, objects, refused)
    except DAMAGE as error:
        raise damaged(path, "GeoJSON", error) from error
    regions = [one.name for kind, _, one in objects if kind == "annotation"]
    if regions and any(kind in _FOUND for kind, _, _ in objects):
        objects = [row for row in objects if row[0] != "annotation"]
        refused += [("annotation around detections", name) for name in regions]
    joined = join_sections([one for _, _, one in objects], [named for _, named, _ in objects])
    return (Drawing("QuPath", joined, tuple(refused)),)


def _features(value: object, depth: int) -> Iterator[Mapping[str, Any]]:
    """Yield the features of a document in the order of the file."""
    if depth > _DEEPEST:
        raise ValueError("features that are nested too deeply")
    if isinstance(value, list):
        for one in value:
            yield from _features(one, depth + 1)
        return
    found = mapping(value)
    if "features" in found:
        yield from _features(found["features"], depth + 1)
    elif "geometry" in found:
        yield found
        children = mapping(found.get("properties")).get("childObjects") or found.get("childObjects")
        yield from _features(children, depth + 1)
    elif "coordinates" in found or "geometries" in found:
        yield {"geometry": found}


def _add(
    feature: Mapping[str, Any], number: int, objects: list[tuple[str, str, DrawnObject]], refused: list[tuple[str, str]]
) -> None:
    properties, geometry = mapping(feature.get("properties")), mapping(feature.get("geometry"))
    kind = text(properties.get("objectType") or properties.get("object_type") or properties.get("type")).casefold()
    named = text(properties.get("name"))
    name = f"feature {number}" + (f" ({named})" if named else "")
    if kind == "tmacore":
        refused.append(("core of a tissue array", name))
        return
    parts: list[tuple[Ring, ...]] = []
    known = len(refused)
    for one in _geometries(geometry, 0):
        shape = text(one.get("type"))
        if shape in _NO_AREA:
            refused.append((_NO_AREA[shape], name))
        elif shape == "Polygon":
            parts.append(_polygon(one.get("coordinates")))
        elif shape == "MultiPolygon":
            parts += [_polygon(polygon) for polygon in sequence(one.get("coordinates"))]
        else:
            raise ValueError(f"{name}: a geometry of type {shape or 'nothing'}")
    parts = [part for part in parts if part]
    if not parts:
        refused += [("feature without an outline", name)] if len(refused) == known else []
        return
    classification = properties.get("classification")
    label = text(mapping(classification).get("name") if isinstance(classification, dict) else classification)
    label = label or ": ".join(map(text, sequence(mapping(classification).get("names"))))
    plane = mapping(geometry.get("plane"))
    place = {axis: max(0, whole(plane.get(axis.lower())) or 0) for axis in "TZ"}
    objects.append((kind or "annotation", named, DrawnObject(name, tuple(parts), None, label, place)))


def _geometries(geometry: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    if depth > _DEEPEST:
        raise ValueError("geometries that are nested too deeply")
    if "geometries" in geometry:
        for one in sequence(geometry["geometries"]):
            yield from _geometries(mapping(one), depth + 1)
    elif geometry:
        yield geometry


def _polygon(coordinates: object) -> tuple[Ring, ...]:
    """Return the shell and the holes of a polygon."""
    return tuple(ring(one) for one in sequence(coordinates) if one)
