"""Several processes train one network: torch.distributed, started by ``torchrun``, SLURM or ``--devices``."""

from __future__ import annotations

import ctypes
import inspect
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from septum.errors import SeptumError, UsageError
from septum.nn.device import Device
from septum.nn.sync_batchnorm import synchronize_batchnorm
from septum.training.interrupt import LAUNCHER

# How long a process waits for the others. Longer than the slowest work that one of them does alone: reading all images
# over a network, or writing a large checkpoint.
TIMEOUT_S = 600.0

# Exit code of a process that `launch` started and that lost the others: the launcher reports the cause, once.
_LOST_OTHERS = 75
# The cause of a failure is among the processes that end within this time of the first, in seconds.
_SOON_S = 10


class ProcessesError(SeptumError):
    """Another process of the same training has ended or does not answer."""


class LaunchError(SeptumError):
    """A process that `launch` started was killed, or did not answer."""


@dataclass(frozen=True)
class Processes:
    """The processes of one training. All of them call every method, in the same order.

    Parameters
    ----------
    rank
        Index of this process.
    world
        Number of processes.
    local_rank
        Index of this process on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Return True if this process writes the files and yields the events."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return the indices of 0 .. count - 1 that belong to this process; each belongs to one process."""
        return range(self.rank, count, self.world)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes: any values, of the same shape, dtype and device."""
        if self.world > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def broadcast(self, value: float) -> float:
        """Return the value of the first process in all processes."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Return True if the flag is set in any process."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.world > 1 else flag

    def broadcast_text(self, text: str) -> str:
        """Return the text of the first process in all processes."""
        return self.gather([np.frombuffer(text.encode(), np.uint8)])[0][0].astype(np.uint8).tobytes().decode()

    def all_equal(self, text: str) -> bool:
        """Return True if all processes have the same text."""
        return not self.any(self.broadcast_text(text) != text)

    def gather(self, arrays: Sequence[NDArray[np.integer]]) -> list[list[NDArray[np.int64]]]:
        """Return the arrays of every process, in the order of the processes.

        Parameters
        ----------
        arrays
            Any number of ``(n,)`` integer arrays of any values; number and lengths may differ between processes.

        Returns
        -------
        list of list of ndarray
            For each process its arrays, ``(n,)`` int64 of any values.
        """
        here = [np.asarray(a, np.int64) for a in arrays]
        if self.world == 1:
            return [here]
        flat = torch.from_numpy(np.concatenate([[len(here)], [len(a) for a in here], *here]).astype(np.int64))
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        distributed.all_gather(lengths, torch.tensor([len(flat)]))
        longest = max(int(n) for n in lengths)
        parts = [torch.zeros(longest, dtype=torch.int64) for _ in range(self.world)]
        distributed.all_gather(parts, nn.functional.pad(flat, (0, longest - len(flat))))
        return [_unpacked(part.numpy()) for part in parts]

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Wrap the network so that backward averages gradients over the processes; with one process return it as it is.

        Replace batch normalization in `network` by one with the statistics of the tiles of all processes.
        """
        if self.world == 1:
            return network
        synchronize_batchnorm(network)
        ids = [device.index] if device.type == "cuda" else None
        # Running statistics come from all tiles, so they are equal everywhere. PyTorch renamed this option.
        names = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {"device_ids": ids, buffers: False}
        # Of weights with a side of 1, whose bytes lie alike in both layouts.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(network, **options)


def _unpacked(flat: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    count = int(flat[0])
    ends = 1 + count + np.cumsum(flat[1 : 1 + count])
    return [flat[end - length : end] for end, length in zip(ends, flat[1 : 1 + count], strict=True)]


@contextmanager
def processes_of_this_training(timeout_s: float = TIMEOUT_S) -> Iterator[Processes]:
    """Join the processes that were started together, if there are several; leave them at the end.

    Parameters
    ----------
    timeout_s
        How long to wait for another process.

    Raises
    ------
    UsageError
        If the environment that a launcher sets is incomplete, or nothing answers at its address.
    ProcessesError
        If another process ended or does not answer, also while the body runs. Under `launch`, `SystemExit` instead.
    """
    processes = described_processes()
    if processes.world == 1:
        yield processes
        return
    try:
        # Gloo besides NCCL: for numbers on the CPU, and for training there with --device cpu.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, rank=processes.rank, world_size=processes.world, timeout=timedelta(seconds=timeout_s)
        )
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '?')}"
        raise UsageError(
            f"process {processes.rank} of {processes.world} cannot reach the others at {address}",
            "MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE of one training, as torchrun sets them",
            f"start all processes with one torchrun or srun command ({_first_line(error)})",
        ) from None
    try:
        yield processes
    except RuntimeError as error:
        _keep_forever(distributed.group.WORLD)
        if not _is_about_the_others(error):
            raise
        if LAUNCHER in os.environ:
            raise SystemExit(_LOST_OTHERS) from None
        raise ProcessesError(
            f"process {processes.rank} of {processes.world}: another process of this training has ended "
            f"or did not answer for {timeout_s:g} s ({_first_line(error)})",
            "all processes to run until the end",
            "look for the message of the other process; the same command continues from the last checkpoint",
        ) from None
    except BaseException:
        _keep_forever(distributed.group.WORLD)
        raise
    finally:
        distributed.destroy_process_group()


def left_collective() -> bool:
    """Return True if this process left its group during a collective operation; it should then end without waiting."""
    return _left_collective


_left_collective = False


def _keep_forever(group: object) -> None:
    """Keep a group that was left during a collective operation from being destroyed.

    Its destructor holds the interpreter lock and waits for a thread that may need this lock to abort the operation: the
    process would hang instead of ending with a message.
    """
    global _left_collective
    _left_collective = True
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def described_processes() -> Processes:
    """Return the processes as the environment of ``torchrun`` or SLURM describes them."""
    env = os.environ
    try:
        world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", "1")) if "MASTER_ADDR" in env else "1")
        rank = int(env.get("RANK", env.get("SLURM_PROCID", "0")))
        local_rank = int(env.get("LOCAL_RANK", env.get("SLURM_LOCALID", "0")))
    except ValueError as error:
        raise UsageError(
            f"a process index in the environment is not a number ({error})",
            "RANK and WORLD_SIZE as torchrun sets them",
            "start all processes with one torchrun or srun command",
        ) from None
    return Processes(rank, world, local_rank) if world > 1 else Processes()


def _is_about_the_others(error: RuntimeError) -> bool:
    """Return True if communication failed; gloo raises no error type of its own: its messages are searched."""
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or any(w in text for w in ("gloo", "nccl", "process group"))


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0]
    return line.split("] ", 1)[-1].split(". ")[0][:120] or type(error).__name__


def starts_processes(wanted: int) -> bool:
    """Return True if this process is to start `wanted` processes, and is not itself one of several.

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
            "leave --devices out if torchrun or srun starts the processes",
        )
    return wanted > 1 and world is None


