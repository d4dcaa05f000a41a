"""The commands that learn from annotated images: check, train, demo."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from septum.cli.options import (
    DataArgument,
    DeviceOption,
    IgnoreOption,
    JsonOption,
    KindOption,
    QuietOption,
    duration_s,
    planned,
    run_folder,
    settings_of,
)
from septum.cli.progress import Progress, follow_training, show_training, stoppable
from septum.cli.review import judge, suspect_lines, suspects_told
from septum.cli.text import curve_lines, fixed_lines, json_text, seeds_lines, series
from septum.errors import SeptumError, UsageError
from septum.events import Event, Warned
from septum.io.paths import format_path
from septum.report.numbers import format_scores, format_seconds, format_table
from septum.train.interrupt import StopRequest, stop_on_signals

DEFAULT_BUDGET_S = 1800.0
REPORT = "report.html"


def check(
    data: DataArgument,
    *,
    kind: KindOption = None,
    ignore: IgnoreOption = None,
    fix: Annotated[
        Path | None,
        typer.Option("--fix", metavar="OUT", show_default=False, help="Write a mended copy into this new folder."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", show_default=False, help="A run on these data: name the labels that it doubts."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find out what is wrong with images and masks.

    DATA is a folder with images/ and masks/ in it, or the images and the masks: two folders, or two stacks; or a data
    set of the Cell Tracking Challenge. The data
    itself is never changed.

    Example: septum check cells --fix cells-mended
    """
    from septum.check import check as job
    from septum.check import repair as mending

    farewell = f"the files in {fix} are whole, others are missing" if fix else "nothing was written"
    with stoppable(lambda: farewell), Progress("files", waiting="opening every file"):
        report = job.check(data, kind=kind, ignore=ignore or ())
    if not as_json:
        typer.echo("\n".join(report.lines()))
    doubted = None
    if run is not None and not report.errors:
        with stoppable(lambda: "nothing was written"):
            doubted = judge(report, run, quiet=as_json)
    with stoppable(lambda: farewell), Progress("files", waiting="writing the copy"):
        fixed = [] if fix is None else list(mending.fix(report, fix))
    if as_json:
        written = {} if fix is None else {"fixed": fixed}
        suspicious = {} if doubted is None else {"suspects": suspects_told(doubted)}
        typer.echo(json_text({"command": "check", **report.as_dict(), **written, **suspicious}))
    elif fix is not None:
        typer.echo("\n".join(fixed_lines(fixed, fix)))
    elif report.errors:
        typer.echo("training refuses these data until the errors are gone")
    elif report.mended or report.left_out:
        typer.echo("training does this in memory; --fix OUT writes a mended copy")
    if doubted is not None and run is not None and not as_json:
        typer.echo("\n".join(suspect_lines(report, doubted, run)))
    if report.errors and fix is None:
        raise typer.Exit(2)
    if report.left_out:
        raise typer.Exit(1)


