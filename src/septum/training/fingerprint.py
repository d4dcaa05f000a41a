"""The fingerprint of a data set: the figures that a plan follows from, and their description in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.arrays.boundaries import touching_ids
from septum.arrays.normalize import NormalizeSettings, normalize, quantiles, statistics
from septum.arrays.separability import intensity_recall, sample_classes
from septum.arrays.targets import connected_components, equivalent_diameters, object_sizes
from septum.arrays.watershed import find_holes
from septum.arrays.weight_map import two_nearest
from septum.nn.augment import AugmentSettings
from septum.pairing.sample import Sample, measured
from septum.settings import MaskKind
from septum.threads import map_in_threads
from septum.words import pluralize

# Intensities are taken from a regular grid of about this many pixels of an image.
_SAMPLED_PIXELS = 100_000
# Share of the pixels of an image that are not further from the mean than its brightest or darkest structures.
_STRUCTURES = 0.999
# Pixels that the statistics of all images together are computed from.
_COMMON_PIXELS = 4_000_000
# Parts of the largest change of contrast and of brightness for which gray values are compared.
_VARIATIONS = (-0.75, -0.25, 0.25, 0.75)
# Classes have a fixed orientation in at least this many images, if their centers are this far apart (in parts of a
# side) and the mean of the unit vectors between them is this long.
_MIN_IMAGES, _MIN_DISTANCE, _MIN_AGREEMENT = 5, 0.05, 0.9
# Boundary lines are looked for in this many masks, in their middle of at most this many pixels a side; each must hold
# this many areas on average.
_LINES_MASKS, _LINES_SIDE, _MIN_AREAS = 8, 1024, 4
# Holes of objects are filled if at most this share of the true objects has one: masks are not free of errors.
_FEW_HOLES = 0.01
# Least share of annotated pixels in masks without gaps.
_ANNOTATED = 0.9


@dataclass(frozen=True)
class GrayValues:
    """Recall of the classes if a pixel is classified by its intensities alone: see `septum.arrays.separability`.

    Attributes
    ----------
    each, each_varied
        With each image standardized by itself; and with the changes of contrast and brightness of the augmentation.
    common, common_varied
        The same with one offset and scale for all images.
    """

    each: float
    each_varied: float
    common: float
    common_varied: float


@dataclass(frozen=True)
class Fingerprint:
    """Figures of a data set.

    Attributes
    ----------
    channels, classes
        Of images and masks; two classes for objects.
    sides
        Median sides per axis in pixels, ``(Y, X)`` or ``(Z, Y, X)``.
    anisotropy
        Median pixel size per axis relative to the smallest, 1 where unknown.
    object_px
        Median diameter of the objects in pixels; None without objects.
    object_range_px
        Diameters in pixels that 5 % and 95 % of the objects do not exceed; None without objects.
    fixed_orientation
        True if classes lie the same way around in all images (see `has_fixed_orientation`).
    boundary_lines
        True if masks show areas and boundary lines between them (see `has_boundary_lines`).
    images
        Number of annotated images.
    side_range
        Smallest and largest sides per axis in pixels.
    spacing_um
        Median micrometers per pixel along each axis; empty if unknown.
    intensities
        Median over the images of the 1 % and the 99 % quantile, in the units of the files.
    contrast
        Largest distance between these two quantiles in an image, relative to the smallest.
    brightest
        Distance of the brightest or darkest structures of an image from its mean, in standard deviations: the median
        over the images; 0 if unknown.
    objects
        Number of objects in all images; 0 for classes.
    touching
        Share of the objects that touch another one, 0..1.
    holes
        Share of the objects that enclose background (see `septum.arrays.watershed.find_holes`), 0..1.
    shares
        Share of each class in the annotated pixels, 0..1; for objects, of background and objects.
    annotated
        Share of the pixels that are annotated, 0..1.
    gray_values
        How well gray values alone tell the classes apart; None for objects and for boundary lines.
    scale
        Pixels of the grid that all other figures are of for each pixel of the images, along each axis.
    common
        Offset and scale of each channel over all images together, as `septum.arrays.normalize.statistics` computes
        them for one.
    """

    channels: int
    classes: int
    sides: tuple[int, ...]
    anisotropy: tuple[float, ...]
    object_px: float | None = None
    object_range_px: tuple[float, float] | None = None
    fixed_orientation: bool = False
    boundary_lines: bool = False
    images: int = 1
    side_range: tuple[tuple[int, int], ...] = ()
    spacing_um: tuple[float, ...] = ()
    intensities: tuple[float, float] = (0.0, 1.0)
    contrast: float = 1.0
    brightest: float = 0.0
    objects: int = 0
    touching: float = 0.0
    holes: float = 0.0
    shares: tuple[float, ...] = ()
    annotated: float = 1.0
    gray_values: GrayValues | None = None
    common: tuple[tuple[float, float], ...] = ()
    scale: float = 1.0

    @property
    def solid_objects(self) -> bool:
        """Return True if there are objects and hardly any of them has a hole."""
        return self.objects > 0 and self.holes <= _FEW_HOLES

    @property
    def own_px(self) -> float | None:
        """Return `object_px` on the images' own grid."""
        return None if self.object_px is None else self.object_px / self.scale

    def describe(self) -> tuple[str, ...]:
        """Describe the data in words, one sentence a line."""
        sides = " x ".join(f"{low}" if low == high else f"{low}..{high}" for low, high in self.side_range)
        size = " x ".join(f"{s:.3g}" for s in self.spacing_um)
        first = f"data: {pluralize(self.images, 'image')} of {sides} pixels"
        first += f", {size} um each" if size else ""
        low, high = self.intensities
        first += f"; intensities mostly {low:.4g} to {high:.4g}"
        if self.contrast >= 3:
            first += f", contrast {self.contrast:.0f} times as high in one image as in another"
        lines = [first] if self.scale == 1 else [self._describe_scale(), first]
        if self.object_px is not None and self.object_range_px is not None:
            small, large = self.object_range_px
            lines.append(
                f"{pluralize(self.objects, 'object')}, mostly {small:.0f} to {large:.0f} px wide "
                f"(median {self.object_px:.0f}); {self.touching:.0%} touch another; "
                f"{self.shares[1]:.0%} of the pixels are objects"
            )
        else:
            lines.append("classes fill " + ", ".join(f"{share:.1%}" for share in self.shares) + " of the pixels")
        if self.annotated < 1:
            lines.append(f"{self.annotated:.1%} of the pixels are annotated")
        return tuple(lines)

    def _describe_scale(self) -> str:
        wide = "" if self.own_px is None else f"objects are about {self.own_px:.0f} px wide: "
        return f"{wide}the network sees images at scale {self.scale:.3g}; pixels below are of that grid"


