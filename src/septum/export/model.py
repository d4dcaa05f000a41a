"""Export a model to a file of another program, and prove that the file computes what the model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from septum.arrays.tiles import Readable
from septum.errors import FileError, SeptumError, UsageError
from septum.export.bioimageio import write_package
from septum.export.exportable import left_out, model_name
from septum.export.model_settings import SUFFIX, ExportSettings
from septum.export.onnx_check import Comparison, TestPair
from septum.export.onnx_file import write_onnx
from septum.io.tensors import read_model
from septum.prediction.frames import FoundScale, open_for_model, split_frames, working_frame
from septum.prediction.model import Model


@dataclass(frozen=True)
class ExportedModel:
    """A file that was written and proven.

    Attributes
    ----------
    path : Path
        The file.
    bytes : int
        Its length.
    inputs : tuple of str
        Names of the inputs of the network in it.
    comparison : Comparison
        What it was compared on.
    left_out : tuple of str
        What prediction by Septum does and the file does not, a sentence each.
    """

    path: Path
    bytes: int
    inputs: tuple[str, ...]
    comparison: Comparison
    left_out: tuple[str, ...]


def export_model(model: Model, file: Path, settings: ExportSettings) -> ExportedModel:
    """Write a model for another program, as a whole or not at all.

    Parameters
    ----------
    model
        Opened on the CPU.
    file
        Its file, which holds the test pair.
    settings
        The format, the file to write, and what a package states.

    Raises
    ------
    UsageError
        If onnx or onnxruntime are missing.
    FileError
        If the file cannot be written, or does not compute what the model computes: then no file is left.
    DataError, FileError, ModelError
        If the sample cannot be read, does not fit the model, or holds pixels that are no finite numbers.
    """
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--to {settings.to}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            "the libraries that write and run ONNX files",
            "install them: pip install 'septum[export]'",
        )
    tensors, _ = read_model(file)
    pair = TestPair(tensors["test.input"].astype(np.float32), tensors["test.output"].astype(np.float32))
    out = settings.out or Path(f"{model_name(settings.model)}{SUFFIX[settings.to]}")
    if out.is_dir():
        raise FileError(f"{out}: is a folder", f"a file that ends in {SUFFIX[settings.to]}", "name a file in it")
    if settings.to == "bioimageio":
        with _opened_sample(settings.sample, model) as sample:
            inputs, comparison = write_package(out, model, pair, settings, sample)
    else:
        inputs, comparison = write_onnx(out, model, pair, model.header.normalization)
    return ExportedModel(out, out.stat().st_size, inputs, comparison, tuple(left_out(model.header)))


@contextmanager
def _opened_sample(path: Path | None, model: Model) -> Iterator[Readable | None]:
    """Yield the middle frame of an image as prediction reads it, on the grid of the network; None without a path."""
    if path is None:
        yield None
        return
    try:
        image, _ = open_for_model(path, model)
        frames = split_frames(image, model)
    except SeptumError as error:
        if "--" not in error.todo:
            raise
        # No option of the export names axes or channels: advice to name them would not help.
        todo = "name an image like those of the training, whose file states its axes, such as OME-TIFF"
        raise type(error)(error.given, error.expected, todo) from None
    with image:
        grid = FoundScale.at((1.0,) * model.rank, model).grid
        yield working_frame(frames[len(frames) // 2], grid)
