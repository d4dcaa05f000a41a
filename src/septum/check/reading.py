"""Read the files of a data set, each decoded once while its arrays fit into memory.

The check reads each image and mask to compute statistics; training, the report of a run and the repaired copy need the
same arrays again. `Files` keeps them between the two, up to a limit, and gives them up once samples are made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Lock, local
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.check.background import set_background
from septum.check.issues import format_shape
from septum.check.masks import Labels, read_labels
from septum.errors import DataError, FileError
from septum.io.annotations.formats import is_drawn
from septum.io.annotations.raster import Filled
from septum.io.formats import format_of, format_path
from septum.io.image import Image, StoredImage
from septum.io.selection import EVERYTHING, Selection, check_axes
from septum.pairing.drawn_masks import class_numbers, read_drawn_mask
from septum.pairing.fit import Change, Grid, fit_mask
from septum.pairing.pair import Pairing
from septum.settings import MaskKind

# Arrays that are kept may take this share of the free memory, and this many bytes at most: a container may have less
# memory than the machine reports.
_SHARE, _MOST_BYTES = 0.25, 1 << 30
# Images of more values are analyzed one at a time: each takes many times its own memory.
_LARGE = 1 << 22


def default_limit_bytes() -> int:
    """Return the bytes that kept arrays may take: a quarter of the free memory, 1 GiB at most."""
    import psutil

    return min(_MOST_BYTES, int(_SHARE * psutil.virtual_memory().available))


class Files:
    """Reader of the files of a data set that keeps arrays while they fit into memory.

    Parameters
    ----------
    ignore
        Mask values that mean not annotated, beside -1.
    axes
        Axes of the image files, for files that do not state them right; see `septum.io.files.read_mask` for masks.
    selection
        Channels, and the level of a pyramid, that are read of the images.
    background
        Value of the background of the masks if the user names it; None: 0, or another value where that is certain.
    classes
        Number of each class of drawn objects by its name, to read their classes; None to give each object an id.
    limit_bytes
        Bytes that kept arrays may take; None: `default_limit_bytes`. Of the files that do not fit, each thread keeps
        its latest; another one is read again when it is needed again.

    Attributes
    ----------
    names
        Name of each class by its value in the masks, where the data set names them.
    samples
        Samples (`septum.check.samples.Sample`) made of the files, by name, as long as they are in use.
    """

    def __init__(
        self,
        ignore: Sequence[int] = (),
        limit_bytes: int | None = None,
        *,
        axes: str | None = None,
        selection: Selection = EVERYTHING,
        background: int | None = None,
        classes: Mapping[str, int] | None = None,
    ) -> None:
        self.ignore = tuple(ignore)
        self.axes, self.selection = axes, selection
        self.background = background
        self.classes = classes
        self.names: Mapping[int, str] = {}
        self._filled: dict[Path, Filled] = {}
        self._found_background, self._rims = 0, tuple[int, ...]()
        self.samples: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._kept = _KeptArrays(default_limit_bytes() if limit_bytes is None else limit_bytes)
        self._large = Lock()
        self._held: list[Any] = []

    def image(self, path: Path, named_axes: str | None = None) -> Image:
        """Read an image; `named_axes` as in `septum.io.files.open_image`, by default those of all images.

        Raises
        ------
        FileError
            If the file cannot be read.
        UsageError
            If the axes do not fit it.
        """
        from septum.io.files import read_image

        named_axes = named_axes or self.axes
        kept: Image | None = self._kept.find("image", path)
        if kept is not None and named_axes in (None, kept.file_axes):
            return kept
        if kept is not None and named_axes is not None and _holds_all_axes(kept):
            image = _with_axes(kept, named_axes)
        else:
            image = read_image(path, axes=named_axes, selection=self.selection)
        self._kept.keep("image", path, image, image.array.nbytes)
        return image

    def in_turn(self, values: int) -> AbstractContextManager[object]:
        """Return a context in which one thread at a time works on a large image of this many values."""
        return self._large if values > _LARGE else nullcontext()

    def mask(self, path: Path, grid: Grid | None = None) -> Image:
        """Read a mask as stored; a folder of one mask per object, and drawn objects, are read as one mask of ids.

        Parameters
        ----------
        path
            The mask, or the place of drawn objects (`septum.io.annotations.formats`).
        grid
            The grid of its image, on which drawn objects are filled.

        Raises
        ------
        FileError
            If the file cannot be read, or objects are drawn on an image that cannot be read.
        UsageError
            If the axes do not fit it.
        """
        from septum.io.files import read_mask
        from septum.pairing.object_folders import is_object_folder, read_object_masks

        def read() -> Image:
            if is_drawn(path):
                return self._read_drawn(path, grid)
            if is_object_folder(path):
                return read_object_masks(path)
            sides = None if grid is None or grid.full_sides is None else (grid.shape[-2], grid.shape[-1])
            return read_mask(path, axes=self.axes, sides=sides)

        mask: Image = self._read("mask", path, read, lambda image: image.array.nbytes)
        return mask

    def _read_drawn(self, path: Path, grid: Grid | None) -> Image:
        if grid is None:
            given = f"{format_path(path)}: drawn objects of an image that cannot be read"
            raise FileError(given, "an image that can be read", "export the image again")
        mask, filled = read_drawn_mask(path, grid, classes=self.classes)
        if filled is not None:
            self._filled[path] = filled
        return mask

    def filled(self, path: Path) -> Filled | None:
        """Return the record of the drawn objects of a mask that was read; None for other masks."""
        return self._filled.get(path)

    def fitted(self, path: Path, grid: Grid | None) -> tuple[Image, tuple[Change, ...]]:
        """Read a mask and fit it to the grid of its image; see `septum.pairing.fit.fit_mask`.

        Parameters
        ----------
        path
            The mask.
        grid
            The grid; None if the image could not be read: the mask stays as it is stored.

        Raises
        ------
        FileError
            If the file cannot be read.
        """
        mask = self.mask(path, grid)
        return (mask, ()) if grid is None else fit_mask(mask, grid)

    def labels(self, path: Path, grid: Grid | None) -> list[Labels]:
        """Read a mask as labels, one per frame.

        Parameters
        ----------
        path, grid
            See `fitted`.

        Raises
        ------
        FileError
            If the file cannot be read.
        """

        def read() -> list[Labels]:
            frames = image_frames(self.fitted(path, grid)[0])
            return [self._interpret(read_labels(frame, lossy=is_lossy(path))) for frame in frames]

        found: list[Labels] = self._read(
            "labels", path, read, lambda labels: sum(frame.array.nbytes for frame in labels)
        )
        return found

    def interpret(self, *, background: int, rims: Sequence[int]) -> None:
        """Read masks of ids without 0 with another background, and rims as not annotated, from now on."""
        self._found_background, self._rims = background, tuple(rims)
        self._kept.drop(lambda role, _: role == "labels")

    def _interpret(self, labels: Labels) -> Labels:
        """Give values that mean not annotated, and the background, their values."""
        array = labels.array
        met = tuple(value for value in self.ignore if (array == value).any())
        background = self._found_background if self.background is None else self.background
        read = set_background(array, background, certain=self.background is not None)
        swapped = read is not array
        if void := [*met, *self._rims]:
            read = np.where(np.isin(array, void), np.int32(UNANNOTATED), read)
        return replace(labels, array=read, ignored=met, background=background if swapped else 0)

    def field(self, path: Path, sides: Sequence[int]) -> NDArray[np.bool_]:
        """Read the mask of a field of view.

        Parameters
        ----------
        path
            The mask: values above half of the largest one are inside, so that JPEG artifacts do no harm.
        sides
            Sides of the image, in pixels.

        Returns
        -------
        inside
            ``(*S)`` bool of the given sides, True inside.

        Raises
        ------
        FileError
            If the file cannot be read.
        DataError
            If it has other sides, or nothing is inside.
        """
        from septum.io.files import read_image

        def read() -> NDArray[np.bool_]:
            values = read_image(path, labels=True).array
            brightest = values[: 1 if len(values) < 3 else 3].max(axis=0)  # without alpha
            if brightest.shape == tuple(sides) and not brightest.max(initial=0) > 0:
                raise DataError(
                    f"{format_path(path)}: nothing is inside",
                    "values above 0 where the image shows something",
                    "export the mask again, or move it away",
                )
            return np.asarray(brightest > brightest.max(initial=0) / 2)

        inside: NDArray[np.bool_] = self._read("field", path, read, lambda array: array.nbytes)
        if inside.shape != tuple(sides):
            given = f"image {format_shape(sides)}, field of view {format_shape(inside.shape)}"
            raise DataError(
                f"{format_path(path)}: {given}", "the size of its image", "export the mask again, or move it away"
            )
        return inside

    def hold(self, names: Iterable[str]) -> None:
        """Hold the samples of these names in memory, and no others, so that their files are not read again."""
        self._held = [self.samples[name] for name in names if name in self.samples]

    def release(self, paths: Iterable[Path]) -> None:
        """Give up the arrays of some files."""
        released = set(paths)
        self._kept.drop(lambda _, path: path in released)

    def release_labels(self) -> None:
        """Give up the labels of all masks, which are read anew where images get other axes; files stay in memory."""
        self._kept.drop(lambda role, path: role == "labels" or (role == "mask" and path in self._filled))

    def release_all_but(self, paths: Iterable[Path]) -> None:
        """Give up the arrays of all files but some."""
        wanted = set(paths)
        self._kept.drop(lambda _, path: path not in wanted)

    def _read(self, role: str, path: Path, read: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        arrays = self._kept.find(role, path)
        if arrays is None:
            arrays = read()
            self._kept.keep(role, path, arrays, size(arrays))
        return arrays


class _KeptArrays:
    """Arrays by their role and file, up to a limit in bytes; and of those beyond it the latest of each thread."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._bytes = limit_bytes, 0
        self._arrays: dict[tuple[str, Path], tuple[Any, int]] = {}
        self._lock, self._thread = Lock(), local()

    @property
    def _latest(self) -> dict[str, tuple[Path, Any]]:
        latest: dict[str, tuple[Path, Any]] = self._thread.__dict__.setdefault("latest", {})
        return latest

    def find(self, role: str, path: Path) -> Any:
        """Return the arrays of a file if they are kept, else None."""
        with self._lock:
            if (role, path) in self._arrays:
                return self._arrays[role, path][0]
        latest, value = self._latest.get(role, (None, None))
        return value if latest == path else None

    def keep(self, role: str, path: Path, value: Any, size: int) -> None:
        with self._lock:
            self._bytes -= self._arrays.pop((role, path), (None, 0))[1]
            if self._bytes + size <= self._limit:
                self._arrays[role, path] = (value, size)
                self._bytes += size
                return
        self._latest[role] = (path, value)

    def drop(self, stale: Callable[[str, Path], bool]) -> None:
        """Give up the arrays whose role and file are named."""
        with self._lock:
            for key in [key for key in self._arrays if stale(*key)]:
                self._bytes -= self._arrays.pop(key)[1]
        for role, (path, _) in list(self._latest.items()):
            if stale(role, path):
                del self._latest[role]


