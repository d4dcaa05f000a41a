"""Fill drawn objects into a label image, by the centers of pixels.

A pixel belongs to an object if its center lies inside of the outline. A center that lies exactly on it belongs to the
object on the right and below, as in Java (ImageJ, QuPath), so that objects with a common border share no pixel. Of
objects that overlap, the later one lies on top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.io.annotations.drawing import PAGE, Drawing, DrawnObject, Ring, refuse

_AT_ONCE = 1 << 22  # crossings of outlines and rows that are computed at once
_MOST = 1 << 28  # of one object: a file of a megabyte can claim that many
_NAMED = 5


@dataclass(frozen=True)
class Filled:
    """A label image of drawn objects, and the record of each of them.

    Attributes
    ----------
    labels
        ``(T, Z, Y, X)`` int32: 0 background, ids from 1 in the order of the file, or numbers of classes; -1 on pages of
        a stack without any object.
    program
        See `Drawing`.
    objects
        Number of objects that hold a pixel.
    overlapping, overlap_px
        Number of objects that lie on an earlier one, and of the pixels that they took.
    hidden
        Names of objects that later ones cover entirely.
    refused
        Kind and name of shapes that are no object: points, lines, outlines around no center of a pixel.
    cut
        Names of objects that the border of the image cuts.
    notes
        See `Drawing`.
    classes
        Names of the classes of all objects.
    """

    labels: NDArray[np.int32]
    program: str
    objects: int
    overlapping: int = 0
    overlap_px: int = 0
    hidden: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    cut: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def fill(
    drawing: Drawing,
    path: Path,
    pages: tuple[int, int],
    sides: tuple[int, int],
    classes: Mapping[str, int] | None = None,
) -> Filled:
    """Fill the objects of a drawing into a label image.

    Parameters
    ----------
    drawing
        The objects.
    path
        Their file, for messages.
    pages
        Frames and sections of the image, 1 where it has none.
    sides
        Height and width of the image, in pixels.
    classes
        Number of each class by its name, to fill classes; None for ids of objects.

    Raises
    ------
    FileError
        If an object lies outside of the image or names a page that the image lacks, if the file states another size,
        or if no shape has an area.
    """
    if drawing.size is not None and drawing.size != sides:
        stated, own = (" x ".join(map(str, size)) for size in (drawing.size, sides))
        raise refuse(
            path, f"drawn on {stated} pixels, the image has {own}", "the size of its image", "export the objects again"
        )
    if drawing.refused and not drawing.objects:
        raise refuse(
            path, f"no shape with an area: {list_names(drawing.refused)}", "outlines or masks", "draw outlines"
        )
    canvas = _Canvas(pages, sides, drawing, classes)
    for one, number in zip(drawing.objects, _numbers(drawing.objects), strict=True):
        place = _page(one, path, pages)
        inside, top, left = _inside(one, path, sides, canvas.cut)
        if not inside.any():
            canvas.refused.append(("outline around no center of a pixel", one.name))
            continue
        window = (*place, slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1]))
        canvas.paint(number, inside, window, one)
    return canvas.result(drawing)


class _Canvas:
    """A label image that counts what becomes of each object."""

    def __init__(
        self, pages: tuple[int, int], sides: tuple[int, int], drawing: Drawing, classes: Mapping[str, int] | None
    ) -> None:
        self.labels = np.zeros((*pages, *sides), np.int32)
        self.refused, self.cut = list(drawing.refused), list[str]()
        self._classes = classes
        self._owner = self.labels if classes is None else np.zeros_like(self.labels)
        self._painted, self._lost = np.zeros((2, len(drawing.objects) + 1), np.int64)
        self._over = set[int]()
        self._used = np.zeros(pages, bool)
        self._names: dict[int, str] = {}

    def paint(self, number: int, inside: NDArray[np.bool_], window: tuple[Any, ...], one: DrawnObject) -> None:
        before = self._owner[window][inside]
        others = before[(before > 0) & (before != number)]
        if others.size:
            self._over.add(number)
            np.add.at(self._lost, others, 1)
        self._painted[number] += np.count_nonzero(before != number)
        self._owner[window][inside] = number
        if self._classes is not None:
            self.labels[window][inside] = self._classes[one.label]
        self._used[window[:2]] = True
        self._names[number] = one.name

    def result(self, drawing: Drawing) -> Filled:
        if self._used.size > 1:
            self.labels[~self._used] = -1
        hidden = np.flatnonzero((self._painted > 0) & (self._painted == self._lost))
        return Filled(
            labels=self.labels,
            program=drawing.program,
            objects=int(np.count_nonzero(self._painted > self._lost)),
            overlapping=len(self._over),
            overlap_px=int(self._lost.sum()),
            hidden=tuple(self._names[int(n)] for n in hidden),
            refused=tuple(self.refused),
            cut=tuple(dict.fromkeys(self.cut)),
            notes=drawing.notes,
            classes=tuple(sorted({one.label for one in drawing.objects})),
        )


def list_names(shapes: Sequence[tuple[str, str]]) -> str:
    """Return shapes by kind with the first names of each: ``"2 points (a, b), 1 line (c)"``."""
    kinds: dict[str, list[str]] = {}
    for kind, name in shapes:
        kinds.setdefault(kind, []).append(name)
    return ", ".join(_list_kind(kind, names) for kind, names in kinds.items())


def _list_kind(kind: str, names: Sequence[str]) -> str:
    noun, _, rest = kind.partition(" ")
    plural = noun if len(names) == 1 else noun + ("es" if noun.endswith("x") else "s")
    listed = ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
    return f"{len(names)} {plural}{' ' if rest else ''}{rest} ({listed})"


def _numbers(objects: Sequence[DrawnObject]) -> list[int]:
    """Return the id of each object, from 1 in the order of the file; objects of one identity have one id."""
    known: dict[object, int] = {}
    return [known.setdefault(one.identity or index, len(known) + 1) for index, one in enumerate(objects)]


def _page(one: DrawnObject, path: Path, pages: tuple[int, int]) -> tuple[int, int]:
    """Return the frame and the section that an object lies on."""
    if not one.place and math.prod(pages) > 1:
        given = f"{one.name} states no page, and the image has {math.prod(pages)}"
        raise refuse(path, given, "a page for each object", "draw on the pages, or cut the image into single pages")
    frame, section = one.place.get("T", 0), one.place.get("Z", 0)
    if 1 in pages and (PAGE in one.place or not (frame and section)):
        # One axis at most has pages: whatever the programs call it.
        page = one.place.get(PAGE, frame or section)
        frame, section = (page, 0) if pages[1] == 1 else (0, page)
    elif PAGE in one.place:
        given = f"{one.name} states page {one.place[PAGE] + 1}, and the image has frames and sections"
        raise refuse(path, given, "a frame and a section", "save the objects from the image with both axes")
    if frame >= pages[0] or section >= pages[1]:
        given = f"{one.name} lies on page {max(frame, section) + 1}, and the image has {pages[0]} x {pages[1]}"
        raise refuse(path, given, "pages of its image", "name the image that it was drawn on")
    return frame, section


def _inside(one: DrawnObject, path: Path, sides: tuple[int, int], cut: list[str]) -> tuple[NDArray[np.bool_], int, int]:
    """Return the pixels of an object ``(h, w)`` bool, and the row and column of the first of them."""
    low, high = _bounds(one)
    center = (low + high) / 2
    if not ((center >= 0) & (center <= sides[::-1])).all():
        where = f"x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}"
        given = f"{one.name} lies outside of the image ({where}; the image has {sides[0]} x {sides[1]} pixels)"
        raise refuse(path, given, "objects within the image", "name the image that it was drawn on")
    if (low < -1).any() or (high > np.add(sides[::-1], 1)).any():
        cut.append(one.name)
    left, top = (int(v) for v in np.clip(np.floor(low), 0, sides[::-1]))
    right, bottom = (int(v) for v in np.clip(np.ceil(high), 0, sides[::-1]))
    inside = np.zeros((bottom - top, right - left), bool)
    try:
        for part in one.parts:
            inside |= _fill_rings(part, top, left, inside.shape)
    except OverflowError as error:
        raise refuse(path, f"{one.name}: {error}", "an outline of an object", "draw it again") from error
    if one.bitmap is not None:
        rows, columns = slice(top, bottom), slice(left, right)
        full = one.bitmap.inside
        part_rows = slice(rows.start - one.bitmap.top, rows.stop - one.bitmap.top)
        part_columns = slice(columns.start - one.bitmap.left, columns.stop - one.bitmap.left)
        inside |= full[part_rows, part_columns]
    return inside, top, left


def _bounds(one: DrawnObject) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest x and y of an object."""
    corners = [ring for part in one.parts for ring in part]
    if one.bitmap is not None:
        (height, width), left, top = one.bitmap.inside.shape, one.bitmap.left, one.bitmap.top
        corners.append(np.array([(left, top), (left + width, top + height)], np.float64))
    corners = [ring for ring in corners if len(ring)] or [np.zeros((1, 2))]
    return np.min([ring.min(axis=0) for ring in corners], axis=0), np.max([r.max(axis=0) for r in corners], axis=0)


