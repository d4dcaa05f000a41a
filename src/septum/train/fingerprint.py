"""The fingerprint of a data set: what a person would want to know of it before a training, in figures and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import connected_components, equivalent_diameters

if TYPE_CHECKING:
    from septum.arrays.normalize import NormalizeSettings
    from septum.check.samples import Sample
    from septum.nn.unet import UNetSettings

# Intensities are taken from a regular sample of so many pixels of an image.
_PIXELS = 100_000
# Images, length in parts of a side, and length of the mean direction, from which classes lie the same way around.
_ENOUGH, _APART, _AGREED = 5, 0.05, 0.9
# Lines are told from a wide background in the middle of so many masks, with sides of so many pixels, and so many areas.
_LINES_OF, _LOOK_AT, _LEAST_AREAS = 8, 1024, 4
# Share of the pixels that is annotated in masks without gaps.
_ANNOTATED = 0.9


@dataclass(frozen=True)
class DataFingerprint:
    """Figures of a data set.

    Attributes
    ----------
    images
        Annotated images.
    sides
        Smallest and largest sides per axis, in pixels.
    spacing_um
        Median micrometers per pixel along each axis; empty if unknown.
    intensities
        Median over the images of the 1 % and the 99 % quantile, in the files' units.
    contrast
        Largest distance of these two in an image, relative to the smallest.
    objects
        Numbered objects in all images; 0 for classes.
    object_px
        Diameters in pixels that 5 %, half and 95 % of the objects do not exceed; empty without objects.
    touching
        Share of the objects that touch another one, 0..1.
    shares
        Share of each class in the annotated pixels, 0..1; for objects of background and objects.
    annotated
        Share of the pixels that are annotated, 0..1.
    """

    images: int
    sides: tuple[tuple[int, int], ...]
    spacing_um: tuple[float, ...]
    intensities: tuple[float, float]
    contrast: float
    objects: int
    object_px: tuple[float, ...]
    touching: float
    shares: tuple[float, ...]
    annotated: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return asdict(self)

    def lines(self) -> tuple[str, ...]:
        """Return the figures in plain words, one sentence a line."""
        sides = " x ".join(f"{low}" if low == high else f"{low}..{high}" for low, high in self.sides)
        size = " x ".join(f"{s:.3g}" for s in self.spacing_um)
        low, high = self.intensities
        scaled = f", contrast {self.contrast:.0f} times as high in one as in another" if self.contrast >= 3 else ""
        first = f"data: {self.images} image{'s' * (self.images > 1)} of {sides} pixels" + f", {size} um each" * bool(
            size
        )
        lines = [f"{first}; intensities mostly {low:.4g} to {high:.4g}{scaled}"]
        if self.objects:
            small, middle, large = self.object_px
            lines.append(
                f"{self.objects} objects, mostly {small:.0f} to {large:.0f} px wide (half below {middle:.0f}); "
                f"{self.touching:.0%} touch another; {self.shares[1]:.0%} of the pixels are objects"
            )
        else:
            lines.append("classes fill " + ", ".join(f"{share:.1%}" for share in self.shares) + " of the pixels")
        if self.annotated < 1:
            lines.append(f"{self.annotated:.1%} of the pixels are annotated")
        return tuple(lines)


def data_facts(samples: Sequence[Sample], kind: str, *, classes: int) -> DataFingerprint:
    """Take the fingerprint of a data set.

    Parameters
    ----------
    samples
        All annotated images.
    kind
        ``"objects"`` or ``"classes"``.
    classes
        Number of classes, 2 for objects.
    """
    shapes = np.asarray([s.mask.shape for s in samples])
    known = [s.spacing_um for s in samples if s.spacing_um is not None]
    spans = np.asarray([np.quantile(_some(s.image), [0.01, 0.99]) for s in samples])
    ranges = spans[:, 1] - spans[:, 0]
    ranges = ranges[ranges > 0]
    counts = np.zeros(classes, np.int64)
    sizes, touching = [np.zeros(0, np.int64)], 0
    for sample in samples:
        labels = np.minimum(sample.mask, 1) if kind == "objects" else sample.mask
        counts += np.bincount(labels[labels >= 0], minlength=classes)[:classes]
        if kind == "objects":
            sizes.append(np.unique(sample.mask[sample.mask > 0], return_counts=True)[1])
            touching += len(touching_ids(sample.mask))
    wide = equivalent_diameters(np.concatenate(sizes), shapes.shape[1])
    total = sum(s.mask.size for s in samples)
    return DataFingerprint(
        images=len(samples),
        sides=tuple((int(low), int(high)) for low, high in zip(shapes.min(axis=0), shapes.max(axis=0), strict=True)),
        spacing_um=tuple(float(v) for v in np.median(np.asarray(known), axis=0)) if known else (),
        intensities=(float(np.median(spans[:, 0])), float(np.median(spans[:, 1]))),
        contrast=float(ranges.max() / ranges.min()) if len(ranges) else 1.0,
        objects=len(wide),
        object_px=tuple(float(q) for q in np.quantile(wide, [0.05, 0.5, 0.95])) if len(wide) else (),
        touching=touching / len(wide) if len(wide) else 0.0,
        shares=tuple(float(c) for c in counts / max(1, counts.sum())),
        annotated=float(counts.sum() / total),
    )


def touching_ids(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the ids, rising, of the objects that share a face of a pixel with another object.

    Parameters
    ----------
    labels
        ``(*S)`` ids of 1 and more; others are no objects.
    """
    met = [np.zeros(0, np.int32)]
    for axis in range(labels.ndim):
        one = np.moveaxis(labels, axis, 0)
        a, b = one[:-1], one[1:]
        meet = (a != b) & (a > 0) & (b > 0)
        met += [np.unique(a[meet]), np.unique(b[meet])]
    return np.unique(np.concatenate(met)).astype(np.int32)


