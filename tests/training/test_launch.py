"""Processes that one command starts: they end together, and the cause of a failure is printed once."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator

import pytest

from septum.errors import UsageError
from septum.training.distributed import LaunchError, launch, starts_processes

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals"),
    # PyTorch's launcher leaves its log files open.
    pytest.mark.filterwarnings("ignore:.*stderr.log:pytest.PytestUnraisableExceptionWarning"),
]

RANK = "import os, sys, time, signal\nrank = int(os.environ['RANK'])\n"


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the environment and the signal handlers, which PyTorch's launcher replaces for good."""
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in handled}
    for name in ("SEPTUM_LAUNCHER", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "")
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # those log files
        gc.collect()


def _launch(code: str) -> int:
    return launch(2, [sys.executable, "-c", RANK + code])


def test_processes_get_rank_and_address_and_the_output_of_the_first_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    names = "'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'OMP_NUM_THREADS', 'SEPTUM_LAUNCHER'"
    assert _launch(f"print(rank, *(os.environ[name] for name in ({names})), file=sys.stderr)") == 0
    shown = capfd.readouterr().err
    assert shown.split() == ["0", "2", "0", "127.0.0.1", os.environ["OMP_NUM_THREADS"], str(os.getpid())]


def test_the_error_of_one_process_ends_all_and_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert _launch("sys.exit((print('error: no memory', file=sys.stderr), 2)[1]) if rank else time.sleep(60)") == 2
    assert capfd.readouterr().err == "error: no memory\n"


def test_the_same_error_of_all_processes_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert _launch("print('error: no data', file=sys.stderr); sys.exit(2)") == 2
    assert capfd.readouterr().err == "error: no data\n"


def test_a_killed_process_is_reported_as_the_cause() -> None:
    with pytest.raises(LaunchError, match=r"process 1 of 2 was killed by signal 9; .*\n.*\n.*continues from the last"):
        _launch("os.kill(os.getpid(), signal.SIGKILL) if rank else (time.sleep(3), sys.exit(75))")


def test_a_process_that_does_not_answer_is_reported() -> None:
    with pytest.raises(LaunchError, match="a process of 2 did not answer for 600 s"):
        _launch("time.sleep(60) if rank else sys.exit(75)")


def test_only_a_process_that_was_not_started_with_others_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert starts_processes(2)
    assert not starts_processes(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not starts_processes(2)
    with pytest.raises(UsageError, match="leave --devices out"):
        starts_processes(3)
