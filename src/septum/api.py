"""The verbs as seen from Python: arrays or paths in; a model, arrays or scores out. The jobs are those of the command line."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from septum.errors import DataError, UnfamiliarImageWarning, UsageError
from septum.evaluate.evaluate import evaluate as evaluate_job
from septum.evaluate.results import Evaluation
from septum.evaluate.settings import EvaluateSettings
from septum.events import Event
from septum.experiments.run import run_training
from septum.experiments.settings import RunSettings
from septum.io.image import Image, image_of, read_image
from septum.io.write import write_image
from septum.predict.frames import split_frames
from septum.predict.model import Model
from septum.predict.model import open_model as open_model
from septum.predict.predict import predict_image, unlike
from septum.predict.settings import Output
from septum.settings import Settings
from septum.train.events import Stopped
from septum.train.interrupt import stop_on_signals

Arrays = Sequence[NDArray[Any]] | NDArray[Any]
S = TypeVar("S", bound=Settings)

# Warnings of this process: the domain of a model's training images, and the cause.
_warned: set[tuple[str, str]] = set()


def train(
    images: str | Path | Arrays,
    masks: str | Path | Arrays | None = None,
    *,
    out: str | Path | None = None,
    budget_s: float | None = None,
    steps: int | None = None,
    until_plateau: bool = False,
    preset: Literal["auto", "paper", "fiji"] = "auto",
    seed: int = 0,
    folds: int | None = None,
    kind: Literal["objects", "classes"] | None = None,
    ignore_values: Sequence[int] = (),
    group: str | None = None,
    from_model: str | Path | None = None,
    width: int | None = None,
    depth: int | None = None,
    tile: int | None = None,
    batch: int | None = None,
    set: Sequence[str] = (),  # noqa: A002 -- the name of the option
    precision: Literal["float32", "bfloat16"] | None = None,
    device: str = "auto",
    deterministic: bool = False,
    compile: bool = False,  # noqa: A002 -- the name of the option
    tensorboard: bool = False,
    mlflow: bool = False,
    verbose: bool = False,
) -> Model:
    """Train a model, as ``septum train`` does: with report, folds and tracking where asked.

    Parameters
    ----------
    images
        A folder or stack of images; or a list of arrays ``(*S)`` or ``(C, *S)`` of any integer or float type, raw
        intensities; or one array whose first axis counts images.
    masks
        The same for the masks, ``(*S)`` integers: object ids or class values, 0 background. The rank of the masks is
        that of the images. None where `images` is a folder that holds both.
    out
        Run folder: model, report, log and checkpoints; the same call on the same folder continues after a stop. A
        temporary folder that is removed where not given.
    budget_s, steps, until_plateau
        Seconds for the whole training (1800 where neither is given), or the number of steps; end earlier where the
        held-out scores no longer improve.
    preset
        ``"auto"`` follows the data; ``"paper"`` is the U-Net of 2015, ``"fiji"`` its ImageJ plugin.
    seed
        Seed of everything random: the same seed gives the same weights on the same machine.
    folds
        Hold each image out once: that number of networks, which predict together.
    kind
        What the masks hold; read from their values where not given.
    ignore_values
        Mask values to treat as not annotated.
    group
        Regular expression; images whose names match alike are never split between training and validation.
    from_model
        A model file or run folder whose weights the training starts from.
    width, depth, tile, batch, precision
        Values that win over the plan.
    set
        Any other value of the plan, ``"weights.w0=5"``.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    deterministic, compile
        On GPUs: repeatable algorithms only; compile the network with `torch.compile`.
    tensorboard, mlflow
        Log plan, losses and scores to a tracker.
    verbose
        Print plan, findings and scores to the standard error stream.

    Returns
    -------
    Model
        Ready for `predict`.

    Raises
    ------
    SeptumError
        If the data cannot be learned from or an option is outside its range: what was given, what was expected, what
        to do.
    """
    with tempfile.TemporaryDirectory(prefix="septum-") as temporary:
        rank = None if masks is None or isinstance(masks, str | Path) or len(masks) == 0 else np.ndim(masks[0])
        data = [_as_folder(images, Path(temporary) / "images", rank)]
        if masks is not None:
            data.append(_as_folder(masks, Path(temporary) / "masks", rank))
        folder = Path(out) if out is not None else Path(temporary) / "run"
        training: dict[str, Any] = {
            "data": tuple(data),
            "out": folder,
            "steps": steps,
            "until_plateau": until_plateau,
            "preset": preset,
            "seed": seed,
            "kind": kind,
            "ignore_values": tuple(ignore_values),
            "split": {"group": group},
            "from_model": from_model,
            "width": width,
            "depth": depth,
            "tile": tile,
            "batch": batch,
            "set": tuple(set),
            "precision": precision,
            "device": device,
            "deterministic": deterministic,
            "compile": compile,
        }
        if budget_s is not None:
            training["budget_s"] = budget_s
        asked = _settings(RunSettings, training=training, folds=folds, tensorboard=tensorboard, mlflow=mlflow)
        with stop_on_signals() as stop:
            for event in _shown(run_training(asked, stop), verbose=verbose):
                if isinstance(event, Stopped):
                    raise KeyboardInterrupt(f"the state after step {event.step} is saved in {event.folder}")
        return open_model(folder, device)
