"""Find out what is wrong with a data set, what it means, and what can be mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from septum.arrays.mend import COLOR, fits_channels
from septum.errors import DataError
from septum.jobs.findings import KINDS, Finding, Remark, counted, gather, times
from septum.jobs.kind import Kind, Meaning, decide
from septum.jobs.survey import Item, items_of, survey

if TYPE_CHECKING:
    from septum.arrays.census import Census
    from septum.io.pairs import Pairing

_TINY = 8  # pixels
_MOST_CLASSES = 254  # a target is uint8, and 255 is ignored


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
        Value of class k in the masks as `septum.arrays.mend.read_labels` gives them; empty for objects.
    ignore
        Mask values that mean not annotated, beside -1.
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
    findings: tuple[Finding, ...]
    items: tuple[Item, ...]
    left_out: tuple[Item, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings for which training is refused."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings a person should look at."""
        return tuple(f for f in self.findings if f.severity == "warning")

    @property
    def mended(self) -> tuple[Finding, ...]:
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


def check(data: Sequence[Path], *, kind: Kind | None = None) -> Report:
    """Check a data set: find the pairs, open each file once, judge all of it.

    One file is held in memory at a time.

    Parameters
    ----------
    data
        As for `septum.io.pairs.find_pairs`.
    kind
        ``"objects"`` or ``"classes"`` if known; otherwise read from the values of all masks
        (`septum.jobs.kind.decide` says how).

    Raises
    ------
    UsageError, DataError
        If nothing is there to be checked: a missing or empty folder, no pairs. All else is a finding.
    """
    from septum.io.pairs import find_pairs

    pairing = find_pairs([Path(d) for d in data])
    items = [survey(item) for item in items_of(pairing.pairs)]
    remarks = list(_pairing_remarks(pairing, items))
    for index, item in enumerate(items):
        remarks += _item_remarks(index, item)
    used = _without(items, remarks)
    remarks += _duplicates(used)
    used = _without(items, remarks)
    channels = _common_channels(list(used.values()))
    for index, item in used.items():
        remarks += _channel_remarks(index, item, channels)
    used = _without(items, remarks)
    masks = [census for item in used.values() if item.mask_facts for census in item.mask_facts.census]
    meaning = decide(masks, objects=pairing.objects, kind=kind)
    remarks += _meaning_remarks(meaning, masks, list(used.values()))
    remarks += _set_remarks(list(used.values()))
    findings = gather(remarks)
    return Report(
        pairing=pairing,
        meaning=meaning,
        rules=_rules(meaning, list(used.values()), channels, findings),
        findings=findings,
        items=tuple(used.values()),
        left_out=tuple(item for index, item in enumerate(items) if index not in used),
    )


def _without(items: Sequence[Item], remarks: Sequence[Remark]) -> dict[int, Item]:
    out = {r.item for r in remarks if KINDS[r.code].leaves_out}
    return {index: item for index, item in enumerate(items) if index not in out}


def _pairing_remarks(pairing: Pairing, items: Sequence[Item]) -> Iterator[Remark]:
    unannotated = [p.image for p in pairing.pairs if p.mask is None and p.gold is None]
    for path in (*pairing.unmatched_images, *unannotated):
        yield Remark("unpaired-image", path)
    for path in pairing.unmatched_masks:
        yield Remark("unpaired-mask", path)
    if pairing.layout == "ctc":
        for index, item in enumerate(items):
            if item.masks == item.golds:
                yield Remark("gold-only", item.mask, item=index)


