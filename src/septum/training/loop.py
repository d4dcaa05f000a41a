"""Train: from a folder of annotated images to a model file. One loop, read from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from septum.check.check import check_data
from septum.check.label_kind import Rules
from septum.check.samples import LoadedData, fingerprint, load_data
from septum.errors import DataError
from septum.events import Event, Warned, Working
from septum.io.formats import format_path
from septum.nn.device import deterministic, find_device, report_memory_shortage, reused_memory
from septum.pairing.parts import describe_parts
from septum.pairing.sample import learnable
from septum.prediction.backend import for_scores
from septum.prediction.domain_shift import TrainingDomain, training_domain
from septum.prediction.model import ModelHeader, save_model
from septum.training.checkpoint import Checkpoint, StepLog, agreed_checkpoint
from septum.training.distributed import Processes, check_compilable, processes_of_this_training
from septum.training.events import Checked, Finished, Maps, Planned, Resumed, Saved, Step, Stopped, Trained, Validated
from septum.training.interrupt import StopRequest
from septum.training.planner import check_step_memory, describe_memory, memory_for_images, on_working_grid, plan_of_run
from septum.training.prepare import prepare
from septum.training.pretrained import Pretrained, Trial, read_pretrained
from septum.training.run_folder import RunFolder, is_trained
from septum.training.schedule import PATIENCE, TIMED_STEPS, Schedule, nothing_learned, require_held_out, short_budget
from septum.training.settings import MEMORY_ADVICE, TrainSettings
from septum.training.split import Split, require_objects, split
from septum.training.trainer import Trainer
from septum.training.validation import Validator
from septum.version import __version__
from septum.words import pluralize

SAVE_SECONDS = 60.0
"""A checkpoint is written after this time; when it is written does not change the training."""
UNREAD_LOSSES = {"cuda": 10, "mps": 10}
"""Losses that stay unread on a GPU: reading one waits until the GPU has done everything before it."""
KEEP_STEPS = 25
"""The state to roll back to is renewed after this number of steps."""


def train(
    settings: TrainSettings, stop: StopRequest | None = None, *, loaded: LoadedData | None = None
) -> Iterator[Event]:
    """Train a model.

    Parameters
    ----------
    settings
        Data, run folder and options.
    stop
        Polled between steps and between validation images; once requested, the training saves its state and ends.
    loaded
        The data, if they are loaded already.

    Yields
    ------
    Event
        Checked, Planned, then Step, Validated, Saved and Warned in between, and at the end Trained or Stopped. Of
        several processes only the first yields; the others work while they are iterated over.

    Raises
    ------
    SeptumError
        If the data, a setting, the device or the run folder is wrong, memory runs out, another process ended, or the
        loss is not a finite number in spite of rollbacks.
    """
    schedule = Schedule(settings.steps, settings.budget_s, plateau=settings.ends_at_plateau)
    with (
        report_memory_shortage("this training", MEMORY_ADVICE),
        processes_of_this_training() as processes,
        deterministic(settings.deterministic),
        reused_memory(),
    ):
        for event in _train(settings, schedule, processes, stop or StopRequest(), loaded):
            if processes.first:
                yield event


def _train(
    settings: TrainSettings, schedule: Schedule, processes: Processes, stop: StopRequest, loaded: LoadedData | None
) -> Iterator[Event]:
    """Check the data, plan, prepare images, train, finish; the generator behind `train` in every process."""
    device = find_device(settings.device, local_rank=processes.local_rank)
    if settings.compile:
        check_compilable(device, processes)
    loaded, start, parts = yield from _open_data(settings, processes, loaded)
    rules, folder = loaded.report.rules, RunFolder(settings.out)
    with folder.lock() if processes.first else nullcontext("") as warning:
        if warning:
            yield Warned(warning)
        samples, figures, start = on_working_grid(settings, loaded, start=start, folder=folder, processes=processes)
        # A plan that cannot be made leaves no trace, so that the corrected command finds a new folder.
        plan, reasons, start = plan_of_run(
            settings, figures, rules, start=start, folder=folder, device=device, processes=processes
        )
        check_step_memory(settings, plan, device, processes)
        origin: dict[str, Any] = {"data_fingerprint": fingerprint(loaded.images)}
        origin |= {} if start is None else {"from": start.provenance()}
        if processes.first:
            folder.check_same_settings(settings, loaded.images, origin)
        origin |= {"seed": settings.seed, "preset": settings.preset}
        checkpoint = yield from agreed_checkpoint(folder.checkpoints, processes)
        done = folder.finished(checkpoint, origin) if processes.first else None
        if processes.first and done is None:
            names, name = [samples[i].name for i in parts.held_out], None if start is None else start.name
            folder.write_plan(plan, reasons, held_out=names, start=name, begun=checkpoint is not None)
        lines = (parts.sentence, *reasons, f"device: {device.name} ({device.why})", *describe_memory(loaded))
        yield Planned(lines if done is None else (folder.split_sentence(len(loaded.samples)),))
        if processes.any(done is not None):
            yield from () if done is None else (Finished(done.steps, done.model), done)
            return
        yield Working("preparing the images")
        domain = training_domain(loaded.samples, figures.own_px, common=plan.normalization.method == "common")
        held_out, taught = (tuple(samples[i] for i in part) for part in (parts.held_out, parts.train))
        validator = Validator(held_out, rules.kind == "objects", plan, device, processes, learnable(taught, rules.kind))
        trainer = Trainer(
            plan=plan,
            seed=settings.seed,
            device=device,
            processes=processes,
            images=prepare(taught, plan, kind=rules.kind),
            validator=validator,
            compile=settings.compile,
        )
        if trainer.not_compiled:
            yield Warned(f"the network could not be compiled and is trained without: {trainer.not_compiled}")
        known = start is not None and start.keeps_head(rules.class_values)
        if start is not None:
            start.fill(trainer.network, keep_head=known)
        del samples, loaded, taught  # training reads the prepared copies, and the validator has its own samples
        session = _Session(trainer, folder, schedule, stop, starts_trained=known)
        schedule.activities_s["preparing"] = schedule.seconds
        with stop.polled():
            stopped = yield from session.run(checkpoint)
        if not stopped:
            yield from _finish(session, rules, origin, domain)


def _open_data(
    settings: TrainSettings, processes: Processes, loaded: LoadedData | None
) -> Generator[Event, None, tuple[LoadedData, Pretrained | Trial | None, Split]]:
    """Check and load the data, load the model to start from, and split the images."""
    if loaded is None:
        yield Working("opening every file")
    report = check_data(settings, memory_for_images(settings, processes)) if loaded is None else loaded.report
    yield Checked(report)
    given = settings.from_model
    start: Pretrained | Trial | None = read_pretrained(given) if isinstance(given, Path) else None
    loaded = loaded or load_data(report)
    if not processes.all_equal(fingerprint(loaded.images)):
        raise DataError(
            "the processes of this training do not see the same images",
            "one data set on a drive that all machines share",
            "copy the data to such a drive, or to the same place on all machines",
        )
    parts = split(loaded.samples, settings.split, seed=settings.seed, kind=report.rules.kind)
    report.files.hold(loaded.samples[i].name for i in parts.held_out)  # for the report at the end
    if given is None:
        start = Trial(loaded.samples, tuple(loaded.samples[i] for i in parts.held_out))
    if not is_trained(settings.out):  # a finished run may be of an earlier version, which divided the images otherwise
        if report.rules.kind == "objects":
            require_objects(loaded.samples, parts, settings.split)
        if parts.warning:
            yield Warned(parts.warning)
        if settings.ends_at_plateau:
            require_held_out(len(parts.held_out))
    return loaded, start, parts


@dataclass
class _Session:
    """One start of a training: from the first step, or from a checkpoint, to the end or to a stop."""

    trainer: Trainer
    folder: RunFolder
    schedule: Schedule
    stop: StopRequest
    log: StepLog | None = None
    validations: int = 0
    prepared_s: float = 0.0
    judged: bool = False
    starts_trained: bool = False

    def run(self, checkpoint: Checkpoint | None) -> Generator[Event, None, bool]:
        """Step until the training is done; validate, keep and save on the way. Return True if it was stopped."""
        trainer, schedule = self.trainer, self.schedule
        counters, processes = trainer.counters, trainer.processes
        with schedule.spend("preparing"):
            yield from self._begin(checkpoint)
        if counters.step == 0 and counters.best is None:  # new, or stopped before the start was scored
            if self.starts_trained:  # so that a short training does not end with worse weights than it began with
                with schedule.spend("validating"):
                    yield from self._validate({})
            trainer.state.keep()
        saved = schedule.seconds
        while not processes.any(self.stop.requested) and (counters.row is not None or schedule.progress < 1):
            if counters.row is None:
                with schedule.spend("steps"):
                    rows = yield from self._steps()
                if not rows:
                    continue
                for row in rows[:-1]:
                    self._append(row)
                counters.row = rows[-1]
                yield from self._judge_budget()
            if self._validation_is_due():
                with schedule.spend("validating"):
                    stopped = not (yield from self._validate(counters.row))
                if stopped:
                    break
            if schedule.anneal_is_due(counters.no_improvement, learned=counters.reference > 0):
                schedule.anneal(counters.step, trainer.plan.optimizer.schedule)
                counters.progress = schedule.progress
                counters.anneal_start, counters.anneal_end = schedule.anneal_start, schedule.anneal_end
            self._append(counters.row)
            counters.row = None
            if counters.step % KEEP_STEPS == 0:
                trainer.state.keep()
                if processes.first and schedule.seconds - saved > SAVE_SECONDS:
                    saved = schedule.seconds
                    yield self._save()
        # Also at the end: tuning and scoring can take long, and may be stopped as well.
        if processes.first:
            yield self._save()
        if stopped := processes.any(self.stop.requested):
            yield Stopped(counters.step, self.folder.path)
        return stopped

    def _begin(self, checkpoint: Checkpoint | None) -> Iterator[Event]:
        """Go to the state of the checkpoint, open the log and plan the validations."""
        trainer, validator = self.trainer, self.trainer.validator
        if checkpoint is not None:
            if warning := trainer.restore(checkpoint):
                yield Warned(warning)
            self.schedule.resume(trainer.counters.progress, checkpoint.spent_s, checkpoint.activities_s)
            self._set_schedule()
            yield Resumed(trainer.counters.step, checkpoint.path)
        if trainer.processes.first:
            logged = trainer.counters.step - (trainer.counters.row is not None)
            self.log = self.folder.open_log(validator.score_names, after=logged)
            if self.log.missing:
                lacking = f"lacks {pluralize(self.log.missing, 'step')} before step {trainer.counters.step}"
                yield Warned(f"{format_path(self.folder.log)}: {lacking}")
        self.validations = trainer.plan_validations(self.schedule)
        if text := describe_parts(validator.samples, validator.most_scored):
            yield Warned(text)
        self._reserve()
        self.prepared_s = self.schedule.seconds

    def _set_schedule(self) -> None:
        """Set the schedule to the counters of a state that was restored."""
        counters = self.trainer.counters
        self.schedule.progress, self.schedule.anneal_start = counters.progress, counters.anneal_start
        self.schedule.anneal_end = None if counters.anneal_start is None else counters.anneal_end

    def _reserve(self) -> None:
        """Reserve time for the remaining validations, and count the steps to a plateau."""
        counters, validator = self.trainer.counters, self.trainer.validator
        start = int(counters.start is not None)
        self.validations = validator.affordable(self.validations, counters.validated, self.schedule, start=start)
        self.schedule.reserved_s = validator.time_to_reserve(self.validations - counters.validated)
        self.schedule.to_plateau = max(1, PATIENCE - counters.no_improvement) * self.trainer.pass_steps

    def _judge_budget(self) -> Iterator[Event]:
        """Warn once, as soon as some steps were timed, if too few of them fit into the budget."""
        if self.judged or self.trainer.counters.step < TIMED_STEPS or self.schedule.progress >= 1:
            return
        self.judged = True
        if text := short_budget(self.schedule, self.trainer.counters.step, prepared_s=self.prepared_s, ended=False):
            yield Warned(text)

    def _append(self, row: dict[str, float | int]) -> None:
        if self.log is not None:
            self.log.append(row)

    def _validation_is_due(self) -> bool:
        """Return True if held-out images are to be scored after this step."""
        schedule, counters = self.schedule, self.trainer.counters
        if schedule.open_ended:
            return schedule.progress >= 1 or counters.step % self.trainer.pass_steps == 0
        return schedule.progress >= 1 or schedule.progress >= (counters.validated + 1) / self.validations

    def _validate(self, row: dict[str, float | int]) -> Generator[Event, None, bool]:
        """Score held-out images and add the scores to the row; return False if a stop was requested before the end."""
        trainer = self.trainer
        yield Working("scoring held-out images")
        result = trainer.validate(self.stop)
        if result is None:
            return False
        scores, best = result
        if scores:
            yield Validated(trainer.counters.step, self.schedule.total(trainer.counters.step), scores, best)
        row |= scores
        self._reserve()
        return True

    def _steps(self) -> Generator[Event, None, list[dict[str, float | int]]]:
        """Step until the losses must be read: at the latest when a validation is due or the state will be kept.

        Returns
        -------
        list
            A line of the log for each step; empty if a loss was not a finite number and the state was rolled back.
        """
        trainer, schedule, counters = self.trainer, self.schedule, self.trainer.counters
        rows, losses, first = list[dict[str, float | int]](), list[torch.Tensor](), counters.step
        while True:
            schedule.start_step()
            rate_factor = schedule.rate_factor(counters.step, trainer.plan.optimizer.schedule)
            losses.append(trainer.training_step(rate_factor))
            schedule.finish_step(counters.step)
            counters.progress = schedule.progress = trainer.processes.broadcast(schedule.progress)
            rows.append({"step": counters.step, "rate": trainer.rate, "seconds": schedule.seconds})
            if (
                len(rows) >= UNREAD_LOSSES.get(trainer.device.torch.type, 1)
                or counters.step % KEEP_STEPS == 0
                or self._validation_is_due()
                or schedule.anneal_is_due(0, learned=True)
                or trainer.processes.any(self.stop.requested)
            ):
                break
        values = torch.stack(losses).tolist()
        failed = next((i for i, loss in enumerate(values) if not math.isfinite(loss)), None)
        if failed is not None:
            yield trainer.state.roll_back(first + failed)
            self._set_schedule()
            if self.log is not None:
                self.log.truncate(counters.step)
            return []
        for row, loss in zip(rows, values, strict=True):
            row["loss"] = loss
            yield Step(int(row["step"]), schedule.total(int(row["step"])), loss, row["rate"], row["seconds"])
        return rows

    def _save(self) -> Saved:
        """Write a checkpoint; first the log, which must not have fewer lines than the checkpoint has steps."""
        if self.log is not None:
            self.log.sync()
        return Saved(self.trainer.save(self.folder.checkpoints, self.schedule))


def _finish(session: _Session, rules: Rules, origin: dict[str, Any], domain: TrainingDomain) -> Iterator[Event]:
    """Tune on the held-out images with the best weights and write the model."""
    trainer, folder, schedule = session.trainer, session.folder, session.schedule
    counters, network = trainer.counters, trainer.best_network()
    short = short_budget(schedule, counters.step, prepared_s=session.prepared_s)
    for warning in (short, nothing_learned(schedule, counters.step, learned=counters.reference > 0)):
        if warning:
            yield Warned(warning)
    yield Working("tuning and scoring on the held-out images")
    with schedule.spend("finishing"):
        made = for_scores(network, trainer.device)
        objects, scores, scored = trainer.validator.finish(made, schedule, step=counters.best_step)
    if not trainer.processes.first:
        return
    held_out, plan = len(trainer.validator.samples), trainer.plan
    if scored < held_out:
        yield Warned(f"scores are of {scored} of {held_out} held-out images or parts of them, to keep the budget")
    if trainer.validator.stopped:
        yield Warned("tuning was stopped to keep the budget: objects are made with the best settings of those tried")
    if trainer.state.best_weights and not counters.best_step:
        yield Warned("the model has the weights of its start: no later ones scored as well; give it more time or steps")
    training = {**origin, "steps": counters.step, "best_step": counters.best_step}
    spent = {activity: round(seconds, 1) for activity, seconds in schedule.activities_s.items()}
    training |= {"seconds": round(schedule.seconds, 1), "activities_s": spent, "septum": __version__}
    training |= {"torch": torch.__version__, "plan": plan.model_dump(mode="json")}
    training |= {} if counters.start is None else {"start_scores": counters.start}
    header = ModelHeader(
        **rules.reading,
        network=plan.network,
        normalization=plan.normalization,
        kind=rules.kind,
        class_values=tuple(rules.class_values) if rules.kind == "classes" else (0, 1),
        pixel_size_um=rules.pixel_size_um,
        objects=objects,
        lines=plan.lines,
        scores=scores,
        domain=domain,
        scale=plan.scale,
        training=training,
    )
    # JSON has no NaN, the Dice coefficient of a class that no image has.
    folder.write_json("scores.json", {k: v if math.isfinite(v) else None for k, v in scores.items()})
    # The model comes last: if it exists, everything is done.
    save_model(folder.model, network, header)
    yield Saved(folder.model)
    yield Maps(trainer.validator.predicted)
    yield Trained(folder.model, scores, counters.step, schedule.seconds, schedule.activities_s)
