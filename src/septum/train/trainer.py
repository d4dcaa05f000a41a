"""The state of one training and what can be done with it: step, undo, validate, save, restore."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from septum import seeding
from septum.cpu.training import for_training
from septum.errors import DataError, ModelError
from septum.events import Warned
from septum.io.paths import format_path
from septum.nn.augment import draw, training_batch
from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.device import Device, compile_network, free_bytes
from septum.nn.unet import UNet, freeze_batchnorm
from septum.nn.weight_averaging import WeightAverage
from septum.predict.backend import for_scores
from septum.train.checkpoint import Checkpoint, save_checkpoint
from septum.train.distributed import Processes
from septum.train.model_selection import GAIN, selection_score
from septum.train.prepare import Prepared, Sampler, tiles_of
from septum.train.state import NUMBERS, checked
from septum.train.validation import Validator

if TYPE_CHECKING:
    from septum.train.interrupt import StopRequest
    from septum.train.plan import OptimizerSettings, Plan

_MOST_UNDONE = 3
# A training without an end is validated after each pass through the images, of so many steps.
_PASS = (100, 2000)
# Images stay on a GPU if they take no more than this share of what is free there; the rest is for the network.
_IMAGES_SHARE = 0.25


@dataclass
class Trainer:
    """All that a training is made of and all that changes in it.

    Parameters
    ----------
    plan, seed, device, processes
        How it is done.
    images
        Prepared training images.
    held_out
        The images for validation; may be none.
    compile
        Compile the network (`septum.nn.device.compile_network`); with one process only.

    Attributes
    ----------
    not_compiled
        Why it was not compiled, though it should be; ``""`` otherwise.
    step, progress
        Steps done, and the share of the training, 0..1.
    rate
        Learning rate of the last step.
    undone
        How often the training went back and halved its rate.
    validated, best, best_step
        Validations done, `septum.train.model_selection.selection_score` of the best, and its step.
    stale, reference
        Validations since the score last gained more than `septum.train.model_selection.GAIN`, and what it was then.
    cooling, cooling_end
        Those of `septum.train.schedule.Schedule`; -1 and 0 where it has none.
    row
        The line of the log of a step whose validation is not done yet; None between steps.
    """

    plan: Plan
    seed: int
    device: Device
    processes: Processes
    images: tuple[Prepared, ...]
    held_out: Validator
    compile: bool = False
    step: int = 0
    progress: float = 0.0
    rate: float = 0.0
    undone: int = 0
    validated: int = 0
    best: float = -math.inf
    best_step: int = 0
    stale: int = 0
    reference: float = 0.0
    cooling: float = -1.0
    cooling_end: int = 0
    row: dict[str, float | int] | None = None
    _best_weights: dict[str, Tensor] = field(default_factory=dict)
    _kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        network = UNet(self.plan.network, seed=seeding.number(self.seed, "initial weights"))
        # A run that goes on where bfloat16 would only be imitated computes in float32, and says so.
        self._bfloat16 = self.plan.precision == "bfloat16" and self.device.bfloat16
        self.network, self._order = for_training(network, self.device, bfloat16=self._bfloat16)
        heads_seed = seeding.number(self.seed, "deep supervision")
        self._supervised = DeeplySupervised(self.network, self.plan.deep, seed=heads_seed)
        self._parallel = self.processes.wrap(self._supervised, self.device.torch)
        self.optimizer = make_optimizer(self._supervised, self.plan.optimizer)
        share = self.plan.optimizer.average
        self._average = WeightAverage(share) if share else None
        self._sampler = Sampler(self.images, self.plan)
        self._on_device = [self._placed(i) for i in self.images] if self._fit() else []
        self.not_compiled = ""
        if self.compile:
            self._parallel, self.not_compiled = compile_network(
                self._parallel, lambda network: self._backward(network, 0)
            )

    @property
    def pass_steps(self) -> int:
        """Steps in which about every place of the training images is seen once, `_PASS` at least and at most."""
        low, high = _PASS
        return max(low, min(high, round(float(tiles_of(self.images, self.plan).sum()) / self.plan.batch)))

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw this process's tiles of a step, on the device; tile `i` depends on (seed, step, i) only."""
        tiles, draws = [], []
        for index in self.processes.share(self.plan.batch):
            rng = seeding.generator(self.seed, "augment", step, index)
            number, center = self._sampler.draw(rng)
            chosen = self.images[number]
            parts = self._on_device[number] if self._on_device else self._placed(chosen)
            draws.append(
                draw(
                    self.plan.augmentation,
                    rng,
                    center=[float(c) for c in center],
                    tile=self.plan.tile,
                    spacing=chosen.spacing,
                )
            )
            tiles.append(parts)
        images, targets, weights = zip(*tiles, strict=True)
        return training_batch(images, targets, weights, draws, tile=self.plan.tile, output=self.plan.output)

    def _placed(self, image: Prepared) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, target and weight on the device; on the CPU they share memory with the arrays."""
        x, y, w = (torch.from_numpy(a).to(self.device.torch) for a in (image.image, image.target, image.weight))
        return x, y, w

    def _fit(self) -> bool:
        """Say whether all images may stay on the device: copied anew, each would let a GPU wait."""
        free = free_bytes(self.device)
        needed = sum(a.nbytes for i in self.images for a in (i.image, i.target, i.weight))
        return free is None or needed < _IMAGES_SHARE * free

    def _backward(self, network: nn.Module, step: int) -> Tensor:
        """Go through the network with the tiles of a step, and back; return this process's share of the loss."""
        self.network.train()
        if self.progress >= 1 - self.plan.optimizer.settle:
            freeze_batchnorm(self.network)
        own = self.processes.share(self.plan.batch)
        self.network.seed_dropout([seeding.number(self.seed, "drop-out", step, index) for index in own])
        x, y, w = self.draw_batch(step)
        with self.device.exact():
            with self.device.autocast(self._bfloat16):
                logits = network(x.contiguous(memory_format=self._order))
            energy, annotated = self._supervised.loss(logits, y, w, dice=self.plan.dice)
            share = energy / self.processes.sum(annotated).clamp(min=1)
            # Gradients are averaged over the processes; the energy is summed.
            torch.autograd.backward(share * self.processes.world)
        return share.detach()

    def training_step(self, rate_factor: float) -> Tensor:
        """Do one step and return its loss: energy and overlap divided by the annotated pixels, over all processes.

        Nothing here waits for a GPU; reading the loss does. Where it is not a finite number, the loss or a gradient was
        not, and the weights are ruined: then `undo`.

        Parameters
        ----------
        rate_factor
            The schedule's share of the highest learning rate, 0..1.

        Returns
        -------
        Tensor
            A scalar on the device, not to be changed.
        """
        self.rate = self.plan.optimizer.rate * rate_factor * 0.5**self.undone
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.processes.sum(self._backward(self._parallel, self.step))
        # Of gradients that are not finite the loss would tell with the next tile only, when the state may be kept.
        norms = [torch.linalg.vector_norm(p.grad) for p in self._supervised.parameters() if p.grad is not None]
        loss = loss + 0 * torch.stack(norms).sum()
        self.optimizer.step()
        self.step += 1
        if self._average is not None:
            self._average.add(self.network, self.step)
        return loss

    def keep(self) -> None:
        """Keep the state in memory, to go back to."""
        tensors, state = self._snapshot()
        self._kept = {k: v.clone() for k, v in tensors.items()}, state

    def undo(self, failed: int) -> Warned:
        """Go back to the kept state and halve the rate.

        Parameters
        ----------
        failed
            How many steps were done before the one whose loss is no number.

        Raises
        ------
        DataError
            If this did not help three times.
        """
        assert self._kept is not None
        undone = self.undone + 1
        if undone > _MOST_UNDONE:
            raise DataError(
                f"the loss was not a finite number at step {failed}, even at an eighth of the learning rate",
                "a finite loss",
                "look at the images with `septum check`; extreme intensities are the usual cause",
            )
        self._go_to(*self._kept)
        self.undone = undone
        self.keep()
        return Warned(
            f"step {failed}: the loss was not a finite number; back to step {self.step} with half the learning rate"
        )

    def validate(self, stop: StopRequest) -> tuple[dict[str, float], bool] | None:
        """Score held-out images and keep the weights if they are the best.

        Returns
        -------
        scores, best
            The scores, empty without held-out images; whether no earlier ones were better. None where `stop` was asked
            for before the end: then nothing has changed.
        """
        network = self.kept_network()
        scores = self.held_out.score(for_scores(network, self.device), stop) if self.held_out.samples else {}
        if scores is None:
            return None
        self.validated += 1
        if scores:
            gained = selection_score(scores) > self.reference + GAIN
            self.stale = 0 if gained else self.stale + 1
            self.reference = selection_score(scores) if gained else self.reference
        best = bool(scores) and bool(selection_score(scores) >= self.best)
        if best:
            self.best, self.best_step = selection_score(scores), self.step
            self._best_weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        return scores, best

    def kept_network(self) -> UNet:
        """Return the network that is scored and kept: with averaged weights where the plan averages them."""
        if self._average is None or not self._average.tensors:
            return self.network
        return self._with(self._average.tensors)

    def _with(self, weights: dict[str, Tensor]) -> UNet:
        network = UNet.unset(self.plan.network)
        network.load_state_dict(weights)
        return network.to(self.device.torch)

    def best_network(self) -> UNet:
        """Return the network with the best weights; the last ones without held-out images."""
        if not self._best_weights:
            self.best_step = self.step
            return self.kept_network()
        return self._with(self._best_weights)

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that changes: tensors (not copied), and numbers that JSON holds exactly."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"heads.{k}": v for k, v in self._supervised.heads.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
        if self._average is not None:
            tensors |= {f"average.{k}": v for k, v in self._average.tensors.items()}
        tensors |= {f"best.{k}": v for k, v in self._best_weights.items()}
        state = {name: getattr(self, name) for name in NUMBERS}
        return tensors, {**state, "best": None if math.isinf(self.best) else self.best, "row": self.row}

    def save(self, folder: Path, seconds: float) -> Path:
        """Write a checkpoint and return its path.

        It holds the state to go back to as well, unless that is this one: so a resumed run does what this one would do.

        Raises
        ------
        FileError
            If the disk is full or the folder cannot be written.
        """
        tensors, state = self._snapshot()
        state |= {"seconds": seconds, "plan": self.plan.model_dump(mode="json"), "made_on": self.made_on}
        if self._kept is not None and (self._kept[1]["step"] != self.step or self.row is not None):
            tensors |= {f"kept.{k}": v for k, v in self._kept[0].items()}
            state["kept"] = self._kept[1]
        arrays = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
        return save_checkpoint(folder, self.step, arrays, state)

    @property
    def made_on(self) -> str:
        """What decides the last bits of a result beside data, plan and seed."""
        processes = f"{self.processes.world} process{'es' * (self.processes.world > 1)}"
        precision = "bfloat16" if self._bfloat16 else "float32"
        code = ", compiled" if self.compile and not self.not_compiled else ""
        return f"{self.device.name}, {precision}{code}, {processes}, torch {torch.__version__}"

    def restore(self, checkpoint: Checkpoint) -> str:
        """Go on from a checkpoint, bit for bit.

        Returns
        -------
        str
            What a person should know, or ``""``: the run began on another device, so the last bits will differ.

        Raises
        ------
        ModelError
            If the checkpoint is of another plan, or not one of this program.
        """
        state: dict[str, Any] = dict(checkpoint.state)
        kept = {}
        if not self._is_of_plan(state.get("plan")):
            raise ModelError(
                f"{format_path(checkpoint.path)}: a state of another network or plan than this run's",
                "checkpoints of this run",
                "give another -o, or remove the checkpoints to begin again",
            )
        try:
            for name, value in checkpoint.tensors.items():
                if name.startswith("kept."):
                    kept[name.removeprefix("kept.")] = torch.as_tensor(value)
            now = {k: torch.as_tensor(v) for k, v in checkpoint.tensors.items() if not k.startswith("kept.")}
            if "kept" in state:
                self._go_to(kept, checked(state["kept"]))
                self.keep()
            self._go_to(now, checked(state))
            if "kept" not in state:
                self.keep()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"{format_path(checkpoint.path)}: does not hold the state of this training "
                f"({str(error).splitlines()[0]})",
                "checkpoints as training wrote them",
                "give another -o, or remove the checkpoints to begin again",
            ) from None
        before = str(state.get("made_on"))
        if before == self.made_on:
            return ""
        return f"this run was computed on {before}, now on {self.made_on}: results are as good, but differ in rounding"

    def _is_of_plan(self, said: Any) -> bool:
        """Say whether a checkpoint is of this plan; what its version did not know yet, is as it was: the default."""
        try:
            return type(self.plan).model_validate(said) == self.plan
        except ValidationError:
            return False

    def _go_to(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go to a state from `_snapshot`."""
        parts: dict[str, dict[str, Tensor]] = {k: {} for k in ("network", "heads", "optimizer", "average", "best")}
        for name, value in tensors.items():
            kind, key = name.split(".", 1)
            parts[kind][key] = value
        self.network.load_state_dict(parts["network"])
        self._supervised.heads.load_state_dict(parts["heads"])
        slots: dict[int, dict[str, Tensor]] = {}
        weights = list(self._supervised.parameters())
        for name, tensor in parts["optimizer"].items():
            number, key = name.split(".", 1)
            weight = weights[int(number)]
            # Laid out as the weight is: otherwise each step would go through one of them in jumps.
            slot = torch.empty_like(weight if tensor.shape == weight.shape else tensor, requires_grad=False)
            slots.setdefault(int(number), {})[key] = slot.copy_(tensor)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        if self._average is not None:
            self._average.tensors = {k: v.to(self.device.torch, copy=True) for k, v in parts["average"].items()}
        self._best_weights = {k: v.clone() for k, v in parts["best"].items()}
        for name in NUMBERS:
            setattr(self, name, state[name])
        self.best = -math.inf if state["best"] is None else state["best"]
        self.row = state["row"]


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return the optimizer of a plan; the rate is set before each step."""
    parameters = list(network.parameters())
    if settings.method == "sgd":
        return torch.optim.SGD(parameters, lr=settings.rate, momentum=settings.momentum)
    betas = (settings.momentum, 0.999)
    if settings.method == "adam":
        return torch.optim.Adam(parameters, lr=settings.rate, betas=betas)
    return torch.optim.AdamW(parameters, lr=settings.rate, betas=betas, weight_decay=settings.decay)
