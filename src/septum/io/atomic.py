"""Write files and folders as a whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from septum.errors import FileError
from septum.io.formats import format_path

_PREFIX = ".septum-part-"
_WAITS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if sys.platform == "win32" else ()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write `path` completely or not at all: no reader ever sees a part of it.

    The body writes to a temporary name in the same folder, which is hidden and has the suffix of `path` (libraries
    choose the format by the suffix). When the body succeeds, the file is synced, renamed to `path` (an older file is
    replaced in one stroke) and the folder is synced. When it fails, the temporary file is removed and an older file at
    `path` is left as it was.

    Parameters
    ----------
    path
        The file to be. Its folder must exist.

    Yields
    ------
    Path
        The temporary name to write to.

    Raises
    ------
    FileError
        If the folder is missing, may not be written, or the disk is full: every `OSError`, as a sentence.
    """
    target = written_through(path)
    ending = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    temporary = target.parent / f"{_PREFIX}{secrets.token_hex(6)}{ending}"
    try:
        yield temporary
        sync_file(temporary)
        rename(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise as_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder completely or not at all, as `whole_file` does for a file.

    An older folder at `path` is renamed and removed when the new one is complete. Files are not synced one by one: the
    writers do that where they must.

    Yields
    ------
    Path
        A new folder beside the one to be, with a hidden name of the same ending.

    Raises
    ------
    FileError
        Every `OSError`, as a sentence.
    """
    temporary = written_through(path).parent / f"{_PREFIX}{secrets.token_hex(6)}{path.suffix}"
    try:
        temporary.mkdir()
        yield temporary
        replace_folder(temporary, path)
    except OSError as error:
        raise as_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def written_through(path: Path) -> Path:
    """Return the place to write to: where a link leads to, so that the link is not replaced."""
    try:
        return path.resolve() if path.is_symlink() else path
    except OSError as error:
        raise as_error(path, error) from error


def rename(path: Path, target: Path, *, waits_s: Sequence[float] = _WAITS_S) -> None:
    """Rename a file or folder; an older file of that name is replaced in one stroke.

    Windows refuses while any program has one of the two open: a virus scanner or an indexer does, for a moment, with
    each new file. So there a refusal is final only after some seconds.

    Parameters
    ----------
    path, target
        The old and the new name, on one disk.
    waits_s
        Seconds to wait after each refusal but the last.

    Raises
    ------
    OSError
        As `os.replace`.
    """
    for wait_s in waits_s:
        try:
            path.replace(target)
            return
        except PermissionError:
            time.sleep(wait_s)
    path.replace(target)


def remove_parts(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`. Call it where no other process writes."""
    for part in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def storable(name: str) -> str:
    r"""Return a name as text that UTF-8 can hold: a byte that is no letter of the locale stands as ``\udce9``."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_folder(new: Path, path: Path) -> None:
    """Give the finished folder `new` the name `path`; an older folder or file of that name is removed.

    A link is written through: `new` lies beside its target.

    Raises
    ------
    FileError
        If the names lie on different disks, or may not be written.
    """
    path = written_through(path)
    old = path.with_name(f"{_PREFIX}{secrets.token_hex(6)}{path.suffix}")
    try:
        if path.exists():
            rename(path, old)
        rename(new, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise as_error(path, error) from error
    finally:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Without this a power cut may forget the rename. Windows cannot open folders, some network drives cannot sync them.
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def as_error(path: Path, error: OSError) -> FileError:
    """Return the error for a file that could not be written: the reason and the next step."""
    name = format_path(path)
    reason = error.strerror or str(error)
    match error.errno:
        case errno.ENOSPC | None:  # None: NumPy says only "... requested and ... written"
            given, todo = f"{name}: the disk is full", "free some space or choose another folder, then run again"
        case errno.EDQUOT:
            given, todo = f"{name}: your disk quota is used up", "delete files or ask for more, then run again"
        case errno.EFBIG:
            given, todo = f"{name}: larger than files may be here", "raise the limit (`ulimit -f`), then run again"
        case errno.ENOENT | errno.ENOTDIR:
            given, todo = f"{name}: the folder {format_path(path.parent)} does not exist", "create the folder first"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            given, todo = f"{name}: may not be written ({reason})", "choose a folder that you may write to"
        case errno.ENAMETOOLONG:
            given, todo = f"{name}: the name is too long", "choose a shorter name"
        case errno.EISDIR:
            given, todo = f"{name}: is a folder", "name a file"
        case _:
            given, todo = f"{name}: cannot be written ({reason})", "check the disk and the free space, then run again"
    return FileError(given, "a file that can be written", todo)
