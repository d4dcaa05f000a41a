"""Files without a partner, unreadable files, and files that are no plain pair of image and mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from septum.check.issues import IssueKind, Observation, pluralize
from septum.check.statistics import PairStatistics
from septum.pairing.foreign import annotations_beside
from septum.pairing.pair import Pairing

UNPAIRED_IMAGE = IssueKind(
    "unpaired-image", "warning", "image", "without a mask", "left out", todo="draw a mask, or give it the image's name"
)
UNPAIRED_MASK = IssueKind(
    "unpaired-mask",
    "warning",
    "mask",
    "without an image",
    "left out",
    todo="add its image, or give it the image's name",
)
UNREAD_FORMAT = IssueKind(
    "unread-format",
    "warning",
    "file",
    "of a format that is not read",
    "passed over",
    todo="save images as PNG or TIFF, volumes as NIfTI or OME-TIFF",
)
UNREADABLE = IssueKind(
    "unreadable", "warning", "file", "that cannot be read", "left out", todo="export it again", leaves_out=True
)
GOLD_UNREADABLE = IssueKind(
    "gold-unreadable", "warning", "gold mask", "that cannot be read", "not used for scores", todo="export it again"
)
SECOND_ANNOTATOR = IssueKind(
    "second-annotator", "mended", "mask", "of a second annotator", "those of the first annotator are used"
)
MASK_FOLDER = IssueKind("mask-folder", "mended", "mask", "with one file per object", "each file is one object")
NOTHING_LEFT = IssueKind(
    "nothing-left", "error", text="no pair is left to train on", todo="repair the files that are named here"
)
ALL_TO_FIX = IssueKind(
    "all-to-fix", "error", text="no pair can be trained on as it is", fix="repairs the pairs that are named here"
)
KINDS = (
    UNPAIRED_IMAGE,
    UNPAIRED_MASK,
    UNREAD_FORMAT,
    UNREADABLE,
    GOLD_UNREADABLE,
    SECOND_ANNOTATOR,
    MASK_FOLDER,
    NOTHING_LEFT,
    ALL_TO_FIX,
)


def detect(pairing: Pairing, pairs: Sequence[PairStatistics]) -> Iterator[Observation]:
    """Yield files without a partner, masks of a second annotator, and masks of several files."""
    unannotated = [p.image for p in pairing.pairs if p.mask is None and p.gold is None]
    alone = (*pairing.unmatched_images, *unannotated)
    drawn = annotations_beside(alone) if pairing.layout in ("folders", "files") else {}
    for path in alone:
        beside = drawn.get(path)
        text = "" if beside is None else f"but {beside.path.name} of {beside.kind}, not an image: {beside.todo}"
        yield Observation(UNPAIRED_IMAGE, path, text)
    counts = Counter((file.kind, file.path.parent.name) for file in pairing.unread)
    where = ", ".join(f"{count} {suffix} in {folder}" for (suffix, folder), count in counts.items())
    for file in pairing.unread:
        yield Observation(UNREAD_FORMAT, file.path, text=f"{UNREAD_FORMAT.text} ({where})")
    for path in pairing.unmatched_masks:
        yield Observation(UNPAIRED_MASK, path)
    for path, role in pairing.set_aside:
        if role == "second annotator":
            yield Observation(SECOND_ANNOTATOR, path)
    for pair in pairs:
        if pair.mask.is_dir() and pair.mask_stats is not None:
            yield Observation(MASK_FOLDER, pair.mask, pluralize(len(pair.census[0].values), "object"))


def detect_in_pair(pair: PairStatistics) -> Iterator[Observation]:
    """Yield the files of a pair that cannot be read."""
    for path, reason in pair.unreadable:
        needed = path in (pair.image, pair.mask)
        yield Observation(UNREADABLE if needed else GOLD_UNREADABLE, path, short_reason(reason, path))


def detect_none_left(trained: int, fixable: int) -> Iterator[Observation]:
    """Yield an error if there is no pair to train on; `fixable` pairs are left out until the copy repairs them."""
    if not trained:
        yield Observation(ALL_TO_FIX if fixable else NOTHING_LEFT)


def short_reason(reason: str, path: Path) -> str:
    """Return the first line of an error without the name of its file, which the issue names already."""
    first = reason.splitlines()[0]
    return first.split(": ", 1)[1] if first.startswith(str(path)) and ": " in first else first
