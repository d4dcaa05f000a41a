"""Prediction with the U-Net on the CPU, two to four times faster than PyTorch's layers and in a fraction of the memory.

Three measures make the difference. 3x3 convolutions are Winograd's F(4x4, 3x3), a quarter of the multiplications; each
block of tiles goes from the transform of its inputs to bias, ReLU and pooling while it stays in the cache. Feature maps
are stored channels last in one arena that is planned once per size of tile; skip connections store only the part that
is used, and are read in place instead of being copied. Maps between two convolutions of a level are computed in bands
of rows and never exist as a whole.

The prediction of an image runs one *chain* of layers (`septum.cpu._layers`) per level: down to the bottom, then up.
Volumes are computed layer by layer (`septum.cpu._volume_layers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor, nn

from septum.arrays.geometry import Geometry
from septum.cpu import _layers as layers
from septum.cpu import _winograd as k
from septum.cpu._feature_maps import LevelMaps, plan_memory
from septum.cpu._ir import LANES
from septum.cpu._layers import Resources, Stage, convolutions
from septum.cpu._packed_weights import aligned, convolution, head, image_convolution, is_wide, up_convolution
from septum.cpu._threads import Program, ThreadPool
from septum.cpu._volume_layers import VolumeLayers, volume_bytes
from septum.nn.rounding import measure_rounding
from septum.nn.unet import UNet, UNetSettings

# Pixels of a band per thread: about ten blocks of tiles.
BAND_PIXELS = 8_000


def unsupported(settings: UNetSettings) -> str | None:
    """Return the reason why the engine does not compute networks of this shape; None if it does."""
    *planes, y, x = settings.depths
    if planes and settings.padding == "valid":
        return "3D networks without padding are computed by PyTorch"
    if y != x or (planes and planes[0] > y):
        return "networks with unequal depths are computed by PyTorch"
    return None


@dataclass(frozen=True)
class _Chain:
    """Layers that feed each other, and the number of rows that the last layer advances at a time."""

    last: Stage
    band: int

    def describe(self, program: Program) -> None:
        """Let a program compute all rows of the last layer."""
        self.last.begin(program)
        for end in range(self.band, self.last.height + self.band, self.band):
            self.last.advance(program, end)


class Engine:
    """A network for prediction on the CPU, called like the network itself.

    Parameters
    ----------
    network
        From `septum.nn.unet.for_prediction`, on the CPU. Its weights are copied and must not change. It computes the
        images for which the rounding errors of the engine would be too large; see `septum.nn.rounding`.
    threads
        Number of threads; None: the number that PyTorch uses at each call.

    Raises
    ------
    ValueError
        If `unsupported` returns a reason.

    Attributes
    ----------
    rounding
        Rounding errors of the engine compared with PyTorch; they decide which results are used.
    """

    def __init__(self, network: UNet, *, threads: int | None = None) -> None:
        reason = unsupported(network.settings)
        if reason is not None:
            raise ValueError(reason)
        assert not network.settings.batch_norm, "of the network from for_prediction"
        self._network = network
        self.settings = network.settings
        self.geometry: Geometry = network.geometry
        self._threads = threads
        self._resources = Resources(ThreadPool(threads or torch.get_num_threads()), network.settings.leak)
        self._layers: VolumeLayers | _ImageLayers
        if len(network.settings.depths) == 3:
            self._layers = VolumeLayers(network, self._resources)
        else:
            self._layers = _ImageLayers(network, self._resources)
        self._sides: tuple[int, ...] = ()
        self.rounding = measure_rounding(network, self._compute)
        self._layers.release()  # the memory of the probe: tiles may be smaller
        self._sides = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Map images to logits.

        Parameters
        ----------
        x
            ``(B, C, *tile) float32``, normalized; the sides must satisfy `Geometry.output`.

        Returns
        -------
        Tensor
            ``(B, K, *output) float32``, logits of the classes, whose probabilities differ from PyTorch's by at most
            `septum.nn.rounding.TOLERANCE`.

        Raises
        ------
        ValueError
            If a side does not fit the depth.
        """
        self.geometry.output(x.shape[2:])  # raises
        assert x.shape[1] == self.settings.channels and x.dtype == torch.float32, (x.shape, x.dtype)
        admitted = [self.rounding.admits_image(one) for one in x]
        with torch.no_grad():
            if not any(admitted):
                left: Tensor = self._network(x)
                return left
            out = self._compute(x)
            for i, fits in enumerate(admitted):
                if not (fits and self.rounding.admits_logits(out[i])):
                    out[i] = self._network(x[i : i + 1])[0]
        return out

    def _compute(self, x: Tensor) -> Tensor:
        """Map images to logits by the engine alone, whatever its rounding errors; see `__call__`."""
        out = torch.empty(x.shape[0], self.settings.classes, *self.geometry.output(x.shape[2:]))
        with self._resources.threads.lock:
            if self._resources.threads.count != (count := self._threads or torch.get_num_threads()):
                self._resources.threads.resize(count)
                self._sides = ()
            if tuple(x.shape[2:]) != self._sides:
                self._sides = ()  # no plan is valid if memory runs out
                self._layers.prepare(tuple(x.shape[2:]))
                self._sides = tuple(x.shape[2:])
            with self._resources.threads.ready():
                for one, logits in zip(x, out, strict=True):
                    self._layers.compute(one, logits)
        return out