def _item_remarks(index: int, item: Item) -> Iterator[Remark]:
    """Judge one pair by itself."""
    for path, reason in item.unreadable:
        vital = path in (item.image, item.mask)
        yield Remark("unreadable" if vital else "gold-unreadable", path, _short(reason, path), item=index)
    image, mask = item.image_facts, item.mask_facts
    if image is None or mask is None:
        return
    if mask.problem:
        yield Remark("mask-no-labels", item.mask, mask.problem, item=index)
    if image.constant:
        yield Remark("image-constant", item.image, f"{image.low:g}", item=index)
    elif image.holes:
        yield Remark("image-holes", item.image, f"{image.holes} values", item=index)
    if min(image.sides[-2:]) < _TINY:
        yield Remark("image-tiny", item.image, times(image.sides), item=index)
    section = item.masks[0][1] is not None
    if not section and image.frames != mask.frames:
        yield Remark("pages-differ", item.image, f"image {image.frames}, mask {mask.frames}", item=index)
    elif item.swapped:
        yield Remark("sizes-swapped", item.mask, f"{times(mask.sides)} for {times(image.sides)}", item=index)
    elif image.sides[1:] != mask.sides if section else image.sides != mask.sides:
        yield Remark("sizes-differ", item.image, f"image {times(image.sides)}, mask {times(mask.sides)}", item=index)
    for code in mask.mends:
        yield Remark(code, item.mask, item=index)
    yield from _census_remarks(index, item, mask.census)


def _census_remarks(index: int, item: Item, frames: Sequence[Census]) -> Iterator[Remark]:
    if frames and all(not c.values and not c.background for c in frames):
        yield Remark("mask-unannotated", item.mask, item=index)
        return
    empty = [number for number, c in enumerate(frames) if not c.values]
    if empty:
        pages = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
        yield Remark("mask-empty", item.mask, f"page {pages}" if len(frames) > 1 else "", item=index)


def _short(reason: str, path: Path) -> str:
    """Take the name of the file, which is said already, from the reason."""
    first = reason.splitlines()[0]
    return first.split(": ", 1)[1] if first.startswith(str(path)) and ": " in first else first


def _duplicates(used: dict[int, Item]) -> Iterator[Remark]:
    seen: dict[str, Item] = {}
    for index, item in used.items():
        if item.image_facts is None or item.mask_facts is None:
            continue
        first = seen.setdefault(item.image_facts.digest, item)
        if first is item:
            continue
        same = first.mask_facts is not None and first.mask_facts.digest == item.mask_facts.digest
        yield Remark("duplicate" if same else "duplicate-conflict", item.image, f"= {first.image.name}", item=index)


def _common_channels(items: Sequence[Item]) -> int:
    """Return the number of channels that all samples get: that of most images which are not gray."""
    given = [i.image_facts.channels - i.image_facts.spare for i in items if i.image_facts]
    several = Counter(c for c in given if c > 1)
    return several.most_common(1)[0][0] if several else 1


def _channel_remarks(index: int, item: Item, channels: int) -> Iterator[Remark]:
    if item.image_facts is None or item.image_facts.channels == channels:
        return
    given, spare = item.image_facts.channels, item.image_facts.spare
    if not fits_channels(given, channels, spare=spare):
        yield Remark("channels-differ", item.image, f"{given} instead of {channels}", item=index)
    elif given < channels:
        yield Remark("channels-repeated", item.image, item=index)
    else:
        yield Remark("channels-spare", item.image, item=index)


def _meaning_remarks(meaning: Meaning, masks: Sequence[Census], items: Sequence[Item]) -> Iterator[Remark]:
    """Say what the values mean where a person would want to know."""
    if not items:
        yield Remark("nothing-left")
        return
    values = {v for m in masks for v in m.values} | ({0} if any(m.background for m in masks) else set())
    if not values - {0}:
        yield Remark("no-labels", text="every mask is empty: there is nothing to learn")
        return
    if meaning.unclear:
        yield Remark("kind-unclear", text=f"masks hold {meaning.unclear}; --kind objects or --kind classes says which")
    elif meaning.guess:
        other = "classes" if meaning.kind == "objects" else "objects"
        yield Remark(
            "kind-guess", text=f"masks are read as {meaning.reason}, but this is a guess; if not: --kind {other}"
        )
    if meaning.kind == "objects":
        if meaning.pieces:
            yield Remark("pieces")
        else:
            yield from _split_remarks(items)
    elif len(meaning.values) < 2:
        yield Remark("no-labels", text=f"every mask holds {meaning.values[0]} only: there is nothing to tell apart")
    elif len(meaning.values) > _MOST_CLASSES:
        yield Remark("too-many-classes", text=f"{len(meaning.values)} classes, but {_MOST_CLASSES} are the most")
    elif meaning.mixed:
        yield Remark("mask-mixed")
    elif meaning.values != tuple(range(len(meaning.values))) and meaning.values[-1] < COLOR:
        shown = ", ".join(map(str, meaning.values[:8])) + (" ..." if len(meaning.values) > 8 else "")
        yield Remark("class-values", text=f"classes have the values {shown}")
    if meaning.ignore:
        yield Remark("ignore-255")


