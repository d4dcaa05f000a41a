"""What a person does to labels: paint, fill, outline, delete, merge, cut, accept, complete. Each is one edit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from septum.arrays.targets import UNANNOTATED, connected_components
from septum.errors import UsageError
from septum.settings import Settings
from septum.studio.label_store import Edit, LabelStore, Plane
from septum.studio.tile_grid import HIGHEST_ID, SIDE, Place, Rect, apply_runs, tile_box

Label = Annotated[int, Field(ge=UNANNOTATED, le=HIGHEST_ID)]
ObjectId = Annotated[int, Field(ge=1, le=HIGHEST_ID)]
Point = tuple[float, float]

# A region to fill may reach this far from the pixel that was clicked.
_FILL_REACH = 1024
# Sides of the largest rectangle that is changed at once, in pixels.
_MOST_PIXELS = 1 << 28


class PaintedTile(Settings):
    """Changed pixels of a tile: `runs` as for `apply_runs`, on the state `version`."""

    ty: int
    tx: int
    version: int
    runs: tuple[int, ...]


class Paint(Settings):
    """A stroke of the brush or of the eraser, as the page has drawn it."""

    kind: Literal["paint"]
    name: Annotated[str, Field(max_length=40)] = "brush"
    tiles: Annotated[tuple[PaintedTile, ...], Field(max_length=1024)]


class Polygon(Settings):
    """The pixels whose centers lie inside an outline of (y, x) points become `value`; `protect` keeps objects."""

    kind: Literal["polygon"]
    points: Annotated[tuple[Point, ...], Field(min_length=3, max_length=20_000)]
    value: Label
    protect: bool = True


class Fill(Settings):
    """The connected pixels of the same label around a pixel become `value`."""

    kind: Literal["fill"]
    y: int
    x: int
    value: Label


class Delete(Settings):
    """An object becomes background."""

    kind: Literal["delete"]
    object: ObjectId


class Merge(Settings):
    """An object becomes part of another one."""

    kind: Literal["merge"]
    object: ObjectId
    into: ObjectId


class CutObject(Settings):
    """A line of (y, x) points divides an object; without a line its separate pieces become objects."""

    kind: Literal["cut"]
    object: ObjectId
    points: Annotated[tuple[Point, ...], Field(max_length=20_000)] = ()


class Complete(Settings):
    """What is not annotated in a rectangle becomes background; without a rectangle in the whole plane."""

    kind: Literal["complete"]
    rect: tuple[int, int, int, int] | None = None


class Accept(Settings):
    """Predicted objects become annotation: that at a pixel, those in a rectangle, or all."""

    kind: Literal["accept"]
    at: tuple[int, int] | None = None
    rect: tuple[int, int, int, int] | None = None


Request = Annotated[
    Paint | Polygon | Fill | Delete | Merge | CutObject | Complete | Accept, Field(discriminator="kind")
]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Predicted objects of a part of a plane.

    Attributes
    ----------
    box
        The part.
    labels
        ``(Y, X)`` int32: 0 background, ids of 1 and more.
    foreground
        ``(Y, X)`` uint8: probability of an object, 0..255; of classes, that of the most probable one.
    classes
        True if the labels are classes.
    """

    box: Rect
    labels: NDArray[np.int32]
    foreground: NDArray[np.uint8]
    classes: bool = False


def edit(store: LabelStore, plane: Plane, request: Request, prediction: Prediction | None = None) -> Edit:
    """Do what a request asks for, as one edit.

    Parameters
    ----------
    store, plane
        The labels.
    request
        What to do.
    prediction
        The newest prediction of the plane, from which objects are accepted.

    Raises
    ------
    UsageError
        If the request does not fit the labels: no such object, an open region to fill, nothing predicted.
    EditConflictError
        If a stroke was painted on tiles that have changed since.
    """
    match request:
        case Paint():
            expected = {(tile.ty, tile.tx): tile.version for tile in request.tiles}
            changes = {(t.ty, t.tx): apply_runs(store.tile(plane, (t.ty, t.tx)), t.runs) for t in request.tiles}
            return store.write(plane, request.name, changes, expected)
        case Polygon():
            return _polygon(store, plane, request)
        case Fill():
            return _fill(store, plane, request)
        case Delete():
            return _replace_object(store, plane, "delete", request.object, 0)
        case Merge():
            if not store.places_of(plane, request.into):
                raise _no_object(request.into)
            return _replace_object(store, plane, "merge", request.object, request.into)
        case CutObject():
            return _cut(store, plane, request)
        case Complete():
            box = _rectangle(request.rect, plane)
            return _change(store, plane, "complete", box.places(), _make_background(box))
        case Accept():
            if prediction is None:
                raise UsageError("nothing is predicted here yet", "a prediction", "wait until outlines appear")
            return _accept(store, plane, request, prediction)


