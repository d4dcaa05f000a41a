"""`torch.compile` for a training on a GPU, and the way back where it does not work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from septum.nn.device import out_of_memory


def compile_network(
    network: nn.Module, attempt: Callable[[nn.Module], object], *, backend: str = "inductor"
) -> tuple[nn.Module, str]:
    """Compile a network and try it; what the attempt changed in the network is undone.

    Parameters
    ----------
    network
        In training.
    attempt
        Goes forward and backward once, as training does, with the module that it is given.
    backend
        Of `torch.compile`.

    Returns
    -------
    module, problem
        The compiled network, which has the network's weights; where it cannot be compiled the network itself, and why.

    Raises
    ------
    MemoryError, RuntimeError
        If the memory of the device ran out.
    """
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made: Any = torch.compile(network, backend=backend)
    problem = ""
    try:
        attempt(made)
    except Exception as error:
        # A compiler needs other programs, and fails in ways of its own; the network works without.
        if out_of_memory(error):
            raise
        torch.compiler.reset()
        cause = getattr(error, "inner_exception", error)
        made, problem = network, f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0][:200]}"
    network.load_state_dict(before)
    network.zero_grad(set_to_none=True)
    return made, problem
