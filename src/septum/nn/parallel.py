"""Several processes that train one network: torch.distributed, started by ``torchrun`` or SLURM."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The processes of one training.

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

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.world > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    def agree(self, value: float) -> float:
        """Return the first process's value in all of them."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        torch.distributed.broadcast(shared, 0)
        return float(shared)

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network so that backward averages gradients over the processes; itself for one process."""
        if self.world == 1:
            return network
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)


def join_processes() -> Processes:
    """Join the processes that ``torchrun`` or SLURM has started; a single process if there are none."""
    env = os.environ
    world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", "1")) if "MASTER_ADDR" in env else "1")
    if world == 1:
        return Processes()
    rank = int(env.get("RANK", env.get("SLURM_PROCID", "0")))
    local_rank = int(env.get("LOCAL_RANK", env.get("SLURM_LOCALID", "0")))
    if not torch.distributed.is_initialized():
        # Gloo as well where there are GPUs: for numbers on the CPU, and for training there with --device cpu.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, rank=rank, world_size=world)
    return Processes(rank, world, local_rank)
