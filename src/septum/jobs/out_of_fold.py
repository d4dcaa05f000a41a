"""Out-of-fold predictions: each image predicted by the network that was not trained on it, kept as files.

::

    RUN/out-of-fold/NAME.tif                  object ids, or class values, as `septum predict` writes them
    RUN/out-of-fold/probabilities/NAME.tif    float32, of the object or second class, or of each of several classes
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings
from septum.errors import SeptumError
from septum.io.images import read_image, write_image
from septum.jobs.answer import class_table, smallest_integer
from septum.jobs.load import Sample
from septum.jobs.model import Model, open_model
from septum.jobs.records import HeldOutDone
from septum.jobs.report_images import in_turn, predicted_sample
from septum.jobs.validate import MOST_SCORED, choose, object_choices, object_tables, spread

FOLDER, PROBABILITIES = "out-of-fold", "probabilities"


@dataclass(frozen=True)
class OutOfFold:
    """The predictions of a run.

    Parameters
    ----------
    run
        The run folder.

    Attributes
    ----------
    seconds
        That the prediction of each image took, by its name, of those predicted now.
    """

    run: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def path(self, sample: Sample) -> Path:
        """Return the file of a sample's labels."""
        return self.run / FOLDER / f"{sample.name}.tif"

    def read(self, sample: Sample) -> NDArray[np.float32] | None:
        """Return the probabilities of a sample, as `septum.jobs.report_images.predicted_sample`; None if not there."""
        path = self.run / FOLDER / PROBABILITIES / f"{sample.name}.tif"
        try:
            found = np.asarray(read_image(path).array, np.float32)
        except SeptumError:
            return None
        return found if found.shape[1:] == sample.mask.shape else None

    def predict(
        self, shares: Sequence[tuple[Path, Sequence[Sample]]], *, device: str, limit_s: float | None
    ) -> Iterator[HeldOutDone]:
        """Predict what is not there yet, the images of a share with its model.

        Parameters
        ----------
        shares
            For each fold its model file and its held-out samples.
        device
            See `septum.nn.device.find_device`.
        limit_s
            For all; then the images that were reached are spread over each share.
        """
        (self.run / FOLDER / PROBABILITIES).mkdir(parents=True, exist_ok=True)
        begin, done, total = time.monotonic(), 0, sum(len(samples) for _, samples in shares)
        for number, (path, samples) in enumerate(shares, start=1):
            until = None if limit_s is None else begin + limit_s * number / len(shares)
            missing = [s for s in in_turn(samples) if self.read(s) is None]
            model = open_model(path, device) if missing else None
            done += len(samples) - len(missing)
            for place, sample in enumerate(missing):
                if until is not None and place and time.monotonic() > until:
                    break
                assert model is not None
                start = time.monotonic()
                probabilities, _ = predicted_sample(model, sample)
                self.seconds[sample.name] = time.monotonic() - start
                self._write(f"{PROBABILITIES}/{sample.name}", probabilities, sample)
                done += 1
                yield HeldOutDone(done, total)

    def tune(self, samples: Sequence[Sample], *, limit_s: float | None) -> ObjectSettings:
        """Return the settings of objects with the best scores over samples that are predicted."""
        choices, begin, tables = object_choices(samples), time.monotonic(), {}
        for index in spread(len(samples), MOST_SCORED):
            probabilities = self.read(samples[index])
            if probabilities is not None:
                tables[index] = object_tables(samples[index], probabilities[0].astype(np.float16), choices)
            if limit_s is not None and time.monotonic() - begin > limit_s:
                break
        return choices[choose(tables)[0]] if tables else ObjectSettings()

    def write_labels(self, sample: Sample, labels: NDArray[np.int32], model: Model) -> None:
        """Write labels ``(*S)``, object ids or classes 0 .. K - 1, as `septum predict` would."""
        if model.header.kind == "classes":
            written: NDArray[Any] = class_table(model)[labels]
        else:
            written = labels.astype(smallest_integer(0, int(labels.max(initial=0))))
        self._write(sample.name, written[None], sample)

    def _write(self, name: str, array: NDArray[Any], sample: Sample) -> None:
        axes = "ZYX"[-sample.mask.ndim :]
        size = dict(zip(axes, sample.spacing_um or (), strict=False))
        one = array.shape[0] == 1
        target = self.run / FOLDER / f"{name}.tif"
        write_image(target, array[0] if one else array, axes=axes if one else "C" + axes, pixel_size_um=size)