def lines_between(samples: Sequence[Sample]) -> bool:
    """Say whether masks of two classes show areas and the lines between them, as membranes between cells.

    The background is the rarer class then, and most of it lies between two areas that are closer to each other than
    half their width. Of masks that are not annotated throughout it cannot be told.
    """
    masks = [s.mask for s in samples]
    lines, areas = (sum(int((mask == k).sum()) for mask in masks) for k in (0, 1))
    if not 0 < lines < areas or lines + areas <= _ANNOTATED * sum(mask.size for mask in masks):
        return False
    some = [_middle(mask) for mask in masks[:: -(-len(masks) // _LINES_OF)]]
    numbered = [np.where(mask < 0, np.int32(-1), connected_components(mask == 1)) for mask in some]
    count = sum(int(labels.max(initial=0)) for labels in numbered)
    if count < _LEAST_AREAS * len(numbered):
        return False
    near = 0.5 * (sum(np.count_nonzero(labels > 0) for labels in numbered) / count) ** (1 / some[0].ndim)
    return sum(_between(labels, near) for labels in numbered) > 0.5 * sum(np.count_nonzero(x == 0) for x in numbered)


def _middle(mask: NDArray[np.int32]) -> NDArray[np.int32]:
    return mask[tuple(slice(max(0, (n - _LOOK_AT) // 2), (n + _LOOK_AT) // 2) for n in mask.shape)]


def _between(labels: NDArray[np.int32], near: float) -> int:
    """Count the background pixels from which two areas together are no farther than `near` pixels."""
    from septum.arrays.nearest_objects import two_nearest

    found = 0
    for rows, (_, first, _, second) in two_nearest(labels, spacing=(1.0,) * labels.ndim, reach=near):
        found += int(np.count_nonzero((np.sqrt(first) + np.sqrt(second) <= near) & (labels[rows] == 0)))
    return found


def fixed_orientation(samples: Sequence[Sample], *, classes: int) -> bool:
    """Say whether classes lie the same way around in all images, as parts of an organ do.

    Then a turned or mirrored image shows what there never is, and takes from the network what tells the classes apart.

    Parameters
    ----------
    samples
        All annotated images; masks hold classes.
    classes
        Number of classes.

    Returns
    -------
    bool
        Whether for two classes beside the background, in five images or more, the line from the center of one to that
        of the other has nearly one direction (the mean of the unit vectors is longer than 0.9) and on average more than
        a twentieth of the sides.
    """
    centers = [_centers(sample.mask, classes) for sample in samples]
    for one in range(1, classes):
        for other in range(one + 1, classes):
            lines = [c[other] - c[one] for c in centers if one in c and other in c]
            lengths = np.linalg.norm(lines, axis=1) if lines else np.zeros(0)
            if len(lines) < _ENOUGH or lengths.mean() < _APART or (lengths == 0).any():
                continue
            if np.linalg.norm((np.asarray(lines) / lengths[:, None]).mean(axis=0)) > _AGREED:
                return True
    return False


def _centers(mask: NDArray[np.int32], classes: int) -> dict[int, NDArray[np.float64]]:
    """Return the center of each class but the background that a mask holds, per axis in parts of the side."""
    found = {}
    for value in range(1, classes):
        places = np.argwhere(mask == value)
        if len(places):
            found[value] = places.mean(axis=0) / np.asarray(mask.shape)
    return found


def _some(image: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = image.reshape(-1)
    return flat[:: max(1, len(flat) // _PIXELS)]


@dataclass(frozen=True)
class Fingerprint:
    """What the plan is made from.

    Parameters
    ----------
    channels, classes
        Of images and masks.
    sides
        Median sides of the images per axis, in pixels, ``(Y, X)`` or ``(Z, Y, X)``.
    anisotropy
        Median pixel size per axis relative to the smallest, 1 where unknown.
    object_px
        Median diameter of objects in pixels; None for classes.
    gpu
        Whether a GPU computes.
    oriented
        Whether classes lie the same way around in all images (see `septum.train.fingerprint.fixed_orientation`).
    lines
        Whether masks show areas and lines between them (see `septum.train.fingerprint.lines_between`).
    network, normalization
        Of the model that training starts from; None where it starts anew.
    bfloat16
        Whether what computes is faster in bfloat16 than in float32.
    """

    channels: int
    classes: int
    sides: tuple[int, ...]
    anisotropy: tuple[float, ...]
    object_px: float | None
    gpu: bool
    oriented: bool = False
    lines: bool = False
    network: UNetSettings | None = None
    normalization: NormalizeSettings | None = None
    bfloat16: bool = False


def compute_fingerprint(
    samples: Sequence[Sample], kind: str, *, classes: int, gpu: bool, bfloat16: bool = False
) -> Fingerprint:
    """Sum up samples for the planner.

    Parameters
    ----------
    samples
        All annotated images.
    kind
        ``"objects"`` or ``"classes"``.
    classes
        Number of classes for ``"classes"``.
    gpu, bfloat16
        Whether a GPU computes, and whether it or the processor is faster in bfloat16.
    """
    rank = samples[0].mask.ndim
    known = [s.spacing_um for s in samples if s.spacing_um is not None]
    spacing = np.median(np.asarray(known), axis=0) if known else np.ones(rank)
    sizes = [np.unique(s.mask[s.mask > 0], return_counts=True)[1] for s in samples] if kind == "objects" else []
    wide = equivalent_diameters(np.concatenate([np.zeros(0, np.int64), *sizes]), rank)
    return Fingerprint(
        channels=samples[0].image.shape[0],
        classes=2 if kind == "objects" else classes,
        sides=tuple(int(v) for v in np.median([s.mask.shape for s in samples], axis=0)),
        anisotropy=tuple(float(v) for v in np.round(spacing / spacing.min(), 2)),
        object_px=float(np.median(wide)) if len(wide) else None,
        gpu=gpu,
        oriented=kind == "classes" and fixed_orientation(samples, classes=classes),
        lines=kind == "classes" and classes == 2 and lines_between(samples),
        bfloat16=bfloat16,
    )
