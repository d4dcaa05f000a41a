"""Training of networks on the CPU in float32, about twice as fast as with PyTorch's layers.

Each 3x3 convolution, forward and backward, is Winograd's F(4x4, 3x3), and batch normalization with ReLU is one pass,
computed by loops like those of the prediction engine (`septum.cpu.inference`). Features are innermost (channels last).
The shape of the network and the machine alone decide which code computes, and its results depend on nothing but its
inputs, so that a training repeats to the last bit.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import nn

from septum.nn.device import Device
from septum.nn.unet import UNet, UNetSettings


def for_training(network: UNet, device: Device, *, bfloat16: bool) -> tuple[UNet, torch.memory_format]:
    """Place a network on a device for training, and choose the memory format of its images.

    Parameters
    ----------
    network
        Changed: layers are replaced by faster ones if available. Names and values stay.
    device
        The device of the training.
    bfloat16
        True if training multiplies in bfloat16.

    Returns
    -------
    UNet
        The same network.
    torch.memory_format
        Channels last or contiguous.
    """
    order = device.memory_format(len(network.settings.depths), bfloat16)
    network = network.to(device.torch)
    if device.torch.type == "cpu" and not bfloat16 and supports(network.settings):
        order = torch.channels_last if len(network.settings.depths) == 2 else torch.channels_last_3d
        _exchange(network)
    placed: UNet = network.to(memory_format=order)  # type: ignore[call-overload]
    return placed, order


def step_threads(network: UNet) -> AbstractContextManager[None]:
    """Return the context of a training step, forward, backward and optimizer: it keeps the engine's threads awake.

    Parameters
    ----------
    network
        From `for_training`. If PyTorch computes it, the context does nothing.
    """
    if type(network) is UNet:
        return nullcontext()
    from septum.cpu import _ops

    return _ops.step_threads()


def describe_engine(network: UNet) -> str:
    """Return the name of the engine and what decides the last bits of its results; ``""`` if PyTorch computes.

    Parameters
    ----------
    network
        From `for_training`.
    """
    return "" if type(network) is UNet else f"Septum's engine with vectors of {vector_lanes()}"


def supports(settings: UNetSettings) -> bool:
    """Return True if the engine trains networks of this shape.

    The width must be a multiple of the processor's vectors. 2D: equal depths. 3D: equal depths along Y and X, none
    larger along Z, and padding.
    """
    *planes, y, x = settings.depths
    shape = y == x and (not planes or (planes[0] <= y and settings.padding == "same"))
    return shape and vector_lanes() > 0 and settings.width % vector_lanes() == 0


@cache
def vector_lanes() -> int:
    """Return the number of values of a vector; 0 if the loops cannot be compiled or give wrong results.

    The check compares the loops with PyTorch on a small convolution, once per process.
    """
    try:
        from septum.cpu import _ops as ops
        from septum.cpu._autograd import channels_last
        from septum.cpu._ir import LANES

        lanes: int = LANES
        x, weight = torch.linspace(-9, 9, 36 * lanes).sin(), torch.linspace(-7, 7, 9 * lanes**2).sin()
        x, weight = channels_last(x.view(1, lanes, 6, 6)), weight.view(lanes, lanes, 3, 3)
        out = nn.functional.conv2d(x, weight)
        given = (out, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])
        inner, of_weight, _ = torch.ops.aten.convolution_backward(*given)
        pairs = (
            (ops.convolve([x], weight, margin=0), out),
            (ops.convolve([channels_last(out)], weight, margin=2, backward=True), inner),
            (ops.weight_gradient([x], channels_last(out), margin=0), of_weight),
        )
        right = all(torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(b) for a, b in pairs)
    except Exception:  # any failure of numba or LLVM: PyTorch computes instead
        return 0
    return lanes if right else 0


def _exchange(network: UNet) -> None:
    """Replace the layers of a network by those of the engine."""
    kinds: tuple[type[nn.Module], ...]
    if len(network.settings.depths) == 2:
        from septum.cpu._autograd import Block, Head, TrainedUNet, UpConvolution

        kinds = Block, UpConvolution, Head, TrainedUNet
    else:
        from septum.cpu._volumes import VolumeBlock, VolumeHead, VolumeUNet, VolumeUpConvolution

        kinds = VolumeBlock, VolumeUpConvolution, VolumeHead, VolumeUNet
    block, up, head, whole = kinds
    for blocks in (network.down, network.merge):
        for number, layers in enumerate(blocks):
            blocks[number] = block(*layers.children())
    network.bottom = block(*network.bottom.children())
    for layer in network.up:
        layer.__class__ = up
    network.head.__class__ = head
    network.__class__ = whole
