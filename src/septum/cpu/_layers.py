"""Layers of the engine as stages that request rows from each other.

A stage is one layer. Asked for output rows, it asks its feeder for the input rows they need, makes room in its output
map, and runs a compiled loop. A chain of stages is thus computed in bands of rows: maps between two layers hold only a
window of rows and stay in the cache. Rows are computed in multiples of `Stage.grain` (4 for Winograd), so that tiles
are the same whatever the height of a band, and so are the results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from septum.cpu import _winograd as k
from septum.cpu._feature_maps import FeatureMap
from septum.cpu._ir import LANES, ROWS, STEP
from septum.cpu._packed_weights import PackedWeights, aligned, is_wide
from septum.cpu._threads import Program, ThreadPool
from septum.nn.unet import UNetSettings

# Size of a block of one thread: inputs and outputs of its 36 matrices stay in the second cache.
_CACHE_BYTES = 350_000
# Products in a block that all threads share, in convolutions with many filters, so that filters are read once.
_SHARED_BLOCK = 8
# Products of `ROWS` pixels in a block of pixels.
PIXEL_BLOCK = 4
# Where the inputs of a convolution stand in its description: their addresses; bytes of a row and a pixel, and vectors.
INPUTS = k.INPUT0, k.INPUT1, k.INPUT2
STRIDES = (k.ROW0, k.PIXEL0, k.CHUNKS0), (k.ROW1, k.PIXEL1, k.CHUNKS1), (k.ROW2, k.PIXEL2, k.CHUNKS2)


@dataclass
class Stage:
    """A layer and its progress.

    Parameters
    ----------
    run
        Function that lets a program compute output rows begin .. end - 1.
    height
        Output rows.
    grain
        Rows are computed in multiples of this number.
    outs
        The maps that it fills.
    feeder
        The stage that computes its input on request; None if the whole input is there.
    reach
        Input rows needed beyond those of the output.
    """

    run: Callable[[Program, int, int], None]
    height: int
    grain: int
    outs: tuple[FeatureMap, ...]
    feeder: Stage | None
    reach: int
    reader: Stage | None = field(default=None, init=False)
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.feeder is not None:
            self.feeder.reader = self

    def begin(self, program: Program) -> None:
        """Reset the progress of this stage and of its feeders."""
        self.done = 0
        if self.feeder is not None:
            self.feeder.begin(program)
        for out in self.outs:
            out.begin(program)

    def advance(self, program: Program, end: int) -> None:
        """Let the program compute rows up to `end`, after the input rows that they need."""
        end = min(self.height, -(-end // self.grain) * self.grain)
        if end <= self.done:
            return
        if self.feeder is not None:
            self.feeder.advance(program, end + self.reach)
        for out in self.outs:
            out.make_room(program, self.reader.done if self.reader is not None else 0, end)
        self.run(program, self.done, end)
        self.done = end


@dataclass
class Resources:
    """Resources that all stages share.

    Parameters
    ----------
    threads
        The thread pool.
    leak
        Slope of the ReLU below zero.
    """

    threads: ThreadPool
    leak: float
    shared: NDArray[np.float32] = field(default_factory=lambda: aligned(0))
    address: int = 0  # of `shared`

    def reserve(self, size: int) -> None:
        """Provide at least `size` bytes of memory for tiles that all threads read."""
        if self.shared.nbytes < size:
            self.shared = aligned(size // 4)
            self.address = self.shared.ctypes.data


def convolve(
    resources: Resources,
    packed: PackedWeights,
    sources: Sequence[FeatureMap],
    out: FeatureMap,
    *,
    pooled: FeatureMap | None = None,
    feeder: Stage | None = None,
) -> Stage:
    """Return a 3x3 convolution with bias and ReLU.

    Parameters
    ----------
    resources
        Shared resources.
    packed
        From `septum.cpu._packed_weights.convolution`.
    sources
        One or two maps of equal sides whose features are concatenated.
    out
        Receives the central part of the output that fits it.
    pooled
        Receives the 2x2 maxima of the whole output.
    feeder
        See `Stage`.
    """
    source = sources[0]
    cut = 2 - 2 * source.border
    height, width = source.height - cut, source.width - cut
    top, left = (height - out.height) // 2, (width - out.width) // 2
    tiles, across = -(-height // 4) * -(-width // 4), -(-width // 4)
    d = np.zeros(k.SIZE, np.int64)
    for one, (row, pixel, chunks) in zip(sources, STRIDES, strict=False):
        d[row], d[pixel], d[chunks] = one.row_bytes, one.pixel_bytes, one.chunks
    d[k.IN_HEIGHT], d[k.IN_WIDTH] = source.height + 2 * source.border, source.width + 2 * source.border
    d[k.HEIGHT], d[k.WIDTH] = height, width
    d[k.IN_DEPTH] = d[k.DEPTH] = d[k.COLUMN] = d[k.TAPS] = 1
    d[k.TOP], d[k.BOTTOM], d[k.LEFT], d[k.RIGHT] = top, top + out.height, left, left + out.width
    if pooled is not None:
        d[k.POOLED_ROW], d[k.POOLED_PIXEL] = pooled.row_bytes, pooled.pixel_bytes
    _describe(d, packed, out)
    block, shared = _reserve_tiles(resources, d, packed, tiles)

    def run(program: Program, begin: int, end: int) -> None:
        for one, place in zip(sources, INPUTS, strict=False):
            d[place] = one.at(-one.border, -one.border)
        d[k.BEGIN], d[k.END], d[k.OUTPUT] = begin, end, out.at(-top, -left)
        d[k.POOLED] = 0 if pooled is None else pooled.at(0, 0)
        if not shared:
            program.add(k.WINOGRAD, d, resources.leak)
            return
        d[k.SHARED] = resources.address
        count = -(-(end - begin) // 4) * across
        for first in range(0, count, block):
            d[k.FIRST], d[k.COUNT] = first, min(block, count - first)
            program.add(k.WINOGRAD_INPUTS, d, resources.leak)
            program.add(k.WINOGRAD_OUTPUTS, d, resources.leak)

    return Stage(run, height, 4, (out,) if pooled is None else (out, pooled), feeder, cut // 2 + 1)


def convolve_image(resources: Resources, packed: PackedWeights, channels: int, out: FeatureMap) -> Stage:
    """Return the first 3x3 convolution, of the image, with bias and ReLU; the address of the image is left out."""
    height, width = out.height + 2, out.width + 2
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0], d[k.CHUNKS1] = (
        4 * width,
        4 * height * width,
        packed.features // LANES,
        channels,
    )
    d[k.HEIGHT], d[k.WIDTH] = out.height, out.width
    _describe(d, packed, out)
    _reserve_pixels(resources, d, packed)

    def run(program: Program, begin: int, end: int) -> None:
        d[k.OUTPUT], d[k.BEGIN], d[k.END] = out.at(0, 0), begin, end
        program.add(k.IMAGE, d, resources.leak)

    return Stage(run, out.height, 1, (out,), None, 0)


def up_convolve(resources: Resources, packed: PackedWeights, source: FeatureMap, out: FeatureMap) -> Stage:
    """Return an up-convolution of side and stride 2 with bias."""
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0] = source.row_bytes, source.pixel_bytes, source.chunks
    d[k.HEIGHT], d[k.WIDTH] = source.height, source.width
    _describe(d, packed, out)
    _reserve_pixels(resources, d, packed)

    def run(program: Program, begin: int, end: int) -> None:
        d[k.INPUT0], d[k.OUTPUT], d[k.BEGIN], d[k.END] = source.at(0, 0), out.at(0, 0), begin // 2, end // 2
        program.add(k.UP_CONVOLUTION, d)

    return Stage(run, out.height, 2, (out,), None, 0)


def classify(resources: Resources, packed: PackedWeights, source: FeatureMap, classes: int, feeder: Stage) -> Stage:
    """Return the 1x1 convolution to the classes' planes; the address of these is left out."""
    d = np.zeros(k.SIZE, np.int64)
    d[k.ROW0], d[k.PIXEL0], d[k.CHUNKS0] = source.row_bytes, source.pixel_bytes, source.chunks
    d[k.HEIGHT], d[k.WIDTH] = source.height, source.width
    d[k.OUT_ROW], d[k.OUT_PIXEL], d[k.OUT_CHUNKS] = 4 * source.width, 4 * source.width * source.height, classes
    _describe(d, packed, None)
    _reserve_pixels(resources, d, packed)

    def run(program: Program, begin: int, end: int) -> None:
        d[k.INPUT0], d[k.BEGIN], d[k.END] = source.at(0, 0), begin, end
        program.add(k.HEAD, d)

    return Stage(run, source.height, 1, (), feeder, 0)


