"""Progress of a training: by steps, by a time budget, or until the validation scores stop improving."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, cos, pi
from typing import Literal

from septum.errors import UsageError
from septum.words import pluralize

Activity = Literal["preparing", "steps", "validating", "finishing"]
"""What the time of a training is spent in; "finishing" is tuning, the final scores and writing the model."""

PATIENCE = 5
"""A plateau is reached after this many validations without a gain (`septum.training.model_selection.GAIN`)."""

LATEST = 0.75
"""Share of the steps or of the time after which annealing begins, with or without a plateau."""

FEWEST_STEPS = 50
"""With fewer steps a network has learned next to nothing."""

TIMED_STEPS = 3
"""After this many steps the number of steps that fit into a time budget is known well enough for a warning."""

USEFUL_STEPS = 300
OR_STEPS = f", or --steps {USEFUL_STEPS}"
"""Steps that an advice on the budget reckons with."""

WARM_UP_STEPS = 100
"""Steps in which the rate of a training to a plateau rises; their scores begin no plateau."""

HOPELESS_STEPS = 2000
"""A score that is still 0 after this number of steps may be a plateau, where nothing else ends the training."""


class Schedule:
    """Progress of a training, from 0 to 1, and its learning rate.

    With a number of steps, progress is the share of steps done, and repeats exactly. With a time budget, each step
    advances progress by an equal share of the time left after the time reserved for validations and the end: progress
    reaches 1 when the time is over, also if the speed of the machine changes on the way.

    A training to a plateau keeps its learning rate until `PATIENCE` validations have brought no gain, or until three
    quarters of its steps or time are over, if it has an end; then it anneals: the rate falls to 0 over a third of the
    steps done so far. Without an end, progress is 0 until then. With an end, a score that is still 0 is no plateau.

    Parameters
    ----------
    steps
        Steps of the whole training; None: the budget decides.
    budget_s
        Seconds for the whole training, loading and saving included; None: the steps decide.
    plateau
        Train to a plateau; required if both others are None.

    Attributes
    ----------
    anneal_start
        Progress at which annealing began, 0..1; None before.
    anneal_end
        Step at which the rate is 0; None before annealing.
    to_plateau
        Steps until the plateau if the score does not improve any more.
    reserved_s
        Seconds of the budget that are kept for validations and the end.
    activities_s
        Seconds of each activity so far, all sessions together.
    """

    def __init__(self, steps: int | None, budget_s: float | None, *, plateau: bool = False) -> None:
        assert steps is None or budget_s is None
        assert plateau or steps is not None or budget_s is not None
        self.steps = steps
        self.budget_s = budget_s
        self.plateau = plateau
        self.anneal_start: float | None = None
        self.anneal_end: int | None = None
        self.to_plateau = 0
        self.progress = 0.0
        self.reserved_s = 0.0
        self.activities_s: dict[str, float] = {}
        self._begin = time.monotonic()
        self._durations: deque[float] = deque(maxlen=25)
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since the run began, all sessions together."""
        return time.monotonic() - self._begin

    @property
    def open_ended(self) -> bool:
        """Return True if nothing but a plateau ends this training."""
        return self.steps is None and self.budget_s is None

    def resume(self, progress: float, seconds: float, activities_s: Mapping[str, float] | None = None) -> None:
        """Continue from the progress and the seconds of a checkpoint, and those of each activity."""
        self.progress = progress
        self._begin -= seconds
        for activity, before_s in (activities_s or {}).items():
            self.activities_s[activity] = self.activities_s.get(activity, 0.0) + before_s

    @contextmanager
    def spend(self, activity: Activity) -> Iterator[None]:
        """Count the time of the body as that of an activity."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.activities_s[activity] = self.activities_s.get(activity, 0.0) + time.monotonic() - begin

    def anneal_is_due(self, no_improvement: int, *, learned: bool) -> bool:
        """Return True if annealing is to begin after this number of validations without a gain.

        Parameters
        ----------
        no_improvement
            The number of validations, 0 or more.
        learned
            True if a score was above 0.
        """
        if not self.plateau or self.anneal_start is not None:
            return False
        return self.progress >= LATEST or (no_improvement >= PATIENCE and (learned or self.open_ended))

    def anneal(self, step: int, schedule: Literal["cosine", "constant"]) -> None:
        """Begin to lower the rate after `step` steps; with a constant rate, end the training."""
        self.anneal_start = self.progress
        self.anneal_end = step if schedule == "constant" else step + max(1, step // 3)
        if self.anneal_end == step:
            self.progress = 1.0

    def start_step(self) -> None:
        """Record the time at which a step begins."""
        self._last = time.monotonic()

    def finish_step(self, step: int) -> None:
        """Advance progress after `step` steps."""
        self._durations.append(time.monotonic() - self._last)
        if self.steps is not None and self.anneal_end is None:
            self.progress = step / self.steps
        elif (left := self._steps_after(step)) is not None:
            self.progress = 1.0 if left <= 0 else self.progress + (1.0 - self.progress) / (left + 1)

    def _steps_after(self, step: int) -> int | None:
        """Return how many steps follow `step` steps; None if unknown."""
        ends = [] if self.budget_s is None else [self.steps_left()]
        ends += [end - step for end in (self.steps, self.anneal_end) if end is not None]
        return min(ends, default=None)

    def steps_left(self) -> int:
        """Estimate how many more steps fit into the budget."""
        assert self.budget_s is not None
        return int((self.budget_s - self.seconds - self.reserved_s) / self.step_s)

    @property
    def step_s(self) -> float:
        """Return the seconds of a step: the mean, not the median, fills the budget."""
        # The first step includes the setup and is left out.
        durations = list(self._durations)[1:] or [*self._durations, 0.1][:1]
        return max(1e-6, sum(durations) / len(durations))

    def total(self, step: int) -> int:
        """Estimate the steps of the whole training after `step` steps."""
        if self.steps is not None and not self.plateau:
            return self.steps
        left = 0 if self.progress >= 1 else self._steps_after(step)
        if left is None:
            return step + self.to_plateau + (step + self.to_plateau) // 3
        return step + (0 if self.progress >= 1 else max(1, left))

    def rate_factor(self, step: int, schedule: Literal["cosine", "constant"]) -> float:
        """Return the learning rate of the step after `step` steps, relative to the highest, 0..1."""
        if not self.plateau:
            return rate_factor(self.progress, schedule)
        if schedule == "constant":
            return 1.0
        warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
        if self.anneal_start is None:
            return warm_up
        return warm_up * 0.5 * (1 + cos(pi * (self.progress - self.anneal_start) / (1.0 - self.anneal_start)))


def rate_factor(progress: float, schedule: Literal["cosine", "constant"]) -> float:
    """Return the learning rate relative to the highest: linear warm-up over the first 2 %, then a cosine down to 0."""
    if schedule == "constant":
        return 1.0
    return min(1.0, (progress + 1e-3) / 0.02) * 0.5 * (1 + cos(pi * progress))


def short_budget(schedule: Schedule, step: int, *, prepared_s: float, ended: bool = True) -> str:
    """Return a warning if too few steps to learn anything fit into a time budget; else ``""``.

    Parameters
    ----------
    schedule
        The schedule after the last step, or after some steps.
    step
        Number of steps done.
    prepared_s
        Seconds before the first step of this session.
    ended
        True after the last step; False: the steps to come are estimated.
    """
    budget_s, total = schedule.budget_s, step if ended else schedule.total(step)
    if budget_s is None or total >= FEWEST_STEPS:
        return ""
    needed = prepared_s + USEFUL_STEPS * schedule.step_s + schedule.reserved_s
    advice = f"give --budget {max(1, ceil(1.2 * needed / 60))}m or more{OR_STEPS}"
    share = f"; preparing the data took {prepared_s:.0f} s" if prepared_s > budget_s / 2 else ""
    steps = pluralize(total, "step")
    if ended:
        return f"the model has learned next to nothing: {steps} fitted into {budget_s:g} s{share}; {advice}"
    return (
        f"the model will learn next to nothing: about {steps} {'fits' if total == 1 else 'fit'} into {budget_s:g} s"
        f"{share}; stop with Ctrl-C, then "
        f"{advice}, and a new folder with -o"
    )


def nothing_learned(schedule: Schedule, step: int, *, learned: bool) -> str:
    """Return a warning if a training to a plateau ended after `step` steps without a score above 0; else ``""``."""
    if not schedule.plateau or learned:
        return ""
    return (
        f"the score of the held-out images is still 0 after {pluralize(step, 'step')}: look with `septum check` "
        "whether the masks fit the images, or train longer with another --budget or --steps and a new folder with -o"
    )


def fits_another(spent_s: float, done: int, limit_s: float) -> bool:
    """Return True if another piece of work fits into a time limit, judged by those that are done; the first one always.

    Parameters
    ----------
    spent_s, limit_s
        Seconds, 0 or more: spent on `done` pieces of similar work, and the limit for all together.
    done
        Number of pieces, 0 or more.
    """
    return done == 0 or spent_s * (done + 1) / done <= limit_s


def require_held_out(images: int) -> None:
    """Refuse a training to a plateau if no image is held out.

    Raises
    ------
    UsageError
        If the number of held-out images is 0.
    """
    if not images:
        raise UsageError(
            "a training to a plateau without held-out images",
            "at least two annotated images, one of them to measure the improvement",
            "give --budget TIME or --steps N, without --until-plateau",
        )
