"""Read drawn objects as a mask on the grid of their image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from septum.errors import FileError
from septum.io.annotations.drawing import resized
from septum.io.annotations.formats import is_drawn, read_drawing, split_place
from septum.io.annotations.raster import Filled, fill
from septum.io.formats import check_memory
from septum.io.image import Image
from septum.pairing.fit import Grid

_NO_LABELS = np.zeros((0, 0, 0, 0), np.int32)


def read_drawn_mask(
    place: Path, grid: Grid, *, classes: Mapping[str, int] | None = None
) -> tuple[Image, Filled | None]:
    """Read drawn objects as a mask.

    Parameters
    ----------
    place
        A file of drawn objects, or the objects of one image in it; see `septum.io.annotations.formats`.
    grid
        The grid of its image; objects are drawn on the largest level of a pyramid, unless the file states another size.
    classes
        Number of each class by its name, for a mask of classes; None for ids of objects.

    Returns
    -------
    mask
        ``(1, *S)`` or ``(T, 1, *S)`` int32: ids from 1 or numbers of classes, 0 background, -1 on pages without any
        object. The labels as they are stored, where the file holds those.
    filled
        What became of each object, without the labels; None where the file holds labels.

    Raises
    ------
    FileError
        If the file cannot be read, or an object lies outside of the image.
    """
    drawing, path = read_drawing(place), split_place(place)[0]
    if drawing.labels is not None:
        axes = "CYX" if drawing.labels.ndim == 2 else "CZYX"
        return Image.from_array(drawing.labels[np.newaxis], axes, file_axes=axes[1:], location=place), None
    sides = dict(zip(grid.axes, grid.shape, strict=True))
    if grid.full_sides is not None:
        drawing = resized(drawing, grid.full_sides, (sides["Y"], sides["X"]))
    pages = sides.get("T", 1), sides.get("Z", 1)
    check_memory(path, 16 * pages[0] * pages[1] * sides["Y"] * sides["X"])
    filled = fill(drawing, path, pages, (sides["Y"], sides["X"]), classes)
    shape = [1 if axis == "C" else sides[axis] for axis in grid.axes]
    named = grid.axes.replace("C", "")
    mask = Image.from_array(filled.labels.reshape(shape), grid.axes, file_axes=named, location=place)
    return mask, replace(filled, labels=_NO_LABELS)


def class_names(place: Path) -> frozenset[str]:
    """Return the names of the classes of drawn objects.

    Raises
    ------
    FileError
        If the file cannot be read.
    """
    return frozenset(one.label for one in read_drawing(place).objects)


def class_numbers(
    places: Iterable[Path | None], names: Callable[[Path], Iterable[str]] = class_names
) -> dict[str, int] | None:
    """Return a number from 1 for each class of drawn objects, in the order of their names; None without any.

    A file that cannot be read has no classes here; its error is raised when its mask is read. `names` returns the
    classes of a place.
    """
    found: set[str] = set()
    for place in places:
        if place is not None and is_drawn(place):
            with suppress(FileError):
                found.update(names(place))
    return {name: number for number, name in enumerate(sorted(found), start=1)} or None
