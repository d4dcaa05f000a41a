"""Unpack a ZIP archive from elsewhere: nothing lands outside the folder, and nothing is larger than it may be."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from septum.errors import FileError
from septum.io.paths import format_path

_MOST_FILES = 20_000
_PIECE = 1 << 20


def unpack(archive: Path, folder: Path, *, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Unpack `archive` into the existing, empty `folder`.

    All names and sizes are looked at before anything is written. A name that leads outside (absolute, ``..``, a drive,
    a link), one that is there twice, and more than `most_bytes` in all are refused.

    Parameters
    ----------
    archive
        The ZIP file.
    folder
        Where its files go, under the names that the archive gives them.
    most_bytes
        The most that all files together may hold.

    Yields
    ------
    done, total : int
        Bytes written so far, and in all.

    Raises
    ------
    FileError
        If the archive is damaged, or holds what is refused; if the disk is too small. What was written before damage
        was found is left to the caller to remove.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked(archive, opened.infolist(), most_bytes)
            total = sum(member.file_size for member, _ in members)
            if total > shutil.disk_usage(folder).free:
                raise FileError(
                    f"{format_path(archive.name)}: {total:,} bytes to unpack, more than is free in "
                    f"{format_path(folder.parent)}",
                    "enough room on the disk",
                    "free some space or choose another folder, then run again",
                )
            done = 0
            for member, place in members:
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("xb") as file:
                    # The reader gives no more than the size that was checked, and compares the checksum at the end.
                    while piece := source.read(_PIECE):
                        file.write(piece)
                        done += len(piece)
                        yield done, total
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _refused(archive, f"damaged ({' '.join(str(error).split())[:200]})") from error


def _checked(
    archive: Path, infos: list[zipfile.ZipInfo], most_bytes: int
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Return the files of an archive with where each goes, in their order."""
    if len(infos) > _MOST_FILES:
        raise _refused(archive, f"{len(infos):,} files, more than the {_MOST_FILES:,} that are unpacked")
    members, seen, total = [], set[str](), 0
    for info in infos:
        place = _place(archive, info)
        if info.is_dir():
            continue
        folded = str(place).casefold()  # on some systems both names are one file
        if folded in seen:
            raise _refused(archive, f"{format_path(info.filename)} is there twice")
        seen.add(folded)
        total += info.file_size
        if total > most_bytes:
            raise _refused(archive, f"more than the {most_bytes:,} bytes that are unpacked")
        members.append((info, place))
    return members


def _place(archive: Path, info: zipfile.ZipInfo) -> PurePosixPath:
    """Return where a member goes in the folder."""
    name = info.filename
    place = PurePosixPath(name)
    outside = place.is_absolute() or ".." in place.parts or any(c in name for c in "\\:\0") or not place.parts
    if outside or not name.isprintable():
        raise _refused(archive, f"the name {format_path(name)} leads outside, or is none on every system")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(archive, f"{format_path(name)} is a link or a device")
    if info.flag_bits & 1:
        raise _refused(archive, f"{format_path(name)} is encrypted")
    return place


def _refused(archive: Path, reason: str) -> FileError:
    return FileError(
        f"{format_path(archive.name)}: {reason}",
        "a sound archive of plain files",
        "get it again from where it came from",
    )
