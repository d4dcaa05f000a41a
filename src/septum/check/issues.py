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
class Kind:
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

KINDS: Mapping[str, Kind] = {
    # Which files belong together
    "unpaired-image": Kind("warning", "image", "without a mask", _LEFT_OUT),
    "unpaired-mask": Kind("warning", "mask", "without an image", _LEFT_OUT),
    "unreadable": Kind("warning", "file", "that cannot be read", _LEFT_OUT, leaves_out=True),
    "gold-unreadable": Kind("warning", "gold mask", "that cannot be read", "not scored with"),
    "second-annotator": Kind("mended", "mask", "of a second annotator", "the first one's are taken"),
    "field-of-view": Kind("mended", "mask", "of the field of view", "what lies outside is not annotated"),
    "field-unfit": Kind("warning", "mask", "of the field of view that cannot be used", _LEFT_OUT),
    "mask-folder": Kind("mended", "mask", "with a file for each object", "each file is one object"),
    "sizes-swapped": Kind("mended", "mask", "with width and height swapped", "transposed"),
    "sizes-differ": Kind(
        "error", "pair", "whose image and mask differ in size", "fix leaves them out", leaves_out=True
    ),
    "pages-differ": Kind(
        "error", "pair", "whose image and mask differ in the number of pages", "fix leaves them out", leaves_out=True
    ),
    "pages-channels": Kind(
        "mended", "image", "whose channels were taken for pages, told by the masks", "read as channels"
    ),
    "axes-swapped": Kind("mended", "mask", "with axes in another order", "put in the order of the image's"),
    "mask-turned": Kind("mended", "mask", "turned against the image", "turned back"),
    "mask-shifted": Kind("mended", "mask", "shifted against the image", "moved back; its new edge is not annotated"),
    "near-copy": Kind("warning", "image", "nearly equal to another one; copies are never on both sides of the split"),
    "sequence": Kind("warning", "", ""),
    "duplicate": Kind("warning", "pair", "equal to another one", _LEFT_OUT, leaves_out=True),
    "duplicate-conflict": Kind(
        "warning", "image", "equal to another one, but with a different mask; never on both sides of the split"
    ),
    "mask-astray": Kind("warning", "mask", "whose outlines do not follow the image as in the others: the right mask?"),
    "masks-astray": Kind("warning", "", ""),
    "masks-shifted": Kind("warning", "", ""),
    "one-image": Kind("warning", "", "only one image: none can be held out to validate with"),
    "gold-only": Kind(
        "warning",
        "frame",
        "with gold truth only, which may not name every object",
        "what it does not name is learned as background",
    ),
    "gold-partial": Kind(
        "warning",
        "frame",
        "whose gold truth names only some of its objects",
        "there only a thin margin of these is background, the rest is not annotated",
    ),
    # Masks
    "mask-no-labels": Kind("error", "mask", "whose values are no labels", "fix leaves them out", leaves_out=True),
    "mask-float": Kind("mended", "mask", "saved as real numbers", "read as whole numbers"),
    "mask-nan": Kind("mended", "mask", "with NaN", "not annotated there"),
    "mask-gray-rgb": Kind("mended", "mask", "saved as gray in color", "one channel is read"),
    "mask-colors": Kind("mended", "mask", "in color", "each color is one label"),
    "mask-smoothed": Kind(
        "mended",
        "mask",
        "with values in between along the borders (smoothed, resized, or JPEG)",
        "each pixel goes back to a main value",
    ),
    "mask-large-ids": Kind("mended", "mask", "with ids above 2^31", "numbered from 1"),
    "mask-binary": Kind("mended", "mask", "of one value among masks of ids", "each connected piece is one object"),
    "mask-empty": Kind("warning", "mask", "that holds background only"),
    "mask-unannotated": Kind("warning", "mask", "in which nothing is annotated", _LEFT_OUT, leaves_out=True),
    "object-apart": Kind("mended", "mask", "with one id on objects far apart", "each gets an id of its own"),
    "page-unannotated": Kind("warning", "mask", "with pages in which nothing is annotated", "these pages are left out"),
    "ignored": Kind("mended", "mask", "with values that --ignore names", "not annotated there"),
    "object-split": Kind("warning", "mask", "with objects in several pieces; each id counts as one object"),
    # What the values mean
    "class-values": Kind("mended", "", "", "numbered from 0"),
    "mask-mixed": Kind("mended", "", "some masks hold 0 and 1, others 0 and 255", "both are read as 0 and 1"),
    "ignore-255": Kind("mended", "", "255 beside classes numbered from 0", "read as not annotated"),
    "pieces": Kind("mended", "", "all objects have the same value", "each connected piece is one object"),
    "kind-guess": Kind("warning", "", ""),
    "kind-unclear": Kind("error", "", ""),
    "no-labels": Kind("error", "", ""),
    "too-many-classes": Kind("error", "", ""),
    # Images
    "image-constant": Kind("warning", "image", "with the same value everywhere", _LEFT_OUT, leaves_out=True),
    "image-tiny": Kind("warning", "image", "of fewer than 8 pixels along Y or X", _LEFT_OUT, leaves_out=True),
    "image-holes": Kind(
        "mended", "image", "with NaN or infinity", "NaN becomes the median, infinity the largest or smallest value"
    ),
    "intensity-outlier": Kind("warning", "image", "much dimmer than the others, with few gray values"),
    "intensity-unlike": Kind("warning", "image", "with intensities distributed unlike those of all others"),
    "size-outlier": Kind("warning", "image", "much smaller or larger than the others"),
    "object-size-outlier": Kind("warning", "mask", "with objects much smaller or larger than in the others"),
    "channel-constant": Kind("warning", "", ""),
    "channel-empty": Kind("warning", "image", "with the same value everywhere in a channel, unlike the others"),
    "channels-repeated": Kind("mended", "gray image", "among color images", "the gray channel is repeated"),
    "channels-spare": Kind("mended", "image", "with a constant alpha channel", "the alpha channel is dropped"),
    "channels-differ": Kind(
        "error",
        "image",
        "with another number of channels than most",
        "fix leaves them out",
        leaves_out=True,
    ),
    "ranks-differ": Kind("warning", "volume", "among flat images", "their sections are taken one by one"),
    "nothing-left": Kind("error", "", "no pair is left to train on"),
}


@dataclass(frozen=True)
class Finding:
    """Something found in the data.

    Attributes
    ----------
    code
        Key of `KINDS`.
    severity
        As in `Kind`.
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


def gather(remarks: Iterable[Remark]) -> tuple[Finding, ...]:
    """Make one finding of all remarks of a code: errors first, then warnings, then what is mended."""
    by_code: dict[str, list[Remark]] = {}
    for remark in remarks:
        by_code.setdefault(remark.code, []).append(remark)
    found = [_finding(code, same) for code, same in by_code.items()]
    return tuple(sorted(found, key=lambda f: ("error", "warning", "mended").index(f.severity)))


def _finding(code: str, remarks: list[Remark]) -> Finding:
    kind = KINDS[code]
    files = tuple(r.path for r in remarks if r.path is not None)
    text = next((r.text for r in remarks if r.text), kind.text)
    message = f"{counted(len(files), kind.noun)} {text}" if kind.noun else text
    details = tuple(r.detail for r in remarks if r.path is not None)
    return Finding(code, kind.severity, files, message, kind.mend, details)


def counted(number: int, noun: str) -> str:
    """Return ``"1 image"`` or ``"3 images"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def times(sides: Iterable[float]) -> str:
    """Return ``"512 x 512"``."""
    return " x ".join(f"{s:g}" for s in sides)
