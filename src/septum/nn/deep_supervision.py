"""A network in training and its loss; coarser levels may predict and be judged as well (deep supervision)."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from septum.nn.loss import soft_dice, weighted_cross_entropy
from septum.nn.unet import UNet, center_crop, initialize

_LEVELS = 2  # below the finest
_SHARE = 0.25  # of the weight of the level above


class DeeplySupervised(nn.Module):
    """A network, beside which two coarser levels of its expanding path predict through a 1x1 convolution each.

    Gradients reach the deep layers on a short way (Lee et al. 2015, https://arxiv.org/abs/1409.5185; in a U-Net Isensee
    et al. 2018). In prediction these layers are not used.

    Parameters
    ----------
    network
        As it trains.
    deep
        Weight of the loss of the level below the finest, a quarter of it for the next; 0: the network alone.
    seed
        Of the first weights of the layers beside it.
    """

    def __init__(self, network: UNet, deep: float, *, seed: int) -> None:
        super().__init__()
        self.network, self.deep = network, deep
        settings, made = network.settings, type(network.head)
        levels = range(1, min(_LEVELS + 1, len(network.merge)) if deep else 1)
        self.heads = nn.ModuleList(made(settings.width * 2**level, settings.classes, 1) for level in levels)
        initialize(self.heads, seed)
        self.heads.to(network.head.weight.device)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images to logits, as the network does: ``(B, K, *output)``, then those of coarser levels, if any.

        The logits of level `k` have about 2^k times fewer pixels along each axis that was pooled.
        """
        x, skips = self.network.contract(x)
        coarse: list[Tensor] = []
        for level in reversed(range(len(skips))):
            x = self.network.expand(x, skips[level], level)
            if 0 < level <= len(self.heads):
                coarse.append(self.heads[level - 1](x))
        return (self.network.head(x), *reversed(coarse))

    def loss(self, logits: tuple[Tensor, ...], target: Tensor, weight: Tensor, *, dice: float) -> tuple[Tensor, Tensor]:
        """Return what is to be made small, and the number of annotated pixels by which it is to be divided.

        Parameters
        ----------
        logits
            From `forward`.
        target, weight
            See `septum.nn.loss.weighted_cross_entropy`.
        dice
            Share of the soft Dice loss of the finest level.
        """
        energy, annotated = weighted_cross_entropy(logits[0], target, weight)
        if dice:
            energy = energy + dice * soft_dice(logits[0], target)
        for level, coarse in enumerate(logits[1:], start=1):
            # Each pixel of the coarse level answers for all those of the finest that it became.
            factor = [prod(axis) for axis in zip(*self.network.pools[:level], strict=True)]
            fine = center_crop(nn.functional.interpolate(coarse.float(), scale_factor=factor), target.shape[1:])
            energy = energy + self.deep * _SHARE ** (level - 1) * weighted_cross_entropy(fine, target, weight)[0]
        return energy, annotated
