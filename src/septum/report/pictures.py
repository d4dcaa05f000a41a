"""Draw results as pictures: the image beside the truth and the prediction, so that mistakes are visible.

A predicted object has the color of the true object that it overlaps most; where the colors of two panels differ, an
object was split, merged, missed or is false.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.events import Event
from septum.settings import MaskKind

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

RGB = NDArray[np.uint8]

LARGEST_PX = 700  # longest side of a panel; larger images are reduced to it
SMALLEST_PX = 400  # smaller images are enlarged by a whole factor, to about this side
GAP_PX, CAPTION_PX, FONT_PX = 8, 26, 15
# Orange and blue, which color-blind people can tell apart too.
TRUTH_COLOR, PREDICTED_COLOR = (255, 176, 0), (0, 190, 255)
IGNORED_GRAY = 90


@dataclass(frozen=True, eq=False)
class Compared(Event):
    """One test image of the demo with its truth and the results of both methods.

    Attributes
    ----------
    name : str
        Name of its files, without the suffix.
    image : ndarray
        ``(1, Y, X)`` float32, 0..255.
    truth, predicted, baseline : ndarray
        ``(Y, X)`` int32 object ids: the truth, the model's objects, those of Otsu and watershed.
    seg, ap50, baseline_seg, baseline_ap50 : float
        SEG and AP at IoU 0.5 of the model and of the baseline on this image, 0..1.
    """

    name: str
    image: NDArray[np.float32]
    truth: NDArray[np.int32]
    predicted: NDArray[np.int32]
    baseline: NDArray[np.int32]
    seg: float
    ap50: float
    baseline_seg: float
    baseline_ap50: float


def panel(
    path: Path,
    image: NDArray[Any],
    maps: Mapping[str, NDArray[Any]],
    *,
    title: str = "image",
    kind: MaskKind = "objects",
) -> Path:
    """Write one picture: the image and its maps side by side, each under its caption.

    Parameters
    ----------
    path
        The PNG file to write; its folder must exist.
    image
        ``(C, *S)`` raw intensities of any dtype: three channels are red, green and blue, other numbers are averaged to
        gray. The middle slice of a volume is drawn.
    maps
        Caption and ``(*S)`` array of each further panel. Integers are labels, floats are probabilities in 0..1 (drawn
        in gray). Objects of the second and later maps have the color of the object of the first map that they overlap
        most.
    title
        Caption of the image.
    kind
        Meaning of integers: ``"objects"``, drawn in colors on the image, or ``"classes"``, drawn in gray.

    Returns
    -------
    Path
        `path`.
    """
    from PIL import Image

    from septum.io.atomic import whole_file

    size = panel_size(image.shape[-2:])
    gray = to_picture(image)
    objects = [_middle(m) for m in maps.values() if m.dtype.kind in "iu" and kind == "objects"]
    highest = max((int(m.max(initial=0)) for m in maps.values() if m.dtype.kind in "iu"), default=0)
    pictures = [resize_picture(gray, size)]
    for array in map(_middle, maps.values()):
        if array.dtype.kind == "f":
            pictures.append(resize_nearest(_gray(np.clip(array, 0, 1) * 255), size))
        elif kind == "classes":
            levels = np.where(array < 0, IGNORED_GRAY, array * (255.0 / max(highest, 1)))
            pictures.append(resize_nearest(_gray(levels), size))
        else:
            pictures.append(
                painted(resize_picture(gray, size), resize_nearest(array, size), matched_colors(array, objects[0]))
            )
    with whole_file(path) as part:
        Image.fromarray(side_by_side(pictures, [title, *maps])).save(part, optimize=True)
    return path


def draw_demo(compared: Compared, folder: Path) -> Path:
    """Write the picture of one test image of the demo to ``folder/NAME.png``; the folder is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    maps = {
        f"truth: {int(compared.truth.max())} cells": compared.truth,
        f"Septum: SEG {compared.seg:.2f}, AP50 {compared.ap50:.2f}": compared.predicted,
        f"Otsu + watershed: SEG {compared.baseline_seg:.2f}, AP50 {compared.baseline_ap50:.2f}": compared.baseline,
    }
    return panel(folder / f"{compared.name}.png", compared.image, maps, title=compared.name)


def to_picture(image: NDArray[Any]) -> RGB:
    """Convert raw intensities, or the middle slice of a volume, to a picture.

    Parameters
    ----------
    image
        ``(C, *S)`` intensities of any dtype and range. Three channels are red, green and blue, other numbers of
        channels are averaged.

    Returns
    -------
    ndarray
        ``(Y, X, 3)`` RGB uint8 0..255. Black and white are the 0.5 and 99.8 percentiles of all channels of the slice.
    """
    channels = np.stack([_middle(channel) for channel in image]).astype(np.float32)
    if len(channels) != 3:
        channels = channels.mean(axis=0, keepdims=True)
    channels = np.where(np.isfinite(channels), channels, 0)
    low, high = np.percentile(channels, [0.5, 99.8])
    levels = (channels - low) * (255 / (high - low)) if high > low else channels * 0
    return _gray(levels.transpose(1, 2, 0) if len(channels) == 3 else levels[0])


