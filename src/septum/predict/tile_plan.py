"""How an image is predicted: which tiles, in memory or block by block, and what that takes.

The tile is the smallest of those that compute hardly more than the best one: with unpadded convolutions every tile
computes its context again, so larger tiles compute less, but beyond some size they only take memory. How evenly the
tiles divide the image counts as much as their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from septum.arrays.geometry import input_for_output
from septum.arrays.tiles import even_stride
from septum.errors import UsageError
from septum.nn.unet import UNetSettings
from septum.predict.memory import format_bytes
from septum.predict.network_memory import tile_bytes

# Bytes that the stages of `septum.arrays.stitch` take for each pixel of a block, by the number of axes.
OBJECT_BYTES = {2: 60, 3: 70}

# A block owns whole shards of the result, and is a multiple of these sides: chunks of the result.
CHUNK = {2: (512, 512), 3: (32, 128, 128)}
_BLOCK_CHUNKS = {2: (1, 2, 3, 4), 3: (1, 2, 3, 4, 5, 6, 8)}
_LARGEST_BLOCK = 24_000_000  # pixels

# Beyond this a tile is hardly faster: in 2D its context is a small part already, in 3D it hardly ever is.
_LARGEST_TILE_BYTES = {2: 1_500_000_000, 3: 8_000_000_000}

# A larger tile must save this share of the computing to be worth its memory; each tile costs as much as some pixels.
_WORTH = 0.03
_PIXELS_PER_TILE = 4000

# What an object task reads around its block where objects are thick; see `septum.arrays.stitch`.
_MARGIN = 32

# Statistics, buffers of the writers, and what the memory allocator keeps.
_SLACK = 64 << 20
_SAMPLE_BYTES = 4_000_000 * 8 * 5


@dataclass(frozen=True)
class Request:
    """What is predicted.

    Parameters
    ----------
    shape
        Spatial sides of a frame.
    frames
        Number of frames.
    channels, itemsize
        Of the image.
    held
        Whether the whole image has been read already; it is then part of what the process holds.
    maps
        Float32 probability maps that a frame gives.
    raw
        The maps themselves are the result.
    objects
        Whether objects, or areas between lines, are made of them.
    rounds
        Versions of each frame that are averaged; 1 without.
    members
        Networks whose probabilities are averaged; 1 without.
    """

    shape: tuple[int, ...]
    frames: int
    channels: int
    itemsize: int
    held: bool
    maps: int
    raw: bool
    objects: bool
    rounds: int = 1
    members: int = 1


@dataclass(frozen=True)
class TilePlan:
    """How it is predicted.

    Parameters
    ----------
    tile
        Largest sides that a tile writes.
    sides
        Input sides of most tiles.
    block
        Sides of the blocks; None where every frame is held in memory.
    tiles
        Number of tiles of all frames and rounds.
    pixels
        Input pixels of all tiles.
    peak_bytes
        The most memory that the process will hold.
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


def plan_prediction(
    demand: Request,
    network: UNetSettings,
    *,
    base: int,
    limit: int,
    device_limit: int | None = None,
    tile: int | None = None,
    blocks: bool | tuple[int, ...] = False,
    engine: bool = False,
) -> TilePlan:
    """Choose tiles and blocks.

    Parameters
    ----------
    demand
        What is predicted.
    network
        The network.
    base
        Bytes that the process holds already.
    limit
        Bytes that it may hold at most.
    device_limit
        Bytes for tiles on a GPU; None where tiles are computed in the process's own memory.
    tile
        Largest side that a tile writes; chosen where not given.
    blocks
        Work block by block even where a whole frame fits; sides: in blocks of these, as they were begun.
    engine
        Septum's engine computes, not PyTorch.

    Raises
    ------
    UsageError
        If not even the smallest tile fits.
    """
    tried: list[TilePlan] = []
    divided = [blocks] if isinstance(blocks, tuple) else _blocks(demand.shape)
    for choices in ([] if blocks else [None], divided):
        found = [
            _layout(demand, network, block, side, base, device_limit, engine)
            for block in choices
            for side in _limits(demand, block, tile)
        ]
        fitting = [x for x, need in found if x.peak_bytes <= limit and (device_limit is None or need <= device_limit)]
        modest = [x for x, need in found if x in fitting and need <= _LARGEST_TILE_BYTES[len(demand.shape)]] or fitting
        if modest:
            best = min(_work(x) for x in modest)
            return min((x for x in modest if _work(x) <= best * (1 + _WORTH)), key=lambda x: x.peak_bytes)
        tried += [x for x, _ in found]
    least = min(tried, key=lambda x: x.peak_bytes)
    raise UsageError(
        f"memory of {format_bytes(limit if device_limit is None else min(limit, device_limit))}",
        f"at least {format_bytes(least.peak_bytes)}: {format_bytes(base)} are taken already, the rest is for a tile of "
        f"{' x '.join(map(str, least.sides))} and what lies around it",
        "give more with --max-memory or a smaller --tile, or train a narrower network",
    )


