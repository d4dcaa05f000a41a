"""Held-out images of a run as its report shows them: predicted, scored, the worst and the best kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from septum.arrays.resample import Resampled
from septum.arrays.targets import separate_touching
from septum.check.check import Report
from septum.check.samples import open_sample
from septum.errors import SeptumError
from septum.io.image import Image
from septum.metrics import aggregate, calibration, isbi, matching
from septum.metrics.aggregate import Estimate, Finish, class_columns, finish_classes, finish_objects, object_columns
from septum.metrics.contingency import Table, table
from septum.pairing.parts import judged_parts
from septum.pairing.sample import Sample, WholeSample, evenly_chosen, judged_objects, on_grid
from septum.prediction.frames import FoundScale
from septum.prediction.in_memory import predict_image
from septum.prediction.model import Model
from septum.prediction.outputs import most_probable_class, postprocess
from septum.settings import MaskKind
from septum.training.model_selection import selection_names, selection_score
from septum.training.schedule import fits_another

T = TypeVar("T")

FOUND = 0.5
"""An object is found if its match has this IoU or more."""

MOST_IMAGES = 24  # held-out images that are shown
CASES = 4  # number of the worst images, and of the best, that are shown


@dataclass(frozen=True, eq=False)
class ScoredSample:
    """One held-out image that was predicted and compared with its truth.

    Attributes
    ----------
    name, group
        Those of the sample.
    sides
        In pixels.
    seconds
        Time of its prediction.
    gold, full
        Table with the gold truth, which is the mask where there is none, and with the mask. Labels are object ids, or
        classes 0 .. K - 1.
    sure
        ``(BINS, 3) float64`` of `septum.metrics.calibration.columns`.
    areas
        Table of `septum.metrics.isbi.areas` where the classes are lines and areas; None otherwise.
    part_of
        Name of the image of which this is a part that is judged alone (`septum.pairing.parts.judged_parts`); else "".
    """

    name: str
    group: str
    sides: tuple[int, ...]
    seconds: float
    gold: Table
    full: Table
    sure: NDArray[np.float64]
    areas: Table | None = None
    part_of: str = ""


@dataclass(frozen=True, eq=False)
class Case:
    """One held-out image to show; of a volume, its middle section.

    Attributes
    ----------
    name : str
        Name of the sample.
    rank : float
        0 (worst) to 1, see `own_scores`.
    scores : dict
        Scores of this image alone.
    image : ndarray
        ``(C, Y, X)`` float32, raw intensities.
    truth, predicted : ndarray
        ``(Y, X)`` int32: object ids, or classes 0 .. K - 1; `UNANNOTATED` in the truth where pixels are not annotated.
    missed, false : tuple of int
        Ids of true objects without a match, and of predicted ones; empty for classes.
    section : tuple of int or None
        Number of the section, from 1, and the number of sections; None for an image.
    """

    name: str
    rank: float
    scores: Mapping[str, float]
    image: NDArray[np.float32]
    truth: NDArray[np.int32]
    predicted: NDArray[np.int32]
    missed: tuple[int, ...]
    false: tuple[int, ...]
    section: tuple[int, int] | None


@dataclass(frozen=True)
class ImageLine:
    """One scored image in a table: its name, scores, sides in pixels and seconds of its prediction."""

    name: str
    scores: Mapping[str, float]
    sides: tuple[int, ...]
    seconds: float


class Gallery:
    """Predict and score held-out images; keep pixels only of the images that will be shown.

    Parameters
    ----------
    model
        The finished model of the run.
    predicted
        What it predicts of some samples, by name: ``(1, *W)`` float16, and seconds; others are predicted here.

    Attributes
    ----------
    images
        The scored images.
    """

    def __init__(
        self, model: Model, predicted: Mapping[str, tuple[NDArray[np.float16], float]] = MappingProxyType({})
    ) -> None:
        self.model, self._predicted = model, predicted
        self._lines = model.header.lines
        self.images: list[ScoredSample] = []
        self._ranks: list[float] = []
        self._cases: list[Case] = []

    def fill(self, report: Report, names: Sequence[str], limit_s: float) -> Iterator[str]:
        """Add up to `MOST_IMAGES` of the named samples, evenly chosen, within a time limit; yield the problems."""
        begin, number = time.monotonic(), min(MOST_IMAGES, len(names))
        for place, name in enumerate(spread_order(shown(names))):
            if not fits_another(time.monotonic() - begin, place, limit_s):
                yield f"the report shows {place} of {len(names)} held-out images, to keep the time"
                return
            try:
                sample = open_sample(report, name)
                if left_out := self._predict(sample, max(1, MOST_IMAGES // number), begin + limit_s):
                    yield left_out
            except SeptumError as error:
                yield f"a held-out image is not in the report: {error}"

    def _predict(self, sample: Sample, most: int, end: float) -> str:
        """Predict and score a sample, or `most` parts of a large one; return a sentence about the parts left out."""
        if sample.name in self._predicted:
            foreground, seconds = self._predicted[sample.name]
            probabilities, begun = foreground.astype(np.float32), time.monotonic()
            found = labels_of(probabilities, self.model, sample)
            self.add(sample, probabilities, found, seconds=seconds + time.monotonic() - begun)
            return ""
        start, done = time.monotonic(), 0
        parts = judged_parts(sample, objects=self.model.header.kind == "objects")
        for place, part in enumerate(spread_order([parts[i] for i in evenly_chosen(len(parts), most)])):
            begun = time.monotonic()
            if not fits_another(begun - start, place, end - start):
                break
            self.add(part, *predicted_sample(self.model, part), seconds=time.monotonic() - begun)
            done = place + 1
        return "" if done == len(parts) else f"the report shows {done} of {len(parts)} parts of {sample.name}"

    @property
    def worst(self) -> list[Case]:
        """The worst images, the worst first."""
        return self._cases[: min(CASES, -(-len(self._cases) // 2))]

    @property
    def best(self) -> list[Case]:
        """The best images that are not among the worst, the best first."""
        return self._cases[len(self.worst) :][::-1][:CASES]

    def lines(self) -> Iterator[ImageLine]:
        """Yield all images, the worst first."""
        for place in np.argsort(self._ranks, kind="stable"):
            image = self.images[place]
            scores, _ = own_scores(image, self.model.header.kind, values=self.model.header.class_values)
            yield ImageLine(image.name, scores, image.sides, image.seconds)

    def add(
        self, sample: Sample, probabilities: NDArray[np.float32], predicted: NDArray[np.int32], *, seconds: float
    ) -> None:
        """Score a predicted sample, and keep its pixels if it is to be shown.

        Parameters
        ----------
        sample
            The held-out image with its truth.
        probabilities
            ``(1, *W)`` or ``(K, *W)`` float32, 0..1, of `predicted_sample`.
        predicted
            ``(*S)`` int32, object ids or classes, of `predicted_sample`.
        seconds
            Time of the prediction.
        """
        header = self.model.header
        full = table(sample.mask, judged_objects(predicted, sample) if header.kind == "objects" else predicted)
        # The network was trained with a thin background between objects that touch.
        taught = separate_touching(sample.mask) if header.kind == "objects" else sample.mask
        image = ScoredSample(
            name=sample.name,
            group=sample.group,
            sides=sample.mask.shape,
            seconds=seconds,
            gold=full if sample.gold is None else table(sample.gold, predicted),
            full=full,
            sure=calibration.columns(on_own_grid(probabilities, sample), taught),
            areas=isbi.areas(sample.mask, predicted) if self._lines else None,
            part_of=sample.whole.sample.name if isinstance(sample.whole, WholeSample) else "",
        )
        scores, rank = own_scores(image, header.kind, values=header.class_values)
        self.images.append(image)
        self._ranks.append(rank)
        cases = sorted([*self._cases, _case(sample, predicted, image, scores, rank, header.kind)], key=lambda c: c.rank)
        # An image in the middle can be neither among the worst nor among the best at the end.
        self._cases = cases if len(cases) <= 2 * CASES else cases[:CASES] + cases[-CASES:]


def shown(names: Sequence[str]) -> list[str]:
    """Return the names of the held-out images that a report shows: `MOST_IMAGES` at most, evenly chosen."""
    return [names[i] for i in evenly_chosen(len(names), MOST_IMAGES)]


def estimates(
    images: Sequence[ScoredSample], kind: MaskKind, *, values: Sequence[int], seed: int
) -> dict[str, Estimate]:
    """Score all images together, with intervals over images; parts of one image are drawn together.

    Parameters
    ----------
    images
        At least one image.
    kind
        ``"objects"`` gives the scores of `septum.metrics.aggregate.finish_objects`, ``"classes"`` those of
        `septum.metrics.aggregate.finish_classes`.
    values
        Value of each class in the masks.
    seed
        Seed of the bootstrap, which draws images or whole groups (`septum.metrics.aggregate.estimates`).
    """
    rows, groups, finish = _whole_rows(images, kind, values)
    return aggregate.estimates(rows, finish, groups=groups, seed=seed)


def resampled(
    images: Sequence[ScoredSample], kind: MaskKind, *, values: Sequence[int], seed: int
) -> dict[str, NDArray[np.float64]]:
    """Compute the scores of `estimates` for each bootstrap sample: ``(bootstrap.REPEATS,) float64`` in 0..1 by name.

    Equal seeds draw the same images: predictions of two models of the same images, in the same order, can be compared
    draw by draw.
    """
    rows, groups, finish = _whole_rows(images, kind, values)
    return aggregate.resampled(rows, finish, groups=groups, seed=seed)


def own_scores(image: ScoredSample, kind: MaskKind, *, values: Sequence[int]) -> tuple[dict[str, float], float]:
    """Return the scores of one image, and the number by which images are ranked, 0 (worst) to 1.

    The rank is the selection score of the image alone (`septum.training.model_selection.selection_score`). Where it is
    not defined, because the image holds no object, the rank is 1 if none was predicted and 0 otherwise.
    """
    rows, finish = _rows([image], kind, values)
    scores = {name: float(value) for name, value in finish(rows[0]).items()}
    if all(np.isfinite(scores[name]) for name in selection_names(scores)):
        return scores, selection_score(scores)
    return scores, float(not (image.full.predicted > 0).any())


def _whole_rows(
    images: Sequence[ScoredSample], kind: MaskKind, values: Sequence[int]
) -> tuple[NDArray[np.float64], list[str], Finish]:
    """Return the columns and the group of each image, those of its parts added, and the function of `_rows`."""
    rows, finish = _rows(images, kind, values)
    wholes = [image.part_of or place for place, image in enumerate(images)]
    groups = {whole: image.group for whole, image in zip(wholes, images, strict=True)}
    sums = [rows[[other == whole for other in wholes]].sum(axis=0) for whole in groups]
    return np.stack(sums), list(groups.values()), finish


def _rows(images: Sequence[ScoredSample], kind: MaskKind, values: Sequence[int]) -> tuple[NDArray[np.float64], Finish]:
    """Return the columns of each image ``(n, ...)``, and the function that turns their sums into scores."""
    if kind == "objects":
        return np.stack([object_columns(image.gold, image.full) for image in images]), finish_objects
    rows = [class_columns(image.full, classes=len(values), areas=image.areas) for image in images]
    return np.stack(rows), finish_classes(values)


def predicted_sample(model: Model, sample: Sample) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Predict a sample as ``septum predict`` predicts its file; a part is normalized as the whole image.

    Returns
    -------
    probabilities
        ``(1, *W)`` of the object or second class, or ``(K, *W)`` of more than two classes; float32, 0..1; on the
        working grid of the model (`septum.prediction.model.ModelHeader.scale`).
    labels
        ``(*S)`` int32: object ids, or classes 0 .. K - 1; on the grid of the sample.
    """
    axes, working = "CZYX" if model.rank == 3 else "CYX", on_grid(sample, model.header.scale)
    size = dict(zip("ZYX"[-model.rank :], working.spacing_um or (), strict=False))
    image, seen = Image.from_array(working.image, axes, pixel_size_um=size), FoundScale((1.0,) * model.rank, None)
    stats = None if sample.whole is None else sample.statistics(model.header.normalization)
    probabilities = predict_image(model, image, output="probabilities", found=seen, stats=stats)
    return probabilities, labels_of(probabilities, model, sample)


