"""Open a predicted file and its truth, and cut them into the frames that are scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
from septum.check.background import set_background
from septum.check.masks import MASK_COLORS, read_labels
from septum.check.reading import is_lossy
from septum.errors import DataError
from septum.evaluation.pairs import ScoredPair
from septum.io.annotations.formats import is_drawn
from septum.io.annotations.raster import list_names
from septum.io.files import read_image, read_mask
from septum.io.formats import format_path
from septum.io.image import Image
from septum.pairing.drawn_masks import read_drawn_mask
from septum.pairing.fit import Grid, disagreement, fit_mask, grid_of
from septum.words import pluralize

_MOST_COLORS = 254  # more are a picture, not classes


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
        How the files were read and fitted to one another, where they are not plain labels.
    """

    name: str
    item: ScoredPair
    truth: NDArray[np.integer[Any]]
    predicted: NDArray[np.integer[Any]] | None
    probability: NDArray[np.float32] | None
    ignore: NDArray[np.bool_] | None
    spacing_um: tuple[float, ...] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Readings:
    """How the values of the files of one prediction and its truth are read.

    Attributes
    ----------
    sections
        Cut volumes into their Z sections (time series are always cut).
    axes
        Axes of the files, for files that do not state them right; see `septum.io.files.read_mask`.
    true_background, predicted_background
        Value of the background of ids without 0; 0 for the others.
    rims
        Values of the truth, beside negative ones, that are not annotated.
    """

    sections: bool = False
    axes: str | None = None
    true_background: int = 0
    predicted_background: int = 0
    rims: tuple[int, ...] = ()


def open_frames(item: ScoredPair, readings: Readings) -> list[ScoredFrame]:
    """Read a predicted file and its truth, and cut them into frames.

    Parameters
    ----------
    item
        A pair from `septum.evaluation.pairs.pair_with_truth`.
    readings
        How the files are read.

    Raises
    ------
    SeptumError
        If a file cannot be read, holds no labels, or the sizes or the places of the voxels differ.
    """
    truth, predicted, notes = read_fitted(item, axes=readings.axes)
    true, true_axes, said = labels_of(truth, "truth")
    values, own_axes, more = _values_of(predicted)
    notes += (*said, *more)
    true, said = _with_background(true, readings.true_background, "truth")
    if readings.rims:
        true = np.where(np.isin(true, readings.rims), -1, true.astype(np.int64))
    values, more = _with_background(values, readings.predicted_background, "prediction")
    notes += (*said, *more)
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
    walked = len(own_axes) - (2 if readings.sections or "Z" not in own_axes else 3)
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
    predicted = read_mask(item.predicted, axes=axes)
    truth, notes = read_truth(item, predicted, axes=axes)
    if item.section is not None:
        return truth, predicted, tuple(notes)
    truth, changes = fit_mask(truth, grid_of(predicted))
    predicted, more = fit_mask(predicted, grid_of(truth))
    notes += [_NOTES[change] for change in dict.fromkeys((*changes, *more))]
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


def read_truth(item: ScoredPair, predicted: Image, *, axes: str | None = None) -> tuple[Image, list[str]]:
    """Read the truth of a pair; drawn objects are filled on the grid of the prediction, each with an id.

    Parameters
    ----------
    item, axes
        See `open_frames`.
    predicted
        The prediction.

    Returns
    -------
    truth, notes
        The truth, and how drawn objects were read, as phrases.

    Raises
    ------
    SeptumError
        If the file cannot be read, or an object lies outside of the prediction.
    """
    if not is_drawn(item.truth):
        return read_mask(item.truth, axes=axes), []
    truth, filled = read_drawn_mask(item.truth, grid_of(predicted))
    if filled is None:
        return truth, []
    notes = [f"truth: drawn objects ({filled.program}) were filled by the centers of pixels"]
    if filled.overlapping:
        notes.append("truth: where drawn objects overlap, the later one is on top")
    if filled.hidden or filled.refused:
        lost = [*filled.refused, *(("object covered by later ones", name) for name in filled.hidden)]
        notes.append(f"truth: left out {list_names(lost)}")
    return truth, notes


