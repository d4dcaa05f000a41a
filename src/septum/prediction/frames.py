"""An image as the frames that the network takes, and results of frames as an image again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import finite_pixels
from septum.arrays.resample import Resampled, scaled_sides
from septum.arrays.tiles import Readable
from septum.axes import relative_spacing, spatial, walked_axes
from septum.errors import DataError, ModelError
from septum.io.files import open_image
from septum.io.image import Image
from septum.io.selection import EVERYTHING, Selection, completed
from septum.prediction.domain_shift import pixel_size_ratios, sample_pixels
from septum.prediction.events import format_factors
from septum.prediction.model import Model
from septum.prediction.settings import Output, PredictSettings
from septum.prediction.tile_plan import TilePlan
from septum.words import pluralize


@dataclass(frozen=True)
class ImageFrame:
    """The part of an image that the network takes at once, read piece by piece.

    Parameters
    ----------
    source
        The opened image.
    place
        Index along each axis that is walked (T, and Z for a model of images), in the order of the axes of the image.
    rank
        2 or 3 spatial axes.
    channels
        Channels that the network takes. A single channel is repeated, of three equal ones one is taken.
    spare
        Value of a last channel that is dropped, since it is the same everywhere; None if there is none.
    """

    source: Image
    place: tuple[int, ...]
    rank: int
    channels: int
    spare: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, *S)``."""
        sides = dict(zip(self.source.axes, self.source.shape, strict=True))
        return (self.channels, *(sides[a] for a in spatial(self.source.axes)[-self.rank :]))

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]:
        walked = dict(zip(walked_axes(self.source.axes, self.rank), self.place, strict=True))
        inside = dict(zip(spatial(self.source.axes)[-self.rank :], index[1:], strict=True))
        part = self.source[tuple(walked.get(a, inside.get(a, slice(None))) for a in self.source.axes)]
        if part.dtype.kind == "f" and not finite_pixels(part).all():
            raise DataError(
                f"{self.source.name or 'the image'}: some pixels are NaN or infinite, or larger than 3.4e38",
                "intensities that are finite in float32",
                "replace them as training does: NaN by the median of the channel, infinity by its largest value",
            )
        return self._match_channels(part)[index[0]]

    def _match_channels(self, part: NDArray[Any]) -> NDArray[Any]:
        """Return a part ``(C, *S)`` with the channels of the network; they were compared in a sample of pixels only."""
        if self.spare is not None:
            self._require(bool((part[-1] == self.spare).all()), "a last channel that is constant in some places only")
            part = part[:-1]
        if len(part) == 1 and self.channels > 1:
            return np.repeat(part, self.channels, axis=0)
        if len(part) > self.channels:
            self._require(bool((part == part[:1]).all()), "channels that are equal in some places only")
            part = part[: self.channels]
        return part

    def _require(self, condition: bool, given: str) -> None:
        if not condition:
            where, wanted = self.source.name or "the image", pluralize(self.channels, "channel")
            raise ModelError(f"{where}: {given}", f"{wanted}, as in training", "save the image with these channels")


# Pixel sizes that differ by more are not true: programs write the dots per inch of a screen into files.
_LARGEST_RATIO = 8

Scale = tuple[float, ...]
"""Factors of resizing along each axis of a frame."""

Objects = tuple[NDArray[np.int32], NDArray[np.float32] | None]
"""``(*S) int32`` ids 1 .. N, 0 background, and the confidence of each, ``(N,) float32`` in 0..1; None if unknown."""


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """The prediction of a frame.

    Parameters
    ----------
    probabilities
        ``(K, *S) float32``, 0..1.
    objects
        Made as if all pixel sizes were equal.
    """

    probabilities: NDArray[np.float32]
    objects: Objects


@dataclass(frozen=True, eq=False)
class FoundScale:
    """The scale of an image; see `septum.prediction.scale`.

    Parameters
    ----------
    factors
        By these the image is resized, so that its objects look as in the training images.
    grid
        Pixels of the working grid, on which the network sees the image, for each pixel of the image: `factors` times
        the scale of the training; None: the image's own grid.
    text
        Why the factors are not 1; empty if they are, or if the user asked for them.
    seconds
        Time that was needed to find it.
    seen
        The only frame on the working grid, where it was predicted on the way.
    """

    factors: Scale
    grid: Scale | None
    text: str = ""
    seconds: float = 0.0
    seen: SeenFrame | None = None

    @classmethod
    def at(cls, factors: Scale, model: Model, text: str = "") -> FoundScale:
        """Return the scale at which images are resized by these factors."""
        grid = tuple(factor * model.header.scale for factor in factors)
        return cls(factors, None if all(factor == 1 for factor in grid) else grid, text)

    def objects(self, spacing: tuple[float, ...] | None) -> Objects | None:
        """Return the objects of the only frame; None if they are not made yet.

        Parameters
        ----------
        spacing
            Pixel sizes for which they must have been made.
        """
        alike = spacing is None or len(set(spacing)) == 1
        return self.seen.objects if self.seen is not None and alike else None

    @property
    def shown(self) -> float | Scale | None:
        """The factors for results: one if all axes have the same; None for 1."""
        same = len(set(self.factors)) == 1
        return (None if self.factors[0] == 1 else self.factors[0]) if same else self.factors


