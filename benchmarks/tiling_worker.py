"""One method of benchmarks/tiling.py in a process of its own: it answers lines of JSON with lines of JSON.

Every method is a function from a raw image ``(Y, X) uint8`` to the probability of the second class ``(Y, X) float32``.
All networks are 2D U-Nets with four poolings, 16 features in the first level and two 3x3 convolutions a level, trained
by the same few steps on made cells; without training a network hardly looks at its context, and no seam would show.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Map = NDArray[np.float32]

WIDTH, DEPTH, WINDOW, STEPS, CROP = 16, 4, 512, 100, 192
FEATURES = [WIDTH * 2**level for level in range(DEPTH + 1)]
METHODS = {
    "Septum": ("septum", None),
    "MONAI, overlap 0.25": ("monai", 0.25),
    "MONAI, overlap 0.5": ("monai", 0.5),
    "nnU-Net, step 0.5": ("nnunet", 0.5),
    "Septum's network in MONAI's windows, overlap 0.25": ("septum in monai", 0.25),
    "Septum's network in MONAI's windows, overlap 0.5": ("septum in monai", 0.5),
}


def shape(padding: str = "valid") -> Any:
    from septum.nn.unet import UNetSettings

    return UNetSettings(depths=(DEPTH, DEPTH), width=WIDTH, padding=padding)


def network(family: str) -> Any:
    """The network of a family as its users make it, with the width and depth of this benchmark, not trained."""
    import torch

    if family == "septum":
        from septum.nn.unet import UNet

        return UNet(shape())
    if family == "septum in monai":  # its windows want outputs of the size of the input
        from septum.nn.unet import UNet

        return UNet(shape("same"))
    torch.manual_seed(0)
    if family == "monai":
        from monai.networks.nets import BasicUNet

        return BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(*FEATURES, WIDTH))
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    return PlainConvUNet(
        1,
        DEPTH + 1,
        FEATURES,
        torch.nn.Conv2d,
        3,
        [1] + [2] * DEPTH,
        2,
        2,
        2,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def weights_file(folder: Path, family: str) -> Path:
    return folder / f"{family.removesuffix(' in monai')}.weights.safetensors"


def train(folder: Path, family: str) -> None:
    """The same short training for every network: cross-entropy on crops of made cells, Adam."""
    import torch
    from safetensors.torch import save_model

    from septum.arrays.targets import object_target, separate_touching
    from septum.demo.synthetic_cells import generate
    from septum.seeding import generator

    net = network("septum in monai" if family == "septum" else family).train()  # padded: the weights fit both
    scenes = [generate(seed, shape=(512, 512)) for seed in range(4)]
    images = [torch.from_numpy(standardized(image[0])) for image, _ in scenes]
    targets = [
        torch.from_numpy(object_target(separate_touching(labels)).astype(np.int64))[None] for _, labels in scenes
    ]
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    draw = generator(0, "tiling benchmark")
    for _ in range(STEPS):
        scene, (y, x) = int(draw.integers(4)), draw.integers(0, 512 - CROP, 2)
        crop = (slice(y, y + CROP), slice(x, x + CROP))
        loss = torch.nn.functional.cross_entropy(net(images[scene][..., *crop]), targets[scene][..., *crop])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{family}: loss {float(loss.detach()):.2f} after {STEPS} steps", file=sys.stderr)
    save_model(net, str(weights_file(folder, family)))
    if family == "septum":
        save(folder, trained(folder, family))


def save(folder: Path, net: Any) -> None:
    """Septum's network as a model file, which is what `septum predict` takes."""
    from septum.arrays.instances import ObjectSettings
    from septum.arrays.normalize import NormalizeSettings
    from septum.prediction.model import ModelHeader, save_model

    header = ModelHeader(
        network=net.settings,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(),
    )
    save_model(folder / "model.safetensors", net, header)


def trained(folder: Path, family: str) -> Any:
    from safetensors.torch import load_model

    net = network(family)
    load_model(net, str(weights_file(folder, family)))
    return net.eval()


def standardized(image: NDArray[Any]) -> Any:
    """``(1, 1, Y, X) float32`` of mean 0 and deviation 1 over the whole image, the default of all three tools."""
    pixels = image.astype(np.float32)
    pixels -= pixels.mean(dtype=np.float64)
    pixels /= pixels.std(dtype=np.float64)
    return pixels[None, None]


def probability(logits: Any) -> Map:
    """From logits ``(2, Y, X)`` to the probability of the second class."""
    import torch

    found: Map = torch.softmax(logits.float(), 0)[1].numpy()
    return found


def method(name: str, folder: Path) -> Callable[[Image], Map]:
    """The method as a user of the tool calls it, ready to run."""
    import torch

    family, overlap = METHODS[name]
    if family == "septum":
        import septum

        model = septum.open_model(folder / "model.safetensors")
        return lambda image: septum.predict(model, image, output="probabilities")
    net = trained(folder, family)
    if family == "nnunet":
        predict = nnunet(net, overlap)
        return lambda image: probability(predict(torch.from_numpy(standardized(image)[0][:, None]))[:, 0])
    from monai.inferers import sliding_window_inference

    def windows(image: Image) -> Map:
        with torch.inference_mode():
            pixels = torch.from_numpy(standardized(image))
            logits = sliding_window_inference(pixels, (WINDOW, WINDOW), 1, net, overlap=overlap, mode="gaussian")
            return probability(logits[0])

    return windows


