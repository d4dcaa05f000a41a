from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from septum.errors import UsageError
from septum.training import presets
from septum.training.fingerprint import Fingerprint, GrayValues
from septum.training.plan import Plan
from septum.training.settings import TrainSettings

FINGERPRINT = Fingerprint(channels=1, classes=2, sides=(512, 512), anisotropy=(1, 1))


def make_plan(
    fingerprint: Fingerprint, *, gpu: bool = False, bfloat16: bool = False, **values: Any
) -> tuple[Plan, tuple[str, ...]]:
    settings = TrainSettings(data=(), out=Path("run"), **values)
    return presets.make_plan(fingerprint, settings, gpu=gpu, bfloat16=bfloat16)


def test_paper_has_the_published_values() -> None:
    plan, _ = make_plan(FINGERPRINT, preset="paper")
    assert (plan.tile, plan.output, plan.batch) == ((572, 572), (388, 388), 1)
    assert (plan.network.width, plan.network.depths, plan.network.dropout) == (64, (4, 4), 0.5)
    assert not plan.network.batch_norm
    assert (plan.optimizer.method, plan.optimizer.momentum) == ("sgd", 0.99)
    assert (plan.weights.w0, plan.weights.sigma_px) == (10, 5)


def test_fiji_has_the_values_of_the_plugin() -> None:
    plan, _ = make_plan(FINGERPRINT, preset="fiji")
    assert plan.network.leak == 0.1
    assert (plan.optimizer.method, plan.optimizer.rate) == ("adam", 1e-5)
    assert plan.weights.method == "fiji"
    assert plan.sampler == "density"


def test_auto_follows_size_objects_and_device() -> None:
    plan, reasons = make_plan(FINGERPRINT)
    assert (plan.network.depths, plan.network.width, plan.network.batch_norm) == ((4, 4), 16, True)
    assert make_plan(FINGERPRINT, gpu=True)[0].network.width == 64
    assert make_plan(replace(FINGERPRINT, object_px=20.0))[0].network.depths == (3, 3)
    small, _ = make_plan(replace(FINGERPRINT, sides=(40, 300)))
    assert small.network.depths == (2, 4)
    assert small.output[0] < 60 <= small.output[1]
    assert any("depth" in r for r in reasons)


def test_holes_are_filled_where_hardly_any_true_object_has_one() -> None:
    plan, reasons = make_plan(replace(FINGERPRINT, objects=300, holes=0.01))
    assert plan.fill_holes
    assert "holes in predicted objects are filled: 1.0% of the true objects have one" in reasons
    for other in ({"objects": 300, "holes": 0.02}, {"objects": 0}):
        plan, reasons = make_plan(replace(FINGERPRINT, **other))
        assert not plan.fill_holes and not any("holes" in reason for reason in reasons)
    assert not make_plan(replace(FINGERPRINT, objects=300), set=("fill_holes=false",))[0].fill_holes


def test_auto_pools_a_coarse_axis_less() -> None:
    fingerprint = replace(FINGERPRINT, sides=(60, 256, 256), anisotropy=(4.0, 1.0, 1.0))
    assert make_plan(fingerprint)[0].network.depths == (0, 3, 3)


def test_settings_override_the_preset() -> None:
    plan, _ = make_plan(FINGERPRINT, width=5, depth=2, tile=100, batch=3)
    assert (plan.network.width, plan.network.depths, plan.tile, plan.batch) == (5, (2, 2), (100, 100), 3)
    assert make_plan(FINGERPRINT, depth=2, tile=101)[0].tile == (104, 104)
    assert make_plan(FINGERPRINT, preset="paper", width=8)[0].network.width == 8


def test_precision_follows_the_device_unless_set() -> None:
    plan, reasons = make_plan(FINGERPRINT)
    assert (plan.precision, reasons[-1]) == ("float32", "precision float32: the processor is not faster in bfloat16")
    plan, reasons = make_plan(FINGERPRINT, bfloat16=True, preset="paper")
    assert plan.precision == "bfloat16"
    assert reasons[-1].startswith("precision bfloat16: the processor is faster in it")
    plan, reasons = make_plan(FINGERPRINT, bfloat16=True, precision="float32")
    assert (plan.precision, reasons[-1]) == ("float32", "precision float32: asked for")


def test_boundary_lines_weigh_more_and_are_trained_without_dice() -> None:
    plan, reasons = make_plan(FINGERPRINT)
    assert (plan.dice, plan.weights.balance, plan.weights.w0) == (1.0, 1.0, 10.0)
    lines, why = make_plan(replace(FINGERPRINT, boundary_lines=True))
    assert (lines.dice, lines.weights.balance) == (0.0, 10.0)
    assert set(why) > set(reasons) - {reasons[-1]} and any("membranes" in line for line in why)
    paper = make_plan(replace(FINGERPRINT, boundary_lines=True), preset="paper")[0]
    assert (paper.dice, paper.weights.balance) == (0.0, 10.0)


