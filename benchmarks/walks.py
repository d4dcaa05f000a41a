"""How many modules of Septum an image passes: one in a prediction (file to label file), one in a training (file to
gradient).

Usage: python benchmarks/walks.py [--json FILE]

Four made images of 128 x 128 pixels are trained on for three steps, and one is predicted, on the CPU. A module counts
as entered if the body of one of its functions runs on the path: generated code (constructors and comparisons of
dataclasses), bodies of classes and machine code compiled by numba are no such function. It counts as handling the image
if such a function takes or returns pixels: an array or tensor of two dimensions or more. Not counted is what runs once
in a process: each job is done once before it is traced, so that modules are imported and numba's functions compiled.
The command line (`cli`) is not part of a walk.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch

import septum

SOURCE = Path(septum.__file__).parent

# The functions that begin a part of a walk; a part is what runs inside them.
PREDICTION = {"septum.prediction.predict.predict_files": "predict"}
TRAINING = {
    "septum.check.check.check": "check",
    "septum.check.samples.load_data": "prepare",
    "septum.training.prepare.prepare": "prepare",
    "septum.training.trainer.Trainer.training_step": "step",
}


@dataclass
class Walk:
    """The modules entered by part, as `trace` finds them.

    Parameters
    ----------
    starts
        The qualified names of the functions that begin a part, and the part.
    """

    starts: dict[str, str]
    parts: dict[str, set[str]] = field(default_factory=dict)
    pixels: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = {part: set() for part in self.starts.values()}
        self.pixels = {part: set() for part in self.starts.values()}

    def modules(self, *parts: str, pixels: bool = False) -> list[str]:
        """Return the modules entered in some parts or in all, sorted; with `pixels` those that handle the image."""
        found = self.pixels if pixels else self.parts
        return sorted(set().union(*(found[part] for part in parts or found)))


def holds_pixels(value: object) -> bool:
    """Return True for an array or tensor of two dimensions or more, or a sequence of them."""
    if isinstance(value, list | tuple):
        return any(holds_pixels(one) for one in value[:3])
    return isinstance(value, np.ndarray | torch.Tensor) and value.ndim >= 2


def module_of(code: CodeType) -> str:
    """Return the module, without ``septum.``, in whose file a function stands; ``""`` for code outside of Septum.

    The bodies of modules and classes do not count, nor do the constructors that dataclasses generate.
    """
    if not code.co_flags & inspect.CO_NEWLOCALS or not code.co_flags & inspect.CO_OPTIMIZED:
        return ""
    path = Path(code.co_filename)
    if not path.is_relative_to(SOURCE):
        return ""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def arguments(frame: FrameType) -> list[object]:
    """Return the arguments that a function was called with."""
    code = frame.f_code
    return [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]


@contextmanager
def trace(walk: Walk) -> Iterator[None]:
    """Note the modules that are entered, in this thread and in those that are started meanwhile."""
    begun: list[tuple[FrameType, str]] = []  # the calls of this thread that began a part and have not returned
    names: dict[CodeType, tuple[str, str]] = {}

    def profile(frame: FrameType, event: str, result: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code not in names:
            module = module_of(code)
            names[code] = (module, walk.starts.get(f"septum.{module}.{code.co_qualname}", ""))
        module, part = names[code]
        if part and threading.current_thread() is threading.main_thread():
            if event == "call":
                begun.append((frame, part))
            elif begun and begun[-1][0] is frame:
                begun.pop()
        if begun and module and not module.startswith("cli."):
            walk.parts[begun[-1][1]].add(module)
            pixels = walk.pixels[begun[-1][1]]
            if module not in pixels and any(map(holds_pixels, [result] if event == "return" else arguments(frame))):
                pixels.add(module)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def make_images(folder: Path) -> None:
    """Write four images of bright disks and their masks into ``images/`` and ``masks/``."""
    from septum.io.files import write_image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(4):
        mask = np.zeros((128, 128), np.uint16)
        for label, (cy, cx) in enumerate(rng.uniform(12, 116, (12, 2)), start=1):
            mask[(y - cy) ** 2 + (x - cx) ** 2 < 80] = label
        image = (120.0 * (mask > 0) + rng.normal(60, 8, mask.shape)).clip(0, 255).astype(np.uint8)
        write_image(folder / "images" / f"{number}.tif", image, axes="YX")
        write_image(folder / "masks" / f"{number}.tif", mask, axes="YX")


def walk_of(starts: dict[str, str], job: Callable[[str], object]) -> Walk:
    """Do a job twice, under two names, and trace the second time.

    Raises
    ------
    RuntimeError
        If a part was not entered: a function of `starts` has another name now.
    """
    job("first")
    walk = Walk(starts)
    with trace(walk):
        job("second")
    missing = [part for part, modules in walk.parts.items() if not modules]
    if missing:
        raise RuntimeError(f"no function that begins {' or '.join(missing)} was called: {', '.join(starts)}")
    return walk


def training_walk(folder: Path) -> Walk:
    """Trace a training on the images of a folder; the first run is left in ``folder/first``."""
    from septum.training.loop import train
    from septum.training.settings import TrainSettings

    def job(name: str) -> None:
        asked = TrainSettings(data=(folder,), out=folder.parent / name, steps=3, from_model="none", device="cpu")
        for _ in train(asked):
            pass

    return walk_of(TRAINING, job)


def prediction_walk(model: Path, image: Path, out: Path) -> Walk:
    """Trace the prediction of an image."""
    from septum.prediction.predict import predict_files
    from septum.prediction.settings import PredictSettings

    def job(name: str) -> None:
        for _ in predict_files(PredictSettings(model=model, inputs=(str(image),), out=out / name, device="cpu")):
            pass

    return walk_of(PREDICTION, job)


def measure() -> dict[str, Walk]:
    """Trace a training and a prediction with its model."""
    with tempfile.TemporaryDirectory(prefix="septum-walks-") as temporary:
        folder = Path(temporary) / "data"
        make_images(folder)
        training = training_walk(folder)
        model = folder.parent / "first" / "model.safetensors"
        return {
            "prediction": prediction_walk(model, folder / "images" / "0.tif", folder.parent),
            "training": training,
        }


def counts(walks: dict[str, Walk]) -> dict[str, dict[str, list[str]]]:
    """Return the modules of each row of the table."""
    training = walks["training"]
    return {
        "prediction, file to label file": walks["prediction"].modules(),
        "prediction, handling the image": walks["prediction"].modules(pixels=True),
        "training, file to gradient": training.modules(),
        "training without the check": training.modules("prepare", "step"),
        "training, handling the image": training.modules("prepare", "step", pixels=True),
        **{f"training, {part}": training.modules(part) for part in training.parts},
    }


def main() -> None:
    """Print the table; with ``--json`` also write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the modules of each walk as JSON")
    given = parser.parse_args()
    found = counts(measure())
    for name, modules in found.items():
        print(f"{name:32} {len(modules):3}  {' '.join(modules)}")
    if given.json is not None:
        table = {name.strip(): {"count": len(modules), "modules": modules} for name, modules in found.items()}
        given.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
