"""A compiled network is the same network; where it cannot be compiled, training goes on without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from septum.nn.torch_compile import compile_network
from septum.nn.unet import UNet, UNetSettings

# What PyTorch's own tracing of a function with a gradient of its own says.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def _step(module: nn.Module) -> None:
    out: torch.Tensor = module(torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(0)))
    torch.autograd.backward(out.square().mean())


def _network() -> UNet:
    return UNet(UNetSettings(depths=(1, 1), width=2, batch_norm=True), seed=1).train()


def test_a_compiled_network_trains_as_the_network_and_the_attempt_leaves_no_trace() -> None:
    network, plain = _network(), _network()
    made, problem = compile_network(network, _step, backend="aot_eager")  # all of it but the making of code
    assert problem == "" and made is not network
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert all(p.grad is None for p in network.parameters())
    _step(made)
    _step(plain)
    for (name, p), q in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_what_cannot_be_compiled_is_trained_without_and_it_is_said_why() -> None:
    def broken(*_: object) -> Callable[..., object]:
        raise OSError("no compiler here\nmore words")

    network = _network()
    made, problem = compile_network(network, _step, backend=broken)  # type: ignore[arg-type]
    assert made is network
    assert "no compiler here" in problem and "more words" not in problem
    _step(made)


def test_memory_that_runs_out_is_not_taken_for_a_compiler() -> None:
    def too_large(_: nn.Module) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compile_network(_network(), too_large, backend="eager")
