"""Walk through folders; links may lead to one folder by several names, or back to the folder that holds them."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from septum.words import most_similar

_MOST_NAMES = 5000  # of a folder that are compared with a misspelled one


def below(
    folder: Path, is_whole: Callable[[Path], bool], *, most: int = 8, unread: list[Path] | None = None
) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, in no order, without hidden ones.

    Links are followed, except to `folder`, to a folder that holds it, and to a subfolder that holds the link. A
    subfolder to which several names lead is entered by each of them.

    Parameters
    ----------
    folder
        The folder.
    is_whole
        Returns True for a folder that counts as a file and is not entered, such as an image of Zarr.
    most
        Levels of subfolders that are entered.
    unread
        Takes the folders that may not be read, which are passed over; None: they are an error.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    folders = [(folder, most, frozenset(map(_identity, folder.resolve().parents)))]
    while folders:
        place, levels, above = folders.pop()
        if (known := _identity(place)) in above:
            continue
        try:
            inside = list(place.iterdir())
        except PermissionError:
            if unread is None:
                raise
            unread.append(place)
            continue
        for path in inside:
            if path.name.startswith("."):
                continue
            if is_whole(path) or not path.is_dir():
                yield path
            elif levels:
                folders.append((path, levels - 1, above | {known}))


def leads_nowhere(path: Path) -> bool:
    """Return True for a link whose target does not exist, such as a file that git-annex has not fetched."""
    if not path.is_symlink():
        return False
    try:
        path.stat()
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return False


def rivals_there(rivals: Sequence[Path]) -> Sequence[Path]:
    """Return, of several files that fit one place, those that are no links that lead nowhere; all if all are."""
    return (len(rivals) > 1 and [path for path in rivals if not leads_nowhere(path)]) or rivals


def _letters(name: str) -> str:
    return re.sub(r"\d+", "0", name)


def check_spelling(path: Path) -> str:
    """Return what to do about a path that does not exist: take the most similar one that does, if there is one."""
    there = path
    while not there.exists() and there.parent != there:
        wrong, there = there.name, there.parent
        try:
            names = list(islice((one.name for one in there.iterdir()), _MOST_NAMES)) if there.is_dir() else []
        except OSError:
            break
        # Suffixes, which many files share, make no name similar; im7.png is no misspelled im99.png.
        known = {Path(name).stem.casefold(): name for name in names if _letters(name) != _letters(wrong)}
        similar = most_similar(Path(wrong).stem.casefold(), known)
        if similar is not None and (meant := there / known[similar] / path.relative_to(there / wrong)).exists():
            return f"did you mean: {meant}?"
    return "check the spelling"


def distinct(folders: Iterable[Path]) -> list[Path]:
    """Return folders without links to others of them, in the same order; of several links to one folder, the first."""
    folders = list(folders)
    names: dict[tuple[int, int], Path] = {}
    for folder in sorted(folders, key=Path.is_symlink):
        names.setdefault(_identity(folder), folder)
    return [folder for folder in folders if names[_identity(folder)] == folder]


def _identity(folder: Path) -> tuple[int, int]:
    """Return the numbers of a disk and of a folder on it, which are the same for all links to the folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino
