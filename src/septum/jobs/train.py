"""Train: from a folder of annotated images to a model file. One loop, read from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from pydantic import Field, model_validator

import septum
from septum.errors import DataError
from septum.io.checkpoint import newest_checkpoint
from septum.jobs.check import check
from septum.jobs.clock import Clock, rate_factor
from septum.jobs.load import load_samples
from septum.jobs.model import ModelHeader, save_model
from septum.jobs.plan import Preset, find_facts, make_plan
from septum.jobs.prepare import fingerprint, prepare
from septum.jobs.records import Checked, Planned, Record, Resumed, Saved, Step, Trained, Validated, Warned
from septum.jobs.run_folder import RunFolder
from septum.jobs.split import hold_out, split_sentence
from septum.jobs.trainer import KEEP_STEPS, Trainer
from septum.jobs.validate import HeldOut
from septum.nn.device import find_device
from septum.nn.parallel import Processes, join_processes
from septum.nn.unet import for_prediction
from septum.settings import Settings

if TYPE_CHECKING:
    from septum.jobs.check import Rules

# A checkpoint is written after so many seconds; when it is written changes nothing about the training.
_SAVE_SECONDS = 60.0


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
    width, depth, tile, batch
        Values that win over the plan.
    device
        See `septum.nn.device.find_device`.
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
    device: str = "auto"

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


def train(settings: TrainSettings) -> Iterator[Record]:
    """Train a model.

    Yields
    ------
    Checked, Planned, then Step, Validated, Saved and Warned while it goes on, Trained at the end. Of several processes
    only the first yields; the others work while they are iterated over.

    Raises
    ------
    SeptumError
        If the data, an option, the device or the run folder is wrong, or the loss stops being a number time and again.
    """
    clock = Clock(settings.steps, settings.budget_s)
    processes = join_processes()
    for record in _train(settings, clock, processes):
        if processes.first:
            yield record


def _train(settings: TrainSettings, clock: Clock, processes: Processes) -> Iterator[Record]:
    """Check, plan, prepare, loop, finish."""
    device = find_device(settings.device, local_rank=processes.local_rank)
    report = check(settings.data, kind=settings.kind)
    yield Checked(report)
    samples = list(load_samples(report))
    if not samples:
        raise DataError("no image with a usable mask", "at least one", "`septum check DATA` says what is wrong")
    chosen, held_out = hold_out(samples, seed=settings.seed)
    facts = find_facts(
        samples, report.rules.kind, classes=len(report.rules.class_values), gpu=device.torch.type != "cpu"
    )
    plan, reasons = make_plan(
        facts,
        preset=settings.preset,
        width=settings.width,
        depth=settings.depth,
        tile=settings.tile,
        batch=settings.batch,
    )
    plan = plan.model_copy(update={"batch": -(-plan.batch // processes.world) * processes.world})
    folder = RunFolder(settings.out)
    made_of = {"data_fingerprint": fingerprint(samples), "seed": settings.seed, "preset": settings.preset}
    if processes.first:
        folder.claim({**settings.model_dump(mode="json", exclude={"data", "out", "device"}), **made_of})
        names = [samples[i].name for i in held_out]
        folder.write_json("plan.json", {"plan": plan.model_dump(mode="json"), "reasons": reasons, "held_out": names})
    yield Planned((split_sentence(samples, held_out), *reasons, f"device: {device.name} ({device.why})"))
    trainer = Trainer(
        plan=plan,
        seed=settings.seed,
        device=device,
        processes=processes,
        images=tuple(prepare([samples[i] for i in chosen], plan, kind=report.rules.kind)),
        held_out=HeldOut(tuple(samples[i] for i in held_out), report.rules.kind == "objects", plan, device),
    )
    del samples  # training reads the prepared copies; what is held out is kept by its user
    yield from _loop(trainer, folder, clock)
    if processes.first:
        yield from _finish(trainer, folder, clock, report.rules, made_of)


def _loop(trainer: Trainer, folder: RunFolder, clock: Clock) -> Iterator[Record]:
    """Step until the steps are done or the time is up; validate, keep and save on the way."""
    checkpoint, complaints = newest_checkpoint(folder.checkpoints)
    for complaint in complaints:
        yield Warned(complaint)
    if checkpoint is not None:
        trainer.restore(checkpoint.tensors, checkpoint.state)
        clock.resume(trainer.progress, float(str(checkpoint.state["seconds"])))
        yield Resumed(trainer.step, checkpoint.path)
    first = trainer.processes.first
    log = folder.open_log(trainer.held_out.score_names, after=trainer.step) if first else None
    validations = trainer.held_out.plan_validations(for_prediction(trainer.network), clock)
    clock.reserved_s = trainer.held_out.time_to_reserve(validations - trainer.validated)
    trainer.keep()
    saved = clock.seconds
    while clock.progress < 1:
        clock.start_step()
        loss = trainer.training_step(rate_factor(clock.progress, trainer.plan.optimizer.schedule))
        if not math.isfinite(loss):
            yield trainer.undo()
            clock.progress = trainer.progress
            continue
        clock.finish_step(trainer.step)
        clock.progress = trainer.processes.agree(clock.progress)
        trainer.advance(clock.progress)
        row: dict[str, float | int] = {
            "step": trainer.step,
            "loss": loss,
            "rate": trainer.rate,
            "seconds": clock.seconds,
        }
        yield Step(trainer.step, clock.total(trainer.step), loss, trainer.rate, clock.seconds)
        if clock.progress >= (trainer.validated + 1) / validations or clock.progress >= 1:
            scores, best = trainer.validate()
            if scores:
                yield Validated(trainer.step, clock.total(trainer.step), scores, best)
            row |= scores
            clock.reserved_s = trainer.held_out.time_to_reserve(validations - trainer.validated)
        if log is not None:
            log.append(row)
            # Only where the state is kept in memory as well: a resumed run then goes back to the same state if it must.
            if clock.seconds - saved > _SAVE_SECONDS and trainer.step % KEEP_STEPS == 0:
                saved = clock.seconds
                yield Saved(trainer.save(folder.checkpoints, clock.seconds))


def _finish(
    trainer: Trainer, folder: RunFolder, clock: Clock, rules: Rules, made_of: dict[str, Any]
) -> Iterator[Record]:
    """Tune on the held-out images with the best weights and write the model."""
    network = trainer.best_network()
    objects, scores, scored = trainer.held_out.finish(for_prediction(network), clock)
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
    save_model(folder.model, network, header)
    # JSON has no NaN: the Dice coefficient of a class that is nowhere.
    folder.write_json("scores.json", {k: v if math.isfinite(v) else None for k, v in scores.items()})
    yield Saved(trainer.save(folder.checkpoints, clock.seconds))
    yield Saved(folder.model)
    yield Trained(folder.model, scores, trainer.step, clock.seconds)
