"""One image or volume for training, with its mask: held in memory, or read from its files when it is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import NormalizeSettings, statistics
from septum.arrays.resample import Resampled, scaled_sides
from septum.arrays.targets import drop_unannotated
from septum.kept import KeptValues
from septum.settings import MaskKind

MOST_LEARNED, _LEARNED_PIXELS = 100, 1 << 25
"""Training images, and pixels of them, from which decisions about objects are learned: memory holds them all."""


@dataclass(frozen=True)
class Sample:
    """One image or volume ready for training.

    Attributes
    ----------
    name
        Unique; pages of a stack are ``NAME_t003``, sections of a volume that is read as images ``NAME_z003``.
    group, position
        Samples of one sequence or stack share a group, in which `position` rises; ``""`` is a separate image.
    image
        ``(C, *S)`` float32, raw intensities, finite.
    mask
        ``(*S)`` int32: object ids (0 background) or classes 0 .. K - 1; `UNANNOTATED` where not annotated.
    gold
        ``(*S)`` int32, truth for scores where it differs from `mask`: ids of some of the objects, `UNANNOTATED` where
        not annotated. None if `mask` is the truth.
    spacing_um
        Micrometers per pixel along ``*S``; None if unknown.
    copy_of
        Images with the same name here are copies of one another, and stay together; ``""`` is no copy.
    whole
        Intensities of the image of which this is a part; None if it is no part.
    """

    name: str
    group: str
    position: int
    image: NDArray[np.float32]
    mask: NDArray[np.int32]
    gold: NDArray[np.int32] | None
    spacing_um: tuple[float, ...] | None
    copy_of: str = ""
    whole: WholeImage | WholeSample | None = field(default=None, repr=False, compare=False)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides in pixels, ``*S``."""
        return self.mask.shape

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.image)

    def held(self) -> Sample:
        """Return the sample with its arrays in memory."""
        return self

    def middle(self, side_px: int) -> Sample:
        """Return the middle of the sample, of at most this side along each axis, with its arrays in memory."""
        held = self.held()
        cut = tuple(slice(max(0, (n - side_px) // 2), (n + side_px) // 2) for n in held.sides)
        gold = None if held.gold is None else held.gold[cut]
        return replace(held, image=held.image[(slice(None), *cut)], mask=held.mask[cut], gold=gold)

    def statistics(self, settings: NormalizeSettings) -> NDArray[np.float32]:
        """Compute the statistics by which the image is normalized; see `septum.arrays.normalize.statistics`.

        Returns
        -------
        ndarray
            ``(C, 3)`` float32, finite but for the limit; those of the whole image if this is a part of one.
        """
        return statistics(self.image, settings) if self.whole is None else self.whole.statistics(settings)


@dataclass(frozen=True)
class StoredSample(Sample):
    """A sample whose arrays are read from its files when they are needed, and kept as long as memory allows.

    Attributes
    ----------
    source
        Where the arrays come from.
    """

    image: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    mask: NDArray[np.int32] = field(init=False, repr=False, compare=False)
    gold: NDArray[np.int32] | None = field(init=False, repr=False, compare=False)
    source: Source = field(kw_only=True, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        if name not in ("image", "mask", "gold"):
            raise AttributeError(name)
        return getattr(self.held(), name)

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides in pixels, ``*S``."""
        return self.source.sides

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.source.channels

    def held(self) -> Sample:
        """Return the sample with its arrays in memory, read from its files if they are not kept."""
        source = self.source

        def read() -> Sample:
            return on_grid(source.read(self.name), source.scale)

        key = ("sample", self.name, source.scale)
        found = source.values.get(key, read, lambda sample: sample.image.nbytes + 2 * sample.mask.nbytes)
        return replace(found, group=self.group, position=self.position, copy_of=self.copy_of)


@dataclass(frozen=True, eq=False)
class WholeImage:
    """Intensities of a large image that is read in parts.

    Attributes
    ----------
    pixels, limits
        ``(C, n)`` any real dtype, finite: pixels spread over the image, and its smallest and largest value.
    """

    pixels: NDArray[Any]
    limits: NDArray[np.float64]
    _found: dict[NormalizeSettings, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    def statistics(self, settings: NormalizeSettings) -> NDArray[np.float32]:
        """Compute the statistics of the whole image, ``(C, 3)`` float32: `septum.arrays.normalize.statistics`."""
        if settings not in self._found:
            self._found[settings] = statistics(self.limits if settings.method == "range" else self.pixels, settings)
        return self._found[settings]


@dataclass(frozen=True, eq=False)
class WholeSample:
    """Intensities of a sample of which parts are judged."""

    sample: Sample
    _found: dict[NormalizeSettings, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    def statistics(self, settings: NormalizeSettings) -> NDArray[np.float32]:
        """Compute the statistics of the whole image, ``(C, 3)`` float32: `septum.arrays.normalize.statistics`."""
        if settings not in self._found:
            self._found[settings] = self.sample.statistics(settings)
        return self._found[settings]


@dataclass(frozen=True, eq=False)
class Source:
    """Where the arrays of a stored sample come from.

    Attributes
    ----------
    read
        Reads the sample of a name, on the grid of its file.
    values
        Keeps the samples that were read last.
    sides, channels
        On the grid of `scale`.
    scale
        See `on_grid`.
    counts
        ``(K,)`` int64, 0 or more, of a part of a large image: its annotated pixels of each class, or of background and
        objects; None of other samples.
    digest
        Hash of the pixels of a part of a large image; ``""`` of other samples.
    """

    read: Callable[[str], Sample]
    values: KeptValues
    sides: tuple[int, ...]
    channels: int
    scale: float = 1.0
    counts: NDArray[np.int64] | None = None
    digest: str = ""


MEASURED_PARTS = 8
"""Parts of large images from which the figures of a data set are computed, whatever their number."""


def measured(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples that figures of a data set are computed from: of parts of large images an even choice."""
    parts = [i for i, sample in enumerate(samples) if sample.whole is not None]
    left_out = set(parts) - {parts[place] for place in evenly_chosen(len(parts), MEASURED_PARTS)}
    return [sample for i, sample in enumerate(samples) if i not in left_out]


def evenly_chosen(count: int, number: int) -> list[int]:
    """Return `number` of the integers 0..count - 1, evenly spaced; all of them if there are no more."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(count, number)).astype(int)).tolist()
    return places


def class_pixels(sample: Sample) -> dict[int, int]:
    """Return the number of annotated pixels of each class in a mask of classes."""
    counts = sample.source.counts if isinstance(sample, StoredSample) else None
    if counts is None:
        mask = sample.mask
        counts = np.bincount(mask[mask >= 0])
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def holds_objects(samples: Iterable[Sample]) -> bool:
    """Return True if a mask of objects holds one, in any of the samples."""
    return any(_objects_in(sample) for sample in samples)


def _objects_in(sample: Sample) -> bool:
    counts = sample.source.counts if isinstance(sample, StoredSample) else None
    return bool((sample.mask > 0).any() if counts is None else counts[1:].any())


def learnable(samples: Sequence[Sample], kind: MaskKind) -> tuple[Sample, ...]:
    """Choose images to learn decisions about objects from: any first ones of them are spread over the samples."""
    chosen = evenly_chosen(len(samples), MOST_LEARNED) if kind == "objects" else []
    spread = sorted(chosen, key=lambda place: place * 0.618 % 1)
    pixels = np.cumsum([math.prod(samples[i].sides) for i in spread])
    return tuple(samples[i] for i, total in zip(spread, pixels, strict=True) if total <= _LEARNED_PIXELS)


def judged_objects(labels: NDArray[np.int32], sample: Sample) -> NDArray[np.int32]:
    """Return the predicted objects that the mask of a sample can judge.

    A gold frame that names some of its objects cannot judge the others, and a part of an image not those that its
    borders cut; elsewhere all objects are judged.

    Parameters
    ----------
    labels
        ``(*S)`` int32, ids of predicted objects, 0 background.
    sample
        The sample.

    Returns
    -------
    labels
        ``(*S)`` int32, ids, 0 in place of objects that are not judged.
    """
    whole = sample.gold is None and not isinstance(sample.whole, WholeSample)
    return labels if whole else drop_unannotated(labels, sample.mask)


def on_grid(sample: Sample, scale: float) -> Sample:
    """Return a sample on a coarser or finer grid of the same extent.

    The image is resampled as prediction resamples it (`septum.arrays.resample.Resampled`); a pixel of a mask takes the
    value at its center.

    Parameters
    ----------
    sample
        The sample.
    scale
        Pixels of the grid for each pixel of the image, along each axis; at 1 the sample is returned as it is.
    """
    if scale == 1:
        return sample
    before = sample.sides
    sides = scaled_sides(before, (scale,) * len(before))
    spacing = None if sample.spacing_um is None else tuple(size / scale for size in sample.spacing_um)
    if isinstance(sample, StoredSample):
        source = replace(sample.source, sides=sides, scale=sample.source.scale * scale)
        return replace(sample, source=source, spacing_um=spacing)
    centers = np.ix_(*(((np.arange(m) + 0.5) * n / m).astype(np.intp) for m, n in zip(sides, before, strict=True)))
    return replace(
        sample,
        image=Resampled(sample.image, sides)[(slice(None),) * sample.image.ndim],
        mask=sample.mask[centers],
        gold=None if sample.gold is None else sample.gold[centers],
        spacing_um=spacing,
    )
