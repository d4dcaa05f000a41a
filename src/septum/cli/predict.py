"""The commands that use a model and judge what it gives: predict, evaluate, info."""

from __future__ import annotations

import re
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
    inside: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False, help="In place of -o: a label image in each input, an OME-Zarr image."
        ),
    ] = None,
    labels: Annotated[bool, typer.Option("--labels", help="Write numbered objects.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of each class, 0 to 1.")
    ] = False,
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
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Work block by block even where the image fits: when stopped, it goes on.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, show_default=False, help="Share the work among N processes of this machine."),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            show_default=False,
            help="Share the work among a Dask cluster's workers: tcp://host:8786.",
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

    MODEL is the model.safetensors of a run. INPUT is any number of images, folders of images, or patterns ('*.tif').
    The results are as the training masks were: numbered objects, or classes. An image that does not fit into the memory
    is done block by block; if that is stopped, the same command goes on where it was.

    Example: septum predict runs/cells/model.safetensors new/ -o results
    """
    from septum.predict import predict as job
    from septum.predict.settings import PredictSettings

    if labels and probabilities:
        raise UsageError("both --labels and --probabilities", "one of them", "run the command twice to get both")
    settings = settings_of(
        PredictSettings,
        model=model,
        inputs=tuple(inputs),
        out=out,
        inside=inside,
        output="labels" if labels else "probabilities" if probabilities else "auto",
        tta=tta,
        axes=axes,
        device=device,
        engine=engine,
        tile=tile,
        format=format_,
        max_memory=None if max_memory is None else parse_bytes(max_memory),
        blocks=blocks,
        workers=workers,
        dask=dask,
        shard=None if shard is None else _part(shard),
    )
    place = str(out) if inside is None else f"labels/{inside} of each image"
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

    MODEL is the model.safetensors of a run; without it, versions and the device that would compute are shown. With it,
    what computes the model on a CPU is chosen, if need be by measuring, and remembered for predictions.

    Example: septum info runs/cells/model.safetensors
    """
    from septum.predict.info import describe_model, installation

    facts = installation() if model is None else {"model": str(model), **describe_model(model)}
    typer.echo(json_text({"command": "info", **facts}) if as_json else "\n".join(described(facts)))


def _part(text: str) -> tuple[int, int]:
    """Return the numbers of a part such as ``3/8``."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise UsageError(f"--shard {text}", "part I of N, such as 3/8", "count the parts from 1")
    return int(match[1]), int(match[2])


def _outcome_text(outcome: Outcome, place: str) -> str:
    count = len(outcome.done)
    words = f"{count} image{'s' * (count != 1)} in {format_seconds(outcome.seconds)}, results in {place}"
    words += f"; at most {format_bytes(outcome.peak_bytes)} of memory"
    return words + (f"; {len(outcome.failed)} failed" if outcome.failed else "")


def _say_failures(failed: Sequence[ImageFailed]) -> None:
    for image in failed:
        reason = image.message.removeprefix(f"{image.path}: ").replace("\n", "\n  ")
        typer.echo(f"failed: {image.path}: {reason}", err=True)
