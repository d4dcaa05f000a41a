"""What the machine allows: how wide a network in the time that is given, how many and how large tiles in its memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from septum import seeding
from septum.cpu.training import for_training
from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.unet import UNet
from septum.predict.memory import format_bytes, total_bytes, training_bytes
from septum.train.plan import fitted

if TYPE_CHECKING:
    from septum.nn.device import Device
    from septum.train.plan import Plan

WORTH_WIDER = 4000
"""A wider network is taken where so many of its steps fit into the budget."""

# Whole vectors of a processor: between them networks are trained slower (see `septum.cpu.training`).
WIDTHS = (16, 32, 64)

# No tile is divided whose output has no side of more pixels.
_SMALLEST = 16

# Of the budget: what timing may take, and what of the rest goes into steps.
_TIMING, _STEPS = 0.02, 0.75
# The first step sets things up; of the others the fastest counts.
_TIMED = 3


def step_seconds(plan: Plan, device: Device) -> float:
    """Return the seconds of one step of a plan, without drawing its tiles.

    Parameters
    ----------
    plan
        Network, tile and batch are taken from it.
    device
        Where to compute.
    """
    bfloat16 = plan.precision == "bfloat16" and device.bfloat16
    network, order = for_training(UNet(plan.network), device, bfloat16=bfloat16)
    supervised = DeeplySupervised(network, plan.deep, seed=0).train()
    draw = seeding.generator(0, "timing")
    x = torch.from_numpy(draw.standard_normal((plan.batch, plan.network.channels, *plan.tile), dtype="float32"))
    x = x.to(device.torch, memory_format=order)
    y = torch.zeros((plan.batch, *plan.output), dtype=torch.uint8, device=device.torch)
    w = torch.ones(y.shape, device=device.torch)
    optimizer = torch.optim.AdamW(supervised.parameters(), lr=1e-6)
    seconds = []
    for number in range(_TIMED):
        network.seed_dropout([number] * plan.batch)
        begin = time.monotonic()
        with device.exact():
            with device.autocast(bfloat16):
                logits = supervised(x)
            energy, annotated = supervised.loss(logits, y, w, dice=plan.dice)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(energy / annotated)
        optimizer.step()
        float(energy.detach())  # waits for a GPU
        seconds.append(time.monotonic() - begin)
    return min(seconds[1:])


def fit_width(plan: Plan, device: Device, budget_s: float) -> tuple[Plan, str]:
    """Widen the network of a plan as far as the time allows, or narrow it where too few steps would fit.

    Parameters
    ----------
    plan
        As it was chosen without a look at the clock.
    device
        Where to compute.
    budget_s
        Seconds for the whole training.

    Returns
    -------
    plan, reason
        The plan with the widest of `WIDTHS` up to 64 (32 for volumes) of which `WORTH_WIDER` steps fit, at least 16;
        and one sentence.
    """
    widest = 64 if len(plan.tile) == 2 else 32
    begin, chosen, seconds = time.monotonic(), _with_width(plan, WIDTHS[0]), 0.0
    for width in WIDTHS:
        tried = _with_width(plan, width)
        one = step_seconds(tried, device)
        if width > WIDTHS[0] and one * WORTH_WIDER > _STEPS * budget_s:
            break
        chosen, seconds = tried, one
        if width == widest or time.monotonic() - begin + 2 * _TIMED * one > _TIMING * budget_s:
            break
    fitting = int(_STEPS * budget_s / seconds)
    return chosen, (
        f"width {chosen.network.width}: a step takes {seconds:.2g} s, about {fitting} of them fit into the time; "
        f"a wider one is taken from {WORTH_WIDER} on"
    )


def training_limit(device: Device) -> int:
    """Return how many bytes a step may take: half of the machine's memory, or three quarters of the GPU's.

    It is taken from all the memory, not from what is free now, so that the same command has the same plan.
    """
    if device.torch.type == "cuda":
        return int(0.75 * torch.cuda.get_device_properties(device.torch).total_memory)
    return total_bytes() // 2


def fit_memory(plan: Plan, limit: int) -> tuple[Plan, tuple[str, ...]]:
    """Take fewer, then smaller tiles until a step fits into the memory.

    Parameters
    ----------
    plan
        As it was chosen without a look at the memory.
    limit
        Bytes.

    Returns
    -------
    plan, reasons
        The plan, and a sentence if it was changed. A tile of an output of 16 pixels or less is not divided further.
    """
    before = (plan.tile, plan.batch)
    while (needed := training_bytes(plan.network, plan.tile, plan.batch)) > limit:
        if plan.batch > 1:
            plan = plan.model_copy(update={"batch": plan.batch - 1})
            continue
        longest = max(plan.output)
        if longest <= _SMALLEST:
            break
        wanted = tuple(side // 2 if side == longest else side for side in plan.output)
        plan = plan.model_copy(update={"tile": fitted(plan.network, wanted)})
    if (plan.tile, plan.batch) == before:
        return plan, ()
    sides = " x ".join(map(str, plan.tile))
    return plan, (f"tile {sides}, {plan.batch} a step: {format_bytes(needed)} of memory, of {format_bytes(limit)}",)


def _with_width(plan: Plan, width: int) -> Plan:
    return plan.model_copy(update={"network": plan.network.model_copy(update={"width": width})})
