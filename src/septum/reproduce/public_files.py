"""Public data sets: where they are, under which terms, and how their archives are fetched when a person asks for it."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from septum.errors import FileError
from septum.io.paths import format_path

# Archives are some 40 MB; what is much larger is not what was asked for.
MOST_ARCHIVE, MOST_UNPACKED = 500_000_000, 3_000_000_000
_TIMEOUT_S = 30.0
_LOOK_EVERY_S = 0.2
_PIECE = 1 << 16

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
    name
        As a person types it.
    title
        In words.
    url
        Its archive, a ZIP file.
    sha256
        Of the archive, as public programs that fetch it state it; None: nobody states one.
    page
        Where it is described.
    terms, citation
        What a person must know who uses it.
    layout
        ``"sections"``: stacks of sections with membranes; ``"sequences"``: the Cell Tracking Challenge's folders.
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


class _UnwantedError(Exception):
    """Raised where the bytes arrive, to end a download."""


class _Stream:
    """One file as it arrives; pooch calls it to download, and looks at what came."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.stop = False

    def __call__(self, url: str, path: str, _: object) -> None:
        """Write what is at `url` to `path`."""
        import requests

        with requests.get(url, stream=True, timeout=_TIMEOUT_S) as response, Path(path).open("wb") as file:
            response.raise_for_status()
            self.total = int(response.headers.get("content-length", 0))
            for piece in response.iter_content(_PIECE):
                self.done += len(piece)
                if self.stop or max(self.done, self.total) > MOST_ARCHIVE:
                    raise _UnwantedError
                file.write(piece)


def download(url: str, path: Path, *, sha256: str | None) -> Generator[tuple[int, int], None, str]:
    """Download one file.

    Parameters
    ----------
    url
        http or https.
    path
        Where to write it; its folder must exist, and the file appears whole or not at all.
    sha256
        What its checksum must be, in hexadecimal; None where that is not known.

    Yields
    ------
    done, total : int
        Bytes so far and in all; `total` is 0 where the server does not say.

    Returns
    -------
    str
        The checksum of what came.

    Raises
    ------
    FileError
        If the server cannot be reached or refuses, the file is too large, ends too early, or has another checksum.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")  # it would print the path and the checksum, which are said elsewhere
    stream = _Stream()
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(_retrieve, url, path, sha256, stream)
        try:
            while not wait_for([work], timeout=_LOOK_EVERY_S).done:
                yield stream.done, stream.total
        finally:
            stream.stop = True  # where the caller went away, the next piece ends the download
        work.result()
    return str(pooch.file_hash(str(path), alg="sha256"))


def _retrieve(url: str, path: Path, sha256: str | None, stream: _Stream) -> None:
    """Download in a thread of its own."""
    import pooch
    import requests

    try:
        pooch.retrieve(
            url,
            known_hash=None if sha256 is None else f"sha256:{sha256}",
            fname=path.name,
            path=path.parent,
            downloader=stream,
        )
    except _UnwantedError:
        raise FileError(
            f"{format_path(url)}: stopped, or larger than {MOST_ARCHIVE:,} bytes",
            "the archive of the data set",
            "run again",
        ) from None
    except requests.RequestException as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(
            f"{format_path(url)}: cannot be downloaded ({reason[:200]})",
            "an address that this machine can reach",
            "check the network, then run the same command; or download the file with a browser and unpack it yourself",
        ) from error
    except ValueError as error:
        raise FileError(
            f"{format_path(url)}: is not the file that was expected ({' '.join(str(error).split())[:300]})",
            f"SHA-256 {sha256}",
            "run again; if it stays so, the archive was changed: ask its providers before you trust it",
        ) from error
