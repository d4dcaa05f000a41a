"""Records become bars on a terminal and plain lines elsewhere."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from septum.cli.progress import Learned, Outcome, follow_prediction, follow_training, say_training
from septum.compiling import tell
from septum.events import Event, Warned
from septum.prediction.events import ImageDone, ImageFailed, ImageStarted, Predicted, TileDone
from septum.progress import Display, Progress, rate_text
from septum.training.events import Planned, Resumed, Saved, Step, Trained, Validated


class Terminal(io.StringIO):
    """A standard error stream that says it is a terminal of 100 columns."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still: the test sets its only element, in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_rates() -> None:
    assert rate_text(3.21, "steps") == "3.2 steps/s"
    assert rate_text(0.25, "images") == "4.0 s/image"


def test_plain_lines_every_ten_percent(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress("steps") as progress:
        for step in range(1, 101):
            clock[0] += 0.4
            progress.show(step, 100, note=f"loss {step / 100:.2f}")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "1/100 steps  loss 0.01"
    assert lines[1] == "10/100 steps  2.5 steps/s  36 s left  loss 0.10"
    assert lines[-1] == "100/100 steps  2.5 steps/s  0.0 s left  loss 1.00"
    assert len(lines) == 11


def test_plain_lines_every_five_seconds_and_later_every_thirty(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("steps") as progress:
        for step in range(1, 10001):  # 1 s a step
            clock[0] += 1.0
            progress.show(step, 100_000)
            if step == 300:
                assert len(capsys.readouterr().err.splitlines()) == pytest.approx(60, abs=2)
    assert len(capsys.readouterr().err.splitlines()) == pytest.approx((10_000 - 300) / 27, abs=3)


def test_progress_never_falls(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress("images") as progress:
        for done in (1, 3, 2, 4):  # an image may be written while the next is computed
            clock[0] += 10.0
            progress.show(done, 4)
        progress.begin("blocks")
        progress.show(1, 2)
    counts = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert counts == ["1/4", "3/4", "3/4", "4/4", "1/2"]


def test_images_are_counted_again_after_the_blocks_of_one(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("images") as progress:
        progress.show(0, 2, note="a.tif")
        for stage in ("probabilities", "writing"):
            progress.show_stage(stage, 4, 4, note="a.tif")
        progress.show(1, 2, note="a.tif")
    assert capsys.readouterr().err.splitlines() == [
        "0/2 images  a.tif",
        "4/4 blocks  probabilities  a.tif",
        "4/4 blocks  writing  a.tif",
        "1/2 images  a.tif",
    ]


def test_an_image_is_done_when_its_result_is_written(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    job: list[Event] = [
        ImageStarted(Path("a.png"), 0, 1, 1, (572, 572), 0, 1 << 29, None),
        TileDone(Path("a.png"), 1, 1),
        ImageDone(Path("a.png"), Path("out/a.png"), 7.0, 3),
    ]

    def slowly() -> Iterator[Event]:
        for event in job:
            yield event
            clock[0] += 7.0

    with Progress("images") as progress:
        follow_prediction(slowly(), progress, Outcome())
    assert [line for line in capsys.readouterr().err.splitlines() if line[1] == "/"] == [
        "0/1 image  a.png",
        "0/1 image  14.0 s/image  7.0 s left  a.png, tile 1 of 1",
        "1/1 image  14.0 s/image  0.0 s left  a.png",
    ]


def test_resumed_runs_count_the_rate_from_their_first_new_step(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("steps") as progress:
        progress.show(801, 1000)
        clock[0] += 50.0
        progress.show(901, 1000)
    assert capsys.readouterr().err.splitlines()[1] == "901/1000 steps  2.0 steps/s  50 s left"


def test_rate_is_measured_over_the_last_half_minute(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with Progress("steps") as progress:
        for step in range(1, 601):  # 0.1 s a step to begin with, then 1 s: another program needs the computer
            clock[0] += 0.1 if step <= 500 else 1.0
            progress.show(step, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert "500/1000 steps  10.0 steps/s  50 s left" in lines
    assert lines[-1] == "600/1000 steps  1.0 steps/s  6 min 40 s left"


def test_the_time_of_compiling_is_said_and_is_no_part_of_the_rate(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("images") as progress:
        progress.show(0, 4, note="a.png")
        tell(True)
        clock[0] += 60.0
        while "compiling" not in (said := capsys.readouterr().err):
            threading.Event().wait(0.05)
        tell(False)
        clock[0] += 2.0
        progress.show(1, 4, note="a.png")
    assert said.splitlines()[-1] == "compiling loops, once on this computer ... 1 min 00 s"
    assert capsys.readouterr().err.splitlines()[-1] == "1/4 images  2.0 s/image  6.0 s left  a.png"
    tell(True)  # nobody listens any more
    tell(False)


def test_a_job_that_goes_on_while_another_thread_compiles_has_its_true_rate(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("steps") as progress:
        progress.show(0, 100)
        tell(True)
        for step in range(1, 41):
            clock[0] += 0.5
            progress.show(step, 100)
        tell(False)
        clock[0] += 5.0
        progress.show(50, 100)
    assert capsys.readouterr().err.splitlines()[-1] == "50/100 steps  2.0 steps/s  25 s left"


def test_a_slow_job_that_counts_shows_its_rate_between_the_lines_of_ten_percent(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with Progress("steps") as progress:
        progress.show(1, 1000)
        clock[0] += 4.0
        progress.show(3, 1000, note="loss 1.2")
        clock[0] += 2.0
        threading.Event().wait(0.5)
        clock[0] += 6.0
        threading.Event().wait(0.5)
    assert capsys.readouterr().err.splitlines() == [
        "1/1000 steps",
        "3/1000 steps  2.0 s/step  33 min 14 s left  loss 1.2",
        "3/1000 steps ... 8.0 s",
    ]


def test_quiet_shows_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("steps", Display(quiet=True)) as progress:
        progress.say("plan")
        progress.show(1, 2)
        progress.warn("the loss was not finite")
    assert capsys.readouterr().err == "warning: the loss was not finite\n"
    assert progress.warnings == ["the loss was not finite"]


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("steps") as progress:
        for step in range(1, 21):
            time.sleep(0.001)
            progress.show(step, 20, note="loss 0.500")
        progress.say("[bold] is no markup")
    text = terminal.getvalue()
    assert "20/20 steps" in text
    assert "steps/s" in text
    assert "left" in text
    assert "loss 0.500" in text
    assert "[bold] is no markup" in text


def test_the_share_of_the_time_in_steps_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    spent = {"preparing": 4.0, "steps": 86.0, "validating": 6.2, "finishing": 2.0}
    end = Trained(Path("m.safetensors"), {"SEG": 0.8}, 2, 100.0, spent)
    say_training(Learned(end), Display(), [])
    assert capsys.readouterr().out.splitlines() == [
        "time: 86 % steps, 6 % validation, 4 % preparation, 2 % tuning and final scores, 2 % other",
        "model: m.safetensors  (SEG 0.800; 2 steps, 1 min 40 s)",
    ]
    say_training(Learned(end), Display(quiet=True), [])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_training_is_followed_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    end = Trained(Path("m.safetensors"), {"SEG": 0.8}, 2, 3.0)
    job = iter(
        [
            Planned(("2 steps of 1 tile",)),
            Warned("one image has no mask"),
            Resumed(1, Path("checkpoints/step-1")),
            Step(2, 2, 0.25, 1e-3, 3.0),
            Validated(2, 2, {"SEG": 0.8}, True),
            Saved(Path("m.safetensors")),
            end,
        ]
    )
    with Progress("steps") as progress:
        assert follow_training(job, progress).trained is end
    assert capsys.readouterr().err.splitlines() == [
        "2 steps of 1 tile",
        "warning: one image has no mask",
        "going on after step 1 from checkpoints/step-1",
        "2/2 steps  loss 0.250",
        "step 2: held-out images SEG 0.800 (best so far)",
    ]


def test_an_image_that_fails_for_another_program_is_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    a, b = Path("a.png"), Path("b.png")
    job = []
    for index, path in enumerate((a, b)):
        job += [ImageStarted(path, index, 2, 2, (572, 572), 0, 1 << 29, None), ImageDone(path, path, 0.5, 3)]
        job += [ImageFailed(path, "no regions")]
    with Progress("images") as progress:
        follow_prediction(iter(job), progress, Outcome())
    counts = [line.split()[0] for line in capsys.readouterr().err.splitlines() if " images " in line]
    assert counts[-1] == "2/2" and "3/2" not in counts


def test_prediction_is_followed_to_its_end(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    a, b = Path("a.png"), Path("b.png")
    done, failed = ImageDone(a, Path("out/a.tif"), 0.5, 3), ImageFailed(b, "not an image")
    job = [
        ImageStarted(a, 0, 2, 2, (572, 572), 0, 1 << 29, None),
        TileDone(a, 1, 2),
        TileDone(a, 2, 2),
        done,
        ImageStarted(b, 1, 2, 0, (572, 572), 0, 1 << 29, None),
        failed,
        Predicted(1, 1, 0.6, 1 << 29),
    ]
    with Progress("images") as progress:
        outcome = Outcome()
        follow_prediction(iter(job), progress, outcome)
    assert outcome == Outcome([done], [failed], 0.6, 1 << 29)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a.png: 2 tiles of 572 x 572 pixels, at most 512 MB of memory"
    assert lines[1:3] == ["0/2 images  a.png", "0/2 images  a.png, tile 1 of 2"]
    assert "a.png -> out/a.tif  0.5 s, 3 objects" in lines
    assert lines[-1] == "b.png failed"
