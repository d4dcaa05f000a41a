"""Which mask belongs to which image, told by their names alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from septum.errors import DataError
from septum.io.paths import format_path, image_stem, natural_key

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
    """Pairs of (image, mask) and what is left over, each in natural order.

    `seconds` are masks of a second annotator, where the first one's are there as well.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    images_left: list[Path] = field(default_factory=list)
    masks_left: list[Path] = field(default_factory=list)
    seconds: list[Path] = field(default_factory=list)


def image_key(path: Path) -> str:
    """Return the stem without a word that says "image": ``train-volume.tif`` gives ``train``."""
    return _IMAGE_AFFIX.sub("", image_stem(path), count=1).casefold()


def mask_key(path: Path) -> str:
    """Return the stem without a word that says "mask": ``a_mask.png`` and ``seg-a.png`` give ``a``."""
    return _MASK_AFFIX.sub("", image_stem(path), count=1).casefold()


def names_a_mask(path: Path) -> bool:
    """Say whether the name of `path` holds a word that says "mask"."""
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
    found = Matches(
        images_left=sorted(images, key=natural_key),
        masks_left=sorted(set(masks) - set(seconds), key=natural_key),
        seconds=sorted(seconds, key=natural_key),
    )
    _take(found, image_stem, image_stem)
    _take(found, lambda p: image_stem(p).casefold(), mask_key)
    _take(found, image_key, mask_key)
    if not found.pairs:
        _match_numbers(found)
    taken = {key: pair for pair in found.pairs for key in (image_key(pair[0]), image_stem(pair[0]).casefold())}
    for mask in found.masks_left:
        if mask_key(mask) in taken:
            image, other = taken[mask_key(mask)]
            raise _ambiguous("masks", [other, mask], "image", image)
    found.pairs.sort(key=lambda pair: natural_key(pair[0]))
    return found


def _take(found: Matches, key_image: Callable[[Path], str], key_mask: Callable[[Path], str]) -> None:
    """Move files of equal keys from the left-overs to the pairs."""
    images, masks = _by_key(found.images_left, key_image), _by_key(found.masks_left, key_mask)
    for key in images.keys() & masks.keys():
        if len(images[key]) > 1:
            raise _ambiguous("images", images[key], "mask", masks[key][0])
        if len(masks[key]) > 1:
            raise _ambiguous("masks", masks[key], "image", images[key][0])
        found.pairs.append((images[key][0], masks[key][0]))
    found.images_left = [p for p in found.images_left if key_image(p) not in masks]
    found.masks_left = [p for p in found.masks_left if key_mask(p) not in images]


def _by_key(paths: Sequence[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups


def _match_numbers(found: Matches) -> None:
    images, masks = _numbers(found.images_left), _numbers(found.masks_left)
    if images and masks:
        _take(found, lambda p: images[p], lambda p: masks[p])


def _numbers(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the numbers in which the names differ, or nothing if the names do not share one pattern."""
    parts = {p: re.split(r"(\d+)", image_stem(p)) for p in paths}
    if len(paths) < 2 or len({tuple(s[::2]) for s in parts.values()}) != 1:
        return {}
    numbers = {p: [int(n) for n in s[1::2]] for p, s in parts.items()}
    varying = [i for i, column in enumerate(zip(*numbers.values(), strict=True)) if len(set(column)) > 1]
    return {p: " ".join(str(n[i]) for i in varying) for p, n in numbers.items()} if varying else {}


def _ambiguous(what: str, rivals: Sequence[Path], partner_kind: str, partner: Path) -> DataError:
    names = " and ".join(format_path(p.name) for p in rivals)
    return DataError(
        f"{len(rivals)} {what} fit the {partner_kind} {format_path(partner.name)}: {names} (in "
        f"{format_path(rivals[0].parent)})",
        f"one of the {what} for it",
        "move the others to another folder, or rename them",
    )
