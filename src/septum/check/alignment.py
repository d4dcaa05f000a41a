"""Judge how masks lie on their images, by comparing the pairs of a data set with one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from septum.check.issues import Remark
from septum.check.placement import Placement

if TYPE_CHECKING:
    from septum.check.boundary_agreement import Agreement
    from septum.check.statistics import PairStatistics

_ENOUGH = 5  # images, or frames of stacks, to say what is usual
_FOLLOWS = 1.4  # contrast, from which outlines are known to follow edges in this data set
_AGREED = 0.75  # share of the images that have to be shifted in the same direction
_GAIN = 1.015  # in edge strength; masks of real data are off by half a pixel and gain up to 1.007
_SURE_GAIN = 1.05  # of the same shift in nearly all images: told and mended
_TURN = 1.2  # times the contrast as it is, of the same orientation in nearly all images

# A single mask is moved or turned only if it then fits nearly as well as the others do, and much better than now.
# Measured on electron, phase contrast, DIC and fluorescence microscopy and stained tissue: right masks gain up to 1.4
# by a shift, at less than half of what is usual; masks of another image reach 0.86 of what is usual, and gain less
# than 1.4 there. Right masks turned have less contrast than as they are (at most 0.96 of it).
_USUAL = 0.8
_FAR_GAIN, _CLEAR_GAIN, _CLEAR = 1.6, 1.25, 12.0
_TURN_GAIN, _TURN_CLEAR = 1.4, 1.15

# A mask drawn a little outside of its objects has no edges under its outline, but still tells bright from dark.
_SEPARATES, _AS_USUAL = 0.3, 0.6

# The masks of all images are strangers to them: outlines lie anywhere; a little more is chance where brightness has
# nothing to do with the labels either.
_ANYWHERE, _STRANGERS, _NOTHING = 1.05, 1.3, 0.1


def fit(items: Mapping[int, PairStatistics]) -> tuple[dict[int, PairStatistics], list[Remark]]:
    """Find masks that are turned or shifted against their images, mend what is certain, and say what is suspicious.

    A mask is suspicious if its contrast is below the fourth root of what is usual in the data set, and it does not
    tell bright from dark as the others do. Measured: right pairs 1.7 to 20 (usual 1.9 to 8.4), masks of another image
    mostly 0.5 to 1.5.

    Returns
    -------
    items, remarks
        The items with `Item.mend` set where that is certain.
    """
    remarks: list[Remark] = []
    found = {k: i.mask_facts.agreements for k, i in items.items() if i.mask_facts and i.mask_facts.agreements}
    every = [a for agreements in found.values() for a in agreements]
    mends = _volumes(items)
    if len(every) >= _ENOUGH:
        common = _common(every)
        usual = float(np.median([_after(a, common) for a in every]))
        for index, agreements in found.items():
            mend = common or (_single(agreements, usual) if usual > _FOLLOWS else None)
            if mend is not None:
                mends[index] = mend
        rest = {k: a for k, a in found.items() if k not in mends}
        remarks += _suspicious(items, rest, usual)
        if not mends:
            remarks += _small_shift(every)
    for index, mend in mends.items():
        code = "mask-shifted" if any(mend.shift) else "mask-turned"
        remarks.append(Remark(code, items[index].mask, mend.words(), item=index))
    return {k: replace(i, mend=mends.get(k)) for k, i in items.items()}, remarks


def _after(agreement: Agreement, mend: Placement | None) -> float:
    if mend is None:
        return agreement.contrast
    return agreement.far_contrast if any(mend.shift) else agreement.turned.contrast


def _common(every: Sequence[Agreement]) -> Placement | None:
    """Return the turn, or the shift, that nearly all masks need."""
    turn, count = Counter(a.turned.placement for a in every).most_common(1)[0]
    gain = float(np.median([a.turned.contrast / max(a.contrast, 1e-9) for a in every]))
    if turn.words() and count >= _AGREED * len(every) and gain > _TURN:
        return turn
    shift = (int(np.median([a.far[0] for a in every])), int(np.median([a.far[1] for a in every])))
    count = sum(max(abs(a.far[0] - shift[0]), abs(a.far[1] - shift[1])) <= 1 for a in every)
    gain = float(np.median([a.far_contrast / max(a.contrast, 1e-9) for a in every]))
    if any(shift) and count >= _AGREED * len(every) and gain > _SURE_GAIN:
        return Placement((0, 1), (False, False), shift)
    return None


def _single(agreements: Sequence[Agreement], usual: float) -> Placement | None:
    """Return the turn or the shift that one mask needs, in all of its frames, to fit as the others do."""
    first = agreements[0]
    if first.turned.placement.words() and all(
        a.turned.placement == first.turned.placement
        and a.turned.contrast > max(_USUAL * usual, _TURN_GAIN * a.contrast, _TURN_CLEAR * a.turned.other)
        for a in agreements
    ):
        return first.turned.placement
    if any(first.far) and all(
        a.far == first.far
        and a.far_contrast > _USUAL * usual
        and (
            a.far_contrast > _FAR_GAIN * a.contrast or (a.far_contrast > _CLEAR_GAIN * a.contrast and a.clear > _CLEAR)
        )
        for a in agreements
    ):
        return Placement((0, 1), (False, False), first.far)
    return None


def _volumes(items: Mapping[int, PairStatistics]) -> dict[int, Placement]:
    """Return the order of axes that masks of volumes need whose sides do not tell it."""
    mends = {}
    for index, item in items.items():
        turned = item.mask_facts.orientation if item.mask_facts else None
        image = item.image_facts
        if turned is None or image is None or item.mask_facts is None or image.sides != item.mask_facts.sides:
            continue
        if turned.placement.words() and turned.contrast > max(_TURN_GAIN, _TURN_GAIN * turned.other):
            mends[index] = turned.placement
    return mends


def _suspicious(
    items: Mapping[int, PairStatistics], found: Mapping[int, Sequence[Agreement]], usual: float
) -> list[Remark]:
    """Name masks whose outlines do not follow the edges of their images as the others do."""
    if not found:
        return []
    separation = float(np.median([np.mean([a.separation for a in agreements]) for agreements in found.values()]))
    tells = abs(separation) > _SEPARATES
    if usual < (_STRANGERS if abs(separation) < _NOTHING else _ANYWHERE) and not tells:
        text = "outlines in the masks do not follow edges in the images: are these the pairs?"
        return [Remark("masks-astray", text=text)]
    if usual <= _FOLLOWS:
        return []
    remarks = []
    for index, agreements in found.items():
        contrast = float(np.median([a.contrast for a in agreements]))
        own = float(np.mean([a.separation for a in agreements])) * np.sign(separation)
        if contrast < usual**0.25 and not (tells and own > _AS_USUAL * abs(separation)):
            remarks.append(Remark("mask-astray", items[index].mask, f"edges {contrast:.2g}, usual {usual:.2g}"))
    return remarks


def _small_shift(every: Sequence[Agreement]) -> list[Remark]:
    """Say that all masks seem shifted by a pixel or so, where that is not certain enough to be mended."""
    shift = [int(np.median([a.shift[axis] for a in every])) for axis in (0, 1)]
    agree = [np.mean([np.sign(a.shift[axis]) == np.sign(shift[axis]) for a in every]) for axis in (0, 1)]
    moved = [m if share >= _AGREED else 0 for m, share in zip(shift, agree, strict=True)]
    if any(moved) and float(np.median([a.gain for a in every])) > _GAIN:
        text = f"masks fit better if moved by {moved[0]} pixels along Y and {moved[1]} along X"
        return [Remark("masks-shifted", text=text)]
    return []
