"""Masks on the disk: what exists is read into the labels, and what was annotated is written as an ordinary mask.

A mask holds object ids, 0 for background and -1 where nothing is annotated. The first time that a mask of somebody
else would be replaced, it is moved to ``.studio/originals``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.errors import DataError, FileError
from septum.io.atomic import as_error
from septum.io.files import read_mask, write_image
from septum.io.formats import format_path
from septum.studio.label_store import LabelStore, Plane
from septum.studio.project import Entry, Project
from septum.studio.pyramid import Shown
from septum.studio.tile_grid import HIGHEST_ID, empty_tile, image_box, tile_box

MOST_PIXELS = 100_000_000
"""Masks of more pixels are not written after each edit, but when they are asked for."""


def read_existing(project: Project, store: LabelStore, entry: Entry, shown: Shown) -> str | None:
    """Read the mask of an image into the labels, if it was not written by the studio or has changed since.

    Returns
    -------
    str or None
        A sentence if a mask was read.

    Raises
    ------
    DataError
        If the mask does not fit the image, or holds other values than labels.
    FileError
        If it cannot be read.
    """
    file = entry.mask
    own = project.mask_path(entry)
    file = own if own.is_file() else file
    if file is None or not file.exists() or store.note(f"mask {entry.name}") == _signature(file):
        return None
    labels = _as_planes(file, read_mask(file).array, shown)
    for t in range(shown.frames):
        for z in range(shown.sections):
            plane = store.plane(entry.name, t, z, shown.sides)
            _write_plane(store, plane, labels[t, z])
    store.note(f"mask {entry.name}", _signature(file))
    return f"read {format_path(file)}"


def _as_planes(file: Path, mask: NDArray[Any], shown: Shown) -> NDArray[np.int32]:
    """Return a mask as ``(T, Z, Y, X)`` int32 labels."""
    wanted = (shown.frames, shown.sections, *shown.sides)
    if mask.size != int(np.prod(wanted)):
        raise DataError(
            f"{format_path(file)}: a mask of {' x '.join(map(str, mask.shape))} for an image of "
            f"{' x '.join(map(str, wanted))} (T x Z x Y x X)",
            "a mask of the same size with one channel",
            "move it out of the folder, or correct it; `septum check` names what is wrong",
        )
    if mask.dtype.kind == "f" and not np.array_equal(mask, np.rint(mask)):
        raise DataError(f"{format_path(file)}: a mask with fractions", "whole numbers", "move it out of the folder")
    if mask.min() < UNANNOTATED or mask.max() > HIGHEST_ID:
        raise DataError(
            f"{format_path(file)}: a mask with values from {mask.min()} to {mask.max()}",
            f"-1 for not annotated, 0 for background, ids up to {HIGHEST_ID}",
            "move it out of the folder",
        )
    return mask.astype(np.int32).reshape(wanted)


def _write_plane(store: LabelStore, plane: Plane, labels: NDArray[np.int32]) -> None:
    changes = {}
    for place in plane.box.places():
        whole = tile_box(place)
        part = whole.clip(plane.box)
        tile = empty_tile()
        tile[part.within(whole)] = labels[part.within(image_box(plane.sides))]
        changes[place] = tile
    store.write(plane, "read mask", changes)


def collect(store: LabelStore, entry: Entry, shown: Shown) -> NDArray[np.int32]:
    """Return the labels of an image: ``(T, Z, Y, X)`` int32, ids of 1 and more, 0 background, -1 not annotated."""
    out = np.full((shown.frames, shown.sections, *shown.sides), UNANNOTATED, np.int32)
    for plane in store.planes(entry.name):
        if plane.t < shown.frames and plane.z < shown.sections:
            plane = store.plane(entry.name, plane.t, plane.z, shown.sides)  # refuses labels of other sides
            out[plane.t, plane.z] = store.read(plane, plane.box)
    return out


def write_mask(project: Project, store: LabelStore, entry: Entry, shown: Shown) -> Path | None:
    """Write the mask of an image; remove it if nothing is annotated any more.

    Returns
    -------
    Path or None
        The file; None if there is nothing to write.

    Raises
    ------
    DataError
        If the image had other sides when it was painted.
    FileError
        If the file cannot be written.
    """
    target = project.mask_path(entry)
    mask = collect(store, entry, shown)
    _set_aside(project, store, entry, target)
    try:
        if (mask == UNANNOTATED).all():
            target.unlink(missing_ok=True)
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_error(target, error) from error
    if mask.min() >= 0:
        mask = mask.astype(np.uint16 if mask.max() < 2**16 else np.uint32)
    axes = [a for a, n in zip("TZYX", mask.shape, strict=True) if a in "YX" or n > 1]
    write_image(
        target,
        mask.reshape([n for a, n in zip("TZYX", mask.shape, strict=True) if a in axes]),
        axes="".join(axes),
        pixel_size_um=project.open(entry).pixel_size_um,
        labels=True,
    )
    store.note(f"mask {entry.name}", _signature(target))
    return target


def _set_aside(project: Project, store: LabelStore, entry: Entry, target: Path) -> None:
    """Move a mask that the studio did not write out of the way, so that each image has one mask and none is lost."""
    for file in {entry.mask, target} - {None}:
        assert file is not None
        if not file.exists() or (file == target and store.note(f"own {entry.name}") == str(target)):
            continue
        kept = project.work / "originals" / file.relative_to(project.masks)
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, kept)
        except OSError as error:
            raise FileError(
                f"{format_path(file)}: cannot be moved ({error.strerror})",
                "a folder that you may change",
                "check its rights",
            ) from error
    store.note(f"own {entry.name}", str(target))


def _signature(file: Path) -> str:
    """Return size and time of a file, by which a change is noticed."""
    found = file.stat()
    return json.dumps([file.name, found.st_size, found.st_mtime_ns])
