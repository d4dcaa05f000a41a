"""The U-Net of Ronneberger, Fischer and Brox (2015), in 2D and 3D.

``UNet(UNetSettings.paper())`` is the paper's network: 23 convolutional layers, 31,030,658 parameters, 572 -> 388.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from septum.arrays.geometry import Geometry
from septum.nn.dropout import Dropout
from septum.settings import Settings


class UNetSettings(Settings):
    """Shape of the network.

    Parameters
    ----------
    channels
        Image channels.
    classes
        Classes, including background.
    depths
        Poolings along each spatial axis, ``(Y, X)`` or ``(Z, Y, X)``; the largest is the number of levels above the
        bottom and is 1 or more. Along a shallower axis the finest levels neither pool nor convolve.
    width
        Features of the first level; each level doubles them.
    padding
        ``"valid"`` as in the paper, or ``"same"``.
    batch_norm
        Batch normalization after each 3x3 convolution; folded into the convolution at prediction.
    dropout
        Probability of drop-out at the end of the contracting path (second convolution of the last two levels).
    leak
        Slope of the ReLU below zero; 0 in the paper, 0.1 in the authors' Fiji plugin.
    """

    channels: int = Field(default=1, ge=1)
    classes: int = Field(default=2, ge=2, le=255)
    depths: tuple[int, ...] = (4, 4)
    width: int = Field(default=64, ge=1)
    padding: Literal["valid", "same"] = "valid"
    batch_norm: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    leak: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _depths_fit(self) -> Self:
        if len(self.depths) not in (2, 3) or min(self.depths) < 0 or not 1 <= max(self.depths) <= 8:
            raise ValueError(f"depths {self.depths}: 2 or 3 numbers from 0 to 8, at least one of them not 0")
        return self

    @classmethod
    def paper(cls, *, channels: int = 1, classes: int = 2, rank: int = 2) -> UNetSettings:
        """Return the paper's network: depth 4, width 64, unpadded, drop-out 0.5."""
        return cls(channels=channels, classes=classes, depths=(4,) * rank, dropout=0.5)

    @property
    def geometry(self) -> Geometry:
        """Sides and context of this network."""
        return Geometry(self.depths, self.padding)


