"""Seeds: the same training with several seeds, compared on the same images, and averaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.check.check import check
from septum.check.samples import load_samples
from septum.errors import UsageError
from septum.evaluation.candidates import candidate_columns
from septum.experiments.events import PartTrained, SeedsCompared
from septum.experiments.seeds import train_seeds
from septum.io.files import read_image
from septum.io.tensors import read_model
from septum.prediction.model import open_model
from septum.report.gallery import predicted_sample
from septum.report.summary import RunReport
from septum.training.events import Trained
from septum.training.loop import train
from septum.training.model_selection import choose, tune_objects
from septum.training.settings import TrainSettings


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    given = {"data": (data,), "out": out, "steps": 10, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}
    return TrainSettings.model_validate(given | changes)


@pytest.fixture(scope="module")
def before_the_report() -> set[str]:
    """Return the names of the files in the run folder before its report is written; filled by `run`."""
    return set()


@pytest.fixture(scope="module")
def run(disks: Path, tmp_path_factory: pytest.TempPathFactory, before_the_report: set[str]) -> tuple[Path, list[Any]]:
    out, events = tmp_path_factory.mktemp("seeds") / "run", list[Any]()
    for event in train_seeds(_settings(disks, out, seed=4), 3):
        events.append(event)
        if isinstance(event, RunReport) and event.folder == out:
            before_the_report.update(path.name for path in out.iterdir())
    return out, events


def test_a_run_is_complete_before_its_report_is_written(
    run: tuple[Path, list[Any]], before_the_report: set[str]
) -> None:
    assert {"model.safetensors", "scores.json", "plan.json", "seeds.json"} <= before_the_report


def test_the_first_seed_equals_a_single_training_and_all_share_its_split(
    run: tuple[Path, list[Any]], disks: Path, tmp_path: Path
) -> None:
    out, _ = run
    list(train(_settings(disks, tmp_path / "single", seed=4)))
    single, first, second = (
        {k: v.tobytes() for k, v in read_model(path / "model.safetensors")[0].items()}
        for path in (tmp_path / "single", out / "seed-4", out / "seed-5")
    )
    assert single == first != second
    held = [json.loads((out / f"seed-{s}" / "plan.json").read_text())["held_out"] for s in (4, 5, 6)]
    assert held[0] == held[1] == held[2] == json.loads((out / "plan.json").read_text())["held_out"]


def test_mean_and_deviation_are_those_of_the_single_scores(run: tuple[Path, list[Any]]) -> None:
    out, events = run
    compared = next(r for r in events if isinstance(r, SeedsCompared))
    singles = [r.trained.scores for r in events if isinstance(r, PartTrained)]
    written = json.loads((out / "seeds.json").read_text())
    assert compared.seeds == (4, 5, 6)
    for name in ("SEG", "AP50", "AP"):
        values = [scores[name] for scores in singles]
        assert compared.scores[name] == tuple(values)
        assert compared.mean(name) == pytest.approx(np.mean(values))
        assert compared.deviation(name) == pytest.approx(np.std(values, ddof=1))
        assert written["single"][name]["deviation"] == compared.deviation(name)
    assert written["averaged"] == events[-1].scores


def test_model_and_kept_predictions_are_the_mean_of_the_networks(run: tuple[Path, list[Any]], disks: Path) -> None:
    out, events = run
    model = open_model(out / "model.safetensors", "cpu")
    assert (model.header.members, model.header.training["steps"]) == (3, 30)
    name = json.loads((out / "plan.json").read_text())["held_out"][0]
    sample = next(s for s in load_samples(check([disks])) if s.name == name)
    singles = [open_model(out / f"seed-{s}" / "model.safetensors", "cpu") for s in (4, 5, 6)]
    mean = np.mean([predicted_sample(one, sample)[0] for one in singles], axis=0)
    probabilities, labels = predicted_sample(model, sample)
    np.testing.assert_allclose(probabilities, mean, atol=2e-6)
    np.testing.assert_array_equal(read_image(out / "held-out" / f"{name}.tif", labels=True).array[0], labels)
    assert model.header.scores == pytest.approx(events[-1].scores)


def test_a_finished_run_returns_the_comparison_without_training(run: tuple[Path, list[Any]], disks: Path) -> None:
    out, events = run
    for folder in (".", "seed-4", "seed-5", "seed-6"):
        for name in ("report.html", "metrics.json"):
            (out / folder / name).write_text("{}")
    again = list(train_seeds(_settings(disks, out, seed=4), 3))
    assert again[-2:] == [events[-2], Trained(out / "model.safetensors", events[-1].scores, 30, again[-1].seconds)]
    with pytest.raises(UsageError, match="seeds: 3 -> 2"):
        list(train_seeds(_settings(disks, out, seed=4), 2))


def test_seeds_that_an_earlier_version_began_do_not_go_on_with_other_held_out_images(
    run: tuple[Path, list[Any]], disks: Path, tmp_path: Path
) -> None:
    for name in ("done", "begun"):
        shutil.copytree(run[0], tmp_path / name)
        for seed in (4, 5, 6):
            plan = tmp_path / name / f"seed-{seed}" / "plan.json"
            plan.write_text(json.dumps(json.loads(plan.read_text()) | {"held_out": ["another"]}))
    *_, last = train_seeds(_settings(disks, tmp_path / "done", seed=4), 3)
    assert isinstance(last, Trained) and last.scores == run[1][-1].scores
    shutil.rmtree(tmp_path / "begun" / "seed-6")
    with pytest.raises(UsageError, match=r"seed-4: the run began with another held out"):
        list(train_seeds(_settings(disks, tmp_path / "begun", seed=4), 3))
    assert not (tmp_path / "begun" / "seed-6").exists()


def test_networks_are_averaged_without_held_out_images(disks: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "one" / kind).mkdir(parents=True)
        np.save(tmp_path / "one" / kind / "a.npy", np.load(disks / kind / "a.npy"))
    events = list(train_seeds(_settings(tmp_path / "one", tmp_path / "run", steps=2), 2))
    assert (events[-1].scores, next(r for r in events if isinstance(r, SeedsCompared)).scores) == ({}, {})
    assert open_model(tmp_path / "run" / "model.safetensors", "cpu").header.members == 2


def test_areas_between_lines_are_tuned_on_the_mean_of_the_networks(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for i in range(6):
        inside = np.full((48, 48), 1, np.uint8)
        inside[8 + i :: 16], inside[:, 5 + i :: 16] = 0, 0
        np.save(tmp_path / "data" / "masks" / f"{i}.npy", inside)
        np.save(tmp_path / "data" / "images" / f"{i}.npy", inside + generator.normal(0, 0.1, inside.shape))
    out = tmp_path / "run"
    events = list(train_seeds(_settings(tmp_path / "data", out, steps=60, width=4), 2))
    header = open_model(out / "model.safetensors", "cpu").header
    assert header.lines and header.kind == "classes" and header.members == 2
    name = json.loads((out / "plan.json").read_text())["held_out"][0]
    sample = next(s for s in load_samples(check([tmp_path / "data"])) if s.name == name)
    _, labels = predicted_sample(open_model(out / "model.safetensors", "cpu"), sample)
    np.testing.assert_array_equal(read_image(out / "held-out" / f"{name}.tif", labels=True).array[0], labels)
    # The written labels have the score of the best object settings on the mean of the networks.
    foreground = read_image(out / "held-out" / "probabilities" / f"{name}.tif").array[0].astype(np.float16)
    best = tune_objects(
        lambda choices, _: {0: candidate_columns(sample, foreground, choices, lines=True)}, [sample], lines=True
    )
    assert header.objects == best
    scores = choose({0: candidate_columns(sample, foreground, [best], lines=True)}, lines=True)[1]
    assert events[-1].scores["dice"] == pytest.approx(scores["dice"], abs=2e-3)
