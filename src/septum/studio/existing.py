"""Masks that exist in a folder, paired with the images as for a training; files that are passed over, by reason."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from septum.errors import DataError, UsageError
from septum.folders import leads_nowhere
from septum.io.annotations.formats import split_place
from septum.io.files import images_below, images_in
from septum.io.formats import format_path
from septum.pairing.drawn import drawn_below, match_drawn
from septum.pairing.folders import by_subfolder, match_by_subfolder, subfolder_key, subfolders, without_results
from septum.pairing.names import Matches, image_key, is_second, mask_key, masks_beside, match, stem_key
from septum.words import list_some

_MOST_NAMES = 4


class PassedOver:
    """Files that are passed over, by reason.

    Parameters
    ----------
    root
        The folder of the studio.

    Attributes
    ----------
    unread
        Folders that may not be read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, list[str]] = defaultdict(list)
        self.unread: list[Path] = []

    def add(self, path: Path, reason: str) -> None:
        """Name a file, and the reason for which it is passed over."""
        name = path.relative_to(self._root) if path.is_relative_to(self._root) else path
        self._names[reason].append(format_path(os.fsencode(name).decode("utf-8", "backslashreplace")))

    def lines(self) -> list[str]:
        """Return a phrase for each reason, with the first names: ``"a.png, b.png: a link ..."``."""
        for folder in dict.fromkeys(self.unread):
            self.add(folder, "a folder that may not be read")
        self.unread.clear()
        return [f"{list_some(names, _MOST_NAMES)}: {reason}" for reason, names in self._names.items()]

    def keep_images(self, found: Sequence[Path], masks: Path) -> list[Path]:
        """Return the images that can be annotated; `masks` is the folder that their masks are written to."""
        named = []
        beside = set(masks_beside(found))
        for path in found:
            if not _is_utf8(path):
                self.add(path, "a name that is not UTF-8; rename the file")
            elif leads_nowhere(path):
                self.add(path, "a link that leads nowhere; fetch the file, as with `git annex get`")
            elif not path.resolve().is_relative_to(self._root):
                self.add(path, "a link to a file outside of the folder")
            elif path in beside:
                self.add(path, f"named as a mask; to show it, move it to {masks.name}/")
            else:
                named.append(path)
        images = []
        by_mask = defaultdict(list)
        for path in named:
            by_mask[path.parent, stem_key(path)].append(path)
        for path in named:
            if len(by_mask[path.parent, stem_key(path)]) == 1:
                images.append(path)
            else:
                self.add(path, "images of one name would share one mask; rename them, or move one away")
        return images


def find_masks(
    images: Sequence[Path],
    folder: Path,
    masks: Path,
    written_to: Callable[[Path], Path],
    written: Callable[[], Mapping[Path, Path]],
    passed_over: PassedOver,
) -> dict[Path, Path]:
    """Return, by image, the mask that exists: a file, or the place of drawn objects.

    Parameters
    ----------
    images
        The images.
    folder, masks
        The folder that holds them, and the folder of masks, which may be missing.
    written_to
        Returns the mask file that the studio writes for an image without a mask.
    written
        Returns the masks that the studio wrote, by image; each is the mask of its image where others fit as well.
    passed_over
        Takes the masks that fit no image.

    Raises
    ------
    UsageError
        If there is a folder of masks for each image, with a file for each object.
    DataError
        If two files claim the same image, of which the studio wrote none.
    FileError
        If a file of drawn objects cannot be read.
    """
    found: dict[Path, Path] = {}
    if masks.is_dir():
        _refuse_object_masks([path for path in images if path.parent == folder], masks)
        files = images_below(masks, passed_over.unread)
        try:
            found = _mask_images(images, files, folder, masks, written_to)
        except DataError:
            others = find_others(written(), files, images, folder, masks)
            if not others:
                raise
            for path in others:
                passed_over.add(path, "masks of images for which the studio wrote a mask; move one of the two away")
            files = [path for path in files if path not in set(others)]
            found = _mask_images(images, files, folder, masks, written_to)
        for path in sorted(set(files).difference(found.values())):
            passed_over.add(path, "masks that fit no image by name; name them after their images")
    places = drawn_below(masks, passed_over.unread) if masks.is_dir() else []
    places += without_results(drawn_below(folder, passed_over.unread), folder, masks)
    drawn = [path for path in dict.fromkeys(places) if _is_utf8(path)]
    if drawn:
        matches = match_drawn(images, drawn, folder, masks)
        found = dict(matches.pairs) | found
        for path in matches.masks_left:
            passed_over.add(split_place(path)[0], "drawn objects that fit no image by name")
    return found


def find_others(
    written: Mapping[Path, Path], files: Sequence[Path], images: Sequence[Path], folder: Path, masks: Path
) -> list[Path]:
    """Return the masks that fit, by their names, an image that has a mask of the studio.

    Parameters
    ----------
    written
        The masks of the studio by image; they are left out.
    files
        Masks in `masks`.
    images
        All images.
    folder, masks
        The folders that hold the images and the masks.
    """
    stems = {(image.parent, stem_key(image)) for image in images}
    taken = set()
    for image in written:
        place = subfolder_key(image, folder)
        taken.add((place, stem_key(image)))
        # a_mask.png is that of a.png, if there is one, not of img_a.png
        if (image.parent, image_key(image)) not in stems:
            taken.add((place, image_key(image)))
    own = set(written.values())
    return [
        file
        for file in files
        if file not in own
        and not is_second(file)
        and taken & {(subfolder_key(file, masks), key) for key in (stem_key(file), mask_key(file))}
    ]


def _mask_images(
    images: Sequence[Path], files: Sequence[Path], folder: Path, masks: Path, written_to: Callable[[Path], Path]
) -> dict[Path, Path]:
    """Return, by image, the image file of its mask."""
    exist, known = set(files), set(images)
    unmatched = _match(images, files, folder, masks).images_left
    planned = {written_to(image) for image in unmatched if image in known} - exist
    # Some names fit only as long as no mask is named after its image, and the studio names masks so.
    matches = _match(images, [*files, *planned], folder, masks)
    return {image: mask for image, mask in matches.pairs if image in known and mask in exist}


def _match(images: Sequence[Path], files: Sequence[Path], folder: Path, masks: Path) -> Matches:
    return match_by_subfolder(by_subfolder(images, folder), by_subfolder(files, masks))


def _refuse_object_masks(images: Sequence[Path], masks: Path) -> None:
    """Refuse a folder of masks with a folder for each image: `septum.pairing` reads it only without other masks."""
    inside = [] if images_in(masks) else [path for path in subfolders(masks) if images_in(path)]
    if images and inside and match(images, inside).pairs:
        raise UsageError(
            f"{format_path(masks)}: a folder of masks for each image, with a file for each object",
            "one mask for each image",
            f"run: septum check {images[0].parent} {masks} --fix OUT, then open OUT",
        )


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
