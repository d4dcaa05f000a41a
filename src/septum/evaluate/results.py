"""Settings and results of `septum.evaluate.evaluate.evaluate`, and the files that hold the results.

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
from septum.io.atomic import whole_file
from septum.io.paths import format_path
from septum.settings import Settings

Metric = Literal["isbi", "ctc", "instances", "pixels"]


class EvaluateSettings(Settings):
    """What to compare, and how.

    Parameters
    ----------
    predicted
        One or two predictions, each a file or a folder. With two, the second is compared with the first.
    truth
        A file or a folder; see `septum.evaluate.pairs.find_items`.
    metrics
        Which scores; None: chosen from the truth. ``isbi`` takes probability maps or binary maps of membranes (0)
        and cells (1 or 255), ``ctc`` and ``instances`` take object ids, ``pixels`` takes class values or
        probabilities.
    ignore
        Mask, or folder of masks, whose pixels other than 0 do not count.
    seed
        Seed of the bootstrap.
    out
        Folder for ``scores.json``, ``per_image.csv`` and ``objects.csv``; None: nothing is written.
    """

    predicted: Annotated[tuple[Path, ...], Field(min_length=1, max_length=2)]
    truth: Path
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] | None = None
    ignore: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    out: Path | None = None


@dataclass(frozen=True)
class Score:
    """One score of one prediction, over all its images.

    Attributes
    ----------
    metric
        Where it belongs.
    name
        Such as ``"SEG"``; a unit, if it has one, ends the name: ``"ASD 1 (um)"``.
    value
        NaN where it is not defined.
    low, high
        95 % bootstrap interval over images; NaN with fewer than two images.
    higher_is_better
        False for errors and distances.
    headline
        True for the few that a short table shows.
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
        Those of the score.
    value
        Difference of the two scores over the common images.
    low, high
        95 % interval of the paired bootstrap: both predictions see the same draws. It holds 0 where the images do not
        tell the two apart.
    higher_is_better
        False where a negative difference is the better one.
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
    """One object.

    Attributes
    ----------
    image
        Name of its image.
    kind
        ``"true"``, or ``"extra"``: a predicted object that overlaps no true one by half or more.
    id
        Its number in the truth, or in the prediction for an extra one.
    partner
        For a true object the predicted one it overlaps most (by IoU), 0 if none.
    iou
        In [0, 1]; with ``ctc`` the challenge's Jaccard index, which is 0 unless the partner covers more than half.
    area_px
        Pixels that count.
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
    """A file that was not scored, and why."""

    name: str
    message: str


@dataclass(frozen=True)
class Bin:
    """One point of the reliability curve.

    Attributes
    ----------
    low, high
        Confidences of the bin.
    pixels
        How many pixels fall in it.
    confidence
        Their mean confidence; NaN without pixels.
    right
        Share of them that is right; NaN without pixels.
    """

    low: float
    high: float
    pixels: int
    confidence: float
    right: float


@dataclass(frozen=True)
class ScoredPrediction:
    """Everything about one prediction.

    Attributes
    ----------
    predicted
        As it was named.
    scores
        Over all images.
    images
        Of each image alone, in natural order.
    objects
        Every object, where ``ctc`` or ``instances`` was asked for.
    worst
        Up to ten true objects of lowest IoU, worst first.
    reliability
        Fifteen bins of equal width, where the prediction is a probability; else empty.
    failures
        Files that could not be scored, missing partners among them.
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
    """The result.

    Attributes
    ----------
    metrics
        Those that were taken.
    results
        One per prediction.
    differences
        With two predictions: second minus first; else empty.
    notes
        What was understood or chosen, one sentence each: the metrics, how values were read, what is left out.
    files
        What was written.
    """

    metrics: tuple[Metric, ...]
    results: tuple[ScoredPrediction, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def failed(self) -> int:
        """Files that could not be scored, over all predictions: the command leaves with 1 if there is one."""
        return sum(len(r.failures) for r in self.results)


def write_results(evaluation: Evaluation, folder: Path) -> Evaluation:
    """Write the three files into `folder`, made if missing, and return the evaluation with their names.

    Undefined values are ``null`` in JSON and empty in CSV. ``objects.csv`` is written where there are objects.

    Raises
    ------
    FileError
        If the folder cannot be made or a file not be written.
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
            ["prediction", "image", "kind", "id", "partner", "iou", "area_px", "z", "y", "x"],
            (
                [r.predicted, o.image, o.kind, o.id, o.partner, o.iou, o.area_px]
                + [math.nan] * (3 - len(o.center_px))
                + list(o.center_px)
                for r in evaluation.results
                for o in r.objects
            ),
        )
    return replace(evaluation, files=tuple(files))


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as what JSON holds; the list of all objects is left to ``objects.csv``."""
    found = asdict(evaluation)
    for result in found["results"]:
        del result["objects"]
    plain = _plain(found)
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
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
