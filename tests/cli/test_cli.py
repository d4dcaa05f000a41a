"""What a person types, and what comes back: exit codes, sentences, JSON. The jobs are stand-ins here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from septum.cli.main import COMMANDS, main
from septum.errors import DataError, FileError
from septum.events import Event, Warned
from septum.experiments import series as series_job
from septum.experiments.events import HeldOutDone, PartStarted, PartTrained, SeedsCompared
from septum.io.files import write_image
from septum.prediction import predict as predict_job
from septum.prediction.events import (
    ImageDone,
    ImageFailed,
    ImageSkipped,
    ImageStarted,
    Opened,
    Predicted,
    TileDone,
)
from septum.report.curve import Curve
from septum.training import loop as train_job
from septum.training.events import Planned, Saved, Step, Trained, Validated

Run = Callable[..., tuple[int, str, str]]
ALL_COMMANDS = [
    *([name] for name in COMMANDS if name != "experiment"),
    ["experiment", "seeds"],
    ["experiment", "learning-curve"],
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line; return the exit code, the standard output and the standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = left.value.code
        return (0 if code is None else int(code)), out, err

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[train_job.TrainSettings]:
    """A training that does nothing but remember its settings."""
    seen: list[train_job.TrainSettings] = []

    def train(settings: train_job.TrainSettings, _stop: object = None) -> Iterator[Event]:
        seen.append(settings)
        yield Planned(("two steps",))
        yield Warned("one image only: nothing is held out")
        yield Step(1, 2, 0.5, 1e-3, 1.0)
        yield Step(2, 2, 0.25, 1e-3, 2.0)
        yield Validated(2, 2, {"SEG": 0.8119}, True)
        yield Saved(settings.out / "model.safetensors")
        yield Trained(settings.out / "model.safetensors", {"SEG": 0.8119}, 2, 2.0)

    monkeypatch.setattr(series_job, "train", train)  # imported now, it would keep this one for good
    monkeypatch.setattr(train_job, "train", train)
    return seen


def fake_prediction(monkeypatch: pytest.MonkeyPatch, *, good: int, bad: int) -> list[predict_job.PredictSettings]:
    seen: list[predict_job.PredictSettings] = []

    def predict_files(settings: predict_job.PredictSettings) -> Iterator[Event]:
        seen.append(settings)
        for index in range(good + bad):
            path = Path(f"image{index}.png")
            yield ImageStarted(path, index, good + bad, 1, (572, 572), 0, 1 << 29, None)
            if index < good:
                yield TileDone(path, 1, 1)
                yield ImageDone(path, (settings.out or Path()) / f"image{index}.tif", 0.5, 7)
            else:
                yield ImageFailed(path, "not an image")
        yield Predicted(good, bad, 1.0, 1 << 29)

    monkeypatch.setattr(predict_job, "predict_files", predict_files)
    return seen


def test_version_and_help(run: Run) -> None:
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "septum")
    code, out, _ = run("--help")
    assert code == 0
    for name in ("train", "predict"):
        assert name in out


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for command in [[], ["experiment"], *ALL_COMMANDS]:
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert max(len(line) for line in out.splitlines()) <= width
        assert "..." not in out.partition("\n")[2], "a text is cut"
        assert command in ([], ["experiment"]) or "Example: septum " in out


def test_train_turns_options_into_settings(run: Run, trained: list[train_job.TrainSettings]) -> None:
    options = (
        "--preset paper --budget 1.5h --seed 7 --kind classes --width 16 --depth 2 --tile 188 --batch 3 --device cpu "
        "--until-plateau --axes ZYX --ignore-value 0 --ignore-value 255 --set weights.w0=5 --from start.safetensors "
        "--precision float32 --max-memory 2G"
    )
    code, _, _ = run("train", "cells", "-o", "run", *options.split())
    assert code == 0
    wanted = {"preset": "paper", "budget_s": 5400.0, "steps": None, "seed": 7, "kind": "classes", "device": "cpu"}
    sizes = {"width": 16, "depth": 2, "tile": 188, "batch": 3, "deterministic": False, "compile": False}
    wanted |= {
        "until_plateau": True,
        "ignore_values": (0, 255),
        "background": None,
        "channel": (),
        "level": None,
        "pixel_size": None,
        "set": ("weights.w0=5",),
        "axes": "ZYX",
    }
    wanted |= {"from_model": Path("start.safetensors"), "precision": "float32", "max_memory": 2 << 30}
    split = {"fold": None, "names": None, "group": None, "limit": None, "seed": None}
    assert trained[0].model_dump() == {"data": (Path("cells"),), "out": Path("run"), "split": split, **wanted, **sizes}


def test_trackers_are_opened_on_request_and_a_failing_one_is_dropped(
    run: Run, trained: list[train_job.TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, dict[str, bool]]] = []

    class Gone:
        name = "MLflow"

        def __getattr__(self, _: str) -> Callable[..., None]:
            raise ConnectionError("nobody answers")

    def trackers_of(folder: Path, **which: bool) -> list[Gone]:
        asked.append((folder, which))
        return [Gone()] if which["mlflow"] else []

    monkeypatch.setattr("septum.experiments.tracking.open_trackers", trackers_of)
    code, _, err = run("train", "cells", "-o", "run", "--steps", "2")
    assert (code, asked) == (0, [(Path("run"), {"tensorboard": False, "mlflow": False})])
    assert "MLflow" not in err
    code, out, err = run("train", "cells", "-o", "run", "--steps", "2", "--tensorboard", "--mlflow")
    assert (code, asked[1]) == (0, (Path("run"), {"tensorboard": True, "mlflow": True}))
    assert err.count("warning: MLflow failed, the training goes on without it: ") == 1
    assert out.startswith("model: ")


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_missing_tracker_package_is_refused_before_training(
    run: Run, trained: list[train_job.TrainSettings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("septum.experiments.tracking.find_spec", lambda _: None)
    code, _, err = run("train", "cells", "-o", tmp_path / "run", "--devices", "2", f"--{name}")
    assert (code, trained, list(tmp_path.iterdir())) == (2, [], [])
    assert f"pip install 'septum[{name}]'" in err


@pytest.fixture
def series(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Trainings of several kinds that do nothing but remember what was asked."""
    seen: list[tuple[object, ...]] = []

    def pretend(kind: str) -> Callable[..., Iterator[Event]]:
        def job(settings: train_job.TrainSettings, *given: object) -> Iterator[Event]:
            seen.append((kind, settings.split.group, *given[:-1]))
            one = Trained(settings.out / "part" / "model.safetensors", {"SEG": 0.7}, 2, 2.0)
            yield PartStarted("part 1", 0, 1, "part-1")
            yield Step(1, 1, 0.5, 1e-3, 1.0)
            yield PartTrained("part 1", one)
            yield HeldOutDone(1, 1)
            if kind == "seeds":
                yield SeedsCompared((0, 1), {"SEG": (0.7, 0.8)})
            if kind == "curve":
                interval = (0.6, 0.8)
                ahead = ((6, 0.75, 0.72, 0.77),)
                yield Curve("SEG", (1, 2, 4), (0.5, 0.6, 0.7), (interval,) * 3, (0.9, 0.4, 0.5), 2, ahead, True, "so")
            yield Trained(settings.out / "model.safetensors", {"SEG": 0.81}, 4, 4.0)

        return job

    monkeypatch.setattr("septum.experiments.cross_validation.train_folds", pretend("folds"))
    monkeypatch.setattr("septum.experiments.seeds.train_seeds", pretend("seeds"))
    monkeypatch.setattr("septum.experiments.learning_curve.train_curve", pretend("curve"))
    return seen


