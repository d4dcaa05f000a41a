"""Devices: selection, precision, repeatability, memory, and `torch.compile`."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from septum.errors import SeptumError, SeptumWarning, UsageError
from septum.words import pluralize


class MemoryShortageError(SeptumError):
    """The device has not enough memory."""


@dataclass(frozen=True)
class Device:
    """A device and its properties.

    Parameters
    ----------
    torch
        The device for tensors.
    name
        Name for messages: ``"NVIDIA H100"``, ``"CPU, 2 threads"``.
    why
        One sentence: why it was chosen.
    bfloat16
        True if it multiplies in bfloat16 faster than in float32, so that training should (weights stay float32). Never
        float16, whose range is too small for the loss.
    """

    torch: torch.device
    name: str
    why: str
    bfloat16: bool

    def autocast(self, bfloat16: bool) -> AbstractContextManager[None]:
        """Return the context of a training step: bfloat16 or float32."""
        return torch.autocast(self.torch.type, torch.bfloat16, enabled=bfloat16)

    def memory_format(self, rank: int, bfloat16: bool) -> torch.memory_format:  # type: ignore[name-defined]
        """Return the memory format of feature maps in training, for images (`rank` 2) or volumes (3).

        Matrix units, of GPUs and of processors in bfloat16, need channels last. In float32, processors without them are
        up to twice slower with it, and never much faster (``benchmarks/training.py``).
        """
        innermost = bfloat16 if self.torch.type == "cpu" else self.torch.type == "cuda" and rank == 2
        if not innermost:
            return torch.contiguous_format
        return torch.channels_last if rank == 2 else torch.channels_last_3d

    def exact(self) -> AbstractContextManager[None]:
        """Return the context in which each network runs, forward and backward.

        By default cuDNN on NVIDIA GPUs rounds the factors of float32 convolutions to 10 bits (TF32), which would make
        tile borders visible, and uses algorithms with an undefined order of summation, so that no training would
        repeat.
        """
        _THREADS.note()
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def find_device(wanted: str = "auto", *, local_rank: int = 0) -> Device:
    """Choose the device.

    Parameters
    ----------
    wanted
        ``"auto"`` (CUDA, then Apple's MPS, then CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    local_rank
        Rank of this process on its machine; with ``"auto"`` and ``"cuda"`` the process takes the GPU of this index.

    Raises
    ------
    UsageError
        If the machine does not have the wanted device.
    """
    try:
        kind = torch.device("cpu" if wanted == "auto" else wanted).type
    except (RuntimeError, TypeError):
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
            "use --device auto; `septum info` lists the devices of this machine",
        )
    if kind == "cuda":
        device = torch.device(wanted if ":" in wanted else f"cuda:{local_rank % torch.cuda.device_count()}")
        if device.index is not None and device.index >= torch.cuda.device_count():
            known = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
            raise UsageError(
                f"device {wanted!r}", f"one of {', '.join(known)}", "`septum info` lists the devices of this machine"
            )
        return Device(device, torch.cuda.get_device_name(device), why, _has_bfloat16())
    if kind == "mps":
        return Device(torch.device("mps"), "Apple GPU", why, False)
    threads = torch.get_num_threads()
    return Device(torch.device("cpu"), f"CPU, {pluralize(threads, 'thread')}", why, _multiplies_bfloat16())


@dataclass
class _Threads:
    """Threads of PyTorch: a fork copies the calling thread only, and PyTorch would wait for the others for ever.

    `used`: it has computed with several in this process; `lost`: in the process from which this one was forked.
    """

    used: bool = False
    lost: bool = False

    def note(self) -> None:
        """Note that PyTorch computes now, with several threads if it is allowed to; warn if it lost them."""
        self.used = self.used or torch.get_num_threads() > 1
        if self.lost:
            self.lost = False
            warnings.warn(
                "this process was forked from one in which PyTorch had computed with several threads: it computes with "
                "one thread here; start processes by 'spawn' (multiprocessing), and open the model in each, for more",
                SeptumWarning,
                stacklevel=3,
            )

    def reset_after_fork(self) -> None:
        """Let PyTorch compute with one thread in a forked process whose parent computed with several."""
        if self.used:
            self.used, self.lost = False, True
            torch.set_num_threads(1)


_THREADS = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_THREADS.reset_after_fork)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Restrict PyTorch to deterministic algorithms in the body, if `wanted`.

    Otherwise some results on NVIDIA GPUs are sums in an order that changes from run to run. cuBLAS reads its work space
    setting before its first use (https://docs.nvidia.com/cuda/cublas/#results-reproducibility).

    Raises
    ------
    UsageError
        If an operation of the body has no deterministic algorithm on its device.
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


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an exception means that memory ran out, on a GPU or (by its message only) on the CPU."""
    words = ("not enough memory", "can't allocate memory", "could not create a memory", "bad_alloc")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in words)
    )


