"""The panels in a real window: train, see the loss, predict, and find where to annotate next."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from septum.prediction.settings import PredictSettings
from septum.review.settings import SuggestSettings
from septum.settings import flag_of, options_of
from septum.training.settings import TrainSettings

from made import disks
from napari_septum.jobs import Update

QLabel = pytest.importorskip("qtpy.QtWidgets", reason="Qt is not installed").QLabel
if sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
    pytest.skip("no display; `xvfb-run python -m pytest` gives one", allow_module_level=True)


def wait_for(qtbot, panel) -> None:
    qtbot.waitUntil(lambda: not panel.running, timeout=600_000)


@pytest.fixture
def capture_raised(qtbot):
    """Errors that a slot raised; without this fixture they fail the test."""
    with qtbot.capture_exceptions() as raised:
        yield raised


def keep(viewer, name: str) -> np.ndarray:
    """Return a picture of the window; kept in the folder NAPARI_SEPTUM_PICTURES if that is set."""
    picture = viewer.window.screenshot(canvas_only=False, flash=False)
    if folder := os.environ.get("NAPARI_SEPTUM_PICTURES"):
        from imageio.v3 import imwrite

        imwrite(Path(folder) / f"{name}.png", picture)
    return picture


def test_a_person_trains_predicts_and_sees_where_to_go_on(make_napari_viewer, qtbot, tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    image, labels = (np.stack(part) for part in zip(*(disks(n) for n in range(4)), strict=True))
    place = {"scale": (1.0, 0.5, 0.5), "units": ("second", "um", "um"), "axis_labels": ("t", "y", "x")}
    viewer.add_image(image, name="film", **place)
    viewer.add_labels(labels, name="painted", **place)

    _, training = viewer.window.add_plugin_dock_widget("napari-septum", "Train")
    training.image.value, training.painted.value = viewer.layers["film"], viewer.layers["painted"]
    training.minutes.value, training.folder.value, training.beginning.value = 0.2, tmp_path, "none"
    training.run_button.changed.emit(True)
    assert training.running and not training.run_button.enabled
    wait_for(qtbot, training)
    assert "trained" in training.said.value
    assert training.curve.points and training.run_button.enabled
    picture = keep(viewer, "train")
    assert picture.std() > 0

    _, predicting = viewer.window.add_plugin_dock_widget("napari-septum", "Predict")
    assert predicting.model.choices[0].endswith("model.safetensors")
    predicting.model.value = predicting.model.choices[0]
    predicting.image.value = viewer.layers["film"]
    predicting.run_button.changed.emit(True)
    wait_for(qtbot, predicting)
    result = viewer.layers["film, labels"]
    assert result.data.shape == image.shape
    assert np.array_equal(result.scale, viewer.layers["film"].scale)
    keep(viewer, "predict")

    _, suggesting = viewer.window.add_plugin_dock_widget("napari-septum", "Suggest where to annotate")
    suggesting.model.value, suggesting.image.value = predicting.model.choices[0], viewer.layers["film"]
    suggesting.run_button.changed.emit(True)
    wait_for(qtbot, suggesting)
    assert len(suggesting.found.choices) >= 1
    assert "annotate next" in viewer.layers
    start = suggesting._regions[0].start
    assert viewer.dims.current_step[0] == start[0]
    keep(viewer, "suggest")


def test_layers_are_sent_to_a_folder_and_opened_from_it(make_napari_viewer, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    image, labels = disks(0)
    viewer.add_image(image, name="cells")
    viewer.add_labels(labels, name="painted")
    _, panel = viewer.window.add_plugin_dock_widget("napari-septum", "Data folder and studio")
    panel.folder.value = tmp_path / "set"
    panel.image.value, panel.painted.value = viewer.layers["cells"], viewer.layers["painted"]
    panel.send_button.changed.emit(True)
    assert panel.said.value.startswith("1 image and as many masks written\n")
    viewer.layers.clear()
    panel.open_button.changed.emit(True)
    assert [layer.name for layer in viewer.layers] == ["cells", "cells, masks"]
    assert np.array_equal(viewer.layers["cells, masks"].data, labels)


def test_an_empty_folder_is_named_when_there_is_nothing_to_open(make_napari_viewer, tmp_path: Path) -> None:
    _, panel = make_napari_viewer().window.add_plugin_dock_widget("napari-septum", "Data folder and studio")
    panel.folder.value = tmp_path
    panel.open_button.changed.emit(True)
    assert "holds no image" in panel.said.value


@pytest.mark.parametrize("title", ["Train", "Predict", "Suggest where to annotate", "Data folder and studio"])
def test_fields_begin_below_one_another_and_long_words_do_not_widen_a_panel(make_napari_viewer, qtbot, title) -> None:
    viewer = make_napari_viewer(show=True)
    _, panel = viewer.window.add_plugin_dock_widget("napari-septum", title)
    panel.say("one of these: " + "/a-folder-with-a-long-name" * 20)
    qtbot.waitUntil(panel.native.isVisible, timeout=60_000)
    qtbot.wait(50)
    labels = [label for label in panel.native.findChildren(QLabel) if label.isVisible() and label.text()]
    assert len(labels) >= 5
    assert len({label.width() for label in labels}) == 1
    assert panel.native.minimumSizeHint().width() < 450


def test_the_suggest_panel_shows_the_fields_of_what_is_looked_in(make_napari_viewer) -> None:
    viewer = make_napari_viewer(show=True)
    _, panel = viewer.window.add_plugin_dock_widget("napari-septum", "Suggest where to annotate")

    def shown() -> tuple[bool, bool]:
        return tuple(field.native.isVisibleTo(panel.native) for field in (panel.image, panel.folder))

    assert shown() == (True, False)
    panel.source.value = panel.source.choices[1]
    assert shown() == (False, True)


def test_what_cannot_be_done_is_said_in_words(make_napari_viewer, qtbot, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    _, training = viewer.window.add_plugin_dock_widget("napari-septum", "Train")
    training.run_button.changed.emit(True)
    assert "no image is chosen" in training.said.value
    image, labels = disks(0)
    viewer.add_image(image, name="cells")
    viewer.add_labels(labels * 0, name="painted")
    training.image.value, training.painted.value = viewer.layers["cells"], viewer.layers["painted"]
    training.folder.value = tmp_path
    training.run_button.changed.emit(True)
    wait_for(qtbot, training)
    assert "no pixel is labeled" in training.said.value


def test_an_error_names_the_field_of_the_panel(make_napari_viewer) -> None:
    viewer = make_napari_viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-septum", "Predict")
    viewer.add_image(disks(0)[0], name="cells")
    panel.image.value, panel.memory.value = viewer.layers["cells"], "a lot"
    panel.run_button.changed.emit(True)
    assert panel.said.value.splitlines() == [
        '"Memory" a lot',
        "expected: a size with its unit, such as 2G or 800M",
        'to do: write "Memory" 2G',
    ]


PANELS = [
    ("Train", TrainSettings),
    ("Predict", PredictSettings),
    ("Suggest where to annotate", SuggestSettings),
    ("Data folder and studio", PredictSettings),
]


@pytest.mark.parametrize(("title", "settings"), PANELS)
def test_the_options_that_a_panel_names_are_options(make_napari_viewer, title, settings) -> None:
    _, panel = make_napari_viewer().window.add_plugin_dock_widget("napari-septum", title)
    flags = {flag for place, _, option in options_of(settings) for flag in (flag_of(place, option), *option.flags)}
    assert panel.field_names and flags >= panel.field_names.keys()
    assert all(panel.field_names.values())


def test_an_error_that_nobody_expected_is_shown_and_frees_the_panel(make_napari_viewer, qtbot, capture_raised) -> None:
    viewer = make_napari_viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-septum", "Predict")

    def work(stop: object):
        yield Update("begun")
        raise RuntimeError("the driver is gone")

    panel.start(work, done=print)
    wait_for(qtbot, panel)
    assert "the driver is gone" in panel.said.value
    assert panel.run_button.enabled
    assert len(capture_raised) == 1
