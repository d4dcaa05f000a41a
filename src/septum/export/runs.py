"""Read the objects of a label image in bands of rows, as runs of pixels: in bounded memory, each band once.

A frame is a plane, or a volume whose slices follow each other. The runs of a frame are the same however many rows a
band has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.io.image import Image
from septum.words import pluralize

LABEL, SLICE, ROW, START, STOP = range(5)
"""Columns of runs: the object (its label or number), slice, row, first column, and the column after the last."""

_PIXELS, _MOST_PIXELS, _ROWS = 2**22, 2**25, 256  # of a band; files are cut into pieces of 256 rows or a multiple


@dataclass(frozen=True)
class Frame:
    """One plane or volume of a label image, and the image that it was made of.

    Attributes
    ----------
    labels
        The label image.
    t
        Time point, 0 where there is none.
    z
        Slice; None for a volume.
    """

    labels: Image
    t: int
    z: int | None

    @property
    def sides(self) -> tuple[int, int, int]:
        """Slices, rows and columns."""
        found = dict(zip(self.labels.axes, self.labels.shape, strict=True))
        return found.get("Z", 1) if self.z is None else 1, found["Y"], found["X"]

    def read(self, image: Image, channel: int, z: int, rows: slice) -> NDArray[Any]:
        """Read rows of a slice of this frame from an image of the same axes.

        Parameters
        ----------
        image
            The label image, or one with its T, Z, Y and X.
        channel
            Number of the channel.
        z
            Slice in the frame.
        rows
            Rows.

        Returns
        -------
        ndarray
            ``(Y, X)`` of the dtype of the image, any values.
        """
        place: dict[str, int | slice] = {"T": self.t, "C": channel, "Z": z if self.z is None else self.z, "Y": rows}
        return image[tuple(place.get(a, slice(None)) for a in image.axes)]


def split_labels(labels: Image, *, slices: bool = False) -> list[Frame]:
    """Return the frames of a label image.

    Parameters
    ----------
    labels
        Integers in one channel.
    slices
        The slices of a stack are images of their own, and so are their objects; otherwise a stack is a volume.

    Raises
    ------
    DataError
        If the image holds no ids: real numbers, or several channels.
    """
    sides = dict(zip(labels.axes, labels.shape, strict=True))
    where = labels.name or "the label image"
    if labels.dtype.kind not in "iub" or sides["C"] != 1:
        given = pluralize(sides["C"], "channel") if sides["C"] != 1 else f"values of type {labels.dtype}"
        raise DataError(f"{where}: {given}", "whole numbers in one channel: ids or classes", "name a label image")
    layers: Sequence[int | None] = range(sides["Z"]) if slices and "Z" in sides else [None]
    return [Frame(labels, t, z) for t, z in product(range(sides.get("T", 1)), layers)]


@dataclass(frozen=True, eq=False)
class Band:
    """Rows of one slice of a frame.

    Attributes
    ----------
    runs
        ``(N, 5)`` int64 runs of labels 1 or more in these rows, in scan order.
    labels
        ``(Y, X)`` int32 or int64: these rows, and up to two rows before and after them.
    top
        Row of the frame that is the first of `labels`.
    z, rows
        Slice and rows of the frame.
    """

    runs: NDArray[np.int64]
    labels: NDArray[Any]
    top: int
    z: int
    rows: slice


def band_height(width: int) -> int:
    """Return the rows of a band of an image of `width` columns: about 4 million pixels, and 256 rows or a multiple.

    Wider bands than that would take memory, narrower ones would read the pieces of a file several times.
    """
    rows = _PIXELS // width // _ROWS * _ROWS
    return rows or max(1, min(_ROWS, _MOST_PIXELS // width))


def read_bands(frame: Frame, *, height: int | None = None, rim: int = 0) -> Iterator[Band]:
    """Read a frame band by band, slice by slice.

    Parameters
    ----------
    frame
        The frame.
    height
        Rows of a band; None: by `band_height`.
    rim
        Rows before and after each band that are given as well, as far as the slice has them.
    """
    from septum.export._runs import find_runs

    depth, rows, columns = frame.sides
    height = height or band_height(columns)
    for z in range(depth):
        kept = np.empty((0, columns), np.int32)
        top = done = 0
        for start in range(0, rows, height):
            stop = min(start + height, rows)
            part = _integers(frame.read(frame.labels, 0, z, slice(start, stop)))
            kept = np.concatenate([kept, part]) if len(kept) else part
            end = stop if stop == rows else max(done, stop - rim)
            if end > done:
                core = kept[done - top : end - top]
                yield Band(find_runs(core, z, done), kept, top, z, slice(done, end))
            left = max(top, end - rim)
            kept, top, done = kept[left - top :], left, end


def _integers(part: NDArray[Any]) -> NDArray[Any]:
    """Return labels as int32 if they fit, else as int64, so that loops are compiled for two types only."""
    if part.dtype.itemsize < 4 or part.dtype == np.int32:
        return part.astype(np.int32, copy=False)
    highest = int(part.max(initial=0))
    if highest > np.iinfo(np.int64).max:
        raise DataError(f"the label {highest}", "labels up to 2**63 - 1", "number the objects from 1")
    small = highest <= np.iinfo(np.int32).max and int(part.min(initial=0)) >= np.iinfo(np.int32).min
    return part.astype(np.int32 if small else np.int64, copy=False)


@dataclass
class Numbers:
    """Numbers 0, 1, ... of labels in the order in which they were met."""

    of: dict[int, int] = field(default_factory=dict)

    def number(self, runs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return runs with the numbers of their labels.

        Parameters
        ----------
        runs
            ``(N, 5)`` int64 runs of labels, in pixels.

        Returns
        -------
        runs
            ``(N, 5)`` int64 runs in pixels, of numbers from 0 on.
        """
        labels, inverse = np.unique(runs[:, LABEL], return_inverse=True)
        numbers = np.array([self.of.setdefault(label, len(self.of)) for label in labels.tolist()], np.int64)
        numbered = runs.copy()
        numbered[:, LABEL] = numbers[inverse] if len(labels) else 0
        return numbered


