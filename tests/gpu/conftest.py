"""A pretended GPU: PyTorch computes on the CPU, and Python believes that tensors are on ``cuda:0`` or ``mps:0``.

Two modes of PyTorch do it. `_Calls` sees the calls from Python: it keeps tensors on the CPU, notes where they would be,
and answers ``.device``, ``.is_cuda`` and ``.numpy()`` accordingly. `_Operations` sees every operation, also those of
the backward pass and of the optimizer: it refuses tensors of two devices, hands on the device, and counts what would
wait for the GPU. Values are real, so that whole trainings run; with PyTorch's fake tensors nothing is computed, and the
shapes may be those of large networks.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from septum.nn import spatial
from septum.nn.device import find_device
from septum.training.distributed import Processes
from septum.training.fingerprint import Fingerprint
from septum.training.prepare import Prepared, TilePlaces
from septum.training.presets import make_plan
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer
from septum.training.validation import Validator

HOST = torch.device("cpu")

# Operations whose value, or the shape of whose result, the processor must know before it can go on.
_WAITING = {
    *("_local_scalar_dense", "item", "equal", "is_nonzero"),  # item: in inference mode
    *("nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique", "_unique2", "bincount", "histc"),
}
# Operations that may take tensors of two devices.
_MIXED = {"copy_", "index", "index_put", "index_put_", "_has_compatible_shallow_copy_type"}


class PretendedGpu:
    """What happened on a pretended GPU.

    Attributes
    ----------
    waits
        Number of times that the processor waited for the GPU, by the operation and the function of Septum that called
        it; ``""`` for a test.
    dtypes
        For each operation on the GPU the dtypes of its results.
    operations
        Full names of the operations on the GPU, as PyTorch's table of its kernels has them.
    allocated, peak
        Bytes of the tensors that are on the GPU now, and the most there were at the same time.
    """

    def __init__(self, kind: str) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.dtypes: dict[str, set[torch.dtype]] = {}
        self.operations: set[str] = set()
        self.allocated = 0
        self.peak = 0
        self._devices: dict[int, torch.device] = {}
        self._bytes: dict[int, int] = {}
        self._pinned: set[int] = set()

    def where(self, tensor: Tensor) -> torch.device:
        """Return the device on which a tensor would be."""
        return self._devices.get(_memory(tensor)._cdata, HOST)

    def wait(self, operation: str) -> None:
        """Count an operation for whose end the processor waits."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and "septum" not in Path(frame.f_code.co_filename).parts:
            frame = frame.f_back
        self.waits[operation, "" if frame is None else frame.f_code.co_name] += 1

    def forget_waits(self) -> None:
        """Begin to count again."""
        self.waits.clear()

    def put(self, tensor: Tensor, device: torch.device, *, pinned: bool = False) -> Tensor:
        """Note that new memory is on a device."""
        memory = _memory(tensor)
        key = memory._cdata
        if key not in self._bytes:
            weakref.finalize(memory, self._free, key)
        size = 0 if device == HOST else memory.nbytes()
        self.allocated += size - self._bytes.get(key, 0)
        self._devices[key], self._bytes[key] = device, size
        self.peak = max(self.peak, self.allocated)
        if pinned:
            self._pinned.add(key)
        return tensor

    def is_known(self, tensor: Tensor) -> bool:
        """Return True if the place of the tensor's memory was noted."""
        return _memory(tensor)._cdata in self._bytes

    def is_pinned(self, tensor: Tensor) -> bool:
        """Return True if the GPU may copy from this memory by itself."""
        return _memory(tensor)._cdata in self._pinned

    def _free(self, key: int) -> None:
        self.allocated -= self._bytes.pop(key, 0)
        self._devices.pop(key, None)
        self._pinned.discard(key)


def _memory(tensor: Tensor) -> Any:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        return tensor.untyped_storage()


def _indexed(device: Any) -> torch.device:
    device = torch.device(device)
    return torch.device(device.type, device.index or 0) if device.type != "cpu" else HOST


