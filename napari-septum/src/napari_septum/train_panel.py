"""The panel that trains a model on an image layer and its labels, or on a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, FileEdit, FloatSpinBox, create_widget
from napari.layers import Image, Labels
from napari.utils.notifications import show_info

from napari_septum.curve import LossCurve
from napari_septum.jobs import Learned, Update
from napari_septum.layer_jobs import TrainOptions, train_on_folder, train_on_layers
from napari_septum.models import MODELS
from napari_septum.panel import Panel, axes_field

if TYPE_CHECKING:
    from napari import Viewer

HOME = Path.home() / "septum"
"""Where data and runs are kept unless a person chooses another folder."""

LAYERS, FOLDER = "an image and its labels", "the folder: all its images and masks"
PLANES, VOLUME = "images, plane by plane", "volumes"
MEANINGS = [
    ("numbered objects", "objects"),
    ("classes, 0 is the background", "classes"),
    ("scribbles of classes, 0 is not annotated", "scribbles"),
]
FITTING, NOTHING = "auto", "none"


class TrainPanel(Panel):
    """Train: choose a pair of layers, a time, and watch the loss.

    Parameters
    ----------
    napari_viewer
        The viewer that the panel belongs to; napari knows it by this name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self.source = ComboBox(label="Learn from", choices=[LAYERS, FOLDER])
        self.image = create_widget(label="Image", annotation=Image)
        self.painted = create_widget(label="Labels", annotation=Labels)
        self.axes = axes_field()
        self.stacks = ComboBox(label="Z makes", choices=[PLANES, VOLUME])
        self.meaning = ComboBox(label="Labels are", choices=MEANINGS)
        self.minutes = FloatSpinBox(label="Minutes", value=5.0, min=0.1, max=1440.0, step=1.0)
        starts = [("what fits the images", FITTING), ("nothing", NOTHING)]
        self.beginning = ComboBox(label="Start from", choices=lambda _: [*starts, *MODELS.choices()])
        self.folder = FileEdit(
            label="Folder", mode="d", value=HOME, tooltip="Keeps data and runs; or the folder that is learned from"
        )
        fields = (self.source, self.image, self.painted, self.axes, self.stacks, self.meaning)
        options = {
            "--axes": self.axes,
            "--kind": self.meaning,
            "--ignore-value": self.meaning,
            "--budget": self.minutes,
            "--from": self.beginning,
            "-o": self.folder,
        }
        super().__init__(napari_viewer, [*fields, self.minutes, self.beginning, self.folder], options, "Train")
        MODELS.changed.connect(self.beginning.reset_choices)
        self.curve = LossCurve()
        layout = self.native.layout()
        layout.insertWidget(layout.count() - 1, self.curve)  # the space comes last
        self.source.changed.connect(self._show_fields)

    def begin(self) -> None:
        """Train on what is chosen."""
        start = None if self.beginning.value == FITTING else self.beginning.value
        options = TrainOptions(60 * self.minutes.value, self.meaning.value, start)
        self.curve.clear()
        if self.source.value == FOLDER:
            self.start(train_on_folder, self.folder.value, options, done=self._learned)
            return
        pair = self.named(self.image.value, "image"), self.named(self.painted.value, "labels layer")
        layout: dict[str, Any] = {"axes": self.axes.value, "volume": self.stacks.value == VOLUME}
        self.start(train_on_layers, *pair, self.folder.value, options, done=self._learned, **layout)

    def take(self, update: Update) -> None:
        """Show news, and draw the loss."""
        super().take(update)
        if update.point is not None:
            self.curve.add(*update.point)

    def _learned(self, learned: Learned) -> None:
        report = "" if learned.report is None else f"\nreport: {learned.report}"
        self.say(f"{learned.text}{report}")
        if learned.model is not None:
            self.progress.value = 1000
            MODELS.add(learned.model)
            show_info(learned.text)

    def _show_fields(self, source: str) -> None:
        for field in (self.image, self.painted, self.axes, self.stacks):
            field.visible = source == LAYERS
