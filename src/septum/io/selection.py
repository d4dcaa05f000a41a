"""Choose what is read of an image file that holds more: channels by number or name, and a level of a pyramid.

Channels are counted from 1; levels from 0, the largest, as slide scanners and OME-Zarr count them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from septum.axes import canonical
from septum.errors import UsageError
from septum.io.formats import format_path
from septum.io.image import Image, Reader, StoredImage
from septum.words import pluralize

# Levels are a factor of 2 or 4 apart: the nearest one is meant if its pixels are at most this much larger or smaller.
_NEAR = 1.01 * math.sqrt(2)
_MOST_LISTED = 12


class SelectingSettings(Protocol):
    """Settings by which a person chooses what is read of each image file."""

    @property
    def channel(self) -> tuple[str, ...]:
        """Channels, see `Selection`."""

    @property
    def level(self) -> int | None:
        """Level, see `Selection`."""

    @property
    def pixel_size(self) -> float | None:
        """Pixel size of the level, see `Selection`."""


@dataclass(frozen=True)
class Selection:
    """What is read of an image file that holds more.

    Attributes
    ----------
    channels
        By number from 1, or by name; empty: all.
    level
        Level of a pyramid, 0 is the largest; None: by the pixel size, else the largest.
    pixel_size
        Micrometers per pixel: the nearest level is read; None: any.

    Raises
    ------
    UsageError
        If both a level and a pixel size are named, or the size is none.
    """

    channels: tuple[str, ...] = ()
    level: int | None = None
    pixel_size: float | None = None

    def __post_init__(self) -> None:
        if self.level is not None and self.pixel_size is not None:
            given = f"--level {self.level} with --pixel-size {self.pixel_size:g}"
            raise UsageError(given, "one of them", "leave the other out")
        if self.pixel_size is not None and not 0 < self.pixel_size < math.inf:
            raise UsageError(f"--pixel-size {self.pixel_size}", "micrometers above 0", "write a number such as 0.5")

    @classmethod
    def asked(cls, settings: SelectingSettings) -> Selection:
        """Return what settings ask for."""
        return cls(tuple(settings.channel), settings.level, settings.pixel_size)

    @property
    def options(self) -> str:
        """The choice as on the command line: ``"--channel 2 --level 1"``."""
        return " ".join([*(f"--channel {one}" for one in self.channels), *([self.of_level] if self.of_level else [])])

    @property
    def of_level(self) -> str:
        """The choice of the level as on the command line; ``""`` where nothing is chosen."""
        if self.level is not None:
            return f"--level {self.level}"
        return "" if self.pixel_size is None else f"--pixel-size {self.pixel_size:g}"


EVERYTHING = Selection()
"""All channels of the largest level."""


def select(stored: StoredImage, wanted: Selection, place: Path | str) -> StoredImage:
    """Return an image that has the wanted level, and the wanted channels only, in the order in which they are wanted.

    Parameters
    ----------
    stored
        The image, at its largest level.
    wanted
        The choice. Names of channels are those that the file states, case ignored; a name of digits alone is a number.
    place
        The file, for messages.

    Raises
    ------
    UsageError
        If the image has no such level or channel, does not state its pixel size, or a channel is wanted twice.
    """
    return _pick_channels(_pick_level(stored, wanted, place), wanted.channels, place)


def completed(asked: Selection, learned: Selection, image: Image) -> Selection:
    """Return what is asked for; of what is not asked for, what was read in training, where a file has more than that.

    Parameters
    ----------
    asked, learned
        Of a person, and of the training images.
    image
        The file, opened as asked.
    """
    if not asked.channels and image.shape[image.axes.index("C")] > len(learned.channels):
        asked = replace(asked, channels=learned.channels)
    if not asked.of_level and learned.of_level and len(image.level_sides) > 1:
        asked = replace(asked, level=learned.level, pixel_size=learned.pixel_size)
    return asked


def describe_level(image: Image) -> str:
    """Return which level of a pyramid an image is, as a phrase; ``""`` for the largest one."""
    if not image.level:
        return ""
    size = image.pixel_size_um.get("X")
    known = "" if size is None else f" of {size:.3g} micrometers"
    return f"level {image.level}, {image.shape[-1]} x {image.shape[-2]} pixels{known}"


def check_axes(axes: str | None) -> str | None:
    """Return axes that a person named in upper case; raise `UsageError` if they cannot be axes of an image."""
    if axes is None:
        return None
    try:
        canonical(axes.upper())
    except ValueError as error:
        raise UsageError(
            f"axes {axes.upper()!r}", "each letter of TCZYX at most once, Y and X always", "write axes such as ZYX"
        ) from error
    return axes.upper()


def _pick_level(stored: StoredImage, wanted: Selection, place: Path | str) -> StoredImage:
    if not wanted.of_level or len(stored.axes) != len(stored.shape):  # the latter is refused with the image
        return stored
    levels = [stored, *stored.coarser()]
    at = _nearest(levels, wanted, place) if wanted.level is None else wanted.level
    if not 0 <= at < len(levels):
        raise _no_level(levels, wanted, place)
    if at == 0:
        return stored
    sides = _sides(stored)
    return replace(levels[at], close=stored.close, level=at, full_sides=(sides["Y"], sides["X"]))


def _nearest(levels: Sequence[StoredImage], wanted: Selection, place: Path | str) -> int:
    """Return the number of the level whose pixels are nearest to the wanted size."""
    assert wanted.pixel_size is not None
    if any(axis not in one.pixel_size_um for one in levels for axis in "YX"):
        given = f"{format_path(place)}: {wanted.of_level}, and the file does not state its pixel size"
        raise UsageError(given, "micrometers per pixel in the file", f"name a level with --level: {_listed(levels)}")
    sizes = [math.sqrt(one.pixel_size_um["Y"] * one.pixel_size_um["X"]) for one in levels]
    apart = [abs(math.log(size / wanted.pixel_size)) for size in sizes]
    at = apart.index(min(apart))
    if apart[at] > math.log(_NEAR):
        raise _no_level(levels, wanted, place)
    return at


def _no_level(levels: Sequence[StoredImage], wanted: Selection, place: Path | str) -> UsageError:
    return UsageError(
        f"{format_path(place)}: {wanted.of_level}: the file holds {_listed(levels)}",
        "a level that the file holds",
        "name one of them by --level, or by its pixel size with --pixel-size"
        if len(levels) > 1
        else f"leave {wanted.of_level.partition(' ')[0]} out",
    )


def _listed(levels: Sequence[StoredImage]) -> str:
    """Return number, width, height and pixel size of each level, for messages."""
    lines = []
    for number, one in enumerate(levels[:_MOST_LISTED]):
        sides, size = _sides(one), one.pixel_size_um.get("X")
        known = "" if size is None else f" of {size:.3g} micrometers"
        lines.append(f"level {number} ({sides['X']} x {sides['Y']} pixels{known})")
    return ", ".join(lines) + (", ..." if len(levels) > _MOST_LISTED else "")


def _sides(stored: StoredImage) -> dict[str, int]:
    return dict(zip(stored.axes, stored.shape, strict=True))


def _pick_channels(stored: StoredImage, wanted: Sequence[str], place: Path | str) -> StoredImage:
    if not wanted:
        return stored
    at = stored.axes.find("C")
    count = stored.shape[at] if at >= 0 else 1
    kept = [_number(one, count, stored.channels, place) for one in wanted]
    if len(set(kept)) < len(kept):
        given = f"{format_path(place)}: --channel {' --channel '.join(wanted)}: the same channel twice"
        raise UsageError(given, "each channel once", "leave one of them out")
    if at < 0:
        return stored
    read, shape = picked(stored.read, at, stored.shape, kept)
    names = tuple(stored.channels[k] for k in kept) if len(stored.channels) == count else ()
    return replace(stored, read=read, shape=shape, channels=names)


def _number(wanted: str, count: int, names: Sequence[str], place: Path | str) -> int:
    """Return the index, from 0, of a channel."""
    if wanted.isdecimal() and 1 <= int(wanted) <= count:
        return int(wanted) - 1
    same = [k for k, name in enumerate(names) if name.casefold() == wanted.casefold()]
    if len(same) == 1:
        return same[0]
    several = "several of that name" if same else f"the image has {pluralize(count, 'channel')}"
    listed = ", ".join(f"{k} {name}".strip() for k, name in enumerate(names, start=1)) or "no names in the file"
    raise UsageError(
        f"{format_path(place)}: --channel {wanted}: {several} ({listed})",
        (f"a number from 1 to {count}" if count > 1 else "1") + ", or a name of the file" * bool(names),
        "name a channel that the file has" if count > 1 else "leave --channel out",
    )


def picked(read: Reader, at: int, shape: tuple[int, ...], kept: Sequence[int]) -> tuple[Reader, tuple[int, ...]]:
    """Return a reader that knows only some elements of one dimension, and its shape.

    Parameters
    ----------
    read
        Reader of the whole.
    at
        The dimension.
    shape
        Of the whole.
    kept
        Indices of the elements, in any order.
    """

    def read_picked(index: tuple[slice, ...]) -> NDArray[Any]:
        wanted = kept[index[at]]
        first = min(wanted)
        part = read((*index[:at], slice(first, max(wanted) + 1), *index[at + 1 :]))
        return np.take(part, [k - first for k in wanted], axis=at)

    return read_picked, (*shape[:at], len(kept), *shape[at + 1 :])
