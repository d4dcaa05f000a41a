"""Score the held-out images with the predictor that users get, and tune how probabilities become objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings, candidates, label_each
from septum.axes import relative_spacing
from septum.jobs.infer import image_probabilities
from septum.metrics import ctc, matching, pixel
from septum.metrics.contingency import Table, table

if TYPE_CHECKING:
    from septum.jobs.clock import Clock
    from septum.jobs.load import Sample
    from septum.jobs.plan import Plan
    from septum.nn.device import Device
    from septum.nn.unet import UNet

Probabilities = NDArray[np.float16]

# Images scored in one validation during training, and for tuning; the final scores are of all.
_SCORED = 24
# With a time budget: shares of it that all validations on the way, the final scores, and tuning may take.
_ON_THE_WAY, _FINAL, _TUNING = 0.10, 0.10, 0.04


@dataclass
class HeldOut:
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
    """

    samples: tuple[Sample, ...]
    objects: bool
    plan: Plan
    device: Device
    _scored: int = _SCORED
    _finally: int | None = None
    _tune_s: float | None = None
    _predict_s: float = 0.0
    _score_s: float = 0.0

    @cached_property
    def _choices(self) -> tuple[ObjectSettings, ...]:
        sizes = [np.unique(s.mask[s.mask > 0], return_counts=True)[1] for s in self.samples]
        return candidates(np.concatenate([np.zeros(0), *sizes]))

    @cached_property
    def _few(self) -> tuple[ObjectSettings, ...]:
        """Settings tried on the way: what is too timid with one of them may be the best model with another."""
        return tuple(c for c in self._choices if c.threshold in (0.5, 0.8) and c.neck > 0 and not c.grow_px)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores."""
        if not self.samples:
            return ()
        return ("SEG", "AP50", "AP") if self.objects else ("dice", "iou", "pixel_error")

    def plan_validations(self, network: UNet, clock: Clock) -> int:
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
        self._score(network, self.samples[:1])  # the first time sets things up
        self._score(network, self.samples[:1])
        one = self._predict_s + self._score_s
        self._scored = min(_SCORED, len(self.samples), max(2, int(_ON_THE_WAY * clock.budget_s / (wanted * one))))
        self._finally = min(len(self.samples), max(2, int(_FINAL * clock.budget_s / one)))
        self._tune_s = _TUNING * clock.budget_s
        return max(1, min(wanted, int(_ON_THE_WAY * clock.budget_s / (self._scored * one))))

    def time_to_reserve(self, validations: int) -> float:
        """Return the seconds that so many more validations and the end will take, judged by the last one."""
        each = self._scored * (self._predict_s + self._score_s)
        end = 1.0 + (self._finally or 0) * (self._predict_s + self._score_s / max(1, len(self._few)))
        if self.objects and self._tune_s is not None and self.samples:
            # Settings share work, so all of them together take less than their number says.
            tuning = self._score_s * len(self._choices) / max(1, len(self._few))
            end += min(self._tune_s, min(self._finally or 0, _SCORED) * tuning)
        return max(0, validations) * each + end

    def score(self, network: UNet) -> dict[str, float]:
        """Score some of the images, evenly chosen, with a network for prediction."""
        return self._score(network, self._some(self._scored))

    def finish(self, network: UNet, clock: Clock) -> tuple[ObjectSettings, dict[str, float], int]:
        """Tune how objects are made and score.

        Returns
        -------
        settings, scores, number
            The choice, the scores with it, and of how many images they are: all, unless a time budget is too short.
        """
        if not self.samples:
            return ObjectSettings(), {}, 0
        chosen = self._some(self._finally or len(self.samples))
        if not self.objects:
            return ObjectSettings(), self._score(network, chosen), len(chosen)
        maps = [self._foreground(network, s) for s in chosen]
        begin, limit = clock.seconds, self._tune_s
        order = np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), _SCORED)).astype(int))
        settings, _ = tune_objects(
            [chosen[i] for i in order],
            (maps[i] for i in order),
            self._choices,
            enough=lambda: limit is not None and clock.seconds - begin > limit,
        )
        return settings, tune_objects(chosen, maps, [settings])[1], len(chosen)

    def _some(self, number: int) -> list[Sample]:
        """Return so many of the images, evenly chosen."""
        places = np.linspace(0, len(self.samples) - 1, min(len(self.samples), number))
        return [self.samples[i] for i in np.unique(places.astype(int))]

    def _score(self, network: UNet, samples: Sequence[Sample]) -> dict[str, float]:
        """Score samples with the predictor that users get."""
        begin = time.monotonic()
        if self.objects:
            maps = [self._foreground(network, s) for s in samples]
            predicted = time.monotonic()
            scores = tune_objects(samples, maps, self._few)[1]
        else:
            classes = [self._probabilities(network, s).argmax(axis=0).astype(np.uint8) for s in samples]
            predicted = time.monotonic()
            scores = score_classes(samples, classes, self.plan.network.classes)
        self._predict_s = (predicted - begin) / len(samples)
        self._score_s = (time.monotonic() - predicted) / len(samples)
        return scores

    def _foreground(self, network: UNet, sample: Sample) -> Probabilities:
        # Half precision: all held-out images are kept for tuning, and three digits are enough there.
        foreground: Probabilities = self._probabilities(network, sample)[1].astype(np.float16)
        return foreground

    def _probabilities(self, network: UNet, sample: Sample) -> NDArray[np.float32]:
        return image_probabilities(network, sample.image, device=self.device, normalization=self.plan.normalization)


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


def score_classes(samples: Sequence[Sample], maps: Iterable[NDArray[np.uint8]], classes: int) -> dict[str, float]:
    """Score predicted classes, pixels of all images pooled.

    Parameters
    ----------
    samples
        The held-out images.
    maps
        ``(*S) uint8`` class of each pixel for each sample.
    classes
        Number of classes.

    Returns
    -------
    dict
        ``dice`` and ``iou`` (mean over all classes but the first, the background) and ``pixel_error``, each in 0..1.
    """
    parts = [
        pixel.scores(sample.mask, predicted, classes=range(1, classes))
        for sample, predicted in zip(samples, maps, strict=True)
    ]
    pooled = pixel.pool(parts)
    return {"dice": pooled.mean("dice"), "iou": pooled.mean("iou"), "pixel_error": pooled.pixel_error}


def merit(scores: dict[str, float]) -> float:
    """Return the one number by which the best model is kept: mean of SEG and AP50 for objects, Dice for classes.

    SEG alone would not see false objects, AP50 alone not how well outlines fit.
    """
    if "SEG" in scores:
        return (scores["SEG"] + scores["AP50"]) / 2
    return scores["dice"] if np.isfinite(scores["dice"]) else 0.0


def tune_objects(
    samples: Sequence[Sample],
    foreground: Iterable[Probabilities],
    choices: Sequence[ObjectSettings],
    *,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[ObjectSettings, dict[str, float]]:
    """Choose the object settings of highest `merit`; of equals the first.

    Parameters
    ----------
    samples
        Held-out images.
    foreground
        ``(*S)`` probability of the object class for each sample; taken one by one.
    choices
        Settings to choose from; neighbors should share much (see `septum.arrays.instances.label_each`).
    enough
        Asked after each image; where it says yes, the images so far decide.

    Returns
    -------
    settings, scores
        The choice, and its ``SEG``, ``AP50`` and ``AP`` as in `_object_scores`.
    """
    gold: list[list[Table]] = [[] for _ in choices]
    full: list[list[Table]] = [[] for _ in choices]
    for sample, probabilities in zip(samples, foreground, strict=True):
        spacing = relative_spacing(sample.spacing_um)
        made = label_each(probabilities.astype(np.float32), choices, spacing=spacing)
        for number, (_, labels) in enumerate(made):
            full[number].append(table(sample.mask, labels))
            gold[number].append(full[number][-1] if sample.gold is None else table(sample.gold, labels))
        if enough():
            break
    scores = [_object_scores(g, f) for g, f in zip(gold, full, strict=True)]
    best = int(np.argmax([merit(s) for s in scores]))
    return choices[best], scores[best]
