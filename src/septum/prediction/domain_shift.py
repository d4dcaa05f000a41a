"""Domain shift: warn of an image that differs from the training images, with the likely effect and a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from septum.arrays.normalize import (
    QUANTILES,
    NormalizeSettings,
    constant_ends,
    intensity_curve,
    inverted,
    statistics,
)
from septum.arrays.targets import width_by_area
from septum.arrays.tiles import Readable
from septum.pairing.sample import Sample, measured
from septum.settings import Settings
from septum.threads import map_in_threads
from septum.words import pluralize

_MOST_CURVES = 64  # training images whose intensity curves are stored
_SIZE_RATIO = 1.5  # tolerated ratio of pixel sizes, beyond the range of the training images
# Few gray values: at most `_FEW_LEVELS`, and fewer than any training image has by this factor.
_LEVELS_RATIO, _FEW_LEVELS = 4, 16
# Hot pixels: beyond this multiple of the limit of normalized values, and at most this share of the pixels.
_HOT, _HOT_SHARE = 2.0, 0.005
# Gray values differ if their ends lie outside of those of the training images by more than this part of the range.
_ENDS_MARGIN, _ENDS_SAMPLE = 0.25, 200_000
_WHOLE_PX = 1 << 22  # frames of more pixels are read in windows: three along each axis, of these sides
_WINDOW_PX = {2: 256, 3: 64}
# Limits for the distance of an image to the nearest training image. Measured with four fifths of a set as training
# images and the rest as images to predict: of 515 images of electron, phase contrast, DIC and fluorescence microscopy,
# stained tissue and MR, 3 exceeded the limit. Of the same images inverted, these exceeded it: all of fluorescence and
# phase contrast, 57 of 60 of tissue, 21 of 30 of electron microscopy, 18 of 50 of MR, and none of DIC, which looks the
# same inverted.
_TIMES, _LEAST, _LEAST_OF_FEW = 3.0, 0.1, 1.2  # few training images show little of the usual variation


class TrainingDomain(Settings):
    """Statistics of the training images.

    Parameters
    ----------
    curves
        Intensity curves of up to 64 images, the channels one after another; see
        `septum.arrays.normalize.intensity_curve`.
    levels
        Smallest number of gray values in an image.
    pixel_um
        Smallest and largest pixel size for each axis, in micrometers; empty if unknown.
    object_px
        Median diameter of the objects in pixels; None for classes.
    ends
        For each channel the smallest and the largest 1 % quantile of an image, then the smallest and the largest 99 %
        quantile, in the units of the files; empty unless all images have one normalization.
    width_by_area_px
        Median over the images of the typical width of their objects (`septum.arrays.targets.width_by_area`); None for
        classes, and in files of versions that did not store it.
    """

    curves: tuple[tuple[float, ...], ...] = Field(min_length=1)
    levels: int
    pixel_um: dict[str, tuple[float, float]] = Field(default_factory=dict)
    object_px: float | None = None
    ends: tuple[tuple[float, float, float, float], ...] = ()
    width_by_area_px: float | None = None


def training_domain(samples: Sequence[Sample], object_px: float | None, *, common: bool = False) -> TrainingDomain:
    """Compute the statistics of the training images.

    Parameters
    ----------
    samples
        All annotated images, the validation images included.
    object_px
        Median diameter of the objects in pixels, None for classes.
    common
        All images have one normalization, so that brightness and contrast matter.
    """
    sizes = np.asarray([s.spacing_um for s in samples if s.spacing_um is not None])
    samples = measured(samples)
    ends = np.asarray([_ends(s.image.reshape(len(s.image), -1)) for s in samples]) if common else np.zeros((1, 0, 2))
    curves = map_in_threads(lambda sample: intensity_curve(sample.image), samples)
    kept = np.unique(np.linspace(0, len(curves) - 1, min(_MOST_CURVES, len(curves))).round().astype(int))
    axes = "ZYX"[-len(samples[0].sides) :]
    found = [] if object_px is None else map_in_threads(lambda sample: width_by_area(sample.mask)[1], samples)
    widths = [width for width in found if width > 0]
    return TrainingDomain(
        curves=tuple(tuple(round(float(v), 4) for v in curves[i][0].ravel()) for i in kept),
        levels=min(levels for _, levels in curves),
        pixel_um={a: (float(sizes[:, i].min()), float(sizes[:, i].max())) for i, a in enumerate(axes) if len(sizes)},
        object_px=None if object_px is None else round(object_px, 1),
        ends=tuple(
            (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
            for low, high in zip(ends.min(axis=0), ends.max(axis=0), strict=True)
        ),
        width_by_area_px=round(float(np.median(widths)), 1) if widths else None,
    )


def shift_warnings(
    frame: Readable,
    name: str,
    pixel_size_um: Mapping[str, float],
    seen: TrainingDomain,
    normalization: NormalizeSettings | None = None,
) -> Iterator[tuple[str, str]]:
    """Compare an image with the training images.

    Parameters
    ----------
    frame
        ``(C, *S)``, raw intensities of any range; of large frames some windows are read.
    name
        Name of the image for the message.
    pixel_size_um
        Pixel size for each axis, in micrometers; empty if unknown.
    seen
        Statistics of the training images, from the model file.
    normalization
        How the model normalizes intensities; None: what it mends is not reported.

    Yields
    ------
    cause, text
        A key that is the same for all images with this difference; the difference, its likely effect and a remedy.
    """
    yield from _pixel_size(name, pixel_size_um, seen)
    pixels = sample_pixels(frame)
    if normalization is not None:
        yield from _unusual_pixels(pixels, name, seen, normalization)
    yield from _brightness(name, pixels, seen)
    curve, levels = intensity_curve(pixels)
    known = [np.asarray(c).reshape(-1, len(QUANTILES)) for c in seen.curves]
    if known[0].shape != curve.shape:
        return
    usual = typical_distance(known)
    far = distance(curve, known)
    if levels * _LEVELS_RATIO < seen.levels and levels <= _FEW_LEVELS:
        yield (
            "contrast",
            f"{name}: only {levels} gray values, the training images have {seen.levels} and more: noise may be taken "
            "for structure; save the image with its full range of values, or expose it longer",
        )
    elif far > usual:
        figures = f"distance {far:.2g} standard deviations, typical {usual:.2g}"
        if distance(inverted(curve), known) <= usual:
            text = f"dark and bright are inverted compared with the training images ({figures}): hardly anything will "
            text += "be found; invert the image"
        else:
            text = f"the intensity distribution differs from all training images ({figures}; brightness and contrast "
            text += "do not matter): expect more errors; look at the results, and train with some images of this kind"
        yield "intensities", f"{name}: {text}"


def _unusual_pixels(
    pixels: NDArray[Any], name: str, seen: TrainingDomain, normalization: NormalizeSettings
) -> Iterator[tuple[str, str]]:
    """Report values that were added to the picture, and hot pixels; and whether the normalization mends them."""
    if normalization.skip_constant:
        ends = [end for channel in pixels for end in constant_ends(channel.astype(np.float64))]
        for end in sorted(set(ends)):
            yield (
                "constant value",
                f"{name}: {np.mean(pixels == end):.1%} of the pixels have exactly the value {end:g}, far from all "
                "others: a frame or a bar that was added to the picture; they do not count for brightness and contrast",
            )
    limit = normalization.limit
    if limit is None and normalization.method != "standardize":
        return
    effect = "limited to the intensities of the training"
    if limit is None:  # a model of an earlier version: the brightest structures are those of its training images
        limit = 2 * max((abs(value) for curve in seen.curves for value in curve), default=0.0) or np.inf
        effect = (
            "this model does not limit them, so that objects around them may be missed; remove them, for example with "
            "a median filter of 3 pixels"
        )
    stats = statistics(pixels, normalization).astype(np.float64)
    values = np.abs((pixels - stats[:, :1]) / stats[:, 1:2]) / limit
    hot = values > _HOT
    if 0 < hot.mean() <= _HOT_SHARE:
        count = int(np.count_nonzero(hot))
        yield (
            "hot pixels",
            f"{name}: {pluralize(count, 'pixel')} far brighter or darker than anything in the training images (up "
            f"to {values.max():.2g} times), such as hot pixels of a camera: {effect}",
        )


def image_warnings(
    frames: Sequence[Readable],
    name: str,
    pixel_size_um: Mapping[str, float],
    seen: TrainingDomain | None,
    normalization: NormalizeSettings | None = None,
) -> Iterator[tuple[str, str]]:
    """Compare the middle frame of an image with the training images; see `shift_warnings`.

    Yields
    ------
    cause, text
        The text states that a cause is reported once, which is up to the caller. Nothing without `seen`.
    """
    if seen is not None:
        for cause, text in shift_warnings(frames[len(frames) // 2], name, pixel_size_um, seen, normalization):
            yield cause, f"{text} (reported once, also for other images of this kind)"


def pixel_size_ratios(pixel_size_um: Mapping[str, float], seen: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Return by axis the ratios of pixel sizes outside of the range of the training to the middle of that range.

    Parameters
    ----------
    pixel_size_um
        Pixel size for each axis, in micrometers; empty if unknown.
    seen
        `TrainingDomain.pixel_um`.
    """
    return {
        axis: pixel_size_um[axis] / float(np.sqrt(low * high))
        for axis, (low, high) in seen.items()
        if axis in pixel_size_um and not low / _SIZE_RATIO <= pixel_size_um[axis] <= high * _SIZE_RATIO
    }


