"""Score held-out images with the predictor that users get, and tune how probabilities become objects.

What an image adds to the scores is computed for several candidate settings at once (`candidate_columns`); the sums over
images become scores in `septum.metrics.aggregate`, and `septum.training.model_selection` ranks the candidates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings
from septum.evaluation.candidates import candidate_columns, object_sizes
from septum.evaluation.object_scores import object_examples
from septum.metrics.aggregate import class_columns, finish_classes
from septum.metrics.contingency import table
from septum.nn.device import Device
from septum.nn.ensemble import Network
from septum.pairing.parts import LARGE_PX, judged_parts, longest_side
from septum.pairing.sample import Sample, evenly_chosen
from septum.prediction.tiled import image_probabilities
from septum.threads import map_in_threads, usable_cores
from septum.training.distributed import Processes
from septum.training.interrupt import StopRequest
from septum.training.model_selection import (
    MAIN_SCORES,
    CandidateColumns,
    JudgedExample,
    choose,
    choose_by,
    choose_decisions,
    decision_options,
    few_candidates,
    first_candidates,
    gather_columns,
    gather_examples,
    refinements,
    tune_objects,
    untuned,
)
from septum.training.plan import Plan
from septum.training.schedule import Schedule, fits_another

Item = TypeVar("Item")
Probabilities = NDArray[np.float16]
Judged = tuple[int | None, int | None]  # `Validator.affordable_px`, `Validator.most_scored`; None: the time decides

MOST_SCORED = 24
"""Images scored in one validation during training, and for tuning; the final scores are of all images."""

_KEPT_PIXELS = 1 << 25
"""The predictions of one validation are kept for the end if the images have no more pixels."""

# Predicting is timed on the middle of an image, with no more pixels than a square of this side.
_TIMED_PX = 768
# Parts of large images are so small that there is time for this number of them in all validations of a budget.
_LEAST_JUDGED = 6
# Shares of a time budget: validations during training, final scores, tuning, learned decisions, and the report.
_VALIDATION_SHARE, _FINAL_SHARE, _TUNING_SHARE, _LEARNING_SHARE, _REPORT_SHARE = 0.05, 0.05, 0.03, 0.03, 0.02
# Shortest time of a prediction that is reckoned with; seconds of the report without its images, which take a share of
# their time in a validation, which tries several settings (PhC-C2DH-U373, one thread: 0.24 of 0.67 s).
_SHORTEST_S, _DRAWING_S, _SHOWN_SHARE = 1e-6, 2.0, 0.4


@dataclass
class Validator:
    """Score the held-out images: some of them during training, all at the end with tuned settings.

    Parameters
    ----------
    samples
        Held-out images; without any there are no scores. Large ones are judged in parts, which take their place here.
    objects
        True if the masks hold object ids.
    plan
        Plan of the training.
    device
        Device of the networks that the methods get.
    processes
        Processes among which the images are shared out. All of them call the methods, and all get the same results.
    trained_on
        Training images, from which decisions about objects are learned as well; not used for classes.

    Attributes
    ----------
    affordable_px
        Pixels that there is time for at once (`septum.pairing.parts.judged_parts`).
    most_scored
        Images, or parts of images, that a validation during training scores, at most.
    stopped
        True if tuning did not try all settings on all images, to keep a time budget.
    predicted
        Foreground of whole images ``(1, *W)`` float16 that `finish` keeps, by name, and the seconds of a prediction.
    """

    samples: tuple[Sample, ...]
    objects: bool
    plan: Plan
    device: Device
    processes: Processes = field(default_factory=Processes)
    trained_on: tuple[Sample, ...] = field(default=(), repr=False)
    affordable_px: int = LARGE_PX
    most_scored: int = MOST_SCORED
    stopped: bool = False
    predicted: dict[str, tuple[Probabilities, float]] = field(default_factory=dict, repr=False)
    _most_final: int | None = None
    _tune_s: float | None = None
    _learn_s: float | None = None
    _report_s: float = 0.0
    _predict_s: float = 0.0
    _score_s: float = 0.0
    # Predictions of the last validation, and of the best one with the step of its network, by the identity of a sample.
    _latest: dict[int, Probabilities] = field(default_factory=dict, repr=False)
    _kept: tuple[int, dict[int, Probabilities]] = field(default=(-1, {}), repr=False)

    def __post_init__(self) -> None:
        self._given = self.samples, self.trained_on
        self._divide(self.affordable_px)

    def _divide(self, affordable_px: int) -> None:
        """Put parts in the place of images that are too large to be judged at once."""
        self.affordable_px = affordable_px
        self.samples, self.trained_on = (
            tuple(p for s in given for p in judged_parts(s, objects=self.objects, affordable_px=affordable_px))
            for given in self._given
        )
        pixels = sum(math.prod(sample.sides) for sample in self._evenly_chosen(MOST_SCORED))
        self._is_kept = self._tunable and pixels <= _KEPT_PIXELS  # the predictions of a validation, for the end

    @cached_property
    def _object_sizes(self) -> NDArray[np.float64]:
        return object_sizes(self.samples, lines=self.plan.lines)

    @cached_property
    def _all_candidates(self) -> tuple[ObjectSettings, ...]:
        return first_candidates(self._object_sizes, lines=self.plan.lines, fill_holes=self.plan.fill_holes)

    @cached_property
    def _few_candidates(self) -> tuple[ObjectSettings, ...]:
        return few_candidates(self._object_sizes, lines=self.plan.lines, fill_holes=self.plan.fill_holes)

    @property
    def _tunable(self) -> bool:
        """True if objects, or areas between lines, are made of probabilities with settings that can be tuned."""
        return self.objects or self.plan.lines

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores, in their order; none without images."""
        if not self.samples:
            return ()
        names = MAIN_SCORES["objects" if self.objects else "classes"]
        return tuple(name for name in names if name != "V_Rand" or self.plan.lines)

    def plan_validations(self, network: Network, clock: Schedule, *, earlier: Judged = (None, None)) -> int:
        """Return the number of validations; fit the images to judge and the reserved time to a time budget.

        Parameters
        ----------
        network
            Any network of the training, for prediction: one held-out image, or its middle, is timed with it.
        clock
            Schedule of the training.
        earlier
            What an earlier start of the training has judged: later scores are compared with its scores.
        """
        wanted = self.plan.validations
        if not self.samples or clock.budget_s is None:
            return wanted
        during_s, world = _VALIDATION_SHARE * clock.budget_s, self.processes.world
        predict_s, score_s = self._seconds_of_pixel(network)
        # The clock of the first process decides: otherwise processes would validate at different steps.
        pixel_s = self.processes.broadcast(predict_s + score_s) / world
        self._divide(earlier[0] or max(1, int(during_s / (_LEAST_JUDGED * pixel_s))))
        usual_px, number = math.prod(self._usual().sides), len(self.samples)
        self._predict_s, self._score_s, image_s = predict_s * usual_px, score_s * usual_px, pixel_s * usual_px
        fitting = min(MOST_SCORED, number, max(2, int(during_s / (wanted * image_s))))
        self.most_scored = earlier[1] or fitting
        self._most_final = min(number, max(2, int(_FINAL_SHARE * clock.budget_s / image_s)))
        self._tune_s, self._learn_s = _TUNING_SHARE * clock.budget_s, _LEARNING_SHARE * clock.budget_s
        self._report_s = _REPORT_SHARE * clock.budget_s
        return max(1, min(wanted, int(during_s / (self.most_scored * image_s))))

    def _usual(self) -> Sample:
        """Return the image, or part, whose size is nearest to the mean."""
        typical = mean([math.prod(sample.sides) for sample in self.samples])
        return min(self.samples, key=lambda sample: abs(math.prod(sample.sides) - typical))

    def _seconds_of_pixel(self, network: Network) -> tuple[float, float]:
        """Measure the seconds that predicting and comparing take for each pixel of an image of usual size."""
        usual = self._usual()
        for share in (16, 1):  # the first time includes setting things up: a small part is enough
            timed = usual.middle(longest_side(usual.sides, _TIMED_PX**2 // share))
            self._columns(network, [timed], self._few_candidates, processes=Processes())
        pixels = math.prod(timed.sides)
        return self._predict_s / pixels, self._score_s / pixels

    def affordable(self, planned: int, validated: int, clock: Schedule, *, start: int = 0) -> int:
        """Return how many of the planned validations fit into their share of a time budget, judged by the last one.

        An untrained network finds no objects, or thousands: what a validation takes is known after it only. Of the
        `planned` ones, 1 or more, `validated` are done; `start`, 0 or 1, before the first step, besides them.
        """
        if clock.budget_s is None or not self.samples or not validated + start:
            return planned
        validation_s = self.processes.broadcast(self._validation_s)
        return max(validated + 1, min(planned, int(_VALIDATION_SHARE * clock.budget_s / validation_s) - start))

    @property
    def _validation_s(self) -> float:
        return self.most_scored * (self._predict_s + self._score_s) / self.processes.world

    def time_to_reserve(self, validations: int) -> float:
        """Return the seconds that this many more validations and the end will take, judged by the last validation."""
        share = 1 / self.processes.world
        final, tried = self._most_final or 0, max(1, len(self._few_candidates))
        predicted = max(0, final - self.most_scored) if self._is_kept else final  # most often the last are the best
        end_s = 1.0 + (predicted * self._predict_s + final * self._score_s / tried) * share
        if self._tunable and self._tune_s is not None and self.samples:
            # Candidates share work, so all of them together take less time than their number suggests.
            refined = refinements(self._object_sizes, lines=self.plan.lines)
            settings = len(self._all_candidates) + sum(len(values) for values in refined.values())
            end_s += min(self._tune_s, min(final, MOST_SCORED) * self._score_s * settings / tried * share)
            learned_s = (final + len(self.trained_on)) * (self._predict_s + self._score_s) * share
            end_s += min(self._learn_s or 0.0, learned_s)
        # The report, in the first process alone, makes all objects, and predicts what that process did not keep.
        threads, predicted_s = usable_cores() if self._is_kept else 1, (1 - share * self._is_kept) * self._predict_s
        shown_s = min(MOST_SCORED, len(self.samples)) * (_SHOWN_SHARE * threads * self._score_s + predicted_s)
        return max(0, validations) * self._validation_s + end_s + min(self._report_s, _DRAWING_S + shown_s)

    def score(self, network: Network, stop: StopRequest) -> dict[str, float] | None:
        """Score an even choice of the images with a network for prediction; return None if `stop` was requested."""
        chosen = self._evenly_chosen(self.most_scored)
        self._latest = {}
        columns = self._columns(network, chosen, self._few_candidates, stop=stop)
        if self.processes.any(stop.requested and len(columns) < len(chosen)):
            return None
        return self._best(columns)[1]

    def keep(self, step: int) -> None:
        """Keep the predictions of the last `score` for `finish`: its network, of this step, is the best so far."""
        self._kept = (step, self._latest)

    def finish(
        self, network: Network, clock: Schedule, *, step: int | None = None
    ) -> tuple[ObjectSettings, dict[str, float], int]:
        """Tune how objects, or areas between lines, are made, and compute the final scores.

        Parameters
        ----------
        network
            The best network, for prediction.
        clock
            Schedule of the training.
        step
            Step of the network: what `keep` holds of this step is not predicted again.

        Returns
        -------
        settings, scores, number
            The chosen settings, the scores with them, and the number of scored images: all of them, unless a time
            budget is too short.
        """
        rule = {"lines": self.plan.lines, "fill_holes": self.plan.fill_holes}
        if not self.samples:
            return untuned(**rule), {}, 0
        chosen = self._evenly_chosen(self._most_final or len(self.samples))
        if not self._tunable:
            return ObjectSettings(), self._best(self._columns(network, chosen, ()))[1], len(chosen)
        own = self.processes.share(len(chosen))
        kept = self._kept[1] if self._kept[0] == step else {}
        maps = {i: kept[id(chosen[i])] if id(chosen[i]) in kept else self._foreground(network, chosen[i]) for i in own}
        shown = {s.name for s in self._evenly_chosen(MOST_SCORED) if self._is_kept and s.whole is None}  # in the report
        timed = self._predict_s or math.nan
        self.predicted = {chosen[i].name: (maps[i][None], timed) for i in own if chosen[i].name in shown}
        begin, limit = clock.seconds, self._tune_s
        every_s = self._score_s * len(self._all_candidates) / max(1, len(self._few_candidates))
        self.stopped = self.processes.any(limit is not None and every_s > limit)
        tuned_on = sorted(set(evenly_chosen(len(chosen), MOST_SCORED)) & set(own))

        def compare(places: Sequence[int], choices: Sequence[ObjectSettings]) -> CandidateColumns:
            return self._compared({i: (chosen[i], maps[i]) for i in places}, choices)

        def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> CandidateColumns:
            columns, cut = CandidateColumns(), False
            for places in self._groups([i for i in tuned_on if not again or i in again]):
                if cut := bool(again or columns) and limit is not None and clock.seconds - begin > limit:
                    break
                columns |= compare(places, choices)
            self.stopped = self.processes.any(cut) or self.stopped
            return gather_columns(self.processes, columns)

        settings = tune_objects(measure, self.samples, first=self._few_candidates if self.stopped else None, **rule)
        if self.objects:
            settings = self._learn(network, clock, settings, {i: (chosen[i], maps[i]) for i in own})
        columns = gather_columns(self.processes, compare(own, [settings]))
        return settings, self._best(columns)[1], len(chosen)

    def _learn(
        self, network: Network, clock: Schedule, tuned: ObjectSettings, held: dict[int, tuple[Sample, Probabilities]]
    ) -> ObjectSettings:
        """Add learned decisions to the tuned settings; fit them on the held-out images and on training images."""
        options, begin = decision_options(tuned, self._object_sizes), clock.seconds
        examples: list[JudgedExample] = []
        trained = [(False, place) for place in self.processes.share(len(self.trained_on))]

        def learn_from(case: tuple[bool, int, Sample, Probabilities]) -> JudgedExample:
            held_out, place, sample, foreground = case
            return JudgedExample(object_examples(sample, foreground, options), held_out, place)

        for done, group in enumerate(self._groups([*((True, place) for place in held), *trained])):
            if self._learn_s is not None and not fits_another(clock.seconds - begin, done, self._learn_s):
                break
            cases = [
                (True, place, *held[place])
                if held_out
                else (False, place, self.trained_on[place], self._foreground(network, self.trained_on[place]))
                for held_out, place in group
            ]
            examples += map_in_threads(learn_from, cases)
        return choose_decisions(options, gather_examples(self.processes, examples), self._object_sizes)

    def _evenly_chosen(self, number: int) -> list[Sample]:
        return [self.samples[i] for i in evenly_chosen(len(self.samples), number)]

    def _columns(
        self,
        network: Network,
        samples: Sequence[Sample],
        choices: Sequence[ObjectSettings],
        *,
        stop: StopRequest | None = None,
        processes: Processes | None = None,
    ) -> CandidateColumns:
        """Predict the samples and compare them with their truth, each in the process that it belongs to; gather all."""
        processes = processes or self.processes
        predict_s, begin, columns = 0.0, time.monotonic(), CandidateColumns()
        for places in self._groups(processes.share(len(samples))):
            start, predicted = time.monotonic(), dict[int, tuple[Sample, NDArray[Any]]]()
            for place in places:
                if stop is not None and stop.requested:
                    break
                predicted[place] = samples[place], self._predicted(network, samples[place])
            predict_s += time.monotonic() - start
            columns |= self._compared(predicted, choices)
        if columns:
            # Windows counts in steps of 16 milliseconds, and budgets are divided by this time.
            self._predict_s = max(_SHORTEST_S, predict_s / len(columns))
            self._score_s = (time.monotonic() - begin - predict_s) / len(columns)
        return gather_columns(processes, columns)

    def _predicted(self, network: Network, sample: Sample) -> NDArray[Any]:
        """Return the foreground of a sample, and keep it for the end if there is room; or its classes."""
        if not self._tunable:
            return np.asarray(self._probabilities(network, sample).argmax(axis=0))
        foreground = self._foreground(network, sample)
        if self._is_kept:
            self._latest[id(sample)] = foreground
        return foreground

    def _compared(
        self, predicted: Mapping[int, tuple[Sample, NDArray[Any]]], choices: Sequence[ObjectSettings]
    ) -> CandidateColumns:
        """Compare samples with their predictions, both by the place of the sample; in threads if memory is enough."""

        def compare(case: tuple[Sample, NDArray[Any]]) -> NDArray[Any]:
            sample, made = case
            if self._tunable:
                return candidate_columns(sample, made, choices, lines=self.plan.lines)
            return class_columns(table(sample.mask, made), classes=self.plan.network.classes)[None]

        cases = list(predicted.values())
        compared = map_in_threads(compare, cases) if self._is_kept else [compare(case) for case in cases]
        return dict(zip(predicted, compared, strict=True))

    def _groups(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Yield the items a few at a time: as many as there are cores, or one where large images fill the memory."""
        size = usable_cores() if self._is_kept else 1
        yield from (items[begin : begin + size] for begin in range(0, len(items), size))

    def _best(self, columns: CandidateColumns) -> tuple[int, dict[str, float]]:
        if self._tunable:
            return choose(columns, lines=self.plan.lines)
        return choose_by(columns, finish_classes(range(self.plan.network.classes)), "classes")

    def _foreground(self, network: Network, sample: Sample) -> Probabilities:
        # Half precision: all held-out images are kept for tuning, and three digits are enough for it.
        return np.asarray(self._probabilities(network, sample)[1], np.float16)

    def _probabilities(self, network: Network, sample: Sample) -> NDArray[np.float32]:
        method, stats = self.plan.normalization, sample.statistics(self.plan.normalization)
        return image_probabilities(network, sample.image, device=self.device, normalization=method, stats=stats)
