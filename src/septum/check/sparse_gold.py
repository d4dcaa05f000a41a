"""Gold frames of the Cell Tracking Challenge that name only some of their objects, as their tracking markers show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import equivalent_diameters, ignore_far_background
from septum.axes import relative_spacing
from septum.check.issues import IssueKind, Observation
from septum.check.statistics import PairStatistics
from septum.errors import SeptumError
from septum.pairing.ctc import markers

GOLD_ONLY = IssueKind(
    "gold-only",
    "warning",
    "frame",
    "with gold truth only, which may not name every object",
    "pixels that it does not name are learned as background",
    todo="add tracking markers (01_GT/TRA) or silver truth (01_ST/SEG) if it names only some objects",
)
GOLD_PARTIAL = IssueKind(
    "gold-partial",
    "warning",
    "frame",
    "whose gold truth names only some of its objects",
    "only a thin margin of these is background, the rest is not annotated",
)
KINDS = (GOLD_ONLY, GOLD_PARTIAL)

# Gold truth that names fewer objects than this share of the tracking markers names only some of them.
_OF_MARKERS = 0.9
# Background is taken within a twentieth of an object's diameter. In a crowded frame the margin must be thin: in frame
# 67 of DIC-C2DH-HeLa, which names 3 of 18 cells, other cells fill 57 % of the unnamed pixels, 50 % of those within half
# a diameter, 21 % within 16 pixels, 8 % within 6. A gap of 10 pixels between two objects, where the border weight
# (sigma 5) is largest, lies within 5 pixels of them.
_MARGIN, _MARGIN_PX = 1 / 20, 5.0


def detect(pairs: Mapping[int, PairStatistics]) -> tuple[dict[int, PairStatistics], list[Observation]]:
    """Find frames without silver truth whose gold truth names only some of their objects.

    Parameters
    ----------
    pairs
        Pairs of Cell Tracking Challenge data whose masks hold objects, by index.

    Returns
    -------
    pairs, observations
        The pairs with `PairStatistics.background_margin_px` set if fewer than nine tenths of the tracking markers are
        named; one observation for each gold frame that may not name every object. Nothing is assumed without markers.
    """
    kept, seen = dict(pairs), []
    margin = _margin_px(pairs)
    for index, pair in pairs.items():
        if pair.masks != pair.golds:
            continue
        named = None if pair.is_sliced else sum(len(c.values) for c in pair.census)
        tracked = None if named is None else _count_markers(pair.mask)
        if named is None or tracked is None:
            seen.append(Observation(GOLD_ONLY, pair.mask))
        elif named < _OF_MARKERS * tracked:
            kept[index] = replace(pair, background_margin_px=margin)
            seen.append(Observation(GOLD_PARTIAL, pair.mask, f"{named} of {tracked}"))
        elif named < tracked:
            seen.append(Observation(GOLD_ONLY, pair.mask, f"{named} of {tracked}"))
    return kept, seen


def keep_margin(masks: NDArray[np.int32], pair: PairStatistics) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    """Keep background only near the objects of a mask that names some of its objects.

    Parameters
    ----------
    masks
        ``(T, *S)`` int32 ids, 0 background, `UNANNOTATED` not annotated.
    pair
        The pair of the mask, with `PairStatistics.background_margin_px`.

    Returns
    -------
    masks, golds
        ``(T, *S)`` int32 ids each: `masks` with `UNANNOTATED` off the margin, for training; and `masks` as given, for
        scores, None if it names no object.
    """
    assert pair.background_margin_px is not None
    spacing = pair.image_stats.spacing_um if pair.image_stats else None
    near = [ignore_far_background(mask, reach_px=pair.background_margin_px, spacing=spacing) for mask in masks]
    return np.stack(near), masks if (masks > 0).any() else None


def _count_markers(gold: Path) -> int | None:
    """Return the number of tracking markers of the frame of a gold mask; None if none can be read."""
    from septum.io.files import read_image

    path = markers(gold)
    try:
        return None if path is None else int(np.count_nonzero(np.unique(read_image(path, labels=True).array)))
    except SeptumError:
        return None


def _margin_px(pairs: Mapping[int, PairStatistics]) -> float:
    """Return the distance from an object within which background is known, in pixels of the finest axis."""
    diameters = np.concatenate([np.zeros(0), *_diameters(pairs)])
    return max(_MARGIN_PX, _MARGIN * float(np.median(diameters))) if len(diameters) else _MARGIN_PX


def _diameters(pairs: Mapping[int, PairStatistics]) -> Iterator[NDArray[np.float64]]:
    for pair in pairs.values():
        if pair.mask_stats is not None:
            rank = len(pair.mask_stats.sides)
            spacing = pair.image_stats.spacing_um if pair.image_stats else None
            volume = float(np.prod(relative_spacing(spacing, rank))) if spacing and len(spacing) == rank else 1.0
            counts = np.asarray([n * volume for c in pair.census for n in c.counts])
            yield equivalent_diameters(counts, rank)
