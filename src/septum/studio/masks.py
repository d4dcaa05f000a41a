"""Masks on the disk: what exists is read into the labels, and what was annotated is written as an ordinary mask.

A mask holds object ids, 0 for background and -1 where nothing is annotated. The first time that a mask of somebody
else would be replaced, it is moved to ``.studio/originals``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.errors import DataError, FileError
from septum.io.atomic import as_error
from septum.io.files import read_mask, write_image
from septum.io.formats import format_path
from septum.io.tiff_write import write_tiff_from
from septum.io.zarr_write import create_zarr
from septum.studio.label_store import LabelStore, Plane
from septum.studio.project import Entry, Project, signature
from septum.studio.pyramid import Shown
from septum.studio.tile_grid import HIGHEST_ID, SIDE, Rect, empty_tile, image_box, tile_box

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
    if file is None or not file.exists() or store.note(f"mask {entry.name}") == signature(file):
        return None
    labels = _as_planes(file, read_mask(file).array, shown)
    for t in range(shown.frames):
        for z in range(shown.sections):
            plane = store.plane(entry.name, t, z, shown.sides)
            _write_plane(store, plane, labels[t, z])
    store.note(f"mask {entry.name}", signature(file))
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


def write_mask(project: Project, store: LabelStore, entry: Entry, shown: Shown) -> Path | None:
    """Write the mask of an image; remove it if nothing is annotated any more.

    A mask of more than `MOST_PIXELS` is written part by part, as a tiled TIFF with a pyramid: it is never whole in
    memory.

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
    planes = [
        store.plane(entry.name, plane.t, plane.z, shown.sides)  # refuses labels of other sides
        for plane in store.planes(entry.name)
        if plane.t < shown.frames and plane.z < shown.sections
    ]
    lowest, highest = _range(store, planes, shown)
    _set_aside(project, store, entry, target)
    try:
        if highest == UNANNOTATED:
            target.unlink(missing_ok=True)
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_error(target, error) from error
    lengths = {"T": shown.frames, "Z": shown.sections, "Y": shown.sides[0], "X": shown.sides[1]}
    axes = "".join(a for a, n in lengths.items() if a in "YX" or n > 1)
    about = _Written(
        shape=tuple(lengths[a] for a in axes),
        axes=axes,
        dtype=np.dtype(np.int32 if lowest < 0 else np.uint16 if highest < 2**16 else np.uint32),
        pixel_size_um=dict(project.open(entry).pixel_size_um),
    )
    if shown.sides[0] * shown.sides[1] * shown.frames * shown.sections <= MOST_PIXELS:
        _write_whole(store, planes, about, target)
    else:
        _write_parts(store, planes, about, target, project.work / "parts" / entry.id)
    store.note(f"mask {entry.name}", signature(target))
    return target


@dataclass(frozen=True)
class _Written:
    """A mask file: sides by axes, values, and pixel size."""

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    pixel_size_um: dict[str, float]

    def place(self, plane: Plane, part: Rect) -> tuple[slice, ...]:
        """Return the slices of a part of a plane."""
        at = {"T": slice(plane.t, plane.t + 1), "Z": slice(plane.z, plane.z + 1)}
        at |= {"Y": slice(part.y0, part.y1), "X": slice(part.x0, part.x1)}
        return tuple(at[a] for a in self.axes)


def _range(store: LabelStore, planes: list[Plane], shown: Shown) -> tuple[int, int]:
    """Return the lowest and the highest value of a mask; both are -1 where nothing is annotated."""
    low, high = 0 if len(planes) == shown.frames * shown.sections else UNANNOTATED, UNANNOTATED
    for plane in planes:
        painted = store.versions(plane)
        if len(painted) < len(list(plane.box.places())):
            low = UNANNOTATED
        for place in painted:
            tile = store.tile(plane, place)[tile_box(place).clip(plane.box).within(tile_box(place))]
            low, high = min(low, int(tile.min())), max(high, int(tile.max()))
    return (UNANNOTATED, high) if high == UNANNOTATED else (low, high)


def _write_whole(store: LabelStore, planes: list[Plane], about: _Written, target: Path) -> None:
    mask = np.full(about.shape, UNANNOTATED, np.int32)
    for plane in planes:
        mask[about.place(plane, plane.box)] = store.read(plane, plane.box)
    size = about.pixel_size_um
    write_image(target, mask.astype(about.dtype), axes=about.axes, pixel_size_um=size, labels=True)


def _write_parts(store: LabelStore, planes: list[Plane], about: _Written, target: Path, folder: Path) -> None:
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
        for _ in write_tiff_from(array, target):
            pass
    except OSError as error:
        raise as_error(target, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
