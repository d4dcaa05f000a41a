"""A model learns what was annotated, and predicts what is on the screen."""

from __future__ import annotations

import queue
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.io.files import read_image, write_image
from septum.prediction.model import open_model
from septum.studio.label_store import READ, LabelStore, Plane
from septum.studio.learning import describe_learning
from septum.studio.live.samples import MOST_TILES, LiveSamples, PlaneImage, choose_tiles, with_rim
from septum.studio.live.training import LiveTraining
from septum.studio.project import Project
from septum.studio.tile_grid import SIDE, Rect, empty_tile

SIDES = (96, 128)


@pytest.fixture
def project(folder: Path) -> Project:
    return Project(folder)


@pytest.fixture
def painted(project: Project) -> tuple[LabelStore, Plane]:
    """Return labels of three disks and a band of background in a.tif."""
    store = LabelStore(project.work / "labels.sqlite")
    plane = store.plane("a.tif", 0, 0, SIDES)
    tile = empty_tile()
    y, x = np.mgrid[:SIDE, :SIDE]
    for number, cx in enumerate((20, 60, 100), start=1):
        tile[(y - 20) ** 2 + (x - cx) ** 2 <= 100] = number
    tile[36:44, :128] = 0
    store.write(plane, "brush", {(0, 0): tile})
    return store, plane


class Wire:
    """Stands for the server: sends commands, keeps messages, ends after some predictions."""

    def __init__(self, plane: Plane, predictions: int = 1) -> None:
        self.commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        place = {"plane": plane.id, "image": plane.image, "t": plane.t, "z": plane.z, "sides": plane.sides}
        self.commands.put({"command": "view", **place, "rect": [0, 0, *plane.sides]})
        self.messages: list[dict[str, Any]] = []
        self.data: list[bytes] = []
        self._left = predictions

    def send(self, message: dict[str, Any], data: bytes = b"") -> None:
        self.messages.append(message)
        if message["topic"] == "prediction":
            self.data.append(data)
            self._left -= 1
            if not self._left:
                self.commands.put(None)


def task(project: Project, **more: Any) -> dict[str, Any]:
    plain = {"folder": str(project.root), "axes": None, "device": "cpu", "kind": "objects", "paused": False}
    return {**plain, "start": "nothing", **more}


def begun_from(wire: Wire) -> str:
    return next(str(m["start"]) for m in reversed(wire.messages) if m["topic"] == "live" and m.get("start"))


def test_the_pixels_around_an_object_are_background_unless_another_object_is_there() -> None:
    labels = np.full((5, 6), -1, np.int32)
    labels[2, 2], labels[2, 3] = 4, 5
    rim = with_rim(labels)
    assert (rim[1:4, 1:5] >= 0).all() and rim[2, 2] == 4 and rim[2, 3] == 5
    assert (rim == -1).sum() == 30 - 12


def test_only_annotated_tiles_become_samples_and_only_changed_ones_are_read_again(
    project: Project, painted: tuple[LabelStore, Plane]
) -> None:
    store, plane = painted
    samples = LiveSamples(project, store, "objects")
    samples.refresh()
    (first,) = samples.samples
    assert samples.objects == 3 and 0 in samples.labels and samples.passed_over == {}
    assert np.array_equal(first.image, read_image(project.root / "images" / "a.tif").array.astype(np.float32))
    known = first.mask[:96, :128] != -1
    assert known.sum() < 0.3 * known.size and known[36:44].all()
    samples.refresh()
    assert samples.samples[0] is first
    tile = store.tile(plane, (0, 0)).copy()
    tile[60:64, 60:64] = 9
    store.write(plane, "brush", {(0, 0): tile})
    samples.refresh()
    assert samples.objects == 4 and samples.samples[0] is not first
    store.undo("a.tif")
    store.undo("a.tif")
    samples.refresh()
    assert samples.objects == 0 and samples.samples == ()