def open_files(
    pairing: Pairing,
    kind: MaskKind | None,
    ignore: Sequence[int],
    limit_bytes: int | None,
    *,
    axes: str | None,
    selection: Selection = EVERYTHING,
    background: int | None,
) -> Files:
    """Return the reader of a data set, which knows the classes of its drawn objects and of its ``dataset.json``.

    Parameters
    ----------
    pairing
        The files.
    kind
        Meaning of the mask values, if the user names it; drawn objects are classes then, or get an id each.
    ignore, limit_bytes, axes, selection, background
        See `Files`.
    """
    classes = class_numbers(pair.mask for pair in pairing.pairs) if kind == "classes" else None
    stated = () if pairing.notes is None else pairing.notes.ignore
    ignored, axes = (*ignore, *stated), check_axes(axes)
    files = Files(ignored, limit_bytes, axes=axes, selection=selection, background=background, classes=classes)
    if classes:
        files.names = {0: "background", **{number: name for name, number in classes.items()}}
    elif pairing.notes is not None:
        files.names = pairing.notes.names
    return files


def is_lossy(path: Path) -> bool:
    """Return True if the format of a file changes the values that are saved."""
    kind = format_of(path.name)
    return kind is not None and kind.lossy


def _holds_all_axes(image: Image) -> bool:
    """Return True if an image in memory has all dimensions of its file, so that they can get other names."""
    return set(image.file_axes) <= set(image.axes) and image.orientation == 1


def _with_axes(image: Image, axes: str) -> Image:
    """Return an image whose dimensions in the file are named by `axes` instead."""
    order = [image.axes.index(axis) for axis in image.file_axes]
    missing = [at for at in range(len(image.axes)) if at not in order]  # C of length 1
    array = image.array.transpose([*missing, *order]).reshape([image.shape[at] for at in order])
    stored = StoredImage.from_array(array, axes)
    stored = replace(stored, pixel_size_um=image.pixel_size_um, affine=image.affine)
    return Image(stored, image.location, named=True).load()


def image_frames(image: Image) -> NDArray[Any]:
    """Return an image as frames.

    Returns
    -------
    frames
        ``(T, C, *S)`` of the dtype and intensities of the image; T is 1 if the image has none.
    """
    return image.array if "T" in image.axes else image.array[np.newaxis]
