"""Overlap-tile inference, from an image to class probabilities; shared by prediction and validation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septum.arrays.normalize import NormalizeSettings, normalize, statistics
from septum.arrays.tiles import Readable, Tile, plan_tiles, read_mirrored
from septum.errors import DataError
from septum.io.files import open_image
from septum.nn.device import Device, is_out_of_memory, send
from septum.nn.ensemble import Network
from septum.nn.unet import UNetSettings

Region = tuple[slice, ...]

# Working memory for the feature maps of one tile. Larger tiles compute less context twice but reach cache and memory
# limits; in volumes the context is most of a small tile.
_TILE_BYTES = {"cpu": 1_000_000_000, "cuda": 6_000_000_000, "mps": 3_000_000_000}
_VOLUME_BYTES = {**_TILE_BYTES, "cpu": 2_000_000_000}

# The time left is estimated, by computing one tile, from this number of tiles on: fewer are done at once.
_LEAST_TIMED = 8


def largest_output(settings: UNetSettings, device: Device, sides: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the largest sides that a tile should write on a device, by the memory of its feature maps.

    At the finest level about six maps of `width` float32 features are alive at the same time: the skip connection, the
    concatenation of twice the width, and the input and output of a convolution.

    Parameters
    ----------
    settings
        The network.
    device
        Where it computes.
    sides
        Sides of the image, if they are known: a tile that covers a short side is longer along the others.
    """
    geometry, rank = settings.geometry, len(settings.depths)
    room = (_TILE_BYTES if rank == 2 else _VOLUME_BYTES)[device.torch.type] / (settings.width * 6 * 4)
    whole = geometry.input_for(sides) if sides else ()
    side = int(room ** (1 / rank))
    for left, shorter in zip(range(rank, 0, -1), sorted(whole), strict=False):
        side = int(room ** (1 / left))
        if shorter > side:
            break
        side, room = shorter, room / shorter
    read = [min(side, n) for n in whole] or [side] * rank
    return tuple(max(g, n - 2 * c) for n, g, c in zip(read, geometry.grid, geometry.contexts, strict=True))


