"""The folder of a data set, which the studio and the command line have too: ``images/``, ``masks/`` and ``runs/``.

A pair of layers is written as ordinary files; of a time series, and of a stack that is annotated plane by plane, each
annotated plane becomes an image of its own, because a plane without labels is not annotated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from septum.axes import ORDER
from septum.errors import DataError, FileError
from septum.io.files import images_in, list_images, write_image
from septum.io.formats import image_stem
from septum.pairing.names import match

from napari_septum.layers import axes_of, finest, layer_pixel_size, sides_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels


# Names of devices of Windows, also with an ending; brackets would be taken for a pattern of files.
_RESERVED = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Sent:
    """What a pair of layers became.

    Attributes
    ----------
    images
        The image files; each has a mask of the same name.
    left_out
        Number of planes, or of volumes of a time series, that have no label and were not written.
    """

    images: tuple[Path, ...]
    left_out: int


@dataclass(frozen=True)
class Pair:
    """An image of a folder, its mask and its prediction; None where there is none."""

    image: Path
    mask: Path | None
    prediction: Path | None

    @property
    def name(self) -> str:
        """The name of the image without suffix."""
        return image_stem(self.image)


def send(folder: Path, image: Image, labels: Labels, *, axes: str = "", volume: bool = False) -> Sent:
    """Write an image layer and its labels into a folder as a data set; files of equal names are replaced.

    Parameters
    ----------
    folder
        Folder of the data set; made if it is missing.
    image, labels
        The layers; the labels have the sides of the image, without its channels.
    axes
        Axes of the data of the image, see `napari_septum.axes.name_axes`.
    volume
        True: Z makes volumes, which a network of volumes learns; False: each plane is an image.

    Raises
    ------
    DataError
        If the sides differ, or no pixel is labeled.
    FileError
        If the folder cannot be written.
    """
    named = axes_of(image, axes)
    wanted = [a for a in named if a != "C"]
    truth, sides = finest(labels), sides_of(image, named)
    if tuple(truth.shape) != tuple(sides[a] for a in wanted):
        given = f"layer {image.name} of {_sides(sides)} and labels {labels.name} of {' x '.join(map(str, truth.shape))}"
        raise DataError(given, "labels of the sides of the image", "make the labels with New labels layer on the image")
    walked = [a for a in wanted if a == "T" or (a == "Z" and not volume)]
    _make(folder)
    written, left_out = [], 0
    size = layer_pixel_size(image, named)
    for place in product(*(range(sides[a]) for a in walked)):
        at = dict(zip(walked, place, strict=True))
        mask = np.asarray(truth[tuple(at.get(a, slice(None)) for a in wanted)])
        if not mask.any():
            left_out += 1
            continue
        pixels = np.asarray(finest(image)[tuple(at.get(a, slice(None)) for a in named)])
        name = file_name(image.name) + "".join(f"-{a.lower()}{at[a]:03d}" for a in walked)
        rest = "".join(a for a in named if a not in walked)
        write_image(folder / "images" / f"{name}.tif", pixels, axes=rest, pixel_size_um=size)
        write_image(
            folder / "masks" / f"{name}.tif",
            smallest(mask),
            axes=rest.replace("C", ""),
            pixel_size_um=size,
            labels=True,
        )
        written.append(folder / "images" / f"{name}.tif")
    if not written:
        raise DataError(f"labels {labels.name}: no pixel is labeled", "some objects", "paint each with its own number")
    return Sent(tuple(written), left_out)


def left_out_text(number: int) -> str:
    """Return the end of a sentence that tells how many planes or volumes had no label; empty for none."""
    return f"; {number} without labels left out" if number else ""


def smallest(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels in the smallest type that holds them: ``(*S)`` integers, any values."""
    if labels.size and labels.min() < 0:
        return labels.astype(np.int32)
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))))


def pairs(folder: Path) -> list[Pair]:
    """Return the images of a folder of the studio, or of any data set with ``images/``.

    Raises
    ------
    SeptumError
        If there is no image.
    """
    inside = folder / "images"
    images = list_images([inside if inside.is_dir() else folder])
    masks = dict(match(images, _images(folder / "masks")).pairs)
    predicted = {image_stem(path): path for path in _images(folder / "predictions")}
    return [Pair(path, masks.get(path), predicted.get(image_stem(path))) for path in images]


def unannotated(folder: Path) -> list[Path]:
    """Return the images of a folder that have no mask."""
    return [pair.image for pair in pairs(folder) if pair.mask is None]


def unused(folder: Path, name: str) -> Path:
    """Return the first of ``name-1``, ``name-2``, ... in a folder that does not exist."""
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"


def file_name(layer: str) -> str:
    """Return the name of a layer as the name of a file on any system."""
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*\[\]]+', "_", layer).strip(" .")
    return _RESERVED.sub(r"\1_", name) or "layer"


def _images(folder: Path) -> list[Path]:
    return images_in(folder) if folder.is_dir() else []


def _make(folder: Path) -> None:
    try:
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        given = f"{folder}: {error.strerror}"
        raise FileError(given, "a folder that can be written", "choose another folder") from None


def _sides(sides: dict[str, int]) -> str:
    return " x ".join(f"{sides[a]}" for a in sorted(sides, key=ORDER.index))
