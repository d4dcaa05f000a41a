"""Turn images upright by the orientation tag of EXIF and TIFF, as every viewer shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from septum.io.image import StoredImage

TAG = 274
"""Number of the tag, in EXIF and in TIFF."""

# By the value of the tag: whether the stored rows and columns run backward. From 5 on rows and columns are swapped.
_BACKWARD = {2: "X", 3: "YX", 4: "Y", 5: "", 6: "Y", 7: "YX", 8: "X"}
_SWAPPED = 5


def turn_upright(stored: StoredImage, tag: object) -> StoredImage:
    """Return an image as viewers show it.

    Parameters
    ----------
    stored
        The image in the order of its file, with Y for rows and X for columns.
    tag
        Value of the orientation tag; anything but 2 .. 8 leaves the image as it is.
    """
    if not isinstance(tag, int) or tag not in _BACKWARD:
        return stored
    backward = [stored.axes.index(axis) for axis in _BACKWARD[tag] if axis in stored.axes]

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        inside = list(index)
        for at in backward:
            length = stored.shape[at]
            inside[at] = slice(length - index[at].stop, length - index[at].start)
        part = stored.read(tuple(inside))
        return part[tuple(slice(None, None, -1 if at in backward else 1) for at in range(part.ndim))]

    swap = str.maketrans("YX", "XY") if tag >= _SWAPPED else {}
    sizes = {axis.translate(swap): size for axis, size in stored.pixel_size_um.items()}
    return replace(stored, axes=stored.axes.translate(swap), read=read, pixel_size_um=sizes, orientation=tag)
