"""Reproduce a published result: train by a protocol, predict what no model has seen, score, set ours beside theirs.

::

    OUT/asked.json           what was asked for: a second start must match, and goes on where the first one stopped
    OUT/PART/data, run       what a part was trained on, and its training (see `septum.jobs.run_folder`)
    OUT/predicted, truth     predictions of unseen images and their truth, as `septum evaluate` takes them
    OUT/test, test.tif       ISBI 2012: probability of the inside of the 30 test sections, in files and as one stack
    OUT/scores               tables of all images and objects
    OUT/reproduction.json    all figures; where it is, all is done
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from septum.errors import DataError, FileError, UsageError
from septum.io.atomic import in_words, whole_file, whole_folder
from septum.io.images import read_image, write_image
from septum.io.names import image_stem, shown
from septum.jobs.protocols import (
    PROTOCOLS,
    Part,
    Protocol,
    Variant,
    find_data,
    section_parts,
    sequence_parts,
    stacks_at,
)
from septum.jobs.public_data import arrange_sections
from septum.jobs.records import ImageFailed, PredictRecord, Record, Stopped, Trained
from septum.settings import Settings

if TYPE_CHECKING:
    from septum.jobs.evaluation import Evaluation, ImageScores
    from septum.jobs.stopping import Stop

FOLDS = 5
_RESULT = "reproduction.json"


class ReproduceSettings(Settings):
    """Which result, and for how long.

    Parameters
    ----------
    name
        The data set.
    data
        Its folder, or one that holds it under the challenge's name.
    out
        Folder for everything; the same settings on the same folder go on where they stopped.
    preset
        See `septum.jobs.train.TrainSettings`.
    budget_s, steps
        Exactly one: seconds for all trainings together, shared out evenly, or the steps of each. Prediction and scores
        come on top.
    folds
        ISBI 2012 only: blocks of neighboring sections; 5 where not given.
    variant
        Cell Tracking Challenge only: which truth is trained on; silver where not given.
    truth
        ISBI 2012 only: the truth of the test sections, a folder or a stack.
    seed
        Of everything random.
    device
        See `septum.nn.device.find_device`.
    width
        Features of the first level; planned where not given.
    """

    name: Literal["isbi2012", "dic-hela", "phc-u373"]
    data: Path
    out: Path
    preset: Literal["auto", "paper"] = "auto"
    budget_s: float | None = Field(default=3600.0, gt=0)
    steps: int | None = Field(default=None, ge=1)
    folds: int | None = Field(default=None, ge=2)
    variant: Variant | None = None
    truth: Path | None = None
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    width: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is not None:
            return {"budget_s": None, **values}
        return values

    @model_validator(mode="after")
    def _fits_the_protocol(self) -> Self:
        if (self.steps is None) == (self.budget_s is None):
            raise ValueError("give steps or budget_s, not both and not neither")
        sections = PROTOCOLS[self.name].metric == "isbi"
        if sections and self.variant is not None:
            raise ValueError("a variant of the truth exists for dic-hela and phc-u373 only")
        if not sections and (self.folds is not None or self.truth is not None):
            raise ValueError("folds and a truth of test sections exist for isbi2012 only")
        return self


@dataclass(frozen=True)
class PartStarted:
    """Part `index` (from 0) of `count` is begun; `says` is what it does."""

    name: str
    index: int
    count: int
    says: str


@dataclass(frozen=True)
class Scoring:
    """All predictions are there; `images` of them are scored now."""

    images: int


@dataclass(frozen=True)
class Line:
    """One score: ours with its 95 % interval (NaN with one image), and what the paper has; None where it has none."""

    score: str
    value: float
    low: float
    high: float
    higher_is_better: bool
    unet_2015: float | None
    next_best: float | None


@dataclass(frozen=True)
class Scores:
    """The scores of one set of images."""

    title: str
    images: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Training:
    """What one part's training took, and its scores on the images that chose its weights."""

    name: str
    says: str
    steps: int
    seconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Example:
    """One scored image.

    Attributes
    ----------
    name : str
        Its file's, and where it stands among the others: ``"worst"``, ``"median"``, ``"best"``.
    score : float
        The protocol's main score of this image alone.
    image : ndarray
        ``(C, Y, X)`` raw intensities.
    truth : ndarray
        ``(Y, X)`` int32, objects, or classes 0 and 1.
    predicted : ndarray
        ``(Y, X)``: int32 objects, or float32 probability of class 1.
    """

    name: str
    score: float
    image: NDArray[Any]
    truth: NDArray[np.int32]
    predicted: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Reproduced:
    """The last record: what came of it, as ``reproduction.json`` has it; and images to look at."""

    folder: Path
    protocol: Protocol
    results: tuple[Scores, ...]
    trainings: tuple[Training, ...]
    notes: tuple[str, ...]
    examples: tuple[Example, ...]
    seconds: float
    created: str
    command: str
    settings: ReproduceSettings
    versions: Mapping[str, str]


