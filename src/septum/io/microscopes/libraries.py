"""Libraries that only some formats need; a missing one is named with the line that installs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.errors import FileError, SeptumError, UsageError
from septum.io.formats import damaged, format_path
from septum.io.image import Reader, StoredImage


def load_library(module: str, place: Path | str, kind: str) -> Any:
    """Import a library of the extra ``[formats]``.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        raise UsageError(
            f"{format_path(place)}: {kind} needs a library that is not installed ({module.partition('.')[0]})",
            "the extra with the formats of microscopes",
            "install it: pip install 'septum[formats]'",
        ) from None


@contextmanager
def explained(place: Path | str, kind: str) -> Iterator[None]:
    """Turn whatever a library raises into the error for a damaged file; errors of Septum and of memory pass."""
    try:
        yield
    except (SeptumError, MemoryError):
        raise
    except Exception as error:  # each library has errors of its own, some of no common class
        raise damaged(place, kind, error) from error


def open_stored(
    place: Path | str, kind: str, open_file: Callable[[], Any], store: Callable[[Any], StoredImage]
) -> StoredImage:
    """Open a file by its library and return the image in it; where that fails, the file is closed.

    Parameters
    ----------
    place, kind
        File and name of its format, for messages.
    open_file
        Opens the file; what it returns has ``close``.
    store
        Takes the opened file; the image that it returns closes the file.

    Raises
    ------
    FileError
        If the library cannot read the file; errors of Septum and of memory as they are.
    """
    with explained(place, kind), ExitStack() as opened:
        file = open_file()
        opened.callback(file.close)
        stored = store(file)
        opened.pop_all()
        return stored


def choose_scene(place: Path, wanted: int | None, names: list[str], kind: str) -> int:
    """Return the index, from 0, of the image that is wanted in a file of several.

    Parameters
    ----------
    place
        The file, for messages.
    wanted
        Number from 1; None: the only one.
    names
        Names of the images.
    kind
        Name of the format.

    Raises
    ------
    FileError
        If the file holds no image, several and none is named, or not this one.
    """
    if not names:
        raise FileError(
            f"{format_path(place)}: the {kind} file holds no image",
            "at least one image",
            "save the image again, or name another file",
        )
    listed = ", ".join(f"#{k} {name}".strip() for k, name in enumerate(names[:6], start=1))
    listed += ", ..." if len(names) > 6 else ""
    if wanted is None and len(names) > 1:
        given = f"{format_path(place)}: holds {len(names)} images ({listed})"
        raise FileError(given, "one image", f"name one, such as {format_path(place)}#1")
    if wanted is not None and wanted > len(names):
        given = f"{format_path(place)}#{wanted}: the file holds {len(names)} {'image' if len(names) == 1 else 'images'}"
        raise FileError(given, f"a number from 1 to {len(names)}", f"name one of {listed}")
    return (wanted or 1) - 1


def planes_reader(axes: str, dtype: DTypeLike, read_plane: Callable[..., NDArray[Any]]) -> Reader:
    """Return a reader of parts of an image whose planes are read one by one.

    Parameters
    ----------
    axes
        Letters of ``TCZYX``; Y and X, and C of color samples behind them, belong to a plane.
    dtype
        Type of the values.
    read_plane
        Takes the index along each axis before Y, and slices of Y and X; returns ``(Y, X)`` or ``(Y, X, C)`` of this
        dtype, any values.
    """
    leading = axes.index("Y")

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        out = np.empty([part.stop - part.start for part in index], dtype)
        walked = index[:leading]
        for place in np.ndindex(out.shape[:leading]):
            at = tuple(part.start + k for part, k in zip(walked, place, strict=True))
            plane = read_plane(at, index[leading], index[leading + 1])
            out[place] = plane[..., index[-1]] if len(axes) > leading + 2 else plane
        return out

    return read
