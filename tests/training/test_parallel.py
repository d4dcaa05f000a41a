"""Several processes train as one process does, share the validation, and end together."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from septum.io.tensors import read_model
from septum.training.checkpoint import newest_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run trainings of several processes, forked from one process that has loaded everything."""
    program = Path(__file__).with_name("trainings_of_several.py")
    folder = tmp_path_factory.mktemp("several")
    with (folder / "stderr").open("w") as errors:
        warm = subprocess.Popen(
            [sys.executable, "-W", "error", str(program), str(disks), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert warm.stdin is not None and warm.stdout is not None
    asked, answers = warm.stdin, warm.stdout

    def ask(*specs: dict[str, Any]) -> list[dict[str, Any]]:
        asked.write(json.dumps(specs) + "\n")
        asked.flush()
        line = answers.readline()
        assert line, (folder / "stderr").read_text()
        assert "Traceback" not in (folder / "stderr").read_text(), (folder / "stderr").read_text()
        results: list[dict[str, Any]] = json.loads(line)
        return results

    yield ask
    asked.close()
    warm.wait(30)
    answers.close()


def _spec(data: Path, out: Path, world: int, **more: Any) -> dict[str, Any]:
    settings = {"data": [str(data)], "out": str(out), "steps": 50, "width": 2, "depth": 1, "tile": 36, "batch": 4}
    # In bfloat16 a batch and its two halves are rounded differently. With padding, rounding grows faster in this tiny
    # network: after 27 steps it exceeds 1e-5.
    settings |= {"device": "cpu", "precision": "float32"} | more.pop("settings", {})
    if "preset" not in settings:
        settings = {"set": ["network.padding=valid", "optimizer.freeze_batchnorm=0"]} | settings
    return {"settings": settings, "world": world, **more}


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_over_fifty_steps(run: Run, disks: Path, tmp_path: Path) -> None:
    paper = {"preset": "paper", "batch": 2, "steps": 8}  # with drop-out, no batch normalization
    one, two, dry, wet = run(
        _spec(disks, tmp_path / "one", 1),
        _spec(disks, tmp_path / "two", 2),
        _spec(disks, tmp_path / "dry", 1, settings=paper),
        _spec(disks, tmp_path / "wet", 2, settings=paper),
    )
    assert [r["last"] for r in two["ranks"]] == ["Trained", None]  # only the first yields events
    assert len(one["ranks"][0]["losses"]) == 50
    assert one["ranks"][0]["losses"] == pytest.approx(two["ranks"][0]["losses"], abs=1e-5)
    assert dry["ranks"][0]["losses"] == pytest.approx(wet["ranks"][0]["losses"], abs=1e-5)
    a, b = (newest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("one", "two"))
    assert a is not None and b is not None
    # The normalization removes the bias of an up-convolution: only rounding changes it.
    idle = re.compile(r"network\.(up\.\d+\.bias|merge\.\d+\.1\.running_mean)")
    names = [name for name in a.tensors if name.startswith("network.") and not idle.fullmatch(name)]
    assert any("running_var" in name for name in names)
    assert all(a.tensors[name] == pytest.approx(b.tensors[name], abs=1e-5) for name in names)


def test_scores_do_not_depend_on_the_number_of_processes(run: Run, disks: Path, tmp_path: Path) -> None:
    kinds, worlds = ("objects", "classes"), (1, 2, 3, 7)
    specs = [_spec(disks, tmp_path, world, score=True, kind=kind) for kind in kinds for world in worlds]
    results = run(*specs)
    for of_kind in (results[: len(worlds)], results[len(worlds) :]):
        first = of_kind[0]["ranks"][0]
        assert first["number"] == 5 and first["stopped"] is None
        assert all(0 <= v <= 1 for v in first["way"].values())
        assert all(scores == first for result in of_kind for scores in result["ranks"])


def test_a_run_goes_on_with_another_number_of_processes(run: Run, disks: Path, tmp_path: Path) -> None:
    # All processes stop when one is asked to; the fourth session, of one process, trains to the end.
    accidents = [{"kind": "stop", "rank": world - 1, "step": 10 * world + 3} for world in (1, 2, 3)]
    one, *sessions, last = run(
        _spec(disks, tmp_path / "one", 1, settings={"steps": 40}),
        *(_spec(disks, tmp_path / "run", a["rank"] + 1, settings={"steps": 40}, accident=a) for a in accidents),
        _spec(disks, tmp_path / "run", 1, settings={"steps": 40}),
    )
    assert [s["ranks"][0]["last"] for s in sessions] == ["Stopped"] * 3
    losses = [loss for s in (*sessions, last) for loss in s["ranks"][0]["losses"]]
    assert len(losses) == 40
    assert losses == pytest.approx(one["ranks"][0]["losses"], abs=1e-5)


def test_two_processes_freeze_batch_normalization_as_one(run: Run, disks: Path, tmp_path: Path) -> None:
    settles = {"steps": 24, "set": ["network.padding=valid", "optimizer.freeze_batchnorm=0.5"]}
    one, two = (
        r["ranks"][0]["losses"] for r in run(*(_spec(disks, tmp_path / f"{n}", n, settings=settles) for n in (1, 2)))
    )
    assert one[:12] == pytest.approx(two[:12], abs=1e-5)
    # Frozen normalization no longer removes the rounding of the biases above.
    assert one[12:] == pytest.approx(two[12:], rel=1e-3)


OTHER_ACCIDENTS = [("kill", 1), ("raise", 0), ("freeze", 1)]


@pytest.mark.parametrize(
    "accidents", [[("kill", 0), ("raise", 1)], pytest.param(OTHER_ACCIDENTS, marks=pytest.mark.slow)]
)
def test_if_one_process_ends_the_others_end_and_the_run_can_be_resumed(
    run: Run, disks: Path, tmp_path: Path, accidents: list[tuple[str, int]]
) -> None:
    specs = [_spec(disks, tmp_path / "whole", 2, settings={"steps": 14})]
    for kind, rank in accidents:
        accident = {"kind": kind, "rank": rank, "step": 12}
        out = tmp_path / f"{kind}-{rank}"
        specs.append(_spec(disks, out, 2, settings={"steps": 14}, accident=accident, timeout_s=2.0))
        specs.append(_spec(disks, out, 2, settings={"steps": 14}))
    whole, *pairs = run(*specs)
    for (kind, rank), hurt, again in zip(accidents, pairs[::2], pairs[1::2], strict=True):
        error = hurt["ranks"][1 - rank]["error"]
        assert "another process of this training has ended" in error
        assert "the same command continues" in error
        if kind == "raise":
            assert hurt["ranks"][rank]["error"] == "an error of one process"
        if kind != "freeze":
            assert hurt["seconds"] < 5
        assert again["ranks"][0]["last"] == "Trained"
        assert again["ranks"][0]["losses"] == whole["ranks"][0]["losses"][10:]  # bit-identical from step 10 on
        a, b = (read_model(path / "model.safetensors")[0] for path in (tmp_path / "whole", tmp_path / f"{kind}-{rank}"))
        assert {k: v.tobytes() for k, v in a.items()} == {k: v.tobytes() for k, v in b.items()}


def test_all_processes_refuse_too_few_tiles_and_different_data(run: Run, disks: Path, tmp_path: Path) -> None:
    short = {"steps": 2, "batch": 1}
    crowd, blind = run(
        _spec(disks, tmp_path / "crowd", 2, settings=short),
        _spec(disks, tmp_path / "blind", 2, rank_in_data=True),
    )
    assert all("2 processes for 1 tile a step" in answer["error"] for answer in crowd["ranks"])
    assert all("do not see the same images" in answer["error"] for answer in blind["ranks"])


def test_a_planned_batch_is_a_multiple_of_the_processes_and_stays(run: Run, disks: Path, tmp_path: Path) -> None:
    free = {"steps": 4, "batch": None, "tile": None}
    stop = {"kind": "stop", "rank": 0, "step": 2}
    _, crowd = run(
        _spec(disks, tmp_path / "run", 3, settings=free, accident=stop),
        _spec(disks, tmp_path / "run", 2, settings=free),
    )
    assert crowd["ranks"][0]["last"] == "Trained"
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())["plan"]
    assert plan["batch"] % 3 == 0