def _change(
    store: LabelStore,
    plane: Plane,
    name: str,
    places: Iterable[Place],
    make: Callable[[NDArray[np.int32], Rect], NDArray[np.int32]],
) -> Edit:
    """Write what `make` returns for each tile and its box."""
    return store.write(plane, name, {p: make(store.tile(plane, p), tile_box(p)) for p in places})


def _write_box(
    store: LabelStore, plane: Plane, name: str, box: Rect, values: NDArray[np.int32], mask: NDArray[np.bool_]
) -> Edit:
    """Write the values of a box where the mask is True."""

    def make(tile: NDArray[np.int32], whole: Rect) -> NDArray[np.int32]:
        part = whole.clip(box)
        here, there = part.within(whole), part.within(box)
        tile = tile.copy()
        tile[here] = np.where(mask[there], values[there], tile[here])
        return tile

    return _change(store, plane, name, box.places(), make)


def _rectangle(rect: tuple[int, int, int, int] | None, plane: Plane) -> Rect:
    box = plane.box if rect is None else Rect(*rect).clip(plane.box)
    if box.empty:
        raise UsageError("a rectangle outside of the image", "one inside", "draw it on the image")
    if box.sides[0] * box.sides[1] > _MOST_PIXELS:
        raise UsageError(
            f"a rectangle of {box.sides[0]} x {box.sides[1]} pixels", "at most 16384 x 16384", "choose a smaller one"
        )
    return box


def _make_background(box: Rect) -> Callable[[NDArray[np.int32], Rect], NDArray[np.int32]]:
    def make(tile: NDArray[np.int32], whole: Rect) -> NDArray[np.int32]:
        part = whole.clip(box).within(whole)
        tile = tile.copy()
        tile[part][tile[part] == UNANNOTATED] = 0
        return tile

    return make


def _no_object(number: int) -> UsageError:
    return UsageError(f"object {number} is not in this image", "the number of an object", "click on an object")


def _replace_object(store: LabelStore, plane: Plane, name: str, number: int, value: int) -> Edit:
    places = store.places_of(plane, number)
    if not places:
        raise _no_object(number)
    return _change(store, plane, name, places, lambda tile, _: np.where(tile == number, np.int32(value), tile))


def _polygon(store: LabelStore, plane: Plane, request: Polygon) -> Edit:
    from skimage.draw import polygon2mask

    points = np.asarray(request.points, np.float64)
    if not np.isfinite(points).all():
        raise UsageError("an outline with points that are not numbers", "finite coordinates", "draw it again")
    low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int) + 1
    box = _rectangle((int(low[0]), int(low[1]), int(high[0]), int(high[1])), plane)
    # The page counts from the corner of the first pixel, the function from its center.
    inside = polygon2mask(box.sides, points - 0.5 - [box.y0, box.x0])
    labels = store.read(plane, box)
    if request.protect:
        inside &= labels <= 0
    return _write_box(store, plane, "outline", box, np.full(box.sides, request.value, np.int32), inside)


def _fill(store: LabelStore, plane: Plane, request: Fill) -> Edit:
    box = Rect(request.y, request.x, request.y + 1, request.x + 1).grow(_FILL_REACH).clip(plane.box)
    if not (box.y0 <= request.y < box.y1 and box.x0 <= request.x < box.x1):
        raise UsageError("a pixel outside of the image", "a pixel of the image", "click on the image")
    labels = store.read(plane, box)
    y, x = request.y - box.y0, request.x - box.x0
    same = connected_components(labels == labels[y, x])
    inside = same == same[y, x]
    if labels[y, x] == UNANNOTATED and _touches_border(inside):
        raise UsageError(
            "the region to fill is open", "an area that an outline encloses", "close the outline with the brush first"
        )
    return _write_box(store, plane, "fill", box, np.full(box.sides, request.value, np.int32), inside)


def _touches_border(inside: NDArray[np.bool_]) -> bool:
    return bool(inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any())


def _box_of(places: Sequence[Place], plane: Plane) -> Rect:
    rows, columns = [ty for ty, _ in places], [tx for _, tx in places]
    whole = Rect(min(rows) * SIDE, min(columns) * SIDE, (max(rows) + 1) * SIDE, (max(columns) + 1) * SIDE)
    return whole.clip(plane.box)


