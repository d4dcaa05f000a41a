"""Values of a plan are set by name; unknown names are refused with the names that exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from septum.errors import UsageError
from septum.training.fingerprint import Fingerprint
from septum.training.loop import train
from septum.training.plan import Plan, value_names
from septum.training.presets import make_plan
from septum.training.settings import TrainSettings

FINGERPRINT = Fingerprint(channels=1, classes=2, sides=(512, 512), anisotropy=(1, 1))


def _settings(*values: str) -> TrainSettings:
    return TrainSettings(data=(), out=Path("run"), set=values)


def _plan(*values: str) -> Plan:
    return make_plan(FINGERPRINT, _settings(*values))[0]


def test_values_of_every_part_are_set_and_reported() -> None:
    values = ("weights.w0=5", "optimizer.method=sgd", "augmentation.scale=[0.9, 1.1]", "sampler=uniform")
    plan, reasons = make_plan(FINGERPRINT, _settings(*values))
    assert (plan.weights.w0, plan.optimizer.method, plan.sampler) == (5.0, "sgd", "uniform")
    assert plan.augmentation.scale == (0.9, 1.1)
    assert "asked for: weights.w0=5, optimizer.method=sgd, augmentation.scale=[0.9, 1.1], sampler=uniform" in reasons


def test_a_plan_is_read_with_the_old_names_of_values() -> None:
    plan = _plan("optimizer.freeze_batchnorm=0.4")
    stored = plan.model_dump(mode="json")
    stored["optimizer"]["settle"] = stored["optimizer"].pop("freeze_batchnorm")
    assert Plan.model_validate(stored) == plan


def test_the_tile_is_fitted_to_the_requested_network() -> None:
    before = _plan()
    deep, same = _plan("network.depths=[2, 2]"), _plan("network.padding=same")
    assert all(a <= b < a + 4 for a, b in zip(before.output, deep.output, strict=True))
    assert same.output == same.tile
    assert all(a <= b < a + 16 for a, b in zip(before.output, same.output, strict=True))
    assert _plan("network.padding=same", "tile=[64, 96]").tile == (64, 96)
    with pytest.raises(UsageError, match=r"--set tile=\[64, 97\]\n.*does not fit depth 4"):
        _plan("network.padding=same", "tile=[64, 97]")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("weights.w1=5", r"--set weights.w1=5\n.*weights.w0, weights.sigma_px, weights.balance"),
        ("width=5", r"--set width=5\n.*network.width"),
        ("batch", r"--set batch\n.*NAME=VALUE"),
        ("weights.w0=-1", r"--set weights.w0=-1\n.*greater than or equal to 0"),
        ("weights.w0=many", r"--set weights.w0=many\n.*valid number"),
        ("optimizer.method=lion", r"--set optimizer.method=lion\n.*'sgd', 'adam' or 'adamw'"),
        ("network.channels=3", r"--set network.channels=3\n.*NAME=VALUE with one of the names network.depths"),
        ("network.depths=[2, 2, 2]", r"--set network.depths=\[2, 2, 2\]\n.*2 numbers, one for each axis"),
        ("network.depths=[9, 9]", r"--set network.depths=\[9, 9\]\n.*numbers from 0 to 8"),
    ],
)
def test_unknown_names_and_wrong_values_are_refused(value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _plan(value)


@pytest.mark.parametrize("change", [{"classes": 3}, {"sides": (64, 64, 64), "anisotropy": (1, 1, 1)}])
def test_boundary_lines_need_two_classes_in_2d(change: dict[str, Any]) -> None:
    assert _plan("lines=true").lines
    with pytest.raises(UsageError, match=r"--set lines=true\n.*two classes in 2D"):
        make_plan(replace(FINGERPRINT, **change), _settings("lines=true"))


def test_boundary_lines_are_refused_for_objects(disks: Path, tmp_path: Path) -> None:
    settings = TrainSettings(
        data=(disks,), out=tmp_path / "run", steps=1, width=2, depth=1, tile=36, set=("lines=true",)
    )
    with pytest.raises(UsageError, match=r"lines=true with masks of object ids\n.*two classes"):
        list(train(settings))
    assert not (tmp_path / "run" / "plan.json").exists()


def test_value_names_are_all_names_of_the_plan() -> None:
    names = value_names(_plan())
    assert len(names) == len(set(names)) > 30
    assert {"network.width", "augmentation.rotate", "tile", "batch", "validations"} <= set(names)


def test_a_wrong_value_creates_no_run_and_a_changed_value_is_refused(disks: Path, tmp_path: Path) -> None:
    def run(*values: str) -> None:
        list(train(TrainSettings(data=(disks,), out=tmp_path, steps=1, width=2, depth=1, tile=36, set=values)))

    with pytest.raises(UsageError, match=r"weights\.w1"):
        run("weights.w1=5")
    run("weights.w0=5")
    with pytest.raises(UsageError, match=r"--set: weights\.w0=5 -> weights\.w0=6"):
        run("weights.w0=6")
