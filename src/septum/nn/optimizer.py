"""How the weights change in a training: steps of SGD, Adam or AdamW, and the mean of the weights over the last part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from septum.nn.unet import UNet

Method = Literal["sgd", "adam", "adamw"]

_BETA2, _EPSILON = 0.999, 1e-8


class Optimizer:
    """Change parameters by their gradients, with the same bits as `torch.optim.SGD`, `Adam` and `AdamW`.

    These classes import PyTorch's compiler when they are made, two seconds at the start of each training; their
    functions do not.

    Parameters
    ----------
    parameters
        Tensors of any shape, float32; those without a gradient are left unchanged.
    method
        ``"sgd"``, ``"adam"`` or ``"adamw"``.
    momentum
        Momentum of SGD, or the first beta of Adam; the second is 0.999.
    decay
        Weight decay of AdamW; not used by the others.
    fused
        Do all operations of Adam or AdamW on a parameter in one pass; rounding differs.

    Attributes
    ----------
    state
        Tensors of each parameter by their names in `torch.optim`; empty before the first step.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        method: Method,
        *,
        momentum: float,
        decay: float = 0.0,
        fused: bool = False,
    ) -> None:
        self.parameters = list(parameters)
        self.method, self.momentum, self.decay, self.fused = method, momentum, decay, fused
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Do one step.

        Parameters
        ----------
        rate
            Learning rate, 0 or more.
        """
        changed = [p for p in self.parameters if p.grad is not None]
        gradients: Any = [p.grad for p in changed]
        if self.method == "sgd":
            self._step_by_momentum(changed, gradients, rate)
            return
        for parameter in changed:
            if parameter not in self.state:
                moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.tensor(0.0, dtype=torch.float32), **moments}
        first, second, steps = ([self.state[p][name] for p in changed] for name in ("exp_avg", "exp_avg_sq", "step"))
        (adamw if self.method == "adamw" else adam)(
            changed,
            gradients,
            first,
            second,
            [],
            steps,
            fused=True if self.fused else None,
            amsgrad=False,
            beta1=self.momentum,
            beta2=_BETA2,
            lr=rate,
            weight_decay=self.decay if self.method == "adamw" else 0.0,
            eps=_EPSILON,
            maximize=False,
        )

    def _step_by_momentum(self, changed: list[Tensor], gradients: list[Tensor], rate: float) -> None:
        buffers = [self.state.get(p, {}).get("momentum_buffer") for p in changed]
        sgd(
            changed,
            gradients,
            buffers,
            has_sparse_grad=False,
            weight_decay=0.0,
            momentum=self.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if self.momentum:
            self.state |= {p: {"momentum_buffer": b} for p, b in zip(changed, buffers, strict=True) if b is not None}


class WeightAverage:
    """The mean of the weights, often better than the last weights, by polynomial-decay averaging.

    Source: Shamir and Zhang 2013, https://arxiv.org/abs/1212.1824, section 4.

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
        self._live: tuple[UNet, dict[str, Tensor]] | None = None  # a network, and its tensors: found once

    def add(self, network: UNet, step: int) -> None:
        """Add the weights after step number `step`, counted from 1."""
        if self._live is None or self._live[0] is not network:
            self._live = network, network.state_dict()
        values = self._live[1]
        if not self.tensors:
            self.tensors = {name: value.clone() for name, value in values.items()}
            return
        floating = [name for name, value in values.items() if value.is_floating_point()]
        averages, latest = ([tensors[name] for name in floating] for tensors in (self.tensors, values))
        torch._foreach_lerp_(averages, latest, 1 / (1 + (step - 1) * self.share))
        for name in values.keys() - floating:  # the counters of batches
            self.tensors[name].copy_(values[name])