def test_folds_print_each_part_and_the_model(run: Run, series: list[tuple[object, ...]]) -> None:
    code, out, err = run("train", "cells", "-o", "run", "--folds", "3", "--group", "p.")
    assert (code, series[0]) == (0, ("folds", "p.", 3))
    assert err.splitlines() == [
        "--- part 1",
        "1/1 step  loss 0.500",
        "part 1: SEG 0.700; 2 steps, 2.0 s",
        "1/1 image  held-out images",
    ]
    assert out == f"model: {Path('run/model.safetensors')}  (SEG 0.810; 4 steps, 4.0 s)\n"


def test_seeds_print_mean_and_spread(run: Run, series: list[tuple[object, ...]]) -> None:
    code, out, _ = run("experiment", "seeds", "cells", "-o", "run", "--count", "2", "--group", "p.")
    assert (code, series[0]) == (0, ("seeds", "p.", 2))
    assert out.splitlines()[:3] == [
        "held-out images  seed 0  seed 1   mean     sd  averaged",
        "SEG               0.700   0.800  0.750  0.071     0.810",
        "kept: the average of the 2 networks",
    ]


def test_learning_curve_prints_scores_over_numbers_of_images(run: Run, series: list[tuple[object, ...]]) -> None:
    code, out, _ = run("experiment", "learning-curve", "cells", "-o", "run")
    assert (code, series[0]) == (0, ("curve", None))
    assert out.splitlines()[:6] == [
        "training images    SEG   95 % interval",
        "1                0.500  0.600 to 0.800",
        "2                0.600  0.600 to 0.800",
        "4                0.700  0.600 to 0.800",
        "6, expected      0.750  0.720 to 0.770",
        "so",
    ]