def nnunet(net: Any, step: float) -> Callable[[Any], Any]:
    """The package's own predictor, without mirroring; it needs no plans but the window and the number of classes."""
    from types import SimpleNamespace

    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=step,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network = net
    predictor.configuration_manager = SimpleNamespace(patch_size=[WINDOW, WINDOW])
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)
    found: Callable[[Any], Any] = predictor.predict_sliding_window_return_logits
    return found


def whole(name: str, folder: Path, image: Image) -> Map:
    """The same network on the whole image in plain PyTorch: mirrored for Septum, zeros outside for the others."""
    import torch

    family = METHODS[name][0]
    net = trained(folder, family)
    if family == "septum":
        from septum.arrays.normalize import NormalizeSettings, normalize, statistics

        pixels = normalize(image[None], statistics(image[None], NormalizeSettings()))
        sides, context = net.geometry.input_for(image.shape), net.geometry.contexts[0]
        around = [(context, side - n - context) for side, n in zip(sides, image.shape, strict=True)]
        pixels = np.pad(pixels, ((0, 0), *around), mode="reflect")[None]
        kept = tuple(slice(c, c + n) for c, n in zip(net.geometry.crop, image.shape, strict=True))
    else:
        pixels, kept = standardized(image), (slice(None), slice(None))
    with torch.inference_mode():
        return probability(net(torch.from_numpy(pixels))[0][:, *kept])


def file_to_file(name: str, folder: Path, source: Path, memory: str | None) -> None:
    """From a TIFF of the image to a TIFF of the probability: the command line for Septum, tifffile for the others."""
    if METHODS[name][0] == "septum":
        from septum.cli.main import main

        words = ["predict", str(folder / "model.safetensors"), str(source), "-o", str(folder / "out")]
        try:
            main([*words, "--output", "probabilities", "--quiet", *(["--max-memory", memory] if memory else [])])
        except SystemExit as end:
            assert not end.code, f"exit code {end.code}"
        return
    import tifffile

    run = method(name, folder)
    tifffile.imwrite(folder / "out.tif", run(tifffile.imread(source)))


def shape_facts(name: str) -> dict[str, float]:
    """Parameters of the network, and floating-point operations per pixel of a window that is twice 512 for accuracy."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    family = METHODS[name][0]
    net = network(family).eval()
    counter = FlopCounterMode(display=False)
    side = net.geometry.input_for((1024, 1024))[0] if family == "septum" else 1024
    with counter, torch.inference_mode():
        net(torch.zeros(1, 1, side, side))
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "flop_per_input_pixel": round(counter.get_total_flops() / side**2),
    }


def computed(name: str, image: Image) -> float:
    """Pixels that the network is given, over pixels of the image."""
    family, overlap = METHODS[name]
    if family == "septum":
        from septum.arrays.tiles import plan_tiles
        from septum.nn.device import find_device
        from septum.prediction.tiled import largest_output

        limit = largest_output(shape(), find_device("cpu"))
        tiles = plan_tiles(image.shape, shape().geometry, limit)
        return sum((b - a) * (d - c) for (a, b), (c, d) in (tile.read for tile in tiles)) / image.size
    step = int(WINDOW * (1 - overlap))
    counts = [-(-(side - WINDOW) // step) + 1 for side in image.shape]
    return counts[0] * counts[1] * WINDOW**2 / image.size


def status(field: str) -> float:
    """MiB of a line of this process's status: VmRSS now, VmHWM the highest since `forget_peak`. (Linux)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> None:
    """Let VmHWM begin anew, so that it does not count what importing and warming up took."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(work: Callable[[], object]) -> dict[str, float]:
    forget_peak()
    before = status("VmRSS")
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    peak = status("VmHWM")
    return {"seconds": round(seconds, 3), "peak_mib": round(peak - before), "process_mib": round(peak)}


def answer(name: str, folder: Path, task: dict[str, Any], run: Callable[[Image], Map]) -> dict[str, Any]:
    if task["do"] == "files":
        return measured(lambda: file_to_file(name, folder, Path(task["image"]), task.get("memory")))
    image = np.load(task["image"])
    if task["do"] == "run":
        return measured(lambda: run(image)) | {"computed": round(computed(name, image), 2)}
    assert task["do"] == "seam"
    difference = np.abs(run(image) - whole(name, folder, image))
    return {"max": float(difference.max()), "mean": float(difference.mean(dtype=np.float64))}


def main() -> None:
    """Obey: ``tiling_worker.py METHOD FOLDER``, then one task a line until the input ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no reply
    run = method(name, folder)
    run(np.random.default_rng(0).integers(0, 255, (600, 600), dtype=np.uint8))
    print(json.dumps({"ready": True, "pid": os.getpid()}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(name, folder, json.loads(line), run)), file=replies, flush=True)


if __name__ == "__main__":
    main()