def block_regions(shape: Sequence[int], block: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return the regions of all blocks of a frame, in reading order."""
    axes = [[slice(a, min(a + b, n)) for a in range(0, n, b)] for n, b in zip(shape, block, strict=True)]
    return list(product(*axes))


def _blocks(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the sides of blocks to try: multiples of a chunk that divide the image evenly."""
    chunk = CHUNK[len(shape)]
    axes = [
        {even_stride(-(-n // c) * c, c, c * times) for times in _BLOCK_CHUNKS[len(shape)]}
        for n, c in zip(shape, chunk, strict=True)
    ]
    found = [(*front, side, side) for *front, side in product(*axes[:-2], axes[-2] | axes[-1])]
    fitted = {tuple(min(b, -(-n // c) * c) for b, n, c in zip(x, shape, chunk, strict=True)) for x in found}
    return sorted(x for x in fitted if prod(x) <= _LARGEST_BLOCK)


def _limits(demand: Request, block: tuple[int, ...] | None, tile: int | None) -> list[int]:
    """Return the largest sides of tiles to try."""
    longest = max(block or demand.shape)
    if tile is not None:
        return [min(tile, longest)]
    sides = [longest]
    while sides[-1] > 1:
        sides.append(int(sides[-1] / 1.15))
    return sides


def _layout(
    demand: Request,
    network: UNetSettings,
    block: tuple[int, ...] | None,
    limit: int,
    base: int,
    device_limit: int | None,
    engine: bool,
) -> tuple[TilePlan, int]:
    """Return the layout with tiles that write at most `limit` along each side, and the bytes of one tile."""
    geometry = network.geometry
    strides, sides, tiles, pixels = [], [], 1, 1
    for axis, length in enumerate(demand.shape):
        whole = block[axis] if block is not None else length
        pieces = [min(whole, length - start) for start in range(0, length, whole)]
        steps = [even_stride(piece, geometry.grid[axis], limit) for piece in pieces]
        counts = [-(-piece // step) for piece, step in zip(pieces, steps, strict=True)]
        inputs = [input_for_output(step, geometry.depths[axis], geometry.padding) for step in steps]
        strides.append(max(steps))
        sides.append(max(inputs))
        tiles *= sum(counts)
        pixels *= sum(n * side for n, side in zip(counts, inputs, strict=True))
    one = tile_bytes(network, sides, members=demand.members, engine=engine)
    read = 1 if device_limit is None else 2  # beside a GPU the next tile is read ahead
    io = read * prod(sides) * demand.channels * (demand.itemsize + 4) + prod(strides) * demand.maps * 4 * 2
    host = io + (one if device_limit is None else 0)
    peak = base + _SLACK + (_frame_bytes(demand, host) if block is None else _block_bytes(demand, block, host))
    times = demand.frames * demand.rounds
    found = TilePlan((limit,) * len(sides), tuple(sides), block, tiles * times, pixels * times, peak, engine)
    return found, one


def _work(layout: TilePlan) -> int:
    return layout.pixels + layout.tiles * _PIXELS_PER_TILE


def _frame_bytes(demand: Request, tile: int) -> int:
    """Return what predicting frame by frame in memory takes."""
    pixels = prod(demand.shape)
    image = 0 if demand.held else pixels * demand.channels * demand.itemsize
    maps = pixels * demand.maps * 4
    sample = min(_SAMPLE_BYTES, pixels * 40)
    made = pixels * (OBJECT_BYTES[len(demand.shape)] if demand.objects else 12)
    results = demand.frames * pixels * (4 * (demand.maps - 1 if demand.raw else 1)) * 2
    return image + results + maps + max(tile, made, sample)


def _block_bytes(demand: Request, block: tuple[int, ...], tile: int) -> int:
    """Return what predicting block by block takes: a block's maps beside its tiles, or its objects."""
    pixels = prod(block)
    predicting = pixels * demand.maps * 4 * 3 + tile
    made = prod(side + 2 * _MARGIN for side in block) * OBJECT_BYTES[len(block)] if demand.objects else 0
    return max(predicting, made, min(_SAMPLE_BYTES, demand.channels * prod(demand.shape) * 40))
