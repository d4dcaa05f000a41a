"""The verbs as seen from Python: arrays or paths in; a model, arrays or scores out.

The jobs are those of the command line, with the same results and files.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from septum.array_likes import compared_paths, data_paths, is_location, to_image
from septum.errors import SeptumWarning, UnfamiliarImageWarning, UsageError
from septum.evaluation.evaluate import evaluate as evaluate_job
from septum.evaluation.results import EvaluateSettings, Evaluation
from septum.events import Event, Warned
from septum.experiments.run import run_training
from septum.experiments.settings import RunSettings
from septum.experiments.tracking import open_trackers
from septum.io.image import Image
from septum.io.selection import EVERYTHING, Selection
from septum.prediction.domain_shift import image_warnings
from septum.prediction.frames import FoundScale, channel_note, open_for_model, split_frames
from septum.prediction.in_memory import predict_image
from septum.prediction.model import Model
from septum.prediction.model import open_model as open_model
from septum.prediction.scale import find_scale
from septum.prediction.settings import Backend, Output, check_scale, unknown_output
from septum.progress import Display, Progress, show_training
from septum.settings import Settings, expectation
from septum.training.events import Checked, Stopped
from septum.training.interrupt import stop_on_signals
from septum.words import as_keywords, keywords_in_errors

Arrays = Iterable[Any] | ArrayLike
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
    channel: Sequence[str] = (),
    level: int | None = None,
    pixel_size: float | None = None,
    group: str | None = None,
    from_model: str | Path | None = None,
    width: int | None = None,
    depth: int | None = None,
    tile: int | None = None,
    batch: int | None = None,
    set: Sequence[str] = (),  # noqa: A002 -- the name of the option
    precision: Literal["float32", "bfloat16"] | None = None,
    max_memory: int | None = None,
    device: str = "auto",
    deterministic: bool = False,
    compile: bool = False,  # noqa: A002 -- the name of the option
    tensorboard: bool = False,
    mlflow: bool = False,
    verbose: bool = True,
) -> Model:
    """Train a model, as ``septum train`` does: with report, folds and tracking where asked.

    Parameters
    ----------
    images
        A folder or stack of images; or a list, or any iterable, of paths or of arrays ``(*S)``, ``(C, *S)`` or
        ``(*S, C)`` of any integer or float type, raw intensities; or one array whose first axis counts images. What
        `numpy.asarray` understands is an array: tensors, nested lists, images of Pillow.
    masks
        The same for the masks, ``(*S)`` integers: object ids or class values, 0 background; as many as images and in
        their order. The rank of the masks is that of the images. None where `images` is a folder that holds both.
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
    axes, channel
        Axes of image files that do not state them right: ``"ZYX"``, ``"TYX"``, ``"YXC"``; those of masks likewise.
        Channels to read, by number from 1 or by name; all where not given.
    level, pixel_size
        Level of slides and other images in several sizes, from 0, the largest, or micrometers per pixel of the level.
    group
        Regular expression; images whose names match alike are never split between training and validation.
    from_model
        A model file or run folder, or the name of a model that comes with Septum, whose weights the training starts
        from; ``"none"``: from no model. None: from one that comes with Septum where it finds the objects of the images.
    width, depth, tile, batch, precision
        Values that win over the plan.
    set
        Any other value of the plan, ``"weights.w0=5"``.
    max_memory
        Limit of the memory of this process in bytes; most of the free memory where not given.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    deterministic, compile
        On GPUs: repeatable algorithms only; compile the network with `torch.compile`.
    tensorboard, mlflow
        Log plan, losses and scores to a tracker.
    verbose
        Print findings, plan, progress and scores to the standard error stream. False: findings to look at are Python
        warnings, `septum.errors.SeptumWarning`.

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
    with tempfile.TemporaryDirectory(prefix="septum-", ignore_cleanup_errors=True) as temporary:
        data = data_paths(images, masks, Path(temporary))
        folder = Path(out) if out is not None else Path(temporary) / "run"
        training: dict[str, Any] = {
            "data": data,
            "out": folder,
            "steps": steps,
            "until_plateau": until_plateau,
            "preset": preset,
            "seed": seed,
            "kind": kind,
            "ignore_values": _listed(ignore_values),
            "background": background,
            "axes": axes,
            "channel": _listed(channel),
            "level": level,
            "pixel_size": pixel_size,
            "split": {"group": group},
            "from_model": from_model,
            "width": width,
            "depth": depth,
            "tile": tile,
            "batch": batch,
            "set": _listed(set),
            "precision": precision,
            "max_memory": max_memory,
            "device": device,
            "deterministic": deterministic,
            "compile": compile,
        }
        if budget_s is not None:
            training["budget_s"] = None if budget_s == math.inf else budget_s
        asked = _settings(RunSettings, training=training, folds=folds)
        trackers = open_trackers(folder, tensorboard=tensorboard, mlflow=mlflow)
        with stop_on_signals() as stop:
            _follow(run_training(asked.training, folds=asked.folds, trackers=trackers, stop=stop), verbose=verbose)
        return open_model(folder, device)