def test_of_more_than_most_tiles_evenly_chosen_ones_are_learned_from(tmp_path: Path) -> None:
    sides = (16, SIDE * (MOST_TILES + 2))
    write_image(tmp_path / "strip.tif", np.zeros(sides, np.uint8), axes="YX")
    project = Project(tmp_path)
    store = LabelStore(project.work / "labels.sqlite")
    plane = store.plane("strip.tif", 0, 0, sides)
    for number in range(MOST_TILES + 2):
        tile = empty_tile()
        tile[4:8, 250:254] = number + 1
        store.write(plane, "brush", {(0, number): tile})
    samples = LiveSamples(project, store, "objects")
    samples.refresh()
    assert samples.objects == samples.tiles == MOST_TILES + 2
    before = samples.samples
    assert len(before) == MOST_TILES and before[0].mask.max() == 1 and before[-1].mask.max() == MOST_TILES + 2
    tile = store.tile(plane, (0, MOST_TILES + 1)).copy()
    tile[4:8, 250:254] = -1
    store.write(plane, "eraser", {(0, MOST_TILES + 1): tile})
    samples.refresh()
    assert samples.objects == MOST_TILES + 1 and len(samples.samples) == MOST_TILES
    kept = {id(s) for s in samples.samples} & {id(s) for s in before}
    assert len(kept) == MOST_TILES - 1  # one comes in place of the erased one
    # A tile that was left out is learned from once it is painted on; of the others only its neighbors are read again.
    (left_out,) = set(range(1, MOST_TILES + 2)) - {s.mask.max() for s in samples.samples}
    before = samples.samples
    tile = store.tile(plane, (0, left_out - 1)).copy()
    tile[8:10, 250:254] = left_out
    store.write(plane, "brush", {(0, left_out - 1): tile})
    samples.refresh()
    assert samples.samples[-1].mask.max() == left_out and samples.tiles == MOST_TILES + 1
    assert len({id(s) for s in samples.samples} & {id(s) for s in before}) >= MOST_TILES - 3


def test_tiles_that_are_learned_from_stay_while_those_that_change_come_in() -> None:
    many = {(plane, (0, x)): 1 for plane in range(3) for x in range(40)}
    chosen = choose_tiles(many, {}, [])
    assert len(set(chosen)) == MOST_TILES and {plane for plane, _ in chosen} == {0, 1, 2}
    assert choose_tiles(many, many, chosen) == chosen
    other = next(key for key in many if key not in chosen)
    painted = {**many, other: 2, (7, (0, 0)): 1}  # and one of a new image
    later = choose_tiles(painted, many, chosen)
    assert later[-2:] == [other, (7, (0, 0))] and len(later) == MOST_TILES
    assert len(set(chosen) - set(later)) == 2
    for version in range(3, 103):  # painting one image only leaves tiles of the others
        newer = {**painted, (7, (0, version)): 1}
        later, painted = choose_tiles(newer, painted, later), newer
    counts = [sum(plane == one for one, _ in later) for plane in (0, 1, 2, 7)]
    assert min(counts) >= 10 and sum(counts) == MOST_TILES and later[-1] == (7, (0, 102))
    assert choose_tiles(dict.fromkeys(chosen[:5], 1), many, chosen) == chosen[:5]
    fewer = {key: 1 for key in many if key[0] > 0}  # an image is gone: others take its place
    assert len(choose_tiles(fewer, many, chosen)) == MOST_TILES
    assert set(choose_tiles(fewer, many, chosen)) >= {key for key in chosen if key[0] > 0}


def test_tiles_of_masks_that_are_read_do_not_take_the_place_of_painted_ones_and_are_chosen_evenly_at_the_end(
    tmp_path: Path,
) -> None:
    sides = (16, SIDE * MOST_TILES)
    for name in "abc":
        write_image(tmp_path / f"{name}.tif", np.zeros(sides, np.uint8), axes="YX")
    project = Project(tmp_path)
    store = LabelStore(project.work / "labels.sqlite")
    tile = empty_tile()
    tile[4:8, 250:254] = 1

    def read(name: str) -> None:
        tiles = {(0, number): tile for number in range(MOST_TILES)}
        store.write_planes(READ, store.compare(name, [(store.plane(name, 0, 0, sides), tiles)], 0))

    def learned_from() -> Counter[str]:
        return Counter(sample.name[0] for sample in samples.samples)

    store.write(store.plane("a.tif", 0, 0, sides), "brush", {(0, 5): tile})
    samples = LiveSamples(project, store, "objects")
    samples.refresh()
    read("b.tif")
    assert samples.refresh() and learned_from() == {"a": 1, "b": MOST_TILES - 1}
    read("c.tif")
    assert not samples.refresh() and learned_from() == {"a": 1, "b": MOST_TILES - 1}
    samples.choose_anew()
    assert samples.refresh() and learned_from()["a"] == 1 and abs(learned_from()["b"] - learned_from()["c"]) <= 1
    store.write(store.plane("c.tif", 0, 0, sides), "eraser", {(0, 6): np.where(tile == 1, 2, -1).astype(np.int32)})
    samples.refresh()
    assert samples.samples[-1].name == "c.tif t0 z0 0 6" and learned_from()["a"] == 1


