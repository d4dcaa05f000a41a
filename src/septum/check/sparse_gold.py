"""Find gold frames of the Cell Tracking Challenge that name only some of their objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from septum.arrays.targets import equivalent_diameters
from septum.axes import relative_spacing
from septum.check.issues import Remark
from septum.errors import SeptumError
from septum.pairing.ctc import markers

if TYPE_CHECKING:
    from pathlib import Path

    from septum.check.statistics import PairStatistics

# Less than this share of the tracking markers, or of what the frames next to one name: two on each side, two in all at
# least. Cells come and go, but hardly ever half of them at once.
_OF_MARKERS, _OF_OTHERS, _BESIDE, _LEAST = 0.9, 0.5, 2, 2
# Background is taken within a twentieth of an object's diameter. In a crowded frame the margin must be thin: in frame
# 67 of DIC-C2DH-HeLa, which names 3 of 18 cells, other cells fill 57 % of what is not named, 50 % of what lies within
# half a diameter, 21 % within 16 pixels, 8 % within 6. A gap of 10 pixels between two objects, where the border weight
# (sigma 5) is largest, lies within 5 pixels of them.
_MARGIN, _MARGIN_PX = 1 / 20, 5.0


def partly_named(items: Mapping[int, PairStatistics]) -> tuple[dict[int, PairStatistics], list[Remark]]:
    """Find frames without silver truth whose gold truth names only some of their objects.

    Tracking markers (``01_GT/TRA``) say how many objects there are, of which nine tenths are to be named. Without them
    it is less than half of the median of the two annotated frames before and the two after that tells; the whole
    sequence says less, since cells divide.

    Parameters
    ----------
    items
        Of Cell Tracking Challenge data whose masks hold objects.

    Returns
    -------
    items, remarks
        The items with `Item.near_px` set where only some objects are named; what is to be said of all gold frames.
    """
    found, remarks = dict(items), []
    margin = _margin_px(items)
    for index, item in items.items():
        if item.masks != item.golds:
            continue
        count, tracked, others = _count(item), _tracked(item.mask), _beside(item, items)
        if count is None or (tracked is None and len(others) < _LEAST):
            why = "too few frames to tell" if count is not None else ""
            remarks.append(Remark("gold-only", item.mask, why, item=index))
            continue
        usual, share = (float(np.median(others)), _OF_OTHERS) if tracked is None else (float(tracked), _OF_MARKERS)
        detail = f"{count} of {'about ' * (tracked is None)}{usual:g}"
        if count < share * usual:
            found[index] = replace(item, near_px=margin)
            remarks.append(Remark("gold-partial", item.mask, detail, item=index))
        elif tracked is None or count < tracked:
            remarks.append(Remark("gold-only", item.mask, "" if tracked is None else detail, item=index))
    return found, remarks


def _count(item: PairStatistics) -> int | None:
    """Return how many objects the mask of a frame names; None for sections of a volume."""
    if item.mask_facts is None or item.masks[0][1] is not None:
        return None
    return sum(len(c.values) for c in item.mask_facts.census)


def _tracked(gold: Path) -> int | None:
    """Return how many tracking markers the frame of a gold mask has; None if there are none that can be read."""
    from septum.io.open import read_image

    path = markers(gold)
    try:
        return None if path is None else int(np.count_nonzero(np.unique(read_image(path, labels=True).array)))
    except SeptumError:
        return None


def _beside(item: PairStatistics, items: Mapping[int, PairStatistics]) -> list[int]:
    """Return how many objects the nearest other frames of the sequence name, on each side."""
    others = [o for o in items.values() if o.group == item.group and _count(o) is not None]
    near = sorted(others, key=lambda o: abs(o.position - item.position))
    before, after = ([o for o in near if (o.position - item.position) * side > 0][:_BESIDE] for side in (-1, 1))
    return [count for o in (*before, *after) if (count := _count(o)) is not None]


def _margin_px(items: Mapping[int, PairStatistics]) -> float:
    """Return how far from an object background is taken, in pixels of the finest axis."""
    wide = np.concatenate([np.zeros(0), *_diameters(items)])
    return max(_MARGIN_PX, _MARGIN * float(np.median(wide))) if len(wide) else _MARGIN_PX


def _diameters(items: Mapping[int, PairStatistics]) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    for item in items.values():
        if item.mask_facts is not None:
            rank = len(item.mask_facts.sides)
            spacing = item.image_facts.spacing_um if item.image_facts else None
            volume = float(np.prod(relative_spacing(spacing, rank))) if spacing and len(spacing) == rank else 1.0
            yield equivalent_diameters(np.asarray([n * volume for c in item.mask_facts.census for n in c.counts]), rank)