ReproduceRecord = Record | PredictRecord | PartStarted | Scoring | Reproduced


def reproduce(settings: ReproduceSettings, stop: Stop | None = None) -> Iterator[ReproduceRecord]:
    """Reproduce a result.

    Parameters
    ----------
    settings
        What to do.
    stop
        See `septum.jobs.train.train`.

    Yields
    ------
    For each part PartStarted, the records of its training and of its prediction; then Scoring, and Reproduced at the
    end; nothing more after Stopped.

    Raises
    ------
    SeptumError
        If the data are not there or do not fit, the folder holds something else, or a training or prediction fails.
    """
    begin = time.monotonic()
    protocol = PROTOCOLS[settings.name]
    data = find_data(protocol, settings.data)
    _claim(settings)
    parts = _parts(settings, protocol, data)
    trainings = []
    for index, part in enumerate(parts):
        yield PartStarted(part.name, index, len(parts), part.says)
        trained = yield from _train(settings, protocol, part, len(parts), stop)
        if trained is None:
            return
        trainings.append(Training(part.name, part.says, trained.steps, trained.seconds, trained.scores))
        yield from _predict(settings, protocol, part)
    scored = [p for p in parts if not p.test]
    _copy_whole(tuple(pair for part in scored for pair in part.truth), settings.out / "truth")
    yield Scoring(sum(len(p.inputs) for p in scored))
    evaluation = _evaluate(protocol, settings.out / "predicted", settings.out / "truth", settings.out / "scores")
    found = Reproduced(
        folder=settings.out,
        protocol=protocol,
        results=(_scores(protocol, _title(protocol, parts), evaluation), *_score_tests(settings, protocol, parts)),
        trainings=tuple(trainings),
        notes=(protocol.differs, *dict.fromkeys(n for p in parts for n in p.notes), *evaluation.notes),
        examples=tuple(_examples(protocol, evaluation, scored)),
        seconds=time.monotonic() - begin,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command(settings),
        settings=settings,
        versions=_versions(settings),
    )
    with whole_file(settings.out / _RESULT) as file:
        file.write_text(json.dumps(as_json(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    yield found


def _claim(settings: ReproduceSettings) -> None:
    """Note what is asked for, or see that an earlier start asked for the same."""
    asked = settings.model_dump(mode="json", exclude={"data", "out", "truth", "device"})
    path = settings.out / "asked.json"
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except OSError as error:
        raise in_words(settings.out, error) from error
    except ValueError:
        raise FileError(f"{shown(path)}: damaged", "the file as it was written", "give another -o") from None
    if before is None:
        with whole_file(path) as part:
            part.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    elif before != asked:
        changed = [f"  {k}: {before.get(k)} -> {v}" for k, v in asked.items() if before.get(k) != v]
        raise UsageError(
            f"{shown(settings.out)} holds a reproduction with other settings:\n" + "\n".join(changed),
            "the same command to go on",
            "repeat the earlier command, or give a new folder with -o",
        )


def _parts(settings: ReproduceSettings, protocol: Protocol, data: Path) -> list[Part]:
    if protocol.metric == "ctc":
        return sequence_parts(data, settings.variant or "silver")
    if (stacks := stacks_at(data)) is not None and not (data / "train" / "images").is_dir():
        data = settings.out / "data"
        if not data.exists():
            with whole_folder(data) as part:
                arrange_sections(stacks, part)
    return section_parts(data, settings.folds or FOLDS)


def _copy_whole(files: Sequence[tuple[Path, str]], folder: Path) -> None:
    """Copy files to their places in `folder`, which appears whole; one that is there is left."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as part:
        for source, place in files:
            (part / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part / place)


def _train(
    settings: ReproduceSettings, protocol: Protocol, part: Part, parts: int, stop: Stop | None
) -> Generator[Record, None, Trained | None]:
    """Train one part and return what came of it; None where it was stopped."""
    from septum.jobs.train import TrainSettings, train

    folder = settings.out / part.name
    _copy_whole(part.training, folder / "data")
    asked = TrainSettings(
        data=(folder / "data",),
        out=folder / "run",
        preset=settings.preset,
        steps=settings.steps,
        budget_s=None if settings.budget_s is None else settings.budget_s / parts,
        seed=settings.seed,
        kind=protocol.kind,
        held_out=part.held_out,
        device=settings.device,
        width=settings.width,
    )
    trained = None
    for record in train(asked, stop):
        yield record
        if isinstance(record, Trained):
            trained = record
        if isinstance(record, Stopped):
            return None
    return trained


def _predict(settings: ReproduceSettings, protocol: Protocol, part: Part) -> Iterator[PredictRecord]:
    """Predict a part's images with its model, but those whose result is whole already."""
    from septum.jobs.predict import PredictSettings, predict_files

    folder = settings.out / "test" if part.test else settings.out / "predicted" / part.results
    missing = [p for p in part.inputs if not (folder / f"{image_stem(p)}.tif").exists()]
    if missing:
        asked = PredictSettings(
            model=settings.out / part.name / "run" / "model.safetensors",
            inputs=tuple(map(str, missing)),
            out=folder,
            output="probabilities" if protocol.metric == "isbi" else "labels",
            tta=protocol.tta,
            device=settings.device,
            format="tif",
        )
        for record in predict_files(asked):
            yield record
            if isinstance(record, ImageFailed):
                raise DataError(f"{shown(record.path)} could not be predicted: {record.message}", "", "run again")
    stack = settings.out / "test.tif"
    if part.test and not stack.exists():
        maps = [read_image(folder / f"{image_stem(p)}.tif").array for p in part.inputs]
        write_image(stack, np.concatenate(maps).astype(np.float32), axes="TYX")


def _evaluate(protocol: Protocol, predicted: Path, truth: Path, out: Path) -> Evaluation:
    from septum.jobs.evaluate import EvaluateSettings, evaluate

    found = evaluate(EvaluateSettings(predicted=(predicted,), truth=truth, metrics=(protocol.metric,), out=out))
    for failure in found.results[0].failures:
        raise DataError(f"{shown(failure.name)} could not be scored: {failure.message}", "", "run again")
    return found


def _score_tests(settings: ReproduceSettings, protocol: Protocol, parts: Sequence[Part]) -> list[Scores]:
    """Score the test sections where their truth is at hand."""
    if settings.truth is None:
        return []
    if not any(p.test for p in parts):
        raise UsageError("--truth without test sections", "test/images in the data", "leave --truth out")
    predicted = settings.out / ("test" if settings.truth.is_dir() else "test.tif")
    evaluation = _evaluate(protocol, predicted, settings.truth, settings.out / "scores-test")
    return [_scores(protocol, "test sections, model trained on all training sections", evaluation)]


def _title(protocol: Protocol, parts: Sequence[Part]) -> str:
    if protocol.metric == "isbi":
        return f"training sections out of fold, {sum(not p.test for p in parts)} folds"
    if len(parts) == 2:
        return "gold frames of both sequences, each by the model of the other"
    return "gold frames at the end of the one sequence at hand, never seen"


def _scores(protocol: Protocol, title: str, evaluation: Evaluation) -> Scores:
    published = {p.score: p for p in protocol.published}
    lines = []
    names = list(protocol.scores)
    names += [s.name for s in evaluation.results[0].scores if s.name.startswith("SEG ")]
    values = {s.name: s for s in evaluation.results[0].scores}
    for name in names:
        score, paper = values[name], published.get(name)
        lines.append(
            Line(
                score=name,
                value=score.value,
                low=score.low,
                high=score.high,
                higher_is_better=score.higher_is_better,
                unet_2015=paper.unet if paper else None,
                next_best=paper.next_best if paper else None,
            )
        )
    return Scores(title, len(evaluation.results[0].images), tuple(lines))


def _examples(protocol: Protocol, evaluation: Evaluation, parts: Sequence[Part]) -> Iterator[Example]:
    """Choose the worst, the median and the best image by the main score."""
    main = protocol.scores[0]
    ranked = sorted(evaluation.results[0].images, key=lambda i: i.scores[main])
    inputs = {(p.results, image_stem(path)): path for p in parts for path in p.inputs}
    places = {0: "worst", len(ranked) // 2: "median", len(ranked) - 1: "best"}
    for place, word in sorted(places.items()):
        yield _example(ranked[place], inputs, protocol, word)


def _example(one: ImageScores, inputs: Mapping[tuple[str, str], Path], protocol: Protocol, word: str) -> Example:
    folder = one.predicted.parent.name
    image = inputs.get((folder, image_stem(one.predicted))) or inputs["", image_stem(one.predicted)]
    truth = read_image(one.truth, labels=True).array[0]
    predicted = read_image(one.predicted).array[0]
    if protocol.kind == "classes":
        truth = truth > 0
    return Example(
        name=f"{one.name} ({word})",
        score=one.scores[protocol.scores[0]],
        image=read_image(image).array,
        truth=truth.astype(np.int32),
        predicted=predicted if protocol.kind == "classes" else predicted.astype(np.int32),
    )


def command(settings: ReproduceSettings) -> str:
    """Return the command line that repeats it, quoted for a POSIX shell."""
    words = ["septum", "reproduce", settings.name, "--data", str(settings.data), "--out", str(settings.out)]
    words += ["--preset", settings.preset]
    words += ["--budget", f"{settings.budget_s:g}s"] if settings.steps is None else ["--steps", str(settings.steps)]
    for name in ("folds", "variant", "truth", "width"):
        if (value := getattr(settings, name)) is not None:
            words += [f"--{name}", str(value)]
    words += ["--seed", str(settings.seed)]
    return shlex.join([*words, *(["--device", settings.device] if settings.device != "auto" else [])])


def _versions(settings: ReproduceSettings) -> dict[str, str]:
    from septum.jobs.info import installation
    from septum.nn.device import find_device

    said = installation()
    device = find_device(settings.device)
    return {k: said[k] for k in ("septum", "python", "torch", "numpy")} | {"device": f"{device.name} ({device.why})"}


def as_json(found: Reproduced) -> dict[str, Any]:
    """Return what ``reproduction.json`` holds: everything but the pictures; undefined values are None."""
    return {
        "format": 1,
        "created": found.created,
        "command": found.command,
        "settings": found.settings.model_dump(mode="json", exclude={"data", "out", "truth"}),
        "results": [_plain(asdict(scores)) for scores in found.results],
        "trainings": [_plain(asdict(replace(t, scores=dict(t.scores)))) for t in found.trainings],
        "notes": list(found.notes),
        "seconds": round(found.seconds, 1),
        "versions": dict(found.versions),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