def _describe(d: NDArray[np.int64], packed: PackedWeights, out: FeatureMap | None) -> None:
    """Enter the weights and the output map in the description of a layer."""
    d[k.WEIGHTS], d[k.BIAS] = packed.weights.ctypes.data, packed.bias.ctypes.data
    d[k.PANELS], d[k.SINGLE] = packed.panels, packed.single
    if out is not None:
        d[k.OUT_ROW], d[k.OUT_PIXEL], d[k.OUT_CHUNKS] = out.row_bytes, out.pixel_bytes, out.chunks


def _columns(packed: PackedWeights) -> int:
    """Return the output features of one panel."""
    return LANES if packed.single else 2 * LANES


def tile_block(features: int, outputs: int) -> tuple[int, bool]:
    """Return the largest number of products of `ROWS` tiles in a block, and whether threads share it.

    Parameters
    ----------
    features, outputs
        Input and output features of a 3x3 convolution, padded to whole vectors and panels.
    """
    if is_wide(features, outputs):
        return _SHARED_BLOCK, True
    return max(1, _CACHE_BYTES // (4 * k.PRODUCTS * ROWS * (features + min(outputs, 2 * LANES)))), False


def tile_memory(
    features: int, outputs: int, block: int, shared: bool, *, column: int = 1, taps: int = 1
) -> tuple[int, int]:
    """Return the bytes that a convolution needs of each thread's scratch memory and of the shared memory.

    Parameters
    ----------
    features, outputs, block, shared
        As of `tile_block`; features are those of one plane.
    column, taps
        Planes of a column of a volume, and those that an output plane depends on.
    """
    columns = min(outputs, 2 * LANES)
    inside = k.PRODUCTS * (4 * block * (column + taps - 1) * ROWS * features + STEP)
    outside = k.PRODUCTS * (4 * block * column * ROWS * columns + STEP)
    patch, filters = k.PRODUCTS * STEP, k.PRODUCTS * (4 * taps * features * columns + STEP)
    return (patch + outside + filters, inside) if shared else (patch + inside + outside, 0)


def _reserve_tiles(resources: Resources, d: NDArray[np.int64], packed: PackedWeights, tiles: int) -> tuple[int, bool]:
    """Choose the tiles of a block and reserve memory; return their number and whether threads share the block."""
    columns = _columns(packed)
    most, shared = tile_block(packed.features, packed.panels * columns)
    block = min(most, -(-tiles // ROWS))
    # One vector more than needed: otherwise the 36 places that a transform writes share lines of the first cache.
    stride_in, stride_out = (4 * block * ROWS * n + STEP for n in (packed.features, columns))
    d[k.BLOCK], d[k.STRIDE_IN], d[k.STRIDE_OUT] = block, stride_in, stride_out
    d[k.PARTS] = min(block, -(-4 * resources.threads.count // packed.panels))
    scratch, common = tile_memory(packed.features, packed.panels * columns, block, shared)
    resources.threads.reserve(scratch)
    resources.reserve(common)
    return block * ROWS, shared


def convolutions(settings: UNetSettings) -> list[tuple[int, int, int, int]]:
    """Return all 3x3 convolutions but the first.

    Parameters
    ----------
    settings
        Shape of the network.

    Returns
    -------
    list of tuple
        Of each: its level, input features of a plane and output features, padded as the engine does, and the planes
        that an output plane depends on, 1 in images.
    """
    levels = max(settings.depths)
    widths = [settings.width << level for level in range(levels + 1)]
    whole = [-(-n // LANES) * LANES for n in widths]
    out = [n if n <= LANES else -(-n // (2 * LANES)) * 2 * LANES for n in whole]
    deep = settings.depths[0] if len(settings.depths) == 3 else -1
    found = []
    for level in range(levels + 1):
        inside = [whole[level - 1], whole[level]] if level else [whole[0]]
        inside += [2 * whole[level], whole[level]] if level < levels else []
        found += [(level, features, out[level], 3 if level >= levels - deep else 1) for features in inside]
    return found


def pixel_memory(features: int) -> int:
    """Return the bytes of scratch memory per thread that other layers with `features` inputs need at most."""
    return 4 * PIXEL_BLOCK * ROWS * (features + 3 * LANES)


def _reserve_pixels(resources: Resources, d: NDArray[np.int64], packed: PackedWeights) -> None:
    """Choose the size of a block of pixels and reserve memory for one."""
    d[k.BLOCK] = PIXEL_BLOCK
    resources.threads.reserve(pixel_memory(packed.features))