def test_json_of_several_trainings_lists_each_of_them(run: Run, series: list[tuple[object, ...]]) -> None:
    _, out, _ = run("experiment", "seeds", "cells", "-o", "run", "--count", "2", "--json")
    said = json.loads(out)
    assert said["command"] == "experiment seeds"
    assert said["parts"][0]["scores"] == {"SEG": 0.7}
    assert said["seeds"]["SEG"] == {"values": [0.7, 0.8], "mean": 0.75, "deviation": pytest.approx(0.0707107)}
    _, out, _ = run("experiment", "learning-curve", "cells", "-o", "run", "--json")
    assert json.loads(out)["command"] == "experiment learning-curve"
    assert json.loads(out)["learning_curve"]["ahead"] == [[6, 0.75, 0.72, 0.77]]


def test_contradicting_options_of_several_trainings_are_refused(run: Run, series: list[tuple[object, ...]]) -> None:
    for option in ("--folds", "--devices"):
        code, _, err = run("experiment", "seeds", "cells", option, "3")
        assert (code, f"error: no such option: {option}" in err) == (2, True)
    code, _, err = run("train", "cells", "--folds", "3", "--devices", "2")
    assert (code, err.splitlines()[0]) == (2, "error: --folds with several processes")
    code, _, err = run("train", "cells", "--group", "(")
    assert code == 2
    assert err.splitlines()[:2] == [
        "error: --group (",
        "expected: a regular expression (missing ), unterminated subpattern at position 0)",
    ]
    assert not series


def test_budget_none_trains_until_the_scores_stop_improving(run: Run, trained: list[train_job.TrainSettings]) -> None:
    code, _, _ = run("train", "cells", "--budget", "none")
    assert (code, trained[0].budget_s, trained[0].steps, trained[0].ends_at_plateau) == (0, None, None, True)


def test_train_defaults(run: Run, trained: list[train_job.TrainSettings]) -> None:
    run("train", "cells/images", "cells/masks")
    run("train", "cells", "--steps", "5")
    assert (trained[0].steps, trained[0].budget_s, trained[0].preset, trained[0].seed) == (None, 1800.0, "auto", 0)
    assert trained[0].out == Path("runs/cells")
    assert (trained[1].steps, trained[1].budget_s) == (5, None)


def test_training_prints_its_events_and_then_the_model(run: Run, trained: list[train_job.TrainSettings]) -> None:
    code, out, err = run("train", "cells", "-o", "run")
    assert code == 0
    assert out == f"model: {Path('run/model.safetensors')}  (SEG 0.812; 2 steps, 2.0 s)\n"
    assert err.splitlines() == [
        "two steps",
        "warning: one image only: nothing is held out",
        "1/2 steps  loss 0.500",
        "2/2 steps  " + err.splitlines()[3].removeprefix("2/2 steps  "),
        "step 2: held-out images SEG 0.812 (best so far)",
    ]
    assert err.splitlines()[3].endswith("loss 0.250")


def test_quiet_training_prints_warnings_and_the_last_line(run: Run, trained: list[train_job.TrainSettings]) -> None:
    code, out, err = run("train", "cells", "-o", "run", "--quiet")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert err == "warning: one image only: nothing is held out\n"


