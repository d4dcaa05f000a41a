"""What can be wrong with a data set: every finding by its code, in plain words, and what is done about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Severity = Literal["error", "warning", "mended"]

_SHOWN = 5  # files named in words; all of them are in `as_dict`


@dataclass(frozen=True)
class IssueKind:
    """One kind of finding.

    Attributes
    ----------
    severity
        ``"error"``: training is refused. ``"warning"``: training goes on, a person should look. ``"mended"``: undone
        in memory by training and in the copy by `fix`, nothing to do.
    noun
        What is counted; ``""`` if the finding is about the whole data set.
    text
        What was found; stands after ``"3 masks"``, or alone.
    mend
        What training and `fix` do about it; ``""``: nothing.
    leaves_out
        The pair is not used, and not copied.
    """

    severity: Severity
    noun: str
    text: str
    mend: str = ""
    leaves_out: bool = False


_LEFT_OUT = "left out"

KINDS: Mapping[str, IssueKind] = {
    # Which files belong together
    "unpaired-image": IssueKind("warning", "image", "without a mask", _LEFT_OUT),
    "unpaired-mask": IssueKind("warning", "mask", "without an image", _LEFT_OUT),
    "unreadable": IssueKind("warning", "file", "that cannot be read", _LEFT_OUT, leaves_out=True),
    "gold-unreadable": IssueKind("warning", "gold mask", "that cannot be read", "not scored with"),
    "second-annotator": IssueKind("mended", "mask", "of a second annotator", "the first one's are taken"),
    "field-of-view": IssueKind("mended", "mask", "of the field of view", "what lies outside is not annotated"),
    "field-unfit": IssueKind("warning", "mask", "of the field of view that cannot be used", _LEFT_OUT),
    "mask-folder": IssueKind("mended", "mask", "with a file for each object", "each file is one object"),
    "sizes-swapped": IssueKind("mended", "mask", "with width and height swapped", "transposed"),
    "sizes-differ": IssueKind(
        "error", "pair", "whose image and mask differ in size", "fix leaves them out", leaves_out=True
    ),
    "pages-differ": IssueKind(
        "error", "pair", "whose image and mask differ in the number of pages", "fix leaves them out", leaves_out=True
    ),
    "pages-channels": IssueKind(
        "mended", "image", "whose channels were taken for pages, told by the masks", "read as channels"
    ),
    "axes-swapped": IssueKind("mended", "mask", "with axes in another order", "put in the order of the image's"),
    "mask-turned": IssueKind("mended", "mask", "turned against the image", "turned back"),
    "mask-shifted": IssueKind(
        "mended", "mask", "shifted against the image", "moved back; its new edge is not annotated"
    ),
    "near-copy": IssueKind(
        "warning", "image", "nearly equal to another one; copies are never on both sides of the split"
    ),
    "sequence": IssueKind("warning", "", ""),
    "duplicate": IssueKind("warning", "pair", "equal to another one", _LEFT_OUT, leaves_out=True),
    "duplicate-conflict": IssueKind(
        "warning", "image", "equal to another one, but with a different mask; never on both sides of the split"
    ),
    "mask-astray": IssueKind(
        "warning", "mask", "whose outlines do not follow the image as in the others: the right mask?"
    ),
    "masks-astray": IssueKind("warning", "", ""),
    "masks-shifted": IssueKind("warning", "", ""),
    "one-image": IssueKind("warning", "", "only one image: none can be held out to validate with"),
    "gold-only": IssueKind(
        "warning",
        "frame",
        "with gold truth only, which may not name every object",
        "what it does not name is learned as background",
    ),
    "gold-partial": IssueKind(
        "warning",
        "frame",
        "whose gold truth names only some of its objects",
        "there only a thin margin of these is background, the rest is not annotated",
    ),
    # Masks
    "mask-no-labels": IssueKind("error", "mask", "whose values are no labels", "fix leaves them out", leaves_out=True),
    "mask-float": IssueKind("mended", "mask", "saved as real numbers", "read as whole numbers"),
    "mask-nan": IssueKind("mended", "mask", "with NaN", "not annotated there"),
    "mask-gray-rgb": IssueKind("mended", "mask", "saved as gray in color", "one channel is read"),
    "mask-colors": IssueKind("mended", "mask", "in color", "each color is one label"),
    "mask-smoothed": IssueKind(
        "mended",
        "mask",
        "with values in between along the borders (smoothed, resized, or JPEG)",
        "each pixel goes back to a main value",
    ),
    "mask-large-ids": IssueKind("mended", "mask", "with ids above 2^31", "numbered from 1"),
    "mask-binary": IssueKind("mended", "mask", "of one value among masks of ids", "each connected piece is one object"),
    "mask-empty": IssueKind("warning", "mask", "that holds background only"),
    "mask-unannotated": IssueKind("warning", "mask", "in which nothing is annotated", _LEFT_OUT, leaves_out=True),
    "object-apart": IssueKind("mended", "mask", "with one id on objects far apart", "each gets an id of its own"),
    "page-unannotated": IssueKind(
        "warning", "mask", "with pages in which nothing is annotated", "these pages are left out"
    ),
    "ignored": IssueKind("mended", "mask", "with values that --ignore names", "not annotated there"),
    "object-split": IssueKind("warning", "mask", "with objects in several pieces; each id counts as one object"),
    # What the values mean
    "class-values": IssueKind("mended", "", "", "numbered from 0"),
    "mask-mixed": IssueKind("mended", "", "some masks hold 0 and 1, others 0 and 255", "both are read as 0 and 1"),
    "ignore-255": IssueKind("mended", "", "255 beside classes numbered from 0", "read as not annotated"),
    "pieces": IssueKind("mended", "", "all objects have the same value", "each connected piece is one object"),
    "kind-guess": IssueKind("warning", "", ""),
    "kind-unclear": IssueKind("error", "", ""),
    "no-labels": IssueKind("error", "", ""),
    "too-many-classes": IssueKind("error", "", ""),
    # Images
    "image-constant": IssueKind("warning", "image", "with the same value everywhere", _LEFT_OUT, leaves_out=True),
    "image-tiny": IssueKind("warning", "image", "of fewer than 8 pixels along Y or X", _LEFT_OUT, leaves_out=True),
    "image-holes": IssueKind(
        "mended", "image", "with NaN or infinity", "NaN becomes the median, infinity the largest or smallest value"
    ),
    "intensity-outlier": IssueKind("warning", "image", "much dimmer than the others, with few gray values"),
    "intensity-unlike": IssueKind("warning", "image", "with intensities distributed unlike those of all others"),
    "size-outlier": IssueKind("warning", "image", "much smaller or larger than the others"),
    "object-size-outlier": IssueKind("warning", "mask", "with objects much smaller or larger than in the others"),
    "channel-constant": IssueKind("warning", "", ""),
    "channel-empty": IssueKind("warning", "image", "with the same value everywhere in a channel, unlike the others"),
    "channels-repeated": IssueKind("mended", "gray image", "among color images", "the gray channel is repeated"),
    "channels-spare": IssueKind("mended", "image", "with a constant alpha channel", "the alpha channel is dropped"),
    "channels-differ": IssueKind(
        "error",
        "image",
        "with another number of channels than most",
        "fix leaves them out",
        leaves_out=True,
    ),
    "ranks-differ": IssueKind("warning", "volume", "among flat images", "their sections are taken one by one"),
    "nothing-left": IssueKind("error", "", "no pair is left to train on"),
}


@dataclass(frozen=True)
class Issue:
    """Something found in the data.

    Attributes
    ----------
    code
        Key of `KINDS`.
    severity
        As in `IssueKind`.
    files
        Files concerned, in the order of the pairs; empty if it is about the whole data set.
    message
        One phrase: ``"2 masks saved as real numbers"``.
    mend
        What is done about it; ``""``: nothing.
    details
        One per file, ``""`` where there is none: ``"image 512 x 512, mask 256 x 256"``.
    """

    code: str
    severity: Severity
    files: tuple[Path, ...]
    message: str
    mend: str
    details: tuple[str, ...]

    def line(self) -> str:
        """Return the finding as one sentence that names up to five files."""
        parts = []
        for path, detail in zip(self.files[:_SHOWN], self.details, strict=False):
            # Image and mask often have the same name.
            name = path.name if KINDS[self.code].noun != "file" else f"{path.parent.name}/{path.name}"
            parts.append(f"{name} ({detail})" if detail else name)
        more = len(self.files) - len(parts)
        names = ", ".join(parts) + (f" and {more} more" if more > 0 else "")
        text = self.message + (f": {names}" if names else "")
        return f"{text}; {self.mend}" if self.mend else text

    def as_dict(self) -> dict[str, object]:
        """Return the finding with all files, ready for JSON."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "mend": self.mend,
            "files": [str(path) for path in self.files],
            "details": list(self.details),
        }


