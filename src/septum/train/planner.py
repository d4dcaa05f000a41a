"""The plan of a run: that of an earlier start, or a new one from the data, the device and what was asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from septum.errors import UsageError
from septum.train.fingerprint import compute_fingerprint, data_facts
from septum.train.machine import fit_memory, fit_width, training_limit
from septum.train.plan import Plan, make_plan, plan_lines
from septum.train.pretrained import Pretrained, see_it_fits

if TYPE_CHECKING:
    from septum.check.label_kind import Rules
    from septum.check.samples import Sample
    from septum.nn.device import Device
    from septum.train.distributed import Processes
    from septum.train.run_folder import RunFolder
    from septum.train.settings import TrainSettings

# Scorings of a training that may end early: a plateau is five of them.
_TO_SEE_A_PLATEAU = 20

Reasoned = tuple[Plan, tuple[str, ...]]


def plan_of_run(
    settings: TrainSettings,
    samples: Sequence[Sample],
    *,
    rules: Rules,
    start: Pretrained | None,
    folder: RunFolder,
    device: Device,
    processes: Processes,
) -> Reasoned:
    """Return the plan of an earlier start of this run, or make one; the same in all processes.

    A run that goes on elsewhere, with or without a GPU, keeps its network and its batch.

    Parameters
    ----------
    settings
        What was asked for.
    samples, rules
        All annotated images, and what their masks mean.
    start
        The model that training starts from.
    folder, device, processes
        Of the run.

    Returns
    -------
    plan, reasons
        The plan and, for people, one sentence a choice.

    Raises
    ------
    UsageError
        If something asked for does not fit the data, the model or the number of processes.
    """
    plan, reasons = (folder.read_plan() if processes.first else None) or _new_plan(
        settings, samples, rules, start, device
    )
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
    settings: TrainSettings, samples: Sequence[Sample], rules: Rules, start: Pretrained | None, device: Device
) -> Reasoned:
    if settings.precision == "bfloat16" and not device.bfloat16:
        raise UsageError(
            f"--precision bfloat16 on {device.name}",
            "a GPU that computes in bfloat16, or a processor with a matrix unit for it (AMX)",
            "leave --precision out",
        )
    facts = compute_fingerprint(
        samples,
        rules.kind,
        classes=len(rules.class_values),
        gpu=device.torch.type != "cpu",
        bfloat16=device.bfloat16,
    )
    said = data_facts(samples, rules.kind, classes=facts.classes).lines()
    if start is not None:
        see_it_fits(start, rank=len(facts.sides), width=settings.width, depth=settings.depth, values=settings.set)
        network = start.network_for(facts.channels, facts.classes)
        facts = replace(facts, network=network, normalization=start.header.normalization)
        said += start.lines(facts.channels, rules.class_values)
    plan, reasons = make_plan(
        facts,
        preset=settings.preset,
        width=settings.width,
        depth=settings.depth,
        tile=settings.tile,
        batch=settings.batch,
        precision=settings.precision,
        values=settings.set,
    )
    if plan.lines and rules.kind == "objects":
        raise UsageError("--set lines=true with masks of object ids", "masks of two classes", "leave it out")
    named = {value.partition("=")[0].strip() for value in settings.set}
    if settings.preset == "auto" and settings.tile is None and settings.batch is None and not named & {"tile", "batch"}:
        plan, limited = fit_memory(plan, training_limit(device))
        reasons += limited
    if settings.early_stop and "validations" not in named:
        plan = plan.model_copy(update={"validations": _TO_SEE_A_PLATEAU})
    if settings.budget_s is not None and _width_is_free(settings, start):
        plan, reason = fit_width(plan, device, settings.budget_s)
        reasons = (reason, *(line for line in reasons if not line.startswith("width ")))
    return plan, (*said, *reasons, *plan_lines(plan))


def _width_is_free(settings: TrainSettings, start: Pretrained | None) -> bool:
    """Say whether the time may decide the width: only where time is what was given, so that steps repeat exactly."""
    named = any(value.startswith("network.width") for value in settings.set)
    return settings.preset == "auto" and settings.width is None and start is None and not named
