"""Find label errors: places where a mask contradicts the prediction of a network that was not trained on the image.

An object can be wrong in three ways (overlooked, not there, badly outlined), those of Tkachenko, Thyagarajan and
Mueller 2023, "ObjectLab: automated diagnosis of mislabeled images in object detection data". The confidence of the
network is the mean of its probability over the pixels that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import connected_components
from septum.check.check import Report, check
from septum.check.samples import load_pair
from septum.errors import UsageError
from septum.events import Event
from septum.experiments.events import HeldOutDone
from septum.experiments.held_out import HELD_OUT, OUT_OF_FOLD, HeldOutFiles
from septum.io.formats import format_path
from septum.io.selection import Selection
from septum.metrics.contingency import table
from septum.pairing.sample import Sample, judged_objects
from septum.prediction.model import Model, open_model
from septum.report.gallery import labels_of, on_own_grid, predicted_sample
from septum.review.settings import ReviewSettings
from septum.settings import MaskKind
from septum.training.events import Checked
from septum.training.run_folder import RunFolder, read_plan_file

DisagreementKind = Literal["missing", "extra", "outline", "class"]
Region = tuple[slice, ...]

# Weaker disagreements are thin rims and small specks, or the network is hardly sure.
LEAST_STRENGTH = 0.25

_MATCHED = 0.25  # least share of an object inside one object of the other side that makes the two a pair
_WELL_OUTLINED = 0.8  # IoU of a pair whose outlines agree


@dataclass(frozen=True)
class LabelDisagreement:
    """A place where the prediction contradicts the mask.

    Attributes
    ----------
    kind : str
        ``"missing"``: the mask lacks an object that is predicted. ``"extra"``: the mask has an object that is not
        predicted. ``"outline"``: both have the object, with another outline. ``"class"``: another class.
    label, predicted : int
        Id (or class) in the mask and in the prediction; 0 for none.
    start, stop : tuple of int
        Box around the pixels that differ, ``(*S)``: first pixel, and one after the last.
    area_px : int
        Number of pixels that differ.
    confidence : float
        Mean probability of the prediction at these pixels, 0..1.
    strength : float
        Rank, 0..1: the confidence (scaled so that one half is 0) times the area relative to a typical object, at
        most 1.
    """

    kind: DisagreementKind
    label: int
    predicted: int
    start: tuple[int, ...]
    stop: tuple[int, ...]
    area_px: int
    confidence: float
    strength: float


@dataclass(frozen=True)
class LabelIssue:
    """A label to look at: the name of the image, the file of its mask, and the disagreement."""

    image: str
    mask: Path
    disagreement: LabelDisagreement

    def describe(self, values: Sequence[int] = ()) -> str:
        """Describe the prediction at this place; `values` are those of the classes in the masks."""
        disagreement = self.disagreement
        match disagreement.kind:
            case "missing":
                return "an object that the mask lacks"
            case "extra":
                return f"no object where the mask has number {disagreement.label}"
            case "outline":
                return f"another outline of number {disagreement.label}"
        return f"class {values[disagreement.predicted]} where the mask has {values[disagreement.label]}"


@dataclass(frozen=True)
class LabelIssues(Event):
    """The last event: all issues, the strongest first, and the numbers of images that could and could not be judged."""

    issues: tuple[LabelIssue, ...]
    judged: int
    unseen: int


def review_run(settings: ReviewSettings) -> Iterator[Event]:
    """Check the data of a run, and find the label errors in it.

    Yields
    ------
    Checked, the events of `find_label_issues`, and LabelIssues at the end.

    Raises
    ------
    SeptumError
        If the folder does not hold a run or does not state where its data are, and as `find_label_issues`.
    """
    run = settings.run
    if not (run / "settings.json").is_file():
        raise UsageError(
            f"{format_path(run)}: not the folder of a run", "a folder that septum train wrote", "check the name"
        )
    stored = RunFolder(run).read_settings()
    data = settings.data or tuple(Path(str(path)) for path in stored.get("data", ()))
    if not data or not all(path.exists() for path in data):
        missing = ", ".join(format_path(path) for path in data if not path.exists())
        raise UsageError(
            f"{format_path(run)}: the data of this run are not at {missing}"
            if missing
            else f"{format_path(run)}: does not say where its data are",
            "the data that the run was trained on",
            f"name them: septum review {format_path(run)} DATA",
        )
    ignored = stored.get("ignore_values", stored.get("ignore", ()))
    report = check(
        data,
        kind=stored.get("kind"),
        ignore=tuple(int(value) for value in ignored),
        background=stored.get("background"),
        axes=stored.get("axes"),
        selection=Selection(tuple(stored.get("channel", ())), stored.get("level"), stored.get("pixel_size")),
    )
    yield Checked(report)
    yield from find_label_issues(report, run, device=settings.device)


def find_label_issues(report: Report, run: Path, *, device: str = "auto") -> Iterator[Event]:
    """Compare masks with predictions by networks that were not trained on them.

    Parameters
    ----------
    report
        Check of the data that the run was trained on; masks may have been corrected since.
    run
        A run folder. With folds every image is judged, otherwise those that were held out.
    device
        See `septum.nn.device.find_device`.

    Yields
    ------
    HeldOutDone for each image, LabelIssues at the end.

    Raises
    ------
    SeptumError
        If the report holds errors, the folder holds no finished run, none of the images was held out, or the masks are
        of another kind than those of the run.
    """
    report.refuse_errors()
    judge = _HeldOutJudge(run, device)
    if judge.model.header.kind != report.rules.kind:
        raise UsageError(
            f"{format_path(run)} was trained on {judge.model.header.kind}, these masks hold {report.rules.kind}",
            "the data that the run was trained on",
            "give the data that the run was trained on",
        )
    samples = [
        (pair, sample) for pair in report.pairs for sample in load_pair(pair, report) if sample.name in judge.folders
    ]
    if not samples:
        raise UsageError(
            f"{format_path(run)}: none of these images was held out there",
            "the data that the run was trained on, of more than one image",
            "train with --folds 5, so that every image is held out once",
        )
    typical_px = _typical_size([sample for _, sample in samples], report.rules.kind)
    issues: list[LabelIssue] = []
    for number, (pair, sample) in enumerate(samples, start=1):
        disagreements = judge.disagreements(sample, typical_px)
        issues += [LabelIssue(sample.name, pair.mask, one) for one in disagreements if one.strength >= LEAST_STRENGTH]
        yield HeldOutDone(number, len(samples))
    issues.sort(key=lambda issue: -issue.disagreement.strength)
    yield LabelIssues(tuple(issues), len(samples), max(0, _count_samples(report) - len(samples)))


class _HeldOutJudge:
    """The networks of a run, and which of them was not trained on an image."""

    def __init__(self, run: Path, device: str) -> None:
        plan = read_plan_file(run)
        self._device = device
        self.model = open_model(run / "model.safetensors", device)
        folds = plan.get("folds")
        if folds is None:
            self.folders: Mapping[str, Path] = {str(name): run for name in plan.get("held_out", [])}
        else:
            self.folders = {str(n): run / f"fold-{k}" for k, names in enumerate(folds, start=1) for n in names}
        self._files = HeldOutFiles(run / (HELD_OUT if folds is None else OUT_OF_FOLD), self.model.header.scale)
        self._opened: tuple[Path, Model] = (run, self.model)

    def disagreements(self, sample: Sample, typical_px: float) -> list[LabelDisagreement]:
        """Compare a sample with its prediction: the one in the run folder, or a new one."""
        probabilities = self._files.read(sample)
        if probabilities is None:
            folder = self.folders[sample.name]
            if self._opened[0] != folder:
                self._opened = (folder, open_model(folder / "model.safetensors", self._device))
            probabilities, _ = predicted_sample(self._opened[1], sample)
        labels = labels_of(probabilities, self.model, sample)
        probabilities = on_own_grid(probabilities, sample)
        if self.model.header.kind == "classes":
            return class_disagreements(sample.mask, labels, probabilities, typical_px=typical_px)
        labels = judged_objects(labels, sample)
        return object_disagreements(sample.mask, labels, probabilities[0], typical_px=typical_px)


def _count_samples(report: Report) -> int:
    """Return the number of samples in the data."""
    rank = report.rules.rank
    facts = [item.image_stats for item in report.pairs if item.image_stats]
    return sum(f.frames * (f.sides[0] if rank == 2 and len(f.sides) == 3 else 1) for f in facts)


def _typical_size(samples: Sequence[Sample], kind: MaskKind) -> float:
    """Return the median size of true objects in pixels, or of connected pieces of all true classes but the first."""
    labels = (sample.mask if kind == "objects" else connected_components(sample.mask > 0) for sample in samples)
    sizes = np.concatenate([np.bincount(one[one > 0].ravel(), minlength=1) for one in labels])
    return float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 1.0


def object_disagreements(
    truth: NDArray[np.int32], predicted: NDArray[np.int32], foreground: NDArray[np.float32], *, typical_px: float
) -> list[LabelDisagreement]:
    """Compare the objects of a mask with predicted ones.

    Parameters
    ----------
    truth
        ``(*S) int32`` ids, 0 background, negative where not annotated.
    predicted
        ``(*S) int32`` ids, 0 background.
    foreground
        ``(*S) float32`` probability of an object, 0..1.
    typical_px
        Size of a typical object in pixels, above 0.

    Returns
    -------
    list of LabelDisagreement
        The strongest first.
    """
    from scipy.ndimage import find_objects

    confidence = np.where(predicted > 0, foreground, 1 - foreground)
    boxes = find_objects(np.maximum(truth, 0)), find_objects(predicted)
    disagreements = []
    for kind, label, other in _unequal_pairs(truth, predicted):
        region = _enclosing_box(boxes[0][label - 1] if label else None, boxes[1][other - 1] if other else None)
        true, seen = (truth[region] == label) & (label > 0), (predicted[region] == other) & (other > 0)
        # Where both have objects, but divide them differently, the network errs as often as the mask: not judged.
        differs = (true & (predicted[region] == 0)) | (seen & (truth[region] == 0))
        disagreements.append(_disagreement(kind, (label, other), region, differs, confidence[region], typical_px))
    return sorted((one for one in disagreements if one is not None), key=lambda one: -one.strength)


def class_disagreements(
    truth: NDArray[np.int32], predicted: NDArray[np.int32], probabilities: NDArray[np.float32], *, typical_px: float
) -> list[LabelDisagreement]:
    """Compare the classes of a mask with predicted ones, by connected pieces without rims of one or two pixels.

    Parameters
    ----------
    truth
        ``(*S) int32`` classes 0 .. K - 1, negative where not annotated.
    predicted
        ``(*S) int32`` classes.
    probabilities
        ``(K, *S) float32``, 0..1, or ``(1, *S)`` of the second of two classes.
    typical_px
        Size of a typical piece in pixels, above 0.

    Returns
    -------
    list of LabelDisagreement
        The strongest first.
    """
    from scipy.ndimage import binary_opening, find_objects

    if len(probabilities) == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities])
    confidence = np.take_along_axis(probabilities, predicted[None], axis=0)[0]
    differs = (truth >= 0) & (truth != predicted)
    disagreements = []
    for value in np.unique(truth[differs]):
        for other in np.unique(predicted[differs & (truth == value)]):
            confused = differs & (truth == value) & (predicted == other)
            pieces = connected_components(binary_opening(confused, np.ones((3,) * truth.ndim)))
            for number, region in enumerate(find_objects(pieces), start=1):
                piece, both = pieces[region] == number, (int(value), int(other))
                disagreements.append(_disagreement("class", both, region, piece, confidence[region], typical_px))
    return sorted((one for one in disagreements if one is not None), key=lambda one: -one.strength)


def _unequal_pairs(
    truth: NDArray[np.int32], predicted: NDArray[np.int32]
) -> Iterator[tuple[DisagreementKind, int, int]]:
    """Yield objects without a partner, and pairs whose outlines differ.

    A predicted object that contains several true ones is compared with the one that fits it best; for the others 0
    takes its place.
    """
    both = table(truth, predicted)
    row, column, shared, union = both.overlaps
    labels, sizes = both.truth_objects
    numbers, areas = both.predicted_objects
    covered, held = (np.bincount(k, shared, len(n)) for k, n in ((row, labels), (column, numbers)))
    for place in np.flatnonzero(held < _MATCHED * areas):
        yield "missing", 0, int(numbers[place])
    for place in np.flatnonzero(covered < _MATCHED * sizes):
        yield "extra", int(labels[place]), 0
    iou = shared / union
    for place in np.flatnonzero(covered >= _MATCHED * sizes):
        mine = np.flatnonzero(row == place)
        best = mine[np.argmax(iou[mine])]
        if iou[best] < _WELL_OUTLINED:
            inside = np.flatnonzero(column == column[best])
            fits_best = best == inside[np.argmax(iou[inside])]
            yield "outline", int(labels[place]), int(numbers[column[best]]) if fits_best else 0


def _enclosing_box(one: Region | None, other: Region | None) -> Region:
    """Return the box around one or two boxes."""
    if one is None or other is None:
        both = one or other
        assert both is not None
        return both
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def _disagreement(
    kind: DisagreementKind,
    numbers: tuple[int, int],
    region: Region,
    differs: NDArray[np.bool_],
    confidence: NDArray[np.floating[Any]],
    typical_px: float,
) -> LabelDisagreement | None:
    """Return the disagreement of the pixels of a region that differ; None if there are none."""
    area = int(differs.sum())
    if area == 0:
        return None
    mean = float(confidence[differs].mean(dtype=np.float64))
    places = np.argwhere(differs)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    strength = max(0.0, 2 * mean - 1) * min(1.0, area / typical_px)
    start, stop = (tuple(int(s.start + v) for s, v in zip(region, end, strict=True)) for end in (low, high))
    return LabelDisagreement(kind, *numbers, start, stop, area, mean, strength)