@pytest.mark.parametrize("preset", ["paper", "fiji"])
def test_published_presets_refuse_volumes(preset: str) -> None:
    with pytest.raises(UsageError, match="auto"):
        make_plan(replace(FINGERPRINT, sides=(9, 9, 9), anisotropy=(1, 1, 1)), preset=preset)


def test_auto_pads_and_does_not_rotate_or_mirror_classes_of_fixed_orientation() -> None:
    fingerprint = replace(FINGERPRINT, sides=(36, 50, 35), anisotropy=(1, 1, 1), classes=3)
    plan, reasons = make_plan(fingerprint)
    assert (plan.network.padding, plan.tile, plan.output) == ("same", (36, 52, 36), (36, 52, 36))
    assert plan.augmentation.rotate and plan.augmentation.mirror
    assert make_plan(FINGERPRINT)[0].network.padding == "same"
    assert make_plan(FINGERPRINT, preset="paper")[0].network.padding == "valid"
    fixed, reasons = make_plan(replace(fingerprint, fixed_orientation=True))
    assert not fixed.augmentation.rotate and not fixed.augmentation.mirror
    assert fixed.augmentation.scale == plan.augmentation.scale
    assert any("neither rotated nor mirrored" in r for r in reasons)


def test_gray_values_that_tell_the_classes_are_neither_standardized_by_image_nor_varied() -> None:
    data = replace(FINGERPRINT, classes=13, common=((30.0, 45.0),))
    plan, reasons = make_plan(replace(data, gray_values=GrayValues(0.36, 0.39, 0.97, 0.63)))
    assert (plan.normalization.method, plan.normalization.common) == ("common", ((30.0, 45.0),))
    drawn = plan.augmentation
    assert (drawn.brightness, drawn.contrast, drawn.gamma) == (0.0, 0.0, (1.0, 1.0))
    assert (drawn.noise, drawn.blur_px, drawn.rotate) == (0.2, 0.7, True)
    text = "\n".join(reasons)
    assert (
        "one normalization for all images: their gray values tell 97% of the classes, and 36% with each image" in text
    )
    assert "brightness and contrast are not varied: gray values would tell 63% of the classes instead of 97%" in text
    few, _ = make_plan(replace(data, gray_values=GrayValues(0.79, 0.8, 0.98, 0.99)))
    assert (few.normalization.method, few.augmentation.contrast) == ("common", 0.25)
    alone, _ = make_plan(replace(data, gray_values=GrayValues(0.8, 0.5, 0.8, 0.5)))
    assert (alone.normalization.method, alone.augmentation.contrast) == ("standardize", 0.0)


@pytest.mark.parametrize("found", [None, GrayValues(0.52, 0.52, 0.49, 0.33), GrayValues(*[float("nan")] * 4)])
def test_gray_values_that_tell_little_are_standardized_and_varied(found: GrayValues | None) -> None:
    plan, _ = make_plan(replace(FINGERPRINT, classes=3, gray_values=found, common=((30.0, 45.0),)))
    assert (plan.normalization.method, plan.normalization.common) == ("standardize", ())
    assert (plan.augmentation.brightness, plan.augmentation.contrast) == (0.2, 0.25)
    assert plan.augmentation.gamma == (0.7, 1.5)


def test_published_presets_leave_gray_values_and_first_probabilities_as_they_were() -> None:
    data = replace(FINGERPRINT, classes=13, gray_values=GrayValues(0.36, 0.39, 0.97, 0.63), common=((30.0, 45.0),))
    for preset in ("paper", "fiji"):
        plan, _ = make_plan(data, preset=preset)
        assert (plan.normalization.method, plan.prior, plan.dice) == ("range", False, 0.0)


def test_one_normalization_may_be_requested_with_values_for_each_channel() -> None:
    values = ("normalization.method=common", "normalization.common=[[40, 200]]")
    assert make_plan(FINGERPRINT, set=values)[0].normalization.common == ((40.0, 200.0),)
    with pytest.raises(UsageError, match="an offset and a scale for each channel"):
        make_plan(FINGERPRINT, set=values[:1])
    with pytest.raises(UsageError, match="2 pairs of offset and scale for 1 channels"):
        make_plan(FINGERPRINT, set=(values[0], "normalization.common=[[40, 200], [1, 2]]"))


def test_five_classes_and_more_learn_at_a_higher_rate() -> None:
    for classes, rate in ((2, 0.001), (4, 0.001), (5, 0.003), (13, 0.003)):
        plan, reasons = make_plan(replace(FINGERPRINT, classes=classes))
        assert plan.optimizer.rate == rate
        assert plan.prior
        assert any(r == f"rate 0.003 instead of 0.001: {classes} classes" for r in reasons) == (rate > 0.001)


def test_lines_start_from_equal_shares() -> None:
    lines = make_plan(replace(FINGERPRINT, boundary_lines=True), steps=1)[0]
    assert (lines.lines, lines.prior) == (True, False)
    assert make_plan(FINGERPRINT, steps=1)[0].prior
