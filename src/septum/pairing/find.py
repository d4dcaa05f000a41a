"""Find pairs of image and mask in the files and folders that a user names. No image is opened."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from septum.errors import DataError, UsageError
from septum.folders import check_spelling, distinct, leads_nowhere
from septum.io.annotations.formats import drawn_format
from septum.io.files import images_below, images_in
from septum.io.formats import (
    SUFFIXES,
    format_of,
    format_path,
    image_stem,
    image_suffix,
    is_zarr,
    natural_key,
    split_scene,
)
from septum.io.nnunet import dataset_notes
from septum.pairing import ctc
from septum.pairing.drawn import drawn_below, pair_drawn, with_drawn
from septum.pairing.folders import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    BySubfolder,
    by_subfolder,
    fields_of_view,
    images_deeper,
    match_below,
    match_by_subfolder,
    object_folders,
    role_folders,
    second_annotators,
    subfolders,
    without_results,
)
from septum.pairing.foreign import describe, drawn_objects, unread_images, way_out
from septum.pairing.grouping import make_pairing, no_partner
from septum.pairing.names import Matches, image_key, mask_key, match, names_a_mask, stem_key
from septum.pairing.pair import Pair, Pairing
from septum.words import list_some, pluralize

__all__ = ["Pair", "Pairing", "find_pairs"]

_LAYOUTS = """one of
    DATA/images/ and DATA/masks/ (or labels/, annotations/, gt/), names alike: cell1.tif and cell1.tif or cell1_mask.tif
    DATA/ with cell1.png and cell1_mask.png side by side
    DATA/a/images/a.png and DATA/a/masks/*.png, one file an object
    DATA/01/t000.tif and DATA/01_GT/SEG/man_seg000.tif (Cell Tracking Challenge)
    DATA/ with cell1.tif and its drawn objects: cell1.json (labelme), cell1.geojson (QuPath), cell1.zip (ImageJ ROIs),
    cell1_seg.npy (Cellpose), cell1.csv (napari); or a file for all images: COCO, CVAT
    two folders IMAGES MASKS, or two files IMAGE MASK"""


_OWN_FOLDER = "put the masks into a folder of their own and name both"
_WITHOUT_MASKS = (
    "; without masks, draw some: septum studio {0}, or use a model that comes with Septum (cells, membranes, nuclei): "
    "septum predict nuclei {0} -o results"
)


def find_pairs(data: Sequence[Path]) -> Pairing:
    """Find images and their masks.

    Parameters
    ----------
    data
        One folder: with ``images/`` and ``masks/`` (also ``labels/``, ``annotations/``, ``gt/``, in any case), with
        images and masks side by side, distinguished by suffix (``a.png``, ``a_mask.png``), a folder for each image with
        ``images/`` and a mask file for each object in ``masks/``, a Cell Tracking Challenge data set or one sequence
        of it. Or two folders, or two files (image, mask), or a list of files.

    Returns
    -------
    Pairing
        Pairs in natural order. Images whose names are nothing but consecutive numbers (``00.png`` to ``29.png``) are
        one group of neighboring sections, with the number as position; their sizes are not compared.

    Raises
    ------
    UsageError
        If a path is missing or the paths do not belong together; for a folder above several data sets the message
        names them.
    DataError
        If a folder holds no image, no name fits another, or two files claim the same partner.
    """
    paths = [Path(p) for p in data]
    try:
        return _find(paths)
    except OSError as error:
        name = format_path(error.filename or ", ".join(map(str, paths)))
        raise UsageError(f"{name}: {error.strerror}", "folders you may read", "check names and rights") from error


def _find(paths: list[Path]) -> Pairing:
    for path in paths:
        if not (place := split_scene(path)[0]).exists() and not leads_nowhere(place):
            raise UsageError(f"{format_path(path)} does not exist", _LAYOUTS, check_spelling(path))
    folders = [p.is_dir() and not is_zarr(p) for p in paths]
    if len(paths) == 1 and folders[0]:
        return _one_folder(paths[0])
    if len(paths) == 2 and all(folders):
        return _two_folders(*paths)
    if len(paths) == 2 and folders[0] and drawn_format(paths[1]) is not None:
        return pair_drawn(images_below(paths[0]), [paths[1]], paths[0])
    if len(paths) >= 2 and not any(folders):
        return _two_files(*paths) if len(paths) == 2 else _many_files(paths)
    given = ", ".join(format_path(p) + ("/" if p.is_dir() else "") for p in paths) or "nothing is named"
    raise UsageError(f"{given}: not a data set", _LAYOUTS, "name a folder, two folders, or images and masks")


def _one_folder(folder: Path) -> Pairing:
    if ctc.is_sequence(folder):
        return ctc.pair_sequences([folder])
    if roles := role_folders(folder):
        return _two_folders(*roles)
    if samples := object_folders(folder):
        beside = tuple(images_in(folder)), unread_images(folder)
        return replace(_object_masks(samples), unmatched_images=beside[0], unread=beside[1])
    if annotated := ctc.sequences(folder):
        return ctc.pair_sequences(annotated)
    if any(names_a_mask(p) for p in images_in(folder)):
        return _side_by_side({(): images_in(folder)}, folder)
    if not images_in(folder):
        if parts := _parts(folder):
            return _pool(parts)
        by = by_subfolder(images_below(folder), folder)
        if not _data_sets_in(folder) and any(names_a_mask(p) for files in by.values() for p in files):
            return _side_by_side(by, folder)
    if not _data_sets_in(folder) and (files := drawn_below(folder)) and images_below(folder):
        return pair_drawn(images_below(folder), files, folder)
    raise _nothing(folder, images_in(folder))


# Parts of a data set that are made to be held out: a person decides which of them to train on.
_SPLITS = re.compile(r"(?:train|val|valid|validation|test|eval|dev)(?:ing)?\d*", re.IGNORECASE)


def _parts(folder: Path) -> list[Path]:
    """Return the subfolders (patients, say) that hold images and masks each; none if one is a part to hold out."""
    parts = [p for p in distinct(subfolders(folder)) if _holds_roles(p)]
    return [] if any(_SPLITS.fullmatch(p.name) for p in parts) else parts


def _holds_roles(folder: Path) -> bool:
    try:
        return role_folders(folder) is not None
    except DataError:
        return False


def _pool(parts: Sequence[Path]) -> Pairing:
    """Pair the files of each part; each part is a group."""
    pairings = [(part.name, _two_folders(*roles)) for part in parts if (roles := role_folders(part)) is not None]
    counts = Counter(pair.name for _, pairing in pairings for pair in pairing.pairs)
    pairs = [
        replace(pair, name=pair.name if counts[pair.name] == 1 else f"{part}_{pair.name}", group=part, position=place)
        for part, pairing in pairings
        for place, pair in enumerate(pairing.pairs)
    ]
    return Pairing(
        tuple(pairs),
        "folders",
        unmatched_images=tuple(p for _, pairing in pairings for p in pairing.unmatched_images),
        unmatched_masks=tuple(p for _, pairing in pairings for p in pairing.unmatched_masks),
        objects=True if all(pairing.objects for _, pairing in pairings) else None,
        set_aside=tuple(p for _, pairing in pairings for p in pairing.set_aside),
        unread=tuple(f for _, pairing in pairings for f in pairing.unread),
    )


def _is_data_set(folder: Path) -> bool:
    try:
        return bool(role_folders(folder) or object_folders(folder) or ctc.sequences(folder))
    except DataError:
        return False


def _nothing(folder: Path, files: Sequence[Path]) -> UsageError | DataError:
    """Return the error for a folder that is no data set; it names data sets nearby."""
    right = _data_sets_in(folder)
    if right:
        names = list_some((format_path(p.relative_to(folder)) for p in right), 8)
        return UsageError(
            f"{format_path(folder)}: holds data sets in subfolders: {names}", "one data set", f"name {right[0]}"
        )
    drawn = [file for place in (folder, *subfolders(folder)) for file in drawn_objects(place)]
    if files and drawn:
        given = f"{format_path(folder)}: {pluralize(len(files), 'image')} without masks, but {describe(drawn)}"
        return DataError(given, _LAYOUTS, f"{way_out(drawn)}; {_OWN_FOLDER}")
    if twins := _twins(files):
        return twins
    inside = [p for p in subfolders(folder) if p.name.casefold() in MASK_FOLDERS and images_in(p)]
    if files and inside:
        given = f"{pluralize(len(files), 'image')} beside the folder {format_path(inside[0].name)}"
        return DataError(f"{format_path(folder)}: {given}", _LAYOUTS, f"name both: {folder} {inside[0]}")
    if files:
        beside = [p for p in subfolders(folder.absolute().parent) if p.name.casefold() in MASK_FOLDERS]
        todo = (
            f"name both: {folder} {beside[0]}"
            if beside
            else _OWN_FOLDER + _WITHOUT_MASKS.format(shlex.quote(str(folder)))
        )
        return DataError(f"{format_path(folder)}: only images ({len(files)}), no masks", _LAYOUTS, todo)
    if unread := unread_images(folder):
        return DataError(
            f"{format_path(folder)}: no image that is read ({describe(unread)})", _LAYOUTS, way_out(unread)
        )
    if not any(folder.iterdir()):
        return DataError(f"{format_path(folder)}: the folder is empty", _LAYOUTS, "name the folder that holds the data")
    listed = list_some((format_path(p.name) for p in sorted(folder.iterdir(), key=natural_key)), 6)
    return DataError(
        f"{format_path(folder)}: no images and masks, but {listed}", _LAYOUTS, "name the folder that holds them"
    )


def _data_sets_in(folder: Path) -> list[Path]:
    """Return the data sets in a folder, up to two levels below."""
    inside = subfolders(folder)
    return [p for p in (*inside, *(q for p in inside for q in subfolders(p))) if _is_data_set(p)]


def _twins(files: Sequence[Path]) -> DataError | None:
    """Return the error for files of which each name occurs in two formats: probably images and masks."""
    by_suffix: dict[str, set[str]] = {}
    for path in files:
        by_suffix.setdefault(image_suffix(path), set()).add(stem_key(path))
    if len(by_suffix) != 2 or len(set(map(frozenset, by_suffix.values()))) != 1:
        return None
    # A mask keeps its values, which JPEG changes.
    first, second = sorted(by_suffix, key=lambda suffix: (kind := format_of("a" + suffix)) is None or not kind.lossy)
    folder, count = files[0].parent, len(by_suffix[first])
    images, masks = (format_path(folder / name) for name in ("images", "masks"))
    names = list_some((format_path(p.name) for p in files), 2)
    return DataError(
        f"{format_path(folder)}: {pluralize(count, 'name')}{', each' * (count > 1)} as {first} and {second} ({names})",
        _LAYOUTS,
        f"if the {second} files are the masks: move them to {masks}, and the {first} files to {images}",
    )


def _two_folders(images: Path, masks: Path) -> Pairing:
    if images.resolve() == masks.resolve():
        raise UsageError(
            f"{format_path(images)} twice", "a folder of images and one of masks", f"name it once: {images}"
        )
    if images.name.casefold() in MASK_FOLDERS and masks.name.casefold() in IMAGE_FOLDERS:
        raise UsageError(
            f"{format_path(images)} {format_path(masks)}", "images first, then masks", f"swap them: {masks} {images}"
        )
    truth = ctc.truth_folder(masks)
    if truth is not None and ctc.has_frames(images):
        is_gold = "_GT" in f"{truth.parent.name} {truth.name}".upper()
        pairs, strays = ctc.pair_frames(images, gold=truth if is_gold else None, silver=None if is_gold else truth)
        return Pairing(tuple(pairs), "ctc", unmatched_masks=tuple(strays), objects=True)
    files, inside = images_in(images), []
    drawn = drawn_below(masks) if masks.is_dir() else []
    if drawn and not images_below(masks):
        return pair_drawn(_some_images(images, "images"), drawn, images, masks)
    matches = Matches()
    if files and not images_in(masks):
        inside = [p for p in subfolders(masks) if images_in(p)]
        matches = match(files, inside)
    if not matches.pairs:
        files, inside, others = _some_images(images, "images"), [], _some_images(masks, "masks")
        matches = match_below(images, masks)
        if not matches.pairs:
            raise no_partner(files, others)
    pairing = make_pairing(matches, "folders", root=images)
    aside = [(p, "second annotator") for p in second_annotators(images, masks)]
    fields = match(files, fields_of_view(masks))
    aside += [(p, "field of view") for p in fields.masks_left]
    aside += [(p, "subfolder") for p in images_deeper(images, masks)]
    of_image = dict(fields.pairs)
    seen = tuple(replace(pair, field=of_image.get(pair.image)) for pair in pairing.pairs)
    unread = tuple(dict.fromkeys((*unread_images(images), *unread_images(masks))))
    pairing = replace(pairing, pairs=seen, objects=True if inside else None, set_aside=tuple(aside), unread=unread)
    notes = dataset_notes(images)
    pairing = replace(pairing, notes=notes, objects=pairing.objects if notes is None else False)
    beside = without_results(drawn_below(images), images, masks)
    return with_drawn(pairing, list(dict.fromkeys([*drawn, *beside])), images, masks)


def _object_masks(samples: Sequence[tuple[Path, Path]]) -> Pairing:
    pairs = [Pair(masks.parent.name, image, masks) for image, masks in samples]
    return Pairing(tuple(pairs), "objects", objects=True)


def _some_images(folder: Path, role: str) -> list[Path]:
    files = images_below(folder)
    if files:
        return files
    foreign = drawn_objects(folder) if role == "masks" else ()
    foreign = foreign or unread_images(folder)
    kinds = Counter(p.suffix for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    there = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in kinds.most_common(4)) or "no file"
    there = describe(foreign) or there
    todo = way_out(foreign) or (
        "save or export them in one of these formats" if kinds else "name the folder of the files"
    )
    raise DataError(f"{format_path(folder)}: holds no image ({there})", "files that end in " + " ".join(SUFFIXES), todo)


def _two_files(image: Path, mask: Path) -> Pairing:
    if image.resolve() == mask.resolve():
        raise UsageError(f"{format_path(image)} twice", "an image and its mask", "name the mask second")
    if drawn_format(mask) is not None:
        return pair_drawn([image], [mask], image.parent)
    for path in (image, mask):
        if not image_suffix(path) and not is_zarr(path):
            raise UsageError(
                f"{format_path(path)}: not an image by its name",
                "a file that ends in " + " ".join(SUFFIXES),
                "save it in one of these formats",
            )
    folders = image.parent.name.casefold() in MASK_FOLDERS and mask.parent.name.casefold() in IMAGE_FOLDERS
    if folders or (names_a_mask(image) and not names_a_mask(mask) and mask_key(image) == image_key(mask)):
        raise UsageError(f"{format_path(image)} {format_path(mask)}", "the image first, then the mask", "swap them")
    name = image_stem(image)
    return Pairing((Pair(name, image, mask, group=name),), "stacks")


def _many_files(paths: Sequence[Path]) -> Pairing:
    drawn = [p for p in paths if drawn_format(p) is not None]
    paths = [p for p in paths if p not in set(drawn)]
    foreign = [p for p in paths if not image_suffix(p) and not is_zarr(p)]
    if foreign:
        raise UsageError(
            f"{format_path(foreign[0])}: not an image by its name",
            "files that end in " + " ".join(SUFFIXES),
            "leave it out, or save it in one of these formats",
        )
    masks = [p for p in paths if p.parent.name.casefold() in MASK_FOLDERS]
    if drawn and not masks and not any(names_a_mask(p) for p in paths):
        return pair_drawn(paths, drawn, paths[0].parent)
    if masks:
        images = [p for p in paths if p not in set(masks)]
        matches = match(images, masks)
        if not matches.pairs:
            raise no_partner(images, masks)
        return make_pairing(matches, "files", root=paths[0].parent)
    return _side_by_side({(): list(paths)}, paths[0].parent)


def _side_by_side(by: BySubfolder, root: Path) -> Pairing:
    images_by = {key: [p for p in files if not names_a_mask(p)] for key, files in by.items()}
    masks_by = {key: [p for p in files if names_a_mask(p)] for key, files in by.items()}
    images, masks = ([p for files in one.values() for p in files] for one in (images_by, masks_by))
    if not masks or not images:
        found, missing = ("image", "mask") if images else ("mask", "image")
        given = f"{format_path(root)}: {pluralize(len(images) + len(masks), found)} by name, but no {missing}"
        raise DataError(given, _LAYOUTS, f"add the {missing}s, or name two folders: IMAGES MASKS")
    matches = match_by_subfolder(images_by, masks_by)
    if not matches.pairs:
        raise no_partner(images, masks)
    pairing = replace(make_pairing(matches, "files", root=root), unread=unread_images(root))
    return with_drawn(pairing, drawn_below(root), root) if root.is_dir() else pairing
