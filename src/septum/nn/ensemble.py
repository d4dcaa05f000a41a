"""What computes tiles: one network, or several of one shape that predict together."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Protocol

import torch
from torch import Tensor

from septum.arrays.geometry import Geometry
from septum.nn.unet import UNetSettings


class Network(Protocol):
    """What computes tiles: a network in PyTorch, the engine of one, or several of either."""

    @property
    def settings(self) -> UNetSettings:
        """The network's shape."""

    @property
    def geometry(self) -> Geometry:
        """Its sizes and context."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map images to logits; see `septum.nn.unet.UNet.forward`."""


class Ensemble:
    """Networks applied to the same tile one after the other; in all else it is used as one of them.

    Parameters
    ----------
    members
        Networks for prediction (see `septum.nn.unet.for_prediction`) of equal settings, at least two.
    """

    def __init__(self, members: Sequence[Network]) -> None:
        assert len(members) > 1 and all(member.settings == members[0].settings for member in members)
        self.members = tuple(members)
        self.settings = members[0].settings
        self.geometry = members[0].geometry

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map images to the logarithm of the mean probability, which is to a soft-max as good as logits.

        Parameters
        ----------
        x
            As `UNet.forward` takes it.

        Returns
        -------
        Tensor
            ``(B, K, *output)`` float32, <= 0; its soft-max is the mean of the members' soft-max.

        Raises
        ------
        ValueError
            If a side does not fit the depth.
        """
        # Sums of logarithms: a probability too small for a float does not become 0, and no more than one member's
        # output is held beside the sum.
        total = torch.log_softmax(self.members[0](x).float(), dim=1)
        for member in self.members[1:]:
            total = torch.logaddexp(total, torch.log_softmax(member(x).float(), dim=1))
        return total - log(len(self.members))


def members_of(network: Network) -> tuple[Network, ...]:
    """Return the single networks."""
    return network.members if isinstance(network, Ensemble) else (network,)
