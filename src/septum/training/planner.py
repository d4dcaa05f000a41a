"""The plan of a run: that of an earlier start, or a new one from the data, the device and the settings."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import torch

from septum import seeding
from septum.check.issues import format_shape
from septum.check.label_kind import Rules
from septum.check.samples import LoadedData, bytes_of_pixel
from septum.cpu.training import for_training, step_threads
from septum.errors import UsageError
from septum.kept import Memory
from septum.models.named import file_of
from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.device import Device
from septum.nn.optimizer import Optimizer
from septum.nn.unet import UNet
from septum.pairing.sample import Sample, StoredSample, on_grid
from septum.prediction.memory import bytes_for_images, resident_bytes, total_bytes, training_bytes, usual_limit
from septum.training.distributed import Processes
from septum.training.fingerprint import Fingerprint, compute_fingerprint
from septum.training.plan import Plan, describe_plan, smallest_tile
from septum.training.presets import LEAST_COARSE, Reasons, make_plan, working_scale
from septum.training.pretrained import Pretrained, Trial, check_compatible, read_pretrained
from septum.training.run_folder import RunFolder
from septum.training.settings import TrainSettings
from septum.words import format_bytes, pluralize

# Validations of a training that may end early: five of them make a plateau.
_PLATEAU_VALIDATIONS = 20

# A wider network is chosen if at least this many of its steps fit into the budget.
_MIN_STEPS = 4000
# Multiples of the processor's vectors: widths between them train slower (see `septum.cpu.training`).
_WIDTHS = (16, 32, 64)
# Share of the budget that timing may take, and the share of the budget that goes into steps.
_TIMING_SHARE, _STEPS_SHARE = 0.02, 0.75
# Steps to time; the first one includes the setup, the fastest of the others counts.
_TIMED_STEPS = 3

# Models that come with Septum to start a training from, by what the masks show; and the least score before the first
# step: AP50 of objects, V_Rand of areas between lines. Models of one set reached an AP50 of 0.5 on a related set and at
# most 0.15 on others (docs/explanation/training.md).
STARTS = {"objects": ("nuclei", "cells"), "lines": ("membranes",)}
_SCORES = {"objects": "AP50", "lines": "V_Rand"}
LEAST_SCORE = {"objects": 0.3, "lines": 0.5}

# A tile whose output has no longer side is not divided further, in pixels.
_SMALLEST_OUTPUT = 16


def on_working_grid(
    settings: TrainSettings,
    loaded: LoadedData,
    *,
    start: Pretrained | Trial | None,
    folder: RunFolder,
    processes: Processes,
) -> tuple[tuple[Sample, ...], Fingerprint, Pretrained | Trial | None]:
    """Bring all samples to the working grid (`septum.training.plan.Plan.scale`).

    Its scale is that of an earlier start of this run, or it follows from the images: also where another model gives the
    first weights, as it may have learned objects of another width.

    Parameters
    ----------
    loaded
        All annotated images, on their own grid, and what their masks mean.
    settings, start, folder, processes
        As for `plan_of_run`.

    Returns
    -------
    samples, fingerprint, start
        On the working grid; the given samples where it is their own.
    """
    samples, rules = loaded.samples, loaded.report.rules
    figures = compute_fingerprint(samples, rules.kind, classes=len(rules.class_values))
    earlier = folder.read_plan() if processes.first else None
    scale = working_scale(figures, settings) if earlier is None else earlier[0].scale
    scale = float(processes.broadcast_text(repr(scale)))
    if scale == 1:
        return samples, figures, start
    samples = tuple(on_grid(sample, scale) for sample in samples)
    figures = compute_fingerprint(samples, rules.kind, classes=len(rules.class_values), scale=scale)
    return samples, figures, replace(start, scale=scale) if isinstance(start, Trial) else start


def plan_of_run(
    settings: TrainSettings,
    fingerprint: Fingerprint,
    rules: Rules,
    *,
    start: Pretrained | Trial | None,
    folder: RunFolder,
    device: Device,
    processes: Processes,
) -> tuple[Plan, Reasons, Pretrained | None]:
    """Return the plan of an earlier start of this run, or make one; the same in all processes.

    A run that goes on with another device keeps its network and its batch.

    Parameters
    ----------
    settings
        Of the training.
    fingerprint, rules
        Figures of the data, and what their masks mean.
    start
        The model to start from; or images on which to try those that come with Septum.
    folder, device, processes
        Of the run.

    Returns
    -------
    plan, reasons, start
        The plan, one sentence for each choice, and the model to start from.

    Raises
    ------
    UsageError
        If a setting does not fit the data, the model or the number of processes.
    """
    given = None if isinstance(start, Trial) else start
    trial = start if isinstance(start, Trial) and processes.first else None
    earlier = folder.read_plan() if processes.first else None
    plan, reasons, name = earlier or _first_plan(settings, fingerprint, rules, trial or given, device)
    if settings.batch is None and not (folder.path / "plan.json").exists():
        plan = plan.model_copy(update={"batch": -(-plan.batch // processes.world) * processes.world})
    shared = json.loads(processes.broadcast_text(json.dumps([plan.model_dump(mode="json"), reasons, name])))
    plan, reasons, name = Plan.model_validate(shared[0]), tuple(shared[1]), shared[2]
    if isinstance(start, Trial):
        given = None if name is None else read_pretrained(file_of(name))
    if plan.batch < processes.world:
        raise UsageError(
            f"{processes.world} processes for {pluralize(plan.batch, 'tile')} a step",
            "at least one tile for each process",
            f"start {pluralize(plan.batch, 'process')}, or a new run with a larger --batch",
        )
    return plan, reasons, given


def _first_plan(
    settings: TrainSettings, fingerprint: Fingerprint, rules: Rules, start: Pretrained | Trial | None, device: Device
) -> tuple[Plan, Reasons, str | None]:
    """Make a plan; return it with its reasons and the name of the model that comes with Septum to start from."""
    if not isinstance(start, Trial):
        return *_new_plan(settings, fingerprint, rules, start, device), None if start is None else start.name
    plan, reasons = _new_plan(settings, fingerprint, rules, None, device)
    found, sentences = _find_start(start, plan, settings, rules, device)
    if found is not None:
        plan, reasons = _new_plan(settings, fingerprint, rules, found, device)
    return plan, (*reasons, *sentences), None if found is None else found.name


def _find_start(
    trial: Trial, plan: Plan, settings: TrainSettings, rules: Rules, device: Device
) -> tuple[Pretrained | None, Reasons]:
    """Choose the model that comes with Septum whose objects are the best before the first step, with one sentence.

    None is tried for a published preset, volumes, images that its network would pool to few pixels, another planned
    network, or if it has seen the images.
    """
    kind = "objects" if rules.kind == "objects" else "lines"
    if settings.preset != "auto" or len(plan.tile) != 2 or not (kind == "objects" or plan.lines):
        return None, ()
    scores, starts, sentences = dict[str, float](), dict[str, Pretrained](), []
    sides = np.median([sample.sides for sample in trial.judged], axis=0)
    for name in STARTS[kind]:
        start = read_pretrained(file_of(name))
        network = start.header.network
        if min(sides) < LEAST_COARSE * 2 ** max(network.depths):
            continue
        try:
            check_compatible(start, settings, rank=2)
        except UsageError:
            continue
        if network.width != plan.network.width:
            sentences.append(f"not started from {name}: a network of width {plan.network.width} is planned")
        elif seen := start.count_seen(trial.samples):
            sentences.append(f"not started from {name}: {seen} of these images, or of their sequence, trained it")
        else:
            scores[name] = start.score(trial.judged, lines=kind == "lines", device=device)
            starts[name] = start
    if not scores:
        return None, tuple(sentences)
    best, images = max(scores, key=lambda name: scores[name]), "held-out " if trial.held_out else ""
    if scores[best] >= LEAST_SCORE[kind]:
        text = f"started from {best}: {images}{_SCORES[kind]} {scores[best]:.2f} before the first step"
        return starts[best], (*sentences, text)
    reached = ", ".join(f"{score:.2f} from {name}" for name, score in scores.items())
    text = f"started from no model: {images}{_SCORES[kind]} before the first step is {reached}"
    return None, (*sentences, f"{text}; {LEAST_SCORE[kind]:g} is needed")


def _new_plan(
    settings: TrainSettings, fingerprint: Fingerprint, rules: Rules, start: Pretrained | None, device: Device
) -> tuple[Plan, Reasons]:
    if settings.precision == "bfloat16" and not device.bfloat16:
        raise UsageError(
            f"--precision bfloat16 on {device.name}",
            "a GPU that computes in bfloat16, or a processor with a matrix unit for it (AMX)",
            "leave --precision out",
        )
    facts = fingerprint.describe()
    if start is not None:
        check_compatible(start, settings, rank=len(fingerprint.sides))
        facts += start.describe(fingerprint.channels, rules.class_values)
    gpu = device.torch.type != "cpu"
    plan, reasons = make_plan(fingerprint, settings, gpu=gpu, bfloat16=device.bfloat16, start=start)
    if plan.lines and rules.kind == "objects":
        raise UsageError("--set lines=true with masks of object ids", "masks of two classes", "leave it out")
    named = {value.partition("=")[0].strip() for value in settings.set}
    if settings.preset == "auto" and settings.tile is None and settings.batch is None and not named & {"tile", "batch"}:
        plan, limited = fit_memory(plan, training_limit(device))
        reasons += limited
    if settings.until_plateau and "validations" not in named:
        plan = plan.model_copy(update={"validations": _PLATEAU_VALIDATIONS})
    width_is_free = (
        settings.preset == "auto"
        and settings.width is None
        and start is None
        and not any(name.startswith("network.width") for name in named)
    )
    # Only a budget of time may decide the width: a number of steps must repeat exactly.
    if settings.budget_s is not None and width_is_free:
        plan, reason = fit_width(plan, device, settings.budget_s)
        reasons = (reason, *(line for line in reasons if not line.startswith("width ")))
    return plan, (*facts, *reasons, *describe_plan(plan))


def fit_width(plan: Plan, device: Device, budget_s: float) -> tuple[Plan, str]:
    """Choose the widest network of which enough steps fit into the budget.

    Parameters
    ----------
    plan
        A plan; its width is replaced.
    device
        Where to compute.
    budget_s
        Seconds for the whole training.

    Returns
    -------
    plan, reason
        The plan with a width of 16, 32 or 64 (in 3D up to 32): the widest one of which 4000 steps fit, at least 16; and
        one sentence.
    """
    widest = 64 if len(plan.tile) == 2 else 32
    begin, chosen, seconds = time.monotonic(), _with_width(plan, _WIDTHS[0]), 0.0
    for width in _WIDTHS:
        candidate = _with_width(plan, width)
        one = step_seconds(candidate, device)
        if width > _WIDTHS[0] and one * _MIN_STEPS > _STEPS_SHARE * budget_s:
            break
        chosen, seconds = candidate, one
        # A wider network is not faster: if this one does not do enough steps, none needs to be timed.
        too_slow = one * _MIN_STEPS > _STEPS_SHARE * budget_s
        if too_slow or width == widest or time.monotonic() - begin + 2 * _TIMED_STEPS * one > _TIMING_SHARE * budget_s:
            break
    fitting = int(_STEPS_SHARE * budget_s / seconds)
    return chosen, (
        f"width {chosen.network.width}: a step takes {seconds:.2g} s, about {fitting} of them fit into the time; "
        f"a wider network needs at least {_MIN_STEPS}"
    )


def step_seconds(plan: Plan, device: Device) -> float:
    """Measure the seconds of one step of a plan, without drawing tiles.

    Parameters
    ----------
    plan
        Gives the network, the tile and the batch.
    device
        Where to compute.
    """
    bfloat16 = plan.precision == "bfloat16" and device.bfloat16
    network, order = for_training(UNet(plan.network), device, bfloat16=bfloat16)
    supervised = DeeplySupervised(network, plan.deep, seed=0).train()
    draw = seeding.generator(0, "timing")
    x = torch.from_numpy(draw.standard_normal((plan.batch, plan.network.channels, *plan.tile), dtype="float32"))
    x = x.to(device.torch, memory_format=order)
    y = torch.zeros((plan.batch, *plan.output), dtype=torch.uint8, device=device.torch)
    w = torch.ones(y.shape, device=device.torch)
    optimizer = Optimizer(supervised.parameters(), "adamw", momentum=0.9, fused=device.torch.type == "cpu")
    seconds = []
    for number in range(_TIMED_STEPS):
        network.seed_dropout([number] * plan.batch, plan.tile)
        begin = time.monotonic()
        with step_threads(network):
            with device.exact():
                with device.autocast(bfloat16):
                    logits = supervised(x)
                energy, annotated = supervised.loss(logits, y, w, dice=plan.dice)
                optimizer.zero_grad()
                torch.autograd.backward(energy / annotated)
            optimizer.step(1e-6)
        float(energy.detach())  # waits for a GPU
        seconds.append(time.monotonic() - begin)
    return min(seconds[1:])


def training_limit(device: Device) -> int:
    """Return the bytes that a step may take: half of the machine's memory, or three quarters of the GPU's.

    The limit depends on the total memory and not on the free memory, so that the same command makes the same plan.
    """
    if device.torch.type == "cuda":
        return int(0.75 * torch.cuda.get_device_properties(device.torch).total_memory)
    return total_bytes() // 2


def memory_for_images(settings: TrainSettings, processes: Processes) -> Memory:
    """Return the memory for images: what the network leaves of ``--max-memory``, or of most of the free memory."""
    return Memory(limit_bytes=bytes_for_images((settings.max_memory or usual_limit()) // processes.world))


def describe_memory(loaded: LoadedData) -> Reasons:
    """Return one sentence if images stay in their files because they do not fit into the memory; else none."""
    stored = [sample for sample in loaded.samples if isinstance(sample, StoredSample)]
    limit = loaded.report.files.memory.limit_bytes
    needed = sum(math.prod(sample.sides) * bytes_of_pixel(sample.channels) for sample in stored)
    if limit is None or needed <= limit:
        return ()
    whole = sum(1 for sample in stored if sample.whole is None)
    slow = f"; {pluralize(whole, 'image')} of them read whole for each tile that is not at hand" if whole else ""
    text = f"images are read from their files when tiles need them: {format_bytes(needed)} do not fit into"
    return (f"{text} {format_bytes(limit)}{slow}",)


def check_step_memory(settings: TrainSettings, plan: Plan, device: Device, processes: Processes) -> None:
    """Raise `UsageError` if a step on the CPU does not fit into ``--max-memory``, which decides nothing in a plan."""
    if settings.max_memory is None or device.torch.type != "cpu":
        return
    limit, held = settings.max_memory // processes.world, resident_bytes()
    needed = training_bytes(plan.network, plan.tile, -(-plan.batch // processes.world))
    if held + needed > limit:
        raise UsageError(
            f"--max-memory {format_bytes(settings.max_memory)}: a step takes about {format_bytes(needed)}, and the "
            f"program holds {format_bytes(held)}",
            "memory for one step at least",
            "give more memory, or a smaller batch, tile or network (--batch, --tile, --width)",
        )


def fit_memory(plan: Plan, limit: int) -> tuple[Plan, Reasons]:
    """Reduce the number of tiles in a step, then their size, until a step fits into the memory.

    Parameters
    ----------
    plan
        A plan.
    limit
        Bytes that a step may take.

    Returns
    -------
    plan, reasons
        The plan, and one sentence if it changed. A tile whose output is 16 pixels or less is not divided further.
    """
    before = (plan.tile, plan.batch)
    while (needed := training_bytes(plan.network, plan.tile, plan.batch)) > limit:
        if plan.batch > 1:
            plan = plan.model_copy(update={"batch": plan.batch - 1})
            continue
        longest = max(plan.output)
        if longest <= _SMALLEST_OUTPUT:
            break
        halved = tuple(side // 2 if side == longest else side for side in plan.output)
        plan = plan.model_copy(update={"tile": smallest_tile(plan.network, halved)})
    if (plan.tile, plan.batch) == before:
        return plan, ()
    tile = format_shape(plan.tile)
    return plan, (f"tile {tile}, {plan.batch} a step: {format_bytes(needed)} of memory, of {format_bytes(limit)}",)


def _with_width(plan: Plan, width: int) -> Plan:
    return plan.model_copy(update={"network": plan.network.model_copy(update={"width": width})})
