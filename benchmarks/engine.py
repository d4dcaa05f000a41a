"""Prediction of one tile on a processor: Septum's engine against PyTorch and other programs.

    python benchmarks/engine.py                     # all cases
    python benchmarks/engine.py paper-572           # one
    python benchmarks/engine.py memory start        # peak memory of a tile; a prediction from a cold start

The other programs take part where they are installed: onnxruntime, openvino, ncnn with pnnx, MNN (and onnx, from which
the first, second and last of them read the network). All compute the same network in float32 with as many threads as
PyTorch takes, each in a process of its own, as their threads would disturb each other; one after the other in each of
seven rounds, so that other work on the machine affects all of them alike. `cpu_s` are processor seconds of all threads,
also of waiting ones: with OMP_NUM_THREADS=1 no thread waits, and a busy machine does not matter. Figures go to
benchmarks/results/engine.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from septum.cpu.inference import Engine, weight_bytes
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.memory import operations

RESULTS = Path(__file__).parent / "results" / "engine.json"
ROUNDS = 7
CASES = {
    "paper-572": (UNetSettings(), 572),
    "paper-700": (UNetSettings(), 700),
    "width-32": (UNetSettings(width=32), 572),
    "width-16": (UNetSettings(width=16), 572),
    "width-16-norm": (UNetSettings(width=16, batch_norm=True), 572),
    "width-16-norm-same": (UNetSettings(width=16, batch_norm=True, padding="same"), 576),
    "width-8": (UNetSettings(width=8), 572),
}
PROGRAMS = ("PyTorch", "PyTorch, channels last", "Septum", "onnxruntime", "OpenVINO", "MNN", "ncnn")
Program = Callable[[Tensor], "np.ndarray | Tensor"]


class Plain(nn.Module):
    """The network without checks, as converters of other programs want it."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.network.down:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.network.bottom(x)
        for up, merge in zip(reversed(self.network.up), reversed(self.network.merge), strict=True):
            x, skip = up(x), skips.pop()
            margin = (int(skip.shape[2]) - int(x.shape[2])) // 2
            if margin:
                skip = skip[:, :, margin:-margin, margin:-margin]
            x = merge(torch.cat([skip, x], dim=1))
        return self.network.head(x)


