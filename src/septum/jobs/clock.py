"""How far a training is: by steps, or by the time it was given."""

from __future__ import annotations

import time
from collections import deque
from math import cos, pi
from typing import Literal


class Clock:
    """Progress of a training, from 0 to 1.

    With a number of steps, progress is the share of steps done: it repeats exactly. With a budget of time, each step
    moves progress by an equal share of what is left, after the time that validations and the end will take: so the
    schedule arrives at 1 when the time is up, however the machine's speed changes on the way.

    Parameters
    ----------
    steps
        Steps of the whole training; None: the budget decides.
    budget_s
        Seconds for the whole training, loading and saving included; None: the steps decide.
    """

    def __init__(self, steps: int | None, budget_s: float | None) -> None:
        assert (steps is None) != (budget_s is None)
        self.steps = steps
        self.budget_s = budget_s
        self.progress = 0.0
        self.reserved_s = 0.0
        self._begin = time.monotonic()
        self._durations: deque[float] = deque(maxlen=25)
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, all sessions together."""
        return time.monotonic() - self._begin

    def resume(self, progress: float, spent_s: float) -> None:
        """Go on from a checkpoint."""
        self.progress = progress
        self._begin -= spent_s

    def start_step(self) -> None:
        """Note the time at which a step begins."""
        self._last = time.monotonic()

    def finish_step(self, step: int) -> None:
        """Move progress after `step` steps are done."""
        if self.steps is not None:
            self.progress = step / self.steps
            return
        self._durations.append(time.monotonic() - self._last)
        left = self.steps_left()
        self.progress = 1.0 if left <= 0 else self.progress + (1.0 - self.progress) / (left + 1)

    def steps_left(self) -> int:
        """Return how many more steps fit into the budget."""
        assert self.budget_s is not None
        # The mean, not the median, fills the budget; the first step, which sets things up, is left out.
        durations = list(self._durations)[1:] or [*self._durations, 0.1][:1]
        return int((self.budget_s - self.seconds - self.reserved_s) / max(1e-6, sum(durations) / len(durations)))

    def total(self, step: int) -> int:
        """Return the steps of the whole training as they look after `step` steps."""
        if self.steps is not None:
            return self.steps
        return step + (0 if self.progress >= 1 else max(1, self.steps_left()))


def rate_factor(progress: float, schedule: Literal["cosine", "constant"]) -> float:
    """Return the learning rate as a share of the highest: linear up over the first 2 %, then down along a cosine."""
    if schedule == "constant":
        return 1.0
    return min(1.0, (progress + 1e-3) / 0.02) * 0.5 * (1 + cos(pi * progress))
