"""The panel that predicts an image layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox, FileEdit, FloatSpinBox, LineEdit, create_widget
from napari.layers import Image, Layer
from septum.prediction.memory import parse_bytes

from napari_septum.layer_jobs import PredictOptions, predict_layer
from napari_septum.layers import LayerData
from napari_septum.panel import Panel, axes_field, model_fields

if TYPE_CHECKING:
    from napari import Viewer

OUTPUTS = [
    ("as the training masks", ""),
    ("numbered objects", "labels"),
    ("classes", "classes"),
    ("probabilities", "probabilities"),
]


class PredictPanel(Panel):
    """Predict: choose an image layer and a model; images, volumes and time series of any size.

    Parameters
    ----------
    napari_viewer
        The viewer that the panel belongs to; napari knows it by this name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self.image = create_widget(label="Image", annotation=Image)
        self.model, opened = model_fields()
        self.output = ComboBox(label="Result", choices=OUTPUTS)
        self.axes = axes_field()
        self.object_size = FloatSpinBox(
            label="Object width, px",
            value=0.0,
            min=0.0,
            max=10000.0,
            tooltip="Width of the objects; 0: found by the model",
        )
        self.memory = LineEdit(label="Memory", value="", tooltip="Limit, such as 4G; empty: most of what is free")
        self.folder = FileEdit(
            label="Keep in", mode="d", value="", nullable=True, tooltip="Folder for the result; empty: nothing is kept"
        )
        fields = (self.image, self.model, opened, self.output, self.axes, self.object_size, self.memory, self.folder)
        options = {
            "--output": self.output,
            "--axes": self.axes,
            "--object-size": self.object_size,
            "--max-memory": self.memory,
            "-o": self.folder,
        }
        super().__init__(napari_viewer, fields, options, "Predict")

    def begin(self) -> None:
        """Predict what is chosen."""
        options = PredictOptions(
            model=self.named(self.model.value, "model"),
            output=self.output.value or None,
            object_size=self.object_size.value or None,
            max_memory=parse_bytes(self.memory.value) if self.memory.value.strip() else None,
            folder=self.folder.value,
        )
        layer = self.named(self.image.value, "image")
        self.start(predict_layer, layer, self.axes.value, options, done=self._add)

    def _add(self, made: list[LayerData]) -> None:
        if not made:
            self.say("stopped")
        for one in made:
            self.viewer.add_layer(Layer.create(*one))