def compute_fingerprint(samples: Sequence[Sample], kind: MaskKind, *, classes: int, scale: float = 1.0) -> Fingerprint:
    """Compute the fingerprint of a data set.

    Parameters
    ----------
    samples
        All annotated images.
    kind
        ``"objects"`` or ``"classes"``.
    classes
        Number of classes for ``"classes"``.
    scale
        That at which the samples stand (`septum.pairing.sample.on_grid`).
    """
    is_objects = kind == "objects"
    classes = 2 if is_objects else classes
    every, samples = samples, measured(samples)
    figures = map_in_threads(lambda sample: _measure(sample, objects=is_objects, classes=classes), samples)
    shapes = np.asarray([s.sides for s in every])
    known = [s.spacing_um for s in every if s.spacing_um is not None]
    spacing = np.median(np.asarray(known), axis=0) if known else np.ones(shapes.shape[1])
    spans = np.asarray([m.span for m in figures])
    ranges = spans[:, 1] - spans[:, 0]
    ranges = ranges[ranges > 0]
    counts = np.sum([m.counts for m in figures], axis=0)
    diameters = equivalent_diameters(np.concatenate([m.sizes for m in figures]), shapes.shape[1])
    has_objects = len(diameters) > 0
    boundary_lines = not is_objects and classes == 2 and has_boundary_lines(samples)
    common = _common_statistics(samples)
    low, high = (float(q) for q in np.quantile(diameters, [0.05, 0.95])) if has_objects else (0.0, 0.0)
    return Fingerprint(
        channels=samples[0].channels,
        classes=classes,
        sides=tuple(int(v) for v in np.median(shapes, axis=0)),
        anisotropy=tuple(float(v) for v in np.round(spacing / spacing.min(), 2)),
        object_px=float(np.median(diameters)) if has_objects else None,
        object_range_px=(low, high) if has_objects else None,
        fixed_orientation=not is_objects and has_fixed_orientation(samples, classes=classes),
        boundary_lines=boundary_lines,
        images=len(every),
        side_range=tuple((int(low), int(high)) for low, high in zip(shapes.min(0), shapes.max(0), strict=True)),
        spacing_um=tuple(float(v) for v in spacing) if known else (),
        intensities=(float(np.median(spans[:, 0])), float(np.median(spans[:, 1]))),
        contrast=float(ranges.max() / ranges.min()) if len(ranges) else 1.0,
        brightest=float(np.median([m.brightest for m in figures])),
        objects=len(diameters),
        touching=sum(m.touching for m in figures) / len(diameters) if has_objects else 0.0,
        holes=sum(m.pierced for m in figures) / len(diameters) if has_objects else 0.0,
        shares=tuple(float(c) for c in counts / max(1, counts.sum())),
        annotated=float(counts.sum() / sum(math.prod(s.sides) for s in samples)),
        gray_values=None if is_objects or boundary_lines else _gray_values(samples, common, classes=classes),
        common=tuple((float(offset), float(gain)) for offset, gain in common),
        scale=scale,
    )


