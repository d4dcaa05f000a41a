"""Download an archive and unpack it: neither writes outside its folder, or more than an archive of images may hold."""

from __future__ import annotations

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from septum.errors import FileError
from septum.events import Event
from septum.io.formats import format_path
from septum.words import reason_of

# The archives have some 40 MB; a much larger one is another file.
MOST_ARCHIVE, MOST_UNPACKED, MOST_FILES = 500_000_000, 3_000_000_000, 20_000
_TIMEOUT_S = 30.0
_PIECE = 1 << 16


@dataclass(frozen=True)
class Arrived(Event):
    """`done` of `total` bytes of the archive are downloaded or unpacked; `total` is 0 if unknown."""

    stage: Literal["downloading", "unpacking"]
    done: int
    total: int


def download(url: str, path: Path) -> Generator[Arrived, None, str]:
    """Download one file.

    Parameters
    ----------
    url
        Address, http or https.
    path
        The file to write.

    Yields
    ------
    Arrived for each piece.

    Returns
    -------
    str
        SHA-256 of the file, in hexadecimal.

    Raises
    ------
    FileError
        If the server cannot be reached or refuses, or the file is too large or incomplete.
    """
    import requests

    digest, done = hashlib.sha256(), 0
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT_S) as response, path.open("wb") as file:
            response.raise_for_status()
            total = int(response.headers.get("content-length", 0))
            for piece in response.iter_content(_PIECE):
                done += len(piece)
                if max(done, total) > MOST_ARCHIVE:
                    raise FileError(
                        f"{format_path(url)}: larger than {MOST_ARCHIVE:,} bytes",
                        "the archive of the data set",
                        "ask its providers whether they changed it",
                    )
                file.write(piece)
                digest.update(piece)
                yield Arrived("downloading", done, total)
    except requests.RequestException as error:
        reason = reason_of(error)
        raise FileError(
            f"{format_path(url)}: cannot be downloaded ({reason})",
            "an address that this machine can reach",
            "check the network, then run the same command; or download the file with a browser and unpack it yourself",
        ) from error
    return digest.hexdigest()


def unpack(archive: Path, folder: Path) -> Iterator[Arrived]:
    """Unpack a ZIP archive of plain files into the existing, empty `folder`.

    All names and sizes are checked before anything is written. `zipfile` writes no more of a file than its stated size,
    and compares its checksum.

    Yields
    ------
    Arrived after each file.

    Raises
    ------
    FileError
        If the archive is damaged, larger than `MOST_UNPACKED` bytes or `MOST_FILES` files, or holds a name that leads
        outside the folder, a link, or a name twice. After damage the caller removes the files.
    """

    def refuse(reason: str) -> FileError:
        expected = "an undamaged archive of plain files"
        return FileError(f"{format_path(archive.name)}: {reason}", expected, "get it again from its providers")

    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            total, done = sum(member.file_size for member in members), 0
            if total > MOST_UNPACKED or len(members) > MOST_FILES:
                raise refuse(f"more than {MOST_UNPACKED:,} bytes or {MOST_FILES:,} files")
            # `extract` would change these names and write a link as a file: such an archive is not the published one.
            if unsafe := [member.filename for member in members if not _is_plain(member)]:
                raise refuse(f"{format_path(unsafe[0])} leads outside the folder, or is a link or a device")
            if len({member.filename.casefold() for member in members}) < len(members):
                raise refuse("a name is there twice, on systems that ignore case")
            for member in members:
                opened.extract(member, folder)
                done += member.file_size
                yield Arrived("unpacking", done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise refuse(f"damaged ({reason_of(error)})") from error


def _is_plain(member: zipfile.ZipInfo) -> bool:
    """Return True if a member is a file or folder whose name stays inside the folder on every system."""
    name, path = member.filename, PurePosixPath(member.filename)
    inside = not path.is_absolute() and ".." not in path.parts and not set(name) & set("\\:") and name.isprintable()
    return inside and stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
