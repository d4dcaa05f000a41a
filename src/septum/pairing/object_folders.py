"""Read a folder of mask files, one per object, as one mask of ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from septum.arrays.targets import without_alpha
from septum.errors import FileError
from septum.io.files import read_image
from septum.io.formats import format_path, is_zarr
from septum.io.image import Image
from septum.pairing.names import images_in


def is_object_folder(path: Path) -> bool:
    """Return True if `path` is a folder of mask files, not a mask."""
    return path.is_dir() and not is_zarr(path)


def read_object_masks(folder: Path) -> Image:
    """Read a folder of masks of single objects as one mask.

    Parameters
    ----------
    folder
        Each file is 0 outside of its object and above 0 inside.

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
    objects: list[tuple[int, int, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]] = []
    first: Image | None = None
    for number, path in enumerate(images_in(folder), start=1):
        mask = read_image(path, labels=True)
        if first is not None and mask.array.shape[1:] != first.array.shape[1:]:
            sizes = [" x ".join(map(str, m.array.shape[1:])) for m in (first, mask)]
            raise FileError(
                f"{format_path(folder)}: masks of {sizes[0]} and of {sizes[1]} pixels ({path.name})",
                "masks of the image's size",
                "export them again",
            )
        first = first or mask
        on = without_alpha(mask.array)[0][:3].max(axis=0) > 0
        objects.append((int(np.count_nonzero(on)), number, on))
    if first is None:
        raise FileError(f"{format_path(folder)}: holds no mask", "one mask file per object", "leave the image out")
    labels = np.zeros(first.array.shape[1:], np.int32)
    for _, number, on in sorted(objects, key=lambda f: (-f[0], f[1])):
        labels[on] = number
    return Image.from_array(
        labels[None],
        first.axes,
        file_axes=first.file_axes,
        pixel_size_um=first.pixel_size_um,
        affine=first.affine,
        location=folder,
    )