@dataclass(frozen=True)
class _ImageFigures:
    """Figures of one image, of which those of the data set are made.

    Attributes
    ----------
    span, brightest
        The 1 % and the 99 % quantile of the intensities, and `brightest_structures`.
    counts
        ``(K,)`` int64: pixels of each class, or of background and objects.
    sizes
        ``(N,)`` int64, 1 or more: pixels of each object; empty for classes.
    touching, pierced
        Number of objects that touch another one, and that enclose background.
    """

    span: tuple[float, float]
    brightest: float
    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    touching: int = 0
    pierced: int = 0


def _measure(sample: Sample, *, objects: bool, classes: int) -> _ImageFigures:
    sample = sample.held()
    low, high = quantiles(_sampled(sample.image), (0.01, 0.99))
    span, brightest, mask = (float(low), float(high)), brightest_structures(sample.image), sample.mask
    if not objects:
        counts = np.bincount(mask[mask >= 0], minlength=classes)[:classes]
        return _ImageFigures(span, brightest, counts, np.zeros(0, np.int64))
    sizes, owners = object_sizes(mask), find_holes(mask)[1]
    counts = np.array([np.count_nonzero(mask == 0), sizes.sum()])
    pierced = len(np.unique(owners[owners > 0]))
    return _ImageFigures(span, brightest, counts, sizes, len(touching_ids(mask)), pierced)


