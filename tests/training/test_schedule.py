from __future__ import annotations

import pytest

from septum.training import schedule as schedule_module
from septum.training.schedule import Schedule, fits_another, rate_factor


class _Time:
    """A clock that moves only when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(schedule_module.time, "monotonic", lambda: self.now)


def test_progress_by_steps_is_the_share_of_steps() -> None:
    schedule = Schedule(4, None)
    seen = []
    for step in range(1, 5):
        schedule.start_step()
        schedule.finish_step(step)
        seen.append(schedule.progress)
    assert seen == [0.25, 0.5, 0.75, 1.0]
    assert schedule.total(2) == 4


@pytest.mark.parametrize("drift", [1.0, 1.02, 0.98])
def test_a_budget_is_used_up_and_kept_when_the_machine_changes_speed(
    monkeypatch: pytest.MonkeyPatch, drift: float
) -> None:
    time = _Time(monkeypatch)
    schedule = Schedule(None, 100.0)
    time.now += 7  # loading
    schedule.reserved_s = 10.0
    step, duration, progress = 0, 0.5, []
    while schedule.progress < 1:
        schedule.start_step()
        time.now += duration
        duration = min(2.0, max(0.1, duration * drift))
        step += 1
        schedule.finish_step(step)
        progress.append(schedule.progress)
    assert 85.0 <= schedule.seconds <= 92.0
    assert progress == sorted(progress)
    assert schedule.total(step) == step


def test_time_of_earlier_sessions_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    time = _Time(monkeypatch)
    schedule = Schedule(None, 100.0)
    schedule.resume(0.6, 70.0)
    time.now += 5
    assert schedule.seconds == 75.0
    assert schedule.progress == 0.6


def test_the_time_of_each_activity_is_counted_over_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    time = _Time(monkeypatch)
    schedule = Schedule(None, 100.0)
    schedule.resume(0.6, 70.0, {"steps": 50.0, "preparing": 9.0})
    for seconds in (1.0, 2.0):
        with pytest.raises(KeyError), schedule.spend("steps"):  # also if the activity ends with an error
            time.now += seconds
            raise KeyError
    with schedule.spend("validating"):
        time.now += 4
    assert schedule.activities_s == {"steps": 53.0, "preparing": 9.0, "validating": 4.0}
    assert schedule.seconds == 77.0


def test_rate_rises_then_falls_to_zero() -> None:
    factors = [rate_factor(p / 100, "cosine") for p in range(101)]
    assert factors[0] < 0.1
    assert max(factors) == factors[2] > 0.99
    assert factors[2:] == sorted(factors[2:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert rate_factor(0.9, "constant") == 1.0


def test_an_open_ended_training_anneals_over_a_third_of_the_steps() -> None:
    schedule = Schedule(None, None, plateau=True)
    assert schedule.open_ended
    factors = []
    step = 0
    while schedule.progress < 1:
        factors.append(schedule.rate_factor(step, "cosine"))
        schedule.start_step()
        step += 1
        schedule.finish_step(step)
        if step == 300:
            assert schedule.progress == 0
            schedule.anneal(step, "cosine")
    assert step == 400
    assert factors[:100] == [pytest.approx((k + 1) / 100) for k in range(100)]
    assert set(factors[100:301]) == {1.0}
    assert factors[300:] == sorted(factors[300:], reverse=True)
    assert factors[350] == pytest.approx(0.5, abs=0.02)
    assert factors[-1] < 0.001


def test_a_plateau_never_prolongs_a_number_of_steps() -> None:
    for plateau_at, end in ((60, 80), (90, 100), (None, 100)):
        schedule, step, seen = Schedule(100, None, plateau=True), 0, []
        while schedule.progress < 1:
            schedule.start_step()
            step += 1
            schedule.finish_step(step)
            seen.append(schedule.progress)
            if step == plateau_at:
                schedule.anneal(step, "cosine")
        assert step == end
        assert seen == sorted(seen)


def test_a_constant_rate_ends_at_the_plateau() -> None:
    schedule = Schedule(None, None, plateau=True)
    assert schedule.rate_factor(0, "constant") == 1
    schedule.finish_step(1)
    schedule.anneal(1, "constant")
    assert schedule.progress == 1


def test_a_budget_with_until_plateau_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    time = _Time(monkeypatch)
    schedule, step = Schedule(None, 100.0, plateau=True), 0
    while schedule.progress < 1:
        schedule.start_step()
        time.now += 0.5
        step += 1
        schedule.finish_step(step)
        if schedule.anneal_start is None and schedule.progress >= schedule_module.LATEST:
            schedule.anneal(step, "cosine")
    assert 190 <= step <= 200
    assert schedule.seconds <= 100


def test_another_piece_of_work_fits_if_the_mean_of_the_earlier_ones_does() -> None:
    assert fits_another(spent_s=100.0, done=0, limit_s=1.0)
    assert fits_another(spent_s=6.0, done=3, limit_s=8.0)
    assert not fits_another(spent_s=6.0, done=3, limit_s=7.9)
