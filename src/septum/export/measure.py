"""Measure the objects of a label image: size, place, shape and intensities, one row an object.

The measures are those of `skimage.measure.regionprops`, where it has them. All sums are taken in scan order, whole
numbers where possible, so that a table of an image that is read in bands equals that of the whole image, number by
number.

Sources: perimeter: Benkrid, Crookes, Design and FPGA implementation of a perimeter estimator (2000); the others follow
from moments, and from convex hulls of the middles of pixel edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.export.runs import LABEL, Band, Frame, Numbers, band_height, read_bands
from septum.io.image import Image

Columns = dict[str, NDArray[Any]]
"""Columns of a table by name, each ``(N,)``."""


@dataclass(frozen=True)
class MeasuredChannel:
    """A channel whose intensities are measured in each object.

    Attributes
    ----------
    name
        Ending of its columns: ``mean_NAME``.
    image
        An image with the T, Z, Y and X of the label image.
    number
        Number of the channel in it, from 0.
    measures
        Those that are wanted, of ``mean``, ``sum``, ``min``, ``max``, ``std``.
    """

    name: str
    image: Image
    number: int
    measures: Sequence[str] = ("mean", "sum", "min", "max", "std")


def channels_of(image: Image) -> list[MeasuredChannel]:
    """Return the channels of an image, named ``0``, ``1``, ... as they are counted in it."""
    return [MeasuredChannel(str(number), image, number) for number in range(image.shape[image.axes.index("C")])]


def check_same_sides(labels: Image, image: Image) -> None:
    """Raise `DataError` unless an image has the sides of a label image."""
    own, other = (
        {a: n for a, n in zip(one.axes, one.shape, strict=True) if a != "C" and n > 1} for one in (labels, image)
    )
    if own != other:
        written = [" x ".join(f"{a} {n}" for a, n in sides.items()) or "one pixel" for sides in (own, other)]
        raise DataError(
            f"{labels.name or 'the label image'}: {written[0]}, but {image.name or 'the image'}: {written[1]}",
            "an image and a label image of the same sides",
            "name the image that the labels were made of",
        )


def measure_objects(
    frame: Frame,
    channels: Sequence[MeasuredChannel] = (),
    *,
    pixel_size_um: Mapping[str, float] | None = None,
    height: int | None = None,
) -> Columns:
    """Measure the objects of a frame, band by band.

    Parameters
    ----------
    frame
        A plane or a volume.
    channels
        Channels whose intensities are measured.
    pixel_size_um
        Micrometers per pixel by axis; None: those of the label image.
    height
        Rows of a band; None: by the number of pixels. The result does not depend on it.

    Returns
    -------
    columns
        One row an object, by rising label; see the page of the documentation on results for the names.

    Raises
    ------
    DataError
        If a channel has other sides than the label image.
    """
    for image in {id(channel.image): channel.image for channel in channels}.values():
        check_same_sides(frame.labels, image)
    found = _Sums(frame, channels)
    height = height or band_height(frame.sides[2])
    for band in read_bands(frame, height=height, rim=2):
        found.add(band)
    sizes = frame.labels.pixel_size_um if pixel_size_um is None else pixel_size_um
    return found.columns(sizes)


class _Sums:
    """Sums over the objects of a frame, which bands are added to."""

    def __init__(self, frame: Frame, channels: Sequence[MeasuredChannel]) -> None:
        self.frame, self.channels, self.numbers = frame, channels, Numbers()
        self.sums, self.boxes = np.zeros((0, 13), np.int64), np.zeros((0, 6), np.int64)
        self.steps = np.zeros((0, 3), np.int64)
        self.values = [np.zeros((0, 5)) for _ in channels]
        self.seen = [np.zeros(0, np.bool_) for _ in channels]
        self.points = [np.zeros((0, 3), np.int64)]

    def add(self, band: Band) -> None:
        """Add the objects of a band."""
        from septum.export import _runs

        runs = self.numbers.number(band.runs)
        self._grow()
        _runs.add_sums(runs, self.sums, self.boxes)
        for channel, values, seen in zip(self.channels, self.values, self.seen, strict=True):
            part = self.frame.read(channel.image, channel.number, band.z, band.rows)
            small = part.dtype.itemsize < 4 or part.dtype == np.float32
            _runs.add_values(part.astype(np.float32 if small else np.float64), band.rows.start, runs, values, seen)
        if self.is_plane:
            _runs.add_borders(band.labels, band.top, runs, self.steps)
            ends = _runs.row_ends(runs[np.argsort(runs[:, LABEL], kind="stable")])
            self.points.append(_runs.shrink_groups(ends[np.lexsort((ends[:, 1], ends[:, 0]))]))

    @property
    def is_plane(self) -> bool:
        return self.frame.sides[0] == 1

    def _grow(self) -> None:
        more = len(self.numbers.of) - len(self.sums)
        if more <= 0:
            return
        room = ((0, max(more, len(self.sums))), (0, 0))  # doubled: growing takes time in proportion to the objects
        self.sums, self.boxes, self.steps = (np.pad(a, room) for a in (self.sums, self.boxes, self.steps))
        self.values = [np.pad(values, room) for values in self.values]
        self.seen = [np.pad(seen, room[:1]) for seen in self.seen]

    def columns(self, pixel_size_um: Mapping[str, float]) -> Columns:
        """Return the table."""
        labels = np.array(list(self.numbers.of), np.int64)
        order = np.argsort(labels)
        sums, boxes = self.sums[order], self.boxes[order]
        table: Columns = {"label": labels[order]}
        table |= _places(sums, boxes, self.frame.sides)
        moments = _variances(sums)
        table |= _axes_lengths(moments, plane=self.is_plane)
        if self.is_plane:
            table |= self._shapes(order, sums[:, 0])
        table |= _physical(table, moments, pixel_size_um, plane=self.is_plane)
        for channel, values in zip(self.channels, self.values, strict=True):
            table |= _intensities(channel, values[order], sums[:, 0])
        return table

    def _shapes(self, order: NDArray[np.int64], pixels: NDArray[np.int64]) -> Columns:
        """Return perimeter, Feret diameter, circularity and solidity."""
        from septum.export._runs import measure_hulls

        steps = self.steps[order] @ np.array([1, math.sqrt(2), (1 + math.sqrt(2)) / 2])
        points = np.concatenate(self.points)
        hull = measure_hulls(points[np.lexsort((points[:, 1], points[:, 0]))], len(order))[order]
        with np.errstate(divide="ignore", invalid="ignore"):
            circularity = np.where(steps > 0, 4 * math.pi * pixels / steps**2, np.nan)
        return {
            "perimeter_px": steps,
            "feret_max_px": np.sqrt(hull[:, 1]) / 2,
            "circularity": circularity,
            "solidity": pixels / np.maximum(hull[:, 0], 1),
        }


def _places(sums: NDArray[np.int64], boxes: NDArray[np.int64], sides: tuple[int, int, int]) -> Columns:
    """Return size, centroid and bounding box, and if an object touches the border of the image."""
    axes = "zyx" if sides[0] > 1 else "yx"
    table: Columns = {"area_px" if axes == "yx" else "volume_px": sums[:, 0]}
    for axis in axes:
        number = "zyx".index(axis)
        table[f"centroid_{axis}_px"] = sums[:, 1 + number] + sums[:, 4 + number] / sums[:, 0]
    for end, offset in (("min", 0), ("max", 3)):
        for axis in axes:
            table[f"bbox_{axis}_{end}_px"] = boxes[:, offset + "zyx".index(axis)]
    first, last = 3 - len(axes), np.array(sides)
    touching = (boxes[:, first:3] == 0) | (boxes[:, 3 + first :] == last[first:])
    table["touches_border"] = touching.any(axis=1)
    return table


def _variances(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the covariances of the positions of pixels, ``(N, 3, 3)`` float64 in squared pixels, any values.

    The sums are moved to the pixel next to the centroid, in whole numbers, before anything is rounded.
    """
    pixels = sums[:, 0]
    middle = np.rint(sums[:, 4:7] / pixels[:, None]).astype(np.int64)
    spread = np.empty((len(sums), 3, 3))
    column = 7
    first = sums[:, 4:7] - middle * pixels[:, None]
    for a in range(3):
        for b in range(a, 3):
            second = sums[:, column] - middle[:, a] * sums[:, 4 + b] - middle[:, b] * sums[:, 4 + a]
            second = second + middle[:, a] * middle[:, b] * pixels
            value = second / pixels - (first[:, a] / pixels) * (first[:, b] / pixels)
            spread[:, a, b] = spread[:, b, a] = value
            column += 1
    return spread


