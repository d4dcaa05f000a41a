"""The results of a prediction: object ids, class values or probabilities, and the files that they are written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import label_each, outline_threshold, quantize
from septum.arrays.resample import Resampled, resample_labels
from septum.errors import UsageError
from septum.io.files import list_images
from septum.io.formats import format_of, image_stem, image_suffix, result_suffix
from septum.io.zarr_labels import labels_place
from septum.prediction.model import Model, ModelHeader
from septum.prediction.settings import Output, PredictSettings, unknown_output


def resolve_output(output: str | None, model: Model) -> Output:
    """Return the kind of output; by default that of the training masks.

    Raises
    ------
    UsageError
        If the word is unknown, or object ids are asked of a model of several classes.
    """
    classes = model.header.network.classes
    if output == "labels" and classes > 2:
        raise UsageError(
            f"--output labels with a model of {classes} classes",
            "a model of objects or of two classes",
            "leave --output out to write the class of each pixel",
        )
    if output is None:
        return "labels" if model.header.kind == "objects" else "classes"
    for known in get_args(Output):
        if output == known:
            resolved: Output = known
            return resolved
    raise unknown_output(output)


def result_files(settings: PredictSettings) -> list[tuple[Path, Path]]:
    """Pair each input image with the file, or the label image inside it, that its result is written to.

    Raises
    ------
    UsageError
        If two results would have the same name, or a result would overwrite an input.
    FileError
        If there are no images.
    """
    images: dict[Path, Path] = {}
    for image in list_images(settings.inputs):
        if settings.out is None:
            images[labels_place(image, str(settings.label_image))] = image
            continue
        floats = settings.output == "probabilities"
        suffix = f".{settings.format}" if settings.format else result_suffix(image_suffix(image), floats=floats)
        target = settings.out / (image_stem(image) + suffix)
        if target.resolve() == image.resolve():
            raise UsageError(f"{image}: the result would overwrite the input", "another folder", "give another -o")
        if target in images:
            raise UsageError(
                f"{images[target]} and {image} would both be written to {target}",
                "inputs of different names",
                "predict them into different folders",
            )
        images[target] = image
    return [(image, target) for target, image in images.items()]


def written_by_pieces(target: Path, *, label_image: bool) -> bool:
    """Return True if a result can be written piece by piece: a label image, or a file of such a format."""
    written = format_of(target.name)
    return label_image or (written is not None and written.by_blocks)


def work_folder(target: Path) -> Path:
    """Return the folder of an unfinished result that is predicted block by block."""
    return target.with_name(f"{target.name}.unfinished")


def makes_objects(output: Output, header: ModelHeader) -> bool:
    """Return True if objects are made of the probabilities: for their ids, or for areas that lines separate."""
    return output == "labels" or (output == "classes" and header.lines)


def postprocess(
    probabilities: NDArray[np.float32],
    model: Model,
    output: Output,
    *,
    spacing: tuple[float, ...] | None = None,
    sides: tuple[int, ...] | None = None,
) -> NDArray[Any]:
    """Turn class probabilities into the result.

    Parameters
    ----------
    probabilities
        ``(K, *S) float32`` in 0..1.
    model
        Holds the settings of objects and the value of each class.
    output
        Kind of the result.
    spacing
        Pixel size of each axis relative to the smallest; None if unknown.
    sides
        Sides of the result, where the probabilities were computed on another grid than that of the image.

    Returns
    -------
    ndarray
        ``(1, *S)`` object ids or class values in the smallest integer type that holds them; or float32 probabilities in
        0..1, ``(1, *S)`` for two classes and ``(K, *S)`` for more. S are the `sides` where they are given.
    """
    if output == "probabilities":
        return _on_grid(probabilities[1:] if len(probabilities) == 2 else probabilities, sides)
    if output == "labels":
        return find_objects(probabilities[1], model.header, spacing=spacing, sides=sides)[0][None]
    classes = most_probable_class(probabilities, model.header, spacing=spacing, sides=sides)
    values: NDArray[Any] = class_table(model)[classes][None]
    return values


def _on_grid(probabilities: NDArray[np.float32], sides: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Return probabilities on the image's own grid of these sides; None: they are already."""
    if sides is None:
        return probabilities
    return Resampled(probabilities, sides)[(slice(None),) * probabilities.ndim]


def find_objects(
    foreground: NDArray[np.float32],
    header: ModelHeader,
    *,
    spacing: tuple[float, ...] | None = None,
    sides: tuple[int, ...] | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Label objects on the grid of the probabilities, and bring them to the image's own grid.

    Parameters
    ----------
    foreground
        ``(*S) float32`` in 0..1.
    header
        Header of the model.
    spacing, sides
        As in `postprocess`.

    Returns
    -------
    labels
        ``(*S)`` object ids in the smallest integer type that holds them.
    confidence
        ``(N,) float32`` in 0..1: the probability that object 1 .. N matches a true one with an IoU of one half; None if
        the model does not know it.
    """
    ((_, numbers, confidence),) = label_each(foreground, [header.objects], spacing=spacing)
    labels: NDArray[Any] = numbers.astype(smallest_integer(0, int(numbers.max())))
    if sides is None:
        return labels, confidence
    levels, whole = quantize(foreground), tuple(slice(0, n) for n in sides)
    lowest = outline_threshold(header.objects)
    own = resample_labels(lambda part: (labels[part], levels[part]), labels.shape, sides, whole, threshold=lowest)
    return own, confidence


def most_probable_class(
    probabilities: NDArray[np.float32],
    header: ModelHeader,
    *,
    spacing: tuple[float, ...] | None = None,
    sides: tuple[int, ...] | None = None,
) -> NDArray[Any]:
    """Return the most probable class of each pixel.

    If the classes are lines and areas, the areas are those of `septum.arrays.instances.label_objects`, and a line is
    drawn where two areas meet, or where the probability is not above the threshold.

    Parameters
    ----------
    probabilities
        ``(K, *S) float32`` in 0..1.
    header
        Header of the model.
    spacing, sides
        As in `postprocess`.

    Returns
    -------
    ndarray
        ``(*S)`` classes 0..K - 1 in the smallest integer type.
    """
    if header.lines:
        classes = draw_boundaries(find_objects(probabilities[1], header, spacing=spacing, sides=sides)[0]) > 0
    else:
        classes = _on_grid(probabilities, sides).argmax(axis=0)
    return classes.astype(smallest_integer(0, len(probabilities) - 1))


def class_table(model: Model) -> NDArray[Any]:
    """Return the value of each class in the training masks: ``(K,)``, any values, in the smallest integer type."""
    values = model.header.class_values
    table: NDArray[Any] = np.asarray(values, dtype=smallest_integer(min(values), max(values)))
    return table


def smallest_integer(low: int, high: int) -> DTypeLike:
    """Return the smallest integer type that holds low..high, unsigned if possible."""
    kinds = (np.uint8, np.uint16, np.uint32, np.uint64) if low >= 0 else (np.int8, np.int16, np.int32, np.int64)
    return next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
