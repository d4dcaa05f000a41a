"""Predict files: open, tile, compute, write; one bad file never stops the others."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from septum.arrays.instances import label_objects
from septum.arrays.tiles import plan_tiles
from septum.axes import relative_spacing, spatial
from septum.errors import DataError, FileError, ModelError, SeptumError, UsageError
from septum.io.images import Image, list_images, read_image, write_image
from septum.io.names import image_stem, image_suffix
from septum.jobs.infer import largest_output, tile_probabilities, turn, versions
from septum.jobs.model import Model, open_model
from septum.jobs.records import ImageDone, ImageFailed, ImageStarted, Predicted, PredictRecord, TileDone
from septum.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# What a result is written as, by the ending of its input: never a lossy format, labels where the input's format can
# hold them.
_ENDING = {".jpg": ".png", ".jpeg": ".png", ".bmp": ".png", ".gif": ".png", ".tiff": ".tif", ".ome.tiff": ".ome.tif"}

Output = Literal["auto", "labels", "probabilities"]


class PredictSettings(Settings):
    """What to predict and how.

    Parameters
    ----------
    model
        The model file.
    inputs
        Files, folders or patterns.
    out
        Folder for the results; made if missing.
    output
        ``"auto"`` writes what the training masks were: object ids, or the masks' class values. ``"labels"`` writes
        object ids,
        ``"probabilities"`` float32 maps: one (of the object or second class) for two classes, else one a class.
    tta
        Average over rotated and mirrored versions: about eight times the work.
    axes
        What the files' dimensions mean, where they do not say it themselves or say it wrongly.
    device
        See `septum.nn.device.find_device`.
    tile
        Largest side that a tile writes, in pixels; chosen from the memory where not given.
    format
        Ending of the results; that of the input where not given, with lossy formats replaced by PNG.
    """

    model: Path
    inputs: tuple[str, ...]
    out: Path
    output: Output = "auto"
    tta: bool = False
    axes: str | None = None
    device: str = "auto"
    tile: int | None = Field(default=None, ge=1)
    format: Literal["tif", "png", "nii.gz", "npy"] | None = None


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path


def predict_files(settings: PredictSettings) -> Iterator[PredictRecord]:
    """Predict images and write the results under the images' names.

    Yields
    ------
    ImageStarted, TileDone, ImageDone or ImageFailed for each image; Predicted at the end.

    Raises
    ------
    SeptumError
        Before anything is written, where the model, the inputs or the options are wrong; at the end, the first image's
        error if no image could be predicted.
    """
    begin = time.monotonic()
    model = open_model(settings.model, settings.device)
    _check_output(settings.output, model, settings.format)
    tasks = _tasks(settings)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        given = f"{settings.out}: {error.strerror}"
        raise FileError(given, "a folder that can be written", "give another -o") from None
    failures: list[SeptumError] = []
    for index, task in enumerate(tasks):
        started = time.monotonic()
        try:
            objects = yield from _predict_file(task, model, settings, index, len(tasks))
        except SeptumError as error:
            failures.append(error)
            yield ImageFailed(task.source, str(error))
        except (MemoryError, torch.OutOfMemoryError):
            failures.append(_too_large(task.source, model))
            yield ImageFailed(task.source, str(failures[-1]))
        else:
            yield ImageDone(task.source, task.target, time.monotonic() - started, objects)
    if len(failures) == len(tasks):
        raise failures[0]
    yield Predicted(len(tasks) - len(failures), len(failures), time.monotonic() - begin)


def _check_output(output: Output, model: Model, form: str | None = None) -> None:
    """Refuse object ids from a model of several classes, and a format that cannot hold the result."""
    if output == "probabilities" and form == "png":
        raise UsageError("--probabilities with --format png", "tif, nii.gz or npy", "PNG holds no float32")
    classes = model.header.network.classes
    if output == "labels" and classes > 2:
        raise UsageError(
            f"--labels with a model of {classes} classes",
            "a model of objects or of two classes",
            "leave --labels out to write the class of each pixel",
        )


def _tasks(settings: PredictSettings) -> list[_Task]:
    """Pair inputs with result files; refuse two results of one name and the overwriting of an input."""
    tasks: dict[Path, _Task] = {}
    for source in list_images(settings.inputs):
        wanted = f".{settings.format}" if settings.format else _result_ending(image_suffix(source), settings)
        target = settings.out / (image_stem(source) + wanted)
        if target.resolve() == source.resolve():
            raise UsageError(f"{source}: the result would overwrite the input", "another folder", "give another -o")
        if target in tasks:
            raise UsageError(
                f"{tasks[target].source} and {source} would both be written to {target}",
                "inputs of different names",
                "predict them into different folders",
            )
        tasks[target] = _Task(source, target)
    return list(tasks.values())


def _result_ending(ending: str, settings: PredictSettings) -> str:
    ending = _ENDING.get(ending, ending)
    if settings.output == "probabilities" and ending == ".png":
        return ".tif"  # PNG holds no float32
    return ending


def _predict_file(
    task: _Task, model: Model, settings: PredictSettings, index: int, count: int
) -> Generator[PredictRecord, None, int | None]:
    """Predict one file and write the result; return the number of objects where object ids are written."""
    image = read_image(task.source, axes=settings.axes)
    frames = split_frames(image, model)
    limit = (settings.tile,) * model.rank if settings.tile else largest_output(model.header.network, model.device)
    total = count_tiles(frames, model, limit, tta=settings.tta)
    yield ImageStarted(task.source, index, count, total)
    results, done = [], 0
    for frame in frames:
        probabilities = np.empty(0, np.float32)
        for filled in frame_probabilities(frame, model, limit, tta=settings.tta):
            probabilities, done = filled, done + 1
            yield TileDone(task.source, done, total)
        results.append(finish(probabilities, model, settings.output, spacing=_spacing(image, model.rank)))
    objects = sum(int(r.max()) for r in results) if _writes_objects(model, settings.output) else None
    joined, axes = join_frames(results, image, model.rank), image.axes
    if joined.shape[axes.index("C")] == 1:  # also in formats that do not say what their dimensions are
        joined, axes = joined.squeeze(axes.index("C")), axes.replace("C", "")
    write_image(task.target, joined, axes=axes, pixel_size_um=image.pixel_size_um, affine=image.affine)
    return objects


def _too_large(source: Path, model: Model) -> SeptumError:
    return DataError(
        f"{source}: the image and its result do not fit into the memory of this machine ({model.device.name})",
        "an image that fits",
        "use a smaller --tile, cut the image into parts, or use a machine with more memory",
    )


def count_tiles(frames: list[NDArray[Any]], model: Model, limit: tuple[int, ...], *, tta: bool) -> int:
    """Return how many tiles all frames of an image take."""
    rounds = len(versions(model.network.geometry)) if tta else 1
    return rounds * len(frames) * len(plan_tiles(frames[0].shape[1:], model.network.geometry, limit))


def frame_probabilities(
    frame: NDArray[Any], model: Model, limit: tuple[int, ...], *, tta: bool
) -> Iterator[NDArray[np.float32]]:
    """Predict one frame.

    Parameters
    ----------
    frame
        ``(C, *S)``, raw intensities.
    model
        The model.
    limit
        Largest sides that a tile may write.
    tta
        Average over `versions`.

    Yields
    ------
    ndarray
        After each tile the array that is being filled, ``(K, *S) float32``; its values are probabilities after the
        last.
    """
    chosen = versions(model.network.geometry) if tta else [(0, False)]
    probabilities = np.zeros((model.header.network.classes, *frame.shape[1:]), np.float32)
    for version in chosen:
        turned = turn(probabilities, version)  # a view: what is added there arrives in its place
        steps = tile_probabilities(
            model.network,
            turn(frame, version),
            device=model.device,
            normalization=model.header.normalization,
            max_output=limit,
        )
        for tile, _, part in steps:
            turned[(slice(None), *tile.write)] += part / len(chosen)
            yield probabilities


def predict_image(model: Model, image: Image, *, output: Output = "auto") -> NDArray[Any]:
    """Predict one image in memory.

    Parameters
    ----------
    model
        From `septum.jobs.model.open_model`.
    image
        In canonical axes.
    output
        See `PredictSettings`.

    Returns
    -------
    ndarray
        In the image's axes: object ids or class values (one channel), or float32 probabilities (one channel for two
        classes, else one a class).

    Raises
    ------
    ModelError
        If the dimensions or channels do not fit the model, or objects are asked of a model of several classes.
    """
    _check_output(output, model)
    limit = largest_output(model.header.network, model.device)
    results = []
    for frame in split_frames(image, model):
        *_, probabilities = frame_probabilities(frame, model, limit, tta=False)
        results.append(finish(probabilities, model, output, spacing=_spacing(image, model.rank)))
    return join_frames(results, image, model.rank)


def split_frames(image: Image, model: Model) -> list[NDArray[Any]]:
    """Cut an image into what the network takes: ``(C, Y, X)`` each along T and Z, or ``(C, Z, Y, X)`` each along T.

    Raises
    ------
    ModelError
        If the channels or the axes do not fit the model.
    DataError
        If a pixel is not a finite number.
    """
    array, axes, wanted = image.array, image.axes, model.header.network.channels
    where = image.path or "the image"
    if model.rank == 3 and "Z" not in axes:
        raise ModelError(
            f"{where}: axes {image.file_axes}, no Z",
            "a volume, as the model was trained on volumes",
            "say what the dimensions are, for example --axes ZYX",
        )
    channel = axes.index("C")
    if array.shape[channel] == 1 and wanted == 3 and model.header.gray_as_color:
        array = np.repeat(array, 3, axis=channel)
    if array.shape[channel] != wanted:
        raise ModelError(
            f"{where}: {array.shape[channel]} channel{'s' * (array.shape[channel] != 1)}",
            f"{wanted} channel{'s' * (wanted != 1)}, as in training",
            "convert the image, or say what its dimensions are with --axes",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where}: some pixels are NaN or infinite", "finite intensities", "replace them by numbers")
    walked = [a for a in axes if a == "T" or (a == "Z" and model.rank == 2)]
    array = np.moveaxis(array, [axes.index(a) for a in walked], range(len(walked)))
    return list(array.reshape(-1, *array.shape[len(walked) :]))


def _spacing(image: Image, rank: int) -> tuple[float, ...] | None:
    """Return the relative pixel sizes of an image's spatial axes; None unless all are known."""
    sizes = [image.pixel_size_um.get(a) for a in "ZYX"[-rank:]]
    return relative_spacing([s for s in sizes if s is not None]) if None not in sizes else None


