"""Rounding errors of the CPU engine compared with PyTorch: measured for each network before its results are used.

Rounding errors of logits grow with the values inside the network, and these with the logits: engine and PyTorch differ
by 1e-6 to 1e-5 of the largest logit of a tile. This share depends on the weights and hardly on the image. It is
measured on two images, and determines the largest logit at which probabilities are still within `TOLERANCE` of
PyTorch's. PyTorch computes the tiles beyond it, and all tiles of networks whose logits usually exceed it.

If logits are in the hundreds, PyTorch's own float32 probabilities differ by more than `TOLERANCE` from exact ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

import torch
from torch import Tensor

from septum.nn.unet import UNet, UNetSettings

# Largest difference of a probability between engine and PyTorch.
TOLERANCE = 1e-4

# A probability p changes by p (1 - p) times the change of its logit minus a mean of the changes of the others: by at
# most a quarter of the difference between the largest and the smallest change.
_LOGIT_TOLERANCE = 4 * TOLERANCE
# Relative errors that matter were up to 1.6 times those of the probe, also on images designed to enlarge the logits;
# and probabilities changed by less than half of the bound for such errors.
_SAFETY = 2.0

# Smallest sides of the probe in pixels: of the output of unpadded networks, of the input of padded ones, and of the
# lowest level of these, in images and in volumes. Standard deviation of the stronger image.
_OUTPUT_SIDE, _INPUT_SIDES, _LOWEST_SIDES = 16, {2: 64, 3: 16}, {2: 6, 3: 3}
_STRONG = 4.0
_OCTAVES = 7


@dataclass(frozen=True)
class Rounding:
    """Rounding errors of a network's logits in the engine, compared with PyTorch.

    Parameters
    ----------
    relative_error
        Largest difference of logits as a share of the largest logit of the tile. Not finite if logits are not.
    usual_logit
        Largest absolute logit of an image of standard deviation 1.
    value_error
        Largest difference of logits as a share of the largest absolute value of the image.
    usual_value
        Largest absolute value of the image of standard deviation 1.
    """

    relative_error: float
    usual_logit: float
    value_error: float
    usual_value: float

    @property
    def difference(self) -> float:
        """Largest expected difference of a probability for usual images; infinite if it is unknown."""
        bounds = _SAFETY * self.relative_error * self.usual_logit, self.value_error * self.usual_value
        return min(1.0, max(bounds) / 4) if all(map(isfinite, bounds)) else inf

    @property
    def accurate(self) -> bool:
        """True if the engine keeps `TOLERANCE` for usual images."""
        return self.difference <= TOLERANCE

    def admits_image(self, image: Tensor) -> bool:
        """Return True if the engine may compute an image.

        Parameters
        ----------
        image
            ``(C, *tile) float32``, normalized; values that are not finite are not admitted.
        """
        largest = float(image.abs().max())
        return self.accurate and isfinite(largest) and self.value_error * largest <= _LOGIT_TOLERANCE

    def admits_logits(self, logits: Tensor) -> bool:
        """Return True if the probabilities of logits computed by the engine are within `TOLERANCE` of PyTorch's.

        Parameters
        ----------
        logits
            ``(K, *output) float32``; values that are not finite are not admitted.
        """
        largest = float(logits.abs().max())
        return isfinite(largest) and _SAFETY * self.relative_error * largest <= _LOGIT_TOLERANCE


def measure_rounding(network: UNet, compute: Callable[[Tensor], Tensor]) -> Rounding:
    """Measure the difference of computed logits from those of a network in PyTorch.

    The result depends on nothing but the weights and the processor: the probe images are always the same.

    Parameters
    ----------
    network
        From `septum.nn.unet.for_prediction`, on the CPU.
    compute
        Function that maps ``(1, C, *tile) float32`` to ``(1, K, *output) float32`` logits of the same network.
    """
    shape = (1, network.settings.channels, *_probe_sides(network.settings))
    errors, logits, values = [], [], []
    with torch.inference_mode():
        for x in (_white_noise(shape), _STRONG * _octave_noise(shape)):
            expected = network(x)
            change = compute(x).double() - expected.double()
            errors.append(float((change.amax(1) - change.amin(1)).max()))
            logits.append(float(expected.abs().max()))
            values.append(float(x.abs().max()))
    if not all(map(isfinite, (*errors, *logits))):
        return Rounding(inf, inf, inf, values[0])
    relative = max(e / z if z else e and inf for e, z in zip(errors, logits, strict=True))
    return Rounding(relative, logits[0], max(e / v for e, v in zip(errors, values, strict=True)), values[0])


def _probe_sides(settings: UNetSettings) -> tuple[int, ...]:
    """Return the input sides of the probe; padded networks take a tile without context."""
    if settings.padding == "valid":
        return settings.geometry.input_for((_OUTPUT_SIDE,) * len(settings.depths))
    input_side, lowest = _INPUT_SIDES[len(settings.depths)], _LOWEST_SIDES[len(settings.depths)]
    return tuple(max(-(-input_side // 2**depth), lowest) * 2**depth for depth in settings.depths)


def _white_noise(shape: tuple[int, ...]) -> Tensor:
    """Return normally distributed values of standard deviation 1, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _octave_noise(shape: tuple[int, ...]) -> Tensor:
    """Return a sum of noises of squares of 1, 2, 4, ... pixels, of standard deviation 1: details and large areas."""
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros(shape)
    for octave in range(_OCTAVES):
        noise = torch.randn(*shape[:2], *(-(-side // 2**octave) for side in shape[2:]), generator=generator)
        for axis, side in enumerate(shape[2:], start=2):
            noise = noise.repeat_interleave(2**octave, dim=axis).narrow(axis, 0, side)
        total += noise / _OCTAVES**0.5
    return total
