"""The command ``septum``: flags become settings, records become progress, results become lines or one JSON document.

Nothing heavy is imported before a command runs, so that ``septum --help`` answers at once.
Exit codes: 0 done, 1 some inputs failed, 2 usage or data error, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from septum import __version__
from septum.app.options import (
    DataArgument,
    DeviceOption,
    JsonOption,
    KindOption,
    QuietOption,
    duration_s,
    planned,
    run_folder,
    settings_of,
)
from septum.app.progress import Outcome, Progress, follow_prediction, follow_training, show_training
from septum.app.tables import aligned, described, evaluation_lines, fixed_lines, json_text, scores_text, seconds_text
from septum.errors import SeptumError, UsageError
from septum.jobs.records import ImageFailed, Record

DEFAULT_BUDGET_S = 1800.0

app = typer.Typer(
    name="septum",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code; what a user can cause is printed without a traceback."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold bytes that the terminal cannot show
    try:
        app(args=arguments, prog_name="septum")
    except SeptumError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        typer.echo(f"error: {error.filename or 'file'}: {error.strerror or error}", err=True)
        raise SystemExit(2) from None


@contextmanager
def stoppable(farewell: Callable[[], str]) -> Iterator[None]:
    """Leave with a sentence and code 130 when a person presses Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\nstopped: {farewell()}", err=True)
        raise typer.Exit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"septum {__version__}")
        raise typer.Exit


@app.callback()
def septum(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Find cells and other objects in microscope images, with a U-Net trained on your own examples."""


@app.command(no_args_is_help=True)
def check(
    data: DataArgument,
    *,
    kind: KindOption = None,
    fix: Annotated[
        Path | None,
        typer.Option("--fix", metavar="OUT", show_default=False, help="Write a mended copy into this new folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find out what is wrong with images and masks.

    DATA is a folder with images/ and masks/ in it, or the images and the masks: two folders, or two stacks; or a data
    set of the Cell Tracking Challenge. The data
    itself is never changed.

    Example: septum check cells --fix cells-mended
    """
    from septum.jobs import check as job
    from septum.jobs import fix as mending

    farewell = f"the files in {fix} are whole, others are missing" if fix else "nothing was written"
    with stoppable(lambda: farewell), Progress("files", waiting="opening every file"):
        report = job.check(data, kind=kind)
    if not as_json:
        typer.echo("\n".join(report.lines()))
    with stoppable(lambda: farewell), Progress("files", waiting="writing the copy"):
        fixed = [] if fix is None else list(mending.fix(report, fix))
    if as_json:
        written = {} if fix is None else {"fixed": fixed}
        typer.echo(json_text({"command": "check", **report.as_dict(), **written}))
    elif fix is not None:
        typer.echo("\n".join(fixed_lines(fixed, fix)))
    elif report.errors:
        typer.echo("training refuses these data until the errors are gone")
    elif report.mended or report.left_out:
        typer.echo("training does this in memory; --fix OUT writes a mended copy")
    if report.errors and fix is None:
        raise typer.Exit(2)
    if report.left_out:
        raise typer.Exit(1)


@app.command(no_args_is_help=True)
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
        typer.Option(parser=duration_s, metavar="TIME", show_default="30m", help="How long: 90s, 20m, 1.5h."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=False, help="How many steps, instead of a time.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same model.")] = 0,
    kind: KindOption = None,
    width: Annotated[int | None, planned("Features of the first level of the network.")] = None,
    depth: Annotated[int | None, planned("Levels of the network.")] = None,
    tile: Annotated[int | None, planned("Side of a training tile in pixels.")] = None,
    batch: Annotated[int | None, planned("Tiles in a step.")] = None,
    device: DeviceOption = "auto",
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
    from septum.jobs import train as job
    from septum.nn.parallel import join_processes

    if steps is not None and budget is not None:
        raise UsageError("both --steps and --budget", "one of them", "leave one out")
    run = out or run_folder(data)
    settings = settings_of(
        job.TrainSettings,
        data=tuple(data),
        out=run,
        preset=preset,
        steps=steps,
        budget_s=(budget or DEFAULT_BUDGET_S) if steps is None else None,
        seed=seed,
        kind=kind,
        width=width,
        depth=depth,
        tile=tile,
        batch=batch,
        device=device,
    )
    first = join_processes().first
    with (
        stoppable(lambda: _how_to_go_on(run)),
        Progress("steps", quiet=quiet or as_json or not first, waiting="preparing the images") as progress,
    ):
        result = follow_training(job.train(settings), progress)
    if result is None:  # one of several processes, not the one that speaks
        return
    if as_json:
        typer.echo(json_text({"command": "train", **vars(result), "warnings": progress.warnings}))
        return
    scores = f"{scores_text(result.scores)}; " if result.scores else ""
    typer.echo(f"model: {result.model}  ({scores}{result.steps} steps, {seconds_text(result.seconds)})")


def _how_to_go_on(run: Path) -> str:
    if any((run / "checkpoints").glob("step-*")):
        return f"the same command goes on from the last checkpoint in {run}"
    return "no checkpoint was written yet; the same command begins again"