def test_a_section_is_read_as_an_image(project: Project) -> None:
    image = PlaneImage(project.open(next(iter(project.entries.values()))), 0, 0)
    whole = read_image(project.root / "images" / "a.tif").array
    assert image.shape == (1, *SIDES)
    assert np.array_equal(image[(slice(0, 1), slice(5, 20), slice(7, 9))], whole[:, 5:20, 7:9])
    assert np.array_equal(image.sampled(), whole)


def test_nothing_is_learned_before_the_second_object(project: Project) -> None:
    store = LabelStore(project.work / "labels.sqlite")
    plane = store.plane("a.tif", 0, 0, SIDES)
    tile = empty_tile()
    tile[10:20, 10:20] = 1
    store.write(plane, "brush", {(0, 0): tile})
    wire = Wire(plane)
    wire.commands.put(None)
    LiveTraining(task(project), wire).run()
    assert [m["state"] for m in wire.messages] == ["waiting"]
    assert not (project.runs / "live").exists()


def test_it_learns_predicts_the_screen_and_leaves_a_model_that_all_commands_take(
    project: Project, painted: tuple[LabelStore, Plane]
) -> None:
    _, plane = painted
    wire = Wire(plane, predictions=2)
    LiveTraining(task(project), wire).run()
    first, last = (m for m in wire.messages if m["topic"] == "prediction")
    assert first["rect"] == [0, 0, 96, 128] and first["step"] == 0 and last["step"] > 0
    count = 96 * 128
    assert all(len(data) == 5 * count for data in wire.data)
    losses = [m["loss"] for m in wire.messages if m["topic"] == "live" and m.get("loss") is not None]
    assert losses and np.isfinite(losses).all()
    model = open_model(project.runs / "live", "cpu")
    assert model.header.kind == "objects" and model.header.training["preset"] == "live"


def test_it_goes_on_where_it_ended(project: Project, painted: tuple[LabelStore, Plane]) -> None:
    _, plane = painted
    LiveTraining(task(project), Wire(plane, predictions=2)).run()
    wire = Wire(plane)
    LiveTraining(task(project, start=None), wire).run()
    said = [m["start"] for m in wire.messages if m["topic"] == "live" and m.get("start")]
    assert not said or said[-1] == "from where it ended"
    data = np.frombuffer(wire.data[0], np.uint8, 96 * 128, 4 * 96 * 128).reshape(SIDES)
    assert data.std() > 0


@pytest.mark.parametrize(("radius", "scale"), [(40, 1.0), (70, 0.5)])
def test_wide_objects_are_learned_on_the_grid_that_a_training_would_choose(
    tmp_path: Path, radius: int, scale: float
) -> None:
    y, x = np.mgrid[:384, :384]
    disks = [(y - c) ** 2 + (x - c) ** 2 <= radius**2 for c in (90, 290)]
    write_image(tmp_path / "wide.tif", (50 + 100 * (disks[0] | disks[1])).astype(np.uint8), axes="YX")
    project = Project(tmp_path)
    store = LabelStore(project.work / "labels.sqlite")
    plane = store.plane("wide.tif", 0, 0, (384, 384))
    tile = empty_tile()
    tile[:384, :384] = disks[0] + 2 * disks[1]
    store.write(plane, "brush", {(0, 0): tile})
    wire = Wire(plane, predictions=2)
    LiveTraining(task(project), wire).run()
    said = begun_from(wire)
    assert said.startswith("from nothing") and ("the model sees images at scale 0.5" in said) == (scale == 0.5)
    assert open_model(project.runs / "live", "cpu").header.scale == scale
    found = [m for m in wire.messages if m["topic"] == "prediction"]
    for message, data in zip(found, wire.data, strict=True):
        assert len(data) == 5 * np.prod(Rect(*message["rect"]).sides)  # a busy computer predicts the middle only
    wire = Wire(plane, predictions=2)
    LiveTraining(task(project, start=None), wire).run()
    assert begun_from(wire).startswith("from where it ended")
    assert open_model(project.runs / "live", "cpu").header.scale == scale


def test_the_rim_around_an_object_is_a_pixel_of_the_working_grid(
    project: Project, painted: tuple[LabelStore, Plane]
) -> None:
    store, _ = painted
    samples = LiveSamples(project, store, "objects")
    samples.refresh()
    whole = samples.samples[0]
    samples.use_scale(0.5)
    (half,) = samples.samples
    assert half.mask.shape == (48, 64) and whole.mask.shape == (96, 128) and half.image.shape == (1, 48, 64)
    assert samples.objects == 3 and set(np.unique(half.mask)) == {-1, 0, 1, 2, 3}
    assert np.array_equal(half.mask, with_rim(half.mask))


