"""The tiles and blocks of a prediction, planned for a memory limit.

The tile is the smallest one that computes hardly more than the best one: with unpadded convolutions every tile computes
its context again, so that larger tiles compute less, but beyond some size they only take memory. How evenly tiles
divide the image matters as much as their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from septum.arrays.geometry import input_for_output
from septum.arrays.resample import resampling_bytes
from septum.arrays.tiles import even_stride
from septum.errors import UsageError
from septum.nn.unet import UNetSettings
from septum.prediction.memory import tile_bytes
from septum.words import format_bytes

# Bytes that the stages of `septum.arrays.stitch` take for each pixel of a block, by the number of axes.
OBJECT_BYTES = {2: 60, 3: 70}

# Sides of a chunk of the result. A block owns whole shards of the result, so that its sides are multiples of a chunk.
CHUNK = {2: (512, 512), 3: (32, 128, 128)}
# Sides of the blocks to try, in chunks, and the most pixels of a block.
BLOCK_CHUNKS = {2: (1, 2, 3, 4), 3: (1, 2, 3, 4, 5, 6, 8)}
LARGEST_BLOCK = 24_000_000

# Sides, in chunks, of a block of the stage that brings a result to the image's own grid.
_OWN_CHUNKS = 2

# A tile of more bytes is hardly faster: in 2D its context is a small part already, in 3D it rarely is.
_LARGEST_TILE_BYTES = {2: 1_500_000_000, 3: 8_000_000_000}

# Share of the computing that a larger tile must save to be worth its memory; cost of a tile, in pixels.
_WORTH_SHARE = 0.03
_TILE_COST_PX = 4000

# Width of the rim that an object stage reads around its block if objects are thick; see `septum.arrays.stitch`.
_MARGIN_PX = 32

# Statistics, buffers of the writers, and memory that the allocator keeps.
_SLACK_BYTES = 64 << 20
_SAMPLE_BYTES = 4_000_000 * 8 * 5


@dataclass(frozen=True, kw_only=True)
class Request:
    """Properties of a prediction on which its time and memory depend.

    Parameters
    ----------
    network
        Shape of the network.
    members
        Number of networks whose probabilities are averaged.
    shape
        Spatial sides of a frame.
    frames
        Number of frames.
    channels, itemsize
        Channels of the image, and bytes of each value.
    held
        The whole image has been read already and is part of the memory that the process holds.
    probabilities
        The result is the probabilities themselves.
    objects
        Objects, or areas between lines, are made of the probabilities.
    versions
        Number of transformed versions of each frame that are averaged.
    engine
        Septum's engine computes, not PyTorch.
    tile
        Largest side that a tile writes; None: chosen.
    blocks
        Work block by block even if a whole frame fits; sides: in blocks of these sides, as the prediction was begun.
    own
        Sides of a frame of the image, where `shape` are those of another grid on which it is predicted.
    """

    network: UNetSettings
    members: int = 1
    shape: tuple[int, ...]
    frames: int = 1
    channels: int = 1
    itemsize: int = 1
    held: bool = False
    probabilities: bool = False
    objects: bool = True
    versions: int = 1
    engine: bool = False
    tile: int | None = None
    blocks: bool | tuple[int, ...] = False
    own: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TilePlan:
    """The tiles and blocks of one image.

    Parameters
    ----------
    tile
        Largest sides that a tile writes.
    sides
        Input sides of most tiles.
    block
        Sides of the blocks; None if each frame is held in memory.
    tiles
        Number of tiles of all frames and versions.
    pixels
        Input pixels of all tiles.
    peak_bytes
        Largest memory that the process will hold.
    engine
        Septum's engine computes, not PyTorch.
    """

    tile: tuple[int, ...]
    sides: tuple[int, ...]
    block: tuple[int, ...] | None
    tiles: int
    pixels: int
    peak_bytes: int
    engine: bool = False


def plan_prediction(request: Request, *, held: int, limit: int, device_limit: int | None = None) -> TilePlan:
    """Choose the tiles, and blocks if the image does not fit into memory.

    Parameters
    ----------
    request
        The prediction to plan.
    held
        Bytes that the process holds already.
    limit
        Bytes that the process may hold.
    device_limit
        Bytes for tiles on a GPU; None if tiles are computed in the memory of the process.

    Raises
    ------
    UsageError
        If not even the smallest tile fits.
    """
    tried: list[TilePlan] = []
    blocks = [request.blocks] if isinstance(request.blocks, tuple) else _block_sides(request.shape)
    for choices in ([] if request.blocks else [None], blocks):
        plans = [
            _candidate(request, block, side, held, device_limit)
            for block in choices
            for side in _tile_sides(request, block)
        ]
        fitting = [x for x, one in plans if x.peak_bytes <= limit and (device_limit is None or one <= device_limit)]
        largest = _LARGEST_TILE_BYTES[len(request.shape)]
        modest = [x for x, one in plans if x in fitting and one <= largest] or fitting
        if modest:
            best = min(_cost(x) for x in modest)
            return min((x for x in modest if _cost(x) <= best * (1 + _WORTH_SHARE)), key=lambda x: x.peak_bytes)
        tried += [x for x, _ in plans]
    least = min(tried, key=lambda x: x.peak_bytes)
    raise UsageError(
        f"a prediction in {format_bytes(limit if device_limit is None else min(limit, device_limit))} of memory",
        f"at least {format_bytes(least.peak_bytes)}: {format_bytes(held)} are held already, the rest is for a tile of "
        f"{' x '.join(map(str, least.sides))} and its surroundings",
        "allow more with --max-memory, close other programs, or give a smaller --tile if you gave one",
    )


def own_block(sides: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of the blocks in which a result is brought to the image's own grid: whole chunks, few pixels."""
    return tuple(min(_OWN_CHUNKS * c, -(-n // c) * c) for n, c in zip(sides, CHUNK[len(sides)], strict=True))


def block_regions(shape: Sequence[int], block: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return the regions of all blocks of a frame, in reading order."""
    axes = [[slice(a, min(a + b, n)) for a in range(0, n, b)] for n, b in zip(shape, block, strict=True)]
    return list(product(*axes))


def _block_sides(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the sides of blocks to try: multiples of a chunk that divide the image evenly."""
    chunk = CHUNK[len(shape)]
    axes = [
        {even_stride(-(-n // c) * c, c, c * times) for times in BLOCK_CHUNKS[len(shape)]}
        for n, c in zip(shape, chunk, strict=True)
    ]
    sides = [(*front, side, side) for *front, side in product(*axes[:-2], axes[-2] | axes[-1])]
    fitted = {tuple(min(b, -(-n // c) * c) for b, n, c in zip(x, shape, chunk, strict=True)) for x in sides}
    return sorted(x for x in fitted if prod(x) <= LARGEST_BLOCK)


def _tile_sides(request: Request, block: tuple[int, ...] | None) -> list[int]:
    """Return the largest sides of tiles to try."""
    longest = max(block or request.shape)
    if request.tile is not None:
        return [min(request.tile, longest)]
    sides = [longest]
    while sides[-1] > 1:
        sides.append(int(sides[-1] / 1.15))
    return sides


def _candidate(
    request: Request, block: tuple[int, ...] | None, side: int, held: int, device_limit: int | None
) -> tuple[TilePlan, int]:
    """Return the plan with tiles that write at most `side` along each axis, and the bytes of one tile."""
    geometry, classes = request.network.geometry, request.network.classes
    strides, sides, tiles, pixels = [], [], 1, 1
    for axis, length in enumerate(request.shape):
        whole = block[axis] if block is not None else length
        pieces = [min(whole, length - start) for start in range(0, length, whole)]
        steps = [even_stride(piece, geometry.grid[axis], side) for piece in pieces]
        counts = [-(-piece // step) for piece, step in zip(pieces, steps, strict=True)]
        inputs = [input_for_output(step, geometry.depths[axis], geometry.padding) for step in steps]
        strides.append(max(steps))
        sides.append(max(inputs))
        tiles *= sum(counts)
        pixels *= sum(n * width for n, width in zip(counts, inputs, strict=True))
    one = tile_bytes(request.network, sides, members=request.members, engine=request.engine)
    read = 1 if device_limit is None else 2  # beside a GPU the next tile is read ahead
    io = read * prod(sides) * request.channels * (request.itemsize + 4) + prod(strides) * classes * 4 * 2
    host = io + (one if device_limit is None else 0)
    if request.own is not None:
        host += resampling_bytes(request.itemsize)
    taken = _frame_bytes(request, host) if block is None else _block_bytes(request, block, host)
    times = request.frames * request.versions
    plan = TilePlan(
        tile=(side,) * len(sides),
        sides=tuple(sides),
        block=block,
        tiles=tiles * times,
        pixels=pixels * times,
        peak_bytes=held + _SLACK_BYTES + taken,
        engine=request.engine,
    )
    return plan, one


def _cost(plan: TilePlan) -> int:
    return plan.pixels + plan.tiles * _TILE_COST_PX


def _frame_bytes(request: Request, tile: int) -> int:
    """Return the memory of a prediction frame by frame in memory, of which a tile takes `tile` bytes."""
    pixels, classes = prod(request.shape), request.network.classes
    own = pixels if request.own is None else prod(request.own)
    image = 0 if request.held else pixels * request.channels * request.itemsize
    if request.own is not None:  # the frame is resampled piece by piece, into float32
        image = pixels * request.channels * 4
    maps = pixels * classes * 4
    sample = min(_SAMPLE_BYTES, pixels * 40)
    made = pixels * (OBJECT_BYTES[len(request.shape)] if request.objects else 12)
    results = request.frames * own * (4 * (classes - 1 if request.probabilities else 1)) * 2
    if request.own is not None:  # the levels beside the labels, or the maps on both grids
        made += pixels * 2 + own * (4 if request.objects else classes * 4) + resampling_bytes(4)
    return image + results + maps + max(tile, made, sample)


def _block_bytes(request: Request, block: tuple[int, ...], tile: int) -> int:
    """Return the memory of a prediction block by block: the maps of a block and its tiles, or its objects."""
    pixels = prod(block)
    predicting = pixels * request.network.classes * 4 * 3 + tile
    made = prod(side + 2 * _MARGIN_PX for side in block) * OBJECT_BYTES[len(block)] if request.objects else 0
    if request.own is not None:
        maps = 1 if request.objects else request.network.classes
        made = max(made, prod(own_block(request.own)) * 4 * (3 * maps + 2) + 2 * resampling_bytes(8))
    return max(predicting, made, min(_SAMPLE_BYTES, request.channels * prod(request.shape) * 40))
