"""Read masks of single objects as one mask of ids: a folder with a file for each, or pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.files import images_in, read_image
from septum.io.formats import format_path, is_zarr
from septum.io.image import Image


def is_object_folder(path: Path) -> bool:
    """Return True if `path` is a folder of mask files, not a mask."""
    return path.is_dir() and not is_zarr(path)


def read_object_masks(folder: Path) -> Image:
    """Read a folder of masks of single objects as one mask.

    Parameters
    ----------
    folder
        Each file is 0 outside of its object and above 0 inside; or the only file holds several values: then it is the
        mask.

    Returns
    -------
    Image
        ``(1, *S)`` int32: 0 background, 1, 2, ... the objects in the natural order of their files. Where two overlap
        the smaller one is kept. Files without a pixel above 0 leave their number out.

    Raises
    ------
    FileError
        If a file cannot be read, or the files differ in size.
    """
    objects: list[NDArray[np.bool_]] = []
    first: Image | None = None
    for path in images_in(folder):
        mask = read_image(path, labels=True)
        if first is not None and mask.array.shape[1:] != first.array.shape[1:]:
            sizes = [" x ".join(map(str, m.array.shape[1:])) for m in (first, mask)]
            raise FileError(
                f"{format_path(folder)}: masks of {sizes[0]} and of {sizes[1]} pixels ({path.name})",
                "masks of the image's size",
                "export them again",
            )
        first = first or mask
        objects.append(without_alpha(mask.array)[0][:3].max(axis=0) > 0)
    if first is not None and len(objects) == 1 and _holds_ids(first):
        return first
    if first is None:
        raise FileError(f"{format_path(folder)}: holds no mask", "one mask file per object", "leave the image out")
    return Image.from_array(
        smaller_on_top(objects)[None],
        first.axes,
        file_axes=first.file_axes,
        pixel_size_um=first.pixel_size_um,
        affine=first.affine,
        location=folder,
    )


def _holds_ids(mask: Image) -> bool:
    """Return True if a mask has several values above 0."""
    values = without_alpha(mask.array)[0][:3]
    return len(np.unique(values[values > 0])) > 1


def smaller_on_top(objects: Sequence[NDArray[np.bool_]]) -> NDArray[np.int32]:
    """Merge masks of single objects into one mask of ids.

    Parameters
    ----------
    objects
        ``(*S)`` bool each, at least one, all of the same shape.

    Returns
    -------
    labels
        ``(*S)`` int32: 0 background, 1 the first object, 2 the second ...; where two overlap the smaller one is kept.
    """
    labels = np.zeros(objects[0].shape, np.int32)
    for number, on in sorted(enumerate(objects, start=1), key=lambda f: (-np.count_nonzero(f[1]), f[0])):
        labels[on] = number
    return labels


def without_alpha(planes: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Return the channels of a mask that hold the drawing: color, or alpha if the color is the same everywhere.

    Parameters
    ----------
    planes
        ``(C, *S)``, any real dtype, any values; the last of two or four channels may be alpha.

    Returns
    -------
    planes, in_alpha
        ``(1, *S)`` alpha and True if the color is constant and alpha is not, or 0 everywhere; ``(C - 1, *S)`` if alpha
        is constant and not 0; otherwise the array itself. Same dtype and values.
    """
    if len(planes) not in (2, 4):
        return planes, False
    color, alpha = planes[:-1], planes[-1:]
    if alpha.min() == alpha.max() != 0:
        return color, False
    in_alpha = all(channel.min() == channel.max() for channel in color)
    return (alpha, True) if in_alpha else (planes, False)
