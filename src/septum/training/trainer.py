"""Train one network: draw tiles, step, validate, and hold the best weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from septum import seeding
from septum.cpu.training import describe_engine, for_training, step_threads
from septum.nn.augment import Draw, draw, training_batch
from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.device import Device, compile_network, free_bytes
from septum.nn.optimizer import Optimizer, WeightAverage
from septum.nn.spatial import image_window
from septum.nn.unet import UNet, freeze_batchnorm
from septum.prediction.backend import for_scores
from septum.threads import map_in_threads
from septum.training.checkpoint import Checkpoint
from septum.training.distributed import Processes
from septum.training.interrupt import StopRequest
from septum.training.model_selection import GAIN, selection_score
from septum.training.plan import OptimizerSettings, Plan
from septum.training.prepare import Prepared
from septum.training.sampler import Sampler, class_shares, count_tiles
from septum.training.schedule import HOPELESS_STEPS, WARM_UP_STEPS, Schedule
from septum.training.state import Counters, TrainingState
from septum.training.validation import Validator
from septum.words import pluralize

PASS_STEPS = (100, 2000)
"""Least and most steps of a pass through the images, after which a training without an end is validated."""

# Images stay on a GPU if they take no more than this share of its free memory; the rest is for the network.
_IMAGES_SHARE = 0.25


@dataclass
class Trainer:
    """A network in training.

    Parameters
    ----------
    plan, seed, device, processes
        How to train, and on what.
    images
        Prepared training images.
    validator
        The images held out for validation; may be empty.
    compile
        Compile the network (`septum.nn.device.compile_network`); with one process only.

    Attributes
    ----------
    state
        Everything that changes.
    rate
        Learning rate of the last step.
    not_compiled
        Why the network was not compiled although `compile` is set; ``""`` otherwise.
    """

    plan: Plan
    seed: int
    device: Device
    processes: Processes
    images: tuple[Prepared, ...]
    validator: Validator
    compile: bool = False
    rate: float = 0.0

    def __post_init__(self) -> None:
        network = UNet(self.plan.network, seed=seeding.number(self.seed, "initial weights"))
        # A run that goes on where bfloat16 would only be emulated computes in float32, and reports it.
        self._bfloat16 = self.plan.precision == "bfloat16" and self.device.bfloat16
        self.network, self._order = for_training(network, self.device, bfloat16=self._bfloat16)
        heads_seed = seeding.number(self.seed, "deep supervision")
        supervised = DeeplySupervised(self.network, self.plan.deep, seed=heads_seed)
        if self.plan.prior:
            supervised.set_prior(class_shares(self.images, self.plan.network.classes))
        self._parallel = self.processes.wrap(supervised, self.device.torch)
        share = self.plan.optimizer.average
        self.state = TrainingState(
            network=self.network,
            supervised=supervised,
            optimizer=make_optimizer(supervised, self.plan.optimizer),
            average=WeightAverage(share) if share else None,
            device=self.device.torch,
        )
        self._sampler = Sampler(self.images, self.plan)
        self._output = self.plan.output
        self._place_images()
        self.not_compiled = ""
        if self.compile:
            self._parallel, self.not_compiled = compile_network(
                self._parallel, lambda network: self._backward(network, 0)
            )

    @property
    def counters(self) -> Counters:
        """Return the numbers of the state: steps done, progress, validations."""
        return self.state.counters

    @property
    def pass_steps(self) -> int:
        """Return the steps of one pass through the training images, within `PASS_STEPS`."""
        low, high = PASS_STEPS
        return max(low, min(high, round(float(count_tiles(self.images, self.plan).sum()) / self.plan.batch)))

    @property
    def computed_on(self) -> str:
        """Return what decides the last bits of a result besides data, plan and seed."""
        processes = pluralize(self.processes.world, "process")
        precision = "bfloat16" if self._bfloat16 else "float32"
        code = ", compiled" if self.compile and not self.not_compiled else ""
        # The engine's results do not depend on the number of threads, which is part of the device's name.
        engine = describe_engine(self.network)
        processor = f"CPU, {engine}" if engine else self.device.name
        return f"{processor}, {precision}{code}, {processes}, torch {torch.__version__}"

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the tiles of this process for a step; tile `i` depends on (seed, step, i) only.

        Returns
        -------
        images, targets, weights
            On the device: ``(N, C, *S)`` float32, normalized; ``(N, *S)`` uint8 classes, 255 ignored; ``(N, *S)``
            float32 weights >= 0.
        """
        tiles, draws = [], []
        for index in self.processes.share(self.plan.batch):
            rng = seeding.generator(self.seed, "augment", step, index)
            number, center = self._sampler.draw(rng)
            drawn = draw(
                self.plan.augmentation,
                rng,
                center=[float(c) for c in center],
                tile=self.plan.tile,
                spacing=self.images[number].spacing,
            )
            draws.append(drawn)
            tiles.append(self._tensors_of(number, drawn))
        images, targets, weights = zip(*tiles, strict=True)
        return training_batch(
            images, targets, weights, draws, tile=self.plan.tile, output=self._output, device=self.device.torch
        )

    def exchange_images(self, images: tuple[Prepared, ...]) -> None:
        """Train on other images from the next step on, such as those that were annotated meanwhile."""
        self.images = images
        self._sampler = Sampler(images, self.plan)
        self._place_images()

    def _place_images(self) -> None:
        """Copy images, targets and weights to the device if all fit; otherwise they stay on the CPU."""
        free = free_bytes(self.device)
        needed = sum(math.prod(i.shape) * (4 * i.channels + 1 + 4) for i in self.images)
        self._on_device: list[tuple[Tensor, ...]] = []
        if (
            self.device.torch.type != "cpu"
            and all(i.is_held for i in self.images)
            and (free is None or needed < _IMAGES_SHARE * free)
        ):
            arrays = map_in_threads(lambda image: image.arrays(), self.images)
            self._on_device = [tuple(torch.from_numpy(a).to(self.device.torch) for a in parts) for parts in arrays]

    def _tensors_of(self, number: int, drawn: Draw) -> tuple[Tensor, ...]:
        """Return image, target and weight of an image, which hold what the tile needs.

        On the CPU they share memory with the arrays, and of each tile its part of the image is copied to the device.
        """
        if self._on_device:
            return self._on_device[number]
        image = self.images[number]
        return tuple(map(torch.from_numpy, image.arrays(image_window(drawn, self.plan.tile, image.shape))))

    def _backward(self, network: nn.Module, step: int) -> Tensor:
        """Run the tiles of a step forward and backward; return the loss of this process's tiles."""
        self.network.train()
        if self.counters.progress >= 1 - self.plan.optimizer.freeze_batchnorm:
            freeze_batchnorm(self.network)
        own = self.processes.share(self.plan.batch)
        numbers = [seeding.number(self.seed, "drop-out", step, index) for index in own]
        self.network.seed_dropout(numbers, self.plan.tile)
        x, y, w = self.draw_batch(step)
        with self.device.exact():
            with self.device.autocast(self._bfloat16):
                logits = network(x.contiguous(memory_format=self._order))
            energy, annotated = self.state.supervised.loss(logits, y, w, dice=self.plan.dice)
            share = energy / self.processes.sum(annotated).clamp(min=1)
            # Gradients are averaged over the processes; the energy is summed.
            torch.autograd.backward(share * self.processes.world)
        return share.detach()

    def training_step(self, rate_factor: float) -> Tensor:
        """Do one step and return its loss: energy and overlap divided by the annotated pixels, over all processes.

        Nothing here waits for a GPU; reading the loss does. If it is not a finite number, the loss or a gradient was
        not, and the weights are ruined: then roll the state back.

        Parameters
        ----------
        rate_factor
            Learning rate relative to the highest, 0..1.

        Returns
        -------
        Tensor
            A scalar, float32 >= 0, on the device; not to be changed.
        """
        self.rate = self.plan.optimizer.rate * rate_factor * 0.5**self.counters.undone
        optimizer = self.state.optimizer
        optimizer.zero_grad()
        with step_threads(self.network):
            loss = self.processes.sum(self._backward(self._parallel, self.counters.step))
            # Without this, gradients that are not finite would show in the next loss only, when the state may be kept.
            gradients = [p.grad for p in self.state.supervised.parameters() if p.grad is not None]
            loss = loss + 0 * torch.stack(torch._foreach_norm(gradients)).sum()
            optimizer.step(self.rate)
            self.counters.step += 1
            if self.state.average is not None:
                self.state.average.add(self.network, self.counters.step)
        return loss

    def plan_validations(self, schedule: Schedule) -> int:
        """Return the number of validations; an earlier start of this training has decided what they score."""
        counters, validator = self.counters, self.validator
        earlier = (counters.affordable_px, counters.most_scored)
        number = validator.plan_validations(for_scores(self.network, self.device), schedule, earlier=earlier)
        counters.affordable_px, counters.most_scored = validator.affordable_px, validator.most_scored
        return number

    def validate(self, stop: StopRequest) -> tuple[dict[str, float], bool] | None:
        """Score held-out images and hold the weights if they are the best.

        Scores before the first step, of the weights of another model, are compared with later ones, but begin no
        plateau: a training often loses some of them at first. Nor do scores of the warm-up, and scores of 0 in the
        first `septum.training.schedule.HOPELESS_STEPS`: there is a plateau only where something was learned.

        Returns
        -------
        scores, best
            The scores, empty without held-out images; True if no earlier scores were better. None if a stop was
            requested before the end: then nothing has changed.
        """
        network = self.averaged_network()
        scores = self.validator.score(for_scores(network, self.device), stop) if self.validator.samples else {}
        if scores is None:
            return None
        counters = self.counters
        counters.validated += counters.step > 0
        if not scores:
            return {}, False
        score = selection_score(scores)
        if not counters.step:
            counters.start = {name: float(value) for name, value in scores.items() if math.isfinite(value)}
        else:
            improved = score > counters.reference + GAIN
            early = counters.step < (WARM_UP_STEPS if counters.reference else HOPELESS_STEPS)
            counters.no_improvement = 0 if improved or early else counters.no_improvement + 1
            counters.reference = score if improved else counters.reference
        best = bool(score >= (-math.inf if counters.best is None else counters.best))
        if best:
            counters.best, counters.best_step = float(score), counters.step
            self.state.best_weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            self.validator.keep(counters.step)
        return scores, best

    def averaged_network(self) -> UNet:
        """Return the network that is scored and stored: with averaged weights if the plan averages them."""
        average = self.state.average
        return self._with(average.tensors) if average is not None and average.tensors else self.network

    def best_network(self) -> UNet:
        """Return the network with the best weights; with the last ones if there are no held-out images."""
        if not self.state.best_weights:
            self.counters.best_step = self.counters.step
            return self.averaged_network()
        return self._with(self.state.best_weights)

    def _with(self, weights: dict[str, Tensor]) -> UNet:
        network = UNet.unset(self.plan.network)
        network.load_state_dict(weights)
        return network.to(self.device.torch)

    def save(self, folder: Path, schedule: Schedule) -> Path:
        """Write a checkpoint, with the time that is over, and return its path (see `TrainingState.save`)."""
        times: dict[str, object] = {"seconds": schedule.seconds, "activities_s": dict(schedule.activities_s)}
        return self.state.save(folder, times=times, plan=self.plan, computed_on=self.computed_on)

    def restore(self, checkpoint: Checkpoint) -> str:
        """Go to the state of a checkpoint; return a warning, or ``""``: on another device the last bits will differ.

        Raises
        ------
        ModelError
            If the checkpoint belongs to another plan, or was not written by a training.
        """
        before = self.state.restore(checkpoint, self.plan)
        if before == self.computed_on:
            return ""
        return (
            f"this run was computed on {before}, now on {self.computed_on}: results are as good, but differ in rounding"
        )


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Return the optimizer of a plan."""
    parameters = list(network.parameters())
    # On a processor, all operations of a weight in one pass take half as long as one pass for each of them.
    fused = all(p.device.type == "cpu" for p in parameters)
    method = settings.method
    return Optimizer(parameters, method, momentum=settings.momentum, decay=settings.decay, fused=fused)
