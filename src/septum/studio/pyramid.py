"""Tiles of images at any level of detail, for the page: 8 or 16 bits a pixel.

Integers up to 16 bits are shown as they are; other values are scaled to 16 bits by the range of the image. A coarser
level is the mean of 2 x 2 pixels of the finer one; of large images it is kept in a cache on the disk. Levels that the
file of an image holds are taken as they are.
"""

from __future__ import annotations

import shutil
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError, SeptumError
from septum.io.atomic import whole_file
from septum.io.files import open_image
from septum.io.image import Image
from septum.io.selection import Selection
from septum.studio.project import Entry, Project, signature
from septum.studio.tile_grid import Place, Rect, image_box, levels_of, tile_box

_CACHE_BYTES = 96_000_000
_PROBES, _PROBE_SIDE = 4, 256  # parts of an image, per axis, from which its window of intensities is found
_CACHED_FROM = 3  # images with more levels than this keep coarser levels on the disk
_SOURCE = "source"  # names the file that the cached levels were made of
_AT_ONCE = 2  # levels that are made of finer ones while the page waits
SHOWN_FIRST = 3
"""Number of channels that the page shows when an image is opened; their coarser levels are made together."""

Tile = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Shown:
    """How the values of an image are shown.

    Attributes
    ----------
    sides, channels, frames, sections
        Lengths of the axes (Y, X), C, T and Z.
    bits
        8 or 16.
    offset, scale
        A value is shown as ``(value - offset) * scale``; 0 and 1 where it is shown as it is.
    windows
        For each channel the darkest and the brightest shown value that the page begins with.
    """

    sides: tuple[int, int]
    channels: int
    frames: int
    sections: int
    bits: int
    offset: float
    scale: float
    windows: tuple[tuple[int, int], ...]