@dataclass(frozen=True)
class ImageJob:
    """One image of a prediction, opened and planned.

    Parameters
    ----------
    settings
        Settings of the prediction; `model` is the model file.
    model
        The opened model.
    output
        Kind of the result.
    path, target
        The image, and the file or label image to write.
    index, count
        Number of the image, from 0, and of all images.
    source, frames
        The opened image, and its frames.
    plan
        Tiles, blocks and memory.
    overlap
        The image takes so little memory that another one may be opened or written at the same time.
    found
        The scale at which the image is predicted.
    region
        Mask of the part that is predicted; None: all.
    """

    settings: PredictSettings
    model: Model
    output: Output
    path: Path
    target: Path
    index: int
    count: int
    source: Image
    frames: list[ImageFrame]
    plan: TilePlan
    found: FoundScale
    overlap: bool = False
    region: Path | None = None

    @property
    def scale(self) -> Scale | None:
        """Pixels of the working grid for each pixel of the image; None: the image's own grid."""
        return self.found.grid

    @cached_property
    def spacing(self) -> tuple[float, ...] | None:
        """Relative pixel sizes on the grid on which the frames are predicted."""
        return frame_spacing(self.source, self.model.rank, self.scale)


def open_for_model(
    path: str | Path, model: Model, *, axes: str | None = None, selection: Selection = EVERYTHING
) -> tuple[Image, str]:
    """Open an image as the model can take it.

    A file that does not fit the model by its own axes, but by those of the training, is read by the latter: its pages
    are the sections or the channels that those of the training images were.

    Parameters
    ----------
    path
        See `septum.io.files.open_image`.
    model
        The model.
    axes, selection
        What the caller names is followed; the rest is read as in training where a file has more than that.

    Returns
    -------
    image, message
        The image, and a sentence if it is read by axes, channels or a level of training, else ``""``.
    """
    image, learned = open_image(path, axes=axes, selection=selection), model.header.read_axes
    asked = completed(selection, model.header.selection, image)
    if asked != selection:
        image.close()
        image, said = open_for_model(path, model, axes=axes, selection=asked)
        return image, f"{f'{said};' if said else f'{image.name}:'} read with {asked.options}, as in training"
    if axes is not None or not learned or _fits(image, model) or not _may_be_named(image, learned):
        return image, channel_note(image, model)
    other = open_image(path, axes=learned, selection=selection)
    if not _fits(other, model):
        other.close()
        return image, ""
    image.close()
    return other, f"{other.name}: read with --axes {learned}, as the training images were"


def channel_note(image: Image, model: Model) -> str:
    """Return how other channels than those of the model are read, as a sentence; ``""`` where nothing is special."""
    given, wanted = image.shape[image.axes.index("C")], model.header.network.channels
    frame = _first_frame(image, model)
    if frame is None or given in (1, wanted):
        return ""
    equal = given - (frame.spare is not None) > wanted
    done = ["of three equal channels one is read"] if equal else []
    if frame.spare is not None:
        done.append("the last channel, which has the same value everywhere, is dropped")
    return f"{image.name or 'the image'}: {'; '.join(done)}"


def _fits(image: Image, model: Model) -> bool:
    """Return True if the model can take the channels and the axes of an image."""
    return (model.rank == 2 or "Z" in image.axes) and _first_frame(image, model) is not None


def _may_be_named(image: Image, axes: str) -> bool:
    """Return True if the dimensions of a file may have other names: rows and columns stay what the file says."""
    if len(axes) != len(image.file_axes):
        return False
    return not image.stated or all(axes.find(a) == image.file_axes.find(a) for a in "YX")


def _first_frame(image: Image, model: Model) -> ImageFrame | None:
    """Return the first frame with its channels matched to those of the model; None if they do not match.

    The check of training data matches channels by the same rules (`septum.check.images.match_channels`).
    """
    given, wanted = image.shape[image.axes.index("C")], model.header.network.channels
    frame = ImageFrame(image, (0,) * len(walked_axes(image.axes, model.rank)), model.rank, given)
    if given in (1, wanted):
        repeated = given == wanted or (wanted == 3 and model.header.gray_as_color)
        return replace(frame, channels=wanted) if repeated else None
    if given not in (2, 3, 4) or wanted not in (1, 3):
        return None
    pixels, spare = sample_pixels(frame), None
    if given != 3 and (pixels[-1] == pixels[-1, 0]).all() and pixels[-1, 0] != 0:
        pixels, spare = pixels[:-1], float(pixels[-1, 0])
    matched = len(pixels) == wanted or (len(pixels) == 3 and bool((pixels == pixels[0]).all()))
    return replace(frame, channels=wanted, spare=spare) if matched else None