def on_own_grid(probabilities: NDArray[np.float32], sample: Sample) -> NDArray[np.float32]:
    """Return probabilities ``(K, *W)`` of `predicted_sample` on the grid of the sample: ``(K, *S)`` float32, 0..1."""
    sides = sample.mask.shape
    whole = (slice(None),) * probabilities.ndim
    return probabilities if probabilities.shape[1:] == sides else Resampled(probabilities, sides)[whole]


def labels_of(probabilities: NDArray[np.float32], model: Model, sample: Sample) -> NDArray[np.int32]:
    """Compute the labels of a sample from its probabilities.

    Parameters
    ----------
    probabilities
        ``(1, *W)`` or ``(K, *W)`` float32, 0..1, of `predicted_sample`.
    model
        The model that predicted them.
    sample
        The sample, for its pixel size.

    Returns
    -------
    ndarray
        ``(*S)`` int32: object ids, or classes 0 .. K - 1.
    """
    both = np.concatenate([1 - probabilities, probabilities]) if len(probabilities) == 1 else probabilities
    spacing, sides = sample.spacing_um, None if model.header.scale == 1 else sample.mask.shape
    if model.header.kind == "classes":
        return most_probable_class(both, model.header, spacing=spacing, sides=sides).astype(np.int32)
    labels, _ = postprocess(both, model, "labels", spacing=spacing, sides=sides)
    return np.asarray(labels[0], np.int32)