class Pyramid:
    """Tiles of the images of a project.

    Parameters
    ----------
    project
        The images.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._shown: dict[str, Shown] = {}
        self._stored: dict[str, dict[int, Image]] = {}
        self._signatures: dict[str, str] = {}
        self._lock = threading.Lock()
        self._memory: OrderedDict[tuple[Any, ...], Tile] = OrderedDict()
        self._bytes = 0

    def shown(self, entry: Entry) -> Shown:
        """Return how an image is shown; opens it the first time.

        Raises
        ------
        SeptumError
            If it cannot be read.
        """
        if entry.id not in self._shown:
            self._signatures[entry.id] = signature(entry.path)
            image = self._project.open(entry)
            shown = _measure(image)
            if levels_of(shown.sides) > _CACHED_FROM:
                self._check_cache(entry)
            self._stored[entry.id] = _stored_levels(entry.path, image, self._project.axes, shown)
            self._shown[entry.id] = shown
        return self._shown[entry.id]

    def renew(self, entry: Entry) -> bool:
        """Forget an image, with its coarser levels, if its file was replaced since; return True then.

        Raises
        ------
        FileError
            If the file is not there any more.
        """
        before = self._signatures.get(entry.id)
        if before is None or before == signature(entry.path):
            return False
        self._project.forget(entry)
        self._shown.pop(entry.id, None)
        self._stored.pop(entry.id, None)
        with self._lock:
            for name in [name for name in self._memory if name[0] == entry.id]:
                self._bytes -= self._memory.pop(name).nbytes
        return True

    def _check_cache(self, entry: Entry) -> None:
        """Remove coarser levels that were made of another file."""
        folder = self._project.work / "cache" / entry.id
        now = self._signatures[entry.id]
        source = folder / _SOURCE
        with suppress(OSError):
            if folder.is_dir() and not (source.is_file() and source.read_text(encoding="utf-8") == now):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            source.write_text(now, encoding="utf-8")

    def region(self, entry: Entry, t: int, z: int, box: Rect) -> NDArray[Any]:
        """Return all channels of a part of a plane: ``(C, Y, X)`` of the image's dtype, raw intensities."""
        image = self._project.open(entry)
        at: dict[str, int | slice] = {"T": t, "Z": z, "Y": slice(box.y0, box.y1), "X": slice(box.x0, box.x1)}
        return image[tuple(at.get(a, slice(None)) for a in image.axes)]

    def tile(self, entry: Entry, place: Place, *, t: int, z: int, channel: int, level: int) -> Tile | None:
        """Return a tile of one channel.

        Returns
        -------
        ndarray or None
            ``(Y, X)`` uint8 or uint16 intensities, at most ``(SIDE, SIDE)``; None if it must first be made of many
            finer tiles, which `build` does.
        """
        return self._tile(entry, (t, z, channel), level, place, depth=_AT_ONCE)

    def build(self, entry: Entry, t: int, z: int, channel: int = 0) -> Iterator[float]:
        """Make all coarser tiles of a channel, or of all `SHOWN_FIRST`; yield the share that is done, 0..1."""
        shown = self.shown(entry)
        levels = levels_of(shown.sides)
        channels = range(min(shown.channels, SHOWN_FIRST)) if channel < SHOWN_FIRST else (channel,)
        for level in range(1, levels):
            places = list(_places(shown.sides, level))
            for number, place in enumerate(places, start=1):
                for one in channels:
                    self._tile(entry, (t, z, one), level, place, depth=1)
                # The finest of these levels is nearly all of the work.
                yield (number / len(places) * 0.75 if level == 1 else 0.75 + 0.25 * level / levels)

    def _tile(self, entry: Entry, key: tuple[int, int, int], level: int, place: Place, *, depth: int) -> Tile | None:
        name = (entry.id, *key, level, *place)
        with self._lock:
            if name in self._memory:
                self._memory.move_to_end(name)
                return self._memory[name]
        shown = self.shown(entry)
        stored = self._stored[entry.id].get(level)
        kept = level > 0 and stored is None and levels_of(shown.sides) > _CACHED_FROM
        file = self._file(entry, key, level, place)
        tile = _load(file, shown, level, place) if kept else None
        if tile is None:
            if stored is not None:
                tile = _read(stored, key, place, shown, level)
            elif level == 0:
                tile = _read(self._project.open(entry), key, place, shown, level)
            else:
                tile = None if depth == 0 else self._mean(entry, key, level, place, depth)
            if tile is None:
                return None
            if kept:
                _keep(file, tile)
        with self._lock:
            self._memory[name] = tile
            self._bytes += tile.nbytes
            while self._bytes > _CACHE_BYTES:
                self._bytes -= self._memory.popitem(last=False)[1].nbytes
        return tile

    def _mean(self, entry: Entry, key: tuple[int, int, int], level: int, place: Place, depth: int) -> Tile | None:
        """Return the mean of 2 x 2 pixels of the four finer tiles; the last row or column may be a mean of fewer."""
        shown = self.shown(entry)
        finer = _sides(shown.sides, level - 1)
        box = Rect(*(2 * v for v in vars(tile_box(place)).values())).clip(image_box(finer))
        joined = np.empty(box.sides, np.uint8 if shown.bits == 8 else np.uint16)
        for inner in box.places():
            part = self._tile(entry, key, level - 1, inner, depth=depth - 1)
            if part is None:
                return None
            joined[tile_box(inner).clip(box).within(box)] = part
        padded = np.pad(joined, [(0, n % 2) for n in joined.shape], mode="edge")
        halves = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2)
        mean: Tile = ((halves.sum(axis=(1, 3), dtype=np.uint32) + 2) // 4).astype(joined.dtype)
        return mean

    def _file(self, entry: Entry, key: tuple[int, int, int], level: int, place: Place) -> Path:
        t, z, channel = key
        folder = self._project.work / "cache" / entry.id / f"t{t}z{z}c{channel}" / str(level)
        return folder / f"{place[0]}_{place[1]}"


def _read(image: Image, key: tuple[int, int, int], place: Place, shown: Shown, level: int) -> Tile:
    """Read a tile of a level that a file holds; a level that was rounded down repeats its last row or column."""
    t, z, channel = key
    box = tile_box(place).clip(image_box(_sides(shown.sides, level)))
    at: dict[str, int | slice] = {"T": t, "Z": z, "C": channel, "Y": slice(box.y0, box.y1), "X": slice(box.x0, box.x1)}
    tile = _show(image[tuple(at[a] for a in image.axes)], shown)
    filled = np.empty(box.sides, np.uint8 if shown.bits == 8 else np.uint16)
    filled[...] = np.pad(tile, [(0, n - m) for n, m in zip(box.sides, tile.shape, strict=True)], mode="edge")
    return filled


def _stored_levels(path: Path, image: Image, axes: str | None, shown: Shown) -> dict[int, Image]:
    """Return the levels that a file holds, as far as they halve rows and columns and nothing else."""
    found: dict[int, Image] = {}
    wanted = {_sides(shown.sides, level): level for level in range(1, levels_of(shown.sides))}
    with suppress(SeptumError):  # a level that cannot be read is made of the image itself
        for number, (height, width) in enumerate(image.level_sides):
            sides = next((s for s in wanted if 0 <= s[0] - height <= 1 and 0 <= s[1] - width <= 1), None)
            if number == 0 or sides is None:
                continue
            level = open_image(path, axes=axes, selection=Selection(level=number))
            lengths = {"T": 1, "Z": 1, **dict(zip(level.axes, level.shape, strict=True))}
            if (lengths["C"], lengths["T"], lengths["Z"]) == (shown.channels, shown.frames, shown.sections):
                found[wanted[sides]] = level
    return found


def _keep(file: Path, tile: Tile) -> None:
    """Write a tile into the cache; on a full or protected drive it is made again each time."""
    with suppress(OSError, FileError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as temporary:
            temporary.write_bytes(zlib.compress(tile.tobytes(), 1))


def _sides(sides: tuple[int, int], level: int) -> tuple[int, int]:
    """Return height and width at a level."""
    for _ in range(level):
        sides = (-(-sides[0] // 2), -(-sides[1] // 2))
    return sides


def _places(sides: tuple[int, int], level: int) -> Iterator[Place]:
    yield from image_box(_sides(sides, level)).places()


def _load(file: Path, shown: Shown, level: int, place: Place) -> Tile | None:
    """Read a tile of the cache; None if it is missing or damaged."""
    sides = tile_box(place).clip(image_box(_sides(shown.sides, level))).sides
    try:
        data = zlib.decompress(file.read_bytes())
        if shown.bits == 8:
            return np.frombuffer(data, np.uint8).reshape(sides)
        return np.frombuffer(data, np.uint16).reshape(sides)
    except (OSError, zlib.error, ValueError):
        return None


def _measure(image: Image) -> Shown:
    lengths = {"T": 1, "Z": 1, **dict(zip(image.axes, image.shape, strict=True))}
    sides = lengths["Y"], lengths["X"]
    probes = _probe(image, sides)
    plain = image.dtype.kind in "bu" and image.dtype.itemsize <= 2
    offset, scale = 0.0, 1.0
    if not plain:
        values = probes[np.isfinite(probes)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        margin = 0.1 * (high - low)  # parts that were not looked at may be darker or brighter
        offset, scale = low - margin, 65535 / max(high - low + 2 * margin, 1e-30)
    bits = 8 if image.dtype == bool or image.dtype == np.uint8 else 16
    shown = Shown(sides, lengths["C"], lengths["T"], lengths["Z"], bits, offset, scale, ())
    windows = []
    for channel in probes:
        values = _show(channel, shown)
        low, high = (int(v) for v in np.percentile(values, (0.2, 99.8)))
        windows.append((low, max(high, low + 1)))
    if lengths["C"] in (3, 4) and bits == 8:  # a color image is shown as it is
        windows = [(0, 255)] * lengths["C"]
    return Shown(sides, lengths["C"], lengths["T"], lengths["Z"], bits, offset, scale, tuple(windows))


def _probe(image: Image, sides: tuple[int, int]) -> NDArray[Any]:
    """Return pixels of regular parts of the middle plane: ``(C, n)``."""
    starts = [sorted({int(s) for s in np.linspace(0, max(0, n - _PROBE_SIDE), _PROBES)}) for n in sides]
    parts = []
    for y in starts[0]:
        for x in starts[1]:
            at: dict[str, int | slice] = {
                "Y": slice(y, y + _PROBE_SIDE),
                "X": slice(x, x + _PROBE_SIDE),
                "C": slice(None),
            }
            index = tuple(at.get(a, image.shape[n] // 2) for n, a in enumerate(image.axes))
            part = image[index]
            parts.append(part.reshape(len(part), -1))
    return np.concatenate(parts, axis=1)


def _show(values: NDArray[Any], shown: Shown) -> Tile:
    if values.dtype == np.uint8 or (values.dtype == np.uint16 and shown.bits == 16):
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    scaled = (np.nan_to_num(values.astype(np.float64)) - shown.offset) * shown.scale
    return np.clip(scaled, 0, 65535).astype(np.uint16)