def test_json_of_a_training_is_one_document(run: Run, trained: list[train_job.TrainSettings]) -> None:
    code, out, _ = run("train", "cells", "-o", "run", "--json")
    assert code == 0
    assert json.loads(out) == {
        "command": "train",
        "model": str(Path("run/model.safetensors")),
        "scores": {"SEG": 0.8119},
        "steps": 2,
        "seconds": 2.0,
        "activities_s": {},
        "report": None,
        "warnings": ["one image only: nothing is held out"],
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "cells", "--stepz", "3"],
            ["error: no such option: --stepz", "expected: an option of septum train", "did you mean: --steps?"],
        ),
        (["demo", "--budgt", "6m"], ["error: no such option: --budgt", "did you mean: --budget?"]),
        (["check", "cells", "--budget", "6m"], ["error: no such option: --budget", "look at: septum check --help"]),
        (["train", "cells", "-x"], ["error: no such option: -x", "to do: look at: septum train --help"]),
        (["--versoin"], ["error: no such option: --versoin", "did you mean: --version?"]),
        (["check", "cells", "--fix"], ["error: --fix without a value", "expected: --fix OUT"]),
        (["check", "cells", "--json=3"], ["error: --json with a value", "expected: --json alone"]),
        (["export", "model"], ["error: septum export without --to", "expected: --to onnx|bioimageio"]),
        (["info", "a", "b"], ["error: too many arguments: b", "expected: septum info [OPTIONS] [MODEL]"]),
        (["train", "cells", "--budget", "20"], ["error: --budget 20", "expected: a duration with its unit"]),
        (["train", "cells", "--budget", "20 minutes"], ["error: --budget 20 minutes", "expected: a duration", "20m"]),
        (["train", "cells", "--steps", "-3"], ["error: --steps -3", "expected: greater than or equal to 1"]),
        (["train", "cells", "--steps", "3", "--budget", "5m"], ["error: both --steps and --budget", "expected: one"]),
        (["train", "cells", "--preset", "best"], ["error: --preset best", "expected: 'auto', 'paper' or 'fiji'"]),
        (["train", "cells", "--seed", "-1"], ["error: --seed -1", "greater than or equal to 0"]),
        (["train", "cells", "--seed", "x"], ["error: --seed x", "expected: a valid integer"]),
        (["train", "cells", "--folds", "1"], ["error: --folds 1", "expected: greater than or equal to 2"]),
        (["train", "cells", "--depth", "9"], ["error: --depth 9", "expected: less than or equal to 8"]),
        (["train", "cells", "--ignore-value", "0", "--ignore-value", "a"], ["error: --ignore-value a"]),
        (["experiment", "seeds", "cells", "--count", "1"], ["error: --count 1", "greater than or equal to 2"]),
        (["experiment", "curve", "cells"], ["error: no such command: curve", "one of seeds, learning-curve"]),
        (["evaluate", "a", "b", "--metrics", "ctc,best"], ["error: --metrics best", "expected: 'isbi', 'ctc'"]),
        (["reproduce", "dic-hela", "--variant", "lead"], ["error: --variant lead", "'gold' or 'silver'"]),
        (["fetch", "cells"], ["error: NAME cells", "expected: 'isbi2012', 'dic-hela' or 'phc-u373'"]),
        (["predict", "m.safetensors", "a.png", "-o", "out", "--workers", "0"], ["error: --workers 0", "--workers 4"]),
        (["predict", "m.safetensors", "a.png", "-o", "out", "--max-memory", "4"], ["--max-memory 4", "2G or 800M"]),
        (["predict", "m.safetensors", "a.png"], ["error: neither -o nor --label-image", "name a folder with -o"]),
        (
            ["predict", "m.safetensors", "-o", "out"],
            ["error: septum predict without INPUT", "{MODEL} {INPUT}...", "septum predict --help"],
        ),
        (
            ["predict", "m.safetensors", "a.png", "-o", "out", "--output", "objects"],
            ["error: --output objects", "expected: one of labels, classes, probabilities"],
        ),
        (
            ["predict", "m.safetensors", "a.png", "-o", "out", "--format", "gif"],
            ["--format gif", "expected: one of", "tif"],
        ),
        (["segment", "a.png"], ["error: no such command: segment", "one of demo, studio, check", "septum --help"]),
        (["trian", "cells"], ["error: no such command: trian", "did you mean: septum train?"]),
        (["evaluate", "a"], ["error: septum evaluate without PREDICTED", "{PREDICTED}... {TRUTH}"]),
        (["evaluate", "a", "b", "c", "d"], ["error: PREDICTED a b c", "at most 2"]),
    ],
)
def test_wrong_usage_prints_what_was_expected(
    run: Run,
    trained: list[train_job.TrainSettings],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    predicted = fake_prediction(monkeypatch, good=1, bad=0)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err
    assert not trained
    assert not predicted


@pytest.mark.parametrize(
    ("good", "bad", "code", "line"),
    [
        (3, 0, 0, "3 images in 1.0 s, results in out; at most 512 MB of memory\n"),
        (1, 0, 0, "1 image in 1.0 s, results in out; at most 512 MB of memory\n"),
        (2, 1, 1, "2 images in 1.0 s, results in out; at most 512 MB of memory; 1 failed\n"),
    ],
)
def test_predict_exit_codes(
    run: Run, monkeypatch: pytest.MonkeyPatch, good: int, bad: int, code: int, line: str
) -> None:
    fake_prediction(monkeypatch, good=good, bad=bad)
    left, out, err = run("predict", "m.safetensors", "in", "-o", "out")
    assert (left, out) == (code, line)
    assert err.count("failed: image") == bad
    if bad:
        assert err.endswith(f"failed: image{good + bad - 1}.png: not an image\n")


def test_images_of_workers_are_counted_out_of_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict_files(settings: predict_job.PredictSettings) -> Iterator[Event]:
        yield Opened(3, None)
        for name in "ab":
            yield ImageDone(Path(f"{name}.png"), Path(f"out/{name}.png"), 0.5, 7)
        yield ImageFailed(Path("c.png"), "not an image")
        yield Predicted(2, 1, 1.0, 1 << 29)

    monkeypatch.setattr(predict_job, "predict_files", predict_files)
    code, _, err = run("predict", "m.safetensors", "in", "-o", "out", "--workers", "2")
    assert code == 1
    counts = [line for line in err.splitlines() if " images" in line]
    assert [line.split()[0] for line in counts] == ["1/3", "2/3", "3/3"]


def test_images_that_had_a_result_are_counted_and_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict_files(settings: predict_job.PredictSettings) -> Iterator[Event]:
        assert settings.skip_existing
        for name in "ab":
            yield ImageSkipped(Path(f"{name}.png"), Path(f"out/{name}.png"))
        yield ImageStarted(Path("c.png"), 2, 3, 1, (572, 572), 0, 1 << 29, None)
        yield ImageDone(Path("c.png"), Path("out/c.png"), 0.5, 7)
        yield Predicted(1, 0, 1.0, 1 << 29)

    monkeypatch.setattr(predict_job, "predict_files", predict_files)
    code, out, err = run("predict", "m.safetensors", "in", "-o", "out", "--skip-existing")
    assert code == 0
    assert out == ("1 image in 1.0 s, results in out; at most 512 MB of memory; 2 images had a result already\n")
    assert "c.png: 1 tile of 572 x 572 pixels" in err  # the first image that is predicted speaks for all
    _, out, _ = run("predict", "m.safetensors", "in", "-o", "out", "--skip-existing", "--json")
    assert [image["path"] for image in json.loads(out)["skipped"]] == ["a.png", "b.png"]


@pytest.mark.parametrize("also", [(), ("--also", "tables")])
def test_a_stopped_prediction_says_how_to_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, also: tuple[str, ...]
) -> None:
    def predict_files(settings: predict_job.PredictSettings) -> Iterator[Event]:
        yield ImageSkipped(Path("a.png"), Path("out/a.png"))
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_job, "predict_files", predict_files)
    code, _, err = run("predict", "m.safetensors", "in", "-o", "out", *also)
    assert code == 130
    option = "--skip-existing in place of --also" if also else "--skip-existing"
    assert (
        f"stopped: the results in out are whole; the same command with {option} predicts the other images, "
        "and continues one that was predicted block by block"
    ) in err


