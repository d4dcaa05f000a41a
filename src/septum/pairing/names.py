"""Match masks to images by names alone."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from septum.errors import DataError
from septum.folders import rivals_there
from septum.io.formats import format_path, image_stem, natural_key
from septum.words import join_words

_MASK_WORDS = (
    "cp_masks?|masks?|labels?|lbl|seg|segmentation|gt|ground_?truth|truth|annotations?|annot?|target|instances?|objects?"
    "|roi_?sets?|rois|shapes"
    "|(?:1st|2nd|first|second)_?(?:manual|ho)|manual_?[12]?|labell?ed|simple[ _]segmentation|object[ _]identities"
)
_IMAGE_WORDS = "images?|img|im|raw|volume|vol|input|data"


def _affix(words: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{words})$|^(?:{words})[ ._-]+(?=.)|(?<=.)[ ._-]+(?:{words})$", re.IGNORECASE)


_MASK_AFFIX = _affix(_MASK_WORDS)
_IMAGE_AFFIX = _affix(_IMAGE_WORDS)
_CHANNEL = re.compile(r"_\d{4}$")  # nnU-Net: one file a channel, and the mask without a number
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


def composed(name: str) -> str:
    """Return a name with composed letters: a Mac stores "u" and its dots apart, other systems as one letter."""
    return unicodedata.normalize("NFC", name)


def stem_key(path: Path) -> str:
    """Return the stem for comparisons, in any case and composition of letters."""
    return composed(image_stem(path)).casefold()


def image_key(path: Path) -> str:
    """Return the stem without a word for images: ``train-volume.tif`` gives ``train``."""
    return _IMAGE_AFFIX.sub("", composed(image_stem(path)), count=1).casefold()


def mask_key(path: Path) -> str:
    """Return the stem without a word for masks: ``a_mask.png`` and ``seg-a.png`` give ``a``."""
    return _MASK_AFFIX.sub("", composed(image_stem(path)), count=1).casefold()


def names_a_mask(path: Path) -> bool:
    """Return True if the name of `path` holds a word for masks."""
    return mask_key(path) != stem_key(path)


def masks_beside(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named as masks of other files beside them: ``a_mask.png`` beside ``a.tif``."""
    images = {(p.parent, key) for p in paths if not names_a_mask(p) for key in (stem_key(p), image_key(p))}
    return [p for p in paths if names_a_mask(p) and (p.parent, mask_key(p)) in images]


def is_second(mask: Path) -> bool:
    """Return True if a mask is named as that of a second person (``a_2nd_manual.png``), beside that of the first."""
    return _SECOND.search(image_stem(mask)) is not None


def match(images: Sequence[Path], masks: Sequence[Path]) -> Matches:
    """Match masks to images by name: equal stems; else equal up to words such as ``_mask``; else by common patterns.

    If no name fits so, the numbers are compared, where all images are named after one pattern and all masks after one
    (``cell_1 ...``, ``truth1 ...``), as whole numbers: 1 never matches 10. If none fits then, a beginning or an ending
    that all files of one kind have in common is left out (``a_pred``, ``b_pred``).

    A link that leads nowhere is left where another file fits as well.

    Raises
    ------
    DataError
        If two files claim the same partner, or are channels of one image; the message names both.
    """
    seconds = [m for m in masks if is_second(m)]
    if len(seconds) < len(masks):
        firsts = {mask_key(m) for m in masks if m not in set(seconds)}
        seconds = [m for m in seconds if mask_key(m) in firsts]
    else:
        seconds = []
    firsts_by = _by_key(sorted(set(masks) - set(seconds), key=natural_key), mask_key)
    fitting = [mask for rivals in firsts_by.values() for mask in rivals_there(rivals)]
    matches = Matches(
        images_left=sorted(images, key=natural_key),
        masks_left=sorted(fitting, key=natural_key),
        seconds=sorted(seconds, key=natural_key),
    )
    _take(matches, lambda p: composed(image_stem(p)), lambda p: composed(image_stem(p)))
    _take(matches, stem_key, mask_key)
    _take(matches, image_key, mask_key)
    _match_channels(matches)
    if not matches.pairs:
        _match_numbers(matches)
    if not matches.pairs:
        _match_without_affix(matches)
    taken = {key: pair for pair in matches.pairs for key in (image_key(pair[0]), stem_key(pair[0]))}
    for mask in matches.masks_left:
        if mask_key(mask) in taken:
            image, other = taken[mask_key(mask)]
            raise _ambiguous("masks", [other, mask], "image", image)
    dead = {mask for rivals in firsts_by.values() for mask in rivals} - set(fitting)
    matches.masks_left = sorted(dead.union(matches.masks_left), key=natural_key)
    matches.pairs.sort(key=lambda pair: natural_key(pair[0]))
    return matches


