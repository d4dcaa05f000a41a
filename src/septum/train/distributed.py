"""Several processes that train one network: torch.distributed, started by ``torchrun``, SLURM or ``--devices``."""

from __future__ import annotations

import ctypes
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from septum.errors import SeptumError, UsageError
from septum.nn.sync_batchnorm import synchronize_batchnorm

# How long a process waits for the others before it gives up. Longer than the slowest thing that one of them does alone:
# reading all images over a network, or writing a large checkpoint.
TIMEOUT_S = 600.0


class ProcessesError(SeptumError):
    """Another process of the same training has ended or does not answer."""


@dataclass(frozen=True)
class Processes:
    """The processes of one training. Every method is called by all of them, in the same order.

    Parameters
    ----------
    rank
        Number of this one.
    world
        How many there are.
    local_rank
        Number of this one on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return which of `count` things this process does; together the processes do each once."""
        return range(self.rank, count, self.world)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, on its device."""
        if self.world > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def agree(self, value: float) -> float:
        """Return the first process's value in all of them."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set in one of the processes."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.world > 1 else flag

    def tell(self, text: str) -> str:
        """Return the first process's text in all of them."""
        return self.gather([np.frombuffer(text.encode(), np.uint8)])[0][0].astype(np.uint8).tobytes().decode()

    def gather(self, arrays: Sequence[NDArray[np.integer]]) -> list[list[NDArray[np.int64]]]:
        """Return the arrays of every process, in the order of the processes.

        Parameters
        ----------
        arrays
            Any number of ``(n,)`` integers; number and lengths may differ between processes.
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
        """Return the network so that backward averages gradients over the processes; itself for one process.

        Batch normalization of `network` is replaced by one with the statistics of all processes' tiles.
        """
        if self.world == 1:
            return network
        synchronize_batchnorm(network)
        ids = [device.index] if device.type == "cuda" else None
        # Running statistics are those of all tiles, so the same everywhere: nothing to broadcast. PyTorch renamed this.
        names = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        options: dict[str, Any] = {"device_ids": ids, buffers: False}
        return DistributedDataParallel(network, **options)


def _unpacked(flat: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    count = int(flat[0])
    ends = 1 + count + np.cumsum(flat[1 : 1 + count])
    return [flat[end - length : end] for end, length in zip(ends, flat[1 : 1 + count], strict=True)]


@contextmanager
def processes_of_this_training(timeout_s: float = TIMEOUT_S) -> Iterator[Processes]:
    """Join the processes that were started together; a single process if there are none. Leave them at the end.

    Parameters
    ----------
    timeout_s
        How long to wait for another process.

    Raises
    ------
    UsageError
        If the environment that a launcher sets is incomplete, or there is nobody at the address it gives.
    ProcessesError
        If one of the others has ended or does not answer; also for what the body was doing then.
    """
    processes = described_processes()
    if processes.world == 1:
        yield processes
        return
    try:
        # Gloo as well where there are GPUs: for numbers on the CPU, and for training there with --device cpu.
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
        raise ProcessesError(
            f"process {processes.rank} of {processes.world}: another process of this training has ended "
            f"or did not answer for {timeout_s:g} s ({_first_line(error)})",
            "all processes to work until the end",
            "look for what the other process said; the same command goes on from the last checkpoint",
        ) from None
    except BaseException:
        _keep_forever(distributed.group.WORLD)
        raise
    finally:
        distributed.destroy_process_group()


def torn() -> bool:
    """Say whether this process left its group in the middle of something; it should then end without waiting."""
    return _torn


_torn = False


def _keep_forever(group: object) -> None:
    """Let a group that was left in the middle of something never be destroyed.

    Its destructor holds Python's lock and waits for a thread that may need this lock to give up what was not finished:
    the process would hang instead of ending with a message.
    """
    global _torn
    _torn = True
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def described_processes() -> Processes:
    """Return what ``torchrun`` or SLURM says of this process."""
    env = os.environ
    try:
        world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", "1")) if "MASTER_ADDR" in env else "1")
        rank = int(env.get("RANK", env.get("SLURM_PROCID", "0")))
        local_rank = int(env.get("LOCAL_RANK", env.get("SLURM_LOCALID", "0")))
    except ValueError as error:
        raise UsageError(
            f"the environment names a process that is no number ({error})", "RANK and WORLD_SIZE as torchrun sets them"
        ) from None
    return Processes(rank, world, local_rank) if world > 1 else Processes()


def _is_about_the_others(error: RuntimeError) -> bool:
    """Say whether communication failed; gloo has no type of its own for that, only words."""
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or any(w in text for w in ("gloo", "nccl", "process group"))


def _first_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0]
    return line.split("] ", 1)[-1].split(". ")[0][:120] or type(error).__name__
