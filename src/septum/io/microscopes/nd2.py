"""ND2 of Nikon, by nd2: frames mapped from the file, positions one by one."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.formats import format_path, split_scene
from septum.io.image import StoredImage
from septum.io.microscopes.libraries import choose_scene, explained, load_library, open_stored, planes_reader

_KIND = "ND2"


def count_positions(path: Path) -> int:
    """Return the number of positions of a file, 1 where it has none."""
    with explained(path, _KIND), _open(path) as file:
        return int(file.sizes.get("P", 1))


def open_nd2(place: Path, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open one position of an ND2 file.

    Parameters
    ----------
    place
        The file, or ``file.nd2#2`` for its second position.
    axes
        See `septum.io.files.open_image`.
    labels
        Ignored: values are the same for masks.

    Raises
    ------
    FileError
        If the file is damaged, has several positions and none is named, or other dimensions than T, Z, C.
    UsageError
        If the library is not installed.
    """
    path, wanted = split_scene(place)
    return open_stored(path, _KIND, lambda: _open(path), lambda file: _stored(path, file, wanted, axes))


def _open(path: Path) -> Any:
    return load_library("nd2", path, _KIND).ND2File(path)


def _stored(path: Path, file: Any, wanted: int | None, axes: str | None) -> StoredImage:
    sizes = {axis: int(n) for axis, n in file.sizes.items()}
    position = choose_scene(path, wanted, [""] * sizes.pop("P", 1), _KIND)
    samples = sizes.pop("S", 1)
    if set(sizes) - set("TCZYX"):
        others = ", ".join(sorted(set(sizes) - set("TCZYX")))
        raise FileError(f"{format_path(path)}: dimensions {others}", "T, Z, C and positions", "export it as OME-TIFF")
    channels, height, width = sizes.get("C", 1), sizes["Y"], sizes["X"]
    if samples > 1 and channels > 1:
        raise FileError(f"{format_path(path)}: several color images as channels", "one", "export it as OME-TIFF")
    walked = [a for a in "TZ" if sizes.get(a, 1) > 1]
    names = "".join(a for a in "TCZ" if sizes.get(a, 1) > 1)
    frames = {
        tuple(loop.get(a, 0) for a in walked): number
        for number, loop in enumerate(file.loop_indices)
        if loop.get("P", 0) == position
    }
    lock = Lock()

    def read_plane(at: tuple[int, ...], rows: slice, columns: slice) -> NDArray[Any]:
        place = dict(zip(names, at, strict=True))
        with lock, explained(path, _KIND):
            frame = file.read_frame(frames[tuple(place[a] for a in walked)])
            planes = np.reshape(frame, (channels, height, width, samples))
            part = np.array(planes[place.get("C", 0), rows, columns])
        return part if samples > 1 else part[..., 0]

    shape = (*(sizes[a] for a in names), height, width, *([samples] if samples > 1 else []))
    stored = names + "YX" + ("C" if samples > 1 else "")
    size, known = _notes(file, names)
    read = planes_reader(stored, file.dtype, read_plane)
    known, dtype = () if samples > 1 else known, np.dtype(file.dtype)
    return StoredImage(shape, dtype, axes or stored, read, pixel_size_um=size, close=file.close, channels=known)


def _notes(file: Any, names: str) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the pixel size and the names of the channels; what the notes do not say, or say wrongly, is unknown."""
    try:
        described = file.metadata.channels
        volume = described[0].volume
        steps = zip("XYZ", volume.axesCalibration, volume.axesCalibrated, strict=True)
        size = {a: float(v) for a, v, sure in steps if sure and v > 0 and (a != "Z" or "Z" in names)}
        return size, tuple(str(one.channel.name) for one in described)
    except MemoryError:
        raise
    except Exception:  # the library trusts the notes, of which there are many kinds; the pixels are sound
        return {}, ()
