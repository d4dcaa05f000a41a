"""Masks that do not lie on their images: sides that differ, axes in another order, turned, shifted, of another image.

The sides of image and mask prove some of it, and what they prove is mended. The edges of the images, compared over the
data set, show the rest: no proof, so training uses such masks as they are and reports them, and only the copy of
``--fix`` turns or moves them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.check.boundary_agreement import (
    Agreement,
    BestOrientation,
    Placement,
    apply_placement,
    orientations,
    shift_of,
)
from septum.check.issues import IssueKind, Observation, format_shape
from septum.check.statistics import PairStatistics
from septum.pairing.fit import orientation_codes

_PAIRS = "check that these are the pairs"
SIZES_DIFFER = IssueKind(
    "sizes-differ",
    "error",
    "pair",
    "whose image and mask differ in size",
    "left out of the copy of `septum check --fix`",
    todo="export each mask in the size of its image",
    leaves_out=True,
)
PAGES_DIFFER = IssueKind(
    "pages-differ",
    "error",
    "pair",
    "whose image and mask differ in the number of pages",
    "left out of the copy of `septum check --fix`",
    todo="export a page of the mask for each page of the image",
    leaves_out=True,
)
SIZES_SWAPPED = IssueKind("sizes-swapped", "mended", "mask", "with width and height swapped", "transposed")
AXES_SWAPPED = IssueKind(
    "axes-swapped", "mended", "mask", "with axes in another order", "put in the order of the axes of the image"
)
MASK_ORIENTED = IssueKind(
    "mask-oriented",
    "mended",
    "mask",
    "stored in another orientation than the image, as the affines of the files show",
    "put in the orientation of the image",
)
MASK_UPRIGHT = IssueKind(
    "mask-upright",
    "mended",
    "mask",
    "drawn on a photograph as it is stored, not as its orientation tag shows it",
    "turned like the photograph",
)
AFFINES_CONFLICT = IssueKind(
    "affines-conflict",
    "error",
    "pair",
    "whose affines turn image and mask differently without placing them on the same voxels",
    "left out of the copy of `septum check --fix`",
    todo="save each mask on the grid of its image; if the arrays fit as they are stored, save it with the affine of "
    "its image",
    leaves_out=True,
)
AFFINES_DIFFER = IssueKind(
    "affines-differ",
    "warning",
    "pair",
    "whose affines place image and mask apart",
    "paired as stored, voxel by voxel",
    todo="look at a pair in a viewer; if it fits there but not here, save the mask on the grid of its image",
)
AXES_UNCLEAR = IssueKind(
    "axes-unclear",
    "error",
    "mask",
    "with axes in another order, which the sides alone do not decide",
    fix="puts the axes in the order whose outlines fit the image",
    todo="or export each mask with the axes of its image",
    leaves_out=True,
)
MASK_TURNED = IssueKind(
    "mask-turned",
    "warning",
    "mask",
    "apparently turned against the image, judged by its edges",
    "used unchanged",
    fix="undoes the turn",
    todo="look at the copy",
)
MASK_SHIFTED = IssueKind(
    "mask-shifted",
    "warning",
    "mask",
    "apparently shifted against the image, judged by its edges",
    "used unchanged",
    fix="undoes the shift",
    todo="look at the copy",
)
MASKS_SHIFTED = IssueKind(
    "masks-shifted", "warning", mend="used unchanged", todo="compare some masks with their images"
)
MASK_ASTRAY = IssueKind(
    "mask-astray", "warning", "mask", "whose outlines do not follow the image as those of the others do", todo=_PAIRS
)
MASKS_ASTRAY = IssueKind(
    "masks-astray", "warning", text="outlines in the masks do not follow edges in the images", todo=_PAIRS
)
KINDS = (
    SIZES_DIFFER,
    PAGES_DIFFER,
    SIZES_SWAPPED,
    AXES_SWAPPED,
    MASK_ORIENTED,
    MASK_UPRIGHT,
    AFFINES_CONFLICT,
    AFFINES_DIFFER,
    AXES_UNCLEAR,
    MASK_TURNED,
    MASK_SHIFTED,
    MASKS_SHIFTED,
    MASK_ASTRAY,
    MASKS_ASTRAY,
)

_FEWEST = 5  # images, or frames of stacks; fewer do not define the usual contrast
_FOLLOWS = 1.4  # contrast, from which outlines follow edges in this data set
_AGREED = 0.75  # share of the images that have to be shifted in the same direction
# Share of the images that have to be shifted by the same pixels. Wide outlines, as those of an unannotated rim,
# fit about as well one pixel off, each image in a direction of its own; a shift of all masks is the same in nearly all.
_EXACT = 0.5
_GAIN = 1.015  # in edge strength; masks of real data are off by half a pixel and gain up to 1.007
_COMMON_GAIN = 1.05  # in contrast, of the same shift in nearly all images
_TURN = 1.2  # times the contrast of the unchanged mask, of the same orientation in nearly all images
_CLEAR_ORDER = 1.15  # times the contrast of the next best order of axes

# The copy moves or turns a single mask only if it then fits nearly as well as the others do, and much better than now.
# Measured on electron, phase contrast, DIC and fluorescence microscopy and stained tissue: right masks gain up to 1.4
# by a shift, at less than half of the usual contrast; masks of another image reach 0.86 of the usual contrast, and gain
# less than 1.4 there. Right masks have at most 0.96 of their contrast when turned.
_USUAL = 0.8
_FAR_GAIN, _CLEAR_GAIN, _CLEAR = 1.6, 1.25, 12.0
_TURN_GAIN, _TURN_CLEAR = 1.4, 1.15

# A mask drawn a little outside of its objects has no edges under its outline, but still separates bright from dark.
_SEPARATES, _AS_USUAL = 0.3, 0.6

# If the masks belong to other images, outlines lie anywhere; slightly more contrast is chance if brightness has nothing
# to do with the labels either.
_ANYWHERE, _STRANGERS, _NOTHING = 1.05, 1.3, 0.1


def detect_in_pair(pair: PairStatistics) -> Iterator[Observation]:
    """Compare the affines, the sides and the number of pages of image and mask."""
    image, mask = pair.image_stats, pair.mask_stats
    if image is None or mask is None:
        return
    if mask.stored_orientation and image.affine is not None:
        yield Observation(
            MASK_ORIENTED, pair.mask, f"{mask.stored_orientation}, image {orientation_codes(image.affine)}"
        )
    if "upright" in mask.changes:
        yield Observation(MASK_UPRIGHT, pair.mask)
    if mask.disagreement is not None:
        kind = AFFINES_CONFLICT if mask.disagreement.certain else AFFINES_DIFFER
        yield Observation(kind, pair.mask, mask.disagreement.text)
    sides = f"{format_shape(mask.sides)} for {format_shape(image.sides)}"
    if pair.is_sliced:
        fits = image.sides[1:] == mask.sides
    elif image.frames != mask.frames:
        yield Observation(PAGES_DIFFER, pair.image, f"image {image.frames}, mask {mask.frames}")
        return
    elif mask.reorder is not None:
        yield Observation(SIZES_SWAPPED if len(mask.sides) == 2 else AXES_SWAPPED, pair.mask, sides)
        return
    elif mask.likely_order is not None:
        yield Observation(AXES_UNCLEAR, pair.mask, f"{sides}, {mask.likely_order.words()}")
        return
    else:
        fits = image.sides == mask.sides
    if not fits:
        rotated = ", rotated by 90 degrees" * mask.rotated
        detail = f"image {format_shape(image.sides)}, mask {format_shape(mask.sides)}{rotated}"
        yield Observation(SIZES_DIFFER, pair.image, detail)


def find_order(
    mask: tuple[int, ...], image: tuple[int, ...], best: BestOrientation | None
) -> tuple[Placement | None, Placement | None]:
    """Find the order of axes that gives a mask the sides of its image.

    Parameters
    ----------
    mask, image
        Sides in pixels.
    best
        The orientation in which the outlines of the mask fit the edges of the image best, if it is known.

    Returns
    -------
    certain, likely
        The only order with these sides; of several ones the clearly best one. At most one of them is not None.
    """
    if mask == image or len(mask) != len(image):
        return None, None
    orders = list({p.order: p for p in orientations(mask, image)}.values())
    if len(orders) == 1:
        return orders[0], None
    if len(orders) > 1 and best is not None and best.contrast > _CLEAR_ORDER * best.other:
        return None, best.placement
    return None, None


def detect(pairs: Mapping[int, PairStatistics]) -> tuple[dict[int, PairStatistics], list[Observation]]:
    """Find masks that seem turned or shifted against their images, or to belong to other images.

    A mask seems to belong to another image if its contrast is below the fourth root of the usual one in the data set,
    and if it does not separate bright from dark as the others do. Measured: right pairs have a contrast of 1.7 to 20
    (usual 1.9 to 8.4), masks of another image mostly 0.5 to 1.5.

    Returns
    -------
    pairs, observations
        The pairs, by index, with `PairStatistics.likely_placement` set where the copy may repair the mask.
    """
    seen: list[Observation] = []
    measured = {k: p.mask_stats.agreements for k, p in pairs.items() if p.mask_stats and p.mask_stats.agreements}
    every = [a for agreements in measured.values() for a in agreements]
    placements = _volumes(pairs)
    if len(every) >= _FEWEST:
        common = _common(every)
        usual = float(np.median([_contrast_after(a, common) for a in every]))
        for index, agreements in measured.items():
            placement = common or (_single(agreements, usual) if usual > _FOLLOWS else None)
            if placement is not None:
                placements[index] = placement
        rest = {k: agreements for k, agreements in measured.items() if k not in placements}
        seen += _astray(pairs, rest, usual)
        if not placements:
            seen += _small_shift(every)
    for index, placement in placements.items():
        kind = MASK_SHIFTED if any(placement.shift) else MASK_TURNED
        seen.append(Observation(kind, pairs[index].mask, placement.words(), pair=index))
    return {k: replace(p, likely_placement=placements.get(k)) for k, p in pairs.items()}, seen


def align(frames: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """Put a mask on its image.

    Parameters
    ----------
    frames
        ``(T, *S)`` signed integers, labels.
    placement
        From `septum.check.statistics.PairStatistics.placement`.

    Returns
    -------
    frames
        ``(T, *S)`` of the same dtype and labels, in the sides of the image; `UNANNOTATED` where a shift leaves no
        labels.
    """
    return np.stack([apply_placement(frame, placement) for frame in frames])


def _contrast_after(agreement: Agreement, placement: Placement | None) -> float:
    if placement is None:
        return agreement.contrast
    return agreement.far_contrast if any(placement.shift) else agreement.orientation.contrast


def _common(every: Sequence[Agreement]) -> Placement | None:
    """Return the turn, or the shift, in which nearly all masks fit better."""
    turn, count = Counter(a.orientation.placement for a in every).most_common(1)[0]
    gain = float(np.median([a.orientation.contrast / max(a.contrast, 1e-9) for a in every]))
    if turn.words() and count >= _AGREED * len(every) and gain > _TURN:
        return turn
    shift = (int(np.median([a.far[0] for a in every])), int(np.median([a.far[1] for a in every])))
    near = sum(max(abs(a.far[0] - shift[0]), abs(a.far[1] - shift[1])) <= 1 for a in every)
    exact = sum(a.far == shift for a in every)
    gain = float(np.median([a.far_contrast / max(a.contrast, 1e-9) for a in every]))
    agreed = near >= _AGREED * len(every) and exact >= _EXACT * len(every)
    return shift_of(*shift) if any(shift) and agreed and gain > _COMMON_GAIN else None


def _single(agreements: Sequence[Agreement], usual: float) -> Placement | None:
    """Return the turn or the shift in which one mask, in all of its frames, fits as the others do."""
    first = agreements[0]
    turn = first.orientation.placement
    if turn.words() and all(
        a.orientation.placement == turn
        and a.orientation.contrast > max(_USUAL * usual, _TURN_GAIN * a.contrast, _TURN_CLEAR * a.orientation.other)
        for a in agreements
    ):
        return turn
    if any(first.far) and all(
        a.far == first.far
        and a.far_contrast > _USUAL * usual
        and (
            a.far_contrast > _FAR_GAIN * a.contrast or (a.far_contrast > _CLEAR_GAIN * a.contrast and a.clear > _CLEAR)
        )
        for a in agreements
    ):
        return shift_of(*first.far)
    return None


def _volumes(pairs: Mapping[int, PairStatistics]) -> dict[int, Placement]:
    """Return the order of axes in which masks of volumes fit clearly better, where all orders have the same sides."""
    placements = {}
    for index, pair in pairs.items():
        image, mask = pair.image_stats, pair.mask_stats
        if image is None or mask is None or mask.orientation is None or image.sides != mask.sides:
            continue
        best = mask.orientation
        if best.placement.words() and best.contrast > max(_TURN_GAIN, _TURN_GAIN * best.other):
            placements[index] = best.placement
    return placements


def _astray(
    pairs: Mapping[int, PairStatistics], measured: Mapping[int, Sequence[Agreement]], usual: float
) -> list[Observation]:
    """Return masks whose outlines do not follow the edges of their images as those of the others do."""
    if not measured:
        return []
    separation = float(np.median([np.mean([a.separation for a in agreements]) for agreements in measured.values()]))
    separates = abs(separation) > _SEPARATES
    if usual < (_STRANGERS if abs(separation) < _NOTHING else _ANYWHERE) and not separates:
        return [Observation(MASKS_ASTRAY)]
    if usual <= _FOLLOWS:
        return []
    seen = []
    for index, agreements in measured.items():
        contrast = float(np.median([a.contrast for a in agreements]))
        own = float(np.mean([a.separation for a in agreements])) * np.sign(separation)
        if contrast < usual**0.25 and not (separates and own > _AS_USUAL * abs(separation)):
            seen.append(Observation(MASK_ASTRAY, pairs[index].mask, f"edges {contrast:.2g}, usual {usual:.2g}"))
    return seen


def _small_shift(every: Sequence[Agreement]) -> list[Observation]:
    """Return an observation if all masks fit slightly better after the same small shift."""
    shift = [int(np.median([a.shift[axis] for a in every])) for axis in (0, 1)]
    agree = [np.mean([np.sign(a.shift[axis]) == np.sign(shift[axis]) for a in every]) for axis in (0, 1)]
    moved = [m if share >= _AGREED else 0 for m, share in zip(shift, agree, strict=True)]
    if any(moved) and float(np.median([a.gain for a in every])) > _GAIN:
        words = shift_of(*moved).words()
        return [Observation(MASKS_SHIFTED, text=f"all masks seem {words} against their images, judged by their edges")]
    return []
