"""Draw the outlines of objects on the image, to look at a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.export.measure import check_same_sides
from septum.export.runs import Frame
from septum.io.atomic import whole_file
from septum.io.image import Image

LARGEST_PX = 2048
"""Longest side of a picture; larger images are reduced."""

LOW, HIGH = 0.5, 99.8
"""Percentiles of intensities that are drawn black and white."""

_ENLARGED_PX = 512  # small images are enlarged, so that an outline is narrower than the objects
_PIECE = 2**24  # pixels that are read at a time


def write_overlay(path: Path, frame: Frame, image: Image) -> None:
    """Draw one plane as PNG, as a whole or not at all: the middle slice of a volume.

    Each object has an outline in a color of its own, inside its border, over the image in gray (three channels: in its
    colors), whose contrast is stretched between the percentiles `LOW` and `HIGH` of each channel.

    Parameters
    ----------
    path
        The ``.png`` file.
    frame
        The plane or volume of labels.
    image
        An image of the same T, Z, Y and X.

    Raises
    ------
    DataError
        If the image has other sides.
    """
    from PIL import Image as Picture

    check_same_sides(frame.labels, image)
    depth, height, width = frame.sides
    step = -(-max(height, width) // LARGEST_PX)
    labels, values = _reduced(frame, image, depth // 2, step)
    factor = max(1, _ENLARGED_PX // max(labels.shape))
    labels, values = labels.repeat(factor, 0).repeat(factor, 1), values.repeat(factor, 1).repeat(factor, 2)
    colors = draw_outlines(stretch_contrast(values), labels)
    with whole_file(path) as part:
        Picture.fromarray(colors).save(part, format="PNG")


def _reduced(frame: Frame, image: Image, z: int, step: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Read a slice in bands: every `step`-th pixel of the labels, and means of the channels over its surroundings."""
    _, height, width = frame.sides
    channels = image.shape[image.axes.index("C")]
    rows = max(1, _PIECE // (width * step)) * step
    labels, values = [], []
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        labels.append(frame.read(frame.labels, 0, z, band)[step // 2 :: step, step // 2 :: step])
        if len(labels[-1]) == 0 or (band.stop - top) % step:  # the last pixels of a side that is no multiple
            last = frame.read(frame.labels, 0, z, slice(band.stop - 1, band.stop))[:, step // 2 :: step]
            missing = -(-(band.stop - top) // step) - len(labels[-1])
            labels[-1] = np.concatenate([labels[-1], *[last] * missing])
        parts = [_means(frame.read(image, channel, z, band), step) for channel in range(channels)]
        values.append(np.stack(parts))
    joined = np.concatenate(labels)
    picture = np.concatenate(values, axis=1)
    if joined.shape[1] < picture.shape[2]:
        joined = np.pad(joined, ((0, 0), (0, picture.shape[2] - joined.shape[1])), mode="edge")
    return joined, picture


def _means(part: NDArray[Any], step: int) -> NDArray[np.float32]:
    """Return means over squares of `step` pixels; those at the ends may be smaller."""
    values: NDArray[np.float32] = np.where(np.isfinite(part), part, 0).astype(np.float32)
    if step == 1:
        return values
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], step)
        lengths = np.diff(starts, append=values.shape[axis])
        sums = np.add.reduceat(values, starts, axis=axis)
        values = (sums / np.expand_dims(lengths, 1 - axis)).astype(np.float32)
    return values


def stretch_contrast(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image as a picture.

    Parameters
    ----------
    values
        ``(C, Y, X)`` float32 intensities. Three channels are red, green and blue; of other numbers, the mean is drawn.
        A last of two or four channels that is the same everywhere is left out.

    Returns
    -------
    picture
        ``(Y, X, 3)`` RGB uint8, 0 .. 255.
    """
    if len(values) in (2, 4) and (values[-1] == values[-1, 0, 0]).all():  # opacity
        values = values[:-1]
    if len(values) != 3:
        values = values.mean(axis=0, keepdims=True)
    drawn = np.empty(values.shape, np.uint8)
    for channel, out in zip(values, drawn, strict=True):
        low, high = np.percentile(channel, [LOW, HIGH])
        if high <= low:  # a few bright pixels on an even ground
            low, high = float(channel.min()), float(channel.max())
        scaled = (channel - low) * (255 / (high - low)) if high > low else np.zeros_like(channel)
        out[...] = np.rint(scaled.clip(0, 255))
    return np.ascontiguousarray(np.broadcast_to(drawn, (3, *drawn.shape[1:])).transpose(1, 2, 0))


def draw_outlines(picture: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw the pixels of objects that lie beside other pixels in bright colors.

    Parameters
    ----------
    picture
        ``(Y, X, 3)`` RGB uint8, 0 .. 255.
    labels
        ``(Y, X)`` integers: ids, 0 background.

    Returns
    -------
    picture
        ``(Y, X, 3)`` RGB uint8, 0 .. 255: a new one.
    """
    edge = np.zeros(labels.shape, np.bool_)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    edge &= labels > 0
    drawn = picture.copy()
    drawn[edge] = _colors(labels[edge])
    return drawn


def _colors(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a bright color for each label: hues that follow each other by the golden angle never repeat."""
    hue = (labels.astype(np.float64) * 0.618034) % 1.0 * 6
    waves = [np.clip(np.abs((hue + turn) % 6 - 3) - 1, 0, 1) for turn in (0, 4, 2)]
    colors: NDArray[np.uint8] = np.rint(60 + 195 * np.stack(waves, axis=-1)).astype(np.uint8)
    return colors
