"""Download a public data set, when asked to, and lay it out as training takes it.

::

    data/isbi2012/train/images/00.png ...   sections, with train/masks and test/images; test/masks if they are included
    data/dic-hela/01/t000.tif ...           a sequence, with its gold truth in 01_GT/SEG and its silver one in 01_ST/SEG
    data/NAME.download.json                 address and checksum of the archive, and whether the checksum was published
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
from septum.events import Event, Warned
from septum.io.atomic import as_error, replace_folder, whole_file, written_through
from septum.io.files import read_image, write_image
from septum.io.formats import format_path
from septum.pairing import ctc
from septum.reproduce.archive import Arrived, download, unpack
from septum.reproduce.settings import FetchSettings

STACKS = ("train-volume.tif", "train-labels.tif", "test-volume.tif")
_TEST_LABELS = "test-labels.tif"  # not in every copy of the data

_CTC_TERMS = (
    "Conditions of the Cell Tracking Challenge: cite the paper and acknowledge the challenge as the source in any "
    "publication; scientific use outside the challenge needs permission of the data providers, commercial use that of "
    "the organizers as well (https://celltrackingchallenge.net/datasets/)"
)
_CTC_CITATION = (
    "M. Maška et al. The Cell Tracking Challenge: 10 years of objective benchmarking. Nature Methods 20, 1010-1020, "
    "2023, doi:10.1038/s41592-023-01879-y"
)


@dataclass(frozen=True)
class PublicSet:
    """A public data set.

    Attributes
    ----------
    name, title : str
        Name on the command line, and a description.
    url : str
        Address of its archive, a ZIP file.
    sha256 : str or None
        Checksum of the archive, as public programs that download it state it; None: none is published.
    page : str
        Address of its description.
    terms, citation : str
        Terms of use, and the publications to cite.
    layout : str
        ``"sections"``: stacks of sections with membranes; ``"sequences"``: the folders of the Cell Tracking Challenge.
    """

    name: str
    title: str
    url: str
    sha256: str | None
    page: str
    terms: str
    citation: str
    layout: Literal["sections", "sequences"]


SETS = {
    s.name: s
    for s in (
        PublicSet(
            name="isbi2012",
            title="ISBI 2012 challenge: membranes in sections of a fly's nerve cord (ssTEM)",
            url="https://downloads.imagej.net/ISBI-2012-challenge.zip",
            sha256=None,
            page="https://imagej.net/events/isbi-2012-segmentation-challenge",
            terms="Data of the ISBI 2012 challenge: cite both papers in any publication",
            citation=(
                "A. Cardona et al. An integrated micro- and macroarchitectural analysis of the Drosophila brain by "
                "computer-assisted serial section electron microscopy. PLoS Biology 8(10), 2010, "
                "doi:10.1371/journal.pbio.1000502; "
                "I. Arganda-Carreras et al. Crowdsourcing the creation of image segmentation algorithms for "
                "connectomics. Frontiers in Neuroanatomy 9:142, 2015, doi:10.3389/fnana.2015.00142"
            ),
            layout="sections",
        ),
        PublicSet(
            name="dic-hela",
            title="DIC-C2DH-HeLa: HeLa cells on flat glass (Cell Tracking Challenge)",
            url="https://data.celltrackingchallenge.net/training-datasets/DIC-C2DH-HeLa.zip",
            sha256="832fed2d05bb7488cf9c51a2994b75f8f3f53b3c3098856211f2d39023c34e1a",
            page="https://celltrackingchallenge.net/2d-datasets/",
            terms=_CTC_TERMS + "; images by G. van Cappellen, Erasmus Medical Center, Rotterdam",
            citation=_CTC_CITATION,
            layout="sequences",
        ),
        PublicSet(
            name="phc-u373",
            title="PhC-C2DH-U373: glioblastoma-astrocytoma cells in phase contrast (Cell Tracking Challenge)",
            url="https://data.celltrackingchallenge.net/training-datasets/PhC-C2DH-U373.zip",
            sha256="b18185c18fce54e8eeb93e4bbb9b201d757add9409bbf2283b8114185a11bc9e",
            page="https://celltrackingchallenge.net/2d-datasets/",
            terms=_CTC_TERMS + "; images by S. Kumar, University of California at Berkeley",
            citation=_CTC_CITATION,
            layout="sequences",
        ),
    )
}


@dataclass(frozen=True)
class Announced(Event):
    """The first event: the data set that will be downloaded, with its terms and citation."""

    what: PublicSet


@dataclass(frozen=True)
class Fetched(Event):
    """The last event: the data set is complete.

    Attributes
    ----------
    what : PublicSet
        The data set.
    folder, training : Path
        Its folder, and the path that `septum check` and `septum train` take.
    sha256 : str or None
        Checksum of the archive; None if the folder existed already.
    """

    what: PublicSet
    folder: Path
    training: Path
    sha256: str | None


def fetch(settings: FetchSettings) -> Iterator[Event]:
    """Download and unpack a data set. A folder that holds it already is left as it is.

    Yields
    ------
    Announced, then Arrived and Warned, Fetched at the end.

    Raises
    ------
    FileError
        If it cannot be downloaded, is not the expected file, or cannot be written; no file is left behind then.
    UsageError
        If the folder holds something else.
    """
    data_set, out = SETS[settings.name], settings.out
    yield Announced(data_set)
    if holds(data_set, out):
        yield Fetched(data_set, out, _training(data_set, out), None)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{format_path(out)} exists and does not hold {data_set.name}",
            "a new folder, or an empty one",
            "give another -o",
        )
    work = written_through(out).parent / f".{out.name}.download"
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a download that was killed
        work.mkdir(parents=True)
        checksum = yield from _download(data_set, out, work)
        (work / "unpacked").mkdir()
        yield from unpack(work / "archive.zip", work / "unpacked")
        arranged = arrange(data_set, work / "unpacked", work / "arranged")
        _write_record(data_set, out, checksum, (work / "archive.zip").stat().st_size)
        replace_folder(arranged, out)
    except OSError as error:
        raise as_error(out, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    yield Fetched(data_set, out, _training(data_set, out), checksum)


def holds(data_set: PublicSet, folder: Path) -> bool:
    """Return True if `folder` holds the data set in the layout of `fetch`."""
    if data_set.layout == "sections":
        return all((folder / part).is_dir() for part in ("train/images", "train/masks", "test/images"))
    return folder.is_dir() and bool(ctc.sequences(folder))


def arrange(data_set: PublicSet, unpacked: Path, arranged: Path) -> Path:
    """Lay out the files of an archive; return the folder that holds them, in or beside `unpacked`.

    Raises
    ------
    DataError
        If files are missing or do not fit together.
    """
    if data_set.layout == "sections":
        arrange_sections(unpacked, arranged)
        return arranged
    for folder in (unpacked, *sorted(p for p in unpacked.iterdir() if p.is_dir())):
        if ctc.sequences(folder):
            return folder
    raise DataError(
        f"{data_set.name}: the archive holds no annotated sequence", "01, 01_GT/SEG, ...", f"look at {data_set.page}"
    )


def arrange_sections(stacks: Path, folder: Path) -> None:
    """Write the stacks of the challenge, anywhere in `stacks`, as one file for each section into the new `folder`.

    Raises
    ------
    DataError
        If a stack is missing, or images and labels differ in size.
    """
    files = {path.name.lower(): path for path in sorted(stacks.rglob("*.tif"), reverse=True)}
    if lacking := [name for name in STACKS if name not in files]:
        raise DataError(
            f"{format_path(stacks.name)}: no {' and no '.join(lacking)}",
            ", ".join(STACKS),
            "see whether the archive was changed",
        )
    for part, images, labels in (("train", STACKS[0], STACKS[1]), ("test", STACKS[2], _TEST_LABELS)):
        volume = _sections(files[images])
        _write_sections(folder / part / "images", volume)
        if labels not in files:
            continue
        truth = _sections(files[labels])
        if truth.shape != volume.shape:
            raise DataError(
                f"{images} of {' x '.join(map(str, volume.shape))}, {labels} of {' x '.join(map(str, truth.shape))}",
                "the same sections",
                "see whether the archive was changed",
            )
        _write_sections(folder / part / "masks", truth)


def _sections(path: Path) -> NDArray[Any]:
    """Read the pages of a gray stack: ``(N, Y, X)``, of any dtype."""
    array = read_image(path, labels=True).array
    return array.reshape(-1, *array.shape[-2:])


def _write_sections(folder: Path, sections: NDArray[Any]) -> None:
    folder.mkdir(parents=True)
    for number, section in enumerate(sections):
        write_image(folder / f"{number:02d}.png", np.ascontiguousarray(section), axes="YX")


def _download(data_set: PublicSet, out: Path, work: Path) -> Generator[Arrived | Warned, None, str]:
    """Download the archive; return its checksum, which must be the published one or that of the first download."""
    noted = None if data_set.sha256 else (_read_record(out) or {}).get("sha256")
    checksum = yield from download(data_set.url, work / "archive.zip")
    if checksum != (data_set.sha256 or noted or checksum):
        expected = f"SHA-256 {data_set.sha256 or noted}"
        todo = "run again; if it stays so, the archive was changed: ask its providers before you trust it"
        if noted:
            expected += ", as at the first download"
            todo = f"ask the providers whether they changed it; if so, remove {format_path(_record(out))} and run again"
        raise FileError(
            f"{format_path(data_set.url)}: is not the expected file, its SHA-256 is {checksum}", expected, todo
        )
    if not (data_set.sha256 or noted):
        yield Warned(
            f"no checksum of this archive is published, so that it could not be verified; its SHA-256 is {checksum}, "
            f"noted in {format_path(_record(out))}: the next download must have the same"
        )
    return checksum


def _training(data_set: PublicSet, folder: Path) -> Path:
    return folder / "train" if data_set.layout == "sections" else folder


def _record(out: Path) -> Path:
    return out.parent / f"{out.name}.download.json"


def _read_record(out: Path) -> dict[str, Any] | None:
    """Read the note of an earlier download; None if there is none."""
    try:
        stored = dict(json.loads(_record(out).read_text(encoding="utf-8")))
        return {**stored, "sha256": str(stored["sha256"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise FileError(
            f"{format_path(_record(out))}: damaged", "the note of an earlier download", "remove it"
        ) from None


def _write_record(data_set: PublicSet, out: Path, checksum: str, size: int) -> None:
    note = {
        "name": data_set.name,
        "url": data_set.url,
        "sha256": checksum,
        "bytes": size,
        "checksum_known_before": data_set.sha256 is not None,
        "downloaded": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "terms": data_set.terms,
        "citation": data_set.citation,
    }
    with whole_file(_record(out)) as part:
        part.write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