def test_labels_of_an_image_that_was_replaced_by_one_of_another_size_are_not_learned(
    project: Project, painted: tuple[LabelStore, Plane]
) -> None:
    store, _ = painted
    write_image(project.root / "images" / "a.tif", np.zeros((50, 60), np.uint8), axes="YX")
    samples = LiveSamples(Project(project.root), store, "objects")
    samples.refresh()
    assert samples.samples == () and samples.objects == 0 and not samples.enough
    assert samples.passed_over == {"a.tif": "a.tif: an image of 50 x 60 pixels with labels of 96 x 128"}


def test_images_that_cannot_be_read_or_have_other_channels_are_named_and_the_others_learned(
    project: Project, painted: tuple[LabelStore, Plane]
) -> None:
    store, plane = painted
    images = project.root / "images"
    write_image(images / "color.png", np.zeros((3, 20, 30), np.uint8), axes="CYX")
    (images / "damaged.png").write_bytes(b"this is no image")
    tile = empty_tile()
    tile[:10, :10] = 1
    for name, sides in (("b.png", SIDES), ("color.png", (20, 30)), ("damaged.png", (20, 30))):
        store.write(store.plane(name, 0, 0, sides), "brush", {(0, 0): tile})
    wire = Wire(plane)
    LiveTraining(task(project), wire).run()
    told = [m for m in wire.messages if m["topic"] == "live" and "objects" in m][-1]
    assert told["enough"] and told["objects"] == 4  # of a.tif and b.png
    assert told["tiles"] == [2, 2]
    later = {**told, "state": "learning", "step": 3, "start": "from nothing"}
    assert describe_learning(later, "objects").startswith("Learning from 4 objects: step 3. Started from nothing.")
    later["tiles"] = [48, 99]
    assert describe_learning(later, "objects").startswith("Learning from 4 objects (48 of 99 tiles): step 3.")
    other, unreadable = told["passed_over"]
    if "damaged" in other:
        other, unreadable = unreadable, other
    assert other == "color.png: 3 channels, those learned from have 1" and "damaged.png" in unreadable


def test_an_image_that_came_while_learning_is_learned_from_and_one_that_is_gone_is_named(
    project: Project, painted: tuple[LabelStore, Plane]
) -> None:
    store, _ = painted
    samples = LiveSamples(project, store, "objects")
    samples.refresh()
    write_image(project.root / "images" / "c.png", np.zeros((20, 30), np.uint8), axes="YX")
    tile = empty_tile()
    tile[:10, :10] = 1
    for name in ("c.png", "gone.png"):
        store.write(store.plane(name, 0, 0, (20, 30)), "brush", {(0, 0): tile})
    samples.refresh()
    assert samples.objects == 4 and len(samples.samples) == 2
    assert samples.passed_over == {"gone.png": "gone.png: not in the folder any more"}


def test_an_image_that_comes_back_is_learned_from(
    project: Project, painted: tuple[LabelStore, Plane], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = painted
    tile = empty_tile()
    tile[:10, :10] = 1
    store.write(store.plane("c.png", 0, 0, (20, 30)), "brush", {(0, 0): tile})
    samples = LiveSamples(project, store, "objects")
    samples.refresh()
    write_image(project.root / "images" / "c.png", np.zeros((20, 30), np.uint8), axes="YX")
    samples.refresh()  # too soon: the folder is not listed for each edit
    assert samples.passed_over == {"c.png": "c.png: not in the folder any more"} and samples.objects == 3
    monkeypatch.setattr("septum.studio.live.samples.LOOK_AGAIN_S", 0.0)
    samples.refresh()
    assert samples.passed_over == {} and samples.objects == 4


def test_a_class_and_background_are_enough_to_learn_from(project: Project) -> None:
    store = LabelStore(project.work / "labels.sqlite")
    plane = store.plane("a.tif", 0, 0, SIDES)
    samples = LiveSamples(project, store, "classes")
    tile = empty_tile()
    tile[10:20, 10:20] = 1
    store.write(plane, "brush", {(0, 0): tile})
    samples.refresh()
    assert not samples.enough
    tile = tile.copy()
    tile[30:40, 10:20] = 0
    store.write(plane, "background", {(0, 0): tile})
    samples.refresh()
    assert samples.enough and samples.labels == {0, 1}
    as_objects = LiveSamples(project, store, "objects")
    as_objects.refresh()
    assert not as_objects.enough


def test_classes_are_learned_as_classes(project: Project, painted: tuple[LabelStore, Plane]) -> None:
    _, plane = painted
    wire = Wire(plane)
    LiveTraining(task(project, kind="classes"), wire).run()
    labels = np.frombuffer(wire.data[0], "<i4", 96 * 128)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
