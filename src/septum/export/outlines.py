"""Trace the outlines of objects along the corners of their pixels.

A program that fills such an outline by the centers of pixels gets the pixels of the object back, every one. Rings are
valid polygons: pixels that touch at a corner only belong to different parts, and a ring passes no corner twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from septum.export.runs import LABEL, SLICE, START, STOP

Ring = NDArray[np.int64]
"""Corners of a ring, ``(N, 2)`` int64 pixels: x and y from the top left corner of the image; none is repeated."""


@dataclass(frozen=True)
class ObjectOutline:
    """The outline of one object in one plane.

    Attributes
    ----------
    label
        Its id.
    z
        Its slice in the frame.
    polygons
        The connected parts, in scan order: the outer ring of each, clockwise on the screen, and then its holes,
        counterclockwise.
    pixels
        Its area in pixels.
    """

    label: int
    z: int
    polygons: tuple[tuple[Ring, ...], ...]
    pixels: int

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom side of its bounding box."""
        shells = np.concatenate([polygon[0] for polygon in self.polygons])
        (left, top), (right, bottom) = shells.min(axis=0), shells.max(axis=0)
        return int(left), int(top), int(right), int(bottom)


def trace_outlines(runs: NDArray[np.int64]) -> Iterator[ObjectOutline]:
    """Trace objects in the order in which they are given.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64 runs, 0 or more, of whole objects of one slice, those of each object together and in scan
        order; from `septum.export.runs.complete_objects`.
    """
    from septum.export._tracing import trace_rings

    if not len(runs):
        return
    corners, stops, part, hole = trace_rings(runs)
    rings = np.split(corners, stops[:-1])
    begins = np.flatnonzero(np.diff(runs[:, LABEL], prepend=runs[0, LABEL] - 1))
    lengths = np.add.reduceat(runs[:, STOP] - runs[:, START], begins)
    # Rings in the order of objects, of their parts, and the outer ring of a part before its holes.
    order = np.lexsort((hole, part))
    limits = np.searchsorted(part[order], [*begins.tolist(), len(runs)])
    parts, outer = part[order].tolist(), (~hole[order]).tolist()
    for n, begin in enumerate(begins.tolist()):
        polygons: list[list[Ring]] = []
        for place in range(limits[n], limits[n + 1]):
            if outer[place]:
                polygons.append([])
            assert place == limits[n] or outer[place] == (parts[place] != parts[place - 1]), "one outer ring a part"
            polygons[-1].append(rings[order[place]])
        yield ObjectOutline(
            label=int(runs[begin, LABEL]),
            z=int(runs[begin, SLICE]),
            polygons=tuple(map(tuple, polygons)),
            pixels=int(lengths[n]),
        )


def column_runs(runs: NDArray[np.int64], height: int) -> NDArray[np.int64]:
    """Return the runs of one object down the columns of the image, column by column.

    Parameters
    ----------
    runs
        ``(N, 5)`` int64 runs of one object, in pixels, in scan order.
    height
        Rows of the image.

    Returns
    -------
    ends
        ``(2, M)`` int64, pixels counted down the columns, 0 or more: the first of each run, and the one after its last.
        A run goes on at the top of the next column where both pixels belong to the object.
    """
    from septum.export._tracing import column_ends

    return column_ends(runs, height)
