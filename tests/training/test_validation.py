"""Tuning on held-out images: levels and shapes of objects first, then the smallest size; and the level of lines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from septum.arrays.instances import AREAS, ObjectSettings, label_objects
from septum.arrays.normalize import NormalizeSettings
from septum.evaluation.candidates import candidate_columns, object_sizes
from septum.metrics import isbi, pixel
from septum.metrics.contingency import table
from septum.nn.device import find_device
from septum.nn.unet import UNetSettings
from septum.pairing import parts as parts_module
from septum.pairing.sample import Sample
from septum.prediction.model import ModelHeader
from septum.prediction.outputs import most_probable_class
from septum.report.gallery import ScoredSample, estimates, own_scores
from septum.training import validation as validate_module
from septum.training.fingerprint import Fingerprint
from septum.training.interrupt import StopRequest
from septum.training.model_selection import (
    CandidateColumns,
    candidates,
    choose,
    gather_columns,
    min_size_candidates,
    selection_score,
    tune_objects,
    untuned,
)
from septum.training.presets import make_plan
from septum.training.schedule import Schedule
from septum.training.settings import TrainSettings
from septum.training.validation import Validator


def _header(objects: ObjectSettings, *, lines: bool) -> ModelHeader:
    return ModelHeader(
        network=UNetSettings(depths=(1, 1), width=2),
        normalization=NormalizeSettings(),
        kind="classes",
        class_values=(0, 1),
        objects=objects,
        lines=lines,
    )


def _sample(number: int) -> tuple[Sample, np.ndarray]:
    """Return nine true squares of 10 x 10, and nine false ones of 6 x 6 with the same probability."""
    mask = np.zeros((96, 96), np.int32)
    sure = np.full(mask.shape, 0.02, np.float16)
    for i in range(9):
        y, x = 4 + 30 * (i // 3), 4 + 30 * (i % 3)
        side = 8 if i == 8 else 14
        mask[y : y + side, x : x + side] = i + 1
        sure[y : y + side, x : x + side] = sure[y + 16 : y + 22, x + 16 : x + 22] = 0.97
    image = np.zeros((1, *mask.shape), np.float32)
    return Sample(f"{number}", "", number, image, mask, gold=None, spacing_um=None), sure


def test_the_smallest_size_is_tuned_on_the_same_images() -> None:
    made = [_sample(i) for i in range(3)]
    samples = [sample for sample, _ in made]
    assert min_size_candidates(object_sizes(samples)) == [16, 19, 22, 27, 32, 39]
    calls: list[tuple[int, list[int]]] = []

    def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> CandidateColumns:
        calls.append((len(choices), sorted(again)))
        chosen = sorted(again) or [0, 2]  # no time for the other one
        return {i: candidate_columns(*made[i], choices) for i in chosen}

    best = tune_objects(measure, samples)
    assert calls == [(32, []), (4, [0, 2]), (4, [0, 2]), (6, [0, 2])]
    first = choose(measure(candidates(object_sizes(samples)), ()))[1]
    second = choose(measure([best], ()))[1]
    assert (first["AP50"], second["AP50"]) == (0.5, 1.0)
    assert best.min_size_px == 39  # the lowest that is larger than 36 pixels


def test_small_seeds_in_noise_are_dropped() -> None:
    """Bright squares that touch, with a faint border, and dim squares in which a few pixels are near 1 by chance."""
    mask = np.zeros((96, 96), np.int32)
    sure = np.full(mask.shape, 0.02, np.float32)
    for i in range(3):
        x = 4 + 30 * i
        for j in range(2):
            mask[4 + 10 * j : 14 + 10 * j, x : x + 10] = 2 * i + j + 1
            sure[4 + 10 * j : 14 + 10 * j, x : x + 10] = 0.97
        sure[13, x : x + 10] = 0.6
        mask[40:60, x : x + 20] = 7 + i
        sure[40:60, x : x + 20] = np.random.default_rng(i).choice([0.6, 0.7, 0.97], (20, 20), p=[0.5, 0.3, 0.2])
    image = np.zeros((1, *mask.shape), np.float32)
    sample = Sample("0", "", 0, image, mask, gold=None, spacing_um=None)
    best = tune_objects(lambda choices, _: {0: candidate_columns(sample, sure.astype(np.float16), choices)}, [sample])
    assert best.seed_share > 0
    assert choose({0: candidate_columns(sample, sure.astype(np.float16), [best])})[1] == {"SEG": 1, "AP50": 1, "AP": 1}
    without = best.model_copy(update={"seed_share": 0.0})
    assert choose({0: candidate_columns(sample, sure.astype(np.float16), [without])})[1]["AP50"] < 0.9


def test_without_images_the_default_settings_are_chosen() -> None:
    assert tune_objects(lambda *_: {}, [], fill_holes=True) == untuned(fill_holes=True)
    assert untuned(lines=True) == AREAS


@pytest.mark.parametrize("found", [False, True])
def test_without_a_score_above_0_the_settings_stay_untuned(found: bool) -> None:
    """Two touching cells: the first candidate of the grid would join them."""
    y, x = np.mgrid[:60, :80]
    middle = np.minimum(np.hypot(y - 30, x - 28), np.hypot(y - 30, x - 50))
    cells = (1 / (1 + np.exp(middle - 13))).astype(np.float16)
    mask = np.zeros(cells.shape, np.int32)  # a held-out image without objects, or objects where none are predicted
    mask[2:6, 2:30] = mask[2:6, 40:70] = int(found)
    sample = Sample("0", "", 0, np.zeros((1, *mask.shape), np.float32), mask, gold=None, spacing_um=None)
    tuned = tune_objects(lambda choices, _: {0: candidate_columns(sample, cells, choices)}, [sample])
    assert tuned == untuned()
    counts = [label_objects(cells.astype(np.float32), s).max() for s in (tuned, candidates([500])[0])]
    assert counts == [2, 1]


def _membranes(*, width: int = 2, gap: int = 0) -> np.ndarray:
    """Return four areas, 1, and a cross of lines between them, 0, with a gap in a line."""
    inside = np.ones((64, 64), np.int32)
    inside[31 : 31 + width] = inside[:, 31 : 31 + width] = 0
    inside[31 : 31 + width, 8 : 8 + gap] = 1
    return inside


LINES = Fingerprint(1, 2, (64, 64), (1.0, 1.0), boundary_lines=True)
NARROW = TrainSettings(data=(), out=Path("run"), width=2)


def _lines_sample(number: int = 0) -> Sample:
    truth = _membranes()
    image = np.zeros((1, *truth.shape), np.float32)
    return Sample(f"{number}", "", number, image, truth, gold=None, spacing_um=None)


def _lines_held_out(monkeypatch: pytest.MonkeyPatch, inside: dict[str, np.ndarray]) -> Validator:
    """Return a validator of two images of lines whose networks answer with these probabilities of the inside."""
    samples = tuple(_lines_sample(i) for i in range(2))

    def probabilities(network: str, *_: object, **__: object) -> np.ndarray:
        return np.stack([1 - inside[network], inside[network]]).astype(np.float32)

    monkeypatch.setattr(validate_module, "image_probabilities", probabilities)
    return Validator(samples, False, make_plan(LINES, NARROW)[0], find_device("cpu"))


def test_a_gap_in_a_line_lowers_the_score_more_than_a_shifted_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"torn": _membranes(gap=4), "thick": _membranes(width=4)}
    truth, held_out = _membranes(), _lines_held_out(monkeypatch, made)
    assert held_out.plan.lines and not make_plan(replace(LINES, boundary_lines=False), NARROW)[0].lines
    torn, thick = (held_out.score(name, StopRequest()) for name in made)  # type: ignore[arg-type]
    assert torn is not None and thick is not None
    assert tuple(torn) == held_out.score_names == ("V_Rand", "dice", "iou", "pixel_error")
    assert torn["dice"] > thick["dice"] > 0.9
    assert selection_score(thick) > selection_score(torn)
    for name, found in (("torn", torn), ("thick", thick)):
        official = isbi.combine([isbi.section(truth > 0, made[name].astype(np.float32), warp=False)])
        assert found["V_Rand"] == pytest.approx(official["V_Rand"].value)
        # The report says the same.
        both = table(truth, made[name])
        areas = isbi.areas(truth, made[name])
        image_scored = ScoredSample("0", "", truth.shape, 0.0, both, both, np.zeros((15, 3)), areas)
        reported = estimates([image_scored] * 2, "classes", values=(0, 255), seed=0)
        assert {k: v.value for k, v in reported.items()} == pytest.approx(found)
        assert own_scores(image_scored, "classes", values=(0, 255))[1] == pytest.approx(selection_score(found))


def test_the_level_of_lines_is_tuned_and_used_by_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    faint = np.where(_membranes(gap=4) > 0, 0.97, 0.02)
    faint[(_membranes(gap=4) > 0) & (_membranes() == 0)] = 0.75  # the line is there, but hardly seen
    held_out = _lines_held_out(monkeypatch, {"faint": faint})
    objects, scores, number = held_out.finish("faint", Schedule(1, None))  # type: ignore[arg-type]
    assert (objects.threshold, scores["V_Rand"], scores["dice"], number) == (0.8, 1.0, 1.0, 2)
    assert held_out.score("faint", StopRequest()) == scores  # on the way as well
    both = np.stack([1 - faint, faint]).astype(np.float32)
    header = _header(objects, lines=True)
    np.testing.assert_array_equal(most_probable_class(both, header), _membranes())
    np.testing.assert_array_equal(
        most_probable_class(both, header.model_copy(update={"lines": False})), _membranes(gap=4)
    )
    three = np.stack([faint * 0.6, faint * 0.4, 1 - faint]).astype(np.float32)
    np.testing.assert_array_equal(most_probable_class(three, _header(objects, lines=False)), three.argmax(axis=0))


def test_the_end_does_not_predict_again_what_the_best_validation_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"torn": _membranes(gap=4), "thick": _membranes(width=4)}
    held_out = _lines_held_out(monkeypatch, made)
    again = held_out.finish("thick", Schedule(1, None))  # type: ignore[arg-type]
    real, predicted = validate_module.image_probabilities, list[str]()

    def counted(network: str, *given: object, **options: object) -> np.ndarray:
        predicted.append(network)
        return real(network, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(validate_module, "image_probabilities", counted)
    for name, step in (("thick", 10), ("torn", 20)):
        held_out.score(name, StopRequest())  # type: ignore[arg-type]
        if step == 10:
            held_out.keep(step)
    assert predicted == ["thick", "thick", "torn", "torn"]
    predicted.clear()
    assert held_out.finish("thick", Schedule(1, None), step=10) == again  # type: ignore[arg-type]
    assert predicted == []
    # After a rollback the best network can be one of an earlier step.
    assert held_out.finish("thick", Schedule(1, None), step=5) == again  # type: ignore[arg-type]
    assert predicted == ["thick", "thick"]


def test_areas_extend_to_uncertain_outlines_and_stay_separate(monkeypatch: pytest.MonkeyPatch) -> None:
    soft = np.where(_membranes() > 0, 0.97, 0.02)
    soft[(_membranes(width=6) == 0) & (_membranes() == 1)] = 0.4  # the outline is uncertain
    soft[31:37, 8:12] = 0.97
    soft[31:33, 8:12] = 0.85  # and for a few pixels the line is hardly seen
    held_out = _lines_held_out(monkeypatch, {"soft": soft})
    objects, scores, _ = held_out.finish("soft", Schedule(1, None))  # type: ignore[arg-type]
    assert objects.threshold < 0.4 and objects.seed_level >= 0.9
    assert scores["V_Rand"] == 1.0 and scores["dice"] > 0.995
    at_a_level = [pixel.of_table(table(_membranes(), soft > level), classes=[1]).mean("dice") for level in (0.5, 0.9)]
    assert max(at_a_level) < 0.95


def test_a_small_spot_on_a_line_is_no_area(monkeypatch: pytest.MonkeyPatch) -> None:
    assert object_sizes([_lines_sample()], lines=True).tolist() == [31 * 31, 31 * 31, 31 * 31, 31 * 31]
    spotted = np.where(_membranes(width=2) > 0, 0.97, 0.02)
    spotted[30:34, 30:34] = 0.02
    spotted[31:33, 31:33] = 0.97  # in the middle of the cross
    held_out = _lines_held_out(monkeypatch, {"spotted": spotted})
    objects, _, _ = held_out.finish("spotted", Schedule(1, None))  # type: ignore[arg-type]
    assert 4 < objects.min_size_px < 31 * 31
    classes = most_probable_class(np.stack([1 - spotted, spotted]).astype(np.float32), _header(objects, lines=True))
    assert not classes[30:34, 30:34].any()


def test_default_settings_for_lines_ignore_shape() -> None:
    held_out = Validator((), False, make_plan(LINES, NARROW)[0], find_device("cpu"))
    assert held_out.finish("any", Schedule(1, None)) == (AREAS, {}, 0)  # type: ignore[arg-type]
    assert AREAS.merge_ratio == 0 and AREAS.threshold < 0.5 < AREAS.seed_level


def test_validations_that_became_slower_leave_the_budget_to_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = _lines_held_out(monkeypatch, {"whole": _membranes(), "torn": _membranes(gap=4)})
    planned = held_out.plan_validations("whole", Schedule(None, 600.0))  # type: ignore[arg-type]
    assert planned == held_out.plan.validations == 10
    assert held_out.score("torn", StopRequest())  # type: ignore[arg-type]
    assert held_out.affordable(planned, 4, Schedule(None, 600.0)) == 10
    assert held_out.affordable(planned, 4, Schedule(None, 0.01)) == 5, "the last one, at the end of the training"
    assert held_out.affordable(planned, 4, Schedule(100, None)) == 10, "without a budget nothing depends on the clock"
    assert held_out.affordable(planned, 0, Schedule(None, 0.01)) == 10, "before any validation its time is not known"
    assert held_out.affordable(planned, 0, Schedule(None, 0.01), start=1) == 1


def test_a_clock_that_is_too_coarse_for_a_validation_leaves_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = _lines_held_out(monkeypatch, {"whole": _membranes()})
    clock = Schedule(None, 600.0)
    monkeypatch.setattr(validate_module.time, "monotonic", lambda: 0.0)
    assert held_out.plan_validations("whole", clock) == 10  # type: ignore[arg-type]
    assert held_out.affordable(10, 4, clock) == 10
    of_5 = Schedule(None, 5.5 * 1e-6 * held_out.most_scored / 0.05)  # time for 5 validations of a microsecond an image
    assert [held_out.affordable(10, 1, of_5, start=start) for start in (0, 1)] == [5, 4]


def test_an_image_of_usual_size_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, tiny = (_lines_sample(i) for i in range(2))
    tiny = replace(tiny, image=tiny.image[:, :8, :8], mask=tiny.mask[:8, :8])
    sizes: list[int] = []

    def probabilities(_: str, image: np.ndarray, **__: object) -> np.ndarray:
        sizes.append(image.shape[-1])
        return np.full((2, *image.shape[1:]), 0.5, np.float32)

    monkeypatch.setattr(validate_module, "image_probabilities", probabilities)
    held_out = Validator((tiny, usual, usual), False, make_plan(LINES, NARROW)[0], find_device("cpu"))
    held_out.plan_validations("any", Schedule(None, 600.0))  # type: ignore[arg-type]
    assert set(sizes) == {usual.image.shape[-1]}


def _slow_clock(monkeypatch: pytest.MonkeyPatch, seconds_of_pixel: float | None) -> list[int]:
    """Let predicting take this time for each pixel, and all else none; return the pixels of each prediction.

    Without a time the clock is the real one.
    """
    predicted: list[int] = []

    def probabilities(_: str, image: np.ndarray, **__: object) -> np.ndarray:
        predicted.append(image[0].size)
        inside = image[0] > 0
        return np.stack([1 - inside, inside]).astype(np.float32)

    monkeypatch.setattr(validate_module, "image_probabilities", probabilities)
    if seconds_of_pixel is not None:
        monkeypatch.setattr(validate_module.time, "monotonic", lambda: seconds_of_pixel * sum(predicted))
    return predicted


def _squares(side: int) -> Sample:
    """Return an image of squares of 4 x 4 pixels, 16 apart, that the networks of `_slow_clock` find."""
    places = np.indices((side, side))
    inside = ((places % 16 >= 6) & (places % 16 < 10)).all(axis=0)
    mask = np.where(inside, places[0] // 16 * (side // 16) + places[1] // 16 + 1, 0).astype(np.int32)
    return Sample("squares", "", 0, inside[None].astype(np.float32), mask, None, None)


OBJECTS = Fingerprint(1, 2, (64, 64), (1.0, 1.0))


def test_one_huge_image_takes_no_more_than_its_share_of_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PART_PX", 128)
    monkeypatch.setattr(parts_module, "LEAST_PART", 1024)
    monkeypatch.setattr(validate_module, "_TIMED_PX", 64)
    predicted, plan = _slow_clock(monkeypatch, 1e-3), make_plan(OBJECTS, NARROW)[0]
    held_out, clock = Validator((_squares(512),), True, plan, find_device("cpu")), Schedule(None, 600.0)
    number = held_out.plan_validations("any", clock)  # type: ignore[arg-type]
    assert predicted == [16 * 16, 64 * 64], "the middle is timed, after a small part that sets things up"
    predicted.clear()
    for _ in range(number):
        assert held_out.score("any", StopRequest()) == {"SEG": 1, "AP50": 1, "AP": 1}  # type: ignore[arg-type]
    assert 0.015 * 600 < 1e-3 * sum(predicted) <= 0.05 * 600, "the whole image would take 262 s each time"
    predicted.clear()
    objects, scores, scored = held_out.finish("any", clock)  # type: ignore[arg-type]
    assert 1e-3 * sum(predicted) <= 0.1 * 600 and 2 <= scored < len(held_out.samples)
    assert scores["AP50"] == 1 and objects.min_size_px <= 16


def test_a_resumed_training_scores_the_same_parts_on_a_slower_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PART_PX", 128)
    monkeypatch.setattr(parts_module, "LEAST_PART", 1024)
    plan, clock = make_plan(OBJECTS, NARROW)[0], Schedule(None, 600.0)
    scored: list[list[str]] = []
    earlier: tuple[int | None, int | None] = (None, None)
    for seconds in (1e-3, 4e-3):
        _slow_clock(monkeypatch, seconds)
        held_out = Validator((_squares(512),), True, plan, find_device("cpu"))
        held_out.plan_validations("any", clock, earlier=earlier)  # type: ignore[arg-type]
        earlier = held_out.affordable_px, held_out.most_scored
        scored.append([sample.name for sample in held_out._evenly_chosen(held_out.most_scored)])
    assert scored[0] == scored[1] and len(scored[0]) >= 2


def test_tuning_that_used_its_share_ends_with_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(OBJECTS, NARROW)[0]
    _slow_clock(monkeypatch, None)
    for budget_s, stopped in ((600.0, False), (1e-6, True)):
        held_out = Validator((_squares(64),), True, plan, find_device("cpu"))
        held_out.plan_validations("any", Schedule(None, budget_s))  # type: ignore[arg-type]
        _, scores, _ = held_out.finish("any", Schedule(None, budget_s))  # type: ignore[arg-type]
        assert held_out.stopped is stopped and scores["AP50"] == 1


class Spent(Schedule):
    """A schedule by whose clock a share of time is spent at the second look."""

    looks = 0

    @property
    def seconds(self) -> float:
        self.looks += 1
        return 0.0 if self.looks == 1 else 1e9


def test_tuning_that_is_cut_between_two_groups_of_images_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _slow_clock(monkeypatch, None)
    monkeypatch.setattr(validate_module, "usable_cores", lambda: 1)  # groups of one image
    samples = tuple(replace(_squares(64), name=f"squares {n}") for n in range(3))
    held_out = Validator(samples, True, make_plan(OBJECTS, NARROW)[0], find_device("cpu"))
    held_out.plan_validations("any", Schedule(None, 600.0))  # type: ignore[arg-type]
    compared = []

    def compare(sample: Sample, found: np.ndarray, choices: Sequence[ObjectSettings], **kind: bool) -> np.ndarray:
        compared.append((sample.name, len(choices) > 1))
        return candidate_columns(sample, found, choices, **kind)

    monkeypatch.setattr(validate_module, "candidate_columns", compare)
    _, scores, scored = held_out.finish("any", Spent(None, 600.0))  # type: ignore[arg-type]
    assert held_out.stopped
    assert {name for name, tuning in compared if tuning} == {"squares 0"}
    assert {name for name, tuning in compared if not tuning} == {sample.name for sample in samples}
    assert (scores["AP50"], scored) == (1, 3)


def test_no_time_is_reserved_for_predictions_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    reserved = []
    for kept in (validate_module._KEPT_PIXELS, 0):
        monkeypatch.setattr(validate_module, "_KEPT_PIXELS", kept)
        held_out = _lines_held_out(monkeypatch, {"whole": _membranes()})
        held_out.plan_validations("whole", Schedule(None, 600.0))  # type: ignore[arg-type]
        held_out._predict_s, held_out._score_s = 1.0, 0.0  # a slow network
        reserved.append(held_out.time_to_reserve(0))
    # Not kept, each image is predicted for the final scores and for the report.
    assert reserved[1] - reserved[0] == pytest.approx(2 * len(held_out.samples))


def test_columns_of_all_processes_reach_each_of_them_bit_by_bit() -> None:
    """Two processes with one image each; the numbers travel as integers."""
    rng = np.random.default_rng(0)
    columns = {i: rng.normal(size=(3, 11, 4)) for i in range(2)}
    sent: list[np.ndarray] = []

    class Two:
        world = 2

        def gather(self, arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
            sent.extend(np.asarray(a, np.int64) for a in arrays)
            return [[a] for a in sent]

    gather_columns(Two(), {0: columns[0]})  # type: ignore[arg-type]
    found = gather_columns(Two(), {1: columns[1]})  # type: ignore[arg-type]
    assert sorted(found) == [0, 1]
    for index, array in columns.items():
        np.testing.assert_array_equal(found[index], array)
