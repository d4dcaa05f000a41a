"""Reproduce a published result: train by a protocol, predict unseen images, score them, and compare with the paper.

::

    OUT/asked.json           settings: a second start must match, and resumes the first one
    OUT/PART/data, run       training data of a part, and its training (see `septum.training.run_folder`)
    OUT/predicted, truth     predictions of unseen images and their truth, as `septum evaluate` takes them
    OUT/test, test.tif       ISBI 2012: probability of the inside of the 30 test sections, in files and as one stack
    OUT/scores               tables of all images and objects
    OUT/reproduction.json    all figures; written last
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from septum.errors import DataError, FileError, UsageError
from septum.events import Event
from septum.io.atomic import as_error, whole_file, whole_folder
from septum.io.files import read_image, write_image
from septum.io.formats import format_path, image_stem
from septum.prediction.events import ImageFailed
from septum.reproduce.datasets import arrange_sections
from septum.reproduce.protocols import (
    PROTOCOLS,
    Protocol,
    ProtocolPart,
    find_data,
    section_parts,
    sequence_parts,
    stacks_at,
)
from septum.reproduce.results import (
    Example,
    FoldStarted,
    Reproduced,
    ResultLine,
    ResultTable,
    Scoring,
    Training,
    as_json,
    command,
)
from septum.reproduce.settings import ReproduceSettings
from septum.settings import options_of
from septum.training.events import Step, Stopped, Trained
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.evaluation.results import Evaluation, ImageScores
    from septum.training.interrupt import StopRequest

FOLDS = 5
_RESULT = "reproduction.json"
_FEW = 5  # images; the interval of fewer is too narrow


def reproduce(settings: ReproduceSettings, stop: StopRequest | None = None) -> Iterator[Event]:
    """Reproduce a result; the same call with the same folder resumes it.

    Parameters
    ----------
    settings
        Which result, and for how long.
    stop
        See `septum.training.loop.train`.

    Yields
    ------
    For each part FoldStarted, the events of its training and of its prediction; then Scoring, and Reproduced at the
    end. Stopped is the last event of a reproduction that was stopped.

    Raises
    ------
    SeptumError
        If the data are missing or do not fit, the folder holds something else, or a training or prediction fails.
    """
    begin, earlier_s = time.monotonic(), 0.0
    protocol = PROTOCOLS[settings.name]
    data = find_data(protocol, settings.data)
    _check_same_settings(settings)
    parts = _parts(settings, protocol, data)
    trainings = []
    for index, part in enumerate(parts):
        yield FoldStarted(part.name, index, len(parts), part.description)
        before = time.monotonic()
        trained = yield from _train(settings, protocol, part, len(parts), stop)
        if trained is None:
            return
        earlier_s += max(0.0, trained.seconds - (time.monotonic() - before))
        trainings.append(Training(part.name, part.description, trained.steps, trained.seconds, trained.scores))
        yield from _predict(settings, protocol, part)
    scored = [p for p in parts if not p.test]
    _copy_files(tuple(pair for part in scored for pair in part.truth), settings.out / "truth")
    yield Scoring(sum(len(p.inputs) for p in scored))
    evaluation = _evaluate(protocol, settings.out / "predicted", settings.out / "truth", settings.out / "scores")
    reproduced = Reproduced(
        folder=settings.out,
        protocol=protocol,
        results=(
            _result_table(protocol, _title(protocol, parts), evaluation),
            *_score_tests(settings, protocol, parts),
        ),
        trainings=tuple(trainings),
        notes=(protocol.differs, *_notes(parts, evaluation)),
        examples=tuple(_examples(protocol, evaluation, scored)),
        seconds=time.monotonic() - begin + earlier_s,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command(settings),
        settings=settings,
        versions=_versions(settings),
    )
    with whole_file(settings.out / _RESULT) as file:
        file.write_text(json.dumps(as_json(reproduced), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    yield reproduced


def _check_same_settings(settings: ReproduceSettings) -> None:
    """Write the settings that must stay the same, or compare them with those of an earlier start."""
    free = {place[0] for place, _, option in options_of(ReproduceSettings) if option.free}
    asked = settings.model_dump(mode="json", exclude=free)
    path = settings.out / "asked.json"
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except OSError as error:
        raise as_error(settings.out, error) from error
    except ValueError:
        raise FileError(f"{format_path(path)}: damaged", "the file as it was written", "give another -o") from None
    if before is None:
        with whole_file(path) as part:
            part.write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    elif before != asked:
        changed = [f"  {k}: {before.get(k)} -> {v}" for k, v in asked.items() if before.get(k) != v]
        raise UsageError(
            f"{format_path(settings.out)} holds a reproduction with other settings:\n" + "\n".join(changed),
            "the same command, to resume it",
            "repeat the earlier command, or give a new folder with -o",
        )


def _parts(settings: ReproduceSettings, protocol: Protocol, data: Path) -> list[ProtocolPart]:
    """Return the parts of a protocol; stacks of sections are first written as one file for each section."""
    if protocol.metric == "ctc":
        return sequence_parts(data, settings.variant or "silver")
    if (stacks := stacks_at(data)) is not None and not (data / "train" / "images").is_dir():
        data = settings.out / "data"
        if not data.exists():
            with whole_folder(data) as part:
                arrange_sections(stacks, part)
    return section_parts(data, settings.folds or FOLDS)


def _copy_files(files: Sequence[tuple[Path, str]], folder: Path) -> None:
    """Copy files to their places in `folder`, which appears complete; one that exists is left as it is."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as part:
        for source, place in files:
            (part / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, part / place)


