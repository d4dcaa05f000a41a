"""Deep supervision: a network in training whose coarser levels also predict and contribute to the loss."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from septum.nn.loss import class_weights, count_annotated, cross_entropy, soft_dice, sum_of_cells
from septum.nn.unet import UNet, initialize

_LEVELS = 2  # below the finest
_SHARE = 0.25  # of the weight of the level above


class DeeplySupervised(nn.Module):
    """A network with prediction heads (1x1 convolutions) on two coarser levels of its expanding path.

    The heads shorten the path of gradients to the deep layers (Lee et al. 2015, https://arxiv.org/abs/1409.5185; in a
    U-Net Isensee et al. 2018). They are not used in prediction.

    Parameters
    ----------
    network
        The network in training.
    deep
        Loss weight of the level below the finest; the next level has a quarter of it. 0: no heads.
    seed
        Seed of the initial weights of the heads.
    """

    def __init__(self, network: UNet, deep: float, *, seed: int) -> None:
        super().__init__()
        self.network, self.deep = network, deep
        settings, made = network.settings, type(network.head)
        levels = range(1, min(_LEVELS + 1, len(network.merge)) if deep else 1)
        self.heads = nn.ModuleList(made(settings.width * 2**level, settings.classes, 1) for level in levels)
        initialize(self.heads, seed)
        self.heads.to(network.head.weight.device)

    @torch.no_grad()
    def set_prior(self, shares: NDArray[np.float64]) -> None:
        """Set the biases of the heads to the logarithms of shares of the classes, so that training starts from these.

        With biases of 0 all classes are equally probable at first. Biases change slowly: with many classes, the first
        hundred steps would mostly teach the network that nearly everything is background.

        Source: Lin et al. 2017 (https://arxiv.org/abs/1708.02002), section 3.3, for two classes.

        Parameters
        ----------
        shares
            ``(K,)`` float64 in 0..1, none of them 0.
        """
        for head in (self.network.head, *self.heads):
            head.bias.copy_(torch.from_numpy(np.log(shares)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images to the logits of the network and of the coarser levels, if any.

        Parameters
        ----------
        x
            ``(B, C, *tile)`` float32, normalized; see `septum.nn.unet.UNet.forward`.

        Returns
        -------
        logits
            ``(B, K, *output)`` floats, logits of the network, then those of coarser levels: level `k` has about 2^k
            times fewer pixels along each pooled axis.
        """
        x, skips = self.network.contract(x)
        coarse: list[Tensor] = []
        for level in reversed(range(len(skips))):
            x = self.network.expand(x, skips[level], level)
            if 0 < level <= len(self.heads):
                coarse.append(self.heads[level - 1](x))
        return (self.network.head(x), *reversed(coarse))

    def loss(self, logits: tuple[Tensor, ...], target: Tensor, weight: Tensor, *, dice: float) -> tuple[Tensor, Tensor]:
        """Compute the loss sum to minimize, and the number of annotated pixels to divide it by.

        Parameters
        ----------
        logits
            From `forward`: ``(B, K, *S)`` floats each.
        target
            ``(B, *output)`` uint8, class indices; 255 is ignored.
        weight
            ``(B, *output)`` float32, >= 0.
        dice
            Weight of the soft Dice loss of the finest level.

        Returns
        -------
        energy, annotated
            Two scalars, float32, >= 0.
        """
        weights = class_weights(target, weight, logits[0].shape[1])
        energy, annotated = cross_entropy(logits[0], weights), count_annotated(target)
        if dice:
            energy = energy + dice * soft_dice(logits[0], target)
        for level, coarse in enumerate(logits[1:], start=1):
            # A pixel of a coarse level is compared with all pixels of the finest level that it covers: the sum of their
            # weights, class by class, gives the same loss as a copy of its logits for each of them.
            factors = [prod(axis) for axis in zip(*self.network.pools[:level], strict=True)]
            share = self.deep * _SHARE ** (level - 1)
            energy = energy + share * cross_entropy(coarse, sum_of_cells(weights, factors, coarse.shape[2:]))
        return energy, annotated
