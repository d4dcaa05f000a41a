from __future__ import annotations

import pytest

from septum.jobs import clock as clock_module
from septum.jobs.clock import Clock, rate_factor


class _Time:
    """A clock that moves only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(clock_module.time, "monotonic", lambda: self.now)


def test_progress_by_steps_is_the_share_of_steps() -> None:
    clock = Clock(4, None)
    seen = []
    for step in range(1, 5):
        clock.start_step()
        clock.finish_step(step)
        seen.append(clock.progress)
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert clock.total(2) == 4


@pytest.mark.parametrize("drift", [1.0, 1.02, 0.98])
def test_a_budget_is_filled_but_not_exceeded_even_when_the_machine_changes_speed(
    monkeypatch: pytest.MonkeyPatch, drift: float
) -> None:
    time = _Time(monkeypatch)
    clock = Clock(None, 100.0)
    time.now += 7  # loading
    clock.reserved_s = 10.0
    step, duration, progress = 0, 0.5, []
    while clock.progress < 1:
        clock.start_step()
        time.now += duration
        duration = min(2.0, max(0.1, duration * drift))
        step += 1
        clock.finish_step(step)
        progress.append(clock.progress)
    assert 85.0 <= clock.seconds <= 92.0
    assert progress == sorted(progress)
    assert clock.total(step) == step


def test_time_of_earlier_sessions_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    time = _Time(monkeypatch)
    clock = Clock(None, 100.0)
    clock.resume(0.6, 70.0)
    time.now += 5
    assert clock.seconds == 75.0
    assert clock.progress == 0.6


def test_rate_rises_then_falls_to_zero() -> None:
    factors = [rate_factor(p / 100, "cosine") for p in range(101)]
    assert factors[0] < 0.1
    assert max(factors) == factors[2] > 0.99
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert rate_factor(0.9, "constant") == 1.0