def _train(
    settings: ReproduceSettings, protocol: Protocol, part: ProtocolPart, parts: int, stop: StopRequest | None
) -> Generator[Event, None, Trained | None]:
    """Train one part and return its result; None if it was stopped."""
    from septum.training.loop import train
    from septum.training.settings import SplitSettings, TrainSettings

    folder = settings.out / part.name
    _copy_files(part.training, folder / "data")
    asked = TrainSettings(
        data=(folder / "data",),
        out=folder / "run",
        preset=settings.preset,
        steps=settings.steps,
        budget_s=None if settings.budget_s is None else settings.budget_s / parts,
        seed=settings.seed,
        kind=protocol.kind,
        split=SplitSettings(names=part.held_out),
        from_model="none",  # the models that come with Septum were trained on these data
        device=settings.device,
        width=settings.width,
    )
    result, stepped = None, False
    for event in train(asked, stop):
        yield event
        if isinstance(event, Step) and not stepped:
            stepped = True
            _remove_predictions(settings, part)
        if isinstance(event, Trained):
            result = event
        if isinstance(event, Stopped):
            return None
    return result


def _predictions(settings: ReproduceSettings, part: ProtocolPart) -> Path:
    return settings.out / "test" if part.test else settings.out / "predicted" / part.results


def _remove_predictions(settings: ReproduceSettings, part: ProtocolPart) -> None:
    """Remove the predictions of an earlier model."""
    for path in part.inputs:
        (_predictions(settings, part) / f"{image_stem(path)}.tif").unlink(missing_ok=True)
    if part.test:
        (settings.out / "test.tif").unlink(missing_ok=True)


def _predict(settings: ReproduceSettings, protocol: Protocol, part: ProtocolPart) -> Iterator[Event]:
    """Predict the images of a part that have no prediction yet."""
    from septum.prediction.predict import predict_files
    from septum.prediction.settings import PredictSettings

    folder = _predictions(settings, part)
    missing = [p for p in part.inputs if not (folder / f"{image_stem(p)}.tif").exists()]
    if missing:
        asked = PredictSettings(
            model=settings.out / part.name / "run" / "model.safetensors",
            inputs=tuple(map(str, missing)),
            out=folder,
            output="probabilities" if protocol.metric == "isbi" else "labels",
            tta=protocol.tta,
            scale=1.0,  # the images are those of the protocol, as the paper predicts them
            device=settings.device,
            format="tif",
        )
        for event in predict_files(asked):
            yield event
            if isinstance(event, ImageFailed):
                raise DataError(
                    f"{format_path(event.path)} could not be predicted: {event.message}",
                    "all images of the protocol",
                    "correct this, then run the same command",
                )
    stack = settings.out / "test.tif"
    if part.test and not stack.exists():
        maps = [read_image(folder / f"{image_stem(p)}.tif").array for p in part.inputs]
        write_image(stack, np.concatenate(maps).astype(np.float32), axes="TYX")


