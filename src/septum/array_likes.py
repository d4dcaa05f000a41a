"""What Python hands over as images: arrays of any library, images of Pillow, nested lists, paths, iterables of them.

Files are made of them, so that arrays and files are treated alike.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError, UsageError
from septum.folders import check_spelling
from septum.io.files import write_image
from septum.io.formats import image_stem, suffix_of
from septum.io.image import Image, StoredImage
from septum.io.selection import check_axes
from septum.words import pluralize

Location = str | os.PathLike[str]
_ARRAY = "an array, a tensor, a Pillow image or a nested list of numbers"


def is_location(value: object) -> TypeGuard[Location]:
    """Return True if `value` is a path or a URL."""
    return isinstance(value, str | os.PathLike)


def to_array(value: Any, name: str, *, labels: bool = False) -> NDArray[Any]:
    """Return what `numpy.asarray` understands as an array of numbers.

    Parameters
    ----------
    value
        An array of any library, a Pillow image, or a nested list. Channels of a Pillow image come first, without alpha.
    name
        Name for messages, such as ``"images: number 3"``.
    labels
        True if it is a mask: a palette gives indices, never colors, and alpha is kept.

    Returns
    -------
    ndarray
        ``(*A)`` of any shape with at least one pixel, bool, integers or floats of any values.

    Raises
    ------
    DataError
        If it holds no numbers, or hides some of them.
    """
    if is_picture(value):
        return _of_picture(value, name, labels=labels)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        given = f"{name}: a masked array, whose masked values would be read"
        raise DataError(given, "an array without a mask", "replace them first, with array.filled(0) for example")
    try:
        tensor = value.detach().cpu() if hasattr(value, "detach") else value
        if "bfloat16" in str(getattr(tensor, "dtype", "")):  # numpy has no such type
            tensor = tensor.float()
        array = np.asarray(tensor)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition(". ")[0]
        raise DataError(f"{name}: {_kind_of(value)} ({reason})", _ARRAY, "convert it with numpy.asarray") from error
    if array.dtype.kind not in "biuf":
        given = f"{name}: {_kind_of(value)}" + (f" of {array.dtype} values" if array.dtype != object else "")
        raise DataError(given, _ARRAY, "convert it to an array of numbers")
    if array.size == 0:
        raise DataError(f"{name}: an array without pixels, {array.shape}", "at least one pixel", "leave it out")
    return array


def axes_of(shape: Sequence[int], rank: int, *, sides: Sequence[int] | None = None, channels: int | None = None) -> str:
    """Return the axes of an array with channels: first, or last as most libraries keep color.

    The sides of the mask decide, or the channels that a model takes; else a last side of 3 or 4 is color, as in .npy
    files.

    Parameters
    ----------
    shape
        Of the array, `rank` sides or one more.
    rank
        2 for images, 3 for volumes.
    sides
        Sides of the mask of the array.
    channels
        Number of channels of the model.
    """
    spatial, shape = "ZYX"[-rank:], tuple(shape)
    if len(shape) == rank:
        return spatial
    first = shape[1:] == sides if sides is not None else shape[0] == channels
    last = shape[:-1] == sides if sides is not None else shape[-1] == channels
    if first == last:
        last = shape[-1] in (3, 4) and min(shape[:-1]) > 4 and not first
    return spatial + "C" if last else "C" + spatial


def to_image(value: Any, rank: int, channels: int, axes: str | None = None) -> Image:
    """Return what `to_array` takes as an image; channels may come first or last, see `axes_of`.

    Parameters
    ----------
    value
        An array ``(*S)``, ``(C, *S)`` or ``(*S, C)``, any integer or float type, any values.
    rank
        Number of spatial axes, 2 or 3.
    channels
        Number of channels of the model that takes the image.
    axes
        Axes of the array, one letter of ``TCZYX`` for each dimension, in any order; None: found by its shape.

    Raises
    ------
    DataError
        If it holds several images, or no numbers, or has another number of dimensions.
    UsageError
        If `axes` do not fit the array.
    """
    if (named := check_axes(axes)) is not None:
        if is_picture(value):
            given = f"axes {named!r} with a Pillow image"
            raise UsageError(given, "an array or a file", "leave axes out: Pillow states the axes of its images")
        return Image(StoredImage.from_array(to_array(value, "image"), named), named=True)
    several = isinstance(value, Iterator)
    if isinstance(value, Sequence) and len(value) > 0:
        several = is_location(value[0]) or is_picture(value[0])
    array = np.empty(0) if several else to_array(value, "image")
    found = axes_of(array.shape, rank, channels=channels) if array.ndim in (rank, rank + 1) else ""
    several = several or (isinstance(value, Sequence) and found[:1] == "C" and len(value) != channels)
    if several:
        number = pluralize(len(value), "image") if isinstance(value, Sequence) else "images"
        todo = "call predict for each: [septum.predict(model, image) for image in images]"
        raise DataError(f"image: a list of {number}", "one image", todo)
    if not found:
        expected = f"{rank} dimensions, or {rank + 1} with channels first or last"
        given = f"image: an array of {pluralize(array.ndim, 'dimension')}"
        raise DataError(given, expected, "choose a part, such as array[0], or add the axis that is missing")
    return Image(StoredImage.from_array(array, found), named=True)


def is_picture(value: object) -> bool:
    """Return True if `value` is an image of Pillow."""
    return type(value).__module__.split(".")[0] == "PIL" and hasattr(value, "getbands")


def _of_picture(value: Any, name: str, *, labels: bool) -> NDArray[Any]:
    """Return ``(Y, X)`` or ``(C, Y, X)`` of an image of Pillow."""
    frames = getattr(value, "n_frames", 1)
    if frames > 1:
        raise DataError(f"{name}: a Pillow image of {frames} frames", "one frame", "give the path of its file instead")
    if value.mode in ("P", "PA") and not labels:
        value = value.convert("RGB")
    array = np.asarray(value)
    if array.ndim == 2:
        return array
    if value.getbands()[-1] == "A" and not labels:
        array = array[..., :-1]
    channels = np.moveaxis(array, -1, 0)
    return channels[0] if len(channels) == 1 else channels


def _kind_of(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def to_list(data: Any, name: str) -> list[Any]:
    """Return several images as a list: of one array the elements along its first axis, else what it iterates over.

    Parameters
    ----------
    data
        An array ``(N, ...)``, or an iterable of arrays or of paths; a generator is read to its end.
    name
        Name for messages: ``"images"``.

    Raises
    ------
    DataError
        If it is a single image, holds nothing, or cannot be iterated over.
    """
    expected = "a folder, a list of arrays or of paths, or an array whose first axis counts images"
    if is_picture(data) or isinstance(data, Mapping) or not isinstance(data, Iterable):
        todo = f"put it into a list: [{name}]" if is_picture(data) else "give one of these"
        raise DataError(f"{name}: {_kind_of(data)}", expected, todo)
    several = list(to_array(data, name)) if hasattr(data, "shape") else list(data)
    if not several:
        raise DataError(f"{name}: nothing in it", "at least one image", "look at how the list is made")
    first = several[0]
    if (isinstance(first, int | float | list | tuple) or hasattr(first, "shape")) and to_array(
        first, f"{name}: number 0"
    ).ndim < 2:
        raise DataError(f"{name}: a single image", expected, f"put it into a list: [{name}]")
    return several


def write_pairs(images: Any, masks: Any, folder: Path) -> tuple[Path, Path]:
    """Write images and masks into two folders in which files of equal names belong together.

    Files that name their axes are written of arrays: an array alone does not say whether its first axis is color,
    depth or time. Files keep their names, those of masks get the names of their images.

    Parameters
    ----------
    images, masks
        As for `to_list`, of one length; the first image belongs to the first mask.
    folder
        Where to make the folders.

    Raises
    ------
    DataError
        If the lengths differ, one holds paths and the other arrays, or an array does not fit.
    """
    pictures, truths = to_list(images, "images"), to_list(masks, "masks")
    if len(pictures) != len(truths):
        raise DataError(
            f"{pluralize(len(pictures), 'image')}, {pluralize(len(truths), 'mask')}",
            "one mask for each image, in the same order",
            "add what is missing; an image without objects has a mask of zeros",
        )
    paths = [is_location(value) for value in (*pictures, *truths)]
    if all(paths):
        return _link(pictures, pictures, folder / "images"), _link(truths, pictures, folder / "masks")
    if any(paths):
        raise DataError(
            "images and masks: both paths and arrays",
            "paths only, or arrays only",
            "read the files into arrays, or write the arrays",
        )
    arrays = [to_array(mask, f"masks: number {n}", labels=True) for n, mask in enumerate(truths)]
    rank = min(array.ndim for array in arrays)
    if rank == 3 and all(array.ndim == rank and axes_of(array.shape, 2) == "YXC" for array in arrays):
        given = f"masks: arrays of shape {arrays[0].shape}, which look like color"
        raise DataError(given, "(Y, X), or (Z, Y, X) for volumes", "give one value for each pixel")
    sides = [array.shape if array.ndim == rank else None for array in arrays]
    return _write(pictures, folder / "images", rank, sides), _write(arrays, folder / "masks", rank)


def write_compared(predicted: Any, truth: Any, folder: Path) -> tuple[Path, Path]:
    """Write predictions and their truth into two folders in which files of equal names belong together.

    Parameters
    ----------
    predicted, truth
        One array ``(Y, X)`` or ``(Z, Y, X)``, or an iterable of them, of one length.
    folder
        Where to make the folders.

    Raises
    ------
    DataError
        If the lengths differ, or something is no array of two or three dimensions.
    """
    several = []
    for data, name in ((predicted, "predicted"), (truth, "truth")):
        one = is_picture(data) or hasattr(data, "shape")
        images = [data] if one or not isinstance(data, Iterable) else to_list(data, name)
        several.append([to_array(value, f"{name}: number {n}", labels=True) for n, value in enumerate(images)])
        wrong = [array for array in several[-1] if array.ndim not in (2, 3)]
        if wrong:
            given = f"{name}: an array of {pluralize(wrong[0].ndim, 'dimension')}"
            raise DataError(given, "(Y, X) or (Z, Y, X)", "give a list of images, or one image without channels")
    if len(several[0]) != len(several[1]):
        given = f"{pluralize(len(several[0]), 'prediction')}, {pluralize(len(several[1]), 'truth')}"
        raise DataError(given, "one truth for each prediction, in the same order", "add what is missing")
    for arrays, name in zip(several, ("predicted", "truth"), strict=True):
        for number, array in enumerate(arrays):
            (folder / name).mkdir(exist_ok=True)
            write_image(folder / name / f"image-{number:06d}.tif", array, axes="ZYX"[-array.ndim :])
    return folder / "predicted", folder / "truth"


def data_paths(images: Any, masks: Any, folder: Path) -> tuple[Path, ...]:
    """Return the paths of a data set; arrays are written as files first.

    Parameters
    ----------
    images, masks
        Paths, or as in `write_pairs`; no masks where a path holds both.
    folder
        Folder for the files.

    Raises
    ------
    UsageError
        If masks are missing, or one is a path and the other is not.
    DataError
        As in `write_pairs`.
    """
    if is_location(images) and (masks is None or is_location(masks)):
        return tuple(Path(path) for path in (images, masks) if path is not None)
    if masks is None:
        raise UsageError("images, but no masks", "a mask for each image", "give masks=")
    if is_location(images) or is_location(masks):
        given = "images as a path, masks as arrays" if is_location(images) else "images as arrays, masks as a path"
        raise UsageError(
            given, "both as paths, or both as arrays", "give two folders, or read the files into arrays first"
        )
    return write_pairs(images, masks, folder)


def compared_paths(predicted: Any, truth: Any, folder: Path) -> tuple[tuple[Any, ...], Any]:
    """Return the paths of predictions and of the truth; arrays are written as files first.

    Parameters
    ----------
    predicted, truth
        Paths, or as in `write_compared`.
    folder
        Folder for the files.

    Raises
    ------
    UsageError
        If one is a path and the other is not.
    DataError
        As in `write_compared`.
    """
    several = [predicted] if is_location(predicted) or not isinstance(predicted, Sequence) else list(predicted)
    of_files = all(is_location(value) for value in several)
    if of_files != is_location(truth):
        given = "predictions as paths, truth as arrays" if of_files else "predictions as arrays, truth as a path"
        raise UsageError(given, "both as paths, or both as arrays", "read the files, or write the arrays")
    if of_files:
        return tuple(several), truth
    arrays, truth = write_compared(predicted, truth, folder)
    return (arrays,), truth


def _write(
    values: Sequence[Any], folder: Path, rank: int, sides: Sequence[tuple[int, ...] | None] | None = None
) -> Path:
    """Write arrays ``(*S)``, ``(C, *S)`` or ``(*S, C)`` as files that name their axes; `sides`: those of the masks."""
    if rank not in (2, 3):
        raise DataError(
            f"masks of {pluralize(rank, 'dimension')}", "2 for images, 3 for volumes", "give a list of images"
        )
    folder.mkdir()
    for number, value in enumerate(values):
        array = to_array(value, f"{folder.name}: number {number}")
        if array.ndim not in (rank, rank + 1):
            expected = f"{rank} dimensions as its mask, or {rank + 1} with channels first or last"
            given = f"{folder.name}: number {number} has {pluralize(array.ndim, 'dimension')}"
            raise DataError(given, expected, "give the image of this mask, without other axes")
        axes = axes_of(array.shape, rank, sides=None if sides is None else sides[number])
        write_image(folder / f"image-{number:06d}.tif", array, axes=axes)
    return folder


def _link(paths: Sequence[Location], names: Sequence[Location], folder: Path) -> Path:
    """Link files into a folder under other names."""
    folder.mkdir()
    stems = [image_stem(Path(name)) for name in names]
    for number, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        source = Path(path).absolute()
        if not source.exists():
            raise UsageError(f"{source} does not exist", "a list of files that exist", check_spelling(source))
        name = stem if stems.count(stem) == 1 else f"{stem}-{number:06d}"
        target = folder / (name + (suffix_of(source.name) or source.suffix))
        with suppress(OSError):
            target.symlink_to(source, target_is_directory=source.is_dir())
            continue
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)  # no links on this drive
    return folder