@dataclass(frozen=True)
class Remark:
    """One thing about one file (or, with no path, about the data set); remarks of a code make one finding.

    `text` replaces the words of the kind, `item` is the index of the pair concerned.
    """

    code: str
    path: Path | None = None
    detail: str = ""
    text: str = ""
    item: int | None = None


def gather(remarks: Iterable[Remark]) -> tuple[Issue, ...]:
    """Make one finding of all remarks of a code: errors first, then warnings, then what is mended."""
    by_code: dict[str, list[Remark]] = {}
    for remark in remarks:
        by_code.setdefault(remark.code, []).append(remark)
    found = [_finding(code, same) for code, same in by_code.items()]
    return tuple(sorted(found, key=lambda f: ("error", "warning", "mended").index(f.severity)))


def _finding(code: str, remarks: list[Remark]) -> Issue:
    kind = KINDS[code]
    files = tuple(r.path for r in remarks if r.path is not None)
    text = next((r.text for r in remarks if r.text), kind.text)
    message = f"{pluralize(len(files), kind.noun)} {text}" if kind.noun else text
    details = tuple(r.detail for r in remarks if r.path is not None)
    return Issue(code, kind.severity, files, message, kind.mend, details)


def pluralize(number: int, noun: str) -> str:
    """Return ``"1 image"`` or ``"3 images"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_shape(sides: Iterable[float]) -> str:
    """Return ``"512 x 512"``."""
    return " x ".join(f"{s:g}" for s in sides)
