"""The file of a mask: its labels as planes, and an ordinary TIFF, written whole or part by part from the labels."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.errors import DataError
from septum.io.atomic import as_error
from septum.io.files import write_image
from septum.io.formats import format_path
from septum.io.image import Image
from septum.io.tiff_write import write_tiff_from
from septum.io.zarr_write import create_zarr
from septum.settings import MaskKind
from septum.studio.label_store import LabelStore, Plane
from septum.studio.tile_grid import HIGHEST_ID, SIDE, Rect, tile_box


@dataclass(frozen=True)
class MaskContent:
    """A mask to be written: sides by axes, values, whether they are objects or classes, and pixel size."""

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    kind: MaskKind
    pixel_size_um: dict[str, float]

    def place(self, plane: Plane, part: Rect) -> tuple[slice, ...]:
        """Return the slices of a part of a plane."""
        at = {"T": slice(plane.t, plane.t + 1), "Z": slice(plane.z, plane.z + 1)}
        at |= {"Y": slice(part.y0, part.y1), "X": slice(part.x0, part.x1)}
        return tuple(at[a] for a in self.axes)


def write_whole(store: LabelStore, planes: list[Plane], about: MaskContent, target: Path) -> None:
    """Write a mask that fits into memory."""
    mask = np.full(about.shape, UNANNOTATED, np.int32)
    for plane in planes:
        mask[about.place(plane, plane.box)] = store.read(plane, plane.box)
    size = about.pixel_size_um
    write_image(target, mask.astype(about.dtype), axes=about.axes, pixel_size_um=size, labels=about.kind)


def write_parts(store: LabelStore, planes: list[Plane], about: MaskContent, target: Path, folder: Path) -> None:
    """Write a mask by way of an array on the disk, of which each part holds whole tiles."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        sides = {"Y": SIDE, "X": SIDE}
        block = tuple(sides.get(a, 1) for a in about.axes)
        array = create_zarr(
            folder / "mask.ome.zarr",
            shape=about.shape,
            axes=about.axes,
            dtype=about.dtype,
            chunks=block,
            shards=block,
            pixel_size_um=about.pixel_size_um,
            labels=True,
        )
        by_section = {(plane.t, plane.z): plane for plane in planes}
        frames, sections = (about.shape[about.axes.index(a)] if a in about.axes else 1 for a in "TZ")
        for t, z in product(range(frames), range(sections)):
            plane = by_section.get((t, z), Plane(-1, "", t, z, (about.shape[-2], about.shape[-1])))
            painted = store.versions(plane)
            for place in plane.box.places():
                part = tile_box(place).clip(plane.box)
                values = store.read(plane, part) if place in painted else np.full(part.sides, UNANNOTATED, np.int32)
                index = about.place(plane, part)
                array.write(index, values.astype(about.dtype).reshape([s.stop - s.start for s in index]))
        for _ in write_tiff_from(array, target, kind=about.kind):
            pass
    except OSError as error:
        raise as_error(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_planes(file: Path, image: Image, sides: dict[str, int]) -> NDArray[np.int32]:
    """Return a mask as ``(T, Z, Y, X)`` int32 labels; `sides` are those of its image.

    Raises
    ------
    DataError
        If the mask has other sides, or holds other values than labels.
    """
    found = dict(zip(image.axes, image.shape, strict=True))
    if any(found.get(axis, 1) != side for axis, side in sides.items()):
        given, wanted = (_describe_sides({axis: at.get(axis, 1) for axis in sides}) for at in (found, sides))
        raise DataError(
            f"{format_path(file)}: a mask of {given} for an image of {wanted}",
            "a mask of the same size with one channel",
            "move it out of the folder, or correct it; `septum check` names what is wrong",
        )
    mask = image.array
    if mask.dtype.kind == "f" and not np.array_equal(mask, np.rint(mask)):
        raise DataError(f"{format_path(file)}: a mask with fractions", "whole numbers", "move it out of the folder")
    if mask.min() < UNANNOTATED or mask.max() > HIGHEST_ID:
        raise DataError(
            f"{format_path(file)}: a mask with values from {mask.min()} to {mask.max()}",
            f"-1 for not annotated, 0 for background, ids up to {HIGHEST_ID}",
            "move it out of the folder",
        )
    return mask.astype(np.int32).reshape([sides[axis] for axis in "TZYX"])


def _describe_sides(sides: dict[str, int]) -> str:
    """Return the sides of an image in words: ``"80 x 60 pixels (Y x X), Z 4"``."""
    others = "".join(f", {axis} {side}" for axis, side in sides.items() if axis not in "YX" and side > 1)
    return f"{sides['Y']} x {sides['X']} pixels (Y x X){others}"
