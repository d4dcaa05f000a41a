"""Open a predicted file and its truth, and cut them into the frames that are scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.evaluation.pairs import ScoredPair
from septum.io.files import read_image, read_mask
from septum.io.formats import format_path
from septum.io.image import Image
from septum.pairing.fit import Grid, disagreement, fit_mask, grid_of


@dataclass(frozen=True)
class ScoredFrame:
    """One image, section or volume with its truth.

    Attributes
    ----------
    name
        Unique name: that of the pair, with the index of the frame if the file holds several: ``"stack[3]"``.
    item
        The pair of files that it comes from.
    truth
        ``(*S)`` integers as in the file; negative pixels are not annotated.
    predicted
        ``(*S)`` integers as in the file; None if `probability` is given.
    probability
        ``(K, *S) float32`` in [0, 1]; None if the file holds integers.
    ignore
        ``(*S)`` bool, True where a pixel does not count, or None.
    spacing_um
        Micrometers per pixel along each axis, or None.
    notes
        What was done to compare the two files, as phrases.
    """

    name: str
    item: ScoredPair
    truth: NDArray[np.integer[Any]]
    predicted: NDArray[np.integer[Any]] | None
    probability: NDArray[np.float32] | None
    ignore: NDArray[np.bool_] | None
    spacing_um: tuple[float, ...] | None
    notes: tuple[str, ...] = ()


def open_frames(item: ScoredPair, *, sections: bool, axes: str | None = None) -> list[ScoredFrame]:
    """Read a predicted file and its truth, and cut them into frames.

    Parameters
    ----------
    item
        A pair from `septum.evaluation.pairs.pair_with_truth`.
    sections
        Also cut volumes into their Z sections (time series are always cut).
    axes
        Axes of the files, for files that do not state them right; see `septum.io.files.read_mask`.

    Raises
    ------
    SeptumError
        If a file cannot be read, holds no labels, or the sizes or the places of the voxels differ.
    """
    truth, predicted, notes = read_fitted(item, axes=axes)
    true, true_axes = labels_of(truth)
    values, own_axes = _values_of(predicted)
    if item.section is not None:
        values, own_axes = _slice(values, own_axes, item)
    if values.shape[1:] != true.shape:
        raise DataError(
            f"{format_path(item.predicted)}: {_size(values.shape[1:], own_axes)} pixels, "
            f"{format_path(item.truth)}: {_size(true.shape, true_axes)}",
            "the same size",
            "compare images that belong to each other",
        )
    # Pages without axes are read as time; if the other file says that they are slices, they are.
    own_axes = own_axes if "Z" in own_axes else true_axes
    walked = len(own_axes) - (2 if sections or "Z" not in own_axes else 3)
    ignore = None if item.ignore is None else _ignored(item.ignore, true.shape, grid_of(predicted))
    size = {**predicted.pixel_size_um, **truth.pixel_size_um}
    spacing = tuple(size[a] for a in own_axes[walked:]) if all(a in size for a in own_axes[walked:]) else None
    frames = []
    for place in np.ndindex(true.shape[:walked]):
        part = values[(slice(None), *place)]
        real = part.dtype.kind == "f"
        frames.append(
            ScoredFrame(
                name=item.name + (f"[{','.join(map(str, place))}]" if place else ""),
                item=item,
                truth=true[place],
                predicted=None if real else part[0],
                probability=part.astype(np.float32) if real else None,
                ignore=None if ignore is None else ignore[place],
                spacing_um=spacing,
                notes=notes,
            )
        )
    return frames


_NOTES = {
    "oriented": "the truth was put in the orientation of the prediction, by the affines of the files",
    "upright": "the truth was turned like the prediction, by the orientation tag of the prediction",
    "label-pages": "the pages of a file, one for each label, were read as one mask",
}


def read_fitted(item: ScoredPair, *, axes: str | None = None) -> tuple[Image, Image, tuple[str, ...]]:
    """Read truth and prediction of a pair, each fitted to the grid of the other; see `septum.pairing.fit.fit_mask`.

    Parameters
    ----------
    item, axes
        See `open_frames`.

    Returns
    -------
    truth, predicted, notes
        The files, and what was done, as phrases.

    Raises
    ------
    SeptumError
        If a file cannot be read, or the affines turn the two differently without placing them on the same voxels.
    """
    truth, predicted = read_mask(item.truth, axes=axes), read_mask(item.predicted, axes=axes)
    if item.section is not None:
        return truth, predicted, ()
    truth, changes = fit_mask(truth, grid_of(predicted))
    predicted, more = fit_mask(predicted, grid_of(truth))
    notes = [_NOTES[change] for change in dict.fromkeys((*changes, *more))]
    if "T" in truth.axes and not (truth.stated or predicted.stated):
        notes.append("each page was scored as an image of its own; if pages are sections of volumes: --axes ZYX")
    apart = disagreement(grid_of(truth), grid_of(predicted))
    if apart is not None:
        text = apart.text.replace("image", "prediction").replace("mask", "truth")
        if apart.certain:
            raise DataError(
                f"{format_path(item.predicted)}: its affine does not place it on {format_path(item.truth)} ({text})",
                "files on the same voxels",
                "save both on the grid of their image",
            )
        notes.append(f"the affines place prediction and truth apart ({text}); compared as stored, voxel by voxel")
    return truth, predicted, tuple(notes)


def labels_of(image: Image) -> tuple[NDArray[np.integer[Any]], str]:
    """Return the labels of a mask without its channel axis, ``(*S)`` integers of any value, and their axes.

    Raises
    ------
    DataError
        If the channels differ (colors), or values are not whole numbers.
    """
    array, axes = _first_channel(image)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and np.array_equal(array, np.rint(array))):
            first = array.flat[int(np.argmax(array % 1 != 0))]
            raise DataError(
                f"{format_path(image.location or 'mask')}: values such as {first:g}",
                "whole numbers, classes or object ids",
                "name the mask, not the image or a probability map",
            )
        array = array.astype(np.int64)
    return array.astype(np.uint8) if array.dtype.kind == "b" else array, axes


def _first_channel(image: Image) -> tuple[NDArray[Any], str]:
    channel = image.axes.index("C")
    array = np.moveaxis(image.array, channel, 0)
    if any(not np.array_equal(array[0], other) for other in array[1:]):
        planes = image.file_axes == "CYX" and image.named_axes is None
        pages = "if the channels are sections or images: --axes ZYX or TYX; else " if planes else ""
        raise DataError(
            f"{format_path(image.location or 'mask')}: {len(array)} channels that differ",
            "a mask of one channel",
            f"{pages}save class values or object ids, not colors",
        )
    return array[0], image.axes.replace("C", "")


def _values_of(image: Image) -> tuple[NDArray[Any], str]:
    """Return the channels of a prediction ``(K, ...)``: float32 probabilities, or one channel of integers."""
    array = image.array
    if array.dtype.kind == "f" and _probable(array):
        return np.moveaxis(array, image.axes.index("C"), 0), image.axes.replace("C", "")
    labels, axes = labels_of(image)
    return labels[None], axes


def _probable(array: NDArray[Any]) -> bool:
    """Return True for probabilities, False for labels stored as real numbers; raise `DataError` for other values."""
    finite = np.isfinite(array)
    if not finite.all():
        raise DataError(
            f"a prediction with {array.size - int(finite.sum())} pixels that are NaN or infinite",
            "probabilities from 0 to 1, or labels",
            "predict the image again",
        )
    low, high = float(array.min()), float(array.max())
    if low >= 0 and high <= 1:
        return True
    if np.array_equal(array, np.rint(array)):
        return False
    raise DataError(
        f"a prediction with values from {low:g} to {high:g}",
        "probabilities from 0 to 1, or labels",
        "write probabilities, not the network's raw output",
    )


def _slice(values: NDArray[Any], axes: str, item: ScoredPair) -> tuple[NDArray[Any], str]:
    assert item.section is not None
    depth = values.shape[1] if len(axes) == 3 else 1
    if item.section >= depth:
        raise DataError(
            f"{format_path(item.predicted)}: {depth} slices, but {format_path(item.truth.name)} is of slice "
            f"{item.section}",
            "a volume with that slice",
            "compare the truth with results for the whole volume",
        )
    return (values[:, item.section], axes[1:]) if len(axes) == 3 else (values, axes)


def _ignored(path: Path, shape: tuple[int, ...], grid: Grid) -> NDArray[np.bool_]:
    mask, axes = labels_of(fit_mask(read_image(path, labels=True), grid)[0])
    if mask.shape not in (shape, shape[-mask.ndim :]):
        raise DataError(
            f"{format_path(path)}: a mask of {_size(mask.shape, axes)} pixels, truth of {' x '.join(map(str, shape))}",
            "the same size",
            "name the mask that belongs to these images",
        )
    return np.broadcast_to(mask != 0, shape)


def _size(shape: tuple[int, ...], axes: str) -> str:
    return f"{' x '.join(map(str, shape))} ({axes})"
