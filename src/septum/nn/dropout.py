"""Drop-out that repeats: its masks are drawn before the forward pass, from a seed for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from septum.nn.device import send


class Dropout(nn.Module):
    """Drop-out whose masks come from explicit CPU generators: the same on any device and for any number of processes.

    `draw` must be called before each training step; in evaluation the module does nothing. The masks are not drawn in
    the forward pass, so that `torch.compile` traces it as one graph, and not anew for each seed.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._kept: Tensor | None = None

    def draw(self, numbers: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        """Draw the masks of the next forward pass.

        Parameters
        ----------
        numbers
            A seed for each sample.
        shape
            ``(C, *S)`` of the feature maps.
        device
            Their device.
        """
        chances = [torch.rand(*shape, generator=torch.Generator().manual_seed(n)) for n in numbers]
        self._kept = send(torch.stack(chances) < 1.0 - self.probability, device)

    def forward(self, x: Tensor) -> Tensor:
        """Set each value to 0 with the given probability and scale up the others.

        Parameters
        ----------
        x
            ``(B, C, *S)`` floats, any finite values.

        Returns
        -------
        Tensor
            ``(B, C, *S)``, the dtype of `x`, any finite values.
        """
        if not self.training:
            return x
        assert self._kept is not None and self._kept.shape == x.shape, "masks were not drawn for this batch"
        return x * self._kept.to(x.dtype).div_(1.0 - self.probability)