def predict(
    model: Model | str | Path,
    image: str | Path | ArrayLike,
    *,
    output: Output | None = None,
    scale: float | Literal["auto"] = "auto",
    object_size: float | None = None,
    axes: str | None = None,
    channel: Sequence[str] = (),
    level: int | None = None,
    pixel_size: float | None = None,
    engine: Backend = "auto",
) -> NDArray[Any]:
    """Predict one image, as ``septum predict`` does.

    Parameters
    ----------
    model
        From `train` or `open_model`; or the path of a model file or run folder, or the name of a model that comes with
        Septum (``"nuclei"``), which is opened at each call.
    image
        A path, or an array ``(*S)``, ``(C, *S)`` or ``(*S, C)`` of raw intensities, any integer or float type; also
        what `numpy.asarray` understands: a tensor, an image of Pillow, a nested list.
    output
        ``"labels"``: object ids; ``"classes"``: the class values of the training masks; ``"probabilities"``. None: what
        the training masks held, labels or classes.
    scale
        Factor by which the image is resized for the network, so that its objects are as wide as those of the training;
        the result has the size of the image. ``"auto"``: found, which takes some time at each call.
    object_size
        Width of the objects in the image, in pixels, instead of `scale`.
    axes
        Axes of an array, or of a file that does not state them right, one letter of ``TCZYX`` for each dimension in its
        order: ``"TYX"``, ``"YXC"``, ``"XYZ"``. None: found by the shape of an array, or as the file states.
    channel
        Channels of a file to read, by number from 1 or by name; as in training if not given.
    level, pixel_size
        Level of a file in several sizes, 0 is the largest, or micrometers per pixel of it; as in training if not given.
    engine
        Code that computes on a CPU: ``"torch"``, ``"septum"``, or ``"auto"``: PyTorch, and Septum's engine where it is
        faster, as soon as the work of all calls with a model makes up for loading it. The last bits of probabilities
        differ between the two: choose one where each call must give the same bits.

    Returns
    -------
    ndarray
        ``(*S)`` integers, 0 background; for probabilities float32 in 0..1: ``(*S)`` (of the object or second class) for
        two classes, ``(K, *S)`` for more. T, and Z for a model of images, come in front; ``*S`` is ``(Y, X)`` or
        ``(Z, Y, X)`` in any order of `axes`.

    Raises
    ------
    DataError, ModelError, UsageError
        If channels, dimensions or level of the image do not fit, a pixel is no finite number, or `output` no such word.

    Warns
    -----
    SeptumWarning
        If axes or channels of the image are read in another way than the file states them, as training does; and
        `UnfamiliarImageWarning` if it differs from the training images (pixel size, intensities, contrast) or is
        predicted at another scale: once for each cause and model.
    """
    with keywords_in_errors():
        if output is not None and output not in get_args(Output):
            raise unknown_output(output)
        if engine not in get_args(Backend):
            raise UsageError(f"engine {engine}", f"one of {', '.join(get_args(Backend))}", "leave it out")
        opened = model if isinstance(model, Model) else open_model(model)
        opened = opened if engine == "auto" else replace(opened, engine=engine)
        selection = Selection(_listed(channel), level, pixel_size)
        found, name, message = _opened(image, opened, axes, selection)
        if message:
            warnings.warn(as_keywords(message), SeptumWarning, stacklevel=2)
        at = find_scale(opened, found, scale=check_scale(scale, object_size), object_size=object_size)
        for cause, text in _new_warnings(opened, found, name, at):
            warnings.warn(as_keywords(text), UnfamiliarImageWarning, stacklevel=2)
            _warned.add(cause)
        result = predict_image(opened, found, output=output, found=at)
    place = found.axes.index("C")
    return result.squeeze(place) if result.shape[place] == 1 else result


