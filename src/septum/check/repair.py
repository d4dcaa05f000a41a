"""Write a repaired copy of a data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.check.check import Report
from septum.check.images import fill_holes, match_channels
from septum.check.pair_files import mark_outside
from septum.check.reading import image_frames, is_lossy
from septum.check.samples import mask_of_file
from septum.check.split_ids import separate_split_ids
from septum.check.statistics import PairStatistics
from septum.errors import DataError, FileError, UsageError
from septum.io.annotations.formats import is_drawn
from septum.io.tiff import stated_kind
from septum.pairing.ctc import markers


@dataclass(frozen=True)
class RepairedFile:
    """Repair of one file.

    Attributes
    ----------
    source
        The file of the data set.
    written
        The file of the copy; None if it was left out.
    done
        The repairs, or why the file was left out, as phrases; empty if the copy is the same byte for byte.
    """

    source: Path
    written: Path | None
    done: tuple[str, ...]


def fix(report: Report, out: Path) -> Iterator[RepairedFile]:
    """Write a repaired copy of a data set.

    The copy holds what training mends in memory and what only a copy repairs (`septum.check.issues.IssueKind.fix`):
    masks that seem turned or shifted, one id on several objects, two values after JPEG. Pairs that neither can use are
    not written. The copy lies in ``out/images`` and ``out/masks`` under the names of the pairs; Cell Tracking Challenge
    data keeps its own layout. Files that need no repair are copied byte for byte; others keep their format if it is
    lossless and holds the values, and become TIFF if not. Each file appears under its name when it is complete.

    Parameters
    ----------
    report
        From `septum.check.check.check`.
    out
        A folder that does not exist or is empty.

    Yields
    ------
    RepairedFile
        One per file, after it was written; then one per file left out.

    Raises
    ------
    UsageError
        If `out` is a file or not empty.
    DataError
        If the report holds an error that neither a repair nor leaving pairs out ends.
    FileError
        If a file cannot be read or written.
    """
    stuck = [issue.line() for issue in report.errors if not (issue.kind.leaves_out or issue.kind.fix)]
    if stuck:
        raise DataError("\n".join(stuck), "data that can be repaired", "correct this first, then run the command again")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        given = "a folder that is not empty" if out.is_dir() else "a file"
        raise UsageError(f"{out}: {given}", "a new or empty folder", "give another folder to --fix")
    return _write(report, out)


def _write(report: Report, out: Path) -> Iterator[RepairedFile]:
    done = _phrases(report, leaves_out=False)
    for pair in (*report.pairs, *report.fixable):
        yield _write_image(pair, report, out, done)
        for path, section in dict.fromkeys((*pair.masks, *pair.golds)):
            yield _write_mask(pair, path, section, report=report, out=out, done=done)
        for tracked in (m for path, _ in pair.golds if (m := markers(path)) is not None):
            gold = _place(pair, report, out, name=tracked.name, role="golds")
            yield _copy(tracked, gold.parent.parent / "TRA" / tracked.name)
    reasons = _phrases(report, leaves_out=True)
    fixable = {pair.name for pair in report.fixable}
    left_out = [pair for pair in report.left_out if pair.name not in fixable]
    for path in dict.fromkeys(p for pair in left_out for p in (pair.image, pair.mask)):
        yield RepairedFile(path, None, tuple(reasons.get(path, ["its partner is left out"])))
    for path in (*report.pairing.unmatched_images, *report.pairing.unmatched_masks):
        yield RepairedFile(path, None, ("no partner",))
    for file in report.pairing.unread:
        yield RepairedFile(file.path, None, ("a format that is not read",))


def _phrases(report: Report, *, leaves_out: bool) -> dict[Path, list[str]]:
    """Return by file the repairs in the copy, or why it leaves the file out."""
    phrases: dict[Path, list[str]] = {}
    for issue in report.issues:
        kind = issue.kind
        repair = kind.fix or (kind.mend if kind.severity == "mended" else "")
        if leaves_out != (kind.leaves_out and not kind.fix) or not (leaves_out or repair):
            continue
        for path, detail in zip(issue.files, issue.details, strict=True):
            text = f"{kind.noun} {kind.text}" + (f" ({detail})" if detail else "")
            phrases.setdefault(path, []).append(text if leaves_out else f"{text}: {repair}")
    return phrases


def _place(pair: PairStatistics, report: Report, out: Path, *, name: str, role: str) -> Path:
    """Return the place of a file in the copy; `role` is images, masks or golds, `name` its name in the data set."""
    from septum.io.formats import image_suffix

    if report.pairing.layout == "ctc":
        sequence = pair.group if pair.group.isdecimal() else "01"
        folders = {"images": sequence, "masks": f"{sequence}_ST/SEG", "golds": f"{sequence}_GT/SEG"}
        return out / folders[role] / name
    return out / role / (pair.name + (image_suffix(Path(name)) or ".tif"))


def _write_image(pair: PairStatistics, report: Report, out: Path, done: dict[Path, list[str]]) -> RepairedFile:
    from septum.io.files import write_image

    target = _place(pair, report, out, name=pair.image.name, role="images")
    if pair.image not in done and pair.image.exists() and report.files.axes is None:
        return _copy(pair.image, target)
    image = report.files.image(pair.image, pair.named_axes)
    frames = np.stack([match_channels(fill_holes(f), report.rules.channels) for f in image_frames(image)])
    array = frames if "T" in image.axes else frames[0]
    target = lossless_place(target, array, image.axes)
    _make_folder(target.parent)
    write_image(target, array, axes=image.axes, pixel_size_um=image.pixel_size_um, affine=image.affine)
    return RepairedFile(pair.image, target, (*done.get(pair.image, ()), *_named_axes(report)))


def _write_mask(
    pair: PairStatistics, path: Path, section: int | None, *, report: Report, out: Path, done: dict[Path, list[str]]
) -> RepairedFile:
    from septum.io.files import write_image

    role = "golds" if (path, section) in pair.golds and report.pairing.layout == "ctc" else "masks"
    target = _place(pair, report, out, name=path.name, role=role)
    (mask, changes), frames = report.files.fitted(path, pair.grid), _repaired_mask(pair, path, section, report)
    raw = image_frames(mask)
    same = not changes and raw.shape[1] == 1 and raw.dtype.kind in "biu" and np.array_equal(raw[:, 0], frames)
    if same and path.is_file() and not is_drawn(path) and not is_lossy(path) and report.files.axes is None:
        return _copy(path, target)
    array = frames if len(frames) > 1 else frames[0]
    written = ("T" if len(frames) > 1 else "") + "ZYX"[-(frames.ndim - 1) :]
    array = array.astype(smallest_dtype(array))
    target = lossless_place(target, array, written)
    _make_folder(target.parent)
    kind = report.label_kind.kind if stated_kind(report.files.mask(path, pair.grid)) else False
    write_image(target, array, axes=written, pixel_size_um=mask.pixel_size_um, affine=mask.affine, labels=kind)
    whole = [f"{issue.message}: {issue.kind.mend}" for issue in report.mended if not issue.files]
    field = done.get(pair.field, []) if pair.field is not None else []
    return RepairedFile(path, target, (*done.get(path, ()), *field, *whole, *_named_axes(report)))


def _named_axes(report: Report) -> tuple[str, ...]:
    """Return the phrase for axes that the user named: the copy states them in its files."""
    return () if report.files.axes is None else (f"axes {report.files.axes} written into the file",)


def _repaired_mask(pair: PairStatistics, path: Path, section: int | None, report: Report) -> NDArray[np.int32]:
    """Return ``(T, *S)`` int32: the mask of a file with all repairs, also those that are not certain."""
    frames = mask_of_file(path, pair, report.rules, report.files, likely=True)
    splits = report.rules.kind == "objects" and not report.rules.pieces and not pair.binary_frames
    if splits and path == pair.mask and pair.mask_stats and pair.mask_stats.split_ids:
        frames = np.stack([separate_split_ids(frame)[0] for frame in frames])
    return frames if pair.field is None or section is not None else mark_outside(frames, pair.field, report.files)


def _copy(source: Path, target: Path) -> RepairedFile:
    from septum.io.atomic import whole_file

    _make_folder(target.parent)
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)
    return RepairedFile(source, target, ())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(
            f"{folder}: cannot be made ({reason})", "a place to write to", "give another folder to --fix"
        ) from error


def smallest_dtype(array: NDArray[np.integer[Any]]) -> type[np.integer[Any]]:
    """Return the smallest type of integers that holds all labels of an array.

    Parameters
    ----------
    array
        ``(*S)`` integers, labels of -1 and more, at least one.
    """
    low, high = int(array.min()), int(array.max())
    if low < 0:
        return np.int16 if high < 2**15 else np.int32
    return np.uint8 if high < 2**8 else np.uint16 if high < 2**16 else np.int32


def lossless_place(target: Path, array: NDArray[Any], axes: str) -> Path:
    """Return the name with a suffix whose format holds the values and axes: its own, or TIFF.

    Parameters
    ----------
    target
        The file to write.
    array
        ``(*A)`` with one dimension per letter of `axes`, any dtype and any values.
    axes
        Letters of ``TCZYX``.
    """
    from septum.io.formats import format_of, image_stem

    kind = format_of(target.name)
    channels = array.shape[axes.index("C")] if "C" in axes else 1
    fits = kind is not None and not kind.folder and kind.holds(array.dtype.name, axes, channels)
    return target if fits else target.with_name(image_stem(target) + ".tif")