def _pixel_size(name: str, pixel_size_um: Mapping[str, float], seen: TrainingDomain) -> Iterator[tuple[str, str]]:
    ratios = pixel_size_ratios(pixel_size_um, seen.pixel_um)
    if not ratios:
        return
    axis = max(ratios, key=lambda a: abs(np.log(ratios[a])))
    ratio, usual = ratios[axis], float(np.sqrt(np.prod(seen.pixel_um[axis])))
    factor = max(ratio, 1 / ratio)
    along = "" if "Y" in ratios and "X" in ratios else f" along {axis}"
    across = ""
    if seen.object_px is not None and not along:
        across = f", about {seen.object_px / ratio:.2g} pixels across instead of {seen.object_px:.2g}"
    yield (
        "pixel size",
        f"{name}: pixels are {factor:.2g} times {'larger' if ratio > 1 else 'smaller'} than in training{along} "
        f"({pixel_size_um[axis]:.3g} instead of {usual:.3g} micrometers): objects look {factor:.2g} times "
        f"{'smaller' if ratio > 1 else 'larger'}{across}, some may be missed or cut; resample the image to "
        f"{usual:.3g} micrometers, or train with images of this pixel size",
    )


def _ends(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the 1 % and the 99 % quantile of each channel; ``(C, 2)``."""
    few = pixels[:, :: max(1, pixels.shape[1] // _ENDS_SAMPLE)]
    return np.quantile(few.astype(np.float64), (0.01, 0.99), axis=1).T


def _brightness(name: str, pixels: NDArray[Any], seen: TrainingDomain) -> Iterator[tuple[str, str]]:
    """Compare the gray values with those of the training images, if these have the same meaning in all images.

    An image may lack the bright classes, so that its bright end is not bounded below.
    """
    if len(seen.ends) != len(pixels):
        return
    for (low, high), (low_from, low_to, high_from, high_to) in zip(_ends(pixels), seen.ends, strict=True):
        margin = _ENDS_MARGIN * (high_to - low_from)
        if not (low_from - margin <= low <= low_to + margin and high <= high_to + margin):
            yield (
                "gray values",
                f"{name}: gray values are mostly {low:.4g} to {high:.4g}, in the training images from "
                f"{low_from:.4g}..{low_to:.4g} to {high_from:.4g}..{high_to:.4g}; this model takes the same gray value "
                "for the same class in all images: bring the image to the scale of the training images, or train with "
                "--set normalization.method=standardize",
            )
            return


def sample_pixels(frame: Readable) -> NDArray[Any]:
    """Read all pixels of a frame; of a large one those of windows at its ends and in its middle.

    Parameters
    ----------
    frame
        ``(C, *S)``, any real dtype, any values.

    Returns
    -------
    pixels
        ``(C, n)``, same dtype and values.
    """
    sides = frame.shape[1:]
    if int(np.prod(sides)) <= _WHOLE_PX:
        whole = frame[(slice(None), *(slice(0, n) for n in sides))]
        return whole.reshape(len(whole), -1)
    window = _WINDOW_PX[len(sides)]
    starts = [sorted({0, max(0, (n - window) // 2), max(0, n - window)}) for n in sides]
    parts = [frame[(slice(None), *(slice(s, s + window) for s in place))] for place in product(*starts)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def distance(curve: NDArray[np.float64], known: Sequence[NDArray[np.float64]]) -> float:
    """Compute the distance of a curve to the nearest known one: the mean absolute difference, in standard deviations.

    Parameters
    ----------
    curve
        ``(C, 7)`` float64, finite, from `intensity_curve`.
    known
        One or more curves, ``(C, 7)`` float64 each, finite.
    """
    return float(np.abs(np.stack(known) - curve).mean(axis=(1, 2)).min())


def typical_distance(known: Sequence[NDArray[np.float64]]) -> float:
    """Compute the `distance` up to which an image counts as similar to the training images.

    Parameters
    ----------
    known
        Curves of the training images, ``(C, 7)`` float64 each, finite.
    """
    least = _LEAST + _LEAST_OF_FEW / len(known)
    if len(known) < 3:
        return least
    curves = np.stack(known)
    apart = np.abs(curves[:, None] - curves).mean(axis=(2, 3))
    np.fill_diagonal(apart, np.inf)
    return max(least, _TIMES * float(np.quantile(apart.min(axis=1), 0.95)))