def network_of(settings: UNetSettings) -> UNet:
    """Return a network whose biases and normalization are not those of the beginning."""
    network = UNet(settings, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim == 1:
                tensor.uniform_(-0.1, 0.1, generator=generator)
                if name.endswith(("weight", "running_var")):
                    tensor.add_(1)
    return for_prediction(network)


def program(name: str, network: UNet, x: Tensor, folder: Path) -> Program:
    """Return what computes the network; raise `ImportError` where it is not installed."""
    if name == "PyTorch":
        return network
    if name == "PyTorch, channels last":
        last = network.to(memory_format=torch.channels_last)
        return lambda x: last(x.contiguous(memory_format=torch.channels_last))
    if name == "Septum":
        return Engine(network)
    plain, path = Plain(network).eval(), folder / "network.onnx"
    if name == "ncnn":
        return _ncnn(plain, x, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(plain, (x,), path, dynamo=False, input_names=["x"], output_names=["y"])
    return {"onnxruntime": _onnxruntime, "OpenVINO": _openvino, "MNN": _mnn}[name](path)


def _onnxruntime(path: Path) -> Program:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would disturb those after it
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def _openvino(path: Path) -> Program:
    import openvino

    hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.compile_model(path, "CPU", hints | {"PERFORMANCE_HINT": "LATENCY"})
    return lambda x: np.array(model(x.numpy())[0])


def _mnn(path: Path) -> Program:
    import MNN
    from MNN import expr

    made = path.with_suffix(".mnn")
    command = ["-m", "MNN.tools.mnnconvert", "-f", "ONNX", "--modelFile", path, "--MNNModel", made, "--bizCode", "x"]
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    config = {"backend": "CPU", "numThread": torch.get_num_threads(), "precision": "high"}
    manager = MNN.nn.create_runtime_manager((config,))
    module = MNN.nn.load_module_from_file(str(made), ["x"], ["y"], runtime_manager=manager)

    def compute(x: Tensor) -> np.ndarray:
        given = expr.const(x.numpy(), list(x.shape), expr.NCHW)
        found = module.forward([given])
        return np.array(expr.convert(found[0] if isinstance(found, list) else found, expr.NCHW).read())

    return compute


def _ncnn(plain: Plain, x: Tensor, folder: Path) -> Program:
    import ncnn
    import pnnx

    before = Path.cwd()
    os.chdir(folder)  # it writes there, and tells much
    try:
        pnnx.export(plain, "network.pt", x, fp16=False)
    finally:
        os.chdir(before)
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    net.load_param(str(folder / "network.ncnn.param"))
    net.load_model(str(folder / "network.ncnn.bin"))

    def compute(x: Tensor) -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(x[0].numpy()).clone())
            return np.array(extractor.extract("out0")[1])[None]

    return compute


def serve(case: str, name: str, truth: str) -> None:
    """Tell the error of a program, then compute a tile for each line that is read and tell its seconds."""
    settings, side = CASES[case]
    network = network_of(settings)
    x = torch.randn(1, settings.channels, side, side, generator=torch.Generator().manual_seed(1))
    out, sys.stdout = sys.stdout, sys.stderr  # converters tell much
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        exact = torch.from_numpy(np.load(truth))
        compute = program(name, network, x, Path(folder))
        found = torch.as_tensor(np.asarray(compute(x))).double()
        print(json.dumps(float((torch.softmax(found, dim=1) - exact).abs().max())), file=out, flush=True)
        for _ in sys.stdin:
            begin, used = time.perf_counter(), time.process_time()
            compute(x)
            print(json.dumps([time.perf_counter() - begin, time.process_time() - used]), file=out, flush=True)


def measure(case: str, names: Sequence[str]) -> dict[str, object]:
    """Return seconds and errors of programs on one tile."""
    settings, side = CASES[case]
    servers, errors = {}, {}
    truth = Path(tempfile.gettempdir()) / f"septum-benchmark-{os.getpid()}.npy"
    with torch.inference_mode():
        x = torch.randn(1, settings.channels, side, side, generator=torch.Generator().manual_seed(1))
        np.save(truth, torch.softmax(network_of(settings).double()(x.double()), dim=1).numpy())
    for name in names:
        command = [sys.executable, __file__, "--serve", case, name, str(truth)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        server = subprocess.Popen(command, **pipes)
        line = _answer(server)
        if line:
            servers[name], errors[name] = server, json.loads(line)
    truth.unlink()
    times: dict[str, list[list[float]]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, server in servers.items():
            time.sleep(0.3)  # threads of the one before still wait for more
            server.stdin.write("\n")
            server.stdin.flush()
            times[name].append(json.loads(_answer(server)))
    for server in servers.values():
        server.communicate()
    medians = {name: statistics.median(wall for wall, _ in pairs) for name, pairs in times.items()}
    used = {name: statistics.median(cpu for _, cpu in pairs) for name, pairs in times.items()}
    rows = {
        name: {
            "median_s": round(medians[name], 4),
            "least_s": round(min(wall for wall, _ in pairs), 4),
            "most_s": round(max(wall for wall, _ in pairs), 4),
            "cpu_s": round(used[name], 4),
            "times_faster_than_pytorch": round(medians["PyTorch"] / medians[name], 2),
            "times_less_cpu_than_pytorch": round(used["PyTorch"] / used[name], 2),
            "largest_error": float(f"{errors[name]:.2g}"),
        }
        for name, pairs in times.items()
    }
    return {"side": side, "gflop": round(operations(settings, (side, side)) / 1e9, 1), "programs": rows}


def _answer(server: subprocess.Popen[str]) -> str:
    """Return the next line of JSON; what converters print from C goes by."""
    while line := server.stdout.readline():
        if line[0] in "[0123456789":
            with suppress(ValueError):
                json.loads(line)
                return line
    return ""


def memory(case: str, program: str) -> int:
    """Return the bytes that a tile takes beside the weights, in this process; Linux."""
    settings, side = CASES[case]
    network = network_of(settings)
    compute: Program = Engine(network) if program == "Septum" else network
    small = settings.geometry.input_for((1, 1))
    with torch.inference_mode():
        compute(torch.zeros(1, 1, *small))
        x = torch.zeros(1, 1, side, side)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        before = _status("VmRSS")
        compute(x)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) << 10


def memories() -> dict[str, dict[str, object]]:
    """Return the peak memory of tiles, each in a process of its own."""
    rows: dict[str, dict[str, object]] = {}
    for case in ("paper-572", "width-16-norm", "width-16-norm-same"):
        rows[case] = {"weights_of_the_engine_mb": round(weight_bytes(CASES[case][0]) / 1e6)}
        for program in ("PyTorch", "Septum"):
            done = subprocess.run([sys.executable, __file__, "--peak", case, program], capture_output=True, check=True)
            rows[case][f"{program}_mb"] = round(int(done.stdout) / 1e6)
    return rows


def start() -> dict[str, object]:
    """Return the seconds of `septum predict` on one 512x512 image, with what is compiled and measured already there."""
    from septum.arrays.instances import ObjectSettings
    from septum.arrays.normalize import NormalizeSettings
    from septum.io.files import write_image
    from septum.prediction.model import ModelHeader, save_model

    rows: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_image(folder / "a.tif", np.random.default_rng(0).integers(0, 255, (512, 512), np.uint8), axes="YX")
        for case in ("paper-700", "width-16-norm"):
            settings = CASES[case][0]
            header = ModelHeader(
                network=settings,
                normalization=NormalizeSettings(),
                kind="classes",
                class_values=(0, 1),
                objects=ObjectSettings(),
            )
            save_model(folder / "model.safetensors", UNet(settings), header)
            rows[case] = {engine: _start(folder, engine) for engine in ("torch", "septum")}
    return rows


def _start(folder: Path, engine: str) -> dict[str, float]:
    """Return the whole time of the command and what its tile took, medians of seven."""
    command = ["predict", "model.safetensors", "a.tif", "-o", "out", "--device", "cpu", "--engine", engine, "--json"]
    whole, inside = [], []
    for number in range(ROUNDS + 1):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "septum", *command], cwd=folder, capture_output=True, text=True, check=True
        )
        if number:  # the first compiles
            whole.append(time.perf_counter() - begin)
            inside.append(float(json.loads(done.stdout)["done"][0]["seconds"]))
    return {"command_s": round(statistics.median(whole), 2), "image_s": round(statistics.median(inside), 2)}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("numba", "onnxruntime", "openvino", "ncnn", "MNN"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[*CASES, "memory", "start"], metavar="CASE")
    parser.add_argument("--programs", nargs="+", default=PROGRAMS, choices=PROGRAMS, metavar="NAME")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(memory(*given.peak))
        return
    if given.serve:
        serve(*given.serve)
        return
    for what in given.what:
        made = {"memory": memories, "start": start}.get(what, lambda what=what: measure(what, given.programs))()
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known |= {"command": "python benchmarks/engine.py", "versions": known.get("versions", {}) | _versions()}
        threads = torch.get_num_threads()
        known[what if what == "memory" else f"{what}, {threads} thread{'s' * (threads > 1)}"] = made
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print(what, json.dumps(made, indent=1), flush=True)


if __name__ == "__main__":
    main()
