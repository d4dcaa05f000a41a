"""Score the held-out images with the predictor that users get, and tune how probabilities become objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import (
    AREAS,
    SEED_SHARES,
    ObjectSettings,
    area_candidates,
    candidates,
    draw_boundaries,
    label_each,
    min_size_candidates,
)
from septum.arrays.targets import connected_components
from septum.axes import relative_spacing
from septum.check.samples import judged_objects
from septum.metrics import ctc, isbi, matching, pixel, rand
from septum.metrics.contingency import Table, table
from septum.predict.tiled import image_probabilities
from septum.train.distributed import Processes

if TYPE_CHECKING:
    from septum.check.samples import Sample
    from septum.nn.device import Device
    from septum.nn.ensemble import Network
    from septum.train.interrupt import StopRequest
    from septum.train.plan import Plan
    from septum.train.schedule import Schedule

Probabilities = NDArray[np.float16]
# Of each image, by its number, a table with the gold truth and one with the full truth for each setting of objects; of
# classes one of areas, where there are lines between them, and one of classes.
CandidateTables = dict[int, list[tuple[Table, Table]]]

# Images scored in one validation during training, and for tuning; the final scores are of all.
MOST_SCORED = 24
# With a time budget: shares of it that all validations on the way, the final scores, tuning, and the report may take.
_ON_THE_WAY, _FINAL, _TUNING, _REPORT = 0.10, 0.10, 0.04, 0.03
# Seconds that the report takes beside predictions.
_DRAWING = 2.0


@dataclass
class Validator:
    """The held-out images: scored on the way, and at the end with what was tuned on them.

    Parameters
    ----------
    samples
        May be empty: then there are no scores.
    objects
        Whether masks hold object ids.
    plan
        The training's plan.
    device
        Where networks given to the methods are.
    processes
        Among which the images are shared out. All of them call the methods, and all get the same results.
    """

    samples: tuple[Sample, ...]
    objects: bool
    plan: Plan
    device: Device
    processes: Processes = field(default_factory=Processes)
    _scored: int = MOST_SCORED
    _finally: int | None = None
    _tune_s: float | None = None
    _report_s: float = 0.0
    _predict_s: float = 0.0
    _score_s: float = 0.0

    @cached_property
    def _choices(self) -> tuple[ObjectSettings, ...]:
        return (area_candidates if self.plan.lines else candidates)(self._sizes)

    @cached_property
    def _few(self) -> tuple[ObjectSettings, ...]:
        """Settings tried on the way: what is too timid with one of them may be the best model with another."""
        if self.plan.lines:
            return tuple(c for c in self._choices if c.threshold in (0.35, 0.8))
        few = [c for c in self._choices if c.threshold in (0.5, 0.8) and c.neck > 0 and not c.grow_px]
        some = sorted({self._specks[0], self._specks[len(self._specks) // 2]})
        return tuple(c.model_copy(update={"min_size_px": size}) for c in few for size in some)

    @cached_property
    def _specks(self) -> list[int]:
        return min_size_candidates(self._sizes)

    @cached_property
    def _sizes(self) -> NDArray[np.float64]:
        return object_sizes(self.samples, lines=self.plan.lines)

    @property
    def _made(self) -> bool:
        """Whether objects, or areas between lines, are made of probabilities, in a way that is tuned."""
        return self.objects or self.plan.lines

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores."""
        if not self.samples:
            return ()
        if self.objects:
            return ("SEG", "AP50", "AP")
        return (*(("V_Rand",) if self.plan.lines else ()), "dice", "iou", "pixel_error")

    def plan_validations(self, network: Network, clock: Schedule) -> int:
        """Return how often to validate; fit the number of images and the time to reserve to a time budget.

        Parameters
        ----------
        network
            Any network of the training, for prediction: one held-out image is timed with it.
        clock
            The training's.
        """
        wanted = self.plan.validations
        if not self.samples or clock.budget_s is None:
            return wanted
        for _ in range(2):  # the first time sets things up
            self._tables(network, self.samples[:1], self._few, processes=Processes())
        # The first process's clock decides, or they would validate at different steps.
        one = self.processes.broadcast(self._predict_s + self._score_s) / self.processes.world
        self._scored = min(MOST_SCORED, len(self.samples), max(2, int(_ON_THE_WAY * clock.budget_s / (wanted * one))))
        self._finally = min(len(self.samples), max(2, int(_FINAL * clock.budget_s / one)))
        self._tune_s = _TUNING * clock.budget_s
        self._report_s = _REPORT * clock.budget_s
        return max(1, min(wanted, int(_ON_THE_WAY * clock.budget_s / (self._scored * one))))

    def time_to_reserve(self, validations: int) -> float:
        """Return the seconds that so many more validations and the end will take, judged by the last one."""
        shared = 1 / self.processes.world
        each = self._scored * (self._predict_s + self._score_s) * shared
        end = 1.0 + (self._finally or 0) * (self._predict_s + self._score_s / max(1, len(self._few))) * shared
        if self._made and self._tune_s is not None and self.samples:
            # Settings share work, so all of them together take less than their number says.
            settings = len(self._choices) + len(SEED_SHARES) + len(self._specks)
            tuning = self._score_s * settings / max(1, len(self._few)) * shared
            end += min(self._tune_s, min(self._finally or 0, MOST_SCORED) * tuning)
        # The report predicts some images again, in the first process alone.
        end += min(self._report_s, _DRAWING + min(MOST_SCORED, len(self.samples)) * (self._predict_s + self._score_s))
        return max(0, validations) * each + end

    def score(self, network: Network, stop: StopRequest) -> dict[str, float] | None:
        """Score some of the images, evenly chosen, with a network for prediction; None if `stop` was asked for."""
        chosen = self._some(self._scored)
        tables = self._tables(network, chosen, self._few, stop=stop)
        if self.processes.any(stop.asked and len(tables) < len(chosen)):
            return None
        return self._scores_of(tables)

    def finish(self, network: Network, clock: Schedule) -> tuple[ObjectSettings, dict[str, float], int]:
        """Tune how objects, or areas between lines, are made and score.

        Returns
        -------
        settings, scores, number
            The choice, the scores with it, and of how many images they are: all, unless a time budget is too short.
        """
        if not self.samples:
            return AREAS if self.plan.lines else ObjectSettings(), {}, 0
        chosen = self._some(self._finally or len(self.samples))
        if not self._made:
            return ObjectSettings(), self._scores_of(self._tables(network, chosen, ())), len(chosen)
        own = self.processes.share(len(chosen))
        maps = {i: self._foreground(network, chosen[i]) for i in own}
        begin, limit = clock.seconds, self._tune_s
        some = sorted(set(evenly_chosen(len(chosen), MOST_SCORED)) & set(own))

        def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> CandidateTables:
            tables: CandidateTables = {}
            for index in (i for i in some if not again or i in again):
                tables[index] = candidate_tables(chosen[index], maps[index], choices, lines=self.plan.lines)
                if not again and limit is not None and clock.seconds - begin > limit:
                    break
            return gathered(self.processes, tables)

        settings = tune_objects(measure, self.samples, lines=self.plan.lines)
        tables = {i: candidate_tables(chosen[i], maps[i], [settings], lines=self.plan.lines) for i in own}
        return settings, self._scores_of(gathered(self.processes, tables)), len(chosen)

    def _some(self, number: int) -> list[Sample]:
        """Return so many of the images, evenly chosen."""
        return [self.samples[i] for i in evenly_chosen(len(self.samples), number)]

    def _tables(
        self,
        network: Network,
        samples: Sequence[Sample],
        choices: Sequence[ObjectSettings],
        *,
        stop: StopRequest | None = None,
        processes: Processes | None = None,
    ) -> CandidateTables:
        """Compare samples with what users would get, each in the process whose share it is; gather from all."""
        processes = processes or self.processes
        predict_s, begin, tables = 0.0, time.monotonic(), CandidateTables()
        for index in processes.share(len(samples)):
            if stop is not None and stop.asked:
                break
            sample, start = samples[index], time.monotonic()
            if self._made:
                foreground = self._foreground(network, sample)
                predict_s += time.monotonic() - start
                tables[index] = candidate_tables(sample, foreground, choices, lines=self.plan.lines)
            else:
                classes = self._probabilities(network, sample).argmax(axis=0)
                predict_s += time.monotonic() - start
                tables[index] = [(table(sample.mask, classes),) * 2]
        if tables:
            self._predict_s = predict_s / len(tables)
            self._score_s = (time.monotonic() - begin - predict_s) / len(tables)
        return gathered(processes, tables)

    def _scores_of(self, tables: CandidateTables) -> dict[str, float]:
        """Return the scores with the best of the settings that the tables are of."""
        if self._made:
            return choose(tables, lines=self.plan.lines)[1]
        return class_scores([full for ((_, full),) in tables.values()], self.plan.network.classes)

    def _foreground(self, network: Network, sample: Sample) -> Probabilities:
        # Half precision: all held-out images are kept for tuning, and three digits are enough there.
        foreground: Probabilities = self._probabilities(network, sample)[1].astype(np.float16)
        return foreground

    def _probabilities(self, network: Network, sample: Sample) -> NDArray[np.float32]:
        return image_probabilities(network, sample.image, device=self.device, normalization=self.plan.normalization)


