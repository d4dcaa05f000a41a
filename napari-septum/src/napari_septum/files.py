"""Reader and writer: every format of Septum, with axes, pixel size and levels of detail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from septum.io.files import images_in, list_images, open_image, write_image
from septum.io.formats import image_stem, is_image_file, is_zarr
from septum.io.image import Image
from septum.io.ngff import read_multiscale
from septum.io.zarr import read_node
from septum.pairing.folders import MASK_FOLDERS

from napari_septum.axes import layer_axes, name_axes, pixel_size_um
from napari_septum.layers import LayerData, as_array, levels_of

_LABEL_FOLDERS = {*MASK_FOLDERS, "predicted", "predictions"}
_LABEL_WORDS = ("mask", "masks", "label", "labels", "objects", "truth")


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return the reader of images and results that Septum knows, and of folders of them; None for others."""
    paths = [path] if isinstance(path, str) else path
    return read if all(_holds_images(Path(one)) for one in paths) else None


def _holds_images(path: Path) -> bool:
    return is_image_file(path) or (path.is_dir() and bool(images_in(path)))


def read(path: str | list[str]) -> list[LayerData]:
    """Read images and results as layers; each image of a file that holds several is a layer.

    Raises
    ------
    SeptumError
        If a file cannot be read.
    """
    return [layer_of(one) for one in list_images([path] if isinstance(path, str) else path)]


def layer_of(path: Path, *, labels: bool | None = None) -> LayerData:
    """Read one image as a layer.

    Parameters
    ----------
    path
        The file.
    labels
        True: it holds ids or classes; None: by what the file states and by its name, see `holds_labels`.

    Raises
    ------
    SeptumError
        If it cannot be read.
    """
    image = open_image(path, labels=bool(labels))
    if labels is None:
        labels = holds_labels(path, image)
    array = as_array(image)
    levels = [array] if isinstance(array, np.ndarray) else [as_array(one) for one in levels_of(path, image)]
    channel, channels = image.axes.index("C"), image.shape[image.axes.index("C")]
    color = not labels and channels in (3, 4) and image.dtype == np.uint8
    if color:
        levels = [one.transpose([*(i for i in range(one.ndim) if i != channel), channel]) for one in levels]
    elif channels == 1:
        levels = [one[(slice(None),) * channel + (0,)] for one in levels]
    axes = image.axes if channels > 1 and not color else image.axes.replace("C", "")
    keywords: dict[str, Any] = {"name": image_stem(path), **layer_axes(axes, image.pixel_size_um)}
    if color:
        keywords["rgb"] = True
    if len(levels) > 1:
        keywords["multiscale"] = True
    return levels if len(levels) > 1 else levels[0], keywords, "labels" if labels else "image"


def holds_labels(path: Path, image: Image) -> bool:
    """Return True if an image holds ids or classes instead of intensities.

    An OME-Zarr states it. Of other files it is decided by the name of their folder (``masks``, ``predictions``), by the
    last word of their name (``a_mask.tif``), and by whole numbers of 32 bits, which no camera has.
    """
    if image.dtype.kind not in "iu" or image.shape[image.axes.index("C")] != 1:
        return False
    node = read_node(path) if is_zarr(path) else None
    notes = read_multiscale(node) if node is not None else None
    if notes is not None and notes.labels:
        return True
    words = image_stem(path).casefold().replace("-", "_").replace(" ", "_").split("_")
    folder = path.absolute().parent.name.casefold()
    return folder in _LABEL_FOLDERS or words[-1] in _LABEL_WORDS or image.dtype.itemsize >= 4


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a labels layer as a whole or not at all; the suffix decides the format.

    Raises
    ------
    SeptumError
        If the file cannot be written, or its format cannot hold the labels.
    """
    return _write(path, data, attributes, labels=True)


def write_image_layer(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as a whole or not at all; the suffix decides the format.

    Raises
    ------
    SeptumError
        If the file cannot be written, or its format cannot hold the values.
    """
    return _write(path, data, attributes, labels=False)


def _write(path: str, data: Any, attributes: dict[str, Any], *, labels: bool) -> list[str]:
    array = np.asarray(data[0] if attributes.get("multiscale") else data)
    color = bool(attributes.get("rgb"))
    axes = name_axes(array.ndim - color, attributes.get("axis_labels") or (), color=color, name=Path(path).name)
    size = pixel_size_um(attributes.get("scale") or (), attributes.get("units") or (), axes)
    if labels:  # 64 bits and the type in which napari paints are more than ids need
        array = array.astype(np.min_scalar_type(int(array.max(initial=0))) if array.min(initial=0) >= 0 else np.int32)
    write_image(Path(path), array, axes=axes, pixel_size_um=size, labels=labels)
    return [path]