def launch(count: int, command: Sequence[str]) -> int:
    """Run a command in several processes that form one training, with PyTorch's elastic launcher; wait for all of them.

    Signals are passed on, and when one process fails the others are ended. Of the error output, only that of the first
    process and that of the cause of a failure are shown.

    Parameters
    ----------
    count
        Number of processes, 2 or more.
    command
        The program and its arguments, the same for all.

    Returns
    -------
    int
        Exit code: 0, that of the process that failed, or 128 and the number of a signal.

    Raises
    ------
    LaunchError
        If a process was killed, or did not answer.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    _set_environment(count)
    with tempfile.TemporaryDirectory(prefix="septum-", ignore_cleanup_errors=True) as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="septum",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=dict.fromkeys(range(1, count), Std.ERR)),
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except SignalException as error:
            return 128 + int(error.sigval)
        except ChildFailedError as error:
            begin = min(failure.timestamp for failure in error.failures.values())
            # The launcher kills a process that does not end within 30 s: that is not the cause.
            soon = {rank: one for rank, one in error.failures.items() if one.timestamp - begin < _SOON_S}
            codes = {rank: failure.exitcode for rank, failure in soon.items()}
            cause = _cause(codes)
            if codes[cause] == _LOST_OTHERS or codes[cause] < 0:
                raise _launch_error(cause, count, codes[cause]) from None
            if cause > 0:
                for file in Path(folder).rglob(f"{cause}/stderr.log"):
                    sys.stderr.write(file.read_text(encoding="utf-8", errors="replace"))
            return codes[cause]
    return 0


def _set_environment(count: int) -> None:
    """Set the variables that the launched processes inherit."""
    os.environ[LAUNCHER] = str(os.getpid())
    # Saving the state can take as long as the slowest work between two polls of a stop request. Earlier versions of
    # PyTorch do not know the variable and wait 30 s.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", f"{TIMEOUT_S:.0f}")
    # Processes that each use all cores slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if sys.platform == "win32":
        os.environ.setdefault("USE_LIBUV", "0")  # PyTorch asks for it by default, but its wheels for Windows lack it


def _cause(codes: Mapping[int, int]) -> int:
    """Return the failed process that is the cause, by its exit code: not one that lost the others or was terminated."""
    order = (_LOST_OTHERS, -signal.SIGTERM, 128 + signal.SIGTERM)
    return min(codes, key=lambda rank: (1 + order.index(codes[rank]) if codes[rank] in order else 0, codes[rank]))


def _launch_error(rank: int, count: int, code: int) -> LaunchError:
    if code == _LOST_OTHERS:
        given = f"a process of {count} did not answer for {TIMEOUT_S:g} s"
    else:
        given = f"process {rank} of {count} was killed by signal {-code}; the others have ended"
    return LaunchError(
        given,
        "all processes to run until the end",
        "if the memory was not enough, give fewer --devices; the same command continues from the last checkpoint",
    )


def check_compilable(device: Device, processes: Processes) -> None:
    """Raise `UsageError` if compiling gains nothing, or was not tested."""
    if device.torch.type != "cuda" or processes.world > 1:
        where = f"{processes.world} processes" if processes.world > 1 else device.name
        raise UsageError(f"--compile with {where}", "one process with an NVIDIA GPU", "leave --compile out")