class _Calls(TorchFunctionMode):
    """Calls from Python."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__" and isinstance(args[0], Tensor):
            place = gpu.where(args[0])
            answers = {"device": place, "is_cuda": place.type == "cuda", "is_mps": place.type == "mps"}
            return answers.get(getattr(func.__self__, "__name__", "")) or func(*args, **kwargs)
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], Tensor):
            return self._move(name, *args, **kwargs)
        if name == "pin_memory":
            return gpu.put(args[0].clone(), HOST, pinned=True)
        if name in ("numpy", "__array__") and gpu.where(args[0]) != HOST:
            raise TypeError(f"can't convert {gpu.where(args[0])} device type tensor to numpy")
        if name == "tolist" and gpu.where(args[0]) != HOST:
            gpu.wait(name)
        if name == "new_tensor":
            return self._made(func(*args, **kwargs), gpu.where(args[0]), "new_tensor")
        if kwargs.get("device") is not None:
            device = _indexed(kwargs.pop("device"))
            return self._made(func(*args, **kwargs), device, "tensor" if name in ("tensor", "as_tensor") else "")
        return func(*args, **kwargs)

    def _made(self, tensor: Tensor, device: torch.device, copied: str) -> Tensor:
        """Note the place of a new tensor; its values may have been copied to the GPU."""
        if device == HOST:
            return tensor
        if copied:
            self.gpu.wait(copied)
        return self.gpu.put(tensor, device)

    def _move(self, name: str, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        gpu, before = self.gpu, self.gpu.where(tensor)
        copy = kwargs.pop("copy", False)
        if name == "to" and args and isinstance(args[0], Tensor):
            device, dtype, non_blocking, order = gpu.where(args[0]), args[0].dtype, False, None
        elif name == "to":
            device, dtype, non_blocking, order = torch._C._nn._parse_to(*args, **kwargs)
        else:
            device, dtype, non_blocking, order = torch.device(name), None, False, None
        after = before if device is None else _indexed(device)
        layout = {} if order is None else {"memory_format": order}
        moved = tensor.to(dtype=dtype or tensor.dtype, copy=copy or after != before, **layout)
        if after == before:
            return moved
        if after == HOST and non_blocking:
            raise AssertionError("a copy to the processor that does not wait may be read before it is there")
        if not (non_blocking and gpu.is_pinned(tensor)):
            gpu.wait("to the GPU" if before == HOST else "to the processor")
        return gpu.put(moved, after)


class _Operations(TorchDispatchMode):
    """Operations: forward, backward and of the optimizer."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, kwargs or {}
        name = func.overloadpacket.__name__
        given = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        places = {gpu.where(t) for t in given}
        device = next((place for place in places if place != HOST), HOST)
        if name not in _MIXED and not name.startswith("_foreach"):
            strangers = [t for t in given if gpu.where(t) != device and (t.ndim or device == HOST)]
            assert not strangers, f"{name}: tensors on {' and '.join(sorted(map(str, places)))}"
        copies = name == "copy_" and len(places) > 1
        if device != HOST and (copies or name in _WAITING or _selects(name, args)):
            gpu.wait(name)
        result = func(*args, **kwargs)
        if device != HOST:
            gpu.operations.add(func.__name__.removesuffix(".default"))
            for tensor in pytree.tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._note(name, tensor, device)
        return result

    def _note(self, name: str, tensor: Tensor, device: torch.device) -> None:
        gpu = self.gpu
        assert device.type != "mps" or tensor.dtype != torch.float64, f"{name}: Apple GPUs have no float64"
        gpu.dtypes.setdefault(name, set()).add(tensor.dtype)
        if not gpu.is_known(tensor):
            gpu.put(tensor, device)


