"""Write the masks of a data set as label images, with the values that training reads from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from septum.check.issues import format_shape
from septum.check.reading import Files
from septum.check.repair import lossless_place, smallest_dtype
from septum.convert.settings import ConvertSettings
from septum.errors import DataError, SeptumError, UsageError
from septum.events import Event
from septum.io.annotations.drawing import Drawing
from septum.io.annotations.formats import (
    drawn_format,
    is_named_as_drawn,
    place_of,
    read_drawing,
    read_drawings,
    split_place,
)
from septum.io.annotations.raster import list_names
from septum.io.atomic import as_error
from septum.io.files import open_image, write_image
from septum.io.formats import format_path, image_stem, image_suffix, result_suffix
from septum.io.image import Affine
from septum.io.selection import Selection
from septum.kept import Memory
from septum.pairing.drawn_masks import class_numbers
from septum.pairing.find import find_pairs
from septum.pairing.fit import Grid, grid_of
from septum.pairing.folders import common_subfolders
from septum.pairing.pair import Pair
from septum.words import pluralize


@dataclass(frozen=True)
class Converted(Event):
    """One mask was written.

    Attributes
    ----------
    source, written
        The mask, and its label image.
    values
        Number of values above 0: objects or classes.
    notes
        What was left out or changed, as phrases.
    """

    source: Path
    written: Path
    values: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotConverted(Event):
    """One file was not converted, for the reason given."""

    source: Path
    reason: str


def write_labels(settings: ConvertSettings) -> Iterator[Converted | NotConverted]:
    """Write each mask of a data set as a label image named after its image.

    The values are those that `septum train` reads: ids of objects, or values of classes; -1 is not annotated. Images in
    subfolders have their label images in subfolders of the same names. Files of drawn objects that state the size of
    their images (COCO, CVAT, labelme, Cellpose) need no images; the folders that they state for them are kept, as far
    as they lead inside of `out`.

    Parameters
    ----------
    settings
        What to convert, and where to write it.

    Yields
    ------
    Converted or NotConverted
        One per mask, after it was written or failed; then one per file without a partner.

    Raises
    ------
    UsageError
        If `out` is a file or holds files, the paths are no data set, or options say how images are read and there are
        none.
    DataError
        If no image has a mask.
    FileError
        If a file that is named as those of drawn objects holds none.
    """
    for path in settings.data:
        if path.is_file() and is_named_as_drawn(path) and drawn_format(path) is None:
            read_drawings(path)  # refuses it by name
    drawn = bool(settings.data) and all(drawn_format(path) is not None for path in settings.data)
    pairing = None if drawn else find_pairs(settings.data)
    if drawn and (option := _of_images(settings)):
        given = f"{option} with files of drawn objects alone"
        raise UsageError(given, "the images as well", "leave it out, or name both: septum convert IMAGES FILES")
    if settings.out.exists() and (not settings.out.is_dir() or any(settings.out.iterdir())):
        given = "a folder that holds files" if settings.out.is_dir() else "a file"
        raise UsageError(f"{format_path(settings.out)}: {given}", "a new or empty folder", "give another -o")
    if pairing is None:
        return _write_drawn(settings)
    return _write(settings, pairing.pairs, (*pairing.unmatched_images, *pairing.unmatched_masks))


def _of_images(settings: ConvertSettings) -> str:
    """Return the option that says how images are read; ``""`` if there is none."""
    if settings.axes is not None:
        return f"--axes {settings.axes}"
    return Selection(level=settings.level, pixel_size=settings.pixel_size).of_level


def _write_drawn(settings: ConvertSettings) -> Iterator[Converted | NotConverted]:
    """Write the objects of files without their images."""
    images: dict[Path, Path] = {}  # by the places of their objects; of one image in a file, the file stands for it
    for path in settings.data:
        kind = drawn_format(path)
        try:
            if kind is not None and kind.many:
                images |= {place_of(path, drawing): _image_of(path, drawing) for drawing in read_drawings(path)}
            else:
                images[path] = path
        except SeptumError as error:
            yield NotConverted(path, str(error))
    files = Files(memory=Memory(kept_bytes=0), classes=class_numbers(images) if settings.kind == "classes" else None)
    folders = common_subfolders(images.values())
    stems = Counter(image.with_name(image_stem(image)) for image in dict.fromkeys(images.values()))
    for place in images:
        try:
            drawing = read_drawing(place)
            size = drawing.size if drawing.labels is None else drawing.labels.shape
            if size is None:
                given = f"{format_path(place)}: the file does not state the size of its image"
                raise DataError(given, "the image", f"name both: septum convert IMAGE {format_path(place.name)}")
            axes = "C" + "ZYX"[-len(size) :]
            image = _image_of(split_place(place)[0], drawing)
            name = image_stem(image) if stems[image.with_name(image_stem(image))] < 2 else image.name
            target = settings.out / folders[images[place]] / f"{name}.png"
            yield _write_mask(place, target, Grid(axes, (1, *size), axes[1:]), files)
        except SeptumError as error:
            yield NotConverted(place, str(error))


def _image_of(path: Path, drawing: Drawing) -> Path:
    """Return where the image of a drawing would lie: always in the folder of its file, or in a subfolder."""
    stated = drawing.image.replace("\\", "/").encode(errors="replace").decode().replace("\0", "")
    inside = [part for part in stated.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    return path.parent.joinpath(*inside or [path.stem.removesuffix("_seg")])


def _write(
    settings: ConvertSettings, pairs: tuple[Pair, ...], alone: tuple[Path, ...]
) -> Iterator[Converted | NotConverted]:
    classes = class_numbers(pair.mask for pair in pairs) if settings.kind == "classes" else None
    selection = Selection(level=settings.level, pixel_size=settings.pixel_size)
    files = Files(axes=settings.axes, selection=selection, memory=Memory(kept_bytes=0), classes=classes)
    annotated = {pair.image: pair for pair in pairs if pair.mask is not None}
    folders = common_subfolders(annotated)
    for image, pair in annotated.items():
        assert pair.mask is not None
        place = settings.out / folders[image] / image.name
        try:
            yield _convert(pair.mask, image, place, files)
        except SeptumError as error:
            yield NotConverted(pair.mask, str(error))
    for path in (*(pair.image for pair in pairs if pair.image not in annotated), *alone):
        yield NotConverted(path, "no partner")


def _convert(mask: Path, image: Path, place: Path, files: Files) -> Converted:
    with open_image(image, axes=files.axes, selection=files.selection) as opened:
        grid, size, affine = grid_of(opened), opened.pixel_size_um, opened.affine
    place = place.with_name(image_stem(place) + result_suffix(image_suffix(place)))
    return _write_mask(mask, place, grid, files, pixel_size_um=size, affine=affine)


def _write_mask(
    mask: Path,
    place: Path,
    grid: Grid,
    files: Files,
    *,
    pixel_size_um: Mapping[str, float] | None = None,
    affine: Affine | None = None,
) -> Converted:
    labels = files.labels(mask, grid)
    if problem := next((frame.problem for frame in labels if frame.problem), ""):
        raise DataError(f"{format_path(mask)}: {problem}", "whole numbers", "export the mask again")
    array = np.stack([frame.array for frame in labels])
    _check_sides(mask, array.shape, grid)
    axes = "T" + "ZYX"[-(array.ndim - 1) :]
    if len(array) == 1:
        array, axes = array[0], axes[1:]
    array = array.astype(smallest_dtype(array))
    place = lossless_place(place, array, axes)
    try:
        written = place.exists()
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_error(place, error) from error
    if written:
        given = f"{format_path(place)} was written already, for another image of this name"
        raise DataError(given, "names that differ", "convert the folders one by one, each with an -o of its own")
    write_image(place, array, axes=axes, pixel_size_um=pixel_size_um, affine=affine, labels=True)
    return Converted(mask, place, len(np.unique(array[array > 0])), _notes(files, mask))


def _notes(files: Files, mask: Path) -> tuple[str, ...]:
    """Return notes on drawn objects that overlap, are cut or left out; none for other masks."""
    filled = files.filled(mask)
    if filled is None:
        return ()
    notes = list(filled.notes)
    if filled.overlapping:
        on_others, pixels = pluralize(filled.overlapping, "object"), pluralize(filled.overlap_px, "pixel")
        notes.append(f"{on_others} on others ({pixels}): the later one is on top")
    if filled.hidden:
        notes.append(f"left out, since later objects cover them entirely: {', '.join(filled.hidden)}")
    if filled.cut:
        notes.append(f"cut by the border: {', '.join(filled.cut)}")
    if filled.refused:
        notes.append(f"left out: {list_names(filled.refused)}")
    return tuple(notes)


def _check_sides(mask: Path, shape: tuple[int, ...], grid: Grid) -> None:
    sides = tuple(side for axis, side in zip(grid.axes, grid.shape, strict=True) if axis in "ZYX")
    if shape[1:] != sides:
        given = f"{format_path(mask)}: {format_shape(shape[1:])} pixels, but its image {format_shape(sides)}"
        raise DataError(given, "the same size", "export the mask in the size of its image")
