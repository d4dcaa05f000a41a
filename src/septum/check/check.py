"""Find out what is wrong with a data set, what it means, and what can be mended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from septum.check.alignment import fit
from septum.check.analyze import items_of, survey, with_channels
from septum.check.duplicates import copies, unlike_remarks
from septum.check.field_of_view import with_field
from septum.check.issues import KINDS, Issue, format_shape, gather, pluralize
from septum.check.judge import (
    channel_remarks,
    common_channels,
    common_rank,
    item_remarks,
    meaning_remarks,
    pairing_remarks,
    set_remarks,
    with_binary,
    without,
)
from septum.check.label_kind import Kind, Meaning, infer_label_kind
from septum.check.masks import COLOR
from septum.check.sparse_gold import partly_named
from septum.check.statistics import PairStatistics
from septum.errors import DataError, UsageError

if TYPE_CHECKING:
    from septum.pairing.find import Pairing

_VALUES = 8  # values of masks named in an error


@dataclass(frozen=True)
class Rules:
    """What the masks and images of a data set mean, decided once from all of them.

    Attributes
    ----------
    kind
        ``"objects"``: masks hold ids, 0 background. ``"classes"``.
    class_values
        Value of class k where labels are written; k = 0 is background (or the lowest). ``(0, 1)`` for objects; for
        masks in color the numbers of the classes.
    mask_values
        Value of class k in the masks as `septum.check.masks.read_labels` gives them; empty for objects.
    ignore
        Mask values that mean not annotated, beside -1: what was asked for and what was found.
    pieces
        All objects have one value: each connected piece becomes an object.
    mixed
        Masks of classes hold two values, 0 and any other, which is not the same everywhere.
    channels, rank
        Of all samples; rank 2 (images) or 3 (volumes).
    gray_as_color
        Gray images among color ones: their channel is repeated.
    pixel_size_um
        Median pixel size per axis, in micrometers; empty if unknown.
    mends
        Codes of all findings that are mended.
    """

    kind: Literal["objects", "classes"]
    class_values: tuple[int, ...]
    mask_values: tuple[int, ...]
    ignore: tuple[int, ...]
    pieces: bool
    mixed: bool
    channels: int
    rank: int
    gray_as_color: bool
    pixel_size_um: dict[str, float]
    mends: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes
    ----------
    pairing
        The files.
    meaning
        What the mask values mean, with the reason.
    rules
        How to read the data; None if no pair is left.
    findings
        Errors first, then warnings, then what is mended.
    items
        Pairs to be used, with their figures.
    left_out
        Pairs not to be used.
    """

    pairing: Pairing
    meaning: Meaning
    rules: Rules
    findings: tuple[Issue, ...]
    items: tuple[PairStatistics, ...]
    left_out: tuple[PairStatistics, ...]

    @property
    def errors(self) -> tuple[Issue, ...]:
        """Findings for which training is refused."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Issue, ...]:
        """Findings a person should look at."""
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def mended(self) -> tuple[Issue, ...]:
        """Findings that are mended in memory."""
        return tuple(f for f in self.findings if f.severity == "mended")

    def refuse_errors(self) -> None:
        """Raise `DataError` if there is an error; what could not be read is named as well."""
        if not self.errors:
            return
        told = [f for f in self.findings if f.severity == "error" or f.code == "unreadable"]
        can_fix = bool(self.items) and all(KINDS[f.code].leaves_out for f in self.errors)
        todo = "mend these files, or make a copy without them: septum check DATA --fix OUT"
        raise DataError(
            "\n".join(f.line() for f in told),
            "images and masks that fit together",
            todo if can_fix else "see what `septum check` says of the data",
        )

    def lines(self) -> list[str]:
        """Return the report in plain words, one sentence a line."""
        lines = [_pairs_line(self)]
        if self.items:
            lines += [_images_line(self.items), f"masks hold {self.meaning.reason}"]
        words = {"error": "error", "warning": "warning", "mended": "mended"}
        lines += [f"{words[f.severity]}: {f.line()}" for f in self.findings]
        return lines if self.findings else [*lines, "nothing is wrong"]

    def as_dict(self) -> dict[str, object]:
        """Return the whole report, ready for JSON."""
        return {
            "layout": self.pairing.layout,
            "pairs": len(self.items) + len(self.left_out),
            "used": len(self.items),
            "masks": self.meaning.reason,
            "rules": asdict(self.rules) if self.items else None,
            "findings": [f.as_dict() for f in self.findings],
            "images": [_figures(item) for item in self.items],
            "left_out": [item.name for item in self.left_out],
        }


def check(data: Sequence[Path], *, kind: Kind | None = None, ignore: Sequence[int] = ()) -> Report:
    """Check a data set: find the pairs, open each file once, judge all of it.

    One file is held in memory at a time.

    Parameters
    ----------
    data
        As for `septum.pairing.find.find_pairs`.
    kind
        ``"objects"`` or ``"classes"`` if known; otherwise read from the values of all masks
        (`septum.check.label_kind.infer_label_kind` says how).
    ignore
        Values that mean not annotated, beside those that say so themselves. Where 0 is among them there is no
        background, so the values are classes.

    Raises
    ------
    UsageError, DataError
        If nothing is there to be checked: a missing or empty folder, no pairs; or no mask holds a value of `ignore`.
        All else is a finding.
    """
    from septum.pairing.find import find_pairs

    pairing = find_pairs([Path(d) for d in data])
    kind = _kind_without(ignore, kind)
    items = with_channels([survey(item, ignore=ignore) for item in items_of(pairing.pairs)], ignore=ignore)
    items = [with_field(item) for item in items]
    _see_ignored(ignore, items)
    remarks = list(pairing_remarks(pairing, items))
    for index, item in enumerate(items):
        remarks += item_remarks(index, item)
    used = without(items, remarks)
    marked, found = copies(used)
    remarks += found
    used = {index: marked[index] for index in without(items, remarks)}
    channels = common_channels(list(used.values()))
    for index, item in used.items():
        remarks += channel_remarks(index, item, channels)
    used = {index: used[index] for index in without(items, remarks)}
    masks = [census for item in used.values() if item.mask_facts for census in item.mask_facts.census]
    things = len({item.group or f"/{item.name}" for item in used.values()})
    meaning = infer_label_kind(masks, objects=pairing.objects, kind=kind, things=things)
    used = {index: with_binary(item, meaning) for index, item in used.items()}
    if pairing.layout == "ctc" and meaning.kind == "objects":
        used, found = partly_named(used)
        remarks += found
    remarks += meaning_remarks(meaning, masks, list(used.values()))
    remarks += set_remarks(list(used.values()))
    remarks += unlike_remarks(list(used.values()), objects=meaning.kind == "objects" and not meaning.pieces)
    used, found = fit(used)
    remarks += found
    findings = gather(remarks)
    return Report(
        pairing=pairing,
        meaning=meaning,
        rules=_rules(meaning, list(used.values()), channels, findings, tuple(ignore)),
        findings=findings,
        items=tuple(used.values()),
        left_out=tuple(item for index, item in enumerate(items) if index not in used),
    )


def _kind_without(ignore: Sequence[int], kind: Kind | None) -> Kind | None:
    """Return what masks hold; without 0 they hold no background, so that only classes can be told apart."""
    if 0 not in ignore:
        return kind
    if kind == "objects":
        raise UsageError(
            "--ignore 0 with --kind objects",
            "some background to tell objects from",
            "give the background a value of its own (1, say) and the objects another, and use --kind classes",
        )
    return "classes"


def _see_ignored(ignore: Sequence[int], items: Sequence[PairStatistics]) -> None:
    """Raise `UsageError` if a value is in no mask: it is a slip, and would go unnoticed."""
    facts = [item.mask_facts for item in items if item.mask_facts]
    met = {value for fact in facts for value in fact.ignored}
    for value in ignore:
        if facts and value not in met:
            held = sorted({v for fact in facts for c in fact.census for v in c.values})
            some = ", ".join(map(str, held[:_VALUES])) + (" ..." if len(held) > _VALUES else "")
            raise UsageError(f"--ignore {value}: no mask holds it", f"a value of the masks, such as {some}")


def _rules(
    meaning: Meaning, items: Sequence[PairStatistics], channels: int, findings: Sequence[Issue], ignore: tuple[int, ...]
) -> Rules:
    rank = common_rank(items)
    sizes = [i.image_facts.spacing_um[-rank:] for i in items if i.image_facts and i.image_facts.spacing_um]
    size = np.median(np.asarray(sizes), axis=0) if sizes else np.empty(0)
    colors = any(v >= COLOR for v in meaning.values)
    classes = tuple(range(len(meaning.values))) if colors else meaning.values
    codes = tuple(f.code for f in findings if f.severity == "mended")
    return Rules(
        kind=meaning.kind,
        class_values=classes if meaning.kind == "classes" else (0, 1),
        mask_values=meaning.values,
        ignore=(*ignore, *(value for value in meaning.ignore if value not in ignore)),
        pieces=meaning.pieces,
        mixed=meaning.mixed,
        channels=channels,
        rank=rank,
        gray_as_color="channels-repeated" in codes,
        pixel_size_um={a: float(s) for a, s in zip("ZYX"[-rank:], size, strict=False)},
        mends=codes,
    )


def _pairs_line(report: Report) -> str:
    left = f", {len(report.left_out)} left out" if report.left_out else ""
    layouts = {
        "folders": "two folders",
        "stacks": "an image and its mask",
        "ctc": "Cell Tracking Challenge",
        "files": "files side by side",
        "objects": "a folder for each image, a mask file for each object",
    }
    return f"{pluralize(len(report.items), 'pair')}{left} ({layouts[report.pairing.layout]})"


def _images_line(items: Sequence[PairStatistics]) -> str:
    facts = [i.image_facts for i in items if i.image_facts]
    sides = sorted({f.sides for f in facts}, key=lambda s: (int(np.prod(s)), s))
    size = format_shape(sides[0]) if len(sides) == 1 else f"{format_shape(sides[0])} to {format_shape(sides[-1])}"
    channels = sorted({f.channels for f in facts})
    frames = sum(f.frames for f in facts)
    types = ", ".join(sorted({f.dtype for f in facts}))
    pages = f", {frames} pages in all" if frames > len(facts) else ""
    some = " or ".join(map(str, channels))
    return f"images: {size} pixels, {some} {'channel' if channels == [1] else 'channels'}, {types}{pages}"


def _figures(item: PairStatistics) -> dict[str, object]:
    """Return the figures of one pair for JSON; ids are counted, not listed."""
    census = item.mask_facts.census if item.mask_facts else ()
    image = asdict(item.image_facts) if item.image_facts else {}
    for key in ("digest", "curve", "thumbnail"):
        image.pop(key, None)
    masks = [
        {k: v for k, v in asdict(c).items() if k not in ("values", "counts", "traits")} | {"values": len(c.values)}
        for c in census
    ]
    return {"name": item.name, "group": item.group, "position": item.position, "image": image, "mask": masks}