def _selects(name: str, args: Sequence[Any]) -> bool:
    """Return True if an operation counts the True values of a mask."""
    masks = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
    return any(m is not None and m.dtype in (torch.bool, torch.uint8) for m in masks)


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Move a module of fake weights: `torch.nn.Module.to` would exchange the contents of two tensors, which fails."""
    for child in module.children():
        child._apply(change)
    for name, weight in module._parameters.items():
        if weight is not None:
            with torch.no_grad():
                module._parameters[name] = nn.Parameter(change(weight), weight.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


def _asked(gpu: PretendedGpu, device: Any, tensor: Tensor) -> torch.device:
    """Return the device of a fake tensor: Septum is answered with the pretended one, PyTorch itself with its own."""
    module = str(sys._getframe(1).f_globals.get("__name__"))
    return gpu.where(tensor) if module.startswith("septum") else device.fget(tensor)


@contextmanager
def _pretend(
    patch: pytest.MonkeyPatch, kind: str = "cuda", *, memory: int = 1 << 34, fake: bool = False
) -> Iterator[PretendedGpu]:
    """Pretend that this machine has one GPU; yield what happens on it. With `fake` nothing is computed."""
    gpu = PretendedGpu(kind)
    autocast: Callable[..., AbstractContextManager[None]] = torch.autocast
    properties = SimpleNamespace(total_memory=memory)

    def cast(device_type: str, dtype: torch.dtype = torch.bfloat16, enabled: bool = True) -> Any:
        return autocast("cpu", dtype, enabled=enabled)

    with patch.context() as patched, ExitStack() as stack:
        patched.setattr(torch, "autocast", cast)
        patched.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
        patched.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        patched.setattr(torch.cuda, "device_count", lambda: 1)
        patched.setattr(torch.cuda, "get_device_name", lambda device: "Pretended GPU")
        patched.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        patched.setattr(torch.cuda, "mem_get_info", lambda device: (memory - gpu.allocated, memory))
        patched.setattr(torch.cuda, "memory_reserved", lambda device: gpu.allocated)
        patched.setattr(torch.cuda, "memory_allocated", lambda device: gpu.allocated)
        patched.setattr(torch.cuda, "max_memory_allocated", lambda device: gpu.peak)
        patched.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        spatial._cubic_tensor.cache_clear()  # it holds tensors of another test's GPU
        stack.callback(spatial._cubic_tensor.cache_clear)
        if fake:
            patched.setattr(nn.Module, "_apply", _apply)
            patched.setattr(FakeTensor, "device", property(functools.partial(_asked, gpu, FakeTensor.device)))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Calls(gpu))
        stack.enter_context(_Operations(gpu))
        yield gpu


Pretend = Callable[..., AbstractContextManager[PretendedGpu]]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Return the context in which this machine has a GPU: ``pretend(kind, memory=bytes, fake=False)``."""
    return lambda kind="cuda", **options: _pretend(monkeypatch, kind, **options)


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    """Return a function that makes a trainer of three small images, on the device of the settings."""

    def make(*, rank: int = 2, processes: Processes | None = None, **options: Any) -> Trainer:
        shape = (40,) * rank
        figures = Fingerprint(channels=1, classes=2, sides=shape, anisotropy=(1,) * rank)
        small = {"width": 2, "depth": 1, "tile": 24, "batch": 2, "data": (), "out": "run"}
        settings = TrainSettings.model_validate(small | options)
        device = find_device(settings.device)
        gpu = device.torch.type != "cpu"
        plan, _ = make_plan(figures, settings, gpu=gpu, bfloat16=device.bfloat16)
        processes = processes or Processes()
        validator = Validator((), True, plan, device, processes)
        return Trainer(plan, 0, device, processes, _images(shape), validator, settings.compile)

    return make


def _images(shape: tuple[int, ...]) -> tuple[Prepared, ...]:
    rng, made = np.random.default_rng(0), []
    for _ in range(3):
        target = (rng.random(shape) < 0.3).astype(np.uint8)
        image = (target + rng.normal(0, 0.3, shape)).astype(np.float32)[None]
        places = (TilePlaces(1, np.argwhere(target).astype(np.int32)),)
        made.append(Prepared(image, target, 1 + rng.random(shape, dtype=np.float32), places, None))
    return tuple(made)
