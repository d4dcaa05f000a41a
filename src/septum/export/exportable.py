"""What an export reads of a model, the facts that a program must know, and what the file does not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.export.onnx_graph import rest_of_sides, smallest_sides
from septum.nn.ensemble import Network
from septum.nn.unet import UNetSettings
from septum.settings import MaskKind
from septum.version import __version__

# This room does not import that of predictions, which opens models: protocols name the parts of a model that it reads.


class ExportableHeader(Protocol):
    """What an export reads of the header of a model; see `septum.prediction.model.ModelHeader`."""

    @property
    def network(self) -> UNetSettings:
        """Shape of the network."""

    @property
    def normalization(self) -> NormalizeSettings:
        """Normalization of intensities."""

    @property
    def kind(self) -> MaskKind:
        """Whether the masks held object ids or classes."""

    @property
    def class_values(self) -> tuple[int, ...]:
        """Value of each class in the training masks."""

    @property
    def gray_as_color(self) -> bool:
        """Gray images were repeated into the color channels."""

    @property
    def objects(self) -> ObjectSettings:
        """How objects are made."""

    @property
    def lines(self) -> bool:
        """The classes are lines and the areas between them."""

    @property
    def scale(self) -> float:
        """Factor by which the training images were resized."""

    @property
    def scores(self) -> dict[str, float]:
        """Scores on the validation images."""

    @property
    def pixel_size_um(self) -> dict[str, float]:
        """Pixel size of the training images."""

    def model_dump(self, *, mode: str = ..., exclude: Any = ...) -> dict[str, Any]:
        """Return the header as values that JSON can hold."""

    def describe_release(self) -> str | None:
        """Describe for what a model that comes with Septum was made."""


class ExportableModel(Protocol):
    """A verified model on the CPU; see `septum.prediction.model.Model`."""

    @property
    def header(self) -> ExportableHeader:
        """Settings that prediction needs."""

    @property
    def network(self) -> Network:
        """The network, or several."""


def model_name(path: Path) -> str:
    """Return a name for the files of a model: that of its file; of the run folder where the file is named as in all."""
    if path.suffix != ".safetensors":
        return path.resolve().name
    return path.resolve().parent.name if path.name == "model.safetensors" else path.stem


def facts(header: ExportableHeader) -> dict[str, Any]:
    """Return what a program must know to use the graph, as values that JSON can hold; stored in the file."""
    network = header.network
    return {
        "septum": __version__,
        "axes": "CZYX" if len(network.depths) == 3 else "CYX",
        "padding": network.padding,
        "context": list(network.geometry.contexts),
        "grid": list(network.geometry.grid),
        "smallest": list(smallest_sides(network)),
        "rest": rest_of_sides(network),
        "normalization": header.normalization.model_dump(mode="json"),
        "class_values": list(header.class_values),
        "scale": header.scale,
        "pixel_size_um": dict(header.pixel_size_um),
        "left_out": left_out(header),
        "header": header.model_dump(mode="json", exclude={"domain": {"curves"}, "release": {"images"}}),
    }


def left_out(header: ExportableHeader) -> list[str]:
    """Return what the file of a model leaves to the program that runs it, a line each."""
    found = []
    if header.kind == "objects" or header.lines:
        what = "objects" if header.kind == "objects" else "areas between lines"
        learned = ", with the learned decisions of the header" if header.objects.learned is not None else ""
        found.append(f"{what}: septum.arrays.instances.label_objects makes them of the probabilities{learned}")
    if header.scale != 1:
        found.append(f"resizing: the image by {header.scale:.3g} before, and the probabilities back after")
    if header.normalization.skip_constant:
        found.append("statistics without a black frame and burnt-in bars, as septum predict computes them")
    if header.gray_as_color:
        found.append("color channels of a gray image: repeat it into all channels")
    if header.kind == "objects":
        found.append(
            "the scale of images whose objects are wider or narrower than in the training: septum predict finds it"
        )
    found.append("TorchScript, which QuPath's own engine needs")
    return found
