"""Faults around a training give a message, and the same command ends with the bits of an undisturbed run."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from septum.check import check as check_module
from septum.errors import DataError, FileError, ModelError, SeptumError, UsageError
from septum.events import Event, Warned
from septum.io.tensors import read_model
from septum.kept import Memory
from septum.nn.device import MemoryShortageError
from septum.training import loop as train_module
from septum.training import planner as planning
from septum.training.checkpoint import newest_checkpoint, save_checkpoint
from septum.training.events import Checked, Planned, Resumed, Step, Stopped, Trained
from septum.training.interrupt import StopRequest
from septum.training.loop import train
from septum.training.run_folder import RunFolder
from septum.training.settings import TrainSettings
from septum.training.trainer import Trainer


def _settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    values = {"data": (data,), "out": out, "steps": 6, "width": 2, "depth": 1, "tile": 36, "batch": 2, "device": "cpu"}
    return TrainSettings.model_validate(values | changes)


def _weights(run: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in read_model(run / "model.safetensors")[0].items()}


def _log(run: Path) -> list[list[str]]:
    """Return the log without its seconds."""
    return [[*line.split(",")[:3], *line.split(",")[4:]] for line in (run / "log.csv").read_text().splitlines()]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after every second step."""
    monkeypatch.setattr(train_module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(train_module, "KEEP_STEPS", 2)


@pytest.fixture(scope="module")
def whole(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    list(train(_settings(disks, out)))
    return out


@pytest.fixture(scope="module")
def stopped(disks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was stopped after its third step; not to be changed."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "KEEP_STEPS", 2)
        _stop_after(3, _settings(disks, out))
    return out


def _stop_after(step: int, settings: TrainSettings) -> list[Event]:
    """Train until the end of a step and request a stop there."""
    stop, events = StopRequest(), []
    for event in train(settings, stop):
        events.append(event)
        if isinstance(event, Step) and event.step == step:
            stop.request()
    return events


def _goes_on_to(whole: Path, settings: TrainSettings) -> list[Event]:
    """Check that the same command ends with the bits of an undisturbed run."""
    events = list(train(settings))
    assert isinstance(events[-1], Trained)
    assert _weights(settings.out) == _weights(whole)
    assert _log(settings.out) == _log(whole)
    assert (settings.out / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    assert not list(settings.out.rglob(".septum-part-*"))
    return events


def _warnings(events: list[Event]) -> str:
    return "\n".join(r.text for r in events if isinstance(r, Warned))


@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_a_stop_saves_after_any_step(disks: Path, whole: Path, tmp_path: Path, step: int) -> None:
    settings = _settings(disks, tmp_path / "run")
    events = _stop_after(step, settings)
    assert events[-1] == Stopped(step, tmp_path / "run")
    resumed = [r for r in _goes_on_to(whole, settings) if isinstance(r, Resumed)]
    assert [r.step for r in resumed] == [step]


def test_a_second_start_of_a_finished_run_returns_its_result(disks: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    events = list(train(_settings(disks, tmp_path / "run")))
    assert [type(r).__name__ for r in events] == ["Working", "Checked", "Planned", "Finished", "Trained"]
    assert len(events[2].lines) == 1  # not the plan once more
    assert isinstance(events[-1], Trained)
    assert (events[-1].steps, set(events[-1].scores)) == (6, {"SEG", "AP50", "AP"})
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    (tmp_path / "run" / "model.safetensors").write_bytes(before[:-1])  # damaged: written again from the checkpoint
    _goes_on_to(whole, _settings(disks, tmp_path / "run"))


@pytest.mark.parametrize("change", [{"steps": 12}, {"steps": None, "budget_s": 60.0}])
def test_a_changed_length_is_refused_with_advice(
    disks: Path, whole: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(UsageError, match="steps: 6 -> ") as caught:
        list(train(_settings(disks, tmp_path / "run", **change)))
    assert caught.value.todo == (
        f"to go on from what it has learned, add --from {tmp_path / 'run/model.safetensors'} and give a new folder "
        "with -o; or repeat the earlier command; a run cannot be made longer or shorter, because its learning rate was "
        "planned for the end that was asked for"
    )


def test_changed_data_are_refused_by_name(disks: Path, tmp_path: Path) -> None:
    data = shutil.copytree(disks, tmp_path / "data")
    _stop_after(1, _settings(data, tmp_path / "run"))
    (data / "images" / "a.npy").unlink()
    (data / "masks" / "a.npy").unlink()
    mask = np.load(data / "masks" / "b.npy")
    np.save(data / "masks" / "b.npy", np.where(mask == mask.max(), 0, mask))
    np.save(data / "images" / "f.npy", np.load(data / "images" / "e.npy")[::-1])
    np.save(data / "masks" / "f.npy", np.load(data / "masks" / "e.npy")[::-1])
    with pytest.raises(UsageError) as caught:
        list(train(_settings(data, tmp_path / "run")))
    for line in ("image a: gone", "image b: changed", "image f: new"):
        assert line in caught.value.given
    assert "image c" not in caught.value.given


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9] + b"\0" * 9])
def test_a_run_resumes_from_the_older_checkpoint_if_the_newest_is_damaged(
    disks: Path, whole: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    settings = _settings(disks, tmp_path / "run")
    _stop_after(5, settings)
    newest = tmp_path / "run" / "checkpoints" / "step-00000005.safetensors"
    newest.write_bytes(damage(newest.read_bytes()))
    events = _goes_on_to(whole, settings)
    assert "The checkpoint of step 5 cannot be used and is skipped" in _warnings(events)
    assert [r.step for r in events if isinstance(r, Resumed)] == [4]


def test_without_an_intact_checkpoint_the_run_begins_again(disks: Path, whole: Path, tmp_path: Path) -> None:
    settings = _settings(disks, tmp_path / "run")
    _stop_after(3, settings)
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.write_bytes(b"torn")
    assert "begins again" in _warnings(_goes_on_to(whole, settings))


@pytest.mark.parametrize(
    ("number", "when", "message"),
    [
        (errno.ENOSPC, 6, "the disk is full"),
        (errno.ENOSPC, 11, "the disk is full"),
        (errno.EDQUOT, 6, "your disk quota is used up"),
        (errno.EROFS, 11, "may not be written"),
        (errno.EFBIG, 6, "larger than files may be here"),
    ],
)
def test_a_run_goes_on_after_a_failed_write(
    disks: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, when: int, message: str
) -> None:
    sync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.extend([descriptor] * stat.S_ISREG(os.fstat(descriptor).st_mode))  # not folders, which may fail
        if len(calls) == when:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    settings = _settings(disks, tmp_path / "run")
    with pytest.raises(FileError, match=message) as caught:
        list(train(settings))
    assert caught.value.todo
    _goes_on_to(whole, settings)


def test_a_run_goes_on_after_a_full_disk(disks: Path, whole: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or _mount(disk, "size=76k"):
        pytest.skip("a small disk can only be mounted by root")
    try:
        settings = _settings(disks, disk / "run")
        with pytest.raises(FileError, match="the disk is full"):
            list(train(settings))
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        _goes_on_to(whole, settings)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_is_refused(disks: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or _mount(disk, "size=1m"):
        pytest.skip("a disk can only be mounted by root")
    try:
        (disk / "old" / "checkpoints").mkdir(parents=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for run in ("new", "old"):
            with pytest.raises(FileError, match="may not be written") as caught:
                list(train(_settings(disks, disk / run)))
            assert str(disk / run) in caught.value.given
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _mount(folder: Path, options: str) -> int:
    try:
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode
    except FileNotFoundError:
        return 1


def test_an_image_that_disappears_after_the_check_is_named(
    disks: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(disks, tmp_path / "data")
    check = check_module.check

    def vanishing(*args: object, **kwargs: object) -> object:
        report = check(*args, **(kwargs | memory))  # type: ignore[arg-type]
        (data / "images" / "c.npy").unlink()
        return report

    monkeypatch.setattr(check_module, "check", vanishing)
    memory = {"memory": Memory(kept_bytes=0)}  # as with too little memory: read again for training
    with pytest.raises(FileError, match=r"c\.npy"):
        list(train(_settings(data, tmp_path / "run")))
    monkeypatch.setattr(check_module, "check", check)
    shutil.copy(disks / "images" / "c.npy", data / "images" / "c.npy")
    _goes_on_to(whole, _settings(data, tmp_path / "run"))


def test_images_are_not_read_after_the_first_step(disks: Path, whole: Path, tmp_path: Path) -> None:
    data, moved = shutil.copytree(disks, tmp_path / "data"), False
    for event in train(_settings(data, tmp_path / "run")):
        if isinstance(event, Step) and not moved:
            shutil.rmtree(data)
            moved = True
    assert _weights(tmp_path / "run") == _weights(whole)


def test_nan_pixels_are_repaired_and_reported(disks: Path, tmp_path: Path) -> None:
    data = shutil.copytree(disks, tmp_path / "data")
    image = np.load(data / "images" / "a.npy")
    image[3:6, 4:9] = math.nan
    np.save(data / "images" / "a.npy", image)
    events = list(train(_settings(data, tmp_path / "run")))
    assert isinstance(events[-1], Trained)
    assert all(math.isfinite(r.loss) for r in events if isinstance(r, Step))
    report = "\n".join(next(r for r in events if isinstance(r, Checked)).report.lines())
    assert "NaN" in report or "not finite" in report, report


@pytest.mark.parametrize(
    "shortage", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")]
)
def test_a_run_goes_on_after_memory_ran_out(
    disks: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shortage: Exception
) -> None:
    step = Trainer.training_step

    def short(trainer: Trainer, rate_factor: float) -> torch.Tensor:
        if trainer.counters.step == 4:
            raise shortage
        return step(trainer, rate_factor)

    monkeypatch.setattr(Trainer, "training_step", short)
    with pytest.raises(MemoryShortageError, match="not enough memory") as caught:
        list(train(_settings(disks, tmp_path / "run")))
    assert "--batch" in caught.value.todo
    monkeypatch.setattr(Trainer, "training_step", step)
    _goes_on_to(whole, _settings(disks, tmp_path / "run"))


def test_a_jumping_system_clock_changes_nothing(
    disks: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now() + (-1) ** next(jumps) * 1e6)
    _goes_on_to(whole, _settings(disks, tmp_path / "run"))
    begin = time.monotonic()
    last = list(train(_settings(disks, tmp_path / "timed", steps=None, budget_s=3.0)))[-1]
    assert isinstance(last, Trained)
    assert 1.0 < last.seconds < 5.0
    assert time.monotonic() - begin < 6.0


def test_exploding_weights_end_the_training_with_advice(
    disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planning.make_plan

    def wild(*args: object, **kwargs: object) -> object:
        made, reasons = plan(*args, **kwargs)  # type: ignore[arg-type]
        fast = made.optimizer.model_copy(update={"rate": 1e30, "schedule": "constant", "method": "sgd"})
        return made.model_copy(update={"optimizer": fast}), reasons

    monkeypatch.setattr(planning, "make_plan", wild)
    for _ in range(2):  # the same command gives the same message
        with pytest.raises(DataError, match="not a finite number") as caught:
            list(train(_settings(disks, tmp_path / "run", steps=50)))
        assert "septum check" in caught.value.todo


class TestOneProcessInAFolder:
    def test_a_second_process_is_refused_while_the_first_runs(self, disks: Path, whole: Path, tmp_path: Path) -> None:
        settings = _settings(disks, tmp_path / "run")
        first = train(settings)
        next(r for r in first if isinstance(r, Step))
        with pytest.raises(UsageError, match=f"trained by another process .process {os.getpid()} on ") as caught:
            list(train(settings))
        assert "-o" in caught.value.todo
        first.close()  # type: ignore[attr-defined]
        _goes_on_to(whole, settings)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_the_lock_of_a_killed_process_is_released(self, disks: Path, whole: Path, tmp_path: Path) -> None:
        code = (
            "import os, sys; from pathlib import Path; from septum.training.run_folder import RunFolder\n"
            "with RunFolder(Path(sys.argv[1])).lock(): os.kill(os.getpid(), 9)\n"
        )
        run = tmp_path / "run"
        assert subprocess.run([sys.executable, "-c", code, str(run)]).returncode == -9
        assert json.loads((run / ".trained-by.json").read_text())["process"] > 0
        events = _goes_on_to(whole, _settings(disks, run))
        assert "was trained on" not in _warnings(events)
        assert not (run / ".trained-by.json").exists()

    def test_another_machine_that_recorded_no_end_is_warned_of(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        (tmp_path / ".trained-by.json").write_text('{"host": "node\\n17", "process": 4}')
        with folder.lock() as warning:
            assert "'node\\n17'" in warning and "network drive" in warning
        with folder.lock() as warning:
            assert warning == ""

    @pytest.mark.parametrize("content", ["", "[", "[1]", '{"host": 1}', '{"host": "a", "process": "x"}', "\0"])
    def test_a_torn_note_of_the_owner_is_ignored(self, tmp_path: Path, content: str) -> None:
        (tmp_path / ".trained-by.json").write_text(content)
        with RunFolder(tmp_path).lock() as warning:
            assert warning == ""

    def test_a_drive_without_locks_is_warned_of(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import filelock

        def missing(*_: object, **__: object) -> None:
            raise NotImplementedError("no flock here")

        monkeypatch.setattr(filelock.FileLock, "acquire", missing)
        with RunFolder(tmp_path).lock() as warning:
            assert "does not support locks" in warning


@pytest.mark.parametrize("name", ["settings.json", "log.csv", "model.safetensors", "plan.json", "scores.json", ".lock"])
def test_links_in_a_run_folder_are_refused(disks: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.txt").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(FileError, match="is a link"):
        list(train(_settings(disks, tmp_path / "run")))
    assert (tmp_path / "mine.txt").read_text() == "dear"


def test_a_link_to_foreign_checkpoints_is_refused(disks: Path, whole: Path, tmp_path: Path) -> None:
    before = sorted((whole / "checkpoints").iterdir())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(whole / "checkpoints")
    with pytest.raises(FileError, match="checkpoints: is a link"):
        list(train(_settings(disks, tmp_path / "run")))
    assert sorted((whole / "checkpoints").iterdir()) == before
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")  # the run folder itself may be a link
    (tmp_path / "elsewhere").mkdir()
    assert isinstance(list(train(_settings(disks, tmp_path / "link")))[-1], Trained)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_names_with_control_characters_are_printed_safely(disks: Path, tmp_path: Path) -> None:
    data = shutil.copytree(disks, tmp_path / "da\nta 🔬")
    for kind in ("images", "masks"):
        for letter, name in zip("abcde", ["c\nerror: none", "c\x1b[31m", "🔬 ü", "'; rm -rf", "e"], strict=True):
            (data / kind / f"{letter}.npy").rename(data / kind / f"{name}.npy")
    run = tmp_path / "r\x1b]0;un\n🔬"
    texts = []
    for event in train(_settings(data, run)):
        if isinstance(event, Planned):
            texts += event.lines
        if isinstance(event, Warned):
            texts.append(event.text)
    assert isinstance(event, Trained)
    assert all(text.isprintable() for text in texts), texts
    with pytest.raises(UsageError) as caught:
        list(train(_settings(data, run, seed=3)))
    assert all(line.isprintable() for line in str(caught.value).split("\n")), str(caught.value)
    assert len(str(caught.value).split("\n")) == 4


class TestThePlanStays:
    def test_a_resumed_run_follows_its_stored_plan(
        self, disks: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = _settings(disks, tmp_path / "run")
        _stop_after(3, settings)
        made = planning.make_plan
        monkeypatch.setattr(
            planning,
            "make_plan",
            lambda fingerprint, settings, **kw: made(fingerprint, settings.model_copy(update={"width": 8}), **kw),
        )
        _goes_on_to(whole, settings)

    @pytest.mark.parametrize("content", ["", "{}", '{"plan": {}, "reasons": []}', "[[[", '{"plan": 1}', "[" * 100_000])
    def test_a_damaged_plan_is_refused_by_name(self, disks: Path, tmp_path: Path, content: str) -> None:
        settings = _settings(disks, tmp_path / "run")
        _stop_after(1, settings)
        (tmp_path / "run" / "plan.json").write_text(content)
        with pytest.raises(FileError, match=r"plan\.json: damaged"):
            list(train(settings))

    def test_a_run_whose_plan_lacks_a_newer_value_goes_on(self, disks: Path, tmp_path: Path) -> None:
        settings = _settings(disks, tmp_path / "run", set=("optimizer.freeze_batchnorm=0",))
        _stop_after(3, settings)
        path = tmp_path / "run" / "plan.json"
        stored = json.loads(path.read_text())
        del stored["plan"]["optimizer"]["freeze_batchnorm"]
        path.write_text(json.dumps(stored))
        checkpoint, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
        assert checkpoint is not None
        state = {**checkpoint.state, "plan": stored["plan"]}
        save_checkpoint(tmp_path / "run" / "checkpoints", checkpoint.step, checkpoint.tensors, state)
        begun, *_, done = list(train(settings))
        assert any(isinstance(r, Resumed) for r in (begun, *_)) and isinstance(done, Trained) and done.steps == 6

    def test_checkpoints_of_another_network_are_refused(self, disks: Path, whole: Path, tmp_path: Path) -> None:
        settings = _settings(disks, tmp_path / "run", width=4)
        _stop_after(1, settings)
        shutil.rmtree(tmp_path / "run" / "checkpoints")
        shutil.copytree(whole / "checkpoints", tmp_path / "run" / "checkpoints")
        with pytest.raises(ModelError, match="another network or plan"):
            list(train(settings))


@pytest.mark.parametrize(
    "change",
    [
        lambda state, _: state.pop("undone"),
        lambda state, _: state.update(step=-3),
        lambda state, _: state.update(progress=7.0),
        lambda state, _: state.update(progress="x"),
        lambda state, _: state.update(best={"a": 1}),
        lambda state, _: state.update(row={"loss": "=cmd()"}),
        lambda state, _: state.update(row=[3]),
        lambda state, _: state.update(kept=state.copy()),
        lambda state, _: state.update(kept=5),
        lambda _, tensors: tensors.clear(),
        lambda _, tensors: tensors.update(nonsense=np.zeros(3)),
        lambda _, tensors: tensors.update({"optimizer.x.exp_avg": np.zeros(3)}),
        lambda _, tensors: tensors.update({"network.head.weight": np.zeros((9, 9), np.float32)}),
        lambda _, tensors: tensors.update({"kept.network.head.weight": np.zeros((9, 9), np.float32)}),
    ],
)
def test_an_edited_checkpoint_is_refused_or_harmless(
    disks: Path, stopped: Path, tmp_path: Path, change: Callable[[dict[str, object], dict[str, np.ndarray]], None]
) -> None:
    settings = _settings(disks, tmp_path / "run")
    shutil.copytree(stopped, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    found, _ = newest_checkpoint(folder)
    assert found is not None
    state, tensors = dict(found.state), dict(found.tensors)
    change(state, tensors)
    shutil.rmtree(folder)
    save_checkpoint(folder, 3, tensors, state)
    try:
        list(train(settings))
    except SeptumError as error:
        assert isinstance(error, ModelError)
        assert "checkpoints" in error.todo


def test_another_number_of_threads_is_warned_of(disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(disks, tmp_path / "run")
    _stop_after(3, settings)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        warnings = _warnings(list(train(settings)))
    finally:
        torch.set_num_threads(threads)
    assert f"computed on CPU, {threads} thread" in warnings
    assert f"now on CPU, {threads + 1} threads" in warnings


def test_what_the_engine_trains_has_the_same_bits_with_another_number_of_threads(disks: Path, tmp_path: Path) -> None:
    shape = {"width": 16, "batch": 1, "precision": "float32"}  # in bfloat16 PyTorch computes
    whole, settings = _settings(disks, tmp_path / "whole", **shape), _settings(disks, tmp_path / "run", **shape)
    threads = torch.get_num_threads()
    list(train(whole))
    _stop_after(3, settings)
    try:
        torch.set_num_threads(threads + 1)
        events = _goes_on_to(whole.out, settings)
    finally:
        torch.set_num_threads(threads)
    assert "computed on" not in _warnings(events)


@pytest.fixture(autouse=True)
def nothing_is_left_set() -> Iterator[None]:
    yield
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_algorithms_are_set_during_training_only(disks: Path, whole: Path, tmp_path: Path) -> None:
    settings = _settings(disks, tmp_path / "run", deterministic=True)
    seen = [torch.are_deterministic_algorithms_enabled() for r in train(settings) if isinstance(r, Step)]
    assert seen == [True] * 6
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert _weights(tmp_path / "run") == _weights(whole)
