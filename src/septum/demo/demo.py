"""The demo: create images, train on some of them, predict the others, and compare with a method without learning.

::

    OUT/training/images, masks     training data
    OUT/test/images, masks         test data, not used in the training
    OUT/run                        the training (see `septum.training.run_folder`)
    OUT/predicted                  predicted objects of the test images
    OUT/studio/images              images without masks, for the studio
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.demo.otsu_watershed import otsu_watershed
from septum.demo.settings import DemoSettings
from septum.demo.synthetic_cells import generate
from septum.errors import FileError, SeptumError, UsageError
from septum.events import Event, Warned
from septum.io.files import read_image, write_image
from septum.io.formats import format_path
from septum.metrics import ctc, matching
from septum.metrics.contingency import Table, table
from septum.report.pictures import Compared
from septum.training.events import Stopped
from septum.training.interrupt import StopRequest
from septum.training.schedule import OR_STEPS
from septum.words import pluralize

BASELINE = "Otsu + watershed"
# In two minutes on two cores, steps of one tile reach a better score than half as many steps of the planned two.
BATCH = 1


@dataclass(frozen=True)
class DemoDone(Event):
    """The last event of a demo.

    Attributes
    ----------
    rows : tuple
        Name of the method, SEG and AP at IoU 0.5 on all test images together: of the model, then of the baseline.
    folder : Path
        Folder of the demo; that of the run is ``folder/run``.
    seconds : float
        Duration of the demo.
    """

    rows: tuple[tuple[str, float, float], ...]
    folder: Path
    seconds: float


def demo(settings: DemoSettings, stop: StopRequest | None = None) -> Iterator[Event]:
    """Run the demo.

    Parameters
    ----------
    settings
        Images to create, and duration of the training.
    stop
        See `septum.training.loop.train`.

    Yields
    ------
    The events of `septum.experiments.run.run_training`, those of `septum.prediction.predict.predict_files` for the test
    images, Compared for each of them, and DemoDone at the end.

    Raises
    ------
    SeptumError
        If the folder cannot be written, or holds a demo of another seed or length; no file is changed then.
    """
    # These import torch; the command line prints its first line before.
    from septum.experiments.run import run_training
    from septum.prediction.predict import predict_files
    from septum.prediction.settings import PredictSettings
    from septum.training.settings import TrainSettings

    begin = time.monotonic()
    out = settings.out
    tests = _made(out / "test", "test", settings.seed, settings.tests)
    _write(_made(out / "training", "cells", settings.seed, settings.training) | tests)
    asked = TrainSettings(
        data=(out / "training",),
        out=out / "run",
        budget_s=settings.budget_s,
        seed=settings.seed,
        batch=BATCH,
        device=settings.device,
    )
    for event in run_training(asked, stop=stop):
        yield _without_steps(event)
        if isinstance(event, Stopped):
            return
    yield from predict_files(
        PredictSettings(
            model=out / "run" / "model.safetensors",
            inputs=(str(out / "test" / "images"),),
            out=out / "predicted",
            device=settings.device,
        )
    )
    rows = yield from _compare([path for path in tests if path.parent.name == "images"], out)
    yield DemoDone(rows, out, time.monotonic() - begin)


def _without_steps(event: Event) -> Event:
    """Return an event of the training; advice about ``--steps`` is left out, which the demo does not have."""
    return replace(event, text=event.text.replace(OR_STEPS, "")) if isinstance(event, Warned) else event


def write_studio_images(settings: DemoSettings) -> Path:
    """Write images without masks, to be annotated in the studio; return their data folder.

    Raises
    ------
    SeptumError
        If the folder cannot be written, or holds other images of these names: masks may have been painted on them.
    """
    folder = settings.out / "studio"
    made = _made(folder, "cells", settings.seed, settings.training)
    _write({path: pixels for path, pixels in made.items() if path.parent.name == "images"})
    return folder


def _made(folder: Path, name: str, seed: int, count: int) -> dict[Path, NDArray[np.unsignedinteger]]:
    """Make `count` images and masks of a data folder: ``(1, Y, X) uint8`` and ``(1, Y, X) uint16`` by file."""
    files: dict[Path, NDArray[np.unsignedinteger]] = {}
    for index in range(count):
        image, labels = generate(seeding.number(seed, f"demo {name}", index))
        file = f"{name}-{index + 1:02d}.png"
        files[folder / "images" / file] = image.astype(np.uint8)
        files[folder / "masks" / file] = labels[None].astype(np.uint16)
    return files


def _write(files: Mapping[Path, NDArray[np.unsignedinteger]]) -> None:
    """Write the files that do not exist yet; refuse all if one of them exists and holds other pixels."""
    if other := [path for path, pixels in files.items() if path.exists() and not _holds(path, pixels)]:
        count = pluralize(len(other), "file")
        raise UsageError(
            f"{format_path(other[0])} exists and is not the file that this demo makes ({count})",
            "a new folder, or the folder of a demo with the same --seed and version of Septum",
            "give another -o, or the --seed of the demo in this folder; nothing was changed",
        )
    for folder in dict.fromkeys(path.parent for path in files):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{folder}: {error.strerror}", "a folder that can be written", "give another -o") from None
    for path, pixels in files.items():
        if not path.exists():
            write_image(path, pixels, axes="CYX")


def _holds(path: Path, pixels: NDArray[np.unsignedinteger]) -> bool:
    """Return True if a file holds these pixels."""
    try:
        return np.array_equal(read_image(path).array, pixels)
    except SeptumError:
        return False


def _compare(tests: list[Path], out: Path) -> Generator[Compared, None, tuple[tuple[str, float, float], ...]]:
    """Score the model and the baseline on every test image; return the rows of `DemoDone`."""
    model, baseline = [], []
    for path in tests:
        image = np.asarray(read_image(path).array, np.float32)
        truth, predicted = (_labels(folder / path.name) for folder in (path.parent.parent / "masks", out / "predicted"))
        labels = otsu_watershed(image)
        model.append(table(truth, predicted))
        baseline.append(table(truth, labels))
        seg, ap50 = _scores([model[-1]])
        baseline_seg, baseline_ap50 = _scores([baseline[-1]])
        yield Compared(path.stem, image, truth, predicted, labels, seg, ap50, baseline_seg, baseline_ap50)
    return (("Septum", *_scores(model)), (BASELINE, *_scores(baseline)))


def _labels(path: Path) -> NDArray[np.int32]:
    array: NDArray[Any] = read_image(path, labels=True).array
    return np.asarray(array[0], np.int32)


def _scores(tables: list[Table]) -> tuple[float, float]:
    """Return SEG and AP at IoU 0.5, over the objects of all images."""
    return ctc.seg(tables), matching.scores(tables, thresholds=(0.5,))[0].ap