def _cut(store: LabelStore, plane: Plane, request: CutObject) -> Edit:
    from scipy.ndimage import distance_transform_edt

    places = store.places_of(plane, request.object)
    if not places:
        raise _no_object(request.object)
    whole = _box_of(places, plane)
    box = _rectangle((whole.y0, whole.x0, whole.y1, whole.x1), plane)
    inside = store.read(plane, box) == request.object
    line = np.zeros(box.sides, bool)
    if len(request.points) > 1:
        line = _line(np.asarray(request.points, np.float64) - [box.y0, box.x0], box.sides) & inside
    pieces = connected_components(inside & ~line)
    if pieces.max() < 2:
        raise UsageError(
            "the line does not divide the object", "a line from one side of the object to the other", "draw it longer"
        )
    nearest = distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
    pieces = pieces[tuple(nearest)]
    sizes = np.bincount(pieces[inside], minlength=int(pieces.max()) + 1)
    ids = np.zeros(len(sizes), np.int32)
    largest, others = int(sizes.argmax()), [n for n in range(1, len(sizes)) if n != int(sizes.argmax())]
    first = store.reserve(plane.image, len(others))
    ids[others] = np.arange(first, first + len(others))
    ids[largest] = request.object
    return _write_box(store, plane, "cut", box, ids[pieces], inside)


def _line(points: NDArray[np.float64], sides: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of a line of (y, x) points that no 4-connected path crosses; ``(Y, X)`` bool."""
    from skimage.draw import line

    drawn = np.zeros(sides, bool)
    pixels = np.floor(np.clip(points, -SIDE, np.add(sides, SIDE))).astype(int)
    for (y0, x0), (y1, x1) in pairwise(pixels):
        rows, columns = line(y0, x0, y1, x1)
        kept = (rows >= 0) & (rows < sides[0]) & (columns >= 0) & (columns < sides[1])
        drawn[rows[kept], columns[kept]] = True
        # A diagonal step leaves a gap only for 8-connected paths; pieces are 4-connected.
    return drawn


def _accept(store: LabelStore, plane: Plane, request: Accept, prediction: Prediction) -> Edit:
    """Copy predicted objects that no annotated object overlaps by half; in a rectangle also their background.

    In a rectangle an object that lies mostly on annotated background is left out too: it was painted over.
    """
    seen = prediction.box
    labels = store.read(plane, seen)
    area = seen
    if request.rect is not None:
        area = _rectangle(request.rect, plane).clip(seen)
    if request.at is not None:
        area = Rect(*request.at, request.at[0] + 1, request.at[1] + 1).clip(seen)
    if area.empty:
        raise UsageError("nothing is predicted here", "a place with a prediction", "wait until it is predicted")
    if prediction.classes:
        return _accept_classes(store, plane, request, prediction, area)
    sizes = np.bincount(prediction.labels.ravel())
    chosen = np.bincount(prediction.labels[area.within(seen)].ravel(), minlength=len(sizes))
    annotated = labels > 0 if request.at is not None else labels != UNANNOTATED
    taken = np.bincount(prediction.labels[annotated], minlength=len(sizes))
    # An object that the border of the predicted part cuts is not known whole.
    cut = np.bincount(_cut_objects(prediction, plane), minlength=len(sizes)) > 0
    wanted = ~cut & (chosen > 0 if request.at is not None else 2 * chosen > sizes) & (2 * taken <= sizes)
    wanted[0] = False
    number = int(wanted.sum())
    if request.at is not None and number == 0:
        raise UsageError(
            "no new object is predicted whole here", "an object that is not annotated", "click inside an outline"
        )
    ids = np.zeros(len(sizes), np.int32)
    if number:
        first = store.reserve(plane.image, number)
        ids[wanted] = np.arange(first, first + number)
    made = ids[prediction.labels]
    write = (made > 0) & ~annotated
    if request.at is None:
        background = np.zeros(write.shape, bool)
        background[area.within(seen)] = True
        write |= background & (prediction.labels == 0) & (labels == UNANNOTATED)
    return _write_box(store, plane, "accept", seen, made, write)


def _cut_objects(prediction: Prediction, plane: Plane) -> NDArray[np.int32]:
    """Return the predicted labels along the borders of the predicted part that are not borders of the image."""
    labels, box, whole = prediction.labels, prediction.box, plane.box
    sides = [
        (box.y0 > whole.y0, labels[0]),
        (box.y1 < whole.y1, labels[-1]),
        (box.x0 > whole.x0, labels[:, 0]),
        (box.x1 < whole.x1, labels[:, -1]),
    ]
    return np.concatenate([np.zeros(0, np.int32), *(edge for inner, edge in sides if inner)])


def _accept_classes(store: LabelStore, plane: Plane, request: Accept, prediction: Prediction, area: Rect) -> Edit:
    """Copy predicted classes where nothing is annotated: the connected region at a pixel, or a rectangle."""
    seen = prediction.box
    write = np.zeros(prediction.labels.shape, bool)
    write[area.within(seen)] = True
    if request.at is not None:
        value = prediction.labels[area.within(seen)][0, 0]
        regions = connected_components(prediction.labels == value)
        write = regions == regions[area.within(seen)][0, 0]
    write &= store.read(plane, seen) == UNANNOTATED
    return _write_box(store, plane, "accept", seen, prediction.labels, write)
