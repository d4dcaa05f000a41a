"""Train: from a folder of annotated images to a model file. One loop, read from top to bottom."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator

import septum
from septum.errors import DataError, FileError, ModelError, UsageError
from septum.io.checkpoint import Checkpoint, newest_checkpoint
from septum.io.model_file import read_model
from septum.io.names import shown
from septum.jobs.check import check
from septum.jobs.clock import Clock, rate_factor
from septum.jobs.load import Sample, load_samples
from septum.jobs.model import ModelHeader, save_model
from septum.jobs.plan import Plan, Precision, Preset, find_facts, make_plan
from septum.jobs.prepare import fingerprint, fingerprints, prepare
from septum.jobs.records import Checked, Planned, Record, Resumed, Saved, Step, Stopped, Trained, Validated, Warned
from septum.jobs.run_folder import RunFolder
from septum.jobs.split import hold_out, split_sentence
from septum.jobs.stopping import Stop
from septum.jobs.trainer import Trainer
from septum.jobs.validate import HeldOut
from septum.nn.device import Device, enough_memory, find_device, repeatable
from septum.nn.parallel import Processes, processes_of_this_training
from septum.nn.unet import for_prediction
from septum.settings import Settings

if TYPE_CHECKING:
    from septum.jobs.check import Rules
    from septum.jobs.log import Log

# A checkpoint is written after so many seconds; when it is written changes nothing about the training.
_SAVE_SECONDS = 60.0
# On a GPU the losses of so many steps are read at once: each reading waits until it has done all that it was given.
_UNREAD = {"cuda": 10, "mps": 10}
# The state to go back to when the loss is no longer a number is renewed after so many steps.
_KEEP_STEPS = 25


class TrainSettings(Settings):
    """What to train on and for how long.

    Parameters
    ----------
    data
        A folder with images and masks, two folders, two stacks, or a Cell Tracking Challenge data set.
    out
        Run folder; the same command on the same folder goes on where it stopped.
    preset
        ``"auto"`` follows the data; ``"paper"`` and ``"fiji"`` are fixed.
    steps, budget_s
        Exactly one: the number of steps, or seconds for the whole training.
    seed
        Of everything random.
    kind
        What masks hold; read from their values where not given.
    width, depth, tile, batch, precision
        Values that win over the plan.
    device
        See `septum.nn.device.find_device`.
    deterministic
        Use repeatable algorithms only; slower on GPUs, refused where there are none. CPUs always repeat.
    """

    data: tuple[Path, ...]
    out: Path
    preset: Preset = "auto"
    steps: int | None = Field(default=None, ge=1)
    budget_s: float | None = Field(default=1800.0, gt=0)
    seed: int = Field(default=0, ge=0)
    kind: Literal["objects", "classes"] | None = None
    width: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1, le=8)
    tile: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1)
    precision: Precision | None = None
    device: str = "auto"
    deterministic: bool = False

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is not None:
            return {"budget_s": None, **values}
        return values

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if (self.steps is None) == (self.budget_s is None):
            raise ValueError("give steps or budget_s, not both and not neither")
        return self


def train(settings: TrainSettings, stop: Stop | None = None) -> Iterator[Record]:
    """Train a model.

    Parameters
    ----------
    settings
        What to do.
    stop
        Asked between steps and between held-out images; where it was asked for, the training saves its state and ends.

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
    clock = Clock(settings.steps, settings.budget_s)
    with (
        enough_memory("this training", "use a smaller --batch, --tile or --width, or close other programs"),
        processes_of_this_training() as processes,
        repeatable(settings.deterministic),
    ):
        for record in _train(settings, clock, processes, stop or Stop()):
            if processes.first:
                yield record


