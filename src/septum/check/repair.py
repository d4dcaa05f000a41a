"""Write a mended copy of a data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.check.analyze import image_frames, is_lossy, mask_frames, read_mask
from septum.check.field_of_view import outside_unknown
from septum.check.issues import KINDS
from septum.check.masks import fill_holes, match_channels
from septum.check.samples import meant_frames, put_right
from septum.errors import DataError, FileError, UsageError
from septum.pairing.ctc import markers

if TYPE_CHECKING:
    from septum.check.check import Report
    from septum.check.statistics import PairStatistics


@dataclass(frozen=True)
class FixRecord:
    """What was done with one file.

    Attributes
    ----------
    source
        The file of the data set.
    written
        The file of the copy; None if it was left out.
    done
        What was mended, or why it was left out, as phrases; empty if the copy is the same byte for byte.
    """

    source: Path
    written: Path | None
    done: tuple[str, ...]


def fix(report: Report, out: Path) -> Iterator[FixRecord]:
    """Write a mended copy: what `check` calls mended is written mended, what it leaves out is not written.

    The copy lies in ``out/images`` and ``out/masks`` under the names of the pairs; Cell Tracking Challenge data keeps
    its own layout. Files that need no mend are copied byte for byte; others keep their format if it is lossless and
    holds the values, and become TIFF if not. Each file appears under its name when it is whole.

    Parameters
    ----------
    report
        From `septum.check.check.check`.
    out
        A folder that does not exist or is empty.

    Yields
    ------
    FixRecord
        One per file, after it was written; then one per file left out.

    Raises
    ------
    UsageError
        If `out` is a file or holds something.
    DataError
        If the report holds an error that leaving pairs out does not end.
    FileError
        If a file cannot be read or written.
    """
    stuck = [f.line() for f in report.errors if not KINDS[f.code].leaves_out]
    if stuck:
        raise DataError("\n".join(stuck), "data that can be mended", "see what `septum check` says of the data")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "a folder that is not empty" if out.is_dir() else "a file"
        raise UsageError(f"{out}: {what}", "a new or empty folder", "name another one")
    return _write(report, out)


def _write(report: Report, out: Path) -> Iterator[FixRecord]:
    done = _phrases(report, leaves_out=False)
    for item in report.items:
        yield _write_image(item, report, out, done)
        files = dict.fromkeys((*item.masks, *item.golds))
        for path, section in files:
            yield _write_mask(item, path, section, report=report, out=out, done=done)
        for tracked in (m for path, _ in item.golds if (m := markers(path)) is not None):
            gold = _place(item, report, out, name=tracked.name, role="golds")
            yield _copy(tracked, gold.parent.parent / "TRA" / tracked.name)
    reasons = _phrases(report, leaves_out=True)
    for path in dict.fromkeys(p for item in report.left_out for p in (item.image, item.mask)):
        yield FixRecord(path, None, tuple(reasons.get(path, ["its partner is left out"])))
    for path in (*report.pairing.unmatched_images, *report.pairing.unmatched_masks):
        yield FixRecord(path, None, ("no partner",))


def _phrases(report: Report, *, leaves_out: bool) -> dict[Path, list[str]]:
    """Return by file what is mended, or why it is left out."""
    phrases: dict[Path, list[str]] = {}
    for finding in report.findings:
        kind = KINDS[finding.code]
        if kind.leaves_out != leaves_out or (not leaves_out and finding.severity != "mended"):
            continue
        for path, detail in zip(finding.files, finding.details, strict=True):
            text = f"{kind.noun} {kind.text}" + (f" ({detail})" if detail else "")
            phrases.setdefault(path, []).append(text if leaves_out else f"{text}: {finding.mend}")
    return phrases


def _place(item: PairStatistics, report: Report, out: Path, *, name: str, role: str) -> Path:
    """Return where a file of the copy lies; `role` is images, masks or golds, `name` its name in the data set."""
    from septum.io.paths import image_suffix

    if report.pairing.layout == "ctc":
        sequence = item.group if item.group.isdecimal() else "01"
        folders = {"images": sequence, "masks": f"{sequence}_ST/SEG", "golds": f"{sequence}_GT/SEG"}
        return out / folders[role] / name
    return out / role / (item.name + (image_suffix(Path(name)) or ".tif"))


def _write_image(item: PairStatistics, report: Report, out: Path, done: dict[Path, list[str]]) -> FixRecord:
    from septum.io.open import read_image
    from septum.io.write import write_image

    target = _place(item, report, out, name=item.image.name, role="images")
    if item.image not in done:
        return _copy(item.image, target)
    image = read_image(item.image, axes=item.axes)
    frames = np.stack([match_channels(fill_holes(f), report.rules.channels) for f in image_frames(image)])
    array = frames if "T" in image.axes else frames[0]
    target = _lossless(target, array, image.axes)
    _make_folder(target.parent)
    write_image(target, array, axes=image.axes, pixel_size_um=image.pixel_size_um, affine=image.affine)
    return FixRecord(item.image, target, tuple(done[item.image]))


def _write_mask(
    item: PairStatistics, path: Path, section: int | None, *, report: Report, out: Path, done: dict[Path, list[str]]
) -> FixRecord:
    from septum.io.write import write_image

    role = "golds" if (path, section) in item.golds and report.pairing.layout == "ctc" else "masks"
    target = _place(item, report, out, name=path.name, role=role)
    axes = item.image_facts.axes if item.image_facts else ""
    mask, labels = read_mask(path, axes, ignore=report.rules.ignore)
    frames = meant_frames(labels, report.rules, item.binary if path == item.mask else ())
    frames = outside_unknown(put_right(frames, item, path), item.field if section is None else None)
    raw = mask_frames(mask, axes)
    same = raw.shape[1] == 1 and raw.dtype.kind in "biu" and np.array_equal(raw[:, 0], frames)
    if same and path.is_file() and not is_lossy(path):
        return _copy(path, target)
    array = frames if len(frames) > 1 else frames[0]
    spatial = "ZYX"[-(frames.ndim - 1) :]
    written = ("T" if len(frames) > 1 else "") + spatial
    array = array.astype(_smallest(array))
    target = _lossless(target, array, written)
    _make_folder(target.parent)
    write_image(target, array, axes=written, pixel_size_um=mask.pixel_size_um, affine=mask.affine)
    whole = [f"{f.message}: {f.mend}" for f in report.mended if not f.files]
    seen = done.get(item.field, []) if item.field is not None else []
    return FixRecord(path, target, (*done.get(path, ()), *seen, *whole))


def _copy(source: Path, target: Path) -> FixRecord:
    from septum.io.atomic import whole_file

    _make_folder(target.parent)
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)
    return FixRecord(source, target, ())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: cannot be made ({reason})", "a place to write to", "name another one") from error


def _smallest(array: NDArray[np.int32]) -> type[np.integer[Any]]:
    low, high = int(array.min()), int(array.max())
    if low < 0:
        return np.int16 if high < 2**15 else np.int32
    return np.uint8 if high < 2**8 else np.uint16 if high < 2**16 else np.int32


def _lossless(target: Path, array: NDArray[Any], axes: str) -> Path:
    """Return the name with a suffix whose format keeps the values and axes: its own, or TIFF."""
    from septum.io.formats import format_of
    from septum.io.paths import image_stem

    kind = format_of(target.name)
    channels = array.shape[axes.index("C")] if "C" in axes else 1
    fits = kind is not None and not kind.folder and kind.holds(array.dtype.name, axes, channels)
    return target if fits else target.with_name(image_stem(target) + ".tif")
