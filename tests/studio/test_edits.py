"""Each tool changes what it should, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from septum.errors import UsageError
from septum.studio.edits import REQUEST, Prediction, edit
from septum.studio.label_store import LabelStore, Plane
from septum.studio.tile_grid import SIDE, Rect

SIDES = (600, 600)
WHOLE = Rect(0, 0, *SIDES)


@pytest.fixture
def plane(store: LabelStore) -> Plane:
    return store.plane("a", 0, 0, SIDES)


def do(store: LabelStore, plane: Plane, prediction: Prediction | None = None, **request: Any) -> np.ndarray:
    edit(store, plane, REQUEST.validate_python(request), prediction)
    return store.read(plane, WHOLE)


def block(store: LabelStore, plane: Plane, value: int, rect: Rect) -> None:
    corners = [(rect.y0, rect.x0), (rect.y0, rect.x1), (rect.y1, rect.x1), (rect.y1, rect.x0)]
    do(store, plane, kind="polygon", points=corners, value=value)


def paint(*runs: int, version: int = 0, ty: int = 0, tx: int = 0) -> dict[str, Any]:
    return {"kind": "paint", "tiles": [{"ty": ty, "tx": tx, "version": version, "runs": list(runs)}]}


def test_a_stroke_is_its_runs(store: LabelStore, plane: Plane) -> None:
    labels = do(store, plane, **paint(0, 3, 5, SIDE, 2, 0, 2 * SIDE, 1, 2**31 - 1))
    assert labels[0, :4].tolist() == [5, 5, 5, -1]
    assert labels[1, :3].tolist() == [0, 0, -1]
    assert labels[2, 0] == 2**31 - 1


@pytest.mark.parametrize("runs", [(0, 3), (-1, 3, 5), (0, 0, 5), (SIDE**2 - 1, 2, 5), (0, 1, -2), (0, 1, 2**31)])
def test_runs_outside_of_a_tile_or_of_labels_are_refused(
    store: LabelStore, plane: Plane, runs: tuple[int, ...]
) -> None:
    with pytest.raises((UsageError, ValidationError)):
        do(store, plane, **paint(*runs))
    assert store.planes() == []


def test_a_stroke_on_a_tile_that_is_not_there_is_refused(store: LabelStore, plane: Plane) -> None:
    with pytest.raises(UsageError, match="a tile of the image"):
        do(store, plane, **paint(0, 1, 5, ty=7))


def test_an_outline_holds_the_pixels_whose_centers_are_inside(store: LabelStore, plane: Plane) -> None:
    block(store, plane, 3, Rect(500, 500, 530, 540))
    labels = store.read(plane, WHOLE)
    assert (labels == 3).sum() == 30 * 40
    assert (labels[500:530, 500:540] == 3).all()


def test_an_outline_protects_other_objects(store: LabelStore, plane: Plane) -> None:
    block(store, plane, 1, Rect(10, 10, 20, 20))
    block(store, plane, 2, Rect(10, 15, 20, 30))
    labels = store.read(plane, WHOLE)
    assert (labels == 1).sum() == 100 and (labels == 2).sum() == 100


@pytest.mark.parametrize(("protect", "left"), [(True, 100), (False, 50)])
def test_an_outline_of_background_protects_objects_if_asked_to(
    store: LabelStore, plane: Plane, protect: bool, left: int
) -> None:
    block(store, plane, 1, Rect(10, 10, 20, 20))
    corners = [(10, 15), (10, 30), (20, 30), (20, 15)]
    do(store, plane, kind="polygon", points=corners, value=0, protect=protect)
    labels = store.read(plane, WHOLE)
    assert (labels == 1).sum() == left and (labels == 0).sum() == 200 - left


def test_fill_stays_inside_a_ring_and_refuses_an_open_region(store: LabelStore, plane: Plane) -> None:
    block(store, plane, 4, Rect(500, 500, 530, 530))
    do(store, plane, kind="polygon", points=[(505, 505), (505, 525), (525, 525), (525, 505)], value=-1, protect=False)
    labels = do(store, plane, kind="fill", y=515, x=515, value=4)
    assert (labels == 4).sum() == 900
    with pytest.raises(UsageError, match="open"):
        do(store, plane, kind="fill", y=10, x=10, value=4)


def test_delete_makes_background_in_all_tiles(store: LabelStore, plane: Plane) -> None:
    block(store, plane, 6, Rect(500, 500, 530, 530))
    labels = do(store, plane, kind="delete", object=6)
    assert (labels[500:530, 500:530] == 0).all()
    with pytest.raises(UsageError, match="object 6 is not in this image"):
        do(store, plane, kind="delete", object=6)


def test_merge_and_its_undo(store: LabelStore, plane: Plane) -> None:
    block(store, plane, 1, Rect(10, 10, 20, 20))
    block(store, plane, 2, Rect(10, 20, 20, 30))
    labels = do(store, plane, kind="merge", object=2, into=1)
    assert (labels == 1).sum() == 200 and store.objects(plane) == {1}
    store.undo("a")
    assert store.objects(plane) == {1, 2}
    with pytest.raises(UsageError):
        do(store, plane, kind="merge", object=2, into=77)


@pytest.mark.parametrize("line", [[(0, 30), (60, 30)], [(5, 5), (50, 55)], [(30, 0), (31, 20), (28, 60)]])
def test_a_cut_loses_no_pixel(store: LabelStore, plane: Plane, line: list[tuple[int, int]]) -> None:
    block(store, plane, 5, Rect(10, 10, 50, 50))
    labels = do(store, plane, kind="cut", object=5, points=line)
    ids = sorted(store.objects(plane))
    assert len(ids) == 2 and ids[0] == 5
    assert (labels[10:50, 10:50] > 0).all()
    assert (labels == 5).sum() >= (labels == ids[1]).sum() > 600


def test_a_line_that_ends_inside_cuts_nothing(store: LabelStore, plane: Plane) -> None:
    block(store, plane, 5, Rect(10, 10, 50, 50))
    with pytest.raises(UsageError, match="does not divide"):
        do(store, plane, kind="cut", object=5, points=[(0, 30), (30, 30)])


def test_complete_makes_the_rest_background(store: LabelStore, plane: Plane) -> None:
    block(store, plane, 5, Rect(10, 10, 50, 50))
    labels = do(store, plane, kind="complete", rect=(0, 0, 60, 60))
    assert (labels[:60, :60] >= 0).all() and (labels == 0).sum() == 2000
    labels = do(store, plane, kind="complete")
    assert (labels >= 0).all() and (labels == 5).sum() == 1600


@pytest.fixture
def predicted() -> Prediction:
    labels = np.zeros((100, 100), np.int32)
    labels[10:20, 10:20], labels[40:60, 40:60], labels[80:90, 80:90] = 1, 2, 3
    return Prediction(Rect(480, 480, 580, 580), labels, np.full((100, 100), 255, np.uint8))


def test_accept_takes_the_object_at_a_pixel(store: LabelStore, plane: Plane, predicted: Prediction) -> None:
    labels = do(store, plane, predicted, kind="accept", at=(530, 530))
    assert (labels[520:540, 520:540] > 0).all() and (labels > 0).sum() == 400
    assert (labels == 0).sum() == 0


def test_accept_takes_objects_and_background_of_a_rectangle(
    store: LabelStore, plane: Plane, predicted: Prediction
) -> None:
    labels = do(store, plane, predicted, kind="accept", rect=(480, 480, 550, 550))
    assert len(store.objects(plane)) == 2
    assert (labels[480:550, 480:550] >= 0).all()
    assert (labels >= 0).sum() == 70 * 70


def test_accept_keeps_what_is_annotated(store: LabelStore, plane: Plane, predicted: Prediction) -> None:
    block(store, plane, 9, Rect(521, 520, 540, 540))
    block(store, plane, 8, Rect(488, 488, 493, 500))
    labels = do(store, plane, predicted, kind="accept")
    assert (labels == 9).sum() == 380 and (labels == 8).sum() == 60
    assert len(store.objects(plane)) == 4  # 8, 9, what is left of the first, the third
    assert (labels[520, 520:540] == -1).all()  # the rest of a predicted object that is annotated already


def test_an_object_that_was_painted_over_with_background_is_accepted_at_its_pixel_only(
    store: LabelStore, plane: Plane, predicted: Prediction
) -> None:
    block(store, plane, 0, Rect(520, 520, 535, 540))
    labels = do(store, plane, predicted, kind="accept")
    assert (labels[520:535, 520:540] == 0).all() and len(store.objects(plane)) == 2
    labels = do(store, plane, predicted, kind="accept", at=(530, 530))
    assert (labels[520:540, 520:540] > 0).all() and len(store.objects(plane)) == 3


def test_an_object_that_the_border_of_the_prediction_cuts_is_not_accepted(store: LabelStore, plane: Plane) -> None:
    labels = np.zeros((100, 120), np.int32)
    labels[0:10, 10:20], labels[40:50, 0:10], labels[40:60, 40:60], labels[95:, 90:110] = 1, 2, 3, 4
    cut = Prediction(Rect(480, 480, 580, 600), labels, np.full(labels.shape, 255, np.uint8))
    found = do(store, plane, cut, kind="accept")
    assert len(store.objects(plane)) == 1 and (found[520:540, 520:540] > 0).all()
    assert (found[480:490, 490:500] == -1).all() and (found[520:530, 480:490] == -1).all()
    at_the_border = Prediction(Rect(500, 480, 600, 600), labels, np.full(labels.shape, 255, np.uint8))
    do(store, plane, at_the_border, kind="accept", at=(597, 580))
    assert len(store.objects(plane)) == 2


def test_accept_without_a_prediction_says_so(store: LabelStore, plane: Plane, predicted: Prediction) -> None:
    with pytest.raises(UsageError, match="nothing is predicted"):
        do(store, plane, kind="accept")
    with pytest.raises(UsageError, match="nothing is predicted"):
        do(store, plane, predicted, kind="accept", at=(3, 3))


def test_classes_are_accepted_by_their_value(store: LabelStore, plane: Plane, predicted: Prediction) -> None:
    classes = Prediction(predicted.box, predicted.labels, predicted.foreground, classes=True)
    labels = do(store, plane, classes, kind="accept", at=(530, 530))
    assert (labels == 2).sum() == 400
    labels = do(store, plane, classes, kind="accept")
    assert (labels == 3).sum() == 100 and (labels[480:580, 480:580] >= 0).all()
