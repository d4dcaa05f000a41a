"""The results of a prediction: object ids, class values or probabilities, and the files that they are written to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.arrays.boundaries import draw_boundaries
from septum.arrays.instances import label_each, outline_threshold, quantize
from septum.arrays.resample import Resampled, resample_labels
from septum.errors import UsageError
from septum.io.atomic import written_through
from septum.io.files import images_below, list_images
from septum.io.formats import SUFFIXES, format_of, image_stem, image_suffix, is_zarr, local_path, result_suffix, url_of
from septum.io.nnunet import join_channels
from septum.io.zarr_labels import label_image_path
from septum.prediction.frames import Objects
from septum.prediction.model import Model, ModelHeader, names_model
from septum.prediction.settings import Output, PredictSettings, unknown_output
from septum.words import join_words, pluralize

_LONGEST_NAME = 255  # bytes, on most file systems


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
            "leave --output out: then the class of each pixel is written",
        )
    if output is None:
        return "labels" if model.header.kind == "objects" else "classes"
    for known in get_args(Output):
        if output == known:
            resolved: Output = known
            return resolved
    raise unknown_output(output)


def check_order(settings: PredictSettings) -> None:
    """Raise `UsageError` if an input is a model and the model is none: both were given in the other order."""
    if not settings.model.exists() or names_model(settings.model):  # a misspelled model is no image
        return
    model = next((given for given in settings.inputs if names_model(Path(given))), None)
    if model is not None:
        raise UsageError(
            f"{settings.model} as model, {model} as image",
            "the model first, then the images",
            f"swap them: {model} {settings.model}",
        )


def input_images(inputs: Sequence[str], out: Path | None = None) -> tuple[dict[Path, Path], list[str]]:
    """List the images to predict.

    Parameters
    ----------
    inputs
        Files, folders, patterns and URLs; see `septum.io.files.list_images`.
    out
        Folder of the results: in a folder that is named, it holds no images to predict.

    Returns
    -------
    images, messages
        Each image with its subfolder, relative to the folder that was named; sentences about files in the named folders
        that are not predicted: formats that are not read, masks of the images beside them, images in subfolders.

    Raises
    ------
    UsageError
        If there are no images; or if a folder is a data set, which holds masks as well.
    """
    images: dict[Path, Path] = {}
    messages: list[str] = []
    for given in inputs:
        folder = None if url_of(given) is not None else local_path(given)
        if folder is None or not folder.is_dir() or is_zarr(folder):
            images |= dict.fromkeys(list_images([given]), Path())
            continue
        found, passed_over = _images_of_folder(folder, out)
        images |= {image: image.parent.relative_to(folder) for image in found}
        messages += passed_over
    return images, messages


def _images_of_folder(folder: Path, out: Path | None) -> tuple[list[Path], list[str]]:
    """Return the images of a folder (of its subfolders if it holds none), and sentences about files passed over."""
    from septum.pairing import foreign
    from septum.pairing.ctc import sequences
    from septum.pairing.folders import role_folders
    from septum.pairing.names import masks_beside

    if parts := ([roles[0]] if (roles := role_folders(folder)) else sequences(folder)):
        raise UsageError(f"{folder}: a data set with masks", "images to predict", f"name {join_words(parts)}")
    earlier = None if out is None or out.resolve() == folder.resolve() else out.resolve()

    def is_input(path: Path) -> bool:
        return earlier is None or not earlier.is_relative_to(folder.resolve()) or earlier not in path.resolve().parents

    unread = foreign.unread_images(folder)
    if unread and not images_below(folder):
        given = f"{folder}: no image of a format that is read, but {foreign.describe(unread)}"
        raise UsageError(given, "files that end in " + " ".join(SUFFIXES), foreign.way_out(unread))
    listed = [path for path in list_images([folder]) if is_input(path)]
    below = [path for path in images_below(folder) if path not in set(listed) and is_input(path)]
    found = join_channels(listed)
    messages = []
    if found and below:
        names = ", ".join(dict.fromkeys(str(p.parent.relative_to(folder)) for p in below[:3]))
        count = pluralize(len(below), "image")
        messages.append(f"{folder}: passed over {count} in subfolders ({names}); name the subfolders to predict them")
    if unread:
        messages.append(f"{folder}: passed over {foreign.describe(unread)}; {foreign.way_out(unread)}")
    masks = masks_beside(found)
    if masks:
        named = f"{pluralize(len(masks), 'mask')} of images in the same folder ({masks[0].name} ...)"
        messages.append(f"{folder}: passed over {named}; name the files to predict them")
    return [p for p in found if p not in set(masks)], messages


def result_files(settings: PredictSettings, images: Mapping[Path, Path] | None = None) -> list[tuple[Path, Path]]:
    """Pair each input image with the file, or the label image inside it, that its result is written to.

    Results of images in subfolders of a named folder are written into subfolders of the same names. If two results
    would have the same name otherwise, all keep the folders below the folder that their images have in common.

    Parameters
    ----------
    settings
        Settings of the prediction.
    images
        From `input_images`, which is called where it is None.

    Raises
    ------
    UsageError
        If two results would have the same name, a result would overwrite an input, or a label image has an impossible
        name.
    FileError
        If there are no images.
    """
    if images is None:
        images = input_images(settings.inputs, settings.out)[0]
    if settings.out is None:
        return [(image, label_image_path(image, str(settings.label_image))) for image in images]
    targets = {image: settings.out / folder / _result_name(image, settings) for image, folder in images.items()}
    if len(set(targets.values())) < len(targets) and not any(url_of(image) for image in targets):
        from septum.pairing.folders import common_subfolders

        folders = common_subfolders(targets)
        targets = {image: settings.out / folders[image] / target.name for image, target in targets.items()}
    first: dict[Path, Path] = {}
    for image, target in targets.items():
        if target.resolve() == image.resolve():
            raise UsageError(
                f"{image}: the result would overwrite the input", "a folder without the inputs", "give another -o"
            )
        if target in first:
            raise UsageError(
                f"{first[target]} and {image} would both be written to {target}",
                "inputs of different names",
                "predict them into different folders",
            )
        first[target] = image
    return list(targets.items())


def region_files(region: Path | None, images: Sequence[Path]) -> dict[Path, Path]:
    """Return the mask of the part to predict of each image; empty where all of them is predicted.

    Parameters
    ----------
    region
        A file for one image, or a folder of masks that are named as the images.
    images
        The images.

    Raises
    ------
    UsageError
        If a mask is missing, or a file is given for several images.
    """
    if region is None:
        return {}
    if not region.is_dir() or is_zarr(region):
        if len(images) > 1:
            given = f"--in {region} for {len(images)} images"
            raise UsageError(given, "a folder of masks named as the images", "name the folder, or one image")
        return {images[0]: list_images([region])[0]}
    masks = {image_stem(path): path for path in list_images([region])}
    missing = [image for image in images if image_stem(image) not in masks]
    if missing:
        given = f"--in {region}: no mask for {missing[0].name}" + (f" and {len(missing) - 1} more" * (len(missing) > 1))
        raise UsageError(given, "a mask for each image, of the same name", "add them, or name the images that have one")
    return {image: masks[image_stem(image)] for image in images}


def _result_name(image: Path, settings: PredictSettings) -> str:
    floats = settings.output == "probabilities"
    suffix = f".{settings.format}" if settings.format else result_suffix(image_suffix(image), floats=floats)
    return image_stem(image) + suffix


def written_by_pieces(target: Path, *, label_image: bool) -> bool:
    """Return True if a result can be written piece by piece: a label image, or a file of such a format."""
    written = format_of(target.name)
    return label_image or (written is not None and written.by_blocks)


def work_folder(target: Path) -> Path:
    """Return the folder of an unfinished result that is predicted block by block; a hash stands for a long name."""
    target = written_through(target)
    name = f"{target.name}.unfinished"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f"{hashlib.blake2b(os.fsencode(target.name), digest_size=16).hexdigest()}.unfinished"
    return target.with_name(name)


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
    objects: Objects | None = None,
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
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
    objects
        The objects on the grid of the probabilities, if `septum.arrays.instances.label_each` has made them already.

    Returns
    -------
    result
        ``(1, *S)`` object ids or class values in the smallest integer type that holds them; or float32 probabilities in
        0..1, ``(1, *S)`` for two classes and ``(K, *S)`` for more. S are the `sides` where they are given.
    confidence
        Of objects, as `find_objects` returns it; None for other outputs.
    """
    if output == "probabilities":
        return _on_grid(probabilities[1:] if len(probabilities) == 2 else probabilities, sides), None
    if output == "labels":
        if objects is not None:
            labels, confidence = _labels_on_grid(objects[0], probabilities[1], model.header, sides), objects[1]
        else:
            labels, confidence = find_objects(probabilities[1], model.header, spacing=spacing, sides=sides)
        return labels[None], confidence
    classes = most_probable_class(probabilities, model.header, spacing=spacing, sides=sides)
    values: NDArray[Any] = class_table(model)[classes][None]
    return values, None


def _on_grid(probabilities: NDArray[np.float32], sides: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Return probabilities on the image's own grid of these sides; None: they are already."""
    if sides is None:
        return probabilities
    return Resampled(probabilities, sides)[(slice(None),) * probabilities.ndim]


def _labels_on_grid(
    numbers: NDArray[np.int32], foreground: NDArray[np.float32], header: ModelHeader, sides: tuple[int, ...] | None
) -> NDArray[Any]:
    """Return objects in the smallest integer type, on the image's own grid of these sides; None: they are already."""
    labels: NDArray[Any] = numbers.astype(smallest_integer(0, int(numbers.max())))
    if sides is None:
        return labels
    levels, whole = quantize(foreground), tuple(slice(0, n) for n in sides)
    lowest = outline_threshold(header.objects)
    return resample_labels(lambda part: (labels[part], levels[part]), labels.shape, sides, whole, threshold=lowest)


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
    return _labels_on_grid(numbers, foreground, header, sides), confidence


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
