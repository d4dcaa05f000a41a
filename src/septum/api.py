"""The verbs as seen from Python: arrays or paths in; a model, arrays or scores out.

The jobs are those of the command line, with the same results and files.
"""

from __future__ import annotations

import math
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from septum.errors import DataError, UnfamiliarImageWarning, UsageError
from septum.evaluation.evaluate import evaluate as evaluate_job
from septum.evaluation.results import EvaluateSettings, Evaluation
from septum.events import Event, Warned
from septum.experiments.events import PartStarted
from septum.experiments.run import run_training
from septum.experiments.settings import RunSettings
from septum.experiments.tracking import open_trackers
from septum.io.files import read_image, write_image
from septum.io.image import Image
from septum.prediction.domain_shift import image_warnings
from septum.prediction.frames import split_frames
from septum.prediction.model import Model
from septum.prediction.model import open_model as open_model
from septum.prediction.predict import predict_image
from septum.prediction.settings import Output, unknown_output
from septum.report.numbers import format_scores
from septum.settings import Settings, expectation
from septum.training.events import Checked, Planned, Stopped, Validated
from septum.training.interrupt import stop_on_signals

Arrays = Sequence[NDArray[Any]] | NDArray[Any]
S = TypeVar("S", bound=Settings)

# Warnings of this process: the domain of a model's training images, and the cause.
_warned: set[tuple[str, str]] = set()


def train(
    images: str | Path | Arrays,
    masks: str | Path | Arrays | None = None,
    *,
    out: str | Path | None = None,
    budget_s: float | None = None,
    steps: int | None = None,
    until_plateau: bool = False,
    preset: Literal["auto", "paper", "fiji"] = "auto",
    seed: int = 0,
    folds: int | None = None,
    kind: Literal["objects", "classes"] | None = None,
    ignore_values: Sequence[int] = (),
    background: int | None = None,
    axes: str | None = None,
    group: str | None = None,
    from_model: str | Path | None = None,
    width: int | None = None,
    depth: int | None = None,
    tile: int | None = None,
    batch: int | None = None,
    set: Sequence[str] = (),  # noqa: A002 -- the name of the option
    precision: Literal["float32", "bfloat16"] | None = None,
    device: str = "auto",
    deterministic: bool = False,
    compile: bool = False,  # noqa: A002 -- the name of the option
    tensorboard: bool = False,
    mlflow: bool = False,
    verbose: bool = False,
) -> Model:
    """Train a model, as ``septum train`` does: with report, folds and tracking where asked.

    Parameters
    ----------
    images
        A folder or stack of images; or a list of arrays ``(*S)`` or ``(C, *S)`` of any integer or float type, raw
        intensities; or one array whose first axis counts images.
    masks
        The same for the masks, ``(*S)`` integers: object ids or class values, 0 background. The rank of the masks is
        that of the images. None where `images` is a folder that holds both.
    out
        Run folder: model, report, log and checkpoints; the same call on the same folder continues after a stop. A
        temporary folder that is removed where not given.
    budget_s, steps, until_plateau
        Seconds for the whole training (1800 where neither is given; `math.inf`: train until the held-out scores no
        longer improve), or the number of steps; with `until_plateau` end earlier where they no longer improve.
    preset
        ``"auto"`` follows the data; ``"paper"`` is the U-Net of 2015, ``"fiji"`` its ImageJ plugin.
    seed
        Seed of everything random: the same seed gives the same weights on the same machine.
    folds
        Hold each image out once: that number of networks, which predict together.
    kind
        What the masks hold; read from their values where not given.
    ignore_values
        Mask values to treat as not annotated.
    background
        Mask value of the background, where it is not 0; read from the masks where not given.
    axes
        Axes of image files that do not state them right: ``"ZYX"``, ``"TYX"``, ``"YXC"``; those of masks likewise.
    group
        Regular expression; images whose names match alike are never split between training and validation.
    from_model
        A model file or run folder whose weights the training starts from.
    width, depth, tile, batch, precision
        Values that win over the plan.
    set
        Any other value of the plan, ``"weights.w0=5"``.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    deterministic, compile
        On GPUs: repeatable algorithms only; compile the network with `torch.compile`.
    tensorboard, mlflow
        Log plan, losses and scores to a tracker.
    verbose
        Print plan, findings and scores to the standard error stream.

    Returns
    -------
    Model
        Ready for `predict`.

    Raises
    ------
    SeptumError
        If the data cannot be learned from or an option is outside its range: what was given, what was expected, what
        to do.
    """
    with tempfile.TemporaryDirectory(prefix="septum-") as temporary:
        rank = None if masks is None or isinstance(masks, str | Path) or len(masks) == 0 else np.ndim(masks[0])
        data = [_as_folder(images, Path(temporary) / "images", rank)]
        if masks is not None:
            data.append(_as_folder(masks, Path(temporary) / "masks", rank))
        folder = Path(out) if out is not None else Path(temporary) / "run"
        training: dict[str, Any] = {
            "data": tuple(data),
            "out": folder,
            "steps": steps,
            "until_plateau": until_plateau,
            "preset": preset,
            "seed": seed,
            "kind": kind,
            "ignore_values": tuple(ignore_values),
            "background": background,
            "axes": axes,
            "split": {"group": group},
            "from_model": from_model,
            "width": width,
            "depth": depth,
            "tile": tile,
            "batch": batch,
            "set": tuple(set),
            "precision": precision,
            "device": device,
            "deterministic": deterministic,
            "compile": compile,
        }
        if budget_s is not None:
            training["budget_s"] = None if math.isinf(budget_s) else budget_s
        asked = _settings(RunSettings, training=training, folds=folds)
        trackers = open_trackers(folder, tensorboard=tensorboard, mlflow=mlflow)
        with (
            stop_on_signals() as stop,
            closing(run_training(asked.training, folds=asked.folds, trackers=trackers, stop=stop)) as events,
        ):
            for event in events:
                if verbose:
                    _print_event(event)
                if isinstance(event, Stopped):
                    raise KeyboardInterrupt(f"the state after step {event.step} is saved in {event.folder}")
        return open_model(folder, device)


