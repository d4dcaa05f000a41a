"""The panel that shows where to annotate next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, FileEdit, SpinBox, create_widget
from napari.layers import Image, Layer
from numpy.typing import NDArray
from septum.review.suggest import Suggested

from napari_septum.files import layer_of
from napari_septum.layer_jobs import NextParts, Region, suggest_in_folder, suggest_in_layer
from napari_septum.layers import axes_of, placement
from napari_septum.panel import Panel, axes_field, model_fields

if TYPE_CHECKING:
    from napari import Viewer

LAYER, FOLDER = "planes of the image layer", "images of the folder without a mask"
_NAME = "annotate next"


class SuggestPanel(Panel):
    """Suggest: which plane, frame or image is worth annotating next; choosing one shows it.

    Parameters
    ----------
    napari_viewer
        The viewer that the panel belongs to; napari knows it by this name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self.source = ComboBox(label="Look in", choices=[LAYER, FOLDER])
        self.image = create_widget(label="Image", annotation=Image)
        self.model, opened = model_fields()
        self.axes = axes_field()
        self.folder = FileEdit(label="Folder", mode="d", value="", nullable=True)
        self.number = SpinBox(label="How many", value=5, min=1, max=100)
        self._offered: list[tuple[str, int]] = []
        self.found = ComboBox(label="Show", choices=lambda _: self._offered)  # napari asks again with each layer
        fields = (self.source, self.image, self.folder, self.model, opened, self.axes, self.number, self.found)
        super().__init__(napari_viewer, fields, {"--axes": self.axes, "--number": self.number}, "Suggest")
        self._layer: Image | None = None
        self._axes = ""
        self._regions: tuple[Region, ...] = ()
        self._images: tuple[Path, ...] = ()
        self.source.changed.connect(self._show_fields)
        self.found.changed.connect(self._show)
        self._show_fields(LAYER)

    def _show_fields(self, source: str) -> None:
        self.image.visible = self.axes.visible = source == LAYER
        self.folder.visible = source == FOLDER

    def begin(self) -> None:
        """Rank what is chosen."""
        model = self.named(self.model.value, "model")
        if self.source.value == FOLDER:
            folder = self.named(self.folder.value, "folder")
            self.start(suggest_in_folder, folder, model, number=self.number.value, done=self._take_images)
            return
        self._layer = self.named(self.image.value, "image")
        self._axes = axes_of(self._layer, self.axes.value)
        self.start(
            suggest_in_layer, self._layer, self.axes.value, model, number=self.number.value, done=self._take_regions
        )

    def _take_regions(self, parts: NextParts) -> None:
        self.say(parts.text)
        self._regions, self._images = parts.regions, ()
        texts = [f"{place_text(r.start, r.stop)}: {r.disagreement:.2f} bits" for r in parts.regions]
        self._offer(texts)
        if parts.regions and self._layer is not None:
            shapes = [rectangle(region) for region in parts.regions]
            place = placement(self._layer, self._axes)
            if _NAME in self.viewer.layers:
                self.viewer.layers.remove(_NAME)
            look = {"name": _NAME, "face_color": "transparent", "edge_color": "yellow", "edge_width": 2, "opacity": 1.0}
            self.viewer.add_layer(Layer.create(shapes, {**place, **look, "shape_type": "rectangle"}, "shapes"))

    def _take_images(self, found: Suggested | None) -> None:
        if found is None:
            self.say("stopped")
            return
        self.say(f"ranked by how much {found.voters} disagree")
        self._regions, self._images = (), tuple(one.path for one in found.suggestions)
        self._offer([f"{one.path.name}: {one.disagreement:.2f} bits" for one in found.suggestions])

    def _offer(self, texts: Sequence[str]) -> None:
        with self.found.changed.blocked():
            self._offered = [(text, number) for number, text in enumerate(texts)]
            self.found.reset_choices()
        self._show(0 if texts else None)

    def _show(self, number: int | None) -> None:
        """Go to a region of the layer, or open an image of the folder."""
        if number is None:
            return
        if number < len(self._images):
            path = self._images[number]
            if not any(layer.source.path == str(path) for layer in self.viewer.layers):
                data, keywords, kind = layer_of(path, labels=False)
                self.viewer.add_layer(Layer.create(data, keywords, kind))
        elif number < len(self._regions) and self._layer is not None:
            region = self._regions[number]
            middle = iter((np.array(region.start) + np.array(region.stop) - 1) / 2)
            axes = self._axes[: self._layer.ndim]
            self.go_to(self._layer, np.array([0.0 if axis == "C" else next(middle) for axis in axes]))

    def go_to(self, layer: Any, middle: NDArray[np.float64]) -> None:
        """Show a place of a layer: ``(ndim)`` indices along its axes, floats within its sides."""
        world = layer.data_to_world(middle)
        shown = list(self.viewer.dims.point)
        shown[len(shown) - len(world) :] = world
        self.viewer.dims.set_point(range(len(shown)), shown)
        scene = self.viewer.scene if hasattr(self.viewer, "scene") else self.viewer  # before napari 0.9
        scene.camera.center = tuple(world[-3:]) if len(world) > 2 else tuple(world)


def rectangle(region: Region) -> NDArray[np.float64]:
    """Return the corners of a region in its first plane: ``(4, ndim)`` coordinates of pixels, float64."""
    start, stop = np.array(region.start, float), np.array(region.stop, float)
    middle = np.floor((start + stop - 1) / 2)
    corners = np.tile(middle, (4, 1))
    corners[:, -2] = [start[-2] - 0.5, start[-2] - 0.5, stop[-2] - 0.5, stop[-2] - 0.5]
    corners[:, -1] = [start[-1] - 0.5, stop[-1] - 0.5, stop[-1] - 0.5, start[-1] - 0.5]
    return corners


def place_text(start: Sequence[int], stop: Sequence[int]) -> str:
    """Return a region for a person: ``"3, 0:256, 128:384"``."""
    return ", ".join(f"{a}" if b == a + 1 else f"{a}:{b}" for a, b in zip(start, stop, strict=True))
