"""Read the files of a data set, each decoded once while its arrays fit into memory.

The check reads each image and mask to compute statistics; training, the report of a run and the repaired copy need the
same arrays again. `Files` keeps them between the two, up to a limit, and gives them up once samples are made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Lock
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
from septum.io.image import Image
from septum.io.selection import EVERYTHING, Selection, check_axes
from septum.kept import KeptArrays, KeptValues, Memory
from septum.pairing.drawn_masks import class_numbers, read_drawn_mask
from septum.pairing.fit import Change, Grid, fit_mask, holds_all_axes, with_axes
from septum.pairing.pair import Pairing
from septum.pairing.parts import BYTES_OF_VALUE, is_large, require_room
from septum.settings import MaskKind
from septum.threads import usable_cores

# Images of more values are analyzed one at a time: each takes many times its own memory.
_LARGE = 1 << 22


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
    memory
        Memory of the arrays. Of the files that do not fit, each thread keeps its latest; another one is read again when
        it is needed again.

    Attributes
    ----------
    names
        Name of each class by its value in the masks, where the data set names them.
    samples
        Samples (`septum.pairing.sample.Sample`) made of the files, by name, as long as they are in use.
    found_background
        Value of the background of masks of ids without 0, once it is certain; else 0.
    values
        Arrays of samples that do not all fit into the memory, the latest used ones.
    """

    def __init__(
        self,
        ignore: Sequence[int] = (),
        memory: Memory | None = None,
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
        self.found_background, self._rims = 0, tuple[int, ...]()
        self.samples: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.memory = memory or Memory()
        self.values = KeptValues((1 << 62) if self.memory.limit_bytes is None else self.memory.limit_bytes)
        self._kept = KeptArrays(self.memory.kept)
        self._large = Lock()
        self._held: list[Any] = []

    def image(self, path: Path, named_axes: str | None = None) -> Image:
        """Read an image; `named_axes` as in `septum.io.files.open_image`, by default those of all images.

        A large one (`septum.pairing.parts.is_large`) stays in its file, and is read by indexing.

        Raises
        ------
        FileError
            If the file cannot be read.
        UsageError
            If the axes do not fit it.
        """
        from septum.io.files import open_image

        named_axes = named_axes or self.axes
        kept: Image | None = self._kept.find("image", path)
        if kept is not None and named_axes in (None, kept.file_axes):
            return kept
        if kept is not None and named_axes is not None and holds_all_axes(kept):
            image = with_axes(kept, named_axes)
        else:
            image = open_image(path, axes=named_axes, selection=self.selection)
            if not is_large(image):
                require_room(image, self.memory.limit_bytes)
                image = image.load()
        return self._keep(path, image)

    def load(self, path: Path) -> Image:
        """Read a large image whole, because its mask cannot be read in parts."""
        image = self.image(path)
        require_room(image, self.memory.limit_bytes)
        return self._keep(path, image.load())

    def _keep(self, path: Path, image: Image) -> Image:
        self._kept.keep("image", path, image, 0 if is_large(image) else image.array.nbytes)
        return image

    def in_turn(self, values: int) -> AbstractContextManager[object]:
        """Return a context in which one thread at a time works on a large image of this many values."""
        limit = self.memory.limit_bytes
        most = _LARGE if limit is None else min(_LARGE, limit // (BYTES_OF_VALUE * usable_cores()))
        return self._large if values > most else nullcontext()

    def stored_mask(self, path: Path) -> Image:
        """Open the mask of a large image, which stays in its file; see `mask` for the errors."""
        from septum.io.files import open_image

        mask: Image = self._read("stored mask", path, lambda: open_image(path, labels=True), lambda _: 0)
        return mask

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
        self.found_background, self._rims = background, tuple(rims)
        self._kept.drop_where(lambda role, _: role == "labels")

    def interpreted(self, labels: NDArray[np.int32], *, zeros: bool) -> NDArray[np.int32]:
        """Give values that mean not annotated, and the background, their values, in a part of a mask.

        Parameters
        ----------
        labels
            ``(n,)`` or ``(*S)`` int32 labels of any value.
        zeros
            The mask holds 0 somewhere.

        Returns
        -------
        labels
            Of the same shape, int32: `UNANNOTATED` where not annotated, 0 for the background.
        """
        met = [value for value in (*self.ignore, *self._rims) if (labels == value).any()]
        found = 0 if zeros else self.found_background
        read = set_background(labels, found if self.background is None else self.background, certain=True)
        return np.where(np.isin(labels, met), np.int32(UNANNOTATED), read) if met else read

    def _interpret(self, labels: Labels) -> Labels:
        """Give values that mean not annotated, and the background, their values."""
        array = labels.array
        met = tuple(value for value in self.ignore if (array == value).any())
        background = self.found_background if self.background is None else self.background
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
        self._kept.drop(paths)

    def release_labels(self) -> None:
        """Give up the labels of all masks, which are read anew where images get other axes; files stay in memory."""
        self._kept.drop_where(lambda role, path: role == "labels" or (role == "mask" and path in self._filled))

    def release_all_but(self, paths: Iterable[Path]) -> None:
        """Give up the arrays of all files but some."""
        wanted = set(paths)
        self._kept.drop_where(lambda _, path: path not in wanted)

    def _read(self, role: str, path: Path, read: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        arrays = self._kept.find(role, path)
        if arrays is None:
            arrays = read()
            self._kept.keep(role, path, arrays, size(arrays))
        return arrays


def open_files(
    pairing: Pairing,
    kind: MaskKind | None,
    ignore: Sequence[int],
    memory: Memory,
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
    ignore, memory, axes, selection, background
        See `Files`.
    """
    classes = class_numbers(pair.mask for pair in pairing.pairs) if kind == "classes" else None
    stated = () if pairing.notes is None else pairing.notes.ignore
    ignored, axes = (*ignore, *stated), check_axes(axes)
    files = Files(ignored, memory, axes=axes, selection=selection, background=background, classes=classes)
    if classes:
        files.names = {0: "background", **{number: name for name, number in classes.items()}}
    elif pairing.notes is not None:
        files.names = pairing.notes.names
    return files


def is_lossy(path: Path) -> bool:
    """Return True if the format of a file changes the values that are saved."""
    kind = format_of(path.name)
    return kind is not None and kind.lossy


def image_frames(image: Image) -> NDArray[Any]:
    """Return an image as frames.

    Returns
    -------
    frames
        ``(T, C, *S)`` of the dtype and intensities of the image; T is 1 if the image has none.
    """
    return image.array if "T" in image.axes else image.array[np.newaxis]
