"""Which folder holds images and which one their masks, told by the folders' names alone."""

from __future__ import annotations

import re
from pathlib import Path

from septum.errors import DataError
from septum.io.paths import format_path, is_image_file, is_zarr, natural_key

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "ground_truth", "groundtruth")

# Sets of retinal vessels keep what a person drew beside masks of the field of view.
_DRAWN = re.compile(r"(?:1st|first)[ _-]?manual|manual(?:[ _-]?1)?", re.IGNORECASE)
# Names of several words, or with an ending of their own: "imagesTr", "tissue images", "train_labels".
_IMAGE_WORDS = {*IMAGE_FOLDERS, "raw", "rawimages", "input", "inputs", "volume", "volumes"}
_MASK_WORDS = {*MASK_FOLDERS, "truth", "seg", "segs", "segmentation", "segmentations", "instances"}


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` in natural order, without hidden ones and Zarr images."""
    inside = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and not is_zarr(p))
    return sorted(inside, key=natural_key)


def images_in(folder: Path) -> list[Path]:
    """Return the image files in `folder` in natural order, without hidden ones."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".") and is_image_file(p)), key=natural_key)


def role_folders(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks in `folder`; None if it does not hold both.

    Plain names (`IMAGE_FOLDERS`, `MASK_FOLDERS`) win over names that only hold such a word. Of the latter the two
    whose other words are equal belong together: ``imagesTr`` and ``labelsTr`` beside ``imagesTs``. A folder of what a
    person drew (``1st_manual``, ``manual1``) wins over ``mask``, which holds fields of view then.

    Raises
    ------
    DataError
        If several folders come into question; the message names them.
    """
    inside = subfolders(folder)
    images = [p for p in inside if p.name.casefold() in IMAGE_FOLDERS]
    drawn = [p for p in inside if _DRAWN.fullmatch(p.name)]
    masks = drawn or [p for p in inside if p.name.casefold() in MASK_FOLDERS]
    rests = {p: (_rest(p, _IMAGE_WORDS), _rest(p, _MASK_WORDS)) for p in inside}
    if not images:
        images = [p for p, (image, mask) in rests.items() if image is not None and mask is None]
    if not masks:
        masks = [p for p, (image, mask) in rests.items() if mask is not None and image is None]
    if len(images) * len(masks) > 1:
        alike = [(a, b) for a in images for b in masks if rests[a][0] == rests[b][1] and rests[a][0]]
        if len(alike) == 1:
            return alike[0]
    for found in (images, masks):
        if len(found) > 1 and images and masks:
            listed = " and ".join(format_path(p.name) for p in found)
            raise DataError(
                f"{format_path(folder)}: holds both {listed}", "one of them", f"name two: {images[0]} {masks[0]}"
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
    """Return the folders beside one that holds what a person drew, as sets of retinal vessels have them."""
    return subfolders(masks.absolute().parent) if _DRAWN.fullmatch(masks.name) else []


def object_folders(folder: Path) -> list[tuple[Path, Path]]:
    """Return (image, folder of masks) of each sample of a set that has a folder a sample and a mask file an object.

    ``ID/images/ID.png`` with ``ID/masks/*.png``. Empty unless every folder in `folder` with images is such a sample.
    """
    found = []
    for sample in subfolders(folder):
        inside = {p.name.casefold(): p for p in subfolders(sample)}
        images = next((inside[name] for name in IMAGE_FOLDERS if name in inside), None)
        if images is None:
            continue
        files = images_in(images)
        masks = next((inside[name] for name in MASK_FOLDERS if name in inside), None)
        if len(files) != 1 or masks is None or not images_in(masks):
            return []
        found.append((files[0], masks))
    one_mask_each = all(len(images_in(masks)) == 1 for _, masks in found)
    return [] if one_mask_each and len(found) < 2 else found


def _rest(folder: Path, words: set[str]) -> tuple[str, ...] | None:
    """Return the words of a folder's name without those that say what it holds; None if none does."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", folder.name)
    names = [p.casefold() for p in parts]
    return tuple(n for n in names if n not in words) if words & set(names) else None
