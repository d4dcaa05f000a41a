"""Match masks to images, and folders of masks to folders of images, by names alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from septum.errors import DataError
from septum.io.formats import format_path, image_stem, is_image_file, is_zarr, natural_key

_MASK_WORDS = (
    "cp_masks?|masks?|labels?|lbl|seg|segmentation|gt|ground_?truth|truth|annotations?|annot?|target|instances?|objects?"
    "|(?:1st|2nd|first|second)_?(?:manual|ho)|manual_?[12]?"
)
_IMAGE_WORDS = "images?|img|im|raw|volume|vol|input|data"


def _affix(words: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{words})$|^(?:{words})[ ._-]+(?=.)|(?<=.)[ ._-]+(?:{words})$", re.IGNORECASE)


_MASK_AFFIX = _affix(_MASK_WORDS)
_IMAGE_AFFIX = _affix(_IMAGE_WORDS)
_SECOND = re.compile(r"[ ._-](?:(?:2nd|second)_?(?:manual|ho)|manual_?2)$", re.IGNORECASE)


@dataclass
class Matches:
    """Pairs of (image, mask), and the files without a partner, each in natural order.

    `seconds` are masks of a second annotator of images that the first one annotated as well.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    images_left: list[Path] = field(default_factory=list)
    masks_left: list[Path] = field(default_factory=list)
    seconds: list[Path] = field(default_factory=list)


def image_key(path: Path) -> str:
    """Return the stem without a word for images: ``train-volume.tif`` gives ``train``."""
    return _IMAGE_AFFIX.sub("", image_stem(path), count=1).casefold()


def mask_key(path: Path) -> str:
    """Return the stem without a word for masks: ``a_mask.png`` and ``seg-a.png`` give ``a``."""
    return _MASK_AFFIX.sub("", image_stem(path), count=1).casefold()


def names_a_mask(path: Path) -> bool:
    """Return True if the name of `path` holds a word for masks."""
    return mask_key(path) != image_stem(path).casefold()


def match(images: Sequence[Path], masks: Sequence[Path]) -> Matches:
    """Match masks to images by name: equal stems; else equal up to words such as ``_mask``; else by their numbers.

    Numbers are compared only if all images are named after one pattern and all masks after one (``cell_1 ...``,
    ``truth1 ...``), and as whole numbers: 1 never matches 10.

    Raises
    ------
    DataError
        If two files claim the same partner; the message names both.
    """
    seconds = [m for m in masks if _SECOND.search(image_stem(m))]
    if len(seconds) < len(masks):
        firsts = {mask_key(m) for m in masks if m not in set(seconds)}
        seconds = [m for m in seconds if mask_key(m) in firsts]
    else:
        seconds = []
    matches = Matches(
        images_left=sorted(images, key=natural_key),
        masks_left=sorted(set(masks) - set(seconds), key=natural_key),
        seconds=sorted(seconds, key=natural_key),
    )
    _take(matches, image_stem, image_stem)
    _take(matches, lambda p: image_stem(p).casefold(), mask_key)
    _take(matches, image_key, mask_key)
    if not matches.pairs:
        _match_numbers(matches)
    taken = {key: pair for pair in matches.pairs for key in (image_key(pair[0]), image_stem(pair[0]).casefold())}
    for mask in matches.masks_left:
        if mask_key(mask) in taken:
            image, other = taken[mask_key(mask)]
            raise _ambiguous("masks", [other, mask], "image", image)
    matches.pairs.sort(key=lambda pair: natural_key(pair[0]))
    return matches


def _take(matches: Matches, key_image: Callable[[Path], str], key_mask: Callable[[Path], str]) -> None:
    """Move files of equal keys from the files without a partner to the pairs."""
    images, masks = _by_key(matches.images_left, key_image), _by_key(matches.masks_left, key_mask)
    for key in images.keys() & masks.keys():
        if len(images[key]) > 1:
            raise _ambiguous("images", images[key], "mask", masks[key][0])
        if len(masks[key]) > 1:
            raise _ambiguous("masks", masks[key], "image", images[key][0])
        matches.pairs.append((images[key][0], masks[key][0]))
    matches.images_left = [p for p in matches.images_left if key_image(p) not in masks]
    matches.masks_left = [p for p in matches.masks_left if key_mask(p) not in images]


def _by_key(paths: Sequence[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups


def _match_numbers(matches: Matches) -> None:
    images, masks = _numbers(matches.images_left), _numbers(matches.masks_left)
    if images and masks:
        _take(matches, lambda p: images[p], lambda p: masks[p])


def _numbers(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the numbers in which the names differ, or nothing if the names do not share one pattern."""
    parts = {p: re.split(r"(\d+)", image_stem(p)) for p in paths}
    if len(paths) < 2 or len({tuple(s[::2]) for s in parts.values()}) != 1:
        return {}
    numbers = {p: [int(n) for n in s[1::2]] for p, s in parts.items()}
    varying = [i for i, column in enumerate(zip(*numbers.values(), strict=True)) if len(set(column)) > 1]
    return {p: " ".join(str(n[i]) for i in varying) for p, n in numbers.items()} if varying else {}


def _ambiguous(kind: str, rivals: Sequence[Path], partner_kind: str, partner: Path) -> DataError:
    names = " and ".join(format_path(p.name) for p in rivals)
    return DataError(
        f"{len(rivals)} {kind} fit the {partner_kind} {format_path(partner.name)}: {names} (in "
        f"{format_path(rivals[0].parent)})",
        f"one of the {kind} for it",
        "move the others to another folder, or rename them",
    )


IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "ground_truth", "groundtruth")

# Sets of retinal vessels keep drawn masks beside masks of the field of view.
_DRAWN = re.compile(r"(?:1st|first)[ _-]?manual|manual(?:[ _-]?1)?", re.IGNORECASE)
# Names of several words, or with an ending of their own: "imagesTr", "tissue images", "train_labels".
_IMAGE_FOLDER_WORDS = {*IMAGE_FOLDERS, "raw", "rawimages", "input", "inputs", "volume", "volumes"}
_MASK_FOLDER_WORDS = {*MASK_FOLDERS, "truth", "seg", "segs", "segmentation", "segmentations", "instances"}


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` in natural order, without hidden ones and Zarr images."""
    inside = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and not is_zarr(p))
    return sorted(inside, key=natural_key)


def images_in(folder: Path) -> list[Path]:
    """Return the image files in `folder` in natural order, without hidden ones."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".") and is_image_file(p)), key=natural_key)


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
            listed = " and ".join(format_path(p.name) for p in folders)
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
    """Return the folders beside a folder of drawn masks, as sets of retinal vessels have them."""
    return subfolders(masks.absolute().parent) if _DRAWN.fullmatch(masks.name) else []


def object_folders(folder: Path) -> list[tuple[Path, Path]]:
    """Return (image, folder of masks) of each sample of a data set with a folder per sample and a mask file per object.

    ``ID/images/ID.png`` with ``ID/masks/*.png``. Empty unless every folder in `folder` with images is such a sample.
    """
    folders = []
    for sample in subfolders(folder):
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
