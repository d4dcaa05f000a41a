"""Pick channels of a stored image, by number from 1 or by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import UsageError
from septum.io.formats import format_path
from septum.io.image import Reader, StoredImage


def pick_channels(stored: StoredImage, wanted: Sequence[str], place: Path | str) -> StoredImage:
    """Return an image that has the wanted channels only, in the order in which they are wanted.

    Parameters
    ----------
    stored
        The image.
    wanted
        Numbers from 1, or names as the file states them, case ignored; a name of digits alone is a number.
    place
        The file, for messages.

    Raises
    ------
    UsageError
        If the image has no such channel, or one is wanted twice.
    """
    at = stored.axes.find("C")
    count = stored.shape[at] if at >= 0 else 1
    kept = [_number(one, count, stored.channels, place) for one in wanted]
    if len(set(kept)) < len(kept):
        raise UsageError(f"--channel {' and '.join(wanted)}: the same channel twice", "each once", "leave one out")
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
    several = "several of that name" if same else f"{count} channel{'s' if count != 1 else ''}"
    listed = ", ".join(f"{k} {name}".strip() for k, name in enumerate(names, start=1)) or "no names in the file"
    raise UsageError(
        f"{format_path(place)}: --channel {wanted}: {several} ({listed})",
        f"a number from 1 to {count}, or a name",
        "name a channel that the file has",
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
