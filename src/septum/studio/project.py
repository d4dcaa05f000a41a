"""The folder of a studio: images with opaque ids, the store of labels, masks and runs.

::

    FOLDER/images/ or FOLDER/     the images; they are never changed
    FOLDER/masks/                 what was annotated, a mask for each image: an ordinary data set
    FOLDER/runs/                  trainings
    FOLDER/predictions/           results of "Predict all"
    FOLDER/.studio/               labels with their journal, and the cache of coarser levels
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from septum.errors import SeptumError, UsageError
from septum.io.atomic import as_error
from septum.io.files import list_images, open_image
from septum.io.formats import format_path, image_stem
from septum.io.image import Image
from septum.pairing.folders import IMAGE_FOLDERS, MASK_FOLDERS, images_in, role_folders, subfolders
from septum.pairing.names import masks_beside, match

_OPEN_IMAGES = 8


@dataclass(frozen=True)
class Entry:
    """An image of the folder: its opaque id, its name, its file, and the mask that exists beside it."""

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
            raise UsageError(f"{format_path(self.root)}: is not a folder", "a folder of images", "check the spelling")
        self._opened: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()
        self.images, self.masks = _folders(self.root)
        self.passed_over: list[str] = []
        self.scan()

    @property
    def work(self) -> Path:
        """Return the hidden folder of the studio."""
        return self.root / ".studio"

    @property
    def runs(self) -> Path:
        """Return the folder of trainings."""
        return self.root / "runs"

    @property
    def predictions(self) -> Path:
        """Return the folder of results."""
        return self.root / "predictions"

    def scan(self) -> None:
        """List the images; links that lead out of the folder are passed over and named.

        Raises
        ------
        UsageError
            If there is no image.
        """
        found = [path for path in list_images([self.images]) if not _is_made(path, self.root)]
        beside = set(masks_beside(found))
        outside = [path for path in found if not path.resolve().is_relative_to(self.root)]
        found = [path for path in found if path not in beside and path not in outside]
        self.passed_over = [f"{path.name}: a link to a file outside of the folder" for path in outside]
        if not found:
            raise UsageError(f"{format_path(self.images)}: holds no image", "a folder of images", "copy images into it")
        masks = images_in(self.masks) if self.masks.is_dir() else []
        partner = dict(match(found, masks).pairs) if masks else {}
        entries = {}
        for path in found:
            name = path.relative_to(self.images).as_posix()
            id_ = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
            entries[id_] = Entry(id_, name, path, partner.get(path))
        self.entries = entries

    def mask_path(self, entry: Entry) -> Path:
        """Return the file that the mask of an image is written to."""
        return self.masks / Path(entry.name).parent / f"{image_stem(entry.path)}.tif"

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
        inner = sorted(path.iterdir()) if path.is_dir() else []
        files = [path, *inner, *(p for folder in inner if folder.is_dir() for p in sorted(folder.glob("*.json")))]
        found = [(p.name, s.st_size, s.st_mtime_ns) for p in files for s in [p.stat()]]
    except OSError as error:
        raise as_error(path, error) from error
    if len(found) == 1:
        return json.dumps(found[0])
    return hashlib.blake2b(json.dumps(found).encode(), digest_size=16).hexdigest()


def _folders(root: Path) -> tuple[Path, Path]:
    """Return the folders of images and of masks: of a data set, or the folder itself and ``masks`` in it."""
    roles = role_folders(root)
    if roles is not None:
        return roles
    for folder in subfolders(root):
        if folder.name.casefold() in IMAGE_FOLDERS and images_in(folder):
            return folder, root / "masks"
    masks = [p for p in subfolders(root) if p.name.casefold() in MASK_FOLDERS]
    return root, masks[0] if masks else root / "masks"


def _is_made(path: Path, root: Path) -> bool:
    """Return True for files that the studio or a training made."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    return bool(parts[:-1]) and parts[0] in {"runs", "predictions", *MASK_FOLDERS}