def color(index: int) -> tuple[int, int, int]:
    """Return color number `index`, 0 or more; consecutive colors differ strongly in hue, and in brightness too."""
    hue = (index * 0.618034) % 1.0  # the golden angle never repeats a hue
    saturation, value = ((0.75, 1.0), (0.55, 0.85), (0.95, 0.8), (0.4, 1.0))[index // 5 % 4]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def matched_colors(labels: NDArray[Any], first: NDArray[Any]) -> dict[int, tuple[int, int, int]]:
    """Choose the color of each object: that of the object of `first` that it shares most pixels with.

    Each color is given once, the largest overlaps first; the remaining objects get colors of their own.

    Parameters
    ----------
    labels, first
        ``(*S)`` integers of any type, object ids; 0 and negative pixels are no objects.

    Returns
    -------
    dict
        Color (red, green, blue), 0..255 each, by id in `labels`.
    """
    from septum.metrics.contingency import table

    names = {int(name): number for number, name in enumerate(np.unique(first[first > 0]))}
    given: dict[int, int] = {}
    if labels is first:
        given = names
    else:
        pairs = table(first, np.maximum(labels, 0))
        taken: set[int] = set()
        for place in np.argsort(-pairs.count, kind="stable"):
            one, other = int(pairs.truth[place]), int(pairs.predicted[place])
            if one > 0 and other > 0 and one not in taken and other not in given:
                given[other] = names[one]
                taken.add(one)
    fresh = len(names)
    for name in np.unique(labels[labels > 0]):
        if int(name) not in given:
            given[int(name)] = fresh
            fresh += 1
    return {name: color(number) for name, number in given.items()}


def painted(picture: RGB, labels: NDArray[Any], colors: Mapping[int, tuple[int, int, int]]) -> RGB:
    """Lay the colors of objects over a darkened picture, with outlines in full color.

    Parameters
    ----------
    picture
        ``(Y, X, 3)`` RGB uint8 0..255.
    labels
        ``(Y, X)`` integers, object ids; 0 is background, negative pixels are not annotated and become gray.
    colors
        Color of each id; ids without a color are black.

    Returns
    -------
    ndarray
        ``(Y, X, 3)`` RGB uint8 0..255.
    """
    ids = np.unique(labels)
    table = np.array([colors.get(int(i), (0, 0, 0)) for i in ids], np.float32)
    full = table[np.searchsorted(ids, labels)]
    mixed = np.where((labels > 0)[..., None], 0.55 * full + 0.35 * picture, 0.6 * picture)
    mixed[labels < 0] = IGNORED_GRAY
    mixed[outlines(labels)] = full[outlines(labels)]
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def outlines(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the pixels of objects next to another label, in integer labels ``(Y, X)``: ``(Y, X)`` bool, True there."""
    edge = np.zeros(labels.shape, np.bool_)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge & (labels > 0)


def _middle(array: NDArray[Any]) -> NDArray[Any]:
    """Return the middle slice ``(Y, X)`` of ``(*S)``."""
    return array if array.ndim == 2 else array[len(array) // 2]


def _gray(levels: NDArray[Any]) -> RGB:
    """Return gray values ``(Y, X)`` or colors ``(Y, X, 3)`` as a picture ``(Y, X, 3)``, cut to 0..255."""
    values = np.rint(levels).clip(0, 255).astype(np.uint8)
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)


def panel_size(sides: tuple[int, ...], *, largest: int = LARGEST_PX) -> tuple[int, int]:
    """Return height and width of the panel for an image with sides of this many pixels, at most `largest`."""
    longest = max(sides)
    factor = largest / longest if longest > largest else max(1, min(round(SMALLEST_PX / longest), largest // longest))
    height, width = (max(1, round(side * factor)) for side in sides)
    return height, width


def resize_nearest(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize an array of any dtype and values, ``(Y, X, ...)``, by nearest neighbor, so that labels stay labels."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, array.shape, strict=False)
    )
    return np.asarray(array[rows[:, None], columns])


def resize_picture(picture: RGB, size: tuple[int, int]) -> RGB:
    """Resize a picture ``(Y, X, 3)`` RGB uint8 0..255: by averages to a smaller size, by squares to a larger one."""
    from PIL import Image

    if size[0] >= picture.shape[0]:
        return np.array(resize_nearest(picture, size))
    return np.array(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BOX))


def side_by_side(pictures: Sequence[RGB], captions: Sequence[str]) -> RGB:
    """Lay pictures of one size, ``(Y, X, 3)`` RGB uint8 0..255, side by side on white, each under its caption."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = pictures[0].shape[:2]
    step = max(width, 150) + GAP_PX  # a narrow picture leaves room for its caption
    canvas = Image.new("RGB", (len(pictures) * step - GAP_PX, CAPTION_PX + height), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(FONT_PX)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        draw.text((place * step + 2, 4), _fitted(draw, caption, font, step - GAP_PX), fill="black", font=font)
        canvas.paste(Image.fromarray(picture), (place * step, CAPTION_PX))
    return np.array(canvas)


def _fitted(draw: ImageDraw, text: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    """Return `text`, shortened with dots if it is wider than `width` pixels."""
    shown = text
    while len(shown) > 1 and draw.textlength(shown, font=font) > width:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown
