"""What an export reads of a model, the facts that a program must know, and what the file does not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from septum.export.onnx_graph import rest_of_sides, smallest_sides
from septum.prediction.model import ModelHeader
from septum.version import __version__


def model_name(path: Path) -> str:
    """Return a name for the files of a model: that of its file; of the run folder where the file is named as in all."""
    if path.suffix != ".safetensors":
        return path.resolve().name
    return path.resolve().parent.name if path.name == "model.safetensors" else path.stem


def facts(header: ModelHeader) -> dict[str, Any]:
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


def left_out(header: ModelHeader) -> list[str]:
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
