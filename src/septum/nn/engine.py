"""The U-Net on processors, without PyTorch's layers: two to four times faster, in a fraction of the memory.

Three things make the difference. 3x3 convolutions are Winograd's F(4x4, 3x3), a quarter of the multiplications, from the
transform of the inputs to bias, ReLU and pooling in one pass over each block of tiles, while it is in the cache. Feature
maps keep their features together in memory that is planned once per size of tile; skip connections store only the part
that is used and are read where they lie. And what lies between two convolutions of a level is computed in bands of rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn

from septum.arrays.geometry import Geometry
from septum.nn import _kernels as k
from septum.nn._maps import LevelMaps, Map, Plan, plan
from septum.nn._packed import Packed, aligned, convolution, head, image_convolution, up_convolution
from septum.nn._vectors import LANES, ROWS, STEP
from septum.nn.unet import UNet, UNetSettings

Kernel = Callable[[object, float, int, int], None]

# Blocks of a thread: so many products of `ROWS` tiles that inputs and outputs of 36 matrices stay in the second cache.
_CACHE_BYTES = 500_000
# From this size of transformed weights on, all threads share one block of tiles, so that weights are read once.
_SHARED_WEIGHTS = 8_000_000
_SHARED_BLOCK = 4
_PIXEL_BLOCK = 4
# A band gives each thread so many pixels: some ten blocks of tiles.
_BAND_PIXELS = 8_000


def unsupported(settings: UNetSettings) -> str | None:
    """Return why the engine does not compute a network of this shape; None if it does."""
    if len(settings.depths) != 2:
        return "3D networks are computed by PyTorch"
    if settings.depths[0] != settings.depths[1]:
        return "networks with unequal depths are computed by PyTorch"
    return None


@dataclass
class _Stage:
    """A layer and how far it has come.

    Parameters
    ----------
    run
        Compute output rows from .. to.
    height
        Output rows.
    grain
        It computes so many rows at a time.
    out
        The map of which a window is kept; none where all of the output is.
    feeder
        The stage that makes its input, if that keeps a window.
    reads
        Input rows needed for so many output rows.
    """

    run: Callable[[int, int], None]
    height: int
    grain: int
    out: Map | None
    feeder: _Stage | None
    reads: Callable[[int], int]
    reader: _Stage | None = None
    done: int = 0

    def advance(self, end: int) -> None:
        """Compute rows until `end`, and before that what they need."""
        end = min(self.height, -(-end // self.grain) * self.grain)
        if end <= self.done:
            return
        if self.feeder is not None:
            self.feeder.advance(self.reads(end))
        if self.out is not None:
            self.out.make_room(self.reader.done if self.reader is not None else 0, end)
        self.run(self.done, end)
        self.done = end


@dataclass
class _Threads:
    """Threads that run one loop together, with scratch memory each."""

    count: int
    scratch_bytes: int = 0
    _pool: ThreadPoolExecutor | None = None
    _counter: np.ndarray[tuple[int], np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(16, np.int64))
    _scratch: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = field(default_factory=list)

    def reserve(self, size: int) -> None:
        """Have at least so many bytes of scratch memory for each thread."""
        if size > self.scratch_bytes:
            self.scratch_bytes = size
            self._scratch = [aligned(size // 4 + 16) for _ in range(self.count)]

    def run(self, kernel: Kernel, description: object, leak: float) -> None:
        """Run a loop to its end."""
        self._counter[0] = 0
        counter = self._counter.ctypes.data
        if self.count > 1 and self._pool is None:
            self._pool = ThreadPoolExecutor(self.count - 1, "septum-engine")
        others = [
            self._pool.submit(kernel, description, leak, counter, scratch.ctypes.data)
            for scratch in self._scratch[1:]
            if self._pool is not None
        ]
        kernel(description, leak, counter, self._scratch[0].ctypes.data)
        for other in others:
            other.result()


class Engine:
    """A network for prediction on the processor, called like the network itself.

    Parameters
    ----------
    network
        From `septum.nn.unet.for_prediction`, on the CPU. Weights are copied.
    threads
        How many compute; None for as many as PyTorch takes.

    Raises
    ------
    ValueError
        If `unsupported` says why not.
    """

    def __init__(self, network: UNet, *, threads: int | None = None) -> None:
        reason = unsupported(network.settings)
        if reason is not None:
            raise ValueError(reason)
        assert not network.settings.batch_norm, "of the network from for_prediction"
        self.settings = network.settings
        self.geometry: Geometry = network.geometry
        self._threads = _Threads(threads if threads is not None else torch.get_num_threads())
        self._lock = threading.Lock()
        self._first = image_convolution(_conv(network.down[0], 0))
        self._down = [
            (None if level == 0 else convolution(_conv(block, 0), 1), convolution(_conv(block, 1), 1))
            for level, block in enumerate([*network.down, network.bottom])
        ]
        self._up = [up_convolution(up) for up in network.up if isinstance(up, nn.ConvTranspose2d)]
        self._merge = [(convolution(_conv(block, 0), 2), convolution(_conv(block, 1), 1)) for block in network.merge]
        assert isinstance(network.head, nn.Conv2d)
        self._head = head(network.head)
        self._leak = np.float32(network.settings.leak)
        self._plan: tuple[tuple[int, ...], Plan] | None = None
        self._arena = aligned(0)
        self._shared = aligned(0)

    def __call__(self, x: Tensor) -> Tensor:
        """Map images to logits.

        Parameters
        ----------
        x
            ``(B, C, *tile) float32``, normalized; the sides must satisfy `Geometry.output`.

        Returns
        -------
        Tensor
            ``(B, K, *output) float32``, logits of the classes.

        Raises
        ------
        ValueError
            If a side does not fit the depth.
        """
        expected = self.geometry.output(x.shape[2:])
        assert x.shape[1] == self.settings.channels and x.dtype == torch.float32, (x.shape, x.dtype)
        out = torch.empty(x.shape[0], self.settings.classes, *expected)
        border = int(self.settings.padding == "same")
        with self._lock:
            maps = self._prepared(tuple(x.shape[2:]))
            for one, logits in zip(x, out, strict=True):
                image = nn.functional.pad(one, (border,) * 4) if border else one.contiguous()
                self._compute(maps, image.numpy(), logits.numpy())
        return out
