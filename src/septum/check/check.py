"""Check a data set: find the pairs, read each file once, run every topic over them, decide how to read the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from septum.check import (
    alignment,
    comparisons,
    images,
    label_kind,
    masks,
    pair_files,
    smoothing,
    sparse_gold,
    split_ids,
)
from septum.check import background as background_topic
from septum.check.analyze import analyze_all, analyze_mask
from septum.check.issues import Issue, IssueKind, Observation, format_shape, gather
from septum.check.label_kind import LabelKind, Rules, infer_label_kind, with_binary_frames
from septum.check.reading import Files, open_files
from septum.check.statistics import PairStatistics
from septum.errors import DataError, UsageError
from septum.io.selection import EVERYTHING, SelectingSettings, Selection
from septum.kept import Memory
from septum.pairing.find import find_pairs
from septum.pairing.pair import Pairing
from septum.settings import MaskKind
from septum.threads import map_in_threads
from septum.words import pluralize

_TOPICS = (
    pair_files,
    images,
    masks,
    smoothing,
    label_kind,
    background_topic,
    alignment,
    split_ids,
    comparisons,
    sparse_gold,
)
_PAIR_TOPICS = (pair_files, images, alignment, masks, smoothing)

ISSUE_KINDS: Mapping[str, IssueKind] = {kind.code: kind for topic in _TOPICS for kind in topic.KINDS}
"""All kinds of issues by their codes, each declared by its topic file."""

_LAYOUTS = {
    "folders": "two folders",
    "stacks": "an image and its mask",
    "ctc": "Cell Tracking Challenge",
    "files": "files side by side",
    "objects": "a folder for each image, a mask file for each object",
    "drawn": "images and drawn objects",
}


@dataclass(frozen=True)
class Report:
    """Result of a check.

    Attributes
    ----------
    pairing
        The files.
    label_kind
        Meaning of the mask values, with the reason.
    rules
        How to read the data.
    issues
        Errors first, then warnings, then repairs.
    pairs
        Pairs to train on, with their statistics.
    left_out
        Pairs not to train on.
    fixable
        Those of `left_out` that the copy of `septum.check.repair.fix` repairs.
    files
        Reader of the files, which keeps arrays for those who need them after the check.
    """

    pairing: Pairing
    label_kind: LabelKind
    rules: Rules
    issues: tuple[Issue, ...]
    pairs: tuple[PairStatistics, ...]
    left_out: tuple[PairStatistics, ...]
    fixable: tuple[PairStatistics, ...]
    files: Files = field(repr=False, compare=False)

    @property
    def errors(self) -> tuple[Issue, ...]:
        """Issues for which training is refused."""
        return tuple(issue for issue in self.issues if issue.severity == "error")

    @property
    def warnings(self) -> tuple[Issue, ...]:
        """Issues to look at."""
        return tuple(issue for issue in self.issues if issue.severity == "warning")

    @property
    def mended(self) -> tuple[Issue, ...]:
        """Issues that are mended in memory."""
        return tuple(issue for issue in self.issues if issue.severity == "mended")

    def refuse_errors(self) -> None:
        """Raise `DataError` if there is an error; files that cannot be used are named as well."""
        if not self.errors:
            return
        errors = [i for i in self.issues if i.severity == "error" or i.kind in _UNUSABLE]
        can_fix = bool(self.pairs or self.fixable) and all(i.kind.leaves_out or i.kind.fix for i in self.errors)
        todo = "repair these files, or make a copy without them: septum check DATA --fix OUT"
        raise DataError(
            "\n".join(issue.line() for issue in errors),
            "images and masks that fit together",
            todo if can_fix else "correct what is named here; `septum check DATA` shows all findings",
        )

    def lines(self) -> list[str]:
        """Return the report in plain words, one sentence a line."""
        lines = [_pairs_line(self)]
        if self.pairs:
            lines += [_images_line(self.pairs, self.files), f"masks hold {self.label_kind.reason}"]
        lines += [f"{issue.severity}: {issue.line()}" for issue in self.issues]
        return lines if self.issues else [*lines, "nothing is wrong"]

    def as_dict(self) -> dict[str, object]:
        """Return the whole report, ready for JSON."""
        return {
            "layout": self.pairing.layout,
            "pairs": len(self.pairs) + len(self.left_out),
            "used": len(self.pairs),
            "masks": self.label_kind.reason,
            "rules": asdict(self.rules) if self.pairs else None,
            "issues": [issue.as_dict() for issue in self.issues],
            "images": [_statistics(pair) for pair in self.pairs],
            "left_out": [pair.name for pair in self.left_out],
        }


class DataSettings(SelectingSettings, Protocol):
    """Settings that name a data set and how to read it; `check` documents them."""

    @property
    def data(self) -> tuple[Path, ...]:
        """Images and masks."""

    @property
    def kind(self) -> MaskKind | None:
        """Meaning of the mask values."""

    @property
    def ignore_values(self) -> tuple[int, ...]:
        """Mask values that mean not annotated."""

    @property
    def background(self) -> int | None:
        """Mask value of the background."""

    @property
    def axes(self) -> str | None:
        """Axes of the image files."""


def check_data(settings: DataSettings, memory: Memory | None = None) -> Report:
    """Check the data set that settings name, within a memory; see `check`."""
    return check(
        settings.data,
        kind=settings.kind,
        ignore=settings.ignore_values,
        background=settings.background,
        axes=settings.axes,
        selection=Selection.asked(settings),
        memory=memory,
    )


_UNUSABLE = (pair_files.UNREADABLE, pair_files.NOT_FETCHED, smoothing.MASK_JPEG)


def check(
    data: Sequence[Path],
    *,
    kind: MaskKind | None = None,
    ignore: Sequence[int] = (),
    background: int | None = None,
    axes: str | None = None,
    selection: Selection = EVERYTHING,
    memory: Memory | None = None,
) -> Report:
    """Check a data set: find the pairs, read each file once, detect the issues of all topics.

    Parameters
    ----------
    data
        As for `septum.pairing.find.find_pairs`.
    kind
        ``"objects"`` or ``"classes"`` if known; otherwise inferred from the values of all masks, see
        `septum.check.label_kind.infer_label_kind`.
    ignore
        Mask values that mean not annotated, beside those that are inferred. With 0 among them there is no background,
        so the values are classes, unless `background` names another value.
    background
        Value of the background in the masks; None: 0, or another value where the masks leave no doubt.
    axes
        Axes of files that do not state them right; those of masks without C if a mask has one dimension fewer.
    selection
        Channels of the images, and the level of slides and other pyramids, to read.
    memory
        Memory for the arrays of the check, and of the samples that are made after it.

    Raises
    ------
    UsageError, DataError
        If there is nothing to check, if no mask holds a value of `ignore` or `background`, or if `axes` do not fit.
    """
    pairing = find_pairs([Path(d) for d in data])
    kind = _kind_without_background(ignore, kind) if background is None else kind
    files = open_files(pairing, kind, ignore, memory or Memory(), axes=axes, selection=selection, background=background)
    analyzed, first = _interpreted(pairing, analyze_all(pairing.pairs, files), kind, files)
    pairs = [pair_files.with_usable_field(pair, files) for pair in analyzed]
    masks.require_values(ignore, background, pairs)
    seen = _detect_in_pairs(pairing, pairs)
    used, observations = comparisons.detect_duplicates(_without_left_out(dict(enumerate(pairs)), seen), files)
    seen += observations
    used = _without_left_out(used, seen)
    number = images.common_channels(list(used.values()))
    for index, pair in used.items():
        seen += [replace(observation, pair=index) for observation in images.detect_channels(pair, number)]
    used = _without_left_out(used, seen)
    inferred = _infer(pairing, list(used.values()), kind)
    inferred = replace(inferred, background=first.background, ignore=inferred.ignore or first.ignore)
    used = with_binary_frames(used, inferred)
    used, observations = _detect_in_set(pairing, used, inferred, files)
    seen += observations
    later = {o.pair for o in seen if o.kind.leaves_out}
    trained = tuple(pair for index, pair in used.items() if index not in later)
    fixable = tuple(pair for index, pair in used.items() if index in later)
    seen += pair_files.detect_classes(pairing, pairs, files.classes)
    seen += pair_files.detect_none_left(len(trained), len(fixable))
    files.release_all_but({path for pair in used.values() for path in pair.files})
    issues = gather(seen)
    left_out = tuple(used.get(index, pair) for index, pair in enumerate(pairs) if index not in used or index in later)
    rules = _rules(inferred, list(used.values()), channels=number, issues=issues, files=files)
    return Report(pairing, inferred, rules, issues, trained, left_out, fixable, files)


def _detect_in_pairs(pairing: Pairing, pairs: Sequence[PairStatistics]) -> list[Observation]:
    """Detect issues of the files and of each pair alone."""
    seen = list(pair_files.detect(pairing, pairs))
    for index, pair in enumerate(pairs):
        for topic in _PAIR_TOPICS:
            seen += [replace(observation, pair=index) for observation in topic.detect_in_pair(pair)]
    return seen


def _detect_in_set(
    pairing: Pairing, used: dict[int, PairStatistics], inferred: LabelKind, files: Files
) -> tuple[dict[int, PairStatistics], list[Observation]]:
    """Detect issues that show only when the pairs are compared with one another."""
    seen: list[Observation] = []
    objects = inferred.kind == "objects"
    if not used:
        return used, seen
    if pairing.layout == "ctc" and objects:
        used, seen = sparse_gold.detect(used)
    pairs = list(used.values())
    seen += label_kind.detect(inferred, [c for pair in pairs for c in pair.census], pairs)
    seen += background_topic.detect(pairs, objects=objects, pieces=inferred.pieces, named=files.background)
    if objects and not inferred.pieces:
        seen += split_ids.detect(pairs)
    seen += images.detect(pairs)
    if objects:
        seen += images.detect_volumes(pairs)
    seen += comparisons.detect_outliers(pairs, objects=objects and not inferred.pieces)
    used, observations = alignment.detect(used)
    return used, [*seen, *observations]


def _interpreted(
    pairing: Pairing, pairs: list[PairStatistics], kind: MaskKind | None, files: Files
) -> tuple[list[PairStatistics], LabelKind]:
    """Return the pairs with masks of ids read with their background and without rims, and the kind that shows both."""
    inferred = _infer(pairing, pairs, kind)
    background = inferred.background if files.background is None else 0
    if inferred.kind != "objects" or not (background or inferred.ignore):
        return pairs, replace(inferred, background=0, ignore=())
    files.interpret(background=background, rims=inferred.ignore)
    return map_in_threads(lambda pair: analyze_mask(pair, files), pairs), replace(inferred, background=background)


def _infer(pairing: Pairing, pairs: Sequence[PairStatistics], kind: MaskKind | None) -> LabelKind:
    census = [c for pair in pairs for c in pair.census]
    sources = len({pair.group or f"/{pair.name}" for pair in pairs})
    return infer_label_kind(census, objects=pairing.objects, kind=kind, sources=sources)


def _without_left_out(pairs: Mapping[int, PairStatistics], seen: Sequence[Observation]) -> dict[int, PairStatistics]:
    """Return the pairs, by index, that neither training nor the copy leaves out."""
    left_out = {o.pair for o in seen if o.kind.leaves_out and not o.kind.fix}
    return {index: pair for index, pair in pairs.items() if index not in left_out}


def _kind_without_background(ignore: Sequence[int], kind: MaskKind | None) -> MaskKind | None:
    """Return the kind of masks; without 0 they have no background, so that only classes can be distinguished."""
    if 0 not in ignore:
        return kind
    if kind == "objects":
        raise UsageError(
            "--ignore-value 0 with --kind objects",
            "some background to distinguish objects from",
            "name the value of the background with --background, or use --kind classes",
        )
    return "classes"


def _rules(
    inferred: LabelKind,
    pairs: Sequence[PairStatistics],
    *,
    channels: int,
    issues: Sequence[Issue],
    files: Files,
) -> Rules:
    rank = images.common_rank(pairs)
    sizes = [p.image_stats.spacing_um[-rank:] for p in pairs if p.image_stats and p.image_stats.spacing_um]
    size = np.median(np.asarray(sizes), axis=0) if sizes else np.empty(0)
    colors = any(v >= masks.COLOR for v in inferred.values)
    classes = tuple(range(len(inferred.values))) if colors else inferred.values
    codes = tuple(issue.code for issue in issues if issue.severity == "mended")
    return Rules(
        kind=inferred.kind,
        class_values=classes if inferred.kind == "classes" else (0, 1),
        mask_values=inferred.values,
        ignore=(*files.ignore, *(value for value in inferred.ignore if value not in files.ignore)),
        pieces=inferred.pieces,
        mixed=inferred.mixed,
        channels=channels,
        rank=rank,
        gray_as_color=channels > 1
        and any(p.image_stats and (p.image_stats.channels == 1 or p.image_stats.gray) for p in pairs),
        pixel_size_um={a: float(s) for a, s in zip("ZYX"[-rank:], size, strict=False)},
        mends=codes,
        read_axes=files.axes or next((pair.named_axes for pair in pairs if pair.named_axes), ""),
        class_names=tuple(files.names.get(v, str(v)) for v in inferred.values) if files.names else (),
        selection=files.selection,
    )


def _pairs_line(report: Report) -> str:
    left = f", {len(report.left_out)} left out" if report.left_out else ""
    return f"{pluralize(len(report.pairs), 'pair')}{left} ({_LAYOUTS[report.pairing.layout]})"


def _images_line(pairs: Sequence[PairStatistics], files: Files) -> str:
    stats = [pair.image_stats for pair in pairs if pair.image_stats]
    sides = sorted({s.sides for s in stats}, key=lambda s: (int(np.prod(s)), s))
    size = format_shape(sides[0]) if len(sides) == 1 else f"{format_shape(sides[0])} to {format_shape(sides[-1])}"
    channels = sorted({s.channels for s in stats})
    frames = sum(s.frames for s in stats)
    types = ", ".join(sorted({s.dtype for s in stats}))
    pages = f", {frames} pages in all" if frames > len(stats) else ""
    if pages and files.axes is None and all(s.axes == "TCYX" and not s.stated for s in stats):
        pages += ", each read as an image of its own; if they are sections of volumes: --axes ZYX"
    numbers = " or ".join(map(str, channels))
    turned = sum(s.orientation != 1 for s in stats)
    tags = f", {turned} turned upright by {'its' if turned == 1 else 'their'} orientation tag" if turned else ""
    level = f", read with {files.selection.of_level}" if files.selection.of_level else ""
    numbers += " channel" if channels == [1] else " channels"
    return f"images: {size} pixels, {numbers}, {types}{pages}{tags}{level}"


def _statistics(pair: PairStatistics) -> dict[str, object]:
    """Return the statistics of one pair for JSON; ids are counted, not listed."""
    image = asdict(pair.image_stats) if pair.image_stats else {}
    for key in ("digest", "curve", "thumbnail"):
        image.pop(key, None)
    census = [
        {k: v for k, v in asdict(c).items() if k not in ("values", "counts", "traits")} | {"values": len(c.values)}
        for c in pair.census
    ]
    return {"name": pair.name, "group": pair.group, "position": pair.position, "image": image, "mask": census}