def complete_objects(frame: Frame, *, height: int | None = None) -> Iterator[NDArray[np.int64]]:
    """Read the whole objects of a plane, those that end first first; of equal ends the lower label.

    An object is given as soon as its last row is read: memory holds the runs of those that are not complete. The image
    is read twice, the first time to find the last rows.

    Parameters
    ----------
    frame
        A plane, or a volume, whose slices are planes then.
    height
        Rows of a band; None: by `band_height`. The order does not depend on it.

    Yields
    ------
    runs
        ``(N, 5)`` int64 runs in pixels, of some objects of one slice; those of each object follow each other in scan
        order.
    """
    ends: dict[tuple[int, int], int] = {}
    for band in read_bands(frame, height=height):
        labels, last = _last_rows(band.runs)
        ends.update(zip(((band.z, label) for label in labels.tolist()), last.tolist(), strict=True))
    waiting = np.empty((0, 5), np.int64)
    for band in read_bands(frame, height=height):
        runs = np.concatenate([waiting, band.runs])
        labels, inverse = np.unique(runs[:, LABEL], return_inverse=True)
        last = np.array([ends[band.z, label] for label in labels.tolist()], np.int64)
        if not len(labels):
            continue
        complete = (last < band.rows.stop)[inverse]
        done, last = runs[complete], last[inverse][complete]
        waiting = runs[~complete]
        if len(done):
            yield done[np.lexsort((done[:, LABEL], last))]  # stable: runs of an object stay in scan order


def _last_rows(runs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels of runs in scan order, rising, and the last row of each."""
    labels, backwards = np.unique(runs[::-1, LABEL], return_index=True)
    return labels, runs[::-1, ROW][backwards]
