"""COCO: one JSON file for many images; polygons, and run lengths that are plain or compressed.

Coordinates are read as those of pixel corners. Programs differ by half a pixel in what they write; COCO's own program
(pycocotools) fills outlines along corners with the same pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from septum.errors import FileError
from septum.io.annotations.drawing import Bitmap, Drawing, DrawnObject, Ring, join_sections, refuse, ring
from septum.io.annotations.rle import decode_runs, uncompressed
from septum.io.annotations.texts import (
    by_folded,
    exact,
    folded,
    mapping,
    quoted,
    read_json,
    sequence,
    size_of,
    text,
    whole,
)
from septum.io.formats import DAMAGE, check_memory, damaged


def read_coco(path: Path) -> tuple[Drawing, ...]:
    """Read a COCO file; one drawing for each image, also for those without objects.

    Images of one name and size that state different ``t`` and ``z``, as Septum writes the planes of a stack, are one
    image, also if one plane is left. Objects of one ``label`` in several sections of a volume are one object.

    Ids are compared as they are, and without the white space in them where only one listed id fits so.

    Raises
    ------
    FileError
        If the file is damaged, two images have one id, or an annotation names an image or a class that the file does
        not list.
    """
    document = mapping(read_json(path, "COCO"))
    listed = [mapping(one) for one in sequence(document.get("images"))]
    images = {exact(one.get("id")): one for one in listed}
    if len(images) < len(listed):
        given = f"{len(listed)} images with {len(images)} different ids"
        raise refuse(path, given, "an id of its own for each image", "export it again")
    classes = {
        exact(one.get("id")): text(one.get("name")) for one in map(mapping, sequence(document.get("categories")))
    }
    planes, alike_images, alike_classes = _planes(images), by_folded(images), by_folded(classes)
    found: dict[str, list[DrawnObject]] = defaultdict(list)
    labels: dict[str, list[str]] = defaultdict(list)
    refused: dict[str, list[tuple[str, str]]] = defaultdict(list)
    crowds: dict[str, int] = defaultdict(int)
    for number, one in enumerate(map(mapping, sequence(document.get("annotations"))), start=1):
        name = f"annotation {text(one.get('id')) or number}"
        image, category = exact(one.get("image_id")), exact(one.get("category_id"))
        image = image if image in images else alike_images.get(folded(image), image)
        category = category if category in classes else alike_classes.get(folded(category), folded(category))
        if image not in images:
            given = f"{name} names the image {quoted(one.get('image_id'))}"
            raise refuse(path, given, "the id of a listed image", "export it again")
        if category and classes and category not in classes:
            given = f"{name} names the class {quoted(one.get('category_id'))}"
            raise refuse(path, given, "the id of a listed class", "export it again")
        try:
            parts, bitmap = _shape(path, one.get("segmentation"), mapping(images[image]))
        except FileError:
            raise
        except DAMAGE as error:
            raise damaged(path, "COCO", f"{name}: {error}") from error
        image, place = planes[image]
        if not parts and bitmap is None:
            refused[image].append(("box without an outline" if one.get("bbox") else "object without an outline", name))
            continue
        crowds[image] += one.get("iscrowd") == 1
        found[image].append(DrawnObject(name, parts, bitmap, classes.get(category, ""), place))
        labels[image].append(text(one.get("label")))
    drawings = []
    for key in dict.fromkeys(first for first, _ in planes.values()):
        one, objects = images[key], join_sections(found[key], labels[key])
        size = size_of(one.get("height"), one.get("width"))
        notes = (f"{crowds[key]} marked as crowds, each read as one object",) if crowds[key] else ()
        file_name = exact(one.get("file_name")) or key
        drawings.append(Drawing("COCO", objects, tuple(refused[key]), notes, file_name, size))
    return tuple(drawings)


def _planes(images: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, dict[str, int]]]:
    """Return the first plane of its stack and the page of each image, by ids; itself and none if it states no page."""
    by_name: dict[tuple[str, object], list[str]] = defaultdict(list)
    for key, one in images.items():
        by_name[exact(one.get("file_name")) or key, size_of(one.get("height"), one.get("width"))].append(key)
    planes: dict[str, tuple[str, dict[str, int]]] = {key: (key, {}) for key in images}
    for keys in by_name.values():
        pages = [(whole(images[key].get("t")), whole(images[key].get("z"))) for key in keys]
        stated = [{"T": t, "Z": z} for t, z in pages if t is not None and z is not None and min(t, z) >= 0]
        # Of several images of one plane each, none is a stack.
        if (len(keys) > 1 or len(by_name) == 1) and len(keys) == len(set(pages)) == len(stated):
            planes |= {key: (keys[0], page) for key, page in zip(keys, stated, strict=True)}
    return planes


def _shape(
    path: Path, segmentation: object, image: Mapping[str, Any]
) -> tuple[tuple[tuple[Ring, ...], ...], Bitmap | None]:
    """Return the parts of polygons, or the pixels of run lengths; nothing if there are none."""
    if isinstance(segmentation, list):
        polygons = [segmentation] if segmentation and not isinstance(segmentation[0], list) else segmentation
        rings = [ring(polygon) for polygon in polygons if polygon]
        return tuple((one,) for one in rings if len(one) > 2), None
    runs = mapping(segmentation)
    if not runs:
        return (), None
    sides = sequence(runs.get("size"))
    size = size_of(*sides[:2]) if len(sides) == 2 else None
    if size is None:
        raise ValueError("run lengths without a size")
    stated = size_of(image.get("height"), image.get("width"))
    if stated is not None and size != stated:
        raise ValueError(f"run lengths of {size[0]} x {size[1]} pixels, the image has {stated[0]} x {stated[1]}")
    check_memory(path, 3 * size[0] * size[1])
    counts = runs.get("counts")
    lengths = uncompressed(counts) if isinstance(counts, str) else counts
    inside = decode_runs(lengths if lengths is not None else (), *size, by_column=True)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return (), None
    top, left = int(rows[0]), int(columns[0])
    return (), Bitmap(left, top, inside[top : rows[-1] + 1, left : columns[-1] + 1].copy())
