"""Settings and results of `septum.evaluation.evaluate.evaluate`, and the files that hold the results.

``scores.json`` is for programs, ``per_image.csv`` and ``objects.csv`` are tables.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from septum.errors import FileError
from septum.io.atomic import as_error, whole_file
from septum.io.formats import format_path
from septum.settings import AXES, Option, Settings

_OBJECT_COLUMNS = ("prediction", "image", "kind", "id", "partner", "iou", "area_px", "z", "y", "x")

Metric = Literal["isbi", "ctc", "instances", "pixels"]


def _parse_metrics(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


class EvaluateSettings(Settings):
    """Files to compare, and scores to compute.

    Parameters
    ----------
    predicted
        Files or folders; with two predictions the second one is compared with the first.
    truth
        A file or a folder; see `septum.evaluation.pairs.pair_with_truth`.
    metrics
        ``isbi`` takes probability maps or binary maps of membranes (0) and cells (1 or 255), ``ctc`` and ``instances``
        take object ids, ``pixels`` takes class values or probabilities.
    """

    predicted: Annotated[
        tuple[Path, ...],
        Field(min_length=1, max_length=2),
        Option(help="One or two predictions, each a file or a folder.", argument=True, metavar="PREDICTED"),
    ]
    truth: Annotated[
        Path, Option(help="The truth: a file, or a folder with matching names.", argument=True, metavar="TRUTH")
    ]
    metrics: Annotated[
        tuple[Metric, ...] | None,
        Field(min_length=1),
        Option(
            help="isbi, ctc, instances, pixels; several separated by commas.",
            metavar="NAMES",
            default="chosen from the truth",
            parse=_parse_metrics,
            write=",".join,
        ),
    ] = None
    ignore_mask: Annotated[
        Path | None,
        Option(help="A mask, or a folder of masks: pixels other than 0 do not count.", metavar="MASK"),
    ] = None
    axes: Annotated[str | None, replace(AXES, heading="")] = None
    seed: Annotated[int, Field(ge=0), Option(help="Random seed of the bootstrap.", metavar="N")] = 0
    out: Annotated[
        Path | None,
        Option(help="Folder for scores.json, per_image.csv and objects.csv.", flags=("--out", "-o"), metavar="OUT"),
    ] = None


@dataclass(frozen=True)
class Score:
    """One score of one prediction, over all its images.

    Attributes
    ----------
    metric
        Metric that the score belongs to.
    name
        Such as ``"SEG"``; a unit stands at the end of the name: ``"ASD 1 (um)"``.
    value
        Value; NaN if not defined.
    low, high
        95 % bootstrap interval over images or sequences; NaN where one of them alone defines the score.
    higher_is_better
        False for errors and distances.
    headline
        True for the few scores that a short table shows.
    """

    metric: Metric
    name: str
    value: float
    low: float
    high: float
    higher_is_better: bool
    headline: bool


@dataclass(frozen=True)
class Difference:
    """Second prediction minus first, over the images that both have.

    Attributes
    ----------
    metric, name
        Metric and name of the score.
    value
        Difference of the two scores over the common images.
    low, high
        95 % interval of the paired bootstrap: both predictions see the same draws. If it contains 0, the images do not
        distinguish the two predictions.
    higher_is_better
        False if a negative difference is an improvement.
    """

    metric: Metric
    name: str
    value: float
    low: float
    high: float
    higher_is_better: bool


@dataclass(frozen=True)
class ImageScores:
    """Scores of one image (or frame, section, volume) alone: ``{"SEG": 0.81, ...}``, NaN where not defined."""

    name: str
    predicted: Path
    truth: Path
    scores: Mapping[str, float]


@dataclass(frozen=True)
class ObjectScore:
    """One true object, or one predicted object without a true one.

    Attributes
    ----------
    image
        Name of its image.
    kind
        ``"true"``, or ``"extra"``: a predicted object that overlaps no true one by half or more.
    id
        Id in the truth, or in the prediction for an extra object.
    partner
        For a true object the id of the predicted object of largest IoU, 0 if none.
    iou
        In [0, 1]; with ``ctc`` the Jaccard index of the challenge, which is 0 unless the partner covers more than half.
    area_px
        Number of pixels that count.
    center_px
        Mean position ``(y, x)`` or ``(z, y, x)``.
    """

    image: str
    kind: Literal["true", "extra"]
    id: int
    partner: int
    iou: float
    area_px: int
    center_px: tuple[float, ...]


@dataclass(frozen=True)
class Failure:
    """A file that was not scored, and the reason."""

    name: str
    message: str


@dataclass(frozen=True)
class Bin:
    """One point of the reliability curve.

    Attributes
    ----------
    low, high
        Limits of the confidences in the bin.
    pixels
        Number of pixels in the bin.
    confidence
        Mean confidence of the pixels; NaN without pixels.
    right
        Share of the pixels that are right; NaN without pixels.
    """

    low: float
    high: float
    pixels: int
    confidence: float
    right: float


@dataclass(frozen=True)
class ScoredPrediction:
    """Scores, images, objects and failures of one prediction.

    Attributes
    ----------
    predicted
        The given file or folder.
    scores
        Scores over all images.
    images
        Scores of each image alone, in natural order.
    objects
        Every object, if ``ctc`` or ``instances`` was computed.
    worst
        Up to ten true objects of lowest IoU, worst first.
    reliability
        Fifteen bins of equal width, if the prediction is a probability; otherwise empty.
    failures
        Files that could not be scored, missing partners included.
    """

    predicted: Path
    scores: tuple[Score, ...]
    images: tuple[ImageScores, ...]
    objects: tuple[ObjectScore, ...]
    worst: tuple[ObjectScore, ...]
    reliability: tuple[Bin, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Evaluation:
    """Result of comparing one or two predictions with the truth.

    Attributes
    ----------
    metrics
        Metrics that were computed.
    results
        One result per prediction.
    differences
        With two predictions second minus first; otherwise empty.
    notes
        One sentence for each choice: the metrics, how values were read, which files are left out.
    files
        Files that were written.
    """

    metrics: tuple[Metric, ...]
    results: tuple[ScoredPrediction, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def failed(self) -> int:
        """Number of files that could not be scored, over all predictions; the command exits with 1 if there is one."""
        return sum(len(r.failures) for r in self.results)


def write_results(evaluation: Evaluation, folder: Path) -> Evaluation:
    """Write the three files into `folder`, created if missing, and return the evaluation with their paths.

    Undefined values are ``null`` in JSON and empty in CSV. ``objects.csv`` is written only if there are objects;
    without them that of an earlier evaluation is removed.

    Raises
    ------
    FileError
        If the folder cannot be created or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{format_path(folder)}: cannot be made ({error.strerror})", "a folder to write to", "choose another -o"
        ) from error
    files = [folder / "scores.json", folder / "per_image.csv"]
    with whole_file(files[0]) as part:
        part.write_text(json.dumps(as_json(evaluation), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    names = list(dict.fromkeys(n for r in evaluation.results for i in r.images for n in i.scores))
    _write_csv(
        files[1],
        ["prediction", "image", "file", "truth", *names],
        (
            [r.predicted, i.name, i.predicted, i.truth, *(i.scores.get(n, math.nan) for n in names)]
            for r in evaluation.results
            for i in r.images
        ),
    )
    if any(r.objects for r in evaluation.results):
        files.append(folder / "objects.csv")
        _write_csv(
            files[-1],
            _OBJECT_COLUMNS,
            (
                [r.predicted, o.image, o.kind, o.id, o.partner, o.iou, o.area_px]
                + [math.nan] * (3 - len(o.center_px))
                + list(o.center_px)
                for r in evaluation.results
                for o in r.objects
            ),
        )
    else:
        _remove_table(folder / "objects.csv", _OBJECT_COLUMNS)
    return replace(evaluation, files=tuple(files))


def _remove_table(path: Path, header: Sequence[str]) -> None:
    """Remove a table of an earlier evaluation; another file of this name, which has another first line, stays."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            written = file.readline().rstrip("\n") == ",".join(header)
        if written:
            path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise as_error(path, error) from None


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as JSON content, without the list of all objects, which is in ``objects.csv``."""
    content = asdict(evaluation)
    for result in content["results"]:
        del result["objects"]
    plain = _plain(content)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