def test_each_failed_image_is_named_once_where_all_fail(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict_files(settings: predict_job.PredictSettings) -> Iterator[Event]:
        errors = [FileError(f"{name}.png: not an image", "a PNG file") for name in "ab"]
        for index, (name, error) in enumerate(zip("ab", errors, strict=True)):
            yield ImageStarted(Path(f"{name}.png"), index, 2, 1, (572, 572), 0, 1 << 29, None)
            yield ImageFailed(Path(f"{name}.png"), str(error))
        raise errors[0]

    monkeypatch.setattr(predict_job, "predict_files", predict_files)
    code, out, err = run("predict", "m.safetensors", "in", "-o", "out", "--quiet")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "failed: b.png: not an image",
        "  expected: a PNG file",
        "error: a.png: not an image",
        "expected: a PNG file",
    ]


def test_json_of_a_prediction_is_one_document(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_prediction(monkeypatch, good=1, bad=1)
    code, out, err = run("predict", "m.safetensors", "in", "-o", "out", "--json")
    assert code == 1
    assert json.loads(out) == {
        "command": "predict",
        "done": [
            {"path": "image0.png", "output": str(Path("out/image0.tif")), "seconds": 0.5, "objects": 7, "scale": None}
        ],
        "failed": [{"path": "image1.png", "message": "not an image"}],
        "seconds": 1.0,
        "peak_bytes": 1 << 29,
        "exported": [],
        "shards": 0,
        "skipped": [],
        "warnings": [],
    }
    assert err == "failed: image1.png: not an image\n"


def test_label_images_are_converted_for_other_programs(run: Run, tmp_path: Path) -> None:
    for name, values in (("a.png", np.tri(5, dtype=np.uint8)), ("b.tif", np.ones((5, 5), np.float32))):
        write_image(tmp_path / name, values, axes="YX")
    code, out, err = run("convert", str(tmp_path), "-o", str(tmp_path / "out"), "--to", "tables,geojson", "--json")
    assert code == 1
    found = json.loads(out)
    assert [Path(path).name for path in found["written"]][:2] == ["a.geojson", "objects.csv"]
    assert [Path(one["source"]).name for one in found["failures"]] == ["b.tif"]
    assert "b.tif: values of type float32" in err
    code, _, err = run("convert", str(tmp_path), "-o", str(tmp_path / "out"), "--to", "excel")
    assert code == 2
    assert "expected: some of tables, geojson, rois, coco, overlay, properties" in err
    code, _, err = run("predict", "m", "a", "-o", "out", "--also", "table,geojson")
    assert code == 2
    assert "separated by commas, not table; did you mean tables?" in err


def test_predict_turns_options_into_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = fake_prediction(monkeypatch, good=1, bad=0)
    run(
        "predict",
        "m",
        "a",
        "b",
        "-o",
        "out",
        "--output",
        "labels",
        "--tta",
        "--axes",
        "ZYX",
        "--tile",
        "64",
        "--format",
        "nii.gz",
    )
    run("predict", "m", "a", "-o", "out", "--output", "probabilities")
    run("predict", "m", "a", "-o", "out")
    run("predict", "m", "a", "--label-image", "cells", "--in-blocks", "--workers", "3", "--max-memory", "1G")
    run("predict", "m", "a", "-o", "out", "--workers", "tcp://here:8786", "--shard", "2/4")
    assert [settings.output for settings in seen] == ["labels", "probabilities", None, None]
    blocks = seen[3]
    assert (blocks.out, blocks.label_image, blocks.in_blocks) == (None, "cells", True)
    assert (blocks.workers, blocks.max_memory) == (3, 1 << 30)
    first = seen[0]
    assert (first.model, first.inputs, first.out) == (Path("m"), ("a", "b"), Path("out"))
    assert (first.in_blocks, first.workers) == (False, None)
    assert (first.tta, first.axes, first.tile, first.format, first.device) == (True, "ZYX", 64, "nii.gz", "auto")


def fails_with(error: BaseException) -> Callable[[object], Iterator[Event]]:
    def train(settings: object, _stop: object = None) -> Iterator[Event]:
        yield Planned(("a plan",))
        raise error

    return train


def test_errors_of_the_user_have_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_job, "train", fails_with(DataError("a.png: 3 channels", "1 channel", "convert it")))
    code, out, err = run("train", "cells")
    assert (code, out) == (2, "")
    assert err == "a plan\nerror: a.png: 3 channels\nexpected: 1 channel\nto do: convert it\n"


def test_errors_of_the_system_have_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_job, "train", fails_with(PermissionError(13, "Permission denied", "run/log.csv")))
    code, out, err = run("train", "cells")
    assert (code, out, err) == (2, "", "a plan\nerror: run/log.csv: Permission denied\n")


def test_internal_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_job, "train", fails_with(AssertionError("ours")))
    with pytest.raises(AssertionError, match="ours"):
        main(["train", "cells"])


def test_ctrl_c_prints_how_to_continue(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train_job, "train", fails_with(KeyboardInterrupt()))
    code, out, err = run("train", "cells", "-o", tmp_path)
    assert (code, out) == (130, "")
    assert "stopped: no checkpoint was written yet" in err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.safetensors").touch()
    code, _, err = run("train", "cells", "-o", tmp_path)
    assert code == 130
    assert f"stopped: the same command continues from the last checkpoint in {tmp_path}" in err


def test_broken_pipe_prints_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train_job, "train", fails_with(BrokenPipeError(32, "Broken pipe")))
    with (tmp_path / "out").open("w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as left:
            main(["train", "cells", "--quiet"])
    assert left.value.code == 1
