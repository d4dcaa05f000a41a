"""Find folders of images and folders of masks by their names, and the images in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from septum.errors import DataError
from septum.folders import distinct
from septum.io.files import images_below, images_in
from septum.io.formats import format_path, is_zarr, natural_key
from septum.pairing.names import Matches, composed, match
from septum.words import join_words

BySubfolder = dict[tuple[str, ...], list[Path]]
"""Images by the names of the subfolders that they lie in."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "ground_truth", "groundtruth")

_ROLE_WORDS = {*IMAGE_FOLDERS, *MASK_FOLDERS, "raw", "seg", "rois", "shapes"}

# Sets of retinal vessels keep drawn masks beside masks of the field of view.
_DRAWN = re.compile(r"(?:1st|first)[ _-]?manual|manual(?:[ _-]?1)?", re.IGNORECASE)
# Names of several words, or with an ending of their own: "imagesTr", "tissue images", "train_labels".
_IMAGE_FOLDER_WORDS = {*IMAGE_FOLDERS, "raw", "rawimages", "input", "inputs", "volume", "volumes"}
_MASK_FOLDER_WORDS = {*MASK_FOLDERS, "truth", "seg", "segs", "segmentation", "segmentations", "instances"}


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` in natural order, without hidden ones and Zarr images."""
    inside = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and not is_zarr(p))
    return sorted(inside, key=natural_key)


def match_below(images: Path, masks: Path) -> Matches:
    """Match the images in a folder and its subfolders with the masks in the same subfolders of another folder.

    Subfolders correspond if their paths are equal but for words for images and masks: ``images/p1/raw/a.tif`` and
    ``masks/p1/seg/a.tif``. Where none do, and no name occurs twice, the subfolders do not count.

    Raises
    ------
    DataError
        If two files claim the same partner; the message names both.
    """
    kept = without_results(images_below(images), images, masks)
    return match_by_subfolder(by_subfolder(kept, images), by_subfolder(images_below(masks), masks))


def without_results(paths: Sequence[Path], images: Path, masks: Path) -> list[Path]:
    """Return the files in a folder of images that belong to the images, in the same order.

    Where the folder of masks lies in it, these are the files directly inside, or those in subfolders if there are none,
    but not those in folders of masks, and in ``runs`` and ``predictions`` of trainings and the studio; elsewhere all
    files are returned. A subfolder named like one of masks holds images if the folder of masks has the same subfolder.

    Parameters
    ----------
    paths
        Files in the folder of images and its subfolders.
    images, masks
        The folders of images and of masks.
    """
    if not _holds(images, masks):
        return list(paths)
    if direct := [path for path in paths if path.parent == images]:
        return direct
    return _no_results(paths, images, masks)


def images_deeper(images: Path, masks: Path, unread: list[Path] | None = None) -> list[Path]:
    """Return the images that `without_results` leaves out because other images lie directly in the folder.

    `unread` takes the folders that may not be read, as in `septum.folders.below`.
    """
    if not _holds(images, masks) or not images_in(images):
        return []
    return _no_results([path for path in images_below(images, unread) if path.parent != images], images, masks)


def _holds(images: Path, masks: Path) -> bool:
    return images != masks and masks.absolute().is_relative_to(images.absolute())


def _no_results(paths: Sequence[Path], images: Path, masks: Path) -> list[Path]:
    """Return files in a folder of images without those of masks, trainings and predictions."""
    made = {masks, *(folder for folder in subfolders(images) if _is_made(folder, masks))}
    return [path for path in paths if made.isdisjoint(path.parents)]


def _is_made(folder: Path, masks: Path) -> bool:
    """Return True for a folder in one of images that holds masks, or results of the studio or of trainings."""
    match folder.name.casefold():
        case "predictions":
            return (folder.parent / ".studio").is_dir()
        case "runs":
            return (folder.parent / ".studio").is_dir() or any(folder.glob("*/settings.json"))
        case name:
            return name in MASK_FOLDERS and not (masks / folder.name).is_dir()


def match_by_subfolder(images_by: BySubfolder, masks_by: BySubfolder) -> Matches:
    """Match images and masks by their subfolders, as `match_below` does."""
    if not images_by.keys() & masks_by.keys():
        images_by, masks_by = _all_in_one(images_by), _all_in_one(masks_by)
    parts = [match(images_by.get(k, []), masks_by.get(k, [])) for k in sorted(images_by.keys() | masks_by.keys())]
    joined = Matches()
    for part in parts:
        for name in ("pairs", "images_left", "masks_left", "seconds"):
            getattr(joined, name).extend(getattr(part, name))
    return joined


def _all_in_one(by: BySubfolder) -> BySubfolder:
    return {(): [path for files in by.values() for path in files]}


def by_subfolder(paths: Iterable[Path], folder: Path) -> BySubfolder:
    """Return files below a folder by their subfolder, without words for images and masks."""
    by: BySubfolder = {}
    for path in paths:
        by.setdefault(subfolder_key(path, folder), []).append(path)
    return by


def common_subfolders(paths: Iterable[Path]) -> dict[Path, Path]:
    """Return the folder of each file, relative to the folder that all of them have in common."""
    folders = {path: path.absolute().parent for path in paths}
    root = os.path.commonpath(folders.values()) if folders else ""
    return {path: folder.relative_to(root) for path, folder in folders.items()}


def subfolder_key(path: Path, folder: Path) -> tuple[str, ...]:
    """Return the names of the subfolders of `folder` that a file lies in, without words for images and masks."""
    parts = path.relative_to(folder).parent.parts if path.is_relative_to(folder) else ()
    return tuple(part for part in (composed(p).casefold() for p in parts) if part not in _ROLE_WORDS)


def role_folders(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks in `folder`; None unless it holds both.

    Plain names (`IMAGE_FOLDERS`, `MASK_FOLDERS`) win over names that merely contain such a word. Two of the
    latter whose other words are equal belong together: ``imagesTr`` and ``labelsTr`` beside ``imagesTs``. A folder of
    drawn masks (``1st_manual``, ``manual1``) wins over ``mask``, which holds fields of view then.

    Raises
    ------
    DataError
        If several folders qualify; the message names them.
    """
    inside = subfolders(folder)
    images = [p for p in inside if p.name.casefold() in IMAGE_FOLDERS]
    drawn = [p for p in inside if _DRAWN.fullmatch(p.name)]
    masks = drawn or [p for p in inside if p.name.casefold() in MASK_FOLDERS]
    rests = {p: (_rest(p, _IMAGE_FOLDER_WORDS), _rest(p, _MASK_FOLDER_WORDS)) for p in inside}
    if not images:
        images = [p for p, (image, mask) in rests.items() if image is not None and mask is None]
    if not masks:
        masks = [p for p, (image, mask) in rests.items() if mask is not None and image is None]
    if len(images) * len(masks) > 1:
        alike = [(a, b) for a in images for b in masks if rests[a][0] == rests[b][1] and rests[a][0]]
        if len(alike) == 1:
            return alike[0]
    for folders in (images, masks):
        if len(folders) > 1 and images and masks:
            listed = join_words([format_path(p.name) for p in folders])
            role = "images" if folders is images else "masks"
            raise DataError(
                f"{format_path(folder)}: several folders of {role}, by their names: {listed}",
                "one of them",
                f"name a folder of images and one of masks, such as: {images[0]} {masks[0]}",
            )
    return (images[0], masks[0]) if images and masks else None


def second_annotators(images: Path, masks: Path) -> list[Path]:
    """Return the masks of other annotators beside the folder of drawn masks that is trained on."""
    names = (images.name, masks.name)
    return [
        p for f in _beside_drawn(masks) if f.name not in names and "manual" in f.name.casefold() for p in images_in(f)
    ]


def fields_of_view(masks: Path) -> list[Path]:
    """Return the masks of fields of view beside the folder of drawn masks that is trained on."""
    return [p for f in _beside_drawn(masks) if f.name.casefold() in MASK_FOLDERS for p in images_in(f)]


def _beside_drawn(masks: Path) -> list[Path]:
    """Return the folders beside a folder of drawn masks, as sets of retinal vessels have them."""
    return subfolders(masks.absolute().parent) if _DRAWN.fullmatch(masks.name) else []


def object_folders(folder: Path) -> list[tuple[Path, Path]]:
    """Return (image, folder of masks) of each sample of a data set with a folder per sample and a mask file per object.

    ``ID/images/ID.png`` with ``ID/masks/*.png``. Empty unless every folder in `folder` with images is such a sample.
    """
    folders = []
    for sample in distinct(subfolders(folder)):
        inside = {p.name.casefold(): p for p in subfolders(sample)}
        images = next((inside[name] for name in IMAGE_FOLDERS if name in inside), None)
        if images is None:
            continue
        files = images_in(images)
        masks = next((inside[name] for name in MASK_FOLDERS if name in inside), None)
        if len(files) != 1 or masks is None or not images_in(masks):
            return []
        folders.append((files[0], masks))
    one_mask_each = all(len(images_in(masks)) == 1 for _, masks in folders)
    return [] if one_mask_each and len(folders) < 2 else folders


def _rest(folder: Path, words: set[str]) -> tuple[str, ...] | None:
    """Return the words of a folder's name without those in `words`; None if there are none of these."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", folder.name)
    names = [p.casefold() for p in parts]
    return tuple(n for n in names if n not in words) if words & set(names) else None