def predict(
    model: Model | str | Path,
    image: str | Path | NDArray[Any],
    *,
    output: Output | None = None,
    axes: str | None = None,
) -> NDArray[Any]:
    """Predict one image, as ``septum predict`` does.

    Parameters
    ----------
    model
        From `train` or `open_model`; or the path of a model file or run folder, which is opened at each call.
    image
        A path, or an array ``(*S)`` or ``(C, *S)`` of raw intensities, any integer or float type.
    output
        ``"labels"``: object ids; ``"classes"``: the class values of the training masks; ``"probabilities"``. None: what
        the training masks held, labels or classes.
    axes
        Axes of an image file that does not state its axes or states wrong ones: ``"ZYX"``, ``"TYX"``, ``"YXC"``.

    Returns
    -------
    ndarray
        ``(*S)`` integers, 0 background; for probabilities float32 in 0..1: ``(*S)`` (of the object or second class) for
        two classes, ``(K, *S)`` for more. A file with T, or with Z for a model of images, gives these axes in front.

    Raises
    ------
    DataError, ModelError, UsageError
        If channels or dimensions of the image do not fit the model, a pixel is not a finite number, or `output` is not
        one of the words above.

    Warns
    -----
    UnfamiliarImageWarning
        If the image differs from the training images (pixel size, intensities, contrast): once for each cause and
        model.
    """
    if output is not None and output not in get_args(Output):
        raise unknown_output(output)
    opened = model if isinstance(model, Model) else open_model(Path(model))
    if isinstance(image, str | Path):
        found, name = read_image(Path(image), axes=axes), str(image)
    else:
        found, name = _as_image(image, opened.rank), "the image"
    for cause, text in _new_warnings(opened, found, name):
        warnings.warn(text, UnfamiliarImageWarning, stacklevel=2)
        _warned.add(cause)
    result = predict_image(opened, found, output=output)
    channel = found.axes.index("C")
    return result.squeeze(channel) if result.shape[channel] == 1 else result


