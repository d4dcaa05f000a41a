"""Where the network runs: the device found, and why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from septum.errors import SeptumError, UsageError


class MemoryShortageError(SeptumError):
    """The memory of the device is not enough."""


@dataclass(frozen=True)
class Device:
    """A device and how it is used.

    Parameters
    ----------
    torch
        The device for tensors.
    name
        For people: ``"NVIDIA H100"``, ``"CPU, 2 threads"``.
    why
        One sentence that says why it was chosen.
    bfloat16
        Whether it multiplies in bfloat16 faster than in float32, so that training should (weights stay float32). Never
        float16, whose range is too small for the loss.
    """

    torch: torch.device
    name: str
    why: str
    bfloat16: bool

    def autocast(self, bfloat16: bool) -> AbstractContextManager[None]:
        """Return the context in which training computes, in bfloat16 or in float32."""
        return torch.autocast(self.torch.type, torch.bfloat16, enabled=bfloat16)

    def memory_format(self, rank: int, bfloat16: bool) -> torch.memory_format:  # type: ignore[name-defined]
        """Return the order in which feature maps of images (`rank` 2) or volumes (3) lie in memory in training.

        Features innermost is what matrix units want, of GPUs and of processors in bfloat16. In float32 processors
        without them are up to twice slower with it, and never much faster (``benchmarks/training.py``).
        """
        innermost = bfloat16 if self.torch.type == "cpu" else self.torch.type == "cuda" and rank == 2
        if not innermost:
            return torch.contiguous_format
        return torch.channels_last if rank == 2 else torch.channels_last_3d

    def exact(self) -> AbstractContextManager[None]:
        """Return the context in which every network runs, forward and backward.

        On NVIDIA GPUs cuDNN otherwise rounds what float32 convolutions multiply to 10 bits (TF32), which the tiles of
        an image would show, and takes algorithms that add in an order of their own, so that no training would repeat.
        """
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def find_device(wanted: str = "auto", *, local_rank: int = 0) -> Device:
    """Choose the device.

    Parameters
    ----------
    wanted
        ``"auto"`` (CUDA, then Apple's MPS, then CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    local_rank
        Number of this process on its machine; with ``"auto"`` and ``"cuda"`` it takes the GPU of that number.

    Raises
    ------
    UsageError
        If the wanted device does not exist here.
    """
    try:
        kind = torch.device("cpu" if wanted == "auto" else wanted).type
    except RuntimeError:
        raise UsageError(f"device {wanted!r}", "auto, cpu, cuda, cuda:N or mps", "leave --device out") from None
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        kind = "cuda" if has_cuda else "mps" if has_mps else "cpu"
        why = {"cuda": "a CUDA GPU was found", "mps": "an Apple GPU was found", "cpu": "no GPU was found"}[kind]
    else:
        why = "asked for"
    if kind not in ("cpu", "cuda", "mps") or (kind == "cuda" and not has_cuda) or (kind == "mps" and not has_mps):
        raise UsageError(
            f"device {wanted!r}",
            "a device that this machine has",
            "use --device auto; `septum info` lists what is here",
        )
    if kind == "cuda":
        device = torch.device(wanted if ":" in wanted else f"cuda:{local_rank % torch.cuda.device_count()}")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise UsageError(f"device {wanted!r}", f"cuda:0 to cuda:{torch.cuda.device_count() - 1}")
        return Device(device, torch.cuda.get_device_name(device), why, _has_bfloat16())
    if kind == "mps":
        return Device(torch.device("mps"), "Apple GPU", why, False)
    threads = torch.get_num_threads()
    return Device(torch.device("cpu"), f"CPU, {threads} thread{'s' * (threads != 1)}", why, _multiplies_bfloat16())


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Let PyTorch use repeatable algorithms only while the body runs, where `wanted`.

    On NVIDIA GPUs some results are otherwise sums in an order that changes from run to run. cuBLAS needs its work space
    set for that before it is first used (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).

    Raises
    ------
    UsageError
        If an operation of the body has no repeatable algorithm on its device.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UsageError(
            f"--deterministic: {str(error).splitlines()[0].split(',')[0]}",
            "operations that repeat to the last bit on this device",
            "leave --deterministic out, or use --device cpu, which always repeats",
        ) from None
    finally:
        torch.use_deterministic_algorithms(before)


def out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out, on a GPU or, which PyTorch says in words only, on the CPU."""
    words = ("not enough memory", "can't allocate memory", "could not create a memory", "bad_alloc")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in words)
    )


@contextmanager
def enough_memory(what: str, todo: str) -> Iterator[None]:
    """Say in words that the memory was not enough for the body.

    Parameters
    ----------
    what, todo
        What needed it, and what to do.

    Raises
    ------
    MemoryShortageError
        Where memory runs out in the body.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise MemoryShortageError(f"not enough memory for {what}", "memory that is free", todo) from None


def free_bytes(device: Device) -> int | None:
    """Return what a GPU of its own memory has free for tiles; None where tiles lie in the process's memory."""
    if device.torch.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device.torch)
    return int(0.85 * (free + torch.cuda.memory_reserved(device.torch) - torch.cuda.memory_allocated(device.torch)))


def _multiplies_bfloat16() -> bool:
    """Say whether the processor has a matrix unit for bfloat16 (AMX); versions of PyTorch that do not know say no."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16", False))


def _has_bfloat16() -> bool:
    """Say whether the GPU itself computes in bfloat16; PyTorch also counts those that imitate it, more slowly."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