def evaluate(
    predicted: str | Path | Sequence[str | Path] | Arrays,
    truth: str | Path | Arrays,
    *,
    metrics: str | Sequence[str] | None = None,
    ignore_mask: str | Path | None = None,
    axes: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Evaluation:
    """Score one prediction, or compare two, as ``septum evaluate`` does.

    Parameters
    ----------
    predicted
        A file or folder; or two of them, of which the second is compared with the first. Or arrays: one ``(Y, X)`` or
        ``(Z, Y, X)``, object ids, class values or probabilities, or a list of them.
    truth
        A file or folder with the same names. Or arrays of integers, as many as predictions and in their order.
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

    Warns
    -----
    SeptumWarning
        For each file that could not be scored.
    """
    with tempfile.TemporaryDirectory(prefix="septum-", ignore_cleanup_errors=True) as temporary:
        several, true = compared_paths(predicted, truth, Path(temporary))
        found = evaluate_job(
            _settings(
                EvaluateSettings,
                predicted=several,
                truth=true,
                metrics=metrics.split(",") if isinstance(metrics, str) else metrics,
                ignore_mask=ignore_mask,
                axes=axes,
                seed=seed,
                out=out,
            )
        )
    for failure in (failure for result in found.results for failure in result.failures):
        warnings.warn(f"not scored: {failure.name}: {failure.message}", SeptumWarning, stacklevel=2)
    return found


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


def _follow(events: Generator[Event], *, verbose: bool) -> None:
    """Run a training to its end; show its events, or only warn of findings."""
    with closing(events), Progress("steps", Display(quiet=not verbose), waiting="opening every file") as progress:
        for event in events:
            if verbose:
                show_training(event, progress)
            else:
                for text in _findings(event):
                    warnings.warn(text, SeptumWarning, stacklevel=3)
            if isinstance(event, Stopped):
                raise KeyboardInterrupt(f"the state after step {event.step} is saved in {event.folder}")


def _findings(event: Event) -> Iterator[str]:
    """Yield the warnings of an event."""
    if isinstance(event, Checked):
        yield from (issue.line() for issue in event.report.warnings)
    elif isinstance(event, Warned):
        yield event.text


def _listed(values: Any) -> Any:
    """Return one word or number as a tuple, other iterables as tuples; what is neither is left to the settings."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return (values,)
    return tuple(values)


def _opened(image: Any, model: Model, axes: str | None, selection: Selection) -> tuple[Image, str, str]:
    """Return an image for a model, its name, and how it is read if not as it is stored."""
    if is_location(image):
        stored, message = open_for_model(Path(image), model, axes=axes, selection=selection)
        return stored.load(), str(image), message
    if selection != EVERYTHING:
        todo = "take them from the array, such as array[..., 0]" if selection.channels else "leave it out"
        raise UsageError(f"{selection.options} with an array", "a file", todo)
    found = to_image(image, model.rank, model.header.network.channels, axes)
    return found, "the image", channel_note(found, model)


def _new_warnings(model: Model, image: Image, name: str, at: FoundScale) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield what in an image differs from the training images, and was not warned of before, with its key."""
    domain, frames = model.header.domain, split_frames(image, model)
    found = list(image_warnings(frames, name, image.pixel_size_um, domain, model.header.normalization))
    if at.shown is not None:  # its scale is said instead of what it mends
        found = [(cause, text) for cause, text in found if cause != "pixel size"]
    if at.text:
        found.append((f"scale {at.shown}", f"{name}: {at.text}"))
    for cause, text in found:
        assert domain is not None
        if (known := (domain.model_dump_json(), cause)) not in _warned:
            yield known, text