class _ImageLayers:
    """The layers of a 2D network, as chains; for the methods see `VolumeLayers`."""

    def __init__(self, network: UNet, resources: Resources) -> None:
        self.settings, self._resources = network.settings, resources
        levels = len(network.down)
        blocks = [*network.down, network.bottom, *network.merge]
        convs = [(_conv(b, n), 1 + (n == 0 and i > levels)) for i, b in enumerate(blocks) for n in range(2)]
        with ThreadPoolExecutor(self._resources.threads.count) as pool:
            packed = [
                image_convolution(convs[0][0].weight, convs[0][0].bias),
                *pool.map(lambda job: convolution(job[0].weight, job[0].bias, job[1]), convs[1:]),
            ]
        pairs = list(zip(packed[::2], packed[1::2], strict=True))
        self._down, self._merge = pairs[: levels + 1], pairs[levels + 1 :]
        self._up = [up_convolution(up.weight, up.bias) for up in network.up if isinstance(up, nn.ConvTranspose2d)]
        assert isinstance(network.head, nn.Conv2d)
        self._head = head(network.head.weight, network.head.bias)
        self.release()

    def release(self) -> None:
        """Release the memory of the last size of tile."""
        self._arena = aligned(0)
        self._program = Program()

    def compute(self, image: Tensor, logits: Tensor) -> None:
        """Compute one tile; the threads are ready."""
        border = int(self.settings.padding == "same")
        image = nn.functional.pad(image, (border,) * 4) if border else image.contiguous()
        self._program.set(k.IMAGE, k.INPUT0, image.data_ptr())
        self._program.set(k.HEAD, k.OUTPUT, logits.data_ptr())
        self._resources.threads.run_program(self._program)

    def prepare(self, sides: tuple[int, ...]) -> None:
        """Plan the memory for tiles of these sides, connect the layers, and describe all loops of a tile."""
        planned = plan_memory(
            self.settings, sides, lanes=LANES, band_pixels=BAND_PIXELS * self._resources.threads.count
        )
        if self._arena.nbytes < planned.bytes:
            self._arena = aligned(0)
            self._arena = aligned(planned.bytes // 4)
        for one in planned.maps:
            one.address += self._arena.ctypes.data
        levels = planned.levels
        chains = [self._descend(levels, level, planned.bands[level]) for level in range(len(levels))]
        chains += [self._ascend(levels, level, planned.bands[level]) for level in reversed(range(len(levels) - 1))]
        self._program = Program()
        for chain in chains:
            chain.describe(self._program)
        self._program.end()

    def _descend(self, levels: Sequence[LevelMaps], level: int, band: int) -> _Chain:
        """Return the two convolutions of a level of the contracting path, with pooling."""
        resources, maps, (first, second) = self._resources, levels[level], self._down[level]
        if level == 0:
            feeder = layers.convolve_image(resources, first, self.settings.channels, maps.first)
        else:
            pooled = levels[level - 1].pooled
            assert pooled is not None
            feeder = layers.convolve(resources, first, [pooled], maps.first)
        last = layers.convolve(resources, second, [maps.first], maps.skip, pooled=maps.pooled, feeder=feeder)
        return _Chain(last, band)

    def _ascend(self, levels: Sequence[LevelMaps], level: int, band: int) -> _Chain:
        """Return the layers of a level of the expanding path: up-convolution, two convolutions, head if finest."""
        resources, maps, (first, second) = self._resources, levels[level], self._merge[level]
        below = levels[level + 1].out or levels[level + 1].skip
        assert maps.enlarged is not None and maps.merged is not None and maps.out is not None
        feeder = layers.up_convolve(resources, self._up[level], below, maps.enlarged)
        feeder = layers.convolve(resources, first, [maps.skip, maps.enlarged], maps.merged, feeder=feeder)
        last = layers.convolve(resources, second, [maps.merged], maps.out, feeder=feeder)
        if level == 0:
            last = layers.classify(resources, self._head, maps.out, self.settings.classes, last)
        return _Chain(last, band)


@lru_cache(maxsize=1024)  # called for many sizes of tiles, again for each image
def working_bytes(settings: UNetSettings, sides: tuple[int, ...], threads: int) -> int:
    """Return an upper bound of the memory that a tile needs beside the weights.

    Parameters
    ----------
    settings
        Shape of the network.
    sides
        Input sides of the tile.
    threads
        Number of threads.

    Returns
    -------
    int
        Bytes for a batch of one: input, feature maps, scratch memory, logits.
    """
    if len(sides) == 3:
        # The image, and logits, which PyTorch copies in the operations after the engine.
        return volume_bytes(settings, sides, threads) + 4 * (settings.channels + 2 * settings.classes) * prod(sides)
    maps = plan_memory(settings, sides, lanes=LANES, band_pixels=BAND_PIXELS * threads).bytes
    scratch, common = 0, 0
    for _, inside, outside, _ in convolutions(settings):
        one, both = layers.tile_memory(inside, outside, *layers.tile_block(inside, outside))
        scratch, common = max(scratch, one), max(common, both)
    most = max(LANES, settings.width << max(settings.depths))
    scratch = max(scratch, layers.pixel_memory(most), layers.pixel_memory(9 * settings.channels))
    # The image is copied with a border; PyTorch copies logits in the operations after the engine.
    planes = 4 * (2 * settings.channels + 2 * settings.classes) * (sides[0] + 2) * (sides[1] + 2)
    return maps + threads * scratch + common + planes


def weight_bytes(settings: UNetSettings) -> int:
    """Return the memory of the engine's weights, in addition to PyTorch's: up to four times as much as those."""
    both = [(taps * inside, outside) for _, inside, outside, taps in convolutions(settings)]
    return sum(4 * (9 if is_wide(*sides) else k.PRODUCTS) * prod(sides) for sides in both)


def _conv(block: nn.Module, number: int) -> nn.Conv2d:
    """Return the first or second convolution of a block."""
    convolutions = [module for module in block.children() if isinstance(module, nn.Conv2d)]
    return convolutions[number]