def split_frames(source: Image, model: Model) -> list[ImageFrame]:
    """Split an image into frames: ``(C, Y, X)`` along T and Z, or ``(C, Z, Y, X)`` along T.

    Raises
    ------
    ModelError
        If the channels or the axes do not fit the model.
    """
    first = _first_frame(source, model) if _fits(source, model) else None
    if first is None:
        raise _unfit(source, model)
    sides = dict(zip(source.axes, source.shape, strict=True))
    lengths = (range(sides[a]) for a in walked_axes(source.axes, model.rank))
    return [replace(first, place=place) for place in product(*lengths)]


def _unfit(image: Image, model: Model) -> ModelError:
    """Return the error for an image that the model cannot take; names other axes only where they would fit."""
    where, wanted = image.name or "the image", model.header.network.channels
    given = image.shape[image.axes.index("C")]
    fitting = _fitting_axes(image, model)
    if model.rank == 3 and "Z" not in image.axes:
        lacking, expected = f"axes {image.file_axes}, no Z", "a volume, as the model was trained on volumes"
        otherwise, of_array = "predict a volume, or train a model of images", False
    else:
        lacking, expected = pluralize(given, "channel"), f"{pluralize(wanted, 'channel')}, as in training"
        otherwise = (
            "take what the model was trained on, array[0] or array[..., 0], or name the axes of the array with --axes"
            if (of_array := image.location is None and given > wanted)
            else "give --channel, by number from 1 or by name: the one that the model was trained on"
            if wanted == 1
            else "save it in color if it was taken as the training images were; or train with some gray images too"
            if given == 1 and wanted == 3
            else f"merge {wanted} channels into one image, in the order of the training images"
            if given < wanted
            else f"name the {wanted} channels that the model was trained on with --channel, in their order"
        )
    if of_array:
        shape = tuple(dict(zip(image.axes, image.shape, strict=True)).get(a, 1) for a in image.file_axes)
        lacking += f", as an array {shape} is read by axes {image.file_axes}"
    todo = f"if {fitting[1]}: --axes {fitting[0]}; else {otherwise}" if fitting else otherwise
    return ModelError(f"{where}: {lacking}", expected, todo)


def _fitting_axes(image: Image, model: Model) -> tuple[str, str] | None:
    """Return other axes of a file by which it fits the model, and what its pages are then; None if there are none."""
    wanted, axes = model.header.network.channels, image.file_axes
    sides = {a: image.shape[image.axes.index(a)] for a in axes if a in image.axes}
    named = image.location is not None and image.named_axes is None
    if not named or len(sides) != len(axes):
        return None
    pages, planes = "T" in sides, axes == "CYX"
    if pages and "C" not in axes and sides["T"] == wanted > 1 and (model.rank == 2 or "Z" in axes):
        return axes.replace("T", "C"), "its pages are channels"
    if model.rank == 3 and "Z" not in axes and pages and sides.get("C", 1) == wanted:
        return axes.replace("T", "Z"), "its pages are sections"
    if planes and wanted == 1:
        return ("ZYX", "its channels are sections") if model.rank == 3 else ("TYX", "its channels are pages")
    return None


def working_frame(frame: Readable, scale: Scale | None) -> Readable:
    """Return a frame on its working grid, resampled where it is read; without a scale the frame itself."""
    return frame if scale is None else Resampled(frame, scaled_sides(frame.shape[1:], scale))


def frame_spacing(source: Image, rank: int, scale: Scale | None = None) -> tuple[float, ...] | None:
    """Return the relative pixel sizes of the axes of a frame on its working grid; None unless all are known."""
    sizes = [source.pixel_size_um.get(a) for a in "ZYX"[-rank:]]
    known = [s for s in sizes if s is not None]
    if len(known) < rank:
        return None
    return relative_spacing([s / f for s, f in zip(known, scale or (1.0,) * rank, strict=True)], rank)


def scale_by_pixel_size(pixel_size_um: Mapping[str, float], model: Model) -> FoundScale | None:
    """Return the ratios of the pixel sizes of an image and of the training images.

    Returns
    -------
    found
        Factors of 1 if the sizes are alike; None unless all are known, or if they cannot be true.
    """
    axes, domain = "ZYX"[-model.rank :], model.header.domain
    seen = {} if domain is None else domain.pixel_um
    if not all(axis in seen and axis in pixel_size_um for axis in axes):
        return None
    ratios = pixel_size_ratios(pixel_size_um, seen)
    factors = tuple(ratios.get(axis, 1.0) for axis in axes)
    if not all(1 / _LARGEST_RATIO <= factor <= _LARGEST_RATIO for factor in factors):
        return None
    if not ratios:
        return FoundScale.at(factors, model)
    axis = max(ratios, key=lambda a: abs(np.log(ratios[a])))
    word, times = ("larger", ratios[axis]) if ratios[axis] > 1 else ("smaller", 1 / ratios[axis])
    sizes = f"{pixel_size_um[axis]:.3g} instead of {pixel_size_um[axis] / ratios[axis]:.3g} micrometers"
    text = (
        f"pixels are {times:.2g} times {word} than in training ({sizes}): predicted at scale {format_factors(factors)}"
    )
    return FoundScale.at(factors, model, f"{text} (--scale 1 keeps its size)")