@contextmanager
def report_memory_shortage(task: str, todo: str) -> Iterator[None]:
    """Convert out-of-memory exceptions of the body to `MemoryShortageError`.

    Parameters
    ----------
    task
        Activity that needed the memory.
    todo
        Advice to the user.

    Raises
    ------
    MemoryShortageError
        If memory runs out in the body.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryShortageError(f"not enough memory for {task}", "enough free memory", todo) from None


# Parameters of glibc's `mallopt`, and the largest values that it reaches by itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_TRIM, _LARGEST_MMAP = 64 << 20, 32 << 20


@contextmanager
def reused_memory() -> Iterator[None]:
    """Keep freed memory in the process while the context is entered, where the C library is GNU's (Linux).

    A training step allocates and frees the same hundreds of megabytes again and again. By default they go back to the
    system after each step, and the next step has to ask for every page anew: 17,000 page faults, a tenth of the
    processor time of a step with a tile of 400 x 400 pixels at width 16.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        yield
        return
    # Versions before 2.35 refuse more than 32 MB, and larger blocks then stay as they were.
    _ = mallopt(_MMAP_THRESHOLD, 1 << 30) or mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
        mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)
        ctypes.CDLL(None).malloc_trim(0)


def compile_network(
    network: nn.Module, attempt: Callable[[nn.Module], object], *, backend: str = "inductor"
) -> tuple[nn.Module, str]:
    """Compile a network with `torch.compile` and try it; changes that the attempt made to the network are undone.

    Parameters
    ----------
    network
        A network in training.
    attempt
        Function that runs the given module forward and backward once, as training does.
    backend
        Backend of `torch.compile`.

    Returns
    -------
    module, problem
        The compiled network, which shares the network's weights; if it cannot be compiled, the network itself and the
        reason.

    Raises
    ------
    MemoryError, RuntimeError
        If the device runs out of memory.
    """
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made: Any = torch.compile(network, backend=backend)
    problem = ""
    try:
        attempt(made)
    except Exception as error:
        # A compiler needs other programs and can raise any exception; training continues without it.
        if is_out_of_memory(error):
            raise
        torch.compiler.reset()
        cause = getattr(error, "inner_exception", error)
        made, problem = network, f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0][:200]}"
    network.load_state_dict(before)
    network.zero_grad(set_to_none=True)
    return made, problem


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; an NVIDIA GPU is not waited for.

    A copy from usual memory would wait until the GPU has done everything before it. From pinned memory it takes its
    place among the work of the GPU, and PyTorch keeps that memory until then.

    Parameters
    ----------
    tensor
        ``(*S)`` of any dtype and any values, on the CPU; not to be changed afterwards.
    device
        Device of the result; on the CPU the tensor itself is returned.

    Returns
    -------
    Tensor
        ``(*S)``, the dtype of `tensor` and its values, of any range.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def free_bytes(device: Device) -> int | None:
    """Return the free memory of a GPU for tiles; None for devices that share the memory of the process."""
    if device.torch.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device.torch)
    return int(0.85 * (free + torch.cuda.memory_reserved(device.torch) - torch.cuda.memory_allocated(device.torch)))


def _multiplies_bfloat16() -> bool:
    """Return True if the processor has a matrix unit for bfloat16 (AMX); False if PyTorch is too old to report it."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16", False))


def _has_bfloat16() -> bool:
    """Return True if the GPU itself computes in bfloat16; PyTorch also counts GPUs that emulate it, more slowly."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))
