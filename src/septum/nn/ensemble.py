"""Several networks of one shape that predict together: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn

from septum.nn.unet import UNet


class Ensemble(nn.Module):
    """Networks applied to the same tile one after the other; in all else it is used as one of them.

    Parameters
    ----------
    members
        Networks for prediction (see `septum.nn.unet.for_prediction`) of equal settings, at least two.
    """

    def __init__(self, members: Sequence[UNet]) -> None:
        super().__init__()
        assert len(members) > 1 and all(member.settings == members[0].settings for member in members)
        self.members = nn.ModuleList(members)
        self.settings = members[0].settings
        self.geometry = members[0].geometry

    def forward(self, x: Tensor) -> Tensor:
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
        for member in list(self.members)[1:]:
            total = torch.logaddexp(total, torch.log_softmax(member(x).float(), dim=1))
        return total - log(len(self.members))


Predictor = UNet | Ensemble


def members_of(network: Predictor) -> list[UNet]:
    """Return the single networks of a predictor."""
    return (
        [network] if isinstance(network, UNet) else [member for member in network.members if isinstance(member, UNet)]
    )
