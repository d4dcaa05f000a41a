"""Start several processes of one training on this machine, and end them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from septum.errors import SeptumError, UsageError

# The others notice by themselves that one has ended, say so and leave; those that do not are ended after this time.
_PATIENCE_S = 20.0
LAUNCHER = "SEPTUM_LAUNCHER"


class LaunchError(SeptumError):
    """One of the processes that were started together has failed."""


def launch(count: int, command: Sequence[str], *, patience_s: float = _PATIENCE_S) -> int:
    """Run a command in several processes that find each other, and wait for all of them.

    Signals to end are passed on. When one process fails, the others are ended.

    Parameters
    ----------
    count
        How many, 2 or more.
    command
        The program and its arguments, the same for all.
    patience_s
        How long the others may take to end after one has failed.

    Returns
    -------
    int
        The exit code that all processes have: 0, or that of an error which they have said, or of a signal.

    Raises
    ------
    LaunchError
        If a process was killed.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        # Ctrl-C in a terminal reaches all processes by itself.
        if number != signal.SIGINT:
            _send(processes, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        environments = _environments(count)
        processes += [subprocess.Popen(list(command), env=env) for env in environments]
        failed = _wait(processes, patience_s)
    finally:
        _send(processes, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed is None:
        return processes[0].wait()
    code = processes[failed].wait()
    if code >= 0:
        return code
    raise LaunchError(
        f"process {failed} of {count} was killed by signal {-code}; the others have ended",
        "all processes to work until the end",
        "if the memory was not enough, give fewer --devices; the same command goes on from the last checkpoint",
    )


def starts_processes(wanted: int) -> bool:
    """Say whether this process is to start the `wanted` ones, and is not one of several itself.

    Raises
    ------
    UsageError
        If it is one of another number of processes.
    """
    world = os.environ.get("WORLD_SIZE")
    if wanted > 1 and world is not None and world != str(wanted):
        raise UsageError(
            f"--devices {wanted} in one of {world} processes that were started together",
            "processes that are started once",
            "leave --devices out where torchrun or srun starts the processes",
        )
    return wanted > 1 and world is None


def _wait(processes: Sequence[subprocess.Popen[bytes]], patience_s: float) -> int | None:
    """Wait until all have ended; return the first that failed."""
    failed, deadline = None, 0.0
    while any(p.poll() is None for p in processes):
        codes = [p.poll() for p in processes]
        if failed is None and any(codes):
            failed = _cause(codes)
            deadline = time.monotonic() + patience_s
        if failed is not None and time.monotonic() > deadline:
            _send(processes, signal.SIGTERM)
            time.sleep(1.0)
            break
        time.sleep(0.05)
    return _cause([p.poll() for p in processes]) if failed is None else failed


def _cause(codes: Sequence[int | None]) -> int | None:
    """Return which of several that failed is the cause: one that was killed, which the others have noticed."""
    return min((i for i, code in enumerate(codes) if code), key=lambda i: codes[i] or 0, default=None)


def _environments(count: int) -> list[dict[str, str]]:
    """Return the environment of each process: what ``torchrun`` would set."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared |= {LAUNCHER: str(os.getpid())}
    # Processes that all compute with every core would stand in each other's way.
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return [
        {**os.environ, **shared, "OMP_NUM_THREADS": threads, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(count)
    ]


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
