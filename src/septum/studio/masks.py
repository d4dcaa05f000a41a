"""Masks on the disk: what exists is read into the labels, and what was annotated is written as an ordinary mask.

A mask holds object ids, 0 for background and -1 where nothing is annotated. A mask of somebody else that would be
replaced is moved to ``.studio/originals`` first, also a mask of the studio that another program has changed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.errors import FileError
from septum.io.annotations.formats import is_drawn, split_place
from septum.io.atomic import as_error
from septum.io.files import images_in, read_mask
from septum.io.formats import format_path, image_stem
from septum.io.image import Image
from septum.io.tiff import stated_kind
from septum.pairing.drawn_masks import class_names, class_numbers, read_drawn_mask
from septum.pairing.fit import fit_mask, grid_of
from septum.settings import MaskKind
from septum.studio.existing import find_others
from septum.studio.label_store import READ, Changes, Edit, EditConflictError, LabelStore, Plane
from septum.studio.mask_file import MaskContent, as_planes, write_parts, write_whole
from septum.studio.project import Entry, Project, signature
from septum.studio.pyramid import Shown
from septum.studio.tile_grid import Place, empty_tile, image_box, tile_box

MOST_PIXELS = 100_000_000
"""Masks of more pixels are not written after each edit, but when they are asked for."""

_AS_CLASSES = " classes"  # in the note that drawn objects were read


@dataclass(frozen=True, eq=False)
class Found:
    """A mask that exists and is not in the labels yet, or has changed since.

    Attributes
    ----------
    entry, file
        The image, and the file of its mask.
    changes
        What differs from the labels.
    kind
        What a mask of the studio states that its values are; None of other masks.
    key, before, now
        The note that tells which file was read last, its value when this one was found, and its value afterwards.
    """

    entry: Entry
    file: Path
    changes: Changes
    kind: MaskKind | None
    key: str
    before: str | None
    now: str


def unread(project: Project, store: LabelStore, entry: Entry) -> str | None:
    """Return the signature of the mask of an image if it is to be read: the studio has neither read nor written it.

    The mask of an image with edits that are not written yet is not read: it is moved aside when they are written.
    """
    place = _place(project, entry)
    if place is None:
        return None
    _, before, now = _note(store, entry, place)
    return None if before == now or _lacks_edits(project, store, entry) else now


def find_existing(project: Project, store: LabelStore, entry: Entry, image: Image) -> Found | None:
    """Read the mask of an image, if it is to be read; to be entered by `enter_existing`.

    Raises
    ------
    DataError
        If the mask does not fit the image, or holds other values than labels.
    FileError
        If it cannot be read.
    """
    latest = store.latest_edit(entry.name)  # before anything else: later edits are newer than what the file holds
    place = _place(project, entry)
    if place is None or _lacks_edits(project, store, entry):
        return None
    key, before, now = _note(store, entry, place)  # later: a mask that is just being written lacks edits until then
    if before == now:
        return None
    file, sides = split_place(place)[0], _sides(image)
    project.note_folders()
    mask = _read(project, store, entry, place, image)
    labels = as_planes(file, mask, sides)
    kind = None if is_drawn(place) or not _is_own(project, store, entry, place) else stated_kind(mask)
    places = product(range(sides["T"]), range(sides["Z"]))
    planes = [store.plane(entry.name, t, z, (sides["Y"], sides["X"])) for t, z in places]
    tiles = ((plane, _tiles(plane, labels[plane.t, plane.z])) for plane in planes)
    return Found(entry, file, store.compare(entry.name, tiles, latest), kind, key, before, now)


def enter_existing(store: LabelStore, found: Found) -> Edit | None:
    """Enter a mask into the labels together with the note that it was read; None if that changes nothing.

    Raises
    ------
    EditConflictError
        If the image was edited, or the mask was entered, since it was found.
    """
    with store.transaction():
        done = store.write_planes(READ, found.changes)
        if store.note(found.key) != found.before:
            raise EditConflictError(f"{format_path(found.file)}: read already", "a mask that is new", "go on")
        store.note(found.key, found.now)
        if not found.key.startswith("drawn "):
            # A mask that the studio wrote and that was only copied holds the same labels.
            copied = done is None and bool(found.before) and _made(store, found.entry) == found.before
            store.note(f"made {found.entry.name}", found.now if copied else "")
        mark_written(store, found.entry, store.latest_edit(found.entry.name), found.kind)
    return done


def mark_written(store: LabelStore, entry: Entry, edit: int, kind: MaskKind | None = None) -> None:
    """Keep that the mask of an image holds an edit (`LabelStore.latest_edit`), and the kind that its file states."""
    store.note(f"written {entry.name}", f"{edit} {kind or ''}".strip())


def is_due(project: Project, store: LabelStore, entry: Entry) -> bool:
    """Return True if the mask of an image lacks an edit, or states another kind than labels are now.

    A mask that another program has changed is read before it is written for its kind.
    """
    if _lacks_edits(project, store, entry):
        return True
    kind = (store.note(f"written {entry.name}") or "").partition(" ")[2]
    if kind in ("", store.kind):
        return False
    place = _place(project, entry)
    _, before, now = ("", "", "") if place is None else _note(store, entry, place)
    return before == now


def _lacks_edits(project: Project, store: LabelStore, entry: Entry) -> bool:
    """Return True if an image was edited after its mask was written or read."""
    latest, written = store.latest_edit(entry.name), store.note(f"written {entry.name}")
    if written is None:  # no mask yet, or one of a version of Septum that did not keep this
        return latest > 0 and _may_lack_edits(project, store, entry)
    return str(latest) != written.partition(" ")[0]


def _place(project: Project, entry: Entry) -> Path | None:
    """Return the mask of an image that is on the disk, or the place of its drawn objects."""
    own = project.mask_path(entry)
    place = own if own.is_file() else entry.mask
    return place if place is not None and split_place(place)[0].exists() else None


def _note(store: LabelStore, entry: Entry, place: Path) -> tuple[str, str | None, str]:
    """Return the key and the value of the note which file was read or written last, and its value for the file.

    Drawn objects have other labels as classes; those that a person has edited are not read again for that.
    """
    now = signature(split_place(place)[0])
    if not is_drawn(place):
        return f"mask {entry.name}", store.note(f"mask {entry.name}"), now
    before = store.note(f"drawn {entry.name}")
    if before is not None and before.removesuffix(_AS_CLASSES) == now and store.is_edited(entry.name):
        now = before
    elif store.kind == "classes":
        now += _AS_CLASSES
    return f"drawn {entry.name}", before, now


def mask_file(project: Project, entry: Entry) -> Path | None:
    """Return the mask of an image that is on the disk: that of the studio, or one that was there before."""
    return next((f for f in (project.mask_path(entry), entry.mask) if f is not None and f.is_file()), None)


def _may_lack_edits(project: Project, store: LabelStore, entry: Entry) -> bool:
    """Return True if the mask of an image may lack edits, as far as is known without the edit that it holds.

    A mask that another program has changed lacks none: it is read again. One that was only read is complete.
    """
    noted, file = store.note(f"mask {entry.name}"), mask_file(project, entry)
    if not noted or file is None:
        return not noted
    if signature(file) != noted:
        return False
    return _is_own(project, store, entry, file) or store.is_edited(entry.name)


def _read(project: Project, store: LabelStore, entry: Entry, place: Path, image: Image) -> Image:
    """Read a mask on the grid of its image."""
    grid, sides = grid_of(image), _sides(image)
    if is_drawn(place):
        drawn = (one.mask for one in project.entries.values())
        classes = class_numbers(drawn, _known_classes) if store.kind == "classes" else None
        return read_drawn_mask(place, grid, classes=classes)[0]
    # Masks of the studio state their axes, and leave out those of length 1.
    axes = None if _is_own(project, store, entry, place) else project.axes
    return fit_mask(read_mask(place, axes=axes, sides=(sides["Y"], sides["X"])), grid)[0]


def _known_classes(place: Path) -> frozenset[str]:
    return _classes_of(place, signature(split_place(place)[0]))


@lru_cache(maxsize=10_000)
def _classes_of(place: Path, version: str) -> frozenset[str]:
    """Return the classes of drawn objects; all images need those of all files, so each version is read once."""
    return class_names(place)


def _sides(image: Image) -> dict[str, int]:
    """Return the lengths of the axes of the mask of an image: T, C, Z, Y and X."""
    lengths = dict(zip(image.axes, image.shape, strict=True))
    return {axis: 1 if axis == "C" else lengths.get(axis, 1) for axis in "TCZYX"}


def count_pixels(image: Image) -> int:
    """Return the number of pixels of the mask of an image."""
    return prod(_sides(image).values())


def _tiles(plane: Plane, labels: NDArray[np.int32]) -> dict[Place, NDArray[np.int32]]:
    """Return the labels of a plane in tiles."""
    tiles = {}
    for place in plane.box.places():
        whole = tile_box(place)
        part = whole.clip(plane.box)
        tiles[place] = empty_tile()
        tiles[place][part.within(whole)] = labels[part.within(image_box(plane.sides))]
    return tiles


def is_written(shown: Shown) -> bool:
    """Return True if the mask of an image is written after each edit."""
    return shown.sides[0] * shown.sides[1] * shown.frames * shown.sections <= MOST_PIXELS


@dataclass(frozen=True)
class WrittenMask:
    """What became of the mask of an image.

    Attributes
    ----------
    path
        The file; None if nothing is annotated.
    kind
        What it states that its values are.
    notes
        A sentence for each mask of somebody else that was moved to ``.studio/originals``.
    """

    path: Path | None
    kind: MaskKind
    notes: tuple[str, ...]


def write_mask(project: Project, store: LabelStore, entry: Entry, shown: Shown) -> WrittenMask:
    """Write the mask of an image; remove it if nothing is annotated any more.

    A mask of more than `MOST_PIXELS` is written part by part, as a tiled TIFF with a pyramid: it is never whole in
    memory.

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
    kind = store.kind
    notes = _set_aside(project, store, entry, target)
    try:
        if highest == UNANNOTATED:
            target.unlink(missing_ok=True)
            _note_made(store, entry, "")
            return WrittenMask(None, kind, notes)
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_error(target, error) from error
    lengths = {"T": shown.frames, "Z": shown.sections, "Y": shown.sides[0], "X": shown.sides[1]}
    axes = "".join(a for a, n in lengths.items() if a in "YX" or n > 1)
    about = MaskContent(
        shape=tuple(lengths[a] for a in axes),
        axes=axes,
        kind=kind,
        dtype=np.dtype(np.int32 if lowest < 0 else np.uint16 if highest < 2**16 else np.uint32),
        pixel_size_um=dict(project.open(entry).pixel_size_um),
    )
    if is_written(shown):
        write_whole(store, planes, about, target)
    else:
        write_parts(store, planes, about, target, project.work / "parts" / entry.id)
    _note_made(store, entry, signature(target))
    return WrittenMask(target, kind, notes)


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


