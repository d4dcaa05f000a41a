"""The panel of the data folder: send layers to it, open its images and masks; the studio opens the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magicgui.widgets import ComboBox, FileEdit, PushButton, create_widget
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info
from septum.errors import SeptumError
from septum.words import pluralize

from napari_septum.files import layer_of
from napari_septum.folder import Pair, left_out_text, pairs, send
from napari_septum.panel import Fields, axes_field
from napari_septum.train_panel import HOME, PLANES, VOLUME

if TYPE_CHECKING:
    from napari import Viewer


class FolderPanel(Fields):
    """Data folder: an ordinary data set that the studio and the command line use too.

    Parameters
    ----------
    napari_viewer
        The viewer that the panel belongs to; napari knows it by this name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self.folder = FileEdit(label="Folder", mode="d", value=HOME / "cells")
        self.image = create_widget(label="Image", annotation=Image)
        self.painted = create_widget(label="Labels", annotation=Labels)
        self.axes = axes_field()
        self.stacks = ComboBox(label="Z makes", choices=[PLANES, VOLUME])
        self.send_button = PushButton(text="Send image and labels to the folder")
        self._offered: list[tuple[str, Pair]] = []
        self.inside = ComboBox(label="In the folder", choices=lambda _: self._offered)  # asked again with each layer
        self.open_button = PushButton(text="Open the image, its mask and its prediction")
        fields = (self.folder, self.image, self.painted, self.axes, self.stacks, self.send_button)
        super().__init__(napari_viewer, [*fields, self.inside, self.open_button], {"--axes": self.axes})
        self.folder.changed.connect(self.look)
        self.send_button.changed.connect(self.send)
        self.open_button.changed.connect(self.open)
        self.look()

    def look(self) -> None:
        """List what the folder holds."""
        found: list[Pair] = []
        folder: Path = self.folder.value
        if folder.is_dir():
            try:
                found = pairs(folder)
            except SeptumError as error:
                self.say(error.given)
        self._offered = [(pair.name + ("" if pair.mask else " (no mask)"), pair) for pair in found]
        self.inside.reset_choices()

    def send(self) -> None:
        """Write the chosen layers into the folder."""
        try:
            if self.image.value is None or self.painted.value is None:
                raise SeptumError("no image or no labels layer is chosen", "one of each", "add them to the viewer")
            layout = {"axes": self.axes.value, "volume": self.stacks.value == VOLUME}
            sent = send(self.folder.value, self.image.value, self.painted.value, **layout)
        except SeptumError as error:
            self.refuse(error)
            return
        done = f"{pluralize(len(sent.images), 'image')} and as many masks written{left_out_text(sent.left_out)}"
        self.say(f"{done}\nIn a browser: septum studio {self.folder.value}")
        show_info(done)
        self.look()

    def open(self) -> None:
        """Add the chosen image, its mask and its prediction as layers."""
        pair: Pair | None = self.inside.value
        if pair is None:
            self.say(f"{self.folder.value} holds no image yet")
            return
        files = [(pair.image, False), (pair.mask, True), (pair.prediction, True)]
        try:
            for path, labels in files:
                if path is not None:
                    data, keywords, kind = layer_of(path, labels=labels)
                    keywords["name"] = f"{pair.name}{'' if not labels else f', {path.parent.name}'}"
                    self.viewer.add_layer(Layer.create(data, keywords, kind))
        except SeptumError as error:
            self.refuse(error)
