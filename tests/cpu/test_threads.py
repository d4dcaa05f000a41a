"""ThreadPool of the engine: concurrent calls, interruption, late threads, fork, end of life."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.cpu import _winograd as k
from septum.cpu import inference
from septum.cpu._threads import ThreadPool
from septum.cpu._winograd_loops import work
from septum.cpu.inference import Engine
from septum.nn.unet import UNet, UNetSettings, for_prediction


def _image(*sides: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(seed))


def _engine(threads: int) -> Engine:
    return Engine(for_prediction(UNet(UNetSettings(width=4, depths=(2, 2)))), threads=threads)


def _engine_with(monkeypatch: pytest.MonkeyPatch, loops: Callable[..., None]) -> tuple[Engine, ThreadPool]:
    """Return an engine of three threads that call `loops` instead of the compiled function, and its threads."""
    made: list[ThreadPool] = []

    def make(count: int) -> ThreadPool:
        made.append(ThreadPool(count, loops))
        return made[-1]

    with monkeypatch.context() as changed:
        changed.setattr(inference, "ThreadPool", make)
        return _engine(3), made[0]


def test_concurrent_calls_are_safe() -> None:
    engine = _engine(2)
    images = [_image(*sides, seed=i) for i in range(4) for sides in ((60, 60), (76, 60))]
    expected = [engine(x) for x in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for one, other in zip(pool.map(engine, images), expected, strict=True):
                assert torch.equal(one, other)


def test_interrupted_call_leaves_no_thread_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = threading.Event()

    def loops(*arguments: int) -> None:
        if interrupted.is_set() and arguments[-1] > 0:
            raise KeyboardInterrupt
        work(*arguments)

    engine, _ = _engine_with(monkeypatch, loops)
    x = _image(60, 60)
    expected = engine(x)
    interrupted.set()
    with pytest.raises(KeyboardInterrupt):
        engine(x)
    interrupted.clear()
    assert torch.equal(engine(x), expected)


def test_python_does_nothing_between_the_loops_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only every 64 loops, so that Ctrl-C is seen."""
    opened: list[int] = []

    def loops(program: NDArray[np.int64], *arguments: Any) -> None:
        if arguments[-1]:
            opened.append(len(program))
        work(program, *arguments)

    engine, _ = _engine_with(monkeypatch, loops)
    x = _image(380, 1004)
    expected = engine(x)
    opened.clear()
    assert torch.equal(engine(x), expected)
    assert len(opened) > 1 and opened[:-1] == [64] * (len(opened) - 1)


def test_late_threads_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    is_late, woken, opened = threading.Event(), threading.Event(), []

    def loops(*arguments: int) -> None:
        if arguments[-1] > 0:
            opened.append(arguments[-1])
        elif is_late.is_set():
            woken.wait(60)
        work(*arguments)

    engine, _ = _engine_with(monkeypatch, loops)
    x = _image(60, 60)
    engine(x)
    before = len(opened)
    expected = engine(x)
    each = len(opened) - before
    is_late.set()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(engine, x)
        deadline = time.monotonic() + 60
        while len(opened) < before + 2 * each and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(opened) == before + 2 * each, "the calling thread computes all loops alone"
        woken.set()
        assert torch.equal(found.result(60), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_process_continues_with_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, threads = _engine_with(monkeypatch, work)
    x = _image(60, 60)
    expected = engine(x)  # starts threads
    threads.lock.acquire()  # as another thread may hold it
    process = multiprocessing.get_context("fork").Process(target=_same, args=(engine, x, expected))
    process.start()
    threads.lock.release()
    process.join(30)
    alive = process.is_alive()
    if alive:
        process.kill()
    assert not alive and process.exitcode == 0
    assert torch.equal(engine(x), expected)


def _same(engine: Engine, x: Tensor, expected: Tensor) -> None:
    os._exit(0 if torch.equal(engine(x), expected) else 1)


def test_threads_end_with_their_engine() -> None:
    before = set(threading.enumerate())  # those of engines that other tests of this process keep
    engine = _engine(3)
    engine(_image(60, 60))
    own = [t for t in threading.enumerate() if "septum-engine" in t.name and t not in before]
    assert own
    del engine
    gc.collect()
    for t in own:
        t.join(10)
        assert not t.is_alive()


def test_a_prediction_compiles_no_loop_of_training() -> None:
    """All loops take half a minute to compile, on a computer where none has run."""
    code = """
import torch
from septum.cpu import _winograd_loops as loops
from septum.cpu.inference import Engine
from septum.nn.unet import UNet, UNetSettings, for_prediction
Engine(for_prediction(UNet(UNetSettings(width=4, depths=(1, 1)))), threads=1)(torch.zeros(1, 1, 28, 28))
print(*(number for number, loop in loops._LOOPS.items() if loop.overloads))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {int(number) for number in done.stdout.split()} <= {*range(k.HEAD + 1)}
