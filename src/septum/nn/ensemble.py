"""Networks for prediction: one network, or an ensemble of networks of equal shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Protocol

import torch
from torch import Tensor

from septum.arrays.geometry import Geometry
from septum.nn.unet import UNetSettings


class Network(Protocol):
    """Interface of a network for prediction: a PyTorch network, its CPU engine, or an ensemble of either."""

    @property
    def settings(self) -> UNetSettings:
        """Shape of the network."""

    @property
    def geometry(self) -> Geometry:
        """Sides and context of the network."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Map images to logits; see `septum.nn.unet.UNet.forward`."""


class Ensemble:
    """Networks applied to the same tile one after the other; otherwise used as one network.

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
        """Map images to the logarithm of the mean probability, which serves as logits for a soft-max.

        Parameters
        ----------
        x
            ``(B, C, *tile)`` float32, normalized, as `septum.nn.unet.UNet.forward` takes it.

        Returns
        -------
        Tensor
            ``(B, K, *output)`` float32, <= 0; its soft-max is the mean of the members' soft-max.

        Raises
        ------
        ValueError
            If a side does not fit the depth.
        """
        # Summed as logarithms: a probability too small for a float does not become 0, and only one member's output is
        # in memory beside the sum.
        total = torch.log_softmax(self.members[0](x).float(), dim=1)
        for member in self.members[1:]:
            total = torch.logaddexp(total, torch.log_softmax(member(x).float(), dim=1))
        return total - log(len(self.members))


def members_of(network: Network) -> tuple[Network, ...]:
    """Return the members of an ensemble, or the network itself."""
    return network.members if isinstance(network, Ensemble) else (network,)
