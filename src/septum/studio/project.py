"""The folder of a studio: images with opaque ids, the store of labels, masks and runs.

::

    FOLDER/images/ or FOLDER/     the images; they are never changed
    FOLDER/masks/                 what was annotated, a mask for each image: an ordinary data set
    FOLDER/runs/                  trainings
    FOLDER/predictions/           results of "Predict all"
    FOLDER/.studio/               labels with their journal, the cache of coarser levels, replaced masks, and which
                                  folders hold images and masks
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from septum.errors import DataError, FileError, SeptumError, UsageError
from septum.folders import check_spelling, leads_nowhere
from septum.io.annotations.formats import is_drawn
from septum.io.atomic import as_error, whole_file
from septum.io.files import images_below, images_in, open_image
from septum.io.formats import format_path, image_stem, is_zarr, split_scene
from septum.io.image import Image
from septum.pairing.folders import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    images_deeper,
    role_folders,
    subfolders,
    without_results,
)
from septum.studio.existing import PassedOver, find_masks

_OPEN_IMAGES = 8
_OWN = "SELECT substr(key, 5), value FROM note WHERE key LIKE 'own %'"  # masks that the studio wrote, by image
_PLAIN = {"png", "tif", "tiff", "jpg", "jpeg", "bmp"}  # one image a file, whatever it holds
_ANNOTATED = "SELECT DISTINCT image FROM plane WHERE id IN (SELECT plane FROM tile)"


@dataclass(frozen=True)
class Entry:
    """An image of the folder.

    Attributes
    ----------
    id, name, path
        Its opaque id, its name, and its file.
    mask
        The mask that exists, or the place of drawn objects (`septum.io.annotations.formats`); None without any.
    """

    id: str
    name: str
    path: Path
    mask: Path | None


@dataclass
class Project:
    """A folder of images that is annotated.

    Parameters
    ----------
    root
        The folder.
    axes
        Axes of the image files, where they do not state them right.
    """

    root: Path
    axes: str | None = None
    entries: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        if not self.root.is_dir():
            if not self.root.exists():
                raise UsageError(
                    f"{format_path(self.root)} does not exist", "a folder of images", check_spelling(self.root)
                )
            raise UsageError(
                f"{format_path(self.root)} is no folder", "a folder of images", "name the folder of this file"
            )
        self._opened: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()
        noted = _noted_folders(self._note)
        annotated = [row[0] for row in _ask(self.labels, _ANNOTATED)]
        with _as_errors():
            self.images, self.masks = _choose_folders(self.root, noted, annotated)
        self._noted = noted == (self.images, self.masks)
        self.passed_over: list[str] = []
        self._listing: list[Any] | None = None
        self.scan()

    @property
    def _note(self) -> Path:
        return self.work / "folders.json"

    def note_folders(self) -> None:
        """Note which folders hold the images and the masks; to be called before there are labels.

        The names of the images, by which their labels are found, depend on the folder of images, and new folders, such
        as that of the masks, would lead to other ones at the next start.

        Raises
        ------
        FileError
            If the note cannot be written.
        """
        if self._noted:
            return
        names = {role: place.relative_to(self.root).as_posix() for role, place in self._roles().items()}
        self.make_work()
        with whole_file(self._note) as file:
            file.write_text(json.dumps(names), encoding="utf-8")
        self._noted = True

    def _roles(self) -> dict[str, Path]:
        return {"images": self.images, "masks": self.masks}

    @property
    def work(self) -> Path:
        """Return the hidden folder of the studio."""
        return self.root / ".studio"

    @property
    def labels(self) -> Path:
        """Return the file of the labels; see `septum.studio.label_store.LabelStore`."""
        return self.work / "labels.sqlite"

    def make_work(self) -> None:
        """Make the hidden folder of the studio.

        Raises
        ------
        FileError
            If it cannot be made: the folder may not be written, or the disk is full.
        """
        try:
            self.work.mkdir(exist_ok=True)
        except OSError as error:
            raise as_error(self.work, error) from error

    @property
    def runs(self) -> Path:
        """Return the folder of trainings."""
        return self.root / "runs"

    @property
    def predictions(self) -> Path:
        """Return the folder of results."""
        return self.root / "predictions"

    def scan(self) -> None:
        """List the images and the masks that exist; name each file that is passed over, with the reason.

        Raises
        ------
        UsageError
            If there is no image that can be annotated, or the masks hold one object each.
        DataError
            If two files claim the same image.
        FileError
            If a file of drawn objects cannot be read, or a folder that is needed.
        """
        passed_over = PassedOver(self.root)
        self._listing, listing = None, self._list_files()
        with _as_errors():
            found = images_in(self.images) or images_below(self.images, passed_over.unread)
            found = without_results(found, self.images, self.masks)
            for path in images_deeper(self.images, self.masks, passed_over.unread):
                passed_over.add(path, "in a subfolder, while other images lie in the folder itself; move it to them")
        images = passed_over.keep_images(found, self.masks)
        if not images:
            raise UsageError(
                f"{format_path(self.images)}: holds no image that can be annotated",
                "a folder of images",
                "; ".join(passed_over.lines()) or "copy images into it",
            )
        # The masks of images that lead nowhere fit an image, but one that is not there.
        gone = [path for path in found if leads_nowhere(path)]
        with _as_errors():
            masks = find_masks([*images, *gone], self.images, self.masks, self._written_to, self._written, passed_over)
        entries = {}
        for path in images:
            name = path.relative_to(self.images).as_posix()
            id_ = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
            entries[id_] = Entry(id_, name, path, masks.get(path))
        self.entries, self.passed_over, self._listing = entries, passed_over.lines(), listing

    def renew(self) -> None:
        """List the images again, unless no file has come, gone or changed that the list depends on.

        Where that fails, the former list stays, and the reason is in `passed_over`.
        """
        try:
            if self._listing is None or self._listing != self._list_files():
                self.scan()
        except SeptumError as error:
            self.passed_over = [str(error)]

    def mask_path(self, entry: Entry) -> Path:
        """Return the file that the mask of an image is written to: named as the mask that exists, or as the image."""
        mask = entry.mask
        if mask is None or is_drawn(mask):
            return self._written_to(entry.path)
        return mask.with_name(f"{image_stem(mask)}.tif")

    def _written_to(self, image: Path) -> Path:
        return self.masks / image.relative_to(self.images).parent / f"{image_stem(image)}.tif"

    def _list_files(self) -> list[Any] | None:
        """Return all that the list of images depends on; None with links, which may lead anywhere.

        Pairing the names of thousands of files takes fifty times as long as listing them.
        """
        listed: list[Any] = [_ask(self.labels, _OWN)]
        folders = [str(self.root)]
        apart = {str(self.runs), str(self.predictions)}
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as inside:
                    found = sorted((one for one in inside if not one.name.startswith(".")), key=attrgetter("name"))
                if any(one.is_symlink() for one in found):
                    return None
                listed.append((folder, [_describe_file(one) for one in found]))
                inner = [one.path for one in found if one.is_dir() and one.path not in apart]
            except OSError as error:
                listed.append((folder, error.errno))
                continue
            folders += [path for path in inner if not is_zarr(Path(path))]
        return listed

    def _written(self) -> dict[Path, Path]:
        """Return the masks that the studio wrote and that exist, by image."""
        written = {}
        for name, noted in _ask(self.labels, _OWN):
            mask = self.root / noted
            if Path(noted).is_absolute():  # of version 0.2.0; the folder may have moved since
                mask = self.masks / Path(name).parent / Path(noted).name
            if mask.is_file():
                written[self.images / name] = mask
        return written

    def open(self, entry: Entry) -> Image:
        """Return an opened image; a few stay open.

        Raises
        ------
        SeptumError
            If the file cannot be read.
        """
        with self._lock:
            image = self._opened.get(entry.id)
            if image is None:
                image = open_image(entry.path, axes=self.axes)
                self._opened[entry.id] = image
                while len(self._opened) > _OPEN_IMAGES:
                    self._opened.popitem(last=False)  # closed with its last reader
            self._opened.move_to_end(entry.id)
            return image

    def forget(self, entry: Entry) -> None:
        """Open an image anew when it is asked for next: its file was replaced."""
        with self._lock:
            self._opened.pop(entry.id, None)

    def entry(self, id_: str) -> Entry:
        """Return an image by its id.

        Raises
        ------
        SeptumError
            If there is none.
        """
        if id_ not in self.entries:
            raise SeptumError("no such image", "the id of an image in the folder", "reload the page")
        return self.entries[id_]


def signature(path: Path) -> str:
    """Return sizes and times of a file, or of the first two levels of a folder, by which a change is noticed.

    Raises
    ------
    FileError
        If it is not there any more.
    """
    try:
        if not path.exists():
            raise FileError(
                f"{format_path(path)}: is not there any more",
                "the file that was there when the page was opened",
                "put it back, or reload the page",
            )
        inner = sorted(path.iterdir()) if path.is_dir() else []
        files = [path, *inner, *(p for folder in inner if folder.is_dir() for p in sorted(folder.glob("*.json")))]
        found = [(p.name, s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]]
    except OSError as error:
        raise as_error(path, error) from error
    if len(found) == 1:
        return json.dumps(found[0])
    return hashlib.blake2b(json.dumps(found).encode(), digest_size=16).hexdigest()


def _describe_file(file: os.DirEntry[str]) -> tuple[Any, ...]:
    """Return the name of a file, with size and time of change where its content tells which images it belongs to."""
    if file.is_dir() or file.name.rpartition(".")[2].lower() in _PLAIN:
        return file.name, file.is_dir()
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns


def _noted_folders(note: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks that were noted; None without a note, or if its images are gone."""
    try:
        names = json.loads(note.read_text(encoding="utf-8"))
        images, masks = (Path(names[role]) for role in ("images", "masks"))
    except (OSError, ValueError, TypeError, LookupError):
        return None
    if any(place.is_absolute() or ".." in place.parts for place in (images, masks)):
        return None
    root = note.parent.parent
    return (root / images, root / masks) if (root / images).is_dir() else None


