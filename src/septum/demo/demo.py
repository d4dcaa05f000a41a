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
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum import seeding
from septum.demo.otsu_watershed import otsu_watershed
from septum.demo.settings import DemoSettings
from septum.demo.synthetic_cells import generate
from septum.errors import FileError
from septum.events import Event
from septum.io.files import read_image, write_image
from septum.metrics import ctc, matching
from septum.metrics.contingency import Table, table
from septum.report.pictures import Compared
from septum.training.events import Stopped
from septum.training.interrupt import StopRequest

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
        If the folder cannot be written, or holds a demo of another seed or length.
    """
    # These import torch; the command line prints its first line before.
    from septum.experiments.run import run_training
    from septum.prediction.predict import predict_files
    from septum.prediction.settings import PredictSettings
    from septum.training.settings import TrainSettings

    begin = time.monotonic()
    out = settings.out
    _write_images(out / "training", "cells", settings.seed, settings.training)
    tests = _write_images(out / "test", "test", settings.seed, settings.tests)
    asked = TrainSettings(
        data=(out / "training",),
        out=out / "run",
        budget_s=settings.budget_s,
        seed=settings.seed,
        batch=BATCH,
        device=settings.device,
    )
    for event in run_training(asked, stop=stop):
        yield event
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
    rows = yield from _compare(tests, out)
    yield DemoDone(rows, out, time.monotonic() - begin)


def write_studio_images(settings: DemoSettings) -> Path:
    """Write images without masks, to be annotated in the studio; return their data folder.

    Raises
    ------
    FileError
        If the folder cannot be written.
    """
    folder = settings.out / "studio"
    _write_images(folder, "cells", settings.seed, settings.training, masks=False)
    return folder


def _write_images(folder: Path, name: str, seed: int, count: int, *, masks: bool = True) -> list[Path]:
    """Write `count` images, and masks, as a data folder; return the files of the images."""
    paths = []
    for part in ("images", "masks") if masks else ("images",):
        try:
            (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"{folder / part}: {error.strerror}", "a folder that can be written", "give another -o"
            ) from None
    for index in range(count):
        image, labels = generate(seeding.number(seed, f"demo {name}", index))
        file = f"{name}-{index + 1:02d}.png"
        write_image(folder / "images" / file, image.astype(np.uint8), axes="CYX")
        if masks:
            write_image(folder / "masks" / file, labels.astype(np.uint16), axes="YX")
        paths.append(folder / "images" / file)
    return paths


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
