"""Statistics of one image and its truth files: the figures from which all issues are detected."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Literal

from septum.check.boundary_agreement import Agreement, BestOrientation, Placement
from septum.check.census import Census
from septum.check.issues import IssueKind
from septum.io.annotations.raster import Filled
from septum.io.image import Affine
from septum.pairing.fit import Change, Disagreement, Grid
from septum.pairing.parts import Survey


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of one image file.

    Attributes
    ----------
    dtype, axes, frames, sides, channels
        As read: `sides` without T and C, in pixels, ``(Y, X)`` or ``(Z, Y, X)``; `frames` is the length of T.
    low, high, mean, percentiles
        Of all finite pixels and channels, in the units of the file; percentiles 1, 50 and 99.
    holes
        Number of values that are NaN or infinite.
    constant
        All finite values are equal.
    spare
        The last of two or four channels is constant and not 0: an alpha channel that hides nothing.
    gray
        The three color channels are equal.
    flat
        Numbers of the constant channels, from 0.
    spacing_um
        Micrometers per pixel along `sides`; None if unknown.
    digest
        Hash of shape and values: equal images have equal digests.
    curve, levels
        See `septum.arrays.normalize.intensity_curve`; the channels one after another.
    thumbnail
        See `septum.check.comparisons.thumbnail`; of the first frame, empty for stacks.
    file_axes, affine, orientation, stated, full_sides
        See `septum.io.image.Image`.
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
    gray: bool
    flat: tuple[int, ...]
    spacing_um: tuple[float, ...] | None
    digest: str
    curve: tuple[float, ...]
    levels: int
    thumbnail: tuple[float, ...]
    file_axes: str
    affine: Affine | None
    orientation: int
    stated: bool
    full_sides: tuple[int, int] | None = None

    @property
    def grid(self) -> Grid:
        """Grid of the image, which its mask is fitted to."""
        sides = dict(zip("ZYX"[-len(self.sides) :], self.sides, strict=True)) | {"T": self.frames, "C": self.channels}
        shape = tuple(sides[axis] for axis in self.axes)
        return Grid(self.axes, shape, self.file_axes, self.affine, self.orientation, self.full_sides)


@dataclass(frozen=True)
class MaskStatistics:
    """Statistics of one mask file.

    Attributes
    ----------
    dtype, axes, frames, sides, channels, digest
        As in `ImageStatistics`.
    mends
        Repairs made in reading the values as labels; see `septum.check.masks.Labels`.
    restored
        The two values were restored after JPEG: the copy may hold them, training does not use them.
    problem
        Why the values are no labels; ``""`` if they are.
    census
        One per frame; empty if there is a problem.
    agreements
        Agreement of outlines and edges in up to eight frames that have labels; empty for volumes.
    orientation
        The order of axes in which the mask of a volume fits best; None for images.
    reorder
        Placement that gives the mask the sides of its image, where the sides alone decide it.
    likely_order
        The same where several orders have these sides, and the edges of the image decide between them.
    rotated
        Y and X are swapped, and rotated by 90 degrees the mask would fit better than transposed.
    split_ids
        Ids of several objects that are far apart; see `septum.check.split_ids.separate_split_ids`.
    ignored
        Values that the user declared as not annotated and that are in the mask.
    background
        Value of the background that is read as 0; 0 if it is 0 in the file.
    changes
        See `septum.pairing.fit.fit_mask`.
    stored_orientation
        Orientation in which the file holds a mask that was put in the order of its image; ``""`` for others.
    planes
        See `septum.check.images.kind_of_planes`.
    persistence
        Share of the ids of a page that the next page has in the same place; 0 for a mask of one page.
    disagreement
        How the affines of image and mask differ; None if they do not.
    filled
        What became of each drawn object; None if the mask is an image.
    """

    dtype: str
    axes: str
    frames: int
    sides: tuple[int, ...]
    channels: int
    mends: tuple[IssueKind, ...]
    restored: bool
    problem: str
    census: tuple[Census, ...]
    agreements: tuple[Agreement, ...]
    orientation: BestOrientation | None
    reorder: Placement | None
    likely_order: Placement | None
    rotated: bool
    split_ids: tuple[int, ...]
    digest: str
    ignored: tuple[int, ...] = ()
    background: int = 0
    changes: tuple[Change, ...] = ()
    stored_orientation: str = ""
    disagreement: Disagreement | None = None
    planes: Literal["", "pages", "unclear"] = ""
    persistence: float = 0.0
    filled: Filled | None = None


@dataclass(frozen=True)
class PairStatistics:
    """One image with its truth files, and their statistics.

    Attributes
    ----------
    name, group, position, image
        As in `septum.pairing.pair.Pair`.
    masks, golds
        Truth files, each with the Z slice that it holds (None: the whole image).
    image_stats, mask_stats
        Statistics; None if the file could not be read. Of several masks (slices) the first.
    unreadable
        Files that could not be read, with the reason.
    binary_frames
        Frames in which all objects have one value, although the data set has ids: the connected pieces are the objects.
    likely_placement
        Placement of the mask found by comparing its outlines with the edges of the image: not certain, so that only the
        copy of ``--fix`` applies it.
    named_axes
        Names of the dimensions of the image file where the file itself does not name them correctly; else None.
    copy_of
        Name of the first pair of which the image is a copy; ``""`` if there is none.
    field
        Mask of the field of view; None if there is none that can be used.
    unusable_field
        A mask of the field of view that is not used, with the reason.
    background_margin_px
        The mask names only some of the objects: background is known only within this distance of one, in pixels of the
        finest axis. None if the mask names all objects.
    survey
        Figures of a large image and its mask, which are read in parts; None of pairs that are read whole. `census` and
        `agreements` of the mask are then those of some windows.
    """

    name: str
    group: str
    position: int
    image: Path
    masks: tuple[tuple[Path, int | None], ...]
    golds: tuple[tuple[Path, int | None], ...]
    image_stats: ImageStatistics | None = None
    mask_stats: MaskStatistics | None = None
    unreadable: tuple[tuple[Path, str], ...] = ()
    binary_frames: tuple[int, ...] = ()
    likely_placement: Placement | None = None
    named_axes: str | None = None
    copy_of: str = ""
    field: Path | None = None
    unusable_field: tuple[Path, str] | None = None
    background_margin_px: float | None = None
    survey: Survey | None = dataclass_field(default=None, repr=False, compare=False)

    @property
    def mask(self) -> Path:
        """The first mask file."""
        return self.masks[0][0]

    @property
    def is_sliced(self) -> bool:
        """Whether the mask files are single Z slices of the image."""
        return self.masks[0][1] is not None

    def placement(self, path: Path, *, likely: bool) -> Placement | None:
        """Return how a truth file must be reordered, turned or shifted to fit its image; None if it need not be.

        Parameters
        ----------
        path
            The truth file. Gold files get the order of axes only, never a turn or shift found from edges of the image.
        likely
            Return placements that are not certain as well, as the copy applies them.
        """
        stats = self.mask_stats
        if stats is None or self.is_sliced:
            return None
        placement = stats.reorder or (stats.likely_order if likely else None)
        return self.likely_placement if placement is None and likely and path == self.mask else placement

    @property
    def grid(self) -> Grid | None:
        """Grid of the image as read; None if it could not be read."""
        return self.image_stats.grid if self.image_stats else None

    @property
    def census(self) -> tuple[Census, ...]:
        """Census of each frame of the mask; empty if the mask could not be read."""
        return self.mask_stats.census if self.mask_stats else ()

    @property
    def files(self) -> frozenset[Path]:
        """All files of the pair."""
        truth = {path for path, _ in (*self.masks, *self.golds)}
        return frozenset({self.image, *truth, *([] if self.field is None else [self.field])})
