"""Weight averaging: the mean of the weights over the last part of a training, often better than the last weights."""

from __future__ import annotations

from torch import Tensor

from septum.nn.unet import UNet


class WeightAverage:
    """Polynomial-decay averaging: Shamir and Zhang 2013, https://arxiv.org/abs/1212.1824, section 4.

    Parameters
    ----------
    share
        Approximate share of the steps so far that contribute, in (0, 1]; 1 is the plain mean of all.

    Attributes
    ----------
    tensors
        Averages by the names of the network's state; the running statistics of batch normalization are averaged as
        well. Empty before the first step.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.tensors: dict[str, Tensor] = {}

    def add(self, network: UNet, step: int) -> None:
        """Add the weights after step number `step`, counted from 1."""
        new = 1 / (1 + (step - 1) * self.share)
        for name, value in network.state_dict().items():
            if name not in self.tensors:
                self.tensors[name] = value.clone()
            elif value.is_floating_point():
                self.tensors[name].lerp_(value, new)
            else:  # the counter of batches
                self.tensors[name].copy_(value)
