"""How far a training is: by steps, by the time it was given, or by whether it still gets better."""

from __future__ import annotations

import time
from collections import deque
from math import cos, pi
from typing import Literal

PATIENCE = 5
"""A plateau is reached after this many validations without a gain (`septum.train.model_selection.GAIN`)."""

LATEST = 0.75
"""Share of its steps or time after which the rate goes down, plateau or not."""

_WARM_STEPS = 100


class Schedule:
    """Progress of a training, from 0 to 1.

    With a number of steps, progress is the share of steps done: it repeats exactly. With a budget of time, each step
    moves progress by an equal share of what is left, after the time that validations and the end will take: so the
    schedule arrives at 1 when the time is up, however the machine's speed changes on the way.

    A training to a plateau keeps its rate until `PATIENCE` validations have brought no gain, or until three quarters of
    its steps or time are gone, if it has an end; then the rate goes down to 0 over a third of the steps done so far.
    Without an end progress is 0 until then.

    Parameters
    ----------
    steps
        Steps of the whole training; None: the budget decides.
    budget_s
        Seconds for the whole training, loading and saving included; None: the steps decide.
    plateau
        Train to a plateau; the only end there is where both are None.

    Attributes
    ----------
    cooling, cooling_end
        Progress at which the rate began to go down and the step at which it is 0; None before. Only to a plateau.
    to_plateau
        Steps until a plateau would be seen if nothing got better any more.
    """

    def __init__(self, steps: int | None, budget_s: float | None, *, plateau: bool = False) -> None:
        assert steps is None or budget_s is None
        assert plateau or steps is not None or budget_s is not None
        self.steps = steps
        self.budget_s = budget_s
        self.plateau = plateau
        self.cooling: float | None = None
        self.cooling_end: int | None = None
        self.to_plateau = 0
        self.progress = 0.0
        self.reserved_s = 0.0
        self._begin = time.monotonic()
        self._durations: deque[float] = deque(maxlen=25)
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the run began, all sessions together."""
        return time.monotonic() - self._begin

    @property
    def open(self) -> bool:
        """Nothing but a plateau ends this training."""
        return self.steps is None and self.budget_s is None

    def resume(self, progress: float, spent_s: float) -> None:
        """Go on from a checkpoint."""
        self.progress = progress
        self._begin -= spent_s

    def cool(self, step: int, schedule: Literal["cosine", "constant"]) -> None:
        """Let the rate go down from now on, after `step` steps; a constant one ends the training."""
        self.cooling = self.progress
        self.cooling_end = step if schedule == "constant" else step + max(1, step // 3)
        if self.cooling_end == step:
            self.progress = 1.0

    def start_step(self) -> None:
        """Note the time at which a step begins."""
        self._last = time.monotonic()

    def finish_step(self, step: int) -> None:
        """Move progress after `step` steps are done."""
        self._durations.append(time.monotonic() - self._last)
        if self.steps is not None and self.cooling_end is None:
            self.progress = step / self.steps
        elif (left := self._left(step)) is not None:
            self.progress = 1.0 if left <= 0 else self.progress + (1.0 - self.progress) / (left + 1)

    def _left(self, step: int) -> int | None:
        """Return how many steps follow `step` steps; None where nobody knows."""
        ends = [] if self.budget_s is None else [self.steps_left()]
        ends += [end - step for end in (self.steps, self.cooling_end) if end is not None]
        return min(ends, default=None)

    def steps_left(self) -> int:
        """Return how many more steps fit into the budget."""
        assert self.budget_s is not None
        # The mean, not the median, fills the budget; the first step, which sets things up, is left out.
        durations = list(self._durations)[1:] or [*self._durations, 0.1][:1]
        return int((self.budget_s - self.seconds - self.reserved_s) / max(1e-6, sum(durations) / len(durations)))

    def total(self, step: int) -> int:
        """Return the steps of the whole training as they look after `step` steps."""
        if self.steps is not None and not self.plateau:
            return self.steps
        left = 0 if self.progress >= 1 else self._left(step)
        if left is None:
            return step + self.to_plateau + (step + self.to_plateau) // 3
        return step + (0 if self.progress >= 1 else max(1, left))

    def rate_factor(self, step: int, schedule: Literal["cosine", "constant"]) -> float:
        """Return the learning rate of the step after `step` steps as a share of the highest."""
        if not self.plateau:
            return rate_factor(self.progress, schedule)
        if schedule == "constant":
            return 1.0
        warm = min(1.0, (step + 1) / _WARM_STEPS)
        if self.cooling is None:
            return warm
        return warm * 0.5 * (1 + cos(pi * (self.progress - self.cooling) / (1.0 - self.cooling)))


def rate_factor(progress: float, schedule: Literal["cosine", "constant"]) -> float:
    """Return the learning rate as a share of the highest: linear up over the first 2 %, then down along a cosine."""
    if schedule == "constant":
        return 1.0
    return min(1.0, (progress + 1e-3) / 0.02) * 0.5 * (1 + cos(pi * progress))
