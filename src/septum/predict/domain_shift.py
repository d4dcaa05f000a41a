"""Is an image to predict like those of the training? What to expect where it is not, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from septum.arrays.intensity_profile import QUANTILES, distance, intensity_curve, inverted, typical_distance
from septum.arrays.tiles import Readable
from septum.settings import Settings

if TYPE_CHECKING:
    from septum.check.samples import Sample

_MOST = 64  # images whose curves are kept
_RATIO = 1.5  # of pixel sizes, beyond the range of the training
_FLAT = 4  # an image with so many times fewer gray values than any of the training, and with 16 at most
_WHOLE = 1 << 22  # pixels, up to which a frame is read whole
_WINDOW = {2: 256, 3: 64}  # pixels along each axis; three windows an axis are read of larger frames


class TrainingDomain(Settings):
    """What the training images were like.

    Parameters
    ----------
    curves
        Of up to 64 of them, the channels one after another: see `septum.arrays.intensity_profile.intensity_curve`.
    levels
        The fewest gray values of an image.
    pixel_um
        Smallest and largest pixel size per axis, in micrometers; empty if unknown.
    object_px
        Median diameter of the objects in pixels; None for classes.
    """

    curves: tuple[tuple[float, ...], ...] = Field(min_length=1)
    levels: int
    pixel_um: dict[str, tuple[float, float]] = Field(default_factory=dict)
    object_px: float | None = None


def training_domain(samples: Sequence[Sample], object_px: float | None) -> TrainingDomain:
    """Sum up what the images of a training are like.

    Parameters
    ----------
    samples
        All annotated images, also those held out.
    object_px
        Median diameter of the objects in pixels, None for classes.
    """
    looks = [intensity_curve(sample.image) for sample in samples]
    kept = np.unique(np.linspace(0, len(looks) - 1, min(_MOST, len(looks))).round().astype(int))
    sizes = np.asarray([s.spacing_um for s in samples if s.spacing_um is not None])
    axes = "ZYX"[-samples[0].mask.ndim :]
    return TrainingDomain(
        curves=tuple(tuple(round(float(v), 4) for v in looks[i][0].ravel()) for i in kept),
        levels=min(levels for _, levels in looks),
        pixel_um={a: (float(sizes[:, i].min()), float(sizes[:, i].max())) for i, a in enumerate(axes) if len(sizes)},
        object_px=None if object_px is None else round(object_px, 1),
    )


def shift_warnings(
    frame: Readable, name: str, pixel_size_um: Mapping[str, float], seen: TrainingDomain
) -> Iterator[tuple[str, str]]:
    """Say in what an image is unlike those of the training.

    Parameters
    ----------
    frame
        ``(C, *S)``; large ones are looked at through some windows.
    name
        Of the image, for people.
    pixel_size_um
        By axis; empty if unknown.
    seen
        From the model file.

    Yields
    ------
    cause, text
        A word that is the same for all images of that kind, and what to expect and to do.
    """
    yield from _pixel_size(name, pixel_size_um, seen)
    curve, levels = intensity_curve(_pixels(frame))
    known = [np.asarray(c).reshape(-1, len(QUANTILES)) for c in seen.curves]
    if known[0].shape != curve.shape:
        return
    usual = typical_distance(known)
    far = distance(curve, known)
    if levels * _FLAT < seen.levels and levels <= 16:
        yield (
            "contrast",
            f"{name}: only {levels} gray values, the training images have {seen.levels} and more: expect noise to be "
            "taken for structure; save the image with its full range of values, or expose it longer",
        )
    elif far > usual:
        figures = f"{far:.2g} standard deviations off, usual are {usual:.2g}"
        if distance(inverted(curve), known) <= usual:
            text = f"dark and bright are the other way round than in the training images ({figures}): expect hardly "
            text += "anything to be found; invert the image"
        else:
            text = f"intensities are distributed as in no training image ({figures}; brightness and contrast do not "
            text += "matter): expect more mistakes; look at the results, and train with some images of this kind"
        yield "intensities", f"{name}: {text}"


def _pixel_size(name: str, pixel_size_um: Mapping[str, float], seen: TrainingDomain) -> Iterator[tuple[str, str]]:
    ratios = {}
    for axis, (low, high) in seen.pixel_um.items():
        size = pixel_size_um.get(axis)
        if size is not None and not low / _RATIO <= size <= high * _RATIO:
            ratios[axis] = size / float(np.sqrt(low * high))
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
        f"{'smaller' if ratio > 1 else 'larger'}{across}, expect that some are missed or cut; resample the image to "
        f"{usual:.3g} micrometers, or train with images of this pixel size",
    )


def _pixels(frame: Readable) -> NDArray[Any]:
    """Return ``(C, n)`` pixels: all of a frame, or windows at its ends and in its middle."""
    sides = frame.shape[1:]
    if int(np.prod(sides)) <= _WHOLE:
        whole = frame[(slice(None), *(slice(0, n) for n in sides))]
        return whole.reshape(len(whole), -1)
    window = _WINDOW[len(sides)]
    starts = [sorted({0, max(0, (n - window) // 2), max(0, n - window)}) for n in sides]
    parts = [frame[(slice(None), *(slice(s, s + window) for s in place))] for place in product(*starts)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
