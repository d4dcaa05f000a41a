"""The numbers that a training's state is made of beside its tensors, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# `best` and `row` are special: see `septum.train.trainer.Trainer`.
NUMBERS = ("step", "progress", "undone", "validated", "best_step", "stale", "reference", "cooling", "cooling_end")


def checked(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the numbers of a state.

    Raises
    ------
    ValueError, TypeError, KeyError
        If one is missing or cannot be.
    """
    for name in ("step", "undone", "validated", "best_step", "stale", "cooling_end"):
        if not isinstance(state[name], int) or state[name] < 0:
            raise ValueError(f"{name} is {state[name]!r}")
    if state["cooling"] != -1.0 and not 0 <= float(state["cooling"]) <= 1:
        raise ValueError(f"cooling is {state['cooling']!r}")
    for name in ("progress", "best", "reference"):
        number = state[name]
        if not (name == "best" and number is None) and not 0 <= float(number) <= 1:
            raise ValueError(f"{name} is {number!r}")
    row = state["row"]
    if row is not None and not all(isinstance(v, int | float) for v in dict(row).values()):
        raise ValueError("a line of the log holds no numbers")
    return state