def _case(
    sample: Sample,
    predicted: NDArray[np.int32],
    image: ScoredSample,
    scores: Mapping[str, float],
    rank: float,
    kind: MaskKind,
) -> Case:
    """Return the part of an image that is shown; of a volume its middle section."""
    missed: tuple[int, ...] = ()
    false: tuple[int, ...] = ()
    if kind == "objects":
        match = matching.match(image.full, FOUND)
        missed = tuple(np.setdiff1d(image.full.truth_objects[0], match.truth).tolist())
        false = tuple(np.setdiff1d(image.full.predicted_objects[0], match.predicted).tolist())
    depth = len(predicted)
    return Case(
        name=sample.name,
        rank=rank,
        scores=scores,
        image=np.stack([_middle(channel) for channel in sample.image]),
        truth=_middle(sample.mask).copy(),
        predicted=_middle(predicted).copy(),
        missed=missed,
        false=false,
        section=(depth // 2 + 1, depth) if predicted.ndim == 3 else None,
    )


def _middle(array: NDArray[Any]) -> NDArray[Any]:
    """Return the middle section ``(Y, X)`` of ``(*S)``."""
    return array if array.ndim == 2 else array[len(array) // 2]


def spread_order(things: Sequence[T]) -> list[T]:
    """Order things so that the first ones are spread over the whole: halves first, then quarters ..."""
    bits = max(1, (len(things) - 1).bit_length())
    order = sorted(range(len(things)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [things[i] for i in order]