def _split_remarks(items: Sequence[Item]) -> Iterator[Remark]:
    for item in items:
        census = item.mask_facts.census if item.mask_facts else ()
        if split := sum(c.split for c in census):
            yield Remark("object-split", item.mask, f"{split} of {sum(len(c.values) for c in census)}")


def _set_remarks(items: Sequence[Item]) -> Iterator[Remark]:
    """Compare the images with one another."""
    facts = [(item.image, item.image_facts) for item in items if item.image_facts]
    if len(facts) == 1 and facts[0][1].frames == 1 and len(facts[0][1].sides) == 2:
        yield Remark("one-image")
    if _rank(items) == 2:
        flat = any(len(f.sides) == 2 for _, f in facts)
        for path, f in facts:
            if len(f.sides) == 3 and flat:
                yield Remark("ranks-differ", path, times(f.sides))
    ranges = np.log10([max(f.percentiles[2] - f.percentiles[0], 1e-12) for _, f in facts])
    if len(facts) >= 8:
        middle = np.median(ranges)
        usual = max(3.5 * 1.4826 * float(np.median(np.abs(ranges - middle))), np.log10(8))
        for (path, _), value in zip(facts, ranges, strict=True):
            if abs(value - middle) > usual:
                factor = 10 ** abs(value - middle)
                yield Remark(
                    "intensity-outlier", path, f"contrast {'x' if value > middle else '1/'}{factor:.2g} of the median"
                )


def _rank(items: Sequence[Item]) -> int:
    return 3 if items and all(i.image_facts and len(i.image_facts.sides) == 3 for i in items) else 2


def _rules(meaning: Meaning, items: Sequence[Item], channels: int, findings: Sequence[Finding]) -> Rules:
    rank = _rank(items)
    sizes = [i.image_facts.spacing_um[-rank:] for i in items if i.image_facts and i.image_facts.spacing_um]
    size = np.median(np.asarray(sizes), axis=0) if sizes else np.empty(0)
    colors = any(v >= COLOR for v in meaning.values)
    classes = tuple(range(len(meaning.values))) if colors else meaning.values
    codes = tuple(f.code for f in findings if f.severity == "mended")
    return Rules(
        kind=meaning.kind,
        class_values=classes if meaning.kind == "classes" else (0, 1),
        mask_values=meaning.values,
        ignore=meaning.ignore,
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
    }
    return f"{counted(len(report.items), 'pair')}{left} ({layouts[report.pairing.layout]})"


def _images_line(items: Sequence[Item]) -> str:
    facts = [i.image_facts for i in items if i.image_facts]
    sides = sorted({f.sides for f in facts}, key=lambda s: (int(np.prod(s)), s))
    size = times(sides[0]) if len(sides) == 1 else f"{times(sides[0])} to {times(sides[-1])}"
    channels = sorted({f.channels for f in facts})
    frames = sum(f.frames for f in facts)
    types = ", ".join(sorted({f.dtype for f in facts}))
    pages = f", {frames} pages in all" if frames > len(facts) else ""
    some = " or ".join(map(str, channels))
    return f"images: {size} pixels, {some} {'channel' if channels == [1] else 'channels'}, {types}{pages}"


def _figures(item: Item) -> dict[str, object]:
    """Return the figures of one pair for JSON; ids are counted, not listed."""
    census = item.mask_facts.census if item.mask_facts else ()
    image = asdict(item.image_facts) if item.image_facts else {}
    image.pop("digest", None)
    masks = [
        {k: v for k, v in asdict(c).items() if k not in ("values", "counts", "traits")} | {"values": len(c.values)}
        for c in census
    ]
    return {"name": item.name, "group": item.group, "position": item.position, "image": image, "mask": masks}