def evenly_chosen(count: int, number: int) -> list[int]:
    """Return so many of the numbers 0 .. count - 1, evenly chosen; all where there are no more."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(count, number)).astype(int)).tolist()
    return places


def object_sizes(samples: Sequence[Sample], *, lines: bool = False) -> NDArray[np.float64]:
    """Return the sizes of all objects, or of all areas between `lines`, in pixels."""
    labels = (connected_components(s.mask > 0) if lines else s.mask for s in samples)
    return np.concatenate([np.zeros(0), *(np.unique(one[one > 0], return_counts=True)[1] for one in labels)])


def tune_objects(
    measure: Callable[[Sequence[ObjectSettings], Collection[int]], CandidateTables],
    samples: Sequence[Sample],
    *,
    lines: bool = False,
) -> ObjectSettings:
    """Choose how objects, or areas between `lines`, are made: first the levels and necks, then what is a seed, a speck.

    Parameters
    ----------
    measure
        Compares images with their truth, with each of some settings: as many as there is time for, or just those with
        the numbers given.
    samples
        Images that say how large objects are.
    lines
        The two classes are lines and areas.
    """
    sizes = object_sizes(samples, lines=lines)
    choices = (area_candidates if lines else candidates)(sizes)
    tables = measure(choices, ())
    if not tables:
        return AREAS if lines else ObjectSettings()
    best = choices[choose(tables, lines=lines)[0]]
    for name, values in (("seed_share", SEED_SHARES), ("min_size_px", min_size_candidates(sizes))):
        choices = tuple(best.model_copy(update={name: value}) for value in values)
        best = choices[choose(measure(choices, tables.keys()), lines=lines)[0]]
    return best


def _object_scores(gold: Sequence[Table], full: Sequence[Table]) -> dict[str, float]:
    """Score objects of several images: ``SEG``, ``AP50`` and ``AP`` (mean over IoU 0.5 to 0.95), each in 0..1.

    SEG is taken from gold truth where that exists, which may name only some objects; the others need every object and
    are taken from the masks.
    """
    found = matching.scores(full)
    seg = ctc.seg(gold)
    return {
        "SEG": 0.0 if np.isnan(seg) else seg,
        "AP50": found[0].ap,
        "AP": float(np.mean([s.ap for s in found])),
    }


def _area_scores(areas: Sequence[Table], full: Sequence[Table]) -> dict[str, float]:
    """Score areas between lines: ``V_Rand``, the mean over images, and the scores of two classes."""
    return {"V_Rand": float(np.mean([rand.score(t).f for t in areas])), **class_scores(full, 2)}


def class_scores(tables: Sequence[Table], classes: int) -> dict[str, float]:
    """Score predicted classes, pixels of all images pooled.

    Parameters
    ----------
    tables
        True and predicted classes of each held-out image.
    classes
        Number of classes.

    Returns
    -------
    dict
        ``dice`` and ``iou`` (mean over all classes but the first, the background) and ``pixel_error``, each in 0..1.
    """
    pooled = pixel.pool([pixel.of_table(t, classes=range(1, classes)) for t in tables])
    return {"dice": pooled.mean("dice"), "iou": pooled.mean("iou"), "pixel_error": pooled.pixel_error}


def selection_score(scores: dict[str, float]) -> float:
    """Return the one number by which the best model is kept.

    It is the mean of SEG and AP50 for objects: SEG alone would not see false objects, AP50 alone not how well outlines
    fit. For classes it is Dice; where they are lines and areas, the mean of Dice and V_Rand, which sees gaps in lines.
    """
    if "SEG" in scores:
        return (scores["SEG"] + scores["AP50"]) / 2
    dice = scores["dice"] if np.isfinite(scores["dice"]) else 0.0
    return (scores["V_Rand"] + dice) / 2 if "V_Rand" in scores else dice


def candidate_tables(
    sample: Sample, foreground: Probabilities, choices: Sequence[ObjectSettings], *, lines: bool = False
) -> list[tuple[Table, Table]]:
    """Compare the objects, or the areas between lines, that each setting makes with the truth.

    Parameters
    ----------
    sample
        A held-out image.
    foreground
        ``(*S)`` probability of the object class, or of the inside of areas.
    choices
        Settings; neighbors should share much (see `septum.arrays.instances.label_each`).

    Returns
    -------
    list of (gold, full)
        For each setting the table with the gold truth, which is the mask where there is none, and with the mask. With
        `lines` the table of areas (`septum.metrics.isbi.areas`), and that of the two classes.
    """
    made = label_each(foreground.astype(np.float32), choices, spacing=relative_spacing(sample.spacing_um))
    tables = []
    for _, labels in made:
        if lines:
            classes = (draw_boundaries(labels) > 0).astype(np.int32)
            tables.append((isbi.areas(sample.mask, classes), table(sample.mask, classes)))
            continue
        full = table(sample.mask, judged_objects(labels, sample))
        tables.append((full if sample.gold is None else table(sample.gold, labels), full))
    return tables


def choose(tables: CandidateTables, *, lines: bool = False) -> tuple[int, dict[str, float]]:
    """Return the index of the best setting of `candidate_tables` (the first of equals), and its scores."""
    images, score = [tables[i] for i in sorted(tables)], _area_scores if lines else _object_scores
    scores = [score([one for one, _ in pairs], [full for _, full in pairs]) for pairs in zip(*images, strict=True)]
    best = int(np.argmax([selection_score(s) for s in scores]))
    return best, scores[best]


def gathered(processes: Processes, tables: CandidateTables) -> CandidateTables:
    """Return the tables of all processes in each of them."""
    if processes.world == 1:
        return tables
    packed = []
    for index, pairs in tables.items():
        parts = [np.stack([t.truth, t.predicted, t.count]) for pair in pairs for t in pair]
        lengths = [part.shape[1] for part in parts]
        packed.append(np.concatenate([[index, len(parts)], lengths, *(part.reshape(-1) for part in parts)]))
    found: CandidateTables = {}
    for flat in (array for arrays in processes.gather(packed) for array in arrays):
        index, count = int(flat[0]), int(flat[1])
        sizes, rest = flat[2 : 2 + count], flat[2 + count :]
        ends = 3 * np.cumsum(sizes)
        made = [Table(*rest[end - 3 * size : end].reshape(3, size)) for size, end in zip(sizes, ends, strict=True)]
        found[index] = list(zip(made[::2], made[1::2], strict=True))
    return found