def _train(settings: TrainSettings, clock: Clock, processes: Processes, stop: Stop) -> Iterator[Record]:
    """Check, plan, prepare, loop, finish."""
    device = find_device(settings.device, local_rank=processes.local_rank)
    report = check(settings.data, kind=settings.kind)
    yield Checked(report)
    samples = list(load_samples(report))
    if not samples:
        raise DataError("no image with a usable mask", "at least one", "`septum check DATA` says what is wrong")
    images = fingerprints(samples)
    _see_the_same(images, processes)
    folder = RunFolder(settings.out)
    with folder.held() if processes.first else nullcontext("") as warning:
        if warning:
            yield Warned(warning)
        made_of = {"data_fingerprint": fingerprint(images), "seed": settings.seed, "preset": settings.preset}
        if processes.first:
            asked = settings.model_dump(mode="json", exclude={"data", "out", "device", "deterministic"})
            folder.claim({**asked, **made_of}, images)
        chosen, held_out = hold_out(samples, seed=settings.seed)
        plan, reasons = _plan(settings, samples, report.rules, folder, device, processes)
        if processes.first:
            names = [samples[i].name for i in held_out]
            said = {"plan": plan.model_dump(mode="json"), "reasons": reasons, "held_out": names}
            folder.write_json("plan.json", said)
        yield Planned((split_sentence(samples, held_out), *reasons, f"device: {device.name} ({device.why})"))
        checkpoint = yield from _newest(folder, processes)
        done = _finished(folder, checkpoint, made_of) if processes.first else None
        if processes.any(done is not None):
            if done is not None:
                yield done
            return
        trainer = Trainer(
            plan=plan,
            seed=settings.seed,
            device=device,
            processes=processes,
            images=tuple(prepare([samples[i] for i in chosen], plan, kind=report.rules.kind)),
            held_out=HeldOut(
                tuple(samples[i] for i in held_out), report.rules.kind == "objects", plan, device, processes
            ),
        )
        del samples  # training reads the prepared copies; what is held out is kept by its user
        with stop.waits():
            stopped = yield from _loop(trainer, folder, clock, checkpoint, stop)
        if not stopped:
            yield from _finish(trainer, folder, clock, report.rules, made_of)


def _see_the_same(images: dict[str, str], processes: Processes) -> None:
    """Raise `DataError` unless all processes see the same data."""
    own = fingerprint(images)
    if processes.any(processes.tell(own) != own):
        raise DataError(
            "the processes of this training do not see the same images",
            "one data set on a drive that all machines share",
            "copy the data to such a drive, or to the same place on all machines",
        )