def train(
    data: DataArgument,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="RUN", show_default="runs/NAME", help="Folder of this run."),
    ] = None,
    preset: Annotated[
        Literal["auto", "paper", "fiji"],
        typer.Option(help="auto fits your data; paper is the U-Net of 2015, fiji its ImageJ plugin."),
    ] = "auto",
    budget: Annotated[
        float | None,
        typer.Option(
            parser=duration_s,
            metavar="TIME",
            show_default="30m",
            help="How long: 90s, 20m, 1.5h; none: until it gets no better.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=False, help="How many steps, instead of a time.")
    ] = None,
    until_plateau: Annotated[
        bool, typer.Option("--until-plateau", help="End early when the validation scores stop improving.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same model.")] = 0,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            show_default=False,
            help="Hold each image out once: N networks that predict together, scores of all images.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            show_default=False,
            help="Images whose names match alike, such as 'patient(..)', stay on one side.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            show_default=False,
            help="Train with N seeds on the same images: mean and spread of the scores.",
        ),
    ] = None,
    learning_curve: Annotated[
        bool,
        typer.Option("--learning-curve", help="Train on parts of the images too, and say what more would bring."),
    ] = False,
    kind: KindOption = None,
    ignore: IgnoreOption = None,
    width: Annotated[int | None, planned("Features of the first level of the network.")] = None,
    depth: Annotated[int | None, planned("Levels of the network.")] = None,
    tile: Annotated[int | None, planned("Side of a training tile in pixels.")] = None,
    batch: Annotated[int | None, planned("Tiles in a step.")] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", show_default=False, help="Any other value of the plan. May repeat."
        ),
    ] = None,
    from_model: Annotated[
        Path | None,
        typer.Option("--from", metavar="MODEL", show_default=False, help="Start from the weights of this model."),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(show_default="planned", help="What convolutions compute in; the plan takes the faster."),
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Train with so many processes here, each on a GPU of its own."),
    ] = 1,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Results on a GPU that repeat to the last bit; slower.")
    ] = False,
    compile_network: Annotated[
        bool, typer.Option("--compile", help="Compile the network for the GPU with torch.compile.")
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log losses and scores for TensorBoard, in RUN/tensorboard.")
    ] = False,
    mlflow: Annotated[
        bool,
        typer.Option(
            "--mlflow", help="Log plan, losses, scores, report and model to MLflow, where MLFLOW_TRACKING_URI says."
        ),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model on annotated images.

    DATA is a folder with images/ and masks/ in it, or the images and the masks: two folders, or two stacks; or a data
    set of the Cell Tracking Challenge.
    The data is checked first, and what is safe to mend is mended in memory. The same command on the same run goes on
    where it was stopped.

    Example: septum train cells -o runs/cells --budget 20m
    """
    from septum.experiments.cross_validation import train_folds
    from septum.experiments.learning_curve import train_curve
    from septum.experiments.seeds import train_seeds
    from septum.experiments.series import several_processes
    from septum.experiments.tracking import open_trackers, track
    from septum.report.collect import observe
    from septum.train import loop as job
    from septum.train.distributed import launch, starts_processes
    from septum.train.settings import SplitSettings, TrainSettings

    if steps is not None and budget is not None:
        raise UsageError("both --steps and --budget", "one of them", "leave one out")
    asked = {"--folds": folds is not None, "--seeds": seeds is not None, "--learning-curve": learning_curve}
    if sum(asked.values()) > 1:
        raise UsageError(
            " and ".join(name for name, wanted in asked.items() if wanted), "one of them", "give each a run of its own"
        )
    if devices > 1 and any(asked.values()):
        raise several_processes(next(name for name, wanted in asked.items() if wanted))
    run = out or run_folder(data)
    trackers = open_trackers(run, tensorboard=tensorboard, mlflow=mlflow)
    if starts_processes(devices):
        raise typer.Exit(launch(devices, [sys.executable, "-m", "septum", *sys.argv[1:]]))
    settings = settings_of(
        TrainSettings,
        data=tuple(data),
        out=run,
        preset=preset,
        steps=steps,
        budget_s=None if steps is not None or budget == math.inf else budget or DEFAULT_BUDGET_S,
        until_plateau=until_plateau,
        seed=seed,
        kind=kind,
        ignore_values=tuple(ignore or ()),
        width=width,
        depth=depth,
        tile=tile,
        batch=batch,
        from_model=from_model,
        set=tuple(values or ()),
        precision=precision,
        device=device,
        split=settings_of(SplitSettings, group=group),
        deterministic=deterministic,
        compile=compile_network,
    )

    def records(stop: StopRequest) -> Iterator[Any]:
        if learning_curve:
            return train_curve(settings, stop)
        if seeds is not None:
            return train_seeds(settings, seeds, stop)
        if folds is not None:
            return train_folds(settings, folds, stop)
        return observe(settings, job.train(settings, stop))

    with (
        orderly(run) as stop,
        Progress("steps", quiet=quiet or as_json, waiting="preparing the images") as progress,
        closing(track(_with_page(records(stop), progress), run, trackers)) as told,
    ):
        learned = follow_training(told, progress)
    result = learned.trained
    if result is None:  # one of several processes: only the first speaks
        return
    if as_json:
        page = run / REPORT
        report = {"report": page if page.exists() else None}
        typer.echo(
            json_text({"command": "train", **vars(result), **report, **series(learned), "warnings": progress.warnings})
        )
        return
    if learned.compared is not None and result.scores:
        typer.echo("\n".join(seeds_lines(learned.compared, result.scores)))
    if learned.curve is not None:
        typer.echo("\n".join(curve_lines(learned.curve)))
    scores = f"{format_scores(result.scores)}; " if result.scores else ""
    typer.echo(f"model: {result.model}  ({scores}{result.steps} steps, {format_seconds(result.seconds)})")


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Folder for everything.")] = Path(
        "septum-demo"
    ),
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another seed makes other cells.")] = 0,
) -> None:
    """See it work on made images of cells.

    Makes images, trains on some of them, finds the cells in the others, and compares with a threshold method. Takes
    about three minutes. The same command goes on where it was stopped.

    Example: septum demo -o septum-demo
    """
    from septum.demo import demo as job
    from septum.demo.settings import DemoSettings
    from septum.report.pictures import Compared, draw_demo

    settings = settings_of(DemoSettings, out=out, seed=seed)
    with orderly(out / "run") as stop, Progress("steps", waiting="making images") as progress:
        for record in _with_page(job.demo(settings, stop), progress):
            if isinstance(record, Compared):
                progress.say(f"picture: {draw_demo(record, out / 'pictures')}")
            elif isinstance(record, job.DemoDone):
                rows = [["on images never seen", "SEG", "AP50"], *record.rows]
                seconds = record.seconds
            elif isinstance(record, Event):
                show_training(record, progress)
    typer.echo("\n".join(format_table(rows)))
    typer.echo(f"done in {format_seconds(seconds)}; everything lies in {out}")


def _with_page(records: Iterable[Any], progress: Progress) -> Iterator[Any]:
    """Pass on records; draw the report of a run where its values are among them, and say where it is."""
    from septum.report.collect import Reporting
    from septum.report.page import write_page
    from septum.report.summary import RunReport

    for record in records:
        match record:
            case Reporting(count=count):
                progress.say(f"report: predicting {count} held-out image{'s' * (count != 1)} once more")
            case RunReport():
                try:
                    progress.say(f"report: {format_path(write_page(record))}")
                except SeptumError as error:  # the model is whole: that is what was asked for
                    yield Warned(f"no report of this run: {error}")
            case _:
                yield record


@contextmanager
def orderly(run: Path) -> Iterator[StopRequest]:
    """Let Ctrl-C and the signal to terminate end a training in order; leave with how to go on and 128 + signal."""
    with stop_on_signals() as stop:
        try:
            yield stop
        except KeyboardInterrupt:
            stop.ask()
    if stop.asked:
        if os.environ.get("RANK", "0") == "0":  # of several processes only the first speaks
            typer.echo(f"\nstopped: {_how_to_go_on(run)}", err=True)
        raise typer.Exit(128 + (stop.number or signal.SIGINT))


def _how_to_go_on(run: Path) -> str:
    if any(run.rglob("checkpoints/step-*")):
        return f"the same command goes on from the last checkpoint in {format_path(run)}"
    return "no checkpoint was written yet; the same command begins again"
