"""Find gold frames of the Cell Tracking Challenge that name some of their objects, told by the frames next to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from septum.axes import relative_spacing
from septum.jobs.facts import diameters
from septum.jobs.findings import Remark, counted

if TYPE_CHECKING:
    from septum.jobs.survey import Item

# Cells come and go, but of those in the frames next to one hardly ever half is missing.
_FEW, _BESIDE, _LEAST = 0.5, 2, 2
# Background is taken within a twentieth of an object's diameter. In a crowded frame the margin must be thin: in frame
# 67 of DIC-C2DH-HeLa, which names 3 of 18 cells, other cells fill 57 % of what is not named, 50 % of what lies within
# half a diameter, 21 % within 16 pixels, 8 % within 6. A gap of 10 pixels between two objects, where the border weight
# (sigma 5) is largest, lies within 5 pixels of them.
_MARGIN, _MARGIN_PX = 1 / 20, 5.0


def partly_named(items: Mapping[int, Item]) -> tuple[dict[int, Item], list[Remark]]:
    """Find frames without silver truth whose gold truth names far fewer objects than the frames next to them.

    Far fewer are less than half of the median of the two annotated frames before and the two after, of two at least.
    The whole sequence says less: cells divide.

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
        count, others = _count(item), _beside(item, items)
        usual = float(np.median(others)) if others else 0.0
        if count is None or len(others) < _LEAST:
            remarks.append(Remark("gold-only", item.mask, "too few frames to tell", item=index))
        elif count >= _FEW * usual:
            remarks.append(Remark("gold-only", item.mask, item=index))
        else:
            found[index] = replace(item, near_px=margin)
            detail = f"{counted(count, 'object')}, usual {usual:g}"
            remarks.append(Remark("gold-partial", item.mask, detail, item=index))
    return found, remarks


def _count(item: Item) -> int | None:
    """Return how many objects the mask of a frame names; None for sections of a volume."""
    if item.mask_facts is None or item.masks[0][1] is not None:
        return None
    return sum(len(c.values) for c in item.mask_facts.census)


def _beside(item: Item, items: Mapping[int, Item]) -> list[int]:
    """Return how many objects the nearest other frames of the sequence name, on each side."""
    others = [o for o in items.values() if o.group == item.group and _count(o) is not None]
    near = sorted(others, key=lambda o: abs(o.position - item.position))
    before, after = ([o for o in near if (o.position - item.position) * side > 0][:_BESIDE] for side in (-1, 1))
    return [count for o in (*before, *after) if (count := _count(o)) is not None]


def _margin_px(items: Mapping[int, Item]) -> float:
    """Return how far from an object background is taken, in pixels of the finest axis."""
    wide = np.concatenate([np.zeros(0), *_diameters(items)])
    return max(_MARGIN_PX, _MARGIN * float(np.median(wide))) if len(wide) else _MARGIN_PX


def _diameters(items: Mapping[int, Item]) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    for item in items.values():
        if item.mask_facts is not None:
            rank = len(item.mask_facts.sides)
            spacing = item.image_facts.spacing_um if item.image_facts else None
            volume = float(np.prod(relative_spacing(spacing) or (1.0,))) if spacing and len(spacing) == rank else 1.0
            yield diameters(np.asarray([n * volume for c in item.mask_facts.census for n in c.counts]), rank)