def evaluate(
    predicted: str | Path | Sequence[str | Path],
    truth: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    ignore_mask: str | Path | None = None,
    axes: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Evaluation:
    """Score one prediction, or compare two, as ``septum evaluate`` does.

    Parameters
    ----------
    predicted
        A file or folder; or two of them, of which the second is compared with the first.
    truth
        A file or folder with the same names.
    metrics
        Some of ``"isbi"``, ``"ctc"``, ``"instances"``, ``"pixels"``; chosen from the truth where not given.
    ignore_mask
        A mask, or folder of masks, whose pixels other than 0 do not count.
    axes
        Axes of files that do not state them right: ``"ZYX"``, ``"TYX"``, ``"YXC"``.
    seed
        Random seed of the bootstrap.
    out
        Folder for tables of all images and objects; nothing is written where not given.

    Returns
    -------
    Evaluation
        Scores with intervals, of all images together and of each, differences, and files that could not be scored.

    Raises
    ------
    SeptumError
        If nothing can be scored or an option is unknown.
    """
    several = (predicted,) if isinstance(predicted, str | Path) else tuple(predicted)
    return evaluate_job(
        _settings(
            EvaluateSettings,
            predicted=tuple(Path(p) for p in several),
            truth=Path(truth),
            metrics=None if metrics is None else tuple(metrics),
            ignore_mask=ignore_mask,
            axes=axes,
            seed=seed,
            out=out,
        )
    )


def _settings(cls: type[S], **values: Any) -> S:
    """Return settings; raise UsageError that names the keyword if a value is outside its range."""
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part not in ("training", "split")]
        name = place[0] if place else "steps and budget_s"
        given = f" {first['input']!r}" if place else ""
        raise UsageError(f"{name}{given}", expectation(error)) from None


def _print_event(event: Event) -> None:
    """Print plan, findings, warnings and scores to the standard error stream."""
    lines: Iterable[str] = ()
    match event:
        case Checked(report):
            lines = report.lines()
        case Planned(planned):
            lines = planned
        case Warned(text):
            lines = (f"warning: {text}",)
        case Validated(step, total, scores):
            lines = (f"step {step} of {total}: held-out images {format_scores(scores)}",)
        case PartStarted(title):
            lines = (f"--- {title}",)
    for line in lines:
        print(line, file=sys.stderr)  # noqa: T201 -- asked for with verbose=True


def _as_image(array: Any, rank: int) -> Image:
    """Return an array ``(*S)`` or ``(C, *S)`` as an image of one channel or of C."""
    if array.size == 0:
        raise DataError(f"an array without pixels, {array.shape}", "at least one pixel")
    if array.ndim not in (rank, rank + 1):
        expected = f"{rank} dimensions, or {rank + 1} with channels first"
        raise DataError(f"an array of {array.ndim} dimensions", expected)
    return Image.from_array(array if array.ndim == rank + 1 else array[None], "CZYX" if rank == 3 else "CYX")


def _new_warnings(model: Model, image: Image, name: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield what in an image differs from the training images, and was not warned of before, with its key."""
    for cause, text in image_warnings(split_frames(image, model), name, image.pixel_size_um, model.header.domain):
        assert model.header.domain is not None
        if (known := (model.header.domain.model_dump_json(), cause)) not in _warned:
            yield known, text


def _as_folder(data: str | Path | Arrays, folder: Path, rank: int | None) -> Path:
    """Return a path as it is; write arrays as files, so that arrays and files are treated alike.

    The files name their axes: an array alone does not say whether its first axis is color, depth or time.
    """
    if isinstance(data, str | Path):
        return Path(data)
    folder.mkdir()
    for number, array in enumerate(data):
        spatial = "ZYX"[-(rank or 2) :]
        if array.ndim not in (len(spatial), len(spatial) + 1):
            expected = f"{len(spatial)} dimensions as its mask, or {len(spatial) + 1} with channels first"
            raise DataError(f"{folder.name}: array {number} has {array.ndim} dimensions", expected)
        axes = spatial if array.ndim == len(spatial) else "C" + spatial
        write_image(folder / f"image-{number:06d}.tif", array, axes=axes)
    return folder
