"""Jobs on layers: train on a pair, predict an image, find where to annotate next. Generators for a thread."""

from __future__ import annotations

import atexit
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from septum.errors import DataError
from septum.prediction.settings import Output, PredictSettings
from septum.review.settings import SuggestSettings
from septum.review.suggest import Suggested
from septum.training.interrupt import StopRequest
from septum.training.settings import TrainSettings
from septum.words import pluralize

from napari_septum import jobs
from napari_septum.folder import file_name, left_out_text, send, unannotated, unused
from napari_septum.jobs import Learned, Update, Work
from napari_septum.layers import LayerData, axes_of, is_large, result_layers, save_layer

if TYPE_CHECKING:
    from napari.layers import Image, Labels

Meaning = Literal["objects", "classes", "scribbles"]
"""Labels are numbered objects; classes, where 0 is the background; or classes where 0 is not annotated."""

_kept = ExitStack()  # results that layers read piece by piece, until the program ends
atexit.register(_kept.close)


@dataclass(frozen=True)
class TrainOptions:
    """How a panel trains; see `septum.training.settings.TrainSettings`."""

    budget_s: float
    meaning: Meaning = "objects"
    start: str | None = None
    device: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class PredictOptions:
    """How a panel predicts; see `septum.prediction.settings.PredictSettings`. Without `folder` no file is kept."""

    model: str
    output: Output | None = None
    object_size: float | None = None
    max_memory: int | None = None
    folder: Path | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Region:
    """A part of a layer to annotate: first index and one after the last, along each axis of the layer; in bits."""

    start: tuple[int, ...]
    stop: tuple[int, ...]
    disagreement: float


@dataclass(frozen=True)
class NextParts:
    """The end of a ranking of a layer: the regions, the most useful first, and a sentence."""

    regions: tuple[Region, ...] = field(default=())
    text: str = "stopped"


def train_on_layers(
    image: Image, labels: Labels, folder: Path, options: TrainOptions, stop: StopRequest, **layout: Any
) -> Work[Learned]:
    """Write a pair of layers as a data set below a folder, and train on it.

    Parameters
    ----------
    image, labels
        The layers.
    folder
        The data set, with the run in its ``runs/``, becomes a new folder in this one.
    options, stop
        How to train, and the request to stop.
    **layout
        `axes` and `volume` of `napari_septum.folder.send`.
    """
    yield Update("writing the layers")
    data = unused(folder, file_name(image.name))
    sent = send(data, image, labels, **layout)
    if sent.left_out:
        yield Update(warning=f"learning from {pluralize(len(sent.images), 'image')}{left_out_text(sent.left_out)}")
    return (yield from train_on_folder(data, options, stop))


def train_on_folder(folder: Path, options: TrainOptions, stop: StopRequest) -> Work[Learned]:
    """Train on a folder with ``images/`` and ``masks/``; the run lies in its ``runs/``."""
    scribbles = options.meaning == "scribbles"
    settings = TrainSettings(
        data=(folder / "images", folder / "masks"),
        out=unused(folder / "runs", "napari"),
        budget_s=options.budget_s,
        kind="objects" if options.meaning == "objects" else "classes",
        ignore_values=(0,) if scribbles else (),
        from_model="none" if options.start == "none" else None if options.start is None else Path(options.start),
        device=options.device,
        seed=options.seed,
    )
    return (yield from jobs.train(settings, stop))


def predict_layer(layer: Image, axes: str, options: PredictOptions, stop: StopRequest) -> Work[list[LayerData]]:
    """Predict an image layer; the result lies where the layer lies. Empty if stopped.

    Parameters
    ----------
    layer
        The image: of any number of planes and frames, in memory or not.
    axes
        Axes of its data that a person named; empty: see `napari_septum.axes.name_axes`.
    options, stop
        How to predict, and the request to stop.
    """
    named, large = axes_of(layer, axes), is_large(layer)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(_temporary_folder()))
        yield Update("reading the layer")
        path, read_axes = save_layer(layer, named, folder, file_name(layer.name))
        settings = PredictSettings(
            model=Path(options.model),
            inputs=(str(path),),
            out=options.folder or folder / "predictions",
            output=options.output,
            format="ome.zarr" if large else "tif",
            object_size=options.object_size,
            max_memory=options.max_memory,
            axes=read_axes,
            device=options.device,
        )
        done = yield from jobs.predict(settings, stop)
        if done.result is None:
            return []
        output = options.output or ("labels" if _makes_objects(options.model) else "classes")
        made = result_layers(done.result, layer, named, output=output, name=f"{layer.name}, {output}")
        if large and options.folder is None:
            _kept.push(stack.pop_all())
    yield Update(done.text, 1.0)
    return made


def suggest_in_layer(layer: Image, axes: str, model: str, stop: StopRequest, *, number: int = 5) -> Work[NextParts]:
    """Find the parts of an image layer, such as planes of a stack or frames in time, to annotate next.

    Parameters
    ----------
    layer, axes
        The image, and the axes that a person named; empty: see `napari_septum.axes.name_axes`.
    model
        A model file, run folder, or name.
    stop
        The request to stop.
    number
        At most this number of planes.
    """
    named = axes_of(layer, axes)
    with _temporary_folder() as temporary:
        yield Update("reading the layer")
        path, read_axes = save_layer(layer, named, Path(temporary), file_name(layer.name))
        settings = SuggestSettings(model=Path(model), inputs=(str(path),), number=number, axes=read_axes)
        found = yield from jobs.rank(settings, stop)
    if found is None:
        return NextParts()
    regions = [_region(box, one.place, named) for one in found.suggestions for box in one.regions[:1]]
    return NextParts(tuple(regions), f"ranked by how much {found.voters} disagree")


def suggest_in_folder(folder: Path, model: str, stop: StopRequest, *, number: int = 5) -> Work[Suggested | None]:
    """Find the images of a folder to annotate next, out of those without a mask; None if stopped.

    Raises
    ------
    DataError
        If there is no image without a mask.
    """
    images = unannotated(folder)
    if not images:
        raise DataError(
            f"{folder}: every image has a mask", "an image without one", "add images that are not annotated"
        )
    settings = SuggestSettings(model=Path(model), inputs=tuple(map(str, images)), number=number)
    return (yield from jobs.rank(settings, stop))


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="septum-napari-", ignore_cleanup_errors=True)


def _region(box: Any, place: dict[str, int], axes: str) -> Region:
    """Return a box of spatial axes at a place as a region along the axes of the layer without channels."""
    spatial = [a for a in "ZYX" if a in axes][-len(box.start) :]
    start = {**place, **dict(zip(spatial, box.start, strict=True))}
    stop = {**{a: n + 1 for a, n in place.items()}, **dict(zip(spatial, box.stop, strict=True))}
    wanted = [a for a in axes if a != "C"]
    return Region(tuple(start.get(a, 0) for a in wanted), tuple(stop.get(a, 1) for a in wanted), box.disagreement)


def _makes_objects(model: str) -> bool:
    from septum.io.tensors import read_model
    from septum.prediction.model import model_file

    return read_model(model_file(Path(model)))[1].get("kind") == "objects"