@app.command(no_args_is_help=True)
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", hidden=True)],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", hidden=True)],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Folder for the results.")],
    labels: Annotated[bool, typer.Option("--labels", help="Write numbered objects.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each class, 0 to 1.")
    ] = False,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over turned and mirrored images: slower, better.")
    ] = False,
    axes: Annotated[
        str | None,
        typer.Option(
            metavar="AXES", show_default="as the files say", help="What the dimensions of the files are: ZYX, TYX, YXC."
        ),
    ] = None,
    format_: Annotated[
        Literal["tif", "png", "nii.gz", "npy"] | None,
        typer.Option("--format", show_default="as the input", help="File type of the results."),
    ] = None,
    tile: Annotated[
        int | None,
        planned("Side of a tile in pixels; a smaller one needs less memory."),
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Segment images with a trained model.

    MODEL is the model.safetensors of a run. INPUT is any number of images, folders of images, or patterns ('*.tif').
    The results are as the training masks were: numbered objects, or classes.

    Example: septum predict runs/cells/model.safetensors new/ -o results
    """
    from septum.jobs import predict as job

    if labels and probabilities:
        raise UsageError("both --labels and --probabilities", "one of them", "run the command twice to get both")
    settings = settings_of(
        job.PredictSettings,
        model=model,
        inputs=tuple(inputs),
        out=out,
        output="labels" if labels else "probabilities" if probabilities else "auto",
        tta=tta,
        axes=axes,
        device=device,
        tile=tile,
        format=format_,
    )
    outcome = Outcome()
    try:
        with (
            stoppable(lambda: f"the results in {out} are whole; the same command makes the others"),
            Progress("images", quiet=quiet or as_json, waiting="opening the model") as progress,
        ):
            follow_prediction(job.predict_files(settings), progress, outcome)
    except SeptumError as error:
        _say_failures([image for image in outcome.failed if image.message != str(error)])
        raise
    _say_failures(outcome.failed)
    if as_json:
        typer.echo(json_text({"command": "predict", **vars(outcome), "warnings": progress.warnings}))
    else:
        count = len(outcome.done)
        words = f"{count} image{'s' * (count != 1)} in {seconds_text(outcome.seconds)}, results in {out}"
        typer.echo(words + (f"; {len(outcome.failed)} failed" if outcome.failed else ""))
    if outcome.failed:
        raise typer.Exit(1)


def _say_failures(failed: Sequence[ImageFailed]) -> None:
    for image in failed:
        reason = image.message.removeprefix(f"{image.path}: ").replace("\n", "\n  ")
        typer.echo(f"failed: {image.path}: {reason}", err=True)


@app.command(no_args_is_help=True)
def evaluate(
    paths: Annotated[list[Path], typer.Argument(metavar="PREDICTED TRUTH", hidden=True)],
    *,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default="chosen from the truth",
            help="isbi, ctc, instances, pixels; several by commas.",
        ),
    ] = None,
    ignore: Annotated[
        Path | None,
        typer.Option(metavar="MASK", show_default=False, help="A mask, or a folder of them: its pixels do not count."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="OUT", show_default=False, help="Folder for tables of all images and objects."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score results against the truth.

    PREDICTED and TRUTH are two images, or two folders whose images are named alike. With three paths the second
    prediction is compared with the first: A B TRUTH.

    Example: septum evaluate results/ cells/masks/
    """
    from septum.jobs import evaluate as job
    from septum.jobs.evaluation import EvaluateSettings

    if len(paths) not in (2, 3):
        raise UsageError(f"{len(paths)} paths", "PREDICTED TRUTH, or A B TRUTH", "name the predictions, then the truth")
    settings = settings_of(
        EvaluateSettings,
        predicted=tuple(paths[:-1]),
        truth=paths[-1],
        metrics=tuple(name.strip() for name in metrics.split(",")) if metrics else None,
        ignore=ignore,
        out=out,
    )
    with stoppable(lambda: "nothing was written"), Progress("files", waiting="opening every file"):
        found = job.evaluate(settings)
    for note in found.notes:
        typer.echo(note, err=True)
    for result in found.results:
        for failure in result.failures:
            typer.echo(f"failed: {failure.name}: {failure.message}", err=True)
    if as_json:
        typer.echo(json_text({"command": "evaluate", **vars(found)}))
    else:
        typer.echo("\n".join(evaluation_lines(found)))
        for path in found.files:
            typer.echo(f"written: {path}")
    if found.failed:
        raise typer.Exit(1)


@app.command()
def info(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", hidden=True)] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is, or what this computer offers.

    MODEL is the model.safetensors of a run; without it, versions and the device that would compute are shown.

    Example: septum info runs/cells/model.safetensors
    """
    from septum.jobs.info import describe_model, installation

    facts = installation() if model is None else {"model": str(model), **describe_model(model)}
    typer.echo(json_text({"command": "info", **facts}) if as_json else "\n".join(described(facts)))


@app.command()
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
    from septum.app.report.curves import curves
    from septum.app.report.pictures import draw_demo
    from septum.jobs import demo as job

    settings = settings_of(job.DemoSettings, out=out, seed=seed)
    with stoppable(lambda: _how_to_go_on(out / "run")), Progress("steps", waiting="making images") as progress:
        for record in job.demo(settings):
            if isinstance(record, job.Compared):
                progress.say(f"picture: {draw_demo(record, out / 'pictures')}")
            elif isinstance(record, job.DemoDone):
                picture = curves(out / "run" / "log.csv", out / "curves.png")
                progress.say(f"curves: {picture}")
                rows = [["on images never seen", "SEG", "AP50"], *record.rows]
                seconds = record.seconds
            elif isinstance(record, Record):
                show_training(record, progress)
    typer.echo("\n".join(aligned(rows)))
    typer.echo(f"done in {seconds_text(seconds)}; everything lies in {out}")
