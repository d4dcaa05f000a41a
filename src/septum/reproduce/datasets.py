"""Fetch a public data set because a person asked for it, and lay it out so that training takes it as it is.

::

    data/isbi2012/train/images/00.png ...   sections, with train/masks and test/images; test/masks where they come along
    data/dic-hela/01/t000.tif ...           a sequence, with its gold truth in 01_GT/SEG and its silver one in 01_ST/SEG
    data/NAME.download.json                 where the archive came from, its checksum, and whether that was known before
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError, FileError, UsageError
from septum.events import Warned
from septum.io.atomic import as_error, replace_folder, whole_file
from septum.io.open import read_image
from septum.io.paths import format_path
from septum.io.write import write_image
from septum.pairing import ctc
from septum.reproduce.public_files import MOST_UNPACKED, SETS, PublicSet, download
from septum.reproduce.unzip import unpack
from septum.settings import Settings

STACKS = ("train-volume.tif", "train-labels.tif", "test-volume.tif")
_TEST_LABELS = "test-labels.tif"  # not in every copy of the data


class PublicDataSettings(Settings):
    """What to fetch, and where to.

    Parameters
    ----------
    name
        The data set.
    out
        The folder that will hold it; made if missing.
    """

    name: Literal["isbi2012", "dic-hela", "phc-u373"]
    out: Path


@dataclass(frozen=True)
class Announced:
    """The first record: what will be fetched, its terms and its citation."""

    what: PublicSet


@dataclass(frozen=True)
class Arrived:
    """So many bytes of the archive have arrived, or are unpacked; `total` is 0 where the server does not say it."""

    stage: Literal["downloading", "unpacking"]
    done: int
    total: int


@dataclass(frozen=True)
class Fetched:
    """The last record: the data set is whole.

    Attributes
    ----------
    what : PublicSet
        The data set.
    folder : Path
        Where it is.
    training : Path
        What `septum check` and `septum train` take.
    sha256 : str or None
        Of the archive; None where the folder was there already.
    """

    what: PublicSet
    folder: Path
    training: Path
    sha256: str | None


PublicDataRecord = Announced | Arrived | Warned | Fetched


def fetch(settings: PublicDataSettings) -> Iterator[PublicDataRecord]:
    """Fetch a data set. A folder that holds it already is left as it is.

    Yields
    ------
    Announced, then Arrived and Warned while it goes on, Fetched at the end.

    Raises
    ------
    FileError
        If it cannot be downloaded, is not what was expected, or cannot be written; nothing is left then.
    UsageError
        If the folder holds something else.
    """
    what, out = SETS[settings.name], settings.out
    yield Announced(what)
    if holds(what, out):
        yield Fetched(what, out, _training(what, out), None)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{format_path(out)} exists and does not hold {what.name}",
            "a new folder, or an empty one",
            "give another -o",
        )
    work = out.parent / f".{out.name}.download"
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a download that was killed
        work.mkdir(parents=True)
        checksum = yield from _download(what, out, work)
        (work / "unpacked").mkdir()
        for done, total in unpack(work / "archive.zip", work / "unpacked", most_bytes=MOST_UNPACKED):
            yield Arrived("unpacking", done, total)
        found = arrange(what, work / "unpacked", work / "arranged")
        _write_record(what, out, checksum, (work / "archive.zip").stat().st_size)
        replace_folder(found, out)
    except OSError as error:
        raise as_error(out, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    yield Fetched(what, out, _training(what, out), checksum)


def holds(what: PublicSet, folder: Path) -> bool:
    """Say whether `folder` holds the data set as it is laid out here."""
    if what.layout == "sections":
        return all((folder / part).is_dir() for part in ("train/images", "train/masks", "test/images"))
    return folder.is_dir() and bool(ctc.sequences(folder))


def arrange(what: PublicSet, unpacked: Path, arranged: Path) -> Path:
    """Lay out what was in an archive; return the folder that holds it, in or beside `unpacked`.

    Raises
    ------
    DataError
        If what should be there is missing or does not fit together.
    """
    if what.layout == "sections":
        arrange_sections(unpacked, arranged)
        return arranged
    for folder in (unpacked, *sorted(p for p in unpacked.iterdir() if p.is_dir())):
        if ctc.sequences(folder):
            return folder
    raise DataError(
        f"{what.name}: the archive holds no annotated sequence", "01, 01_GT/SEG, ...", f"look at {what.page}"
    )


def arrange_sections(stacks: Path, folder: Path) -> None:
    """Write the challenge's stacks, anywhere in `stacks`, as one file a section into the new `folder`.

    Raises
    ------
    DataError
        If a stack is missing, or images and labels differ in size.
    """
    found = {path.name.lower(): path for path in sorted(stacks.rglob("*.tif"), reverse=True)}
    if lacking := [name for name in STACKS if name not in found]:
        raise DataError(
            f"{format_path(stacks.name)}: no {' and no '.join(lacking)}",
            ", ".join(STACKS),
            "look whether the archive was changed",
        )
    for part, images, labels in (("train", STACKS[0], STACKS[1]), ("test", STACKS[2], _TEST_LABELS)):
        volume = _sections(found[images])
        _write_sections(folder / part / "images", volume)
        if labels not in found:
            continue
        truth = _sections(found[labels])
        if truth.shape != volume.shape:
            raise DataError(
                f"{images} of {' x '.join(map(str, volume.shape))}, {labels} of {' x '.join(map(str, truth.shape))}",
                "the same sections",
                "look whether the archive was changed",
            )
        _write_sections(folder / part / "masks", truth)


def _sections(path: Path) -> NDArray[Any]:
    """Return the pages of a gray stack: ``(N, Y, X)``."""
    array = read_image(path, labels=True).array
    return array.reshape(-1, *array.shape[-2:])


def _write_sections(folder: Path, sections: NDArray[Any]) -> None:
    folder.mkdir(parents=True)
    for number, section in enumerate(sections):
        write_image(folder / f"{number:02d}.png", np.ascontiguousarray(section), axes="YX")


def _download(what: PublicSet, out: Path, work: Path) -> Generator[Arrived | Warned, None, str]:
    """Download the archive and return its checksum, which must be the known one or that of the first download."""
    before = _read_record(out)
    known = what.sha256 or (before or {}).get("sha256")
    try:
        arriving = download(what.url, work / "archive.zip", sha256=known)
        while True:
            yield Arrived("downloading", *next(arriving))
    except StopIteration as end:
        checksum = str(end.value)
    except FileError as error:
        if what.sha256 is None and known is not None and known in error.expected:
            raise FileError(
                error.given,
                f"SHA-256 {known}, as at the first download",
                f"ask the providers whether they changed it; if they did, remove {format_path(_record(out))} and "
                "run again",
            ) from error
        raise
    if known is None:
        yield Warned(
            f"no checksum of this archive is published, so that it could not be verified; its SHA-256 is {checksum}, "
            f"noted in {format_path(_record(out))}: the next download must have the same"
        )
    return checksum


def _training(what: PublicSet, folder: Path) -> Path:
    return folder / "train" if what.layout == "sections" else folder


def _record(out: Path) -> Path:
    return out.parent / f"{out.name}.download.json"


def _read_record(out: Path) -> dict[str, Any] | None:
    """Return what an earlier download noted."""
    try:
        said = dict(json.loads(_record(out).read_text(encoding="utf-8")))
        return {**said, "sha256": str(said["sha256"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise FileError(
            f"{format_path(_record(out))}: damaged", "the note of an earlier download", "remove it"
        ) from None


def _write_record(what: PublicSet, out: Path, checksum: str, size: int) -> None:
    note = {
        "name": what.name,
        "url": what.url,
        "sha256": checksum,
        "bytes": size,
        "checksum_known_before": what.sha256 is not None,
        "downloaded": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "terms": what.terms,
        "citation": what.citation,
    }
    with whole_file(_record(out)) as part:
        part.write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
