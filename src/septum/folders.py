"""Walk through folders, each once: links may lead to a folder twice, or back to the folder that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path


def below(folder: Path, is_whole: Callable[[Path], bool], *, most: int = 8) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, in no order, without hidden ones.

    Links are followed last, in the order of their names, and only to folders that were not entered and do not hold
    `folder`.

    Parameters
    ----------
    folder
        The folder.
    is_whole
        Returns True for a folder that counts as a file and is not entered, such as an image of Zarr.
    most
        Levels of subfolders that are entered.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    entered = {_identity(parent) for parent in folder.resolve().parents}
    folders, links = [(folder, most)], list[tuple[Path, int]]()
    while folders or links:
        if not folders:
            links.sort()
        place, levels = folders.pop() if folders else links.pop(0)
        if (known := _identity(place)) in entered:
            continue
        entered.add(known)
        for path in place.iterdir():
            if path.name.startswith("."):
                continue
            if is_whole(path) or not path.is_dir():
                yield path
            elif levels:
                (links if path.is_symlink() else folders).append((path, levels - 1))


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
