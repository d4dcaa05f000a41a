"""Train: from a folder of annotated images to a model file. One loop, read from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError

from septum.check.check import check
from septum.check.samples import LoadedData, fingerprint, load_data
from septum.errors import DataError, FileError, ModelError, UsageError
from septum.events import Event, Warned
from septum.io.paths import format_path
from septum.io.tensors import read_model
from septum.nn.device import Device, deterministic, find_device, report_memory_shortage
from septum.predict.backend import for_scores
from septum.predict.domain_shift import TrainingDomain, training_domain
from septum.predict.model import ModelHeader, save_model
from septum.train.checkpoint import Checkpoint, newest_checkpoint
from septum.train.distributed import Processes, processes_of_this_training
from septum.train.events import Checked, Planned, Resumed, Saved, Step, Stopped, Trained, Validated
from septum.train.fingerprint import compute_fingerprint
from septum.train.interrupt import StopRequest
from septum.train.planner import plan_of_run
from septum.train.prepare import prepare
from septum.train.pretrained import read_pretrained
from septum.train.run_folder import RunFolder
from septum.train.schedule import LATEST, PATIENCE, Schedule
from septum.train.settings import TrainSettings
from septum.train.split import split
from septum.train.trainer import Trainer
from septum.train.validation import Validator
from septum.version import __version__

if TYPE_CHECKING:
    from septum.check.check import Rules
    from septum.train.log import Log

# A checkpoint is written after so many seconds; when it is written changes nothing about the training.
_SAVE_SECONDS = 60.0
# On a GPU the losses of so many steps are read at once: each reading waits until it has done all that it was given.
_UNREAD = {"cuda": 10, "mps": 10}
# The state to go back to when the loss is no longer a number is renewed after so many steps.
_KEEP_STEPS = 25
# What may change between two starts of a run. Of the model to start from not the place counts, but what it holds.
_ELSEWHERE = {"data", "out", "device", "deterministic", "compile", "from_model"}


def train(
    settings: TrainSettings, stop: StopRequest | None = None, *, loaded: LoadedData | None = None
) -> Iterator[Event]:
    """Train a model.

    Parameters
    ----------
    settings
        What to do.
    stop
        Asked between steps and between held-out images; where it was asked for, the training saves its state and ends.
    loaded
        The data, where they are open already.

    Yields
    ------
    Checked, Planned, then Step, Validated, Saved and Warned while it goes on, Trained at the end or Stopped. Of several
    processes only the first yields; the others work while they are iterated over.

    Raises
    ------
    SeptumError
        If the data, an option, the device or the run folder is wrong, the memory is not enough, another process ended,
        or the loss stops being a number time and again.
    """
    clock = Schedule(settings.steps, settings.budget_s, plateau=settings.plateau)
    with (
        report_memory_shortage("this training", "use a smaller --batch, --tile or --width, or close other programs"),
        processes_of_this_training() as processes,
        deterministic(settings.deterministic),
    ):
        for record in _train(settings, clock, processes, stop or StopRequest(), loaded):
            if processes.first:
                yield record


def _train(
    settings: TrainSettings, clock: Schedule, processes: Processes, stop: StopRequest, loaded: LoadedData | None
) -> Iterator[Event]:
    """Check, plan, prepare, loop, finish."""
    device = find_device(settings.device, local_rank=processes.local_rank)
    if settings.compile:
        _refuse_to_compile(device, processes)
    report = check(settings.data, kind=settings.kind, ignore=settings.ignore) if loaded is None else loaded.report
    yield Checked(report)
    start = None if settings.from_model is None else read_pretrained(settings.from_model)
    loaded = loaded or load_data(report)
    samples, images = loaded.samples, loaded.images
    _see_the_same(images, processes)
    chosen = split(samples, settings.split, seed=settings.seed, classes=report.rules.kind == "classes")
    if settings.plateau and not chosen.held_out:
        raise UsageError(
            "a training to a plateau without held-out images",
            "at least two annotated images, to see by one of them when it gets no better",
            "give --budget TIME or --steps N, without --early-stop",
        )
    folder = RunFolder(settings.out)
    with folder.held() if processes.first else nullcontext("") as warning:
        if warning:
            yield Warned(warning)
        made_of = {"data_fingerprint": fingerprint(images), "seed": settings.seed, "preset": settings.preset}
        made_of |= {} if start is None else {"from": start.provenance()}
        # A plan that cannot be made leaves no trace, so that the corrected command finds a new folder.
        plan, reasons = plan_of_run(
            settings,
            samples,
            rules=report.rules,
            start=start,
            folder=folder,
            device=device,
            processes=processes,
        )
        if processes.first:
            asked = settings.model_dump(mode="json", exclude=_ELSEWHERE)
            folder.claim({**asked, **made_of}, images)
            names = [samples[i].name for i in chosen.held_out]
            said = {"plan": plan.model_dump(mode="json"), "reasons": reasons, "held_out": names}
            folder.write_json("plan.json", said)
        yield Planned((chosen.sentence, *reasons, f"device: {device.name} ({device.why})"))
        checkpoint = yield from _newest(folder, processes)
        done = _finished(folder, checkpoint, made_of) if processes.first else None
        if processes.any(done is not None):
            if done is not None:
                yield done
            return
        seen = training_domain(samples, compute_fingerprint(samples, report.rules.kind, classes=2, gpu=False).object_px)
        trainer = Trainer(
            plan=plan,
            seed=settings.seed,
            device=device,
            processes=processes,
            images=tuple(prepare([samples[i] for i in chosen.train], plan, kind=report.rules.kind)),
            held_out=Validator(
                tuple(samples[i] for i in chosen.held_out), report.rules.kind == "objects", plan, device, processes
            ),
            compile=settings.compile,
        )
        if trainer.not_compiled:
            yield Warned(f"the network could not be compiled and is trained without: {trainer.not_compiled}")
        if start is not None:
            start.fill(trainer.network, keep_head=start.keeps_head(report.rules.class_values))
        del samples, loaded  # training reads the prepared copies; what is held out is kept by its user
        with stop.waits():
            stopped = yield from _loop(trainer, folder, clock, checkpoint, stop)
        if not stopped:
            yield from _finish(trainer, folder, clock, report.rules, made_of, seen)


def _refuse_to_compile(device: Device, processes: Processes) -> None:
    """Raise `UsageError` where compiling gains nothing or was never tried."""
    if device.torch.type != "cuda" or processes.world > 1:
        where = f"{processes.world} processes" if processes.world > 1 else device.name
        raise UsageError(f"--compile with {where}", "one process with an NVIDIA GPU", "leave --compile out")


def _see_the_same(images: dict[str, str], processes: Processes) -> None:
    """Raise `DataError` unless all processes see the same data."""
    own = fingerprint(images)
    if processes.any(processes.tell(own) != own):
        raise DataError(
            "the processes of this training do not see the same images",
            "one data set on a drive that all machines share",
            "copy the data to such a drive, or to the same place on all machines",
        )


def _newest(folder: RunFolder, processes: Processes) -> Generator[Event, None, Checkpoint | None]:
    """Return the newest whole checkpoint, the same in all processes; say which ones are damaged."""
    checkpoint, complaints = newest_checkpoint(folder.checkpoints)
    for complaint in complaints:
        yield Warned(complaint)
    if complaints and checkpoint is None:
        yield Warned("no checkpoint is whole: the training begins again")
    step = -1 if checkpoint is None else checkpoint.step
    if processes.any(processes.agree(step) != step):
        raise FileError(
            f"{format_path(folder.path)}: the processes of this training do not see the same checkpoints",
            "a run folder on a drive that all machines share",
            "give another -o",
        )
    return checkpoint


def _finished(folder: RunFolder, checkpoint: Checkpoint | None, made_of: dict[str, Any]) -> Trained | None:
    """Return the result of a run that has come to its end; None if it has not, or its model is gone or damaged."""
    if checkpoint is None or checkpoint.state.get("progress") != 1.0 or checkpoint.state.get("row") is not None:
        return None
    try:
        header = ModelHeader.model_validate(read_model(folder.model)[1])
    except (ModelError, ValidationError):
        return None
    made = header.training
    if made.get("steps") != checkpoint.step or any(made.get(k) != v for k, v in made_of.items()):
        return None
    return Trained(folder.model, header.scores, checkpoint.step, float(made.get("seconds", 0.0)))


def _loop(
    trainer: Trainer, folder: RunFolder, clock: Schedule, checkpoint: Checkpoint | None, stop: StopRequest
) -> Generator[Event, None, bool]:
    """Step until the steps are done or the time is up; validate, keep and save on the way. Return whether stopped."""
    first, processes = trainer.processes.first, trainer.processes
    if checkpoint is not None:
        if warning := trainer.restore(checkpoint):
            yield Warned(warning)
        clock.resume(trainer.progress, _seconds(checkpoint))
        _follow(clock, trainer)
        yield Resumed(trainer.step, checkpoint.path)
    log = None
    if first:
        log = folder.open_log(trainer.held_out.score_names, after=trainer.step - (trainer.row is not None))
        if log.missing:
            yield Warned(
                f"{format_path(folder.log)}: {log.missing} steps before step {trainer.step} were lost from the log"
            )
    validations = trainer.held_out.plan_validations(for_scores(trainer.network, trainer.device), clock)
    clock.reserved_s = trainer.held_out.time_to_reserve(validations - trainer.validated)
    clock.to_plateau = (PATIENCE - trainer.stale) * trainer.pass_steps
    if checkpoint is None:
        trainer.keep()
    saved = clock.seconds
    while not processes.any(stop.asked) and (trainer.row is not None or clock.progress < 1):
        if trainer.row is None:
            rows = yield from _steps(trainer, clock, stop, validations)
            if not rows:
                if log is not None:
                    log.cut(trainer.step)
                continue
            for row in rows[:-1]:
                if log is not None:
                    log.append(row)
            trainer.row = rows[-1]
        row = trainer.row
        if _due(trainer, clock, validations):
            found = trainer.validate(stop)
            if found is None:
                break
            scores, best = found
            if scores:
                yield Validated(trainer.step, clock.total(trainer.step), scores, best)
            row |= scores
            clock.reserved_s = trainer.held_out.time_to_reserve(validations - trainer.validated)
            clock.to_plateau = (PATIENCE - trainer.stale) * trainer.pass_steps
        if clock.plateau and clock.cooling is None and (trainer.stale >= PATIENCE or clock.progress >= LATEST):
            _cool(trainer, clock)
        if log is not None:
            log.append(row)
        trainer.row = None
        if trainer.step % _KEEP_STEPS == 0:
            trainer.keep()
            if first and clock.seconds - saved > _SAVE_SECONDS:
                saved = clock.seconds
                yield _save(trainer, folder, log, clock)
    # Also at the end: what comes then can take long, and may be stopped as well.
    if first:
        yield _save(trainer, folder, log, clock)
    if processes.any(stop.asked):
        yield Stopped(trainer.step, folder.path)
        return True
    return False


def _due(trainer: Trainer, clock: Schedule, validations: int) -> bool:
    """Say whether held-out images are to be scored now."""
    if clock.open and trainer.step % trainer.pass_steps == 0:
        return True
    return clock.progress >= 1 or (not clock.open and clock.progress >= (trainer.validated + 1) / validations)


def _cool(trainer: Trainer, clock: Schedule) -> None:
    """Let the rate go down, and keep since when with the state of the training."""
    clock.cool(trainer.step, trainer.plan.optimizer.schedule)
    trainer.progress, trainer.cooling, trainer.cooling_end = (
        clock.progress,
        clock.cooling or 0.0,
        clock.cooling_end or 0,
    )


def _follow(clock: Schedule, trainer: Trainer) -> None:
    """Set the clock to the state that a training has gone to."""
    clock.progress = trainer.progress
    clock.cooling = None if trainer.cooling < 0 else trainer.cooling
    clock.cooling_end = None if trainer.cooling < 0 else trainer.cooling_end


def _steps(
    trainer: Trainer, clock: Schedule, stop: StopRequest, validations: int
) -> Generator[Event, None, list[dict[str, float | int]]]:
    """Do steps until their losses are to be read: at the latest when held-out images are due or the state will be kept.

    Returns
    -------
    list
        A line of the log for each step; none where a loss was not a number, and all is as it was kept.
    """
    rows, losses, first = list[dict[str, float | int]](), list[torch.Tensor](), trainer.step
    while True:
        clock.start_step()
        losses.append(trainer.training_step(clock.rate_factor(trainer.step, trainer.plan.optimizer.schedule)))
        clock.finish_step(trainer.step)
        trainer.progress = clock.progress = trainer.processes.agree(clock.progress)
        rows.append({"step": trainer.step, "rate": trainer.rate, "seconds": clock.seconds})
        if (
            len(rows) >= _UNREAD.get(trainer.device.torch.type, 1)
            or trainer.step % _KEEP_STEPS == 0
            or _due(trainer, clock, validations)
            or (clock.plateau and clock.cooling is None and clock.progress >= LATEST)
            or trainer.processes.any(stop.asked)
        ):
            break
    values = torch.stack(losses).tolist()
    failed = next((i for i, loss in enumerate(values) if not math.isfinite(loss)), None)
    if failed is not None:
        yield trainer.undo(first + failed)
        _follow(clock, trainer)
        return []
    for row, loss in zip(rows, values, strict=True):
        row["loss"] = loss
        yield Step(int(row["step"]), clock.total(int(row["step"])), loss, row["rate"], row["seconds"])
    return rows


def _save(trainer: Trainer, folder: RunFolder, log: Log | None, clock: Schedule) -> Saved:
    """Write a checkpoint; the log first, whose lines must not be fewer than the steps that are done."""
    if log is not None:
        log.sync()
    return Saved(trainer.save(folder.checkpoints, clock.seconds))


def _seconds(checkpoint: Checkpoint) -> float:
    seconds = checkpoint.state.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < math.inf else 0.0


def _finish(
    trainer: Trainer, folder: RunFolder, clock: Schedule, rules: Rules, made_of: dict[str, Any], seen: TrainingDomain
) -> Iterator[Event]:
    """Tune on the held-out images with the best weights and write the model."""
    network = trainer.best_network()
    objects, scores, scored = trainer.held_out.finish(for_scores(network, trainer.device), clock)
    if not trainer.processes.first:
        return
    if scored < len(trainer.held_out.samples):
        yield Warned(f"scores are of {scored} of {len(trainer.held_out.samples)} held-out images, to keep the budget")
    training = {**made_of, "steps": trainer.step, "best_step": trainer.best_step, "seconds": round(clock.seconds, 1)}
    training |= {"septum": __version__, "torch": torch.__version__, "plan": trainer.plan.model_dump(mode="json")}
    header = ModelHeader(
        network=trainer.plan.network,
        normalization=trainer.plan.normalization,
        kind=rules.kind,
        class_values=tuple(rules.class_values) if rules.kind == "classes" else (0, 1),
        gray_as_color=rules.gray_as_color,
        pixel_size_um=rules.pixel_size_um,
        objects=objects,
        lines=trainer.plan.lines,
        scores=scores,
        seen=seen,
        training=training,
    )
    # JSON has no NaN: the Dice coefficient of a class that is nowhere.
    folder.write_json("scores.json", {k: v if math.isfinite(v) else None for k, v in scores.items()})
    # The model comes last: where it is, all is done.
    save_model(folder.model, network, header)
    yield Saved(folder.model)
    yield Trained(folder.model, scores, trainer.step, clock.seconds)