def labels_of(image: Image, role: str) -> tuple[NDArray[np.integer[Any]], str, tuple[str, ...]]:
    """Return the labels of a mask as training reads them (`septum.check.masks.read_labels`).

    Parameters
    ----------
    image
        The mask; a prediction of one channel of integers is returned as it is, since gray values may be probabilities.
    role
        ``"truth"`` or ``"prediction"``, for notes.

    Returns
    -------
    labels, axes, notes
        ``(*S)`` or ``(T, *S)`` integers of any value, their axes, and how values that are not plain were read.

    Raises
    ------
    DataError
        If the values are no labels.
    """
    axes = image.axes.replace("C", "")
    array = np.moveaxis(image.array, image.axes.index("C"), 0)
    plain = len(array) == 1 and array.dtype.kind in "iu"
    if array.dtype.kind == "b" and len(array) == 1:
        return array[0].astype(np.uint8), axes, ()
    if plain and (role == "prediction" or array.min() < UNANNOTATED):
        return array[0], axes, ()
    place = Path(image.location or "mask")
    frames = [read_labels(f, lossy=is_lossy(place)) for f in (np.moveaxis(array, 1, 0) if "T" in axes else array[None])]
    problem = next((frame.problem for frame in frames if frame.problem), "")
    if not problem and any(MASK_COLORS in f.mends and len(np.unique(f.array)) > _MOST_COLORS for f in frames):
        problem = f"{len(array)} channels of more than {_MOST_COLORS} colors"
    if problem:
        raise DataError(
            f"{format_path(place)}: {problem}",
            "one channel of whole numbers, classes or object ids",
            "name the mask, not the image or a probability map",
        )
    kinds = dict.fromkeys(kind for frame in frames for kind in frame.mends)
    notes = tuple(f"{role}: {kind.noun} {kind.text}; {kind.mend}" for kind in kinds)
    if plain and not kinds:
        return array[0], axes, ()
    labels = np.stack([frame.array for frame in frames])
    return labels if "T" in axes else labels[0], axes, notes


def _with_background(labels: NDArray[Any], value: int, role: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return labels with 0 as the background, ``(N, ...)`` or ``(...)``, and the note that says so."""
    if labels.dtype.kind == "f":
        return labels, ()
    read = set_background(labels, value, certain=False)
    return read, () if read is labels else (f"{role}: {value} surrounds all objects and was read as the background",)


def _values_of(image: Image) -> tuple[NDArray[Any], str, tuple[str, ...]]:
    """Return the channels of a prediction ``(K, ...)``: float32 probabilities, or one channel of integers."""
    array = image.array
    if array.dtype.kind == "f" and _probable(array):
        return np.moveaxis(array, image.axes.index("C"), 0), image.axes.replace("C", ""), ()
    labels, axes, notes = labels_of(image, "prediction")
    return labels[None], axes, notes


def _probable(array: NDArray[Any]) -> bool:
    """Return True for probabilities, False for labels stored as real numbers; raise `DataError` for other values."""
    finite = np.isfinite(array)
    if not finite.all():
        raise DataError(
            f"a prediction with NaN or infinity in {pluralize(array.size - int(finite.sum()), 'pixel')}",
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
            f"{format_path(item.predicted)}: {pluralize(depth, 'slice')}, but {format_path(item.truth.name)} is of "
            f"slice {item.section}",
            "a volume with that slice",
            "compare the truth with results for the whole volume",
        )
    return (values[:, item.section], axes[1:]) if len(axes) == 3 else (values, axes)


def _ignored(path: Path, shape: tuple[int, ...], grid: Grid) -> NDArray[np.bool_]:
    mask, axes, _ = labels_of(fit_mask(read_image(path, labels=True), grid)[0], "truth")
    if mask.shape not in (shape, shape[-mask.ndim :]):
        raise DataError(
            f"{format_path(path)}: a mask of {_size(mask.shape, axes)} pixels, truth of {' x '.join(map(str, shape))}",
            "the same size",
            "name the mask that belongs to these images",
        )
    return np.broadcast_to(mask != 0, shape)


def _size(shape: tuple[int, ...], axes: str) -> str:
    return f"{' x '.join(map(str, shape))} ({axes})"