def _set_aside(project: Project, store: LabelStore, entry: Entry, target: Path) -> tuple[str, ...]:
    """Move masks out of the way that the studio did not write, so that each image has one mask and none is lost."""
    notes = []
    for file in dict.fromkeys((entry.mask, target, *_others(project, entry, target))):
        if file is None or is_drawn(file) or not file.exists():  # a training prefers masks to drawn objects
            continue
        own = file == target and _is_own(project, store, entry, target)
        if own and _made(store, entry) == signature(file):
            continue
        kept = _free_name(project.work / "originals" / file.relative_to(project.masks))
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, kept)
        except OSError as error:
            raise FileError(
                f"{format_path(file)}: cannot be moved ({error.strerror})",
                "a folder that you may change",
                "check its rights",
            ) from error
        _note_made(store, entry, "")  # a person may move it back
        why = "another program has changed it" if own else "the studio writes the mask of this image now"
        before, after = (format_path(path.relative_to(project.root)) for path in (file, kept))
        notes.append(f"{before} was moved to {after}: {why}")
    store.note(f"own {entry.name}", target.relative_to(project.root).as_posix())
    return tuple(notes)


def _others(project: Project, entry: Entry, target: Path) -> list[Path]:
    """Return masks of an image that were copied in since the masks were listed."""
    if not target.parent.is_dir():
        return []
    entries = project.entries.values()
    images, files = [e.path for e in entries], images_in(target.parent)
    found = find_others({entry.path: target}, files, images, project.images, project.masks)
    listed = {e.mask for e in entries if e.id != entry.id} if found else set()
    return [file for file in found if file not in listed]


def _is_own(project: Project, store: LabelStore, entry: Entry, target: Path) -> bool:
    """Return True if the studio wrote the mask of an image."""
    # Version 0.2.0 noted the whole path, and the folder may have moved since.
    noted, place = store.note(f"own {entry.name}"), target.relative_to(project.root).parts
    return noted is not None and Path(noted).parts[-len(place) :] == place


def _made(store: LabelStore, entry: Entry) -> str | None:
    """Return the signature of the mask that the studio wrote last; "" if it is not there any more."""
    made = store.note(f"made {entry.name}")
    return store.note(f"mask {entry.name}") if made is None else made  # older versions kept one note for both


def _note_made(store: LabelStore, entry: Entry, made: str) -> None:
    """Keep the signature of the mask that the studio has written, which needs not be read; "" if there is none."""
    with store.transaction():
        store.note(f"made {entry.name}", made)
        store.note(f"mask {entry.name}", made)


def _free_name(path: Path) -> Path:
    """Return a path, with a number before its suffix if there is such a file: no file of a person is overwritten."""
    free, number = path, 2
    while free.exists():
        free = path.with_name(f"{image_stem(path)}-{number}{path.name[len(image_stem(path)) :]}")
        number += 1
    return free
