"""From an image to class probabilities: the overlap-tile loop that prediction and validation share."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septum.arrays.geometry import Geometry
from septum.arrays.normalize import NormalizeSettings, normalize, statistics
from septum.arrays.tiles import Readable, Tile, plan_tiles, read_mirrored
from septum.errors import DataError
from septum.nn.device import Device, is_out_of_memory
from septum.nn.ensemble import Network
from septum.nn.unet import UNetSettings

Region = tuple[slice, ...]

# Working memory that one tile's feature maps may take. Larger tiles waste less context but reach cache and memory
# limits.
_WORTH_TIMING = 8  # tiles: fewer are done before a person has read how long they take
_TILE_BYTES = {"cpu": 1_000_000_000, "cuda": 6_000_000_000, "mps": 3_000_000_000}


def largest_output(settings: UNetSettings, device: Device) -> tuple[int, ...]:
    """Return the largest sides that a tile should write on this device, from the memory of its feature maps.

    At the finest level about six maps of `width` float32 features are alive at once: the skip connection, the
    concatenation of twice the width, and a convolution's input and output.
    """
    geometry = settings.geometry
    pixels = _TILE_BYTES[device.torch.type] / (settings.width * 6 * 4)
    side = int(pixels ** (1 / len(settings.depths)))
    return tuple(max(g, side - 2 * c) for g, c in zip(geometry.grid, geometry.contexts, strict=True))


@dataclass
class TiledPredictor:
    """A network that is applied tile by tile; when the device's memory runs out the tiles are halved.

    Parameters
    ----------
    network
        In evaluation mode, on `device`.
    device
        Where the network is.
    max_output
        Largest sides that a tile may write. Halved for good when memory runs out: any size gives the same result.
    halved
        The sides after each halving, for people.
    """

    network: Network
    device: Device
    max_output: tuple[int, ...]
    halved: list[tuple[int, ...]] = field(default_factory=list)

    def tiles(
        self, image: Readable, stats: NDArray[np.float32], region: Region
    ) -> Iterator[tuple[Region, NDArray[np.float32], int]]:
        """Predict a region of an image.

        Parameters
        ----------
        image
            ``(C, *S)``, raw intensities; what is read outside of it is mirrored.
        stats
            From `septum.arrays.normalize.statistics` of the whole image: they normalize every tile.
        region
            Begins on the pooling grid, ends anywhere.

        Yields
        ------
        write, probabilities, left
            Where in the image a tile belongs, its ``(K, *write) float32`` in 0..1, and how many tiles are left.

        Raises
        ------
        DataError
            If the memory is not enough for the smallest tile.
        """
        queue = deque(self._plan(region))
        with ThreadPoolExecutor(1, "septum-read") as reader:  # begins no thread before it is given something
            coming: Future[NDArray[np.float32]] | None = None
            while queue:
                tile = queue.popleft()
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
                yield tile.write, probabilities, len(queue)

    @property
    def reads_ahead(self) -> bool:
        """Whether the next tile is read while one is computed: where the processor would else wait for a GPU."""
        return self.device.torch.type != "cpu"

    def seconds(self, sides: Sequence[int], tiles: int) -> float | None:
        """Return about how long so many tiles of these input sides take, by one; None where that is not worth it."""
        if tiles < _WORTH_TIMING:
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
            logits = self.network(torch.from_numpy(part[None]).to(self.device.torch))
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
                "close other programs, use --device cpu, or train a narrower network",
            )
        self.max_output = tuple(max(g, side // 2 // g * g) for side, g in zip(sides, grid, strict=True))
        self.halved.append(self.max_output)
        if self.device.torch.type == "cuda":
            torch.cuda.empty_cache()


def _read(image: Readable, stats: NDArray[np.float32], tile: Tile) -> NDArray[np.float32]:
    return normalize(read_mirrored(image, tile.read), stats)


def halved_text(path: Path, tiler: TiledPredictor) -> str:
    """Return the sentence that says which tiles were taken when memory ran out."""
    sides = " x ".join(map(str, tiler.max_output))
    return f"{path}: {tiler.device.name} ran out of memory; went on with tiles that write {sides} pixels at most"


def region_probabilities(
    tiler: TiledPredictor,
    image: Readable,
    stats: NDArray[np.float32],
    region: Region,
    *,
    tta: bool = False,
    only: tuple[int, bool] = (0, False),
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Predict a region, with `tta` averaged over `tta_transforms` of the image.

    Parameters
    ----------
    tiler
        The network.
    image, stats, region
        As in `Tiler.tiles`.
    tta
        Average over rotated and mirrored versions.
    only
        Without `tta`: the version that is predicted.

    Yields
    ------
    probabilities, left
        After each tile the array that is being filled, ``(K, *region) float32``, and how many tiles are left; the
        values are probabilities after the last.
    """
    geometry = tiler.network.geometry
    chosen = tta_transforms(geometry) if tta else [only]
    shape = tuple(s.stop - s.start for s in region)
    out = np.zeros((tiler.network.settings.classes, *shape), np.float32)
    for number, version in enumerate(chosen):
        turned = TransformedImage(image, version) if version != (0, False) else image
        wanted = _turned_region(region, image.shape[1:], version)
        # Turned, the region begins anywhere: what lies before it in its pooling cell is computed and left out.
        aligned = tuple(slice(s.start // g * g, s.stop) for s, g in zip(wanted, geometry.grid, strict=True))
        view = turn(out, version)  # what is added there arrives in its place
        for write, part, left in tiler.tiles(turned, stats, aligned):
            kept = tuple(slice(max(w.start, s.start), w.stop) for w, s in zip(write, wanted, strict=True))
            if all(k.start < k.stop for k in kept):
                there = tuple(slice(k.start - s.start, k.stop - s.start) for k, s in zip(kept, wanted, strict=True))
                here = tuple(slice(k.start - w.start, k.stop - w.start) for k, w in zip(kept, write, strict=True))
                view[(slice(None), *there)] += part[(slice(None), *here)] / len(chosen)
            later = len(chosen) - 1 - number
            yield out, left + later * len(plan_tiles(shape, geometry, tiler.max_output))


def image_probabilities(
    network: Network,
    image: NDArray[Any],
    *,
    device: Device,
    normalization: NormalizeSettings,
    max_output: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Return the class probabilities ``(K, *S) float32`` of a whole image held in memory, ``(C, *S)``."""
    limit = tuple(max_output) if max_output is not None else largest_output(network.settings, device)
    whole = tuple(slice(0, n) for n in image.shape[1:])
    out = np.empty((network.settings.classes, *image.shape[1:]), dtype=np.float32)
    for write, probabilities, _ in TiledPredictor(network, device, limit).tiles(
        image, statistics(image, normalization), whole
    ):
        out[(slice(None), *write)] = probabilities
    return out


def tta_transforms(geometry: Geometry) -> list[tuple[int, bool]]:
    """Return the rotated and mirrored versions that are averaged: quarter turns in the plane, each also mirrored.

    Seven rotated versions of the input are averaged in the paper (section 4); these eight are exact, no pixel is
    interpolated. Where the network treats Y and X differently only half turns are possible.
    """
    turns = range(4) if geometry.depths[-1] == geometry.depths[-2] else (0, 2)
    return list(product(turns, (False, True)))


def turn(array: NDArray[Any], version: tuple[int, bool]) -> NDArray[Any]:
    """Return ``(..., Y, X)`` turned by quarter turns and then mirrored along X, as `version` says; a view."""
    quarters, mirrored = version
    turned = np.rot90(array, quarters, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned


@dataclass(frozen=True)
class TransformedImage:
    """An image seen turned, as `turn` turns arrays, of which only what is asked for is read."""

    image: Readable
    version: tuple[int, bool]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides after turning, channels first."""
        *front, y, x = self.image.shape
        return (*front, *((x, y) if self.version[0] % 2 else (y, x)))

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]:
        quarters, mirrored = self.version
        back = _turned_region(index[1:], self.shape[1:], (0, mirrored))
        back = _turned_region(back, self.shape[1:], (-quarters % 4, False))
        return turn(self.image[(index[0], *back)], self.version)


def _turned_region(region: Region, shape: Sequence[int], version: tuple[int, bool]) -> Region:
    """Return where a region of an image of sides `shape` lies after turning it."""
    y, x = region[-2:]
    height, width = shape[-2:]
    for _ in range(version[0]):  # the last column becomes the first row
        y, x, height, width = slice(width - x.stop, width - x.start), y, width, height
    if version[1]:
        x = slice(width - x.stop, width - x.start)
    return (*region[:-2], y, x)