def _fill_rings(part: Sequence[Ring], top: int, left: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return ``(h, w)`` bool, True for pixels whose center lies inside of an odd number of rings."""
    # A pixel changes sides wherever an edge crosses its row to the left of its center.
    crossings = np.zeros((shape[0], shape[1] + 1), np.uint8)
    for rows, columns in _crossings(part, top, left, shape):
        np.add.at(crossings, (rows, columns), 1)  # only odd or even counts, so that 256 may be 0
    return np.asarray(np.cumsum(crossings, axis=1, dtype=np.uint8)[:, :-1] % 2 == 1)


def _crossings(
    part: Sequence[Ring], top: int, left: int, shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield row and first column to the right of each crossing of an edge and the line of centers of a row."""
    edges = [np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in part if len(ring) > 2]
    if not edges:
        return
    ends = np.concatenate(edges)
    # From the upper end, so that neighbors with a common edge, which they walk in opposite directions, agree exactly.
    down = np.lexsort((ends[:, :, 0], ends[:, :, 1]), axis=1)
    ends = np.take_along_axis(ends, down[:, :, np.newaxis], axis=1)
    (x0, y0), (x1, y1) = ends[:, 0].T, ends[:, 1].T
    first = np.clip(np.ceil(y0 - 0.5) - top, 0, shape[0]).astype(np.int64)
    stop = np.clip(np.ceil(y1 - 0.5) - top, 0, shape[0]).astype(np.int64)
    counts = stop - first
    if counts.sum() > _MOST:
        raise OverflowError(f"an outline that crosses {counts.sum():,} rows of pixels")
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (x1 - x0) / (y1 - y0)
    ahead = np.cumsum(counts)
    at = 0
    while at < len(counts):
        end = max(at + 1, int(np.searchsorted(ahead, (ahead[at - 1] if at else 0) + _AT_ONCE, side="right")))
        edge = np.repeat(np.arange(at, end), counts[at:end])
        before = ahead[at - 1] if at else 0
        row = np.arange(before, before + len(edge)) - (ahead - counts)[edge] + first[edge]
        x = x0[edge] + (row + top + 0.5 - y0[edge]) * slope[edge]
        yield row, np.clip(np.ceil(x - 0.5) - left, 0, shape[1]).astype(np.int64)
        at = end
