"""An image and its mask as they were found in files, and what was seen in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from septum.check.placement import Placement

if TYPE_CHECKING:
    from pathlib import Path

    from septum.check.boundary_agreement import Agreement, Turned
    from septum.check.census import Census


@dataclass(frozen=True)
class ImageFacts:
    """Figures of one image file.

    Attributes
    ----------
    dtype, axes, frames, sides, channels
        As read: ``sides`` without T and C, in pixels, ``(Y, X)`` or ``(Z, Y, X)``; ``frames`` is the length of T.
    low, high, mean, percentiles
        Over all finite pixels and channels, in the file's units; percentiles 1, 50 and 99.
    holes
        Values that are NaN or infinite.
    constant
        All finite values are equal.
    spare
        The last of two or four channels is constant and not 0: an alpha channel that hides nothing.
    flat
        Channels that are constant, from 0.
    spacing_um
        Micrometers per pixel along `sides`; None if unknown.
    digest
        Of shape and values: equal images have equal digests.
    curve, levels
        See `septum.arrays.intensity_profile.intensity_curve`; the channels one after another.
    thumbnail
        See `septum.arrays.intensity_profile.thumbnail`; of the first frame, empty for stacks.
    """

    dtype: str
    axes: str
    frames: int
    sides: tuple[int, ...]
    channels: int
    low: float
    high: float
    mean: float
    percentiles: tuple[float, float, float]
    holes: int
    constant: bool
    spare: bool
    flat: tuple[int, ...]
    spacing_um: tuple[float, ...] | None
    digest: str
    curve: tuple[float, ...]
    levels: int
    thumbnail: tuple[float, ...]


@dataclass(frozen=True)
class MaskFacts:
    """Figures of one mask file: as `ImageFacts`, and one census per frame.

    Attributes
    ----------
    mends
        Codes of `septum.check.masks.Labels`.
    problem
        Why it cannot be read as labels; ``""`` if it can.
    agreements
        How outlines and edges agree, in up to eight frames that have labels; empty for volumes.
    orientation
        The order of axes in which a volume's mask fits best; None for images.
    reorder
        What brings the sides of the mask to those of the image; None if they are equal, or it is not certain.
    turned
        Y and X are swapped, and rotated by 90 degrees it would fit better than transposed.
    apart
        Ids that several objects far apart have; see `septum.check.split_ids.set_apart`.
    ignored
        Values that were asked to mean not annotated and are in the mask.
    """

    dtype: str
    axes: str
    frames: int
    sides: tuple[int, ...]
    channels: int
    mends: tuple[str, ...]
    problem: str
    census: tuple[Census, ...]
    agreements: tuple[Agreement, ...]
    orientation: Turned | None
    reorder: Placement | None
    turned: bool
    apart: tuple[int, ...]
    digest: str
    ignored: tuple[int, ...] = ()


@dataclass(frozen=True)
class PairStatistics:
    """One image with its truth, and what was found in the files.

    Attributes
    ----------
    name, group, position, image
        As in `septum.pairing.find.Pair`.
    masks, golds
        Files of truth, each with the Z slice that it is (None: all of the image).
    image_facts, mask_facts
        Figures; None if the file could not be read. Of several masks (slices) the first.
    unreadable
        Files that could not be read, with the reason.
    binary
        Frames whose objects are the connected pieces of one value, although the data set has ids.
    mend
        How the mask has to be put on its image, found by comparing it with the others.
    axes
        Names of the dimensions of the image file, where it does not say them right; None where it does.
    copy_of
        Name of the first pair of which the image is a copy; ``""`` if there is none.
    field
        Mask of the field of view; None if there is none that fits.
    unfit_field
        A mask of the field of view that is not used, with the reason.
    near_px
        The mask names some of the objects: only what lies within so many pixels of one (of the finest axis) is known
        to be background. None where it names them all.
    """

    name: str
    group: str
    position: int
    image: Path
    masks: tuple[tuple[Path, int | None], ...]
    golds: tuple[tuple[Path, int | None], ...]
    image_facts: ImageFacts | None = None
    mask_facts: MaskFacts | None = None
    unreadable: tuple[tuple[Path, str], ...] = ()
    binary: tuple[int, ...] = ()
    mend: Placement | None = None
    axes: str | None = None
    copy_of: str = ""
    field: Path | None = None
    unfit_field: tuple[Path, str] | None = None
    near_px: float | None = None

    @property
    def mask(self) -> Path:
        """The first mask file."""
        return self.masks[0][0]

    @property
    def placement(self) -> Placement | None:
        """What has to be done with the mask so that it fits its image; None if nothing."""
        if self.mask_facts is None or self.masks[0][1] is not None:
            return None
        return self.mask_facts.reorder or self.mend