def _plan(
    settings: TrainSettings,
    samples: Sequence[Sample],
    rules: Rules,
    folder: RunFolder,
    device: Device,
    processes: Processes,
) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan of an earlier start of this run, or make one; the same in all processes.

    A run that goes on elsewhere, with or without a GPU, keeps its network and its batch.
    """
    plan, reasons = (folder.read_plan() if processes.first else None) or _new_plan(settings, samples, rules, device)
    if settings.batch is None and not (folder.path / "plan.json").exists():
        plan = plan.model_copy(update={"batch": -(-plan.batch // processes.world) * processes.world})
    said = json.loads(processes.tell(json.dumps([plan.model_dump(mode="json"), reasons])))
    plan, reasons = Plan.model_validate(said[0]), tuple(said[1])
    if plan.batch < processes.world:
        raise UsageError(
            f"{processes.world} processes for {plan.batch} tile{'s' * (plan.batch > 1)} a step",
            "at least one tile for each process",
            f"start {plan.batch} process{'es' * (plan.batch > 1)}, or a new run with a larger --batch",
        )
    return plan, reasons


def _new_plan(
    settings: TrainSettings, samples: Sequence[Sample], rules: Rules, device: Device
) -> tuple[Plan, tuple[str, ...]]:
    if settings.precision == "bfloat16" and not device.bfloat16:
        raise UsageError(
            f"--precision bfloat16 on {device.name}",
            "a GPU that computes in bfloat16, or a processor with a matrix unit for it (AMX)",
            "leave --precision out",
        )
    facts = find_facts(
        samples,
        rules.kind,
        classes=len(rules.class_values),
        gpu=device.torch.type != "cpu",
        bfloat16=device.bfloat16,
    )
    return make_plan(
        facts,
        preset=settings.preset,
        width=settings.width,
        depth=settings.depth,
        tile=settings.tile,
        batch=settings.batch,
        precision=settings.precision,
    )


def _newest(folder: RunFolder, processes: Processes) -> Generator[Record, None, Checkpoint | None]:
    """Return the newest whole checkpoint, the same in all processes; say which ones are damaged."""
    checkpoint, complaints = newest_checkpoint(folder.checkpoints)
    for complaint in complaints:
        yield Warned(complaint)
    if complaints and checkpoint is None:
        yield Warned("no checkpoint is whole: the training begins again")
    step = -1 if checkpoint is None else checkpoint.step
    if processes.any(processes.agree(step) != step):
        raise FileError(
            f"{shown(folder.path)}: the processes of this training do not see the same checkpoints",
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
    trainer: Trainer, folder: RunFolder, clock: Clock, checkpoint: Checkpoint | None, stop: Stop
) -> Generator[Record, None, bool]:
    """Step until the steps are done or the time is up; validate, keep and save on the way. Return whether stopped."""
    first, processes = trainer.processes.first, trainer.processes
    if checkpoint is not None:
        if warning := trainer.restore(checkpoint):
            yield Warned(warning)
        clock.resume(trainer.progress, _seconds(checkpoint))
        yield Resumed(trainer.step, checkpoint.path)
    log = None
    if first:
        log = folder.open_log(trainer.held_out.score_names, after=trainer.step - (trainer.row is not None))
        if log.missing:
            yield Warned(f"{shown(folder.log)}: {log.missing} steps before step {trainer.step} were lost from the log")
    validations = trainer.held_out.plan_validations(for_prediction(trainer.network), clock)
    clock.reserved_s = trainer.held_out.time_to_reserve(validations - trainer.validated)
    if checkpoint is None:
        trainer.keep()
    saved = clock.seconds
    while not processes.any(stop.asked) and (trainer.row is not None or clock.progress < 1):
        if trainer.row is None:
            due = (trainer.validated + 1) / validations
            rows = yield from _steps(trainer, clock, stop, due)
            if not rows:
                if log is not None:
                    log.cut(trainer.step)
                continue
            for row in rows[:-1]:
                if log is not None:
                    log.append(row)
            trainer.row = rows[-1]
        row = trainer.row
        if clock.progress >= (trainer.validated + 1) / validations or clock.progress >= 1:
            found = trainer.validate(stop)
            if found is None:
                break
            scores, best = found
            if scores:
                yield Validated(trainer.step, clock.total(trainer.step), scores, best)
            row |= scores
            clock.reserved_s = trainer.held_out.time_to_reserve(validations - trainer.validated)
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


def _steps(
    trainer: Trainer, clock: Clock, stop: Stop, due: float
) -> Generator[Record, None, list[dict[str, float | int]]]:
    """Do steps until their losses are to be read: at the latest when progress is `due` or the state will be kept.

    Returns
    -------
    list
        A line of the log for each step; none where a loss was not a number, and all is as it was kept.
    """
    rows, losses, first = list[dict[str, float | int]](), list[torch.Tensor](), trainer.step
    while True:
        clock.start_step()
        losses.append(trainer.training_step(rate_factor(clock.progress, trainer.plan.optimizer.schedule)))
        clock.finish_step(trainer.step)
        trainer.progress = clock.progress = trainer.processes.agree(clock.progress)
        rows.append({"step": trainer.step, "rate": trainer.rate, "seconds": clock.seconds})
        if (
            len(rows) >= _UNREAD.get(trainer.device.torch.type, 1)
            or trainer.step % _KEEP_STEPS == 0
            or clock.progress >= min(due, 1)
            or trainer.processes.any(stop.asked)
        ):
            break
    values = torch.stack(losses).tolist()
    failed = next((i for i, loss in enumerate(values) if not math.isfinite(loss)), None)
    if failed is not None:
        yield trainer.undo(first + failed)
        clock.progress = trainer.progress
        return []
    for row, loss in zip(rows, values, strict=True):
        row["loss"] = loss
        yield Step(int(row["step"]), clock.total(int(row["step"])), loss, row["rate"], row["seconds"])
    return rows


def _save(trainer: Trainer, folder: RunFolder, log: Log | None, clock: Clock) -> Saved:
    """Write a checkpoint; the log first, whose lines must not be fewer than the steps that are done."""
    if log is not None:
        log.sync()
    return Saved(trainer.save(folder.checkpoints, clock.seconds))


def _seconds(checkpoint: Checkpoint) -> float:
    seconds = checkpoint.state.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < math.inf else 0.0


def _finish(
    trainer: Trainer, folder: RunFolder, clock: Clock, rules: Rules, made_of: dict[str, Any]
) -> Iterator[Record]:
    """Tune on the held-out images with the best weights and write the model."""
    network = trainer.best_network()
    objects, scores, scored = trainer.held_out.finish(for_prediction(network), clock)
    if not trainer.processes.first:
        return
    if scored < len(trainer.held_out.samples):
        yield Warned(f"scores are of {scored} of {len(trainer.held_out.samples)} held-out images, to keep the budget")
    training = {**made_of, "steps": trainer.step, "best_step": trainer.best_step, "seconds": round(clock.seconds, 1)}
    training |= {"septum": septum.__version__, "torch": torch.__version__, "plan": trainer.plan.model_dump(mode="json")}
    header = ModelHeader(
        network=trainer.plan.network,
        normalization=trainer.plan.normalization,
        kind=rules.kind,
        class_values=tuple(rules.class_values) if rules.kind == "classes" else (0, 1),
        gray_as_color=rules.gray_as_color,
        pixel_size_um=rules.pixel_size_um,
        objects=objects,
        scores=scores,
        training=training,
    )
    # JSON has no NaN: the Dice coefficient of a class that is nowhere.
    folder.write_json("scores.json", {k: v if math.isfinite(v) else None for k, v in scores.items()})
    # The model comes last: where it is, all is done.
    save_model(folder.model, network, header)
    yield Saved(folder.model)
    yield Trained(folder.model, scores, trainer.step, clock.seconds)
