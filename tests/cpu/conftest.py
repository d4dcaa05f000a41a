from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give new layers the same weights in each run: rounding can move a value over the bend of a ReLU."""
    torch.manual_seed(0)