def _evaluate(protocol: Protocol, predicted: Path, truth: Path, out: Path) -> Evaluation:
    from septum.evaluation.evaluate import evaluate
    from septum.evaluation.results import EvaluateSettings

    evaluation = evaluate(EvaluateSettings(predicted=(predicted,), truth=truth, metrics=(protocol.metric,), out=out))
    for failure in evaluation.results[0].failures:
        raise DataError(
            f"{format_path(failure.name)} could not be scored: {failure.message}",
            "all images of the protocol",
            "correct this, then run the same command",
        )
    return evaluation


def _score_tests(settings: ReproduceSettings, protocol: Protocol, parts: Sequence[ProtocolPart]) -> list[ResultTable]:
    """Score the test sections if their truth is given."""
    if settings.truth is None:
        return []
    if not any(p.test for p in parts):
        raise UsageError("--truth without test sections", "test/images in the data", "leave --truth out")
    predicted = settings.out / ("test" if settings.truth.is_dir() else "test.tif")
    evaluation = _evaluate(protocol, predicted, settings.truth, settings.out / "scores-test")
    return [_result_table(protocol, "test sections, model trained on all training sections", evaluation)]


def _notes(parts: Sequence[ProtocolPart], evaluation: Evaluation) -> Iterator[str]:
    """Yield notes for readers of the figures."""
    yield from dict.fromkeys(note for part in parts for note in part.notes)
    if (images := len(evaluation.results[0].images)) < _FEW:
        count = pluralize(images, "image")
        yield f"the interval is of {count} only, and too narrow: they do not show how much images differ"
    yield from evaluation.notes


def _title(protocol: Protocol, parts: Sequence[ProtocolPart]) -> str:
    if protocol.metric == "isbi":
        return f"training sections out of fold, {sum(not p.test for p in parts)} folds"
    if len(parts) == 2:
        return "gold frames of both sequences, each by the model of the other"
    return "gold frames at the end of the only sequence, unseen in training"


def _result_table(protocol: Protocol, title: str, evaluation: Evaluation) -> ResultTable:
    """Return the scores of an evaluation beside those of the paper."""
    published = {p.score: p for p in protocol.published}
    lines = []
    names = list(protocol.scores)
    names += [s.name for s in evaluation.results[0].scores if s.name.startswith("SEG ")]
    values = {s.name: s for s in evaluation.results[0].scores}
    for name in names:
        score, paper = values[name], published.get(name)
        lines.append(
            ResultLine(
                score=name,
                value=score.value,
                low=score.low,
                high=score.high,
                higher_is_better=score.higher_is_better,
                unet_2015=paper.unet if paper else None,
                next_best=paper.next_best if paper else None,
            )
        )
    scored = evaluation.results[0]
    objects = sum(o.kind == "true" for o in scored.objects) if protocol.kind == "objects" else None
    return ResultTable(title, len(scored.images), objects, tuple(lines))


def _examples(protocol: Protocol, evaluation: Evaluation, parts: Sequence[ProtocolPart]) -> Iterator[Example]:
    """Yield the worst, the median and the best image by the main score."""
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


def _versions(settings: ReproduceSettings) -> dict[str, str]:
    from septum.nn.device import find_device
    from septum.prediction.info import installation

    versions = installation()
    device = find_device(settings.device)
    return {k: versions[k] for k in ("septum", "python", "torch", "numpy")} | {
        "device": f"{device.name} ({device.why})"
    }