def _ellipse(spread: NDArray[np.float64], *, plane: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lengths of the longest and the shortest axis of the ellipse or ellipsoid of the same variances."""
    found = np.linalg.eigvalsh(spread[:, 1:, 1:] if plane else spread).clip(0)
    factor = 4 if plane else math.sqrt(20)
    return factor * np.sqrt(found[:, -1]), factor * np.sqrt(found[:, 0])


def _axes_lengths(spread: NDArray[np.float64], *, plane: bool) -> Columns:
    major, minor = _ellipse(spread, plane=plane)
    table: Columns = {"major_axis_px": major, "minor_axis_px": minor}
    if plane:
        with np.errstate(divide="ignore", invalid="ignore"):
            table["eccentricity"] = np.where(major > 0, np.sqrt((1 - (minor / major) ** 2).clip(0)), 0.0)
        y, x, both = spread[:, 1, 1], spread[:, 2, 2], spread[:, 1, 2]
        slanted = np.where(both > 0, math.pi / 4, -math.pi / 4)
        table["orientation_rad"] = np.where(y == x, slanted, 0.5 * np.arctan2(2 * both, y - x))
    return table


def _physical(
    table: Columns, spread: NDArray[np.float64], pixel_size_um: Mapping[str, float], *, plane: bool
) -> Columns:
    """Return sizes in micrometers, as far as the pixel size is known; lengths that need equal sides only with these."""
    axes = "YX" if plane else "ZYX"
    if not all(axis in pixel_size_um for axis in axes):
        return {}
    sizes = np.array([pixel_size_um.get(axis, 1.0) for axis in "ZYX"])
    volume = math.prod(pixel_size_um[axis] for axis in axes)
    major, minor = _ellipse(spread * sizes[:, None] * sizes, plane=plane)
    name = "area" if plane else "volume"
    found: Columns = {f"{name}_um{len(axes)}": table[f"{name}_px"] * volume}
    if plane and math.isclose(sizes[1], sizes[2], rel_tol=1e-6):
        found |= {f"{key}_um": table[f"{key}_px"] * sizes[1] for key in ("perimeter", "feret_max")}
    return found | {"major_axis_um": major, "minor_axis_um": minor}


def _intensities(channel: MeasuredChannel, values: NDArray[np.float64], pixels: NDArray[np.int64]) -> Columns:
    first, moved, squares, lowest, highest = values.T
    mean = moved / pixels
    found = {
        "mean": first + mean,
        "sum": first * pixels + moved,
        "min": lowest,
        "max": highest,
        "std": np.sqrt((squares / pixels - mean**2).clip(0)),
    }
    return {f"{name}_{channel.name}": found[name] for name in channel.measures}