def _block(inside: int, outside: int, kernel: tuple[int, ...], settings: UNetSettings, dropout: bool) -> nn.Sequential:
    """Return two convolutions, each followed by (batch normalization and) ReLU, and drop-out if requested."""
    rank = len(kernel)
    conv = (nn.Conv2d, nn.Conv3d)[rank - 2]
    norm = (nn.BatchNorm2d, nn.BatchNorm3d)[rank - 2]
    padding = tuple(k // 2 for k in kernel) if settings.padding == "same" else 0
    layers: list[nn.Module] = []
    for features in (inside, outside):
        # Batch normalization has its own offset; a bias before it would have no effect.
        layers.append(conv(features, outside, kernel, padding=padding, bias=not settings.batch_norm))  # type: ignore[arg-type]
        if settings.batch_norm:
            # With one tile a step, statistics for prediction are averaged over more steps than the usual ten.
            layers.append(norm(outside, momentum=0.03))
        layers.append(nn.LeakyReLU(settings.leak, inplace=True) if settings.leak else nn.ReLU(inplace=True))
    if dropout and settings.dropout:
        layers.append(Dropout(settings.dropout))
    return nn.Sequential(*layers)


class _Undrawn(TorchFunctionMode):
    """Context in which new layers keep uninitialized weights; a "meta" device would do the same but imports sympy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class UNet(nn.Module):
    """Contracting path, bottom, expanding path with skip connections, 1x1 convolution to the classes.

    Parameters
    ----------
    settings
        Shape of the network.
    seed
        Seed of the initial weights; None: uninitialized, see `unset`.
    """

    def __init__(self, settings: UNetSettings, *, seed: int | None = 0) -> None:
        super().__init__()
        self.settings = settings
        self.geometry = settings.geometry
        levels, width = max(settings.depths), settings.width
        rank = len(settings.depths)
        up = (nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 2]
        conv = (nn.Conv2d, nn.Conv3d)[rank - 2]

        def at(level: int, value: int) -> tuple[int, ...]:
            """Return the kernel of a level: `value` along axes that are deep enough to be pooled there, otherwise 1."""
            return tuple(value if level >= levels - depth else 1 for depth in settings.depths)

        self.pools = [at(level, 2) for level in range(levels)]
        features = [settings.channels] + [width * 2**level for level in range(levels + 1)]
        # The paper's release has drop-out after the last level before the bottom and after the bottom.
        self.down = nn.ModuleList(
            _block(features[k], features[k + 1], at(k, 3), settings, k == levels - 1) for k in range(levels)
        )
        self.bottom = _block(features[levels], features[levels + 1], at(levels, 3), settings, True)
        self.up = nn.ModuleList(
            up(features[k + 2], features[k + 1], self.pools[k], stride=self.pools[k])  # type: ignore[arg-type]
            for k in range(levels)
        )
        self.merge = nn.ModuleList(
            _block(features[k + 2], features[k + 1], at(k, 3), settings, False) for k in range(levels)
        )
        self.head = conv(width, settings.classes, 1)
        if seed is not None:
            initialize(self, seed)

    @classmethod
    def unset(cls, settings: UNetSettings) -> Self:
        """Return a network on the CPU with uninitialized weights, to be loaded.

        Drawing the weights of the paper's network would take a third of a second.
        """
        with _Undrawn():
            return cls(settings, seed=None)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits.

        Parameters
        ----------
        x
            ``(B, C, *tile)`` floats, normalized; the sides must satisfy `Geometry.output`.

        Returns
        -------
        Tensor
            ``(B, K, *output)`` floats, logits of the classes.

        Raises
        ------
        ValueError
            If a side does not fit the depth.
        """
        expected = self.geometry.output(x.shape[2:])
        x, skips = self.contract(x)
        while skips:
            x = self.expand(x, skips.pop(), len(skips))
        x = self.head(x)
        assert x.shape[2:] == expected, (x.shape, expected)
        return x

    def contract(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute the contracting path and the bottom.

        Parameters
        ----------
        x
            ``(B, C, *tile)`` floats, normalized.

        Returns
        -------
        bottom
            ``(B, F, *S)`` floats, any finite values: features of the lowest level.
        skips
            Features of the levels above, the finest first.
        """
        pool = (torch.nn.functional.max_pool2d, torch.nn.functional.max_pool3d)[len(self.settings.depths) - 2]
        skips = []
        for block, window in zip(self.down, self.pools, strict=True):
            x = block(x)
            skips.append(x)
            x = pool(x, window)
        return self.bottom(x), skips

    def expand(self, x: Tensor, skip: Tensor, level: int) -> Tensor:
        """Compute one level of the expanding path.

        Parameters
        ----------
        x
            ``(B, F, *S)`` floats, any finite values: features of the level below.
        skip
            ``(B, F / 2, *S)`` floats, any finite values: features of the contracting path at this level.
        level
            Index of the level, 0 for the finest.

        Returns
        -------
        Tensor
            ``(B, F / 2, *S)`` floats, any finite values: features of the level.
        """
        merged: Tensor = self.merge[level](_joined(skip, self.up[level](x)))
        return merged

    def seed_dropout(self, numbers: Sequence[int], tile: Sequence[int]) -> None:
        """Draw the drop-out masks of the next forward pass.

        Parameters
        ----------
        numbers
            A seed for each sample.
        tile
            Sides of the input in pixels.
        """
        modules = (m for m in self.modules() if isinstance(m, Dropout))
        for offset, (module, shape) in enumerate(zip(modules, self._deepest(tile), strict=False)):
            module.draw([(number + offset) % 2**63 for number in numbers], shape, self.head.weight.device)

    def _deepest(self, tile: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the ``(C, *S)`` of the feature maps with drop-out: at the end of the last level, and of the bottom."""
        sides, shapes = list(tile), []
        for level, window in enumerate([*self.pools, (2,) * len(sides)]):
            if self.settings.padding == "valid":
                sides = [n - 4 * (w > 1) for n, w in zip(sides, window, strict=True)]
            shapes.append((self.settings.width << level, *sides))
            sides = [n // w for n, w in zip(sides, window, strict=True)]
        return shapes[-2:]


class _Joined(torch.autograd.Function):
    """Concatenation of a cropped skip connection and the features from below, whose gradient keeps the memory format.

    PyTorch's own gradient of a crop has its channels outermost, which slows down the layers before it.
    """

    @staticmethod
    def forward(ctx: Any, skip: Tensor, x: Tensor) -> Tensor:
        ctx.features = skip.shape[1]
        ctx.margins = [(a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True)]
        return torch.cat([center_crop(skip, x.shape[2:]), x], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        around = [margin for margin in reversed(ctx.margins) for _ in range(2)]
        return nn.functional.pad(gradient[:, : ctx.features], around), gradient[:, ctx.features :]


def _joined(skip: Tensor, x: Tensor) -> Tensor:
    """Concatenate the central part of a skip connection and the features from below."""
    if torch.is_grad_enabled() and x.requires_grad:
        joined: Tensor = _Joined.apply(skip, x)  # type: ignore[no-untyped-call]
        return joined
    return torch.cat([center_crop(skip, x.shape[2:]), x], dim=1)


def center_crop(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the central part of an image or feature map.

    Parameters
    ----------
    x
        ``(B, C, *S)``, any dtype, any values.
    sides
        Sides of the part, which differ from those of `x` by even numbers.

    Returns
    -------
    Tensor
        ``(B, C, *sides)``, a view of `x` with its dtype and values of the same range.
    """
    for axis, side in enumerate(sides, start=2):
        x = x.narrow(axis, (x.shape[axis] - side) // 2, side)
    return x


def initialize(network: nn.Module, seed: int) -> None:
    """Draw weights from Gaussians of standard deviation sqrt(2 / N), N the incoming nodes of a neuron; set biases to 0.

    Source: Ronneberger et al. 2015, section 3 (He et al. 2015). A 3x3 convolution of 64 features has N = 576. Each
    pixel of an up-convolution with stride equal to its kernel sees one pixel of each feature, so that its N is the
    number of features.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
            incoming = module.in_channels * (1 if transposed else prod(module.kernel_size))
            with torch.no_grad():
                module.weight.normal_(0.0, sqrt(2.0 / incoming), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()


def freeze_batchnorm(network: nn.Module) -> None:
    """Switch batch normalization to its running statistics, as in prediction, while all other layers train.

    With one or two tiles a step, each tile is normalized mostly by itself, and the network learns to rely on that; in
    prediction all images share one mean and variance, and images unlike the others come out too faint or too strong.
    The last part of a training with fixed statistics removes the difference (Wu and Johnson 2021,
    https://arxiv.org/abs/2105.07576, section 4). Undone by ``network.train()``.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.eval()


def for_prediction(network: UNet) -> UNet:
    """Return a copy of the network for prediction: evaluation mode, batch normalization folded into convolutions.

    Each convolution takes over the scale and offset of the normalization after it, computed in float64 (on the CPU, as
    Apple GPUs have no float64). The outputs equal those of the original in evaluation mode to float rounding. The copy
    is on the device of the original.
    """
    copy = UNet.unset(network.settings.model_copy(update={"batch_norm": False, "dropout": 0.0}))
    device = next(network.parameters()).device
    with torch.no_grad():
        for source, target in zip(_blocks(network), _blocks(copy), strict=True):
            convs = [m for m in source if isinstance(m, nn.Conv2d | nn.Conv3d)]
            norms: list[nn.Module | None] = [m for m in source if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
            plain = [m for m in target if isinstance(m, nn.Conv2d | nn.Conv3d)]
            for conv, norm, out in zip(convs, norms or [None] * len(convs), plain, strict=True):
                weight, bias = _float64(conv.weight), None if conv.bias is None else _float64(conv.bias)
                if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                    assert norm.running_var is not None and norm.running_mean is not None
                    scale = _float64(norm.weight) / torch.sqrt(_float64(norm.running_var) + norm.eps)
                    weight = weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))
                    bias = _float64(norm.bias) - _float64(norm.running_mean) * scale
                assert out.bias is not None and bias is not None
                out.weight.copy_(weight)
                out.bias.copy_(bias)
        copy.up.load_state_dict(network.up.state_dict())
        copy.head.load_state_dict(network.head.state_dict())
    return copy.to(device).eval()


def _float64(tensor: Tensor) -> Tensor:
    """Return a float64 copy on the CPU."""
    return tensor.cpu().double()


def _blocks(network: UNet) -> list[nn.Sequential]:
    """Return the blocks of two convolutions in a fixed order."""
    blocks = [*network.down, network.bottom, *network.merge]
    return [b for b in blocks if isinstance(b, nn.Sequential)]
