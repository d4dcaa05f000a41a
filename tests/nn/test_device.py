from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from septum.errors import UsageError
from septum.nn.device import compile_network, find_device, reused_memory
from septum.nn.unet import UNet, UNetSettings


def _machine(
    monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, apple: bool = False, native: bool = True, amx: bool = False
) -> None:
    """Simulate another machine."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)


def test_auto_takes_cuda_then_apple_then_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch)
    found = find_device()
    assert (found.torch.type, found.why, found.bfloat16) == ("cpu", "no GPU was found", False)
    assert found.name.startswith("CPU, ")
    _machine(monkeypatch, apple=True)
    found = find_device()
    assert (found.torch.type, found.bfloat16) == ("mps", False)
    _machine(monkeypatch, gpus=2, apple=True)
    found = find_device()
    assert (found.torch, found.name, found.why, found.bfloat16) == (
        torch.device("cuda:0"),
        "GPU 0",
        "a CUDA GPU was found",
        True,
    )


def test_each_process_takes_its_own_gpu_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, gpus=2)
    chosen = [find_device(wanted, local_rank=rank).torch.index for wanted in ("auto", "cuda") for rank in (0, 1, 3)]
    assert chosen == [0, 1, 1, 0, 1, 1]
    assert find_device("cuda:1", local_rank=0).torch.index == 1
    assert find_device("cpu").why == "asked for"


def test_gpus_that_emulate_bfloat16_train_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, gpus=1, native=False)
    assert not find_device().bfloat16


@pytest.mark.parametrize("wanted", ["cuda:2", "gpu", "cuda:-1", "meta", "", "mps"])
def test_missing_device_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    _machine(monkeypatch, gpus=2)
    with pytest.raises(UsageError) as caught:
        find_device(wanted)
    assert repr(wanted) in str(caught.value)
    assert "expected:" in str(caught.value)


def test_cuda_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch)
    with pytest.raises(UsageError, match="--device auto"):
        find_device("cuda")


def test_processors_with_a_matrix_unit_use_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, amx=True)
    assert find_device().bfloat16
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in older versions of PyTorch
    assert not find_device().bfloat16


def test_memory_format_is_channels_last_for_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, gpus=1)
    cpu, cuda = find_device("cpu"), find_device("cuda")
    assert cpu.memory_format(2, False) == cpu.memory_format(3, False) == torch.contiguous_format
    assert (cpu.memory_format(2, True), cpu.memory_format(3, True)) == (torch.channels_last, torch.channels_last_3d)
    assert (cuda.memory_format(2, False), cuda.memory_format(3, True)) == (torch.channels_last, torch.contiguous_format)


@pytest.mark.parametrize(("bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_autocast_multiplies_in_the_requested_dtype(bfloat16: bool, dtype: torch.dtype) -> None:
    with find_device("cpu").autocast(bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_exact_requests_full_precision_and_deterministic_algorithms_and_restores_the_settings() -> None:
    flags = torch.backends.cudnn
    before = (flags.enabled, flags.deterministic, flags.allow_tf32, flags.benchmark)
    with find_device("cpu").exact():
        assert (flags.enabled, flags.deterministic, flags.allow_tf32, flags.benchmark) == (True, True, False, False)
    assert (flags.enabled, flags.deterministic, flags.allow_tf32, flags.benchmark) == before


def _step(module: nn.Module) -> None:
    out: torch.Tensor = module(torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(0)))
    torch.autograd.backward(out.square().mean())


def _network() -> UNet:
    return UNet(UNetSettings(depths=(1, 1), width=2, batch_norm=True), seed=1).train()


@pytest.mark.slow
# PyTorch warns when it traces a function with a custom gradient.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_network_trains_like_the_network_and_the_attempt_is_undone() -> None:
    network, plain = _network(), _network()
    made, problem = compile_network(network, _step, backend="aot_eager")  # everything but code generation
    assert problem == "" and made is not network
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert all(p.grad is None for p in network.parameters())
    _step(made)
    _step(plain)
    for (name, p), q in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, msg=name)


# PyTorch warns when it traces a function with a custom gradient.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_network_that_cannot_be_compiled_is_returned_with_the_reason() -> None:
    def broken(*_: object) -> Callable[..., object]:
        raise OSError("no compiler here\nmore words")

    network = _network()
    made, problem = compile_network(network, _step, backend=broken)  # type: ignore[arg-type]
    assert made is network
    assert "no compiler here" in problem and "more words" not in problem
    _step(made)


# PyTorch warns when it traces a function with a custom gradient.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_out_of_memory_while_compiling_is_raised() -> None:
    def too_large(_: nn.Module) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compile_network(_network(), too_large, backend="eager")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the C library of GNU")
def test_freed_memory_stays_in_the_process_during_a_training() -> None:
    resource = pytest.importorskip("resource")

    def faults(count: int, megabytes: int) -> int:
        """Return the page faults of some maps that are made for the fourth time."""
        for _ in range(4):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            maps = [torch.zeros(megabytes << 18) for _ in range(count)]
            del maps
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    # Of 4096 bytes: blocks above 32 MB go back to the system, if no free memory of the process is as large.
    if faults(1, megabytes=400) < 50_000:
        pytest.skip("this system does not count the page faults of a process, or its pages are larger than 4096 bytes")
    with reused_memory():
        assert faults(8, megabytes=10) < 5_000
    assert faults(1, megabytes=400) > 50_000  # large blocks go back to the system, as before


FORKED = """
import multiprocessing, warnings
import numpy as np, torch
import septum
from septum.errors import SeptumWarning

image = np.random.default_rng(0).normal(100, 20, (96, 96))

def probabilities():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SeptumWarning)
        found = septum.predict("nuclei", image, output="probabilities", scale=1)
    return found, [w for w in caught if "was forked" in str(w.message)]

def check(threads, expected):
    found, warned = probabilities()
    assert torch.get_num_threads() == threads
    assert len(warned) == (expected is not None and threads == 1)
    assert expected is None or np.allclose(found, expected, atol=1e-5)

def in_fork(*arguments):
    process = multiprocessing.get_context("fork").Process(target=check, args=arguments)
    process.start()
    process.join(60)
    code = process.exitcode
    process.kill()
    assert code == 0, code

torch.set_num_threads(2)
in_fork(2, None)  # nothing was computed
torch.set_num_threads(1)
probabilities()
in_fork(1, None)
torch.set_num_threads(2)
in_fork(1, probabilities()[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only where a fork is usual")
def test_forked_process_predicts_although_the_threads_of_pytorch_stayed_in_its_parent() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
