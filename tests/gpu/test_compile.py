"""``--compile``: the networks are traced as one graph, without a break that would return to Python in each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from septum.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# PyTorch warns when it traces a function with a custom gradient.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"rank": 3, "tile": 16}, {"preset": "paper", "tile": 40}], ids=str)
def test_a_network_in_training_is_one_graph_and_is_traced_once(
    make_trainer: Callable[..., Trainer], options: dict[str, Any]
) -> None:
    trainer, graphs = make_trainer(device="cpu", precision="float32", **options), []

    def count(module: torch.fx.GraphModule, given: Any) -> Any:
        graphs.append(module)
        return module.forward

    plain = [trainer.training_step(1.0) for _ in range(4)]
    trainer = make_trainer(device="cpu", precision="float32", **options)
    trainer._parallel = torch.compile(trainer.state.supervised, backend=count, fullgraph=True)
    compiled = [trainer.training_step(1.0) for _ in range(4)]
    assert torch.stack(compiled).tolist() == pytest.approx(torch.stack(plain).tolist(), rel=1e-5)
    assert len(graphs) == 1