def _common_statistics(samples: Sequence[Sample]) -> NDArray[np.float32]:
    """Compute offset and scale of each channel from a sample of the pixels of all images; ``(C, 2)`` float32."""
    step = max(1, sum(math.prod(s.sides) for s in samples) // _COMMON_PIXELS)
    pixels = [s.image.reshape(s.channels, -1)[:, ::step].copy() for s in samples]
    return statistics(np.concatenate(pixels, axis=1), NormalizeSettings())[:, :2]


def _gray_values(samples: Sequence[Sample], common: NDArray[np.float32], *, classes: int) -> GrayValues:
    """Compute how well gray values tell the classes apart, for both normalizations, with and without augmentation."""
    drawn = AugmentSettings.auto()
    varied = [(1 + drawn.contrast * gain, drawn.brightness * offset) for gain in _VARIATIONS for offset in _VARIATIONS]
    pixels, own = [], []
    for sample in (s.held() for s in samples):
        pixels.append(sample_classes(sample.image, sample.mask, classes=classes))
        own.append(sample.statistics(NormalizeSettings()))
    labels = [label for _, label in pixels]
    recalls = []
    for stats in (own, [common] * len(samples)):
        values = [(v - of[:, :1]) / of[:, 1:2] for (v, _), of in zip(pixels, stats, strict=True)]
        recalls += [
            intensity_recall(values, labels, classes=classes),
            intensity_recall(values, labels, classes=classes, varied=varied),
        ]
    return GrayValues(*recalls)


def has_boundary_lines(samples: Sequence[Sample]) -> bool:
    """Return True if masks of two classes show areas and boundary lines between them, as membranes between cells.

    The background is then the rarer class, and most of it lies between two areas that are closer to each other than
    half their width. False for masks with unannotated parts, in which this cannot be decided.
    """
    counts = map_in_threads(lambda sample: np.bincount(np.clip(sample.mask, -1, 2).ravel() + 1, minlength=4), samples)
    _, background, foreground, _ = np.sum(counts, axis=0).tolist()
    annotated = background + foreground
    if not 0 < background < foreground or annotated <= _ANNOTATED * sum(math.prod(s.sides) for s in samples):
        return False
    middles = [_middle(sample.mask) for sample in samples[:: -(-len(samples) // _LINES_MASKS)]]
    areas = [np.where(mask < 0, np.int32(-1), connected_components(mask == 1)) for mask in middles]
    count = sum(int(labels.max(initial=0)) for labels in areas)
    if count < _MIN_AREAS * len(areas):
        return False
    reach = 0.5 * (sum(np.count_nonzero(labels > 0) for labels in areas) / count) ** (1 / middles[0].ndim)
    between = sum(_count_between(labels, reach) for labels in areas)
    return between > 0.5 * sum(np.count_nonzero(labels == 0) for labels in areas)


def _middle(mask: NDArray[np.int32]) -> NDArray[np.int32]:
    return mask[tuple(slice(max(0, (n - _LINES_SIDE) // 2), (n + _LINES_SIDE) // 2) for n in mask.shape)]


def _count_between(labels: NDArray[np.int32], reach_px: float) -> int:
    """Count the background pixels whose distances to the two nearest areas add up to at most `reach_px`."""
    count = 0
    for rows, (_, first, _, second) in two_nearest(labels, spacing=(1.0,) * labels.ndim, reach=reach_px):
        count += int(np.count_nonzero((np.sqrt(first) + np.sqrt(second) <= reach_px) & (labels[rows] == 0)))
    return count


def has_fixed_orientation(samples: Sequence[Sample], *, classes: int) -> bool:
    """Return True if classes lie the same way around in all images, as the parts of an organ do.

    Rotating or mirroring such images would show arrangements that never occur, and would hide the features that
    distinguish the classes.

    Parameters
    ----------
    samples
        All annotated images; masks hold classes.
    classes
        Number of classes.

    Returns
    -------
    bool
        True if for two classes besides the background, in five images or more, the vector between their centers has
        nearly one direction (the mean of the unit vectors is longer than 0.9) and is on average longer than a twentieth
        of the sides.
    """
    centers = [_centers(sample.mask, classes) for sample in samples]
    for one in range(1, classes):
        for other in range(one + 1, classes):
            vectors = [c[other] - c[one] for c in centers if one in c and other in c]
            lengths = np.linalg.norm(vectors, axis=1) if vectors else np.zeros(0)
            if len(vectors) < _MIN_IMAGES or lengths.mean() < _MIN_DISTANCE or (lengths == 0).any():
                continue
            if np.linalg.norm((np.asarray(vectors) / lengths[:, None]).mean(axis=0)) > _MIN_AGREEMENT:
                return True
    return False


def _centers(mask: NDArray[np.int32], classes: int) -> dict[int, NDArray[np.float64]]:
    """Return the center of each class of a mask except the background, per axis in parts of the side."""
    centers = {}
    for value in range(1, classes):
        places = np.argwhere(mask == value)
        if len(places):
            centers[value] = places.mean(axis=0) / np.asarray(mask.shape)
    return centers


def brightest_structures(image: NDArray[np.float32]) -> float:
    """Measure how far the brightest or darkest structures of an image lie from its mean.

    Parameters
    ----------
    image
        ``(C, *S) float32``, of any range, finite.

    Returns
    -------
    float
        Distance from the mean that all but a thousandth of the pixels keep, in standard deviations: the largest of all
        channels.
    """
    sampled = _sampled_pixels(image)
    values = normalize(sampled, statistics(sampled, NormalizeSettings(skip_constant=True)))
    return float(quantiles(np.abs(values), (_STRUCTURES,)).max())


def _sampled_pixels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``(C, n)`` pixels of a regular grid."""
    flat = image.reshape(len(image), -1)
    return flat[:, :: max(1, flat.shape[1] // _SAMPLED_PIXELS)]


def _sampled(image: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = image.reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLED_PIXELS)]
