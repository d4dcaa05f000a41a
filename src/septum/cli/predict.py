"""The commands that use a model and judge what it gives: predict, evaluate, info."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from septum.cli.options import AxesOption, DeviceOption, JsonOption, QuietOption, planned, settings_of
from septum.cli.progress import Outcome, Progress, follow_prediction, stoppable
from septum.cli.text import described, evaluation_lines, json_text
from septum.errors import SeptumError, UsageError
from septum.io.formats import RESULT_SUFFIXES
from septum.predict.events import ImageFailed
from septum.predict.memory import format_bytes, parse_bytes
from septum.report.numbers import format_seconds


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", hidden=True)],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", hidden=True)],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", show_default=False, help="Folder for the results.")
    ] = None,
    label_image: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False, help="In place of -o: a label image in each input, an OME-Zarr image."
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", show_default="as the training masks", help="labels, classes or probabilities (0 to 1)."
        ),
    ] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over turned and mirrored images: slower, better.")
    ] = False,
    axes: AxesOption = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="SUFFIX",
            show_default="as the input",
            help=f"File type of the results: {', '.join(suffix[1:] for suffix in RESULT_SUFFIXES)}.",
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", show_default="most of what is free", help="Memory to take at most: 2G, 800M."),
    ] = None,
    tile: Annotated[int | None, planned("Side of a tile in pixels.")] = None,
    in_blocks: Annotated[
        bool, typer.Option(help="Predict block by block even if the image fits: when stopped, it can be resumed.")
    ] = False,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|ADDRESS",
            show_default=False,
            help="Share the work among N local processes, or the workers of a Dask scheduler: tcp://host:8786.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            show_default=False,
            help="Do part I of N, in a job array; without it, put the parts together.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    engine: Annotated[
        Literal["auto", "torch", "septum"],
        typer.Option(help="What computes on a CPU: PyTorch, Septum's own code, or the faster one."),
    ] = "auto",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Segment images with a trained model.

    MODEL is a model file or a run folder. INPUT is any number of images, folders of images, or patterns ('*.tif').
    The results are as the training masks were: numbered objects, or classes. An image that does not fit into the memory
    is done block by block; if that is stopped, the same command goes on where it was.

    Example: septum predict runs/cells new/ -o results
    """
    from septum.predict import predict as job
    from septum.predict.settings import PredictSettings, parse_shard, parse_workers

    settings = settings_of(
        PredictSettings,
        model=model,
        inputs=tuple(inputs),
        out=out,
        label_image=label_image,
        output=output,
        tta=tta,
        axes=axes,
        device=device,
        engine=engine,
        tile=tile,
        format=format_,
        max_memory=None if max_memory is None else parse_bytes(max_memory),
        in_blocks=in_blocks,
        workers=None if workers is None else parse_workers(workers),
        shard=None if shard is None else parse_shard(shard),
    )
    place = str(out) if label_image is None else f"labels/{label_image} of each image"
    outcome = Outcome()
    try:
        with (
            stoppable(lambda: f"the results in {place} are whole; the same command goes on with the others"),
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
        typer.echo(_outcome_text(outcome, place))
    if outcome.failed:
        raise typer.Exit(1)


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
    from septum.evaluate import evaluate as job
    from septum.evaluate.results import EvaluateSettings

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


def info(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", hidden=True)] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is, or what this computer offers.

    MODEL is a model file or a run folder; without it, versions and the device that would compute are shown.

    Example: septum info runs/cells
    """
    from septum.predict.info import describe_model, installation

    facts = installation() if model is None else {"model": str(model), **describe_model(model)}
    typer.echo(json_text({"command": "info", **facts}) if as_json else "\n".join(described(facts)))


def _outcome_text(outcome: Outcome, place: str) -> str:
    count = len(outcome.done)
    words = f"{count} image{'s' * (count != 1)} in {format_seconds(outcome.seconds)}, results in {place}"
    words += f"; at most {format_bytes(outcome.peak_bytes)} of memory"
    return words + (f"; {len(outcome.failed)} failed" if outcome.failed else "")


def _say_failures(failed: Sequence[ImageFailed]) -> None:
    for image in failed:
        reason = image.message.removeprefix(f"{image.path}: ").replace("\n", "\n  ")
        typer.echo(f"failed: {image.path}: {reason}", err=True)