def join_frames(results: list[NDArray[Any]], image: Image, rank: int) -> NDArray[Any]:
    """Put the frames' results ``(C', *S)`` back into the image's axes."""
    lengths = dict(zip(image.axes, image.array.shape, strict=True))
    walked = [a for a in image.axes if a == "T" or (a == "Z" and rank == 2)]
    stack = np.stack(results)
    stack = stack.reshape(*(lengths[a] for a in walked), *stack.shape[1:])
    now = [*walked, "C", *spatial(image.axes)[-rank:]]
    joined: NDArray[Any] = stack.transpose([now.index(a) for a in image.axes])
    return joined


def _writes_objects(model: Model, output: Output) -> bool:
    return output == "labels" or (output == "auto" and model.header.kind == "objects")


def finish(
    probabilities: NDArray[np.float32], model: Model, output: Output, *, spacing: tuple[float, ...] | None = None
) -> NDArray[Any]:
    """Turn class probabilities into what is written.

    Parameters
    ----------
    probabilities
        ``(K, *S) float32``.
    model
        Says how objects are made and which value each class has.
    output
        ``"auto"``, ``"labels"`` or ``"probabilities"``; see `PredictSettings`.
    spacing
        Pixel size per axis relative to the smallest; None where unknown.

    Returns
    -------
    ndarray
        ``(1, *S)`` object ids or class values in the smallest integer type that holds them, or ``(1, *S)`` or ``(K,
        *S)`` float32 probabilities.
    """
    if output == "probabilities":
        return probabilities[1:] if len(probabilities) == 2 else probabilities
    if _writes_objects(model, output):
        labels = label_objects(probabilities[1], **model.header.objects.model_dump(), spacing=spacing)
        small: NDArray[Any] = labels[None].astype(smallest_integer(0, int(labels.max())))
        return small
    values = model.header.class_values
    table: NDArray[Any] = np.asarray(values, dtype=smallest_integer(min(values), max(values)))
    mapped: NDArray[Any] = table[probabilities.argmax(axis=0)][None]
    return mapped


def smallest_integer(low: int, high: int) -> DTypeLike:
    """Return the smallest integer type that holds low..high, unsigned where it can be."""
    kinds = (np.uint8, np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int8, np.int16, np.int32, np.int64)
    return next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