def _choose_folders(root: Path, noted: tuple[Path, Path] | None, annotated: Sequence[str]) -> tuple[Path, Path]:
    """Return the folders of images and of masks under which most annotated images lie, by their names.

    A note alone is not enough: images may have been moved since, and older versions of Septum made none.
    """

    def count(folders: tuple[Path, Path]) -> int:
        return sum(split_scene(folders[0] / name)[0].exists() for name in annotated)

    if noted is not None and count(noted) == len(annotated):
        return noted
    try:
        return max([*([noted] if noted else []), *_likely_folders(root)], key=count)  # of equal ones the first
    except DataError:
        if noted is None:
            raise
        return noted


def _likely_folders(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield folders of images and of masks: of a data set, or the folder itself and ``masks`` in it; likely ones first.

    Raises
    ------
    DataError
        If several folders could be that of the images, or of the masks.
    """
    roles = role_folders(root)
    if roles is not None:
        yield roles
    for folder in subfolders(root):
        if folder.name.casefold() in IMAGE_FOLDERS and images_below(folder, []):
            yield folder, root / "masks"
    masks = [p for p in subfolders(root) if p.name.casefold() in MASK_FOLDERS]
    yield root, masks[0] if masks else root / "masks"


@contextmanager
def _as_errors() -> Iterator[None]:
    """Turn errors of folders that cannot be read into words."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{format_path(error.filename or 'the folder')}: cannot be read ({error.strerror})",
            "folders that you may read",
            "check its rights, or move it away",
        ) from error


def _ask(labels: Path, question: str) -> list[Any]:
    """Return what a file of labels answers; nothing without one, or if it is damaged, which `LabelStore` says."""
    try:
        with closing(sqlite3.connect(f"{labels.as_uri()}?mode=ro", uri=True, timeout=20)) as db:
            return db.execute(question).fetchall()
    except sqlite3.Error:
        return []
