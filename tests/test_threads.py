"""Work in threads: the results in order, the first error, and no more threads than cores that may be used."""

from __future__ import annotations

import threading
import time

import pytest

from septum import threads


def test_results_have_the_order_of_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)
    names = set()

    def work(number: int) -> int:
        names.add(threading.current_thread().name)
        time.sleep(0.002 * (5 - number % 5))
        return number**2

    assert threads.map_in_threads(work, range(20)) == [number**2 for number in range(20)]
    assert 1 < len(names) <= 3


def test_the_first_error_in_the_order_of_the_items_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    done = []

    def work(number: int) -> None:
        time.sleep(0.02 if number == 1 else 0.001)
        done.append(number)
        if number in (1, 2):
            raise ValueError(str(number))

    with pytest.raises(ValueError, match="1"):
        threads.map_in_threads(work, range(1000))
    assert len(done) < 1000


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("100000", None), ("", None), ("2,1", None)])
def test_cores_are_those_of_the_process_and_omp_num_threads_lowers_them(
    monkeypatch: pytest.MonkeyPatch, asked: str, expected: int | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    every = threads.usable_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads.usable_cores() == (expected or every)
