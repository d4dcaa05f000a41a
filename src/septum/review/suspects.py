"""Labels that a trained run doubts: each image judged by a network that has not seen it, the worst label first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from septum.arrays.targets import connected_components
from septum.check.samples import Sample, judged_objects, load_pair
from septum.errors import UsageError
from septum.experiments.events import HeldOutDone
from septum.experiments.held_out import HELD_OUT, OUT_OF_FOLD, HeldOutFiles
from septum.io.paths import format_path
from septum.predict.model import Model, open_model
from septum.report.gallery import labels_of, predicted_sample
from septum.review.label_issues import LabelDisagreement, class_disagreements, object_disagreements
from septum.train.run_folder import read_plan_file

if TYPE_CHECKING:
    from septum.check.check import Report

# Weaker doubts are about rims and specks, or the model is hardly surer than a coin.
LEAST = 0.25


@dataclass(frozen=True)
class LabelIssue:
    """A label to look at: the image, its file of truth, and what the model holds against it."""

    image: str
    mask: Path
    doubt: LabelDisagreement

    def words(self, values: Sequence[int] = ()) -> str:
        """Return the doubt in words; `values` are those of the classes in the masks."""
        doubt = self.doubt
        if doubt.kind == "missing":
            return "an object that the mask lacks"
        if doubt.kind == "extra":
            return f"no object where the mask has number {doubt.label}"
        if doubt.kind == "outline":
            return f"another outline of number {doubt.label}"
        return f"class {values[doubt.predicted]} where the mask says {values[doubt.label]}"


@dataclass(frozen=True)
class LabelIssues:
    """What a run doubts: the labels, the strongest doubt first, of how many images, and of how many none judged."""

    found: tuple[LabelIssue, ...]
    judged: int
    unseen: int


def find_label_issues(report: Report, run: Path, *, device: str = "auto") -> Iterator[HeldOutDone | LabelIssues]:
    """Compare masks with predictions by networks that were not trained on them.

    Parameters
    ----------
    report
        Of the data; those that the run was trained on, masks may have been mended since.
    run
        A run folder. Of one with folds every image is judged, of others those that were held out.
    device
        See `septum.nn.device.find_device`.

    Yields
    ------
    HeldOutDone for each image, Suspects at the end.

    Raises
    ------
    SeptumError
        If the report holds errors, the folder holds no finished run, none of the images was held out, or the data are
        of another kind than the run's.
    """
    report.refuse_errors()
    judge = _Judge(run, device)
    if judge.model.header.kind != report.rules.kind:
        raise UsageError(
            f"{format_path(run)} was trained on {judge.model.header.kind}, these masks hold {report.rules.kind}",
            "the data that the run was trained on",
            "name them, or say --kind",
        )
    items = [(pair, sample) for pair in report.pairs for sample in _named(load_pair(pair, report), judge.folders)]
    if not items:
        raise UsageError(
            f"{format_path(run)}: none of these images was held out there",
            "the data that the run was trained on, of more than one image",
            "train with --folds 5, so that every image is held out once",
        )
    usual = _usual_px([sample for _, sample in items], report.rules.kind)
    found: list[LabelIssue] = []
    for number, (item, sample) in enumerate(items, start=1):
        doubts = judge.doubts(sample, usual)
        found += [LabelIssue(sample.name, item.mask, doubt) for doubt in doubts if doubt.strength >= LEAST]
        yield HeldOutDone(number, len(items))
    found.sort(key=lambda suspect: -suspect.doubt.strength)
    yield LabelIssues(tuple(found), len(items), max(0, _count(report) - len(items)))


class _Judge:
    """The networks of a run, and which of them has not seen an image."""

    def __init__(self, run: Path, device: str) -> None:
        said = read_plan_file(run)
        self._run, self._device = run, device
        self.model = open_model(run / "model.safetensors", device)
        folds = said.get("folds")
        if folds is None:
            self.folders: Mapping[str, Path] = {str(name): run for name in said.get("held_out", [])}
            self._files = HeldOutFiles(run / HELD_OUT)
        else:
            self.folders = {str(n): run / f"fold-{k}" for k, names in enumerate(folds, start=1) for n in names}
            self._files = HeldOutFiles(run / OUT_OF_FOLD)
        self._opened: tuple[Path, Model] = (run, self.model)

    def doubts(self, sample: Sample, usual_px: float) -> list[LabelDisagreement]:
        """Compare a sample with its prediction: as it was kept, or made again."""
        probabilities = self._files.read(sample)
        if probabilities is None:
            folder = self.folders[sample.name]
            if self._opened[0] != folder:
                self._opened = (folder, open_model(folder / "model.safetensors", self._device))
            probabilities, _ = predicted_sample(self._opened[1], sample)
        labels = labels_of(probabilities, self.model, sample)
        if self.model.header.kind == "objects":
            return object_disagreements(
                sample.mask, judged_objects(labels, sample), probabilities[0], usual_px=usual_px
            )
        return class_disagreements(sample.mask, labels, probabilities, usual_px=usual_px)


def _named(samples: Iterator[Sample], names: Mapping[str, Path]) -> list[Sample]:
    return [sample for sample in samples if sample.name in names]


def _count(report: Report) -> int:
    """Return how many samples the data hold."""
    rank = report.rules.rank
    facts = [pair.image_stats for pair in report.pairs if pair.image_stats]
    return sum(f.frames * (f.sides[0] if rank == 2 and len(f.sides) == 3 else 1) for f in facts)


def _usual_px(samples: Sequence[Sample], kind: str) -> float:
    """Return the median size of true objects, or of connected pieces of true classes but the first."""
    labels = (sample.mask if kind == "objects" else connected_components(sample.mask > 0) for sample in samples)
    sizes = np.concatenate([np.bincount(one[one > 0].ravel(), minlength=1) for one in labels])
    return float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 1.0
