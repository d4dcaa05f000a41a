"""Prediction of volumes: the layers of a padded 3D network, one after the other.

Maps are ``(Z, Y, X, features) float32`` in one arena that is planned once per size of tile. 3x3x3 and 1x3x3
convolutions are those of `septum.cpu._winograd`, over columns of tiles; they read skip connections in place, and pool.
The first convolution and the up-convolutions run plane by plane, as in an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from septum.cpu import _packed_weights as packing
from septum.cpu import _winograd as k
from septum.cpu._feature_maps import assign_addresses
from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._layers import PIXEL_BLOCK, Resources, convolutions, pixel_memory, tile_block, tile_memory
from septum.cpu._packed_weights import PackedWeights, aligned, is_wide
from septum.cpu._threads import Program
from septum.nn.unet import UNet, UNetSettings

# Bytes of the transformed inputs and the products of a block of columns, at most: a part of the second cache.
_CACHE_BYTES = 700_000


@dataclass
class Volume:
    """A feature map of a volume.

    Parameters
    ----------
    sides
        Planes, rows, pixels of a row.
    chunks
        Vectors of a pixel.
    born, dies
        First and last layer that uses the map.
    """

    sides: tuple[int, ...]
    chunks: int
    born: int
    dies: int
    address: int = 0

    @property
    def pixel_bytes(self) -> int:
        """Bytes from one pixel to the next."""
        return self.chunks * STEP

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.sides[2] * self.pixel_bytes

    @property
    def plane_bytes(self) -> int:
        """Bytes from one plane to the next."""
        return self.sides[1] * self.row_bytes

    @property
    def bytes(self) -> int:
        """Bytes of all planes."""
        return self.sides[0] * self.plane_bytes


@dataclass(frozen=True)
class LevelVolumes:
    """Maps of a level: `first`, `skip`, `pooled` while contracting, `enlarged`, `merged`, `out` while expanding.

    The bottom has `first` and `skip` alone.
    """

    first: Volume
    skip: Volume
    pooled: Volume | None = None
    enlarged: Volume | None = None
    merged: Volume | None = None
    out: Volume | None = None


def plan_volumes(settings: UNetSettings, sides: Sequence[int]) -> tuple[list[LevelVolumes], int]:
    """Plan the memory of one tile.

    Parameters
    ----------
    settings
        A padded 3D network.
    sides
        Input sides of the tile.

    Returns
    -------
    levels
        From the finest to the bottom, with addresses from 0 on.
    bytes
        Memory of all maps.
    """
    levels = max(settings.depths)
    made: list[Volume] = []

    def new(level: int, width_level: int, born: int, dies: int) -> Volume:
        poolings = (max(0, level - levels + depth) for depth in settings.depths)
        chunks = -(-(settings.width << width_level) // LANES)
        made.append(Volume(tuple(n >> p for n, p in zip(sides, poolings, strict=True)), chunks, born, dies))
        return made[-1]

    planned = []
    for level in range(levels):
        down, up = 2 * level, 2 * levels + 2 + 3 * (levels - 1 - level)  # layers before those of the level
        planned.append(
            LevelVolumes(
                new(level, level, down, down + 1),
                new(level, level, down + 1, up + 1),
                new(level + 1, level, down + 1, down + 2),
                new(level, level, up, up + 1),
                new(level, level, up + 1, up + 2),
                new(level, level, up + 2, up + 3),
            )
        )
    last = 2 * levels
    planned.append(LevelVolumes(new(levels, levels, last, last + 1), new(levels, levels, last + 1, last + 2)))
    return planned, assign_addresses(made)


def column_block(features: int, outputs: int, taps: int, planes: int) -> tuple[int, int, bool]:
    """Choose the division of a convolution of volumes; it does not depend on the number of threads.

    Parameters
    ----------
    features, outputs
        Input and output features, padded to whole vectors and panels.
    taps
        Planes that an output plane depends on, 1 or 3.
    planes
        Planes of the volume.

    Returns
    -------
    column
        Planes of a column: all, or an even number.
    block
        Most groups of `ROWS` columns in a block.
    shared
        True if threads share a block.
    """
    if taps == 1:
        return 1, *tile_block(features, outputs)
    inside, outside = (4 * k.PRODUCTS * ROWS * n for n in (features, min(outputs, 2 * LANES)))
    most = max(2, (_CACHE_BYTES - 2 * inside) // (inside + outside))
    even = -(-planes // -(-planes // most)) + 1 & ~1
    return min(even, planes), 1, is_wide(taps * features, outputs)


class VolumeLayers:
    """The layers of a padded 3D network.

    Parameters
    ----------
    network
        From `septum.nn.unet.for_prediction`, on the CPU.
    resources
        Shared resources.
    """

    def __init__(self, network: UNet, resources: Resources) -> None:
        self.settings, self._resources = network.settings, resources
        levels = len(network.down)
        blocks = [*network.down, network.bottom, *network.merge]
        convs = [
            (conv, 1 + (number == 0 and i > levels))
            for i, block in enumerate(blocks)
            for number, conv in enumerate(one for one in block.children() if isinstance(one, nn.Conv3d))
        ]
        with ThreadPoolExecutor(resources.threads.count) as pool:
            first = packing.image_convolution(_filters(convs[0][0]), convs[0][0].bias)
            packed = [first, *pool.map(lambda job: _packed(*job), convs[1:])]
        self._taps = [conv.kernel_size[0] for conv, _ in convs[::2]]
        pairs = list(zip(packed[::2], packed[1::2], strict=True))
        self._down, self._merge = pairs[: levels + 1], pairs[levels + 1 :]
        self._up = [
            [packing.up_convolution(one, up.bias) for one in up.weight.unbind(2)]
            for up in network.up
            if isinstance(up, nn.ConvTranspose3d)
        ]
        assert isinstance(network.head, nn.Conv3d)
        self._head = packing.head(network.head.weight, network.head.bias)
        self.release()

    def release(self) -> None:
        """Release the memory of the last size of tile."""
        self._arena = aligned(0)
        self._image: NDArray[np.float32] = np.zeros(0, np.float32)
        self._program = Program()

    def prepare(self, sides: tuple[int, ...]) -> None:
        """Plan the memory for tiles of these sides, ``(Z, Y, X)``, and describe the layers."""
        self._program = Program()
        levels, needed = plan_volumes(self.settings, sides)
        if self._arena.nbytes < needed:
            self._arena = aligned(0)
            self._arena = aligned(needed // 4)
        for level in levels:
            for one in vars(level).values():
                if one is not None:
                    one.address += self._arena.ctypes.data
        halo = self._taps[0] // 2
        self._image = np.zeros((sides[0] + 2 * halo, self.settings.channels, sides[1] + 2, sides[2] + 2), np.float32)
        for number, maps in enumerate(levels):
            self._descend(levels, number, maps)
        for number in reversed(range(len(levels) - 1)):
            self._ascend(levels[number], levels[number + 1], number)
        finest = levels[0].out
        assert finest is not None
        self._classify(finest)
        self._program.end()
        self._program.rows[:, k.SHARED] = self._resources.address  # all is reserved

    def compute(self, image: Tensor, logits: Tensor) -> None:
        """Compute one tile; the threads are ready.

        Parameters
        ----------
        image
            ``(C, Z, Y, X) float32``, normalized.
        logits
            ``(K, Z, Y, X) float32``, contiguous; receives any finite values.
        """
        halo, planes = self._taps[0] // 2, image.shape[1]
        self._image[halo : halo + planes, :, 1:-1, 1:-1] = image.numpy().swapaxes(0, 1)
        self._program.set(k.HEAD, k.OUTPUT, logits.data_ptr())
        self._resources.threads.run_program(self._program)

    def _descend(self, levels: Sequence[LevelVolumes], number: int, maps: LevelVolumes) -> None:
        """Describe the two convolutions of a level of the contracting path, with pooling."""
        first, second = self._down[number]
        if number == 0:
            self._convolve_image(first, maps.first)
        else:
            above = levels[number - 1].pooled
            assert above is not None
            self._convolve(first, [above], maps.first, self._taps[number])
        self._convolve(second, [maps.first], maps.skip, self._taps[number], maps.pooled)

    def _ascend(self, maps: LevelVolumes, below: LevelVolumes, number: int) -> None:
        """Describe the layers of a level of the expanding path: up-convolution, two convolutions."""
        first, second = self._merge[number]
        assert maps.enlarged is not None and maps.merged is not None and maps.out is not None
        self._up_convolve(self._up[number], below.out or below.skip, maps.enlarged)
        self._convolve(first, [maps.skip, maps.enlarged], maps.merged, self._taps[number])
        self._convolve(second, [maps.merged], maps.out, self._taps[number])

    def _convolve(
        self, packed: PackedWeights, sources: Sequence[Volume], out: Volume, taps: int, pooled: Volume | None = None
    ) -> None:
        """Describe a convolution with bias and ReLU of one or two volumes whose features are concatenated."""
        planes, height, width = out.sides
        d = _description(packed, out)
        places = ((k.INPUT0, k.ROW0, k.PIXEL0, k.CHUNKS0, k.PLANE0), (k.INPUT1, k.ROW1, k.PIXEL1, k.CHUNKS1, k.PLANE1))
        for one, place in zip(sources, places, strict=False):
            d[list(place)] = one.address, one.row_bytes, one.pixel_bytes, one.chunks, one.plane_bytes
        d[[k.IN_DEPTH, k.IN_HEIGHT, k.IN_WIDTH, k.MARGIN, k.TAPS, k.DEPTH]] = planes, height, width, 1, taps, planes
        d[[k.HEIGHT, k.WIDTH, k.END, k.BOTTOM, k.RIGHT]] = height, width, height, height, width
        d[k.OUT_PLANE] = out.plane_bytes
        if pooled is not None:
            d[[k.POOLED, k.POOLED_ROW, k.POOLED_PIXEL]] = pooled.address, pooled.row_bytes, pooled.pixel_bytes
            d[[k.POOLED_PLANE, k.POOLED_PAIRS]] = pooled.plane_bytes, pooled.sides[0] < planes
        self._divide(d, packed, taps)

    def _divide(self, d: NDArray[np.int64], packed: PackedWeights, taps: int) -> None:
        """Choose the columns of a block, reserve memory for one, and add the loops that compute all blocks."""
        resources, planes, features = self._resources, int(d[k.DEPTH]), packed.features // taps
        columns = LANES if packed.single else 2 * LANES
        outputs = packed.panels * columns
        column, most, shared = column_block(features, outputs, taps, planes)
        tiles = -(-int(d[k.HEIGHT]) // 4) * -(-int(d[k.WIDTH]) // 4) * -(-planes // column)
        block = min(most, -(-tiles // ROWS))
        inside, outside = block * (column + taps - 1), block * column
        d[[k.COLUMN, k.BLOCK, k.PARTS]] = column, block, min(block, -(-4 * resources.threads.count // packed.panels))
        d[[k.STRIDE_IN, k.STRIDE_OUT]] = 4 * inside * ROWS * features + STEP, 4 * outside * ROWS * columns + STEP
        scratch, common = tile_memory(features, outputs, block, shared, column=column, taps=taps)
        resources.threads.reserve(scratch)
        resources.reserve(common)
        if not shared:
            self._program.add(k.WINOGRAD, d, resources.leak)
        for first in range(0, tiles if shared else 0, block * ROWS):
            part = d.copy()
            part[[k.FIRST, k.COUNT]] = first, min(block * ROWS, tiles - first)
            self._program.add(k.WINOGRAD_INPUTS, part, resources.leak)
            self._program.add(k.WINOGRAD_OUTPUTS, part, resources.leak)

    def _convolve_image(self, packed: PackedWeights, out: Volume) -> None:
        """Describe the first convolution: the neighborhood of a plane is an image with the channels of its planes."""
        planes, height, width = out.sides
        _, channels, rows, pixels = self._image.shape
        d = _description(packed, out)
        d[[k.ROW0, k.PIXEL0, k.CHUNKS0]] = 4 * pixels, 4 * rows * pixels, packed.features // LANES
        d[[k.CHUNKS1, k.HEIGHT, k.WIDTH, k.END]] = channels * self._taps[0], height, width, height
        self._resources.threads.reserve(pixel_memory(packed.features))
        for plane in range(planes):
            one = d.copy()
            one[[k.INPUT0, k.OUTPUT]] = self._image[plane].ctypes.data, out.address + plane * out.plane_bytes
            self._program.add(k.IMAGE, one, self._resources.leak)

    def _up_convolve(self, packed: Sequence[PackedWeights], source: Volume, out: Volume) -> None:
        """Describe an up-convolution: each plane gives one or two planes, by an up-convolution of its own for each."""
        self._resources.threads.reserve(pixel_memory(packed[0].features))
        for number in range(out.sides[0]):
            plane, one = divmod(number, len(packed))
            d = _description(packed[one], out)
            d[[k.INPUT0, k.OUTPUT]] = (
                source.address + plane * source.plane_bytes,
                out.address + number * out.plane_bytes,
            )
            d[[k.ROW0, k.PIXEL0, k.CHUNKS0]] = source.row_bytes, source.pixel_bytes, source.chunks
            d[[k.HEIGHT, k.WIDTH, k.END]] = *source.sides[1:], source.sides[1]
            self._program.add(k.UP_CONVOLUTION, d)

    def _classify(self, source: Volume) -> None:
        """Describe the 1x1x1 convolution to the volumes of the classes, of all planes as one image."""
        planes, height, width = source.sides
        d = _description(self._head, source)
        d[[k.INPUT0, k.ROW0, k.PIXEL0, k.CHUNKS0]] = source.address, source.row_bytes, source.pixel_bytes, source.chunks
        d[[k.HEIGHT, k.WIDTH, k.END]] = planes * height, width, planes * height
        d[[k.OUT_ROW, k.OUT_PIXEL, k.OUT_CHUNKS]] = 4 * width, 4 * planes * height * width, self.settings.classes
        self._resources.threads.reserve(pixel_memory(self._head.features))
        self._program.add(k.HEAD, d)


def volume_bytes(settings: UNetSettings, sides: Sequence[int], threads: int) -> int:
    """Return the bytes that a tile needs beside the weights, the given image and its logits.

    Parameters
    ----------
    settings
        A padded 3D network.
    sides
        Input sides of the tile.
    threads
        Number of threads.
    """
    levels, maps = plan_volumes(settings, sides)
    scratch, common = 0, 0
    for level, inside, outside, taps in convolutions(settings):
        column, block, shared = column_block(inside, outside, taps, levels[level].first.sides[0])
        one, both = tile_memory(inside, outside, block, shared, column=column, taps=taps)
        scratch, common = max(scratch, one), max(common, both)
    most = max(LANES, settings.width << max(settings.depths), 27 * settings.channels)
    image = 4 * settings.channels * prod(side + 2 for side in sides)
    return maps + threads * max(scratch, pixel_memory(most)) + common + image


def _packed(conv: nn.Conv3d, sources: int) -> PackedWeights:
    """Pack a convolution whose input is the concatenation of `sources` volumes: of all planes that it depends on."""
    return packing.convolution(_filters(conv), conv.bias, sources * conv.kernel_size[0])


def _filters(conv: nn.Conv3d) -> Tensor:
    """Return filters ``(O, C, D, 3, 3)`` as those of D concatenated planes, ``(O, D C, 3, 3)``."""
    return conv.weight.detach().transpose(1, 2).flatten(1, 2)


def _description(packed: PackedWeights, out: Volume) -> NDArray[np.int64]:
    """Describe the weights of a layer and the map that it fills."""
    d = np.zeros(k.SIZE, np.int64)
    d[[k.WEIGHTS, k.BIAS, k.PANELS, k.SINGLE]] = (
        packed.weights.ctypes.data,
        packed.bias.ctypes.data,
        packed.panels,
        packed.single,
    )
    d[[k.OUTPUT, k.OUT_ROW, k.OUT_PIXEL, k.OUT_CHUNKS]] = out.address, out.row_bytes, out.pixel_bytes, out.chunks
    d[k.BLOCK] = PIXEL_BLOCK
    return d
