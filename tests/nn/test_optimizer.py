from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from septum.nn.optimizer import Method, Optimizer

OTHERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=1.0, momentum=0.9),
    "adam": lambda weights: torch.optim.Adam(weights, lr=1.0, betas=(0.9, 0.999)),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1.0, betas=(0.9, 0.999), weight_decay=0.01),
}


@pytest.mark.parametrize(("method", "fused"), [("sgd", False), ("adam", False), ("adamw", False), ("adamw", True)])
def test_steps_and_state_are_those_of_torch_to_the_bit(method: Method, fused: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    own = [torch.randn(shape, generator=draw, requires_grad=True) for shape in ((4, 3), (7,), (2, 2))]
    others = [w.detach().clone().requires_grad_() for w in own]
    optimizer, other = Optimizer(own, method, momentum=0.9, decay=0.01, fused=fused), OTHERS[method](others)
    other.param_groups[0]["fused"] = fused or None
    for rate in (0.1, 0.05, 0.0):
        other.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        for number, (a, b) in enumerate(zip(own, others, strict=True)):
            gradient = torch.randn(a.shape, generator=draw)
            a.grad, b.grad = (None, None) if number == 2 else (gradient, gradient.clone())
        optimizer.step(rate)
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(own, others, strict=True))
    for a, b in zip(own[:2], others[:2], strict=True):
        assert optimizer.state[a].keys() == other.state[b].keys()
        assert all(torch.equal(value, other.state[b][name]) for name, value in optimizer.state[a].items())
    assert own[2] not in optimizer.state


def test_a_step_does_not_import_the_compiler_of_torch() -> None:
    code = """
import sys, torch
from septum.nn.optimizer import Optimizer
weight = torch.ones(3, requires_grad=True)
for method in ("sgd", "adam", "adamw"):
    optimizer = Optimizer([weight], method, momentum=0.9)
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step(0.1)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
