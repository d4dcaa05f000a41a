"""Values, sizes and channels of images: constant or broken values, channels that differ, pages that are channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import finite_pixels
from septum.check.issues import IssueKind, Observation, format_shape
from septum.check.statistics import ImageStatistics, MaskStatistics, PairStatistics
from septum.errors import DataError
from septum.io.image import Image
from septum.pairing.fit import Grid, orientation_codes
from septum.pairing.parts import PART_PX
from septum.words import pluralize

IMAGE_CONSTANT = IssueKind(
    "image-constant", "warning", "image", "with the same value everywhere", "left out", leaves_out=True
)
IMAGE_TINY = IssueKind(
    "image-tiny", "warning", "image", "of fewer than 8 pixels along Y or X", "left out", leaves_out=True
)
IMAGE_HOLES = IssueKind(
    "image-holes",
    "mended",
    "image",
    "with NaN or infinity",
    "NaN becomes the median, infinity the largest or smallest value",
)
PAGES_CHANNELS = IssueKind(
    "pages-channels",
    "mended",
    "image",
    "whose channels were stored as pages, as the masks show",
    "read as channels",
)
PLANES_PAGES = IssueKind(
    "planes-pages",
    "mended",
    "stack",
    "of pages that the file calls planes of color, as the ids in the masks show",
    "each plane is a page",
    todo="add --axes ZYX if the pages are sections of volumes",
)
PLANES_UNCLEAR = IssueKind(
    "planes-unclear",
    "error",
    "pair",
    "whose image and mask hold 3 or 4 planes that the files call color",
    todo="add --axes ZYX if the planes are sections of volumes, --axes TYX if they are images, --axes CYX if they are "
    "channels",
)
VOLUMES_LIKELY = IssueKind(
    "volumes-likely",
    "warning",
    "stack",
    "whose neighboring pages show the same objects, and whose files do not name the axis of the pages",
    "each page is read as an image of its own",
    todo="add --axes ZYX if the pages are sections of volumes, or --axes TYX if they are frames",
)
CHANNEL_CONSTANT = IssueKind("channel-constant", "warning")
CHANNEL_EMPTY = IssueKind(
    "channel-empty",
    "warning",
    "image",
    "with a constant channel that varies in other images",
    todo="export the image again if the channel should hold a signal",
)
CHANNELS_REPEATED = IssueKind(
    "channels-repeated", "mended", "gray image", "among color images", "the gray channel is repeated"
)
CHANNELS_EQUAL = IssueKind(
    "channels-equal", "mended", "gray image", "saved in color, with three equal channels", "one channel is read"
)
CHANNELS_SPARE = IssueKind(
    "channels-spare", "mended", "image", "with a constant alpha channel", "the alpha channel is dropped"
)
CHANNELS_DIFFER = IssueKind(
    "channels-differ",
    "error",
    "image",
    "with another number of channels than most",
    "left out of the copy of `septum check --fix`",
    todo="export each with the channels of the other images",
    leaves_out=True,
)
RANKS_DIFFER = IssueKind("ranks-differ", "warning", "volume", "among 2D images", "each section becomes an image")
ORIENTATIONS_DIFFER = IssueKind(
    "orientations-differ",
    "warning",
    "image",
    "in a set of several orientations, as the affines state",
    "used as stored: the network sees some turned or mirrored",
    todo="save all volumes in one orientation if left and right matter",
)
ONE_IMAGE = IssueKind(
    "one-image",
    "warning",
    text="only one image: none can be held out for validation",
    todo="annotate a second image",
)
IMAGE_LARGE = IssueKind(
    "image-large",
    "warning",
    "image",
    "of more than 16 megapixels",
    f"read and trained on in parts of {PART_PX} x {PART_PX} pixels at most, each an image of its own; the mask was "
    "checked in some windows only, so that near-duplicates and one id on objects far apart are not found",
    todo="look at the mask and the images yourself",
)
KINDS = (
    IMAGE_CONSTANT,
    IMAGE_LARGE,
    IMAGE_TINY,
    IMAGE_HOLES,
    PAGES_CHANNELS,
    PLANES_PAGES,
    PLANES_UNCLEAR,
    VOLUMES_LIKELY,
    CHANNEL_CONSTANT,
    CHANNEL_EMPTY,
    CHANNELS_REPEATED,
    CHANNELS_EQUAL,
    CHANNELS_SPARE,
    CHANNELS_DIFFER,
    RANKS_DIFFER,
    ORIENTATIONS_DIFFER,
    ONE_IMAGE,
)

_TINY_PX = 8
_MOST_CHANNELS = 5  # more pages than this are not taken for channels
_PERSISTENT, _NEARLY_ALL = 0.6, 0.75  # share of the ids of a page, and of the stacks
_FEWEST_IDS = 3  # as many values beside 0 may be classes, one in each plane


def detect_in_pair(pair: PairStatistics) -> Iterator[Observation]:
    """Yield issues of the values and the size of one image."""
    stats = pair.image_stats
    if stats is None or pair.mask_stats is None:
        return
    if pair.named_axes is not None:
        kind = PAGES_CHANNELS if "C" in pair.named_axes else PLANES_PAGES
        yield Observation(kind, pair.image, f"--axes {pair.named_axes}")
    elif pair.mask_stats.planes == "unclear":
        yield Observation(PLANES_UNCLEAR, pair.image, pluralize(stats.channels, "plane"))
    if stats.constant:
        yield Observation(IMAGE_CONSTANT, pair.image, f"{stats.low:g}")
    elif stats.holes:
        yield Observation(IMAGE_HOLES, pair.image, pluralize(stats.holes, "value"))
    if pair.survey is not None:
        yield Observation(IMAGE_LARGE, pair.image, f"{format_shape(stats.sides)}, {len(pair.survey.parts)} parts")
    if min(stats.sides[-2:]) < _TINY_PX:
        yield Observation(IMAGE_TINY, pair.image, format_shape(stats.sides))


def detect_channels(pair: PairStatistics, channels: int) -> Iterator[Observation]:
    """Compare the number of channels of an image with that of the data set."""
    stats = pair.image_stats
    if stats is None or stats.channels == channels:
        return
    if not fits_channels(stats.channels, channels, spare=stats.spare, gray=stats.gray):
        yield Observation(CHANNELS_DIFFER, pair.image, f"{stats.channels} instead of {channels}")
        return
    if stats.channels - stats.spare < channels:
        yield Observation(CHANNELS_REPEATED, pair.image)
    if stats.gray and channels == 1:
        yield Observation(CHANNELS_EQUAL, pair.image)
    if stats.spare:
        yield Observation(CHANNELS_SPARE, pair.image)


def detect(pairs: Sequence[PairStatistics]) -> Iterator[Observation]:
    """Compare the dimensions and the channels of all images."""
    statistics = [(pair.image, pair.image_stats) for pair in pairs if pair.image_stats]
    in_parts = any(pair.survey is not None for pair in pairs)
    if len(statistics) == 1 and statistics[0][1].frames == 1 and len(statistics[0][1].sides) == 2 and not in_parts:
        yield Observation(ONE_IMAGE)
    if common_rank(pairs) == 2 and any(len(stats.sides) == 2 for _, stats in statistics):
        for path, stats in statistics:
            if len(stats.sides) == 3:
                yield Observation(RANKS_DIFFER, path, format_shape(stats.sides))
    stated = [(path, orientation_codes(stats.affine)) for path, stats in statistics if stats.affine is not None]
    if len({codes for _, codes in stated}) > 1:
        for path, codes in stated:
            yield Observation(ORIENTATIONS_DIFFER, path, codes)
    several = [stats for _, stats in statistics if stats.channels > 1]
    for channel in sorted({c for stats in several for c in stats.flat}):
        with_channel = [(path, s) for path, s in statistics if s.channels > 1 and channel < s.channels - s.spare]
        empty = [path for path, stats in with_channel if channel in stats.flat]
        if len(empty) == len(with_channel) > 0:
            text = f"channel {channel + 1} has the same value everywhere in all images; this does no harm"
            yield Observation(CHANNEL_CONSTANT, text=text)
        else:
            for path in empty:
                yield Observation(CHANNEL_EMPTY, path, f"channel {channel + 1}")


def detect_volumes(pairs: Sequence[PairStatistics]) -> Iterator[Observation]:
    """Yield stacks without named axes that seem to be volumes: nearly all pages show the objects of the page before.

    A single stack is named by the line on the images only: as one volume nothing of it could be held out.

    Parameters
    ----------
    pairs
        Pairs whose masks hold ids.
    """
    stacks = [
        (pair.image, pair.mask_stats.persistence)
        for pair in pairs
        if pair.image_stats and pair.mask_stats and pair.image_stats.axes == "TCYX" and not pair.image_stats.stated
    ]
    alike = [path for path, persistence in stacks if persistence > _PERSISTENT]
    if len(stacks) > 1 and len(alike) >= _NEARLY_ALL * len(stacks):
        for path in alike:
            yield Observation(VOLUMES_LIKELY, path)


def common_channels(pairs: Sequence[PairStatistics]) -> int:
    """Return the number of channels of all samples: that of most images that are not gray, or saved as gray."""
    stats = [pair.image_stats for pair in pairs if pair.image_stats]
    given = [1 if one.gray else one.channels - one.spare for one in stats]
    several = Counter(c for c in given if c > 1)
    return several.most_common(1)[0][0] if several else 1


def common_rank(pairs: Sequence[PairStatistics]) -> int:
    """Return 3 if all images are volumes, else 2."""
    return 3 if pairs and all(p.image_stats and len(p.image_stats.sides) == 3 for p in pairs) else 2


def page_axes(pairs: Sequence[PairStatistics]) -> str | None:
    """Return the axes of all image files where the masks show that the files call pages otherwise; else None.

    Pages are channels, along the first or the last dimension, if every image has the same small number of them and a
    mask of one page. Planes of color are pages if the masks hold ids in planes, or have pages, as many.
    """
    wanted = {_page_axes(p.image_stats, p.mask_stats) for p in pairs if p.image_stats and p.mask_stats}
    if len(wanted) != 1:
        return None
    (only,) = wanted
    return None if only is None or (len(pairs) < 2 and "C" in only[0]) else only[0]


def _page_axes(image: ImageStatistics, mask: MaskStatistics) -> tuple[str, int] | None:
    if mask.planes == "pages":
        return "ZYX" if mask.axes == "CZYX" else "TYX", image.channels
    if "T" not in image.axes or image.channels > 1 or "T" in mask.axes or mask.channels > 1:
        return None
    if image.sides == mask.sides and image.frames <= _MOST_CHANNELS:
        return image.file_axes.replace("T", "C"), image.frames
    pages_last = image.axes == "TCYX" and (image.frames, image.sides[0]) == mask.sides
    return ("YXC", image.sides[1]) if pages_last and image.sides[1] <= _MOST_CHANNELS else None


def kind_of_planes(mask: Image, grid: Grid | None) -> Literal["", "pages", "unclear"]:
    """Return whether the planes of a mask and its image are pages, although the files call planes color.

    Programs write any 3 or 4 slices as planes of color. Where the mask holds ids they are no color: numbers of more
    than 8 bits, or 1, 2, 3 ... without a gap. Otherwise planes may be sections, colors, or a channel for each class.

    Parameters
    ----------
    mask
        The mask as stored, any real dtype, labels.
    grid
        Grid of its image.
    """
    if grid is None or grid.file_axes != "CYX" or grid.shape[0] not in (3, 4) or grid.axes != "CYX":
        return ""
    if mask.axes in ("TCYX", "CZYX"):
        return "pages" if mask.array.size == np.prod(grid.shape) and mask.shape[-2:] == grid.shape[-2:] else ""
    if mask.file_axes != "CYX" or mask.shape != grid.shape or (mask.array == mask.array[:1]).all():
        return ""
    ids = np.unique(mask.array)
    ids = ids[ids != 0]
    whole = mask.dtype.kind in "iu"
    gapless = whole and ids.size > _FEWEST_IDS and ids[0] == 1 and ids[-1] == ids.size
    return "pages" if gapless or (whole and mask.dtype.itemsize > 1 and ids.size > _FEWEST_IDS) else "unclear"


def fill_holes(image: NDArray[Any]) -> NDArray[Any]:
    """Replace NaN and values that are infinite in float32.

    NaN becomes the median of the channel's finite values, so that a hole looks like an ordinary place; plus and minus
    infinity become the largest and the smallest finite value, as if the detector had saturated.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, any values, NaN and infinity among them.

    Returns
    -------
    image
        ``(C, *S)``, same dtype, finite; the same array if there is nothing to replace. A channel without a finite value
        becomes 0.
    """
    if image.dtype.kind != "f" or finite_pixels(image).all():
        return image
    filled = image.copy()
    for channel in filled:
        finite = channel[finite_pixels(channel)]
        low, middle, high = (finite.min(), np.median(finite), finite.max()) if finite.size else (0, 0, 0)
        channel[np.isnan(channel)] = middle
        np.clip(channel, low, high, out=channel)
    return filled


def fits_channels(given: int, wanted: int, *, spare: bool, gray: bool = False) -> bool:
    """Return True if `match_channels` can make `wanted` channels of `given`.

    Parameters
    ----------
    given, wanted
        Numbers of channels.
    spare
        The last one is constant.
    gray
        Three of them are equal.
    """
    return given - spare in (1, wanted) or given == wanted or (gray and wanted == 1)


def match_channels(image: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return an image with the number of channels of its data set.

    Parameters
    ----------
    image
        ``(C, *S)``, any real dtype, any range.
    channels
        Number of channels wanted. One channel is repeated; one channel too many (constant alpha) is dropped; of three
        equal ones one is taken.

    Returns
    -------
    image
        ``(channels, *S)``, same dtype and intensities.

    Raises
    ------
    DataError
        If neither gives the wanted number.
    """
    given = image.shape[0]
    if given == channels:
        return image
    if given == 1 or (given == 2 and channels > 2):
        return np.repeat(image[:1], channels, axis=0)
    if given == channels + 1 or (given in (3, 4) and channels == 1):
        return image[:channels]
    raise DataError(
        f"an image with {pluralize(given, 'channel')}", pluralize(channels, "channel"), "save it with these channels"
    )