def _take(matches: Matches, key_image: Callable[[Path], str], key_mask: Callable[[Path], str]) -> None:
    """Move files of equal keys from the files without a partner to the pairs."""
    all_images, all_masks = _by_key(matches.images_left, key_image), _by_key(matches.masks_left, key_mask)
    for key in (key for key in all_images if key in all_masks):
        images, masks = rivals_there(all_images[key]), rivals_there(all_masks[key])
        if len(images) > 1:
            raise _ambiguous("images", images, "mask", masks[0])
        if len(masks) > 1:
            raise _ambiguous("masks", masks, "image", images[0])
        matches.pairs.append((images[0], masks[0]))
    paired = [set(files) for files in zip(*matches.pairs, strict=True)] or [set[Path](), set[Path]()]
    matches.images_left = [p for p in matches.images_left if p not in paired[0]]
    matches.masks_left = [p for p in matches.masks_left if p not in paired[1]]


def _by_key(paths: Sequence[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return groups


def _match_channels(matches: Matches) -> None:
    """Match images that end in the numbers of their channels, as nnU-Net names them; several are one image."""
    channels = _by_key([p for p in matches.images_left if _CHANNEL.search(image_stem(p))], _channel_key)
    masks = {stem_key(p) for p in matches.masks_left}
    several = {key: files for key, files in channels.items() if key in masks and _are_channels(files)}
    counts = {key: len(files) for key, files in several.items()}
    if len(set(counts.values())) > 1:
        few, many = (pick(counts, key=counts.__getitem__) for pick in (min, max))
        raise DataError(
            f"{format_path(several[few][0].parent)}: {counts[few]} channels of {few}, {counts[many]} of {many}",
            "the same channels of each image",
            "add the files that are missing, or leave the image out",
        )
    joined = {path: _channel_image(path) for files in several.values() for path in files}
    matches.images_left = list(dict.fromkeys(joined.get(path, path) for path in matches.images_left))
    _take(matches, stem_key, stem_key)
    _take(matches, lambda p: _channel_key(p) if len(channels.get(_channel_key(p), ())) == 1 else "", stem_key)


def _are_channels(files: Sequence[Path]) -> bool:
    """Return True if files of one image end in 0000, 0001, ..."""
    numbers = sorted(int(image_stem(path)[-4:]) for path in files)
    return len(files) > 1 and numbers == list(range(len(files)))


def _channel_image(path: Path) -> Path:
    """Return the path of the image that a channel belongs to; `septum.io.nnunet` opens it."""
    stem = image_stem(path)
    return path.with_name(_CHANNEL.sub("", stem) + path.name[len(stem) :])


def _channel_key(path: Path) -> str:
    return _CHANNEL.sub("", composed(image_stem(path))).casefold()


def _match_without_affix(matches: Matches) -> None:
    """Match files after leaving out a beginning or ending that all images, or all masks, have in common."""
    images, masks = matches.images_left, matches.masks_left
    for longer, others in ((masks, images), (images, masks)):
        stems = [stem_key(p) for p in longer]
        known = {stem_key(p) for p in others}
        for affix in _affixes(stems[0], known) if stems else ():
            rest = {p: _without(affix, stem) for p, stem in zip(longer, stems, strict=True)}
            if None not in rest.values():
                keys = {p: stem_key(p) for p in others} | {p: str(stem) for p, stem in rest.items()}
                _take(matches, keys.__getitem__, keys.__getitem__)
                return


def _affixes(stem: str, known: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (beginning, ending) that a stem has more than one of the known ones, from which a sign separates it."""
    for other in sorted(known, key=lambda name: (-len(name), name)):
        begin, found, end = stem.partition(other)
        parts = begin[-1:], end[:1]
        if found and stem != other and not any(part.isalnum() for part in parts) and (not begin or not end):
            yield begin, end


def _without(affix: tuple[str, str], stem: str) -> str | None:
    """Return a stem without a beginning and an ending; None if it has other ones."""
    begin, end = affix
    fits = stem.startswith(begin) and stem.endswith(end) and len(stem) > len(begin) + len(end)
    return stem[len(begin) : len(stem) - len(end)] if fits else None


def _match_numbers(matches: Matches) -> None:
    images, masks = _numbers(matches.images_left), _numbers(matches.masks_left)
    if images and masks:
        _take(matches, lambda p: images[p], lambda p: masks[p])


def _numbers(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the numbers in which the names differ, or nothing if the names do not share one pattern."""
    parts = {p: re.split(r"(\d+)", composed(image_stem(p))) for p in paths}
    if len(paths) < 2 or len({tuple(s[::2]) for s in parts.values()}) != 1:
        return {}
    numbers = {p: [int(n) for n in s[1::2]] for p, s in parts.items()}
    varying = [i for i, column in enumerate(zip(*numbers.values(), strict=True)) if len(set(column)) > 1]
    return {p: " ".join(str(n[i]) for i in varying) for p, n in numbers.items()} if varying else {}


def _ambiguous(kind: str, rivals: Sequence[Path], partner_kind: str, partner: Path) -> DataError:
    names = join_words([format_path(p.name) for p in rivals])
    return DataError(
        f"{len(rivals)} {kind} fit the {partner_kind} {format_path(partner.name)}: {names} (in "
        f"{format_path(rivals[0].parent)})",
        f"one of the {kind} for it",
        "move the others to another folder, or rename them",
    )