@dataclass(frozen=True)
class Inside:
    """The part of a frame that is predicted; the rest is background.

    Parameters
    ----------
    mask
        ``(1, *S)``, any real dtype; 0 outside.
    sides
        Sides of the grid on which the frame is predicted; each of its pixels takes the nearest one of the mask.
    close
        Closes the file of the mask.
    """

    mask: Readable
    sides: tuple[int, ...]
    close: Callable[[], object] = field(default=lambda: None)

    def of(self, region: Region) -> NDArray[np.bool_]:
        """Return True where a region of the grid is predicted: ``(*region)`` bool."""
        places = []
        for part, side, own in zip(region, self.sides, self.mask.shape[1:], strict=True):
            places.append(((np.arange(part.start, min(part.stop, side)) * 2 + 1) * own // (2 * side)).astype(np.intp))
        first = [int(axis[0]) for axis in places]
        read = self.mask[(slice(0, 1), *(slice(int(a[0]), int(a[-1]) + 1) for a in places))][0]
        near = np.ix_(*(axis - start for axis, start in zip(places, first, strict=True)))
        found: NDArray[np.bool_] = read[near] != 0
        return found


def open_inside(path: Path, frame: Readable, sides: tuple[int, ...]) -> Inside:
    """Open the mask of the part of an image that is predicted.

    Parameters
    ----------
    path
        A file with the sides of a frame; the same part of all frames is predicted.
    frame
        ``(C, *S)`` intensities of any range: a frame of the image, on its own grid.
    sides
        Sides of the grid on which the frame is predicted.

    Raises
    ------
    DataError
        If the sides differ.
    FileError
        If the file cannot be read.
    """
    mask = open_image(path, labels=True)
    if mask.shape[mask.axes.index("C")] != 1 or mask.shape[1:] != frame.shape[1:]:
        given = f"--in {path}: {' x '.join(map(str, mask.shape))} ({mask.axes})"
        expected = f"one channel of {' x '.join(map(str, frame.shape[1:]))} pixels, as the image"
        mask.close()
        raise DataError(given, expected, "draw the mask on this image")
    return Inside(mask, sides, mask.close)


@dataclass
class TiledPredictor:
    """A network that is applied tile by tile; if the memory of the device runs out, the tiles are halved.

    Parameters
    ----------
    network
        In evaluation mode, on `device`.
    device
        Where the network is.
    max_output
        Largest sides that a tile may write. They stay halved once memory has run out: any size gives the same result.
    halved
        The sides after each halving.
    inside
        The part that is predicted; None: all. Tiles without a pixel of it are not computed.
    """

    network: Network
    device: Device
    max_output: tuple[int, ...]
    halved: list[tuple[int, ...]] = field(default_factory=list)
    inside: Inside | None = None

    def tiles(
        self, image: Readable, stats: NDArray[np.float32], region: Region
    ) -> Iterator[tuple[Region, NDArray[np.float32], int]]:
        """Predict a region of an image tile by tile.

        Parameters
        ----------
        image
            ``(C, *S)``, raw intensities of any range; mirrored outside of its borders.
        stats
            ``(C, 3) float32``, any values: statistics of the whole image (`septum.arrays.normalize.statistics`), which
            normalize every tile.
        region
            Begins on the pooling grid, ends anywhere.

        Yields
        ------
        write, probabilities, left
            Place of a tile in the image, its ``(K, *write) float32`` probabilities in 0..1, and the number of tiles
            left.

        Raises
        ------
        DataError
            If the memory is not enough for the smallest tile.
        """
        queue = deque(self._plan(region))
        with ThreadPoolExecutor(1, "septum-read") as reader:  # starts no thread before it has work
            coming: Future[NDArray[np.float32]] | None = None
            while queue:
                tile = queue.popleft()
                within = None if self.inside is None else self.inside.of(tile.write)
                if within is not None and not within.any():
                    coming = None
                    yield tile.write, self._background(within), len(queue)
                    continue
                part = _read(image, stats, tile) if coming is None else coming.result()
                coming = reader.submit(_read, image, stats, queue[0]) if self.reads_ahead and queue else None
                try:
                    probabilities = self._compute(part, tile)
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    coming = None
                    self._halve(tile)
                    queue = deque(part for whole in (tile, *queue) for part in self._plan(whole.write))
                    continue
                if within is not None:
                    probabilities = np.where(within, probabilities, self._background(within))
                yield tile.write, probabilities, len(queue)

    def _background(self, within: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the probabilities of background alone, ``(K, *S)``."""
        out = np.zeros((self.network.settings.classes, *within.shape), np.float32)
        out[0] = 1
        return out

    def add_region(
        self,
        image: Readable,
        stats: NDArray[np.float32],
        region: Region,
        out: NDArray[np.float32],
        *,
        share_of: int = 1,
    ) -> Iterator[int]:
        """Predict a region that begins anywhere, and add its probabilities to an array.

        Parameters
        ----------
        image
            ``(C, *S)``, raw intensities of any range.
        stats
            ``(C, 3) float32``, any values, as for `tiles`.
        region
            Part of the image.
        out
            ``(K, *region) float32``, sums of probabilities in 0..1.
        share_of
            Divisor of the probabilities: the number of predictions whose mean is computed in `out`.

        Yields
        ------
        int
            The number of tiles left, after each tile.
        """
        # Pixels between the pooling grid and the beginning of the region are computed and left out.
        grid = self.network.geometry.grid
        aligned = tuple(slice(s.start // g * g, s.stop) for s, g in zip(region, grid, strict=True))
        for write, part, left in self.tiles(image, stats, aligned):
            kept = tuple(slice(max(w.start, s.start), w.stop) for w, s in zip(write, region, strict=True))
            if all(k.start < k.stop for k in kept):
                there = tuple(slice(k.start - s.start, k.stop - s.start) for k, s in zip(kept, region, strict=True))
                here = tuple(slice(k.start - w.start, k.stop - w.start) for k, w in zip(kept, write, strict=True))
                out[(slice(None), *there)] += part[(slice(None), *here)] / share_of
            yield left

    @property
    def reads_ahead(self) -> bool:
        """Return True if the next tile is read while one is computed: the CPU would otherwise wait for the GPU."""
        return self.device.torch.type != "cpu"

    def seconds(self, sides: Sequence[int], tiles: int) -> float | None:
        """Estimate the seconds of `tiles` tiles of these input sides by computing one; None for only a few tiles."""
        if tiles < _LEAST_TIMED:
            return None
        begin = time.monotonic()
        try:
            with torch.inference_mode(), self.device.exact():
                self.network(torch.zeros(1, self.network.settings.channels, *sides, device=self.device.torch))[0].cpu()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return tiles * (time.monotonic() - begin)

    def _plan(self, region: Region) -> list[Tile]:
        shape = [s.stop - s.start for s in region]
        return plan_tiles(shape, self.network.geometry, self.max_output, origin=[s.start for s in region])

    def _compute(self, part: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
        with torch.inference_mode(), self.device.exact():
            logits = self.network(send(torch.from_numpy(part[None]), self.device.torch))
            kept = logits[0][(slice(None), *tile.keep)]
            probabilities: NDArray[np.float32] = torch.softmax(kept.float(), dim=0).cpu().numpy()
        return probabilities

    def _halve(self, tile: Tile) -> None:
        grid = self.network.geometry.grid
        sides = tuple(s.stop - s.start for s in tile.write)
        if all(side <= g for side, g in zip(sides, grid, strict=True)):
            raise DataError(
                f"not enough memory for the smallest tile on {self.device.name}",
                "room for one tile",
                "close other programs, or use --device cpu",
            )
        self.max_output = tuple(max(g, side // 2 // g * g) for side, g in zip(sides, grid, strict=True))
        self.halved.append(self.max_output)
        if self.device.torch.type == "cuda":
            torch.cuda.empty_cache()


def _read(image: Readable, stats: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
    return normalize(read_mirrored(image, tile.read), stats)


def halved_text(path: Path, tiler: TiledPredictor) -> str:
    """Return the warning that memory ran out and smaller tiles are used."""
    sides = " x ".join(map(str, tiler.max_output))
    return f"{path}: {tiler.device.name} ran out of memory; continued with tiles that write at most {sides} pixels"


def region_probabilities(
    tiler: TiledPredictor, image: Readable, stats: NDArray[np.float32], region: Region
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predict a region of an image.

    Parameters
    ----------
    tiler
        The network.
    image
        ``(C, *S)``, raw intensities of any range.
    stats
        ``(C, 3) float32``, any values, as for `TiledPredictor.tiles`.
    region
        Begins and ends anywhere in the image.

    Yields
    ------
    probabilities, left
        After each tile the array that is being filled, ``(K, *region) float32`` in 0..1, and the number of tiles left;
        the values are final after the last tile.
    """
    out = np.zeros((tiler.network.settings.classes, *(s.stop - s.start for s in region)), np.float32)
    for left in tiler.add_region(image, stats, region, out):
        yield out, left


def image_probabilities(
    network: Network,
    image: NDArray[Any],
    *,
    device: Device,
    normalization: NormalizeSettings,
    stats: NDArray[np.float32] | None = None,
    max_output: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Predict a whole image held in memory.

    Parameters
    ----------
    network
        In evaluation mode, on `device`.
    image
        ``(C, *S)``, raw intensities of any dtype and range.
    device
        Where the network is.
    normalization
        How intensities are normalized.
    stats
        ``(C, 3)`` float32, finite but for the limit, by which they are; None: the `statistics` of this image.
    max_output
        Largest sides that a tile may write; by default those of `largest_output`.

    Returns
    -------
    ndarray
        ``(K, *S) float32`` class probabilities in 0..1.
    """
    sides = image.shape[1:]
    limit = tuple(max_output) if max_output is not None else largest_output(network.settings, device, sides)
    whole = tuple(slice(0, n) for n in sides)
    out = np.empty((network.settings.classes, *sides), dtype=np.float32)
    stats = statistics(image, normalization) if stats is None else stats
    for write, probabilities, _ in TiledPredictor(network, device, limit).tiles(image, stats, whole):
        out[(slice(None), *write)] = probabilities
    return out
