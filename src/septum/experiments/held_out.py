"""Predictions of held-out images as files in the run folder, for users and for the search of label errors.

::

    RUN/out-of-fold/NAME.tif                  object ids, or class values, as `septum predict` writes them
    RUN/out-of-fold/probabilities/NAME.tif    float32: of the object or second class, or of each of several classes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings
from septum.arrays.resample import scaled_sides
from septum.errors import SeptumError
from septum.evaluation.candidates import candidate_columns, object_sizes
from septum.evaluation.object_scores import object_examples
from septum.experiments.events import HeldOutDone
from septum.io.atomic import as_error
from septum.io.files import read_image, write_image
from septum.pairing.sample import Sample, evenly_chosen, learnable, on_grid
from septum.prediction.model import Model
from septum.prediction.outputs import class_table, smallest_integer
from septum.report.gallery import predicted_sample, spread_order
from septum.training.model_selection import (
    CandidateColumns,
    JudgedExample,
    choose_decisions,
    decision_options,
    tune_objects,
)
from septum.training.validation import MOST_SCORED

OUT_OF_FOLD, HELD_OUT = "out-of-fold", "held-out"
_PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class HeldOutShare:
    """Held-out samples, and how to open the model that predicts them, which was not trained on any of them."""

    open: Callable[[], Model]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class HeldOutFiles:
    """The files of the predictions of a run.

    Parameters
    ----------
    folder
        `OUT_OF_FOLD` or `HELD_OUT` in the run folder.
    scale
        That of the working grid of the models, on which probabilities are kept.

    Attributes
    ----------
    seconds : dict
        Seconds of each prediction of this session, by the name of the sample.
    """

    folder: Path
    scale: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)

    def path(self, sample: Sample) -> Path:
        """Return the file of the labels of a sample."""
        return self.folder / f"{sample.name}.tif"

    def read(self, sample: Sample) -> NDArray[np.float32] | None:
        """Read the probabilities of a sample.

        Returns
        -------
        ndarray or None
            ``(1, *W)`` of the object or second class, or ``(K, *W)`` of more than two classes; float32, 0..1; on the
            working grid. None if there is no readable file of the right shape.
        """
        path = self.folder / _PROBABILITIES / f"{sample.name}.tif"
        try:
            probabilities = np.asarray(read_image(path).array, np.float32)
        except SeptumError:
            return None
        sides = sample.mask.shape
        return probabilities if probabilities.shape[1:] == scaled_sides(sides, (self.scale,) * len(sides)) else None

    def predict(self, shares: Sequence[HeldOutShare], *, limit_s: float | None) -> Iterator[HeldOutDone]:
        """Predict and write the samples that have no file yet.

        Parameters
        ----------
        shares
            All held-out samples.
        limit_s
            Seconds for all of them, None without a limit. The samples of a share are predicted in an order that is
            spread over the share, at least one of them.

        Yields
        ------
        HeldOutDone for each prediction.

        Raises
        ------
        FileError
            If a file cannot be written.
        """
        folder = self.folder / _PROBABILITIES
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise as_error(folder, error) from None
        begin, done, total = time.monotonic(), 0, sum(len(share.samples) for share in shares)
        for number, share in enumerate(shares, start=1):
            until = None if limit_s is None else begin + limit_s * number / len(shares)
            missing = [s for s in spread_order(share.samples) if self.read(s) is None]
            done += len(share.samples) - len(missing)
            model = share.open() if missing else None
            for place, sample in enumerate(missing):
                if until is not None and place and time.monotonic() > until:
                    break
                assert model is not None
                start = time.monotonic()
                probabilities, _ = predicted_sample(model, sample)
                self.seconds[sample.name] = time.monotonic() - start
                self._write(f"{_PROBABILITIES}/{sample.name}", probabilities, on_grid(sample, self.scale))
                done += 1
                yield HeldOutDone(done, total)

    def tune(
        self, samples: Sequence[Sample], *, lines: bool, fill_holes: bool, limit_s: float | None
    ) -> ObjectSettings:
        """Return the object settings, or those of areas between `lines`, that score best on the predicted samples."""
        working = [on_grid(sample, self.scale) for sample in samples]
        begin, chosen = time.monotonic(), spread_order(evenly_chosen(len(samples), MOST_SCORED))

        def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> CandidateColumns:
            columns: CandidateColumns = {}
            for index in (i for i in chosen if not again or i in again):
                if (again or columns) and limit_s is not None and time.monotonic() - begin > limit_s:
                    break
                probabilities = self.read(samples[index])
                if probabilities is not None:
                    foreground = probabilities[0].astype(np.float16)
                    columns[index] = candidate_columns(working[index], foreground, choices, lines=lines)
            return columns

        settings = tune_objects(measure, working, lines=lines, fill_holes=fill_holes)
        return settings if lines else self._learn(settings, samples, working, limit_s)

    def _learn(
        self, settings: ObjectSettings, samples: Sequence[Sample], working: Sequence[Sample], limit_s: float | None
    ) -> ObjectSettings:
        """Add decisions about objects, learned from predicted samples; `working` holds them on the working grid."""
        begin, sizes, examples = time.monotonic(), object_sizes(working), list[JudgedExample]()
        own = {sample.name: sample for sample in samples}
        options = decision_options(settings, sizes)
        for place, sample in enumerate(learnable(working, "objects")):
            probabilities = self.read(own[sample.name])
            if probabilities is not None:
                parts = object_examples(sample, probabilities[0].astype(np.float16), options)
                examples.append(JudgedExample(parts, held_out=True, place=place))
            if limit_s is not None and time.monotonic() - begin > limit_s:
                break
        return choose_decisions(options, examples, sizes)

    def write_labels(self, sample: Sample, labels: NDArray[np.int32], model: Model) -> None:
        """Write labels ``(*S)`` int32, object ids or classes 0 .. K - 1, as `septum predict` would."""
        if model.header.kind == "classes":
            written: NDArray[Any] = class_table(model)[labels]
        else:
            written = labels.astype(smallest_integer(0, int(labels.max(initial=0))))
        self._write(sample.name, written[None], sample)

    def _write(self, name: str, array: NDArray[Any], sample: Sample) -> None:
        """Write an array ``(C, *S)``, without its first axis if that has one entry."""
        axes = "ZYX"[-sample.mask.ndim :]
        size = dict(zip(axes, sample.spacing_um or (), strict=False))
        one = array.shape[0] == 1
        target = self.folder / f"{name}.tif"
        write_image(target, array[0] if one else array, axes=axes if one else "C" + axes, pixel_size_um=size)
