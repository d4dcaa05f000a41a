"""Everything that changes in a training: tensors and counters, in memory and in checkpoints, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from septum.errors import DataError, ModelError
from septum.events import Warned
from septum.io.formats import format_path
from septum.nn.deep_supervision import DeeplySupervised
from septum.nn.optimizer import Optimizer, WeightAverage
from septum.nn.unet import UNet
from septum.training.checkpoint import Checkpoint, save_checkpoint
from septum.training.plan import Plan

# After this many rollbacks, each with half the learning rate, a training gives up.
_MAX_ROLLBACKS = 3

_Count = Annotated[int, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]


class Counters(BaseModel):
    """The numbers of a state, as a checkpoint stores them in JSON.

    Attributes
    ----------
    step, progress
        Steps done, and the share of the training that is done, 0..1.
    undone
        Number of rollbacks; each halved the learning rate.
    validated, best, best_step
        Validations done, the best selection score so far (None before the first), and its step.
    no_improvement, reference
        Validations since the selection score last gained more than `septum.training.model_selection.GAIN`, without
        those that are too early (`septum.training.trainer.Trainer.validate`), and its value then; 0 before.
    anneal_start, anneal_end
        As in `septum.training.schedule.Schedule`.
    affordable_px, most_scored
        What a validation judges, as in `septum.training.validation.Validator`; None before it is known.
    start
        Scores before the first step, of the weights of another model; None without them.
    row
        The line of the log of a step whose validation is not done yet; None between steps.
    """

    # Earlier versions stored other names, and -1 in place of None.
    model_config = ConfigDict(strict=True, extra="ignore")

    step: _Count
    progress: _Share
    undone: _Count
    validated: _Count
    best: _Share | None
    best_step: _Count
    no_improvement: _Count = Field(validation_alias=AliasChoices("no_improvement", "stale"))
    reference: _Share
    anneal_start: Annotated[_Share | None, BeforeValidator(lambda value: None if value == -1 else value)] = Field(
        validation_alias=AliasChoices("anneal_start", "cooling")
    )
    anneal_end: _Count | None = Field(validation_alias=AliasChoices("anneal_end", "cooling_end"))
    affordable_px: _Count | None = None
    most_scored: _Count | None = None
    start: dict[str, float] | None = None
    row: dict[str, int | float] | None

    @classmethod
    def initial(cls) -> Counters:
        """Return the counters of a training before its first step."""
        numbers: dict[str, Any] = dict.fromkeys(("step", "undone", "validated", "best_step", "no_improvement"), 0)
        unset = dict.fromkeys(("best", "anneal_start", "anneal_end", "row"))
        return cls.model_validate({**numbers, **unset, "progress": 0.0, "reference": 0.0})


@dataclass
class TrainingState:
    """The parts of a training that change, and a copy in memory to roll back to.

    Parameters
    ----------
    network, supervised
        The network, and the same with its heads for deep supervision.
    optimizer
        Of the parameters of `supervised`, in their order.
    average
        Mean of the weights; None without averaging.
    device
        Where the network is.

    Attributes
    ----------
    counters
        The numbers; always the same object.
    best_weights
        Weights of the best validation by name, on the CPU; empty before. Any shape, float32.
    """

    network: UNet
    supervised: DeeplySupervised
    optimizer: Optimizer
    average: WeightAverage | None
    device: torch.device
    counters: Counters = field(default_factory=Counters.initial)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    _kept: tuple[dict[str, Tensor], Counters] | None = None

    def keep(self) -> None:
        """Copy the state in memory, to roll back to."""
        self._kept = None  # the memory of the earlier copy is free before the new one is made
        self._kept = {k: v.clone() for k, v in self._tensors().items()}, self.counters.model_copy(deep=True)

    def roll_back(self, failed: int) -> Warned:
        """Go back to the kept state and halve the learning rate.

        Parameters
        ----------
        failed
            Number of steps before the one whose loss was not a finite number.

        Raises
        ------
        DataError
            If this did not help three times.
        """
        assert self._kept is not None
        undone = self.counters.undone + 1
        if undone > _MAX_ROLLBACKS:
            raise DataError(
                f"the loss was not a finite number at step {failed}, even at an eighth of the learning rate",
                "a finite loss",
                "look at the images with `septum check`; extreme intensities are the usual cause",
            )
        judged = self.counters.affordable_px, self.counters.most_scored  # of the run: an older checkpoint has none
        self._load(*self._kept)
        self.counters.undone = undone
        self.counters.affordable_px, self.counters.most_scored = judged
        self.keep()
        return Warned(
            f"step {failed}: the loss was not a finite number; back to step {self.counters.step} with half the "
            "learning rate"
        )

    def save(self, folder: Path, *, times: Mapping[str, object], plan: Plan, computed_on: str) -> Path:
        """Write a checkpoint and return its path.

        It includes the kept state, unless that equals this one, so that a resumed training rolls back as this one
        would.

        Raises
        ------
        FileError
            If the disk is full or the folder cannot be written.
        """
        tensors, state = self._tensors(), self.counters.model_dump()
        state |= {**times, "plan": plan.model_dump(mode="json"), "made_on": computed_on}
        if self._kept is not None and (self._kept[1].step != self.counters.step or self.counters.row is not None):
            tensors |= {f"kept.{k}": v for k, v in self._kept[0].items()}
            state["kept"] = self._kept[1].model_dump()
        arrays = {k: v.detach().cpu().numpy() for k, v in tensors.items()}
        return save_checkpoint(folder, self.counters.step, arrays, state)

    def restore(self, checkpoint: Checkpoint, plan: Plan) -> str:
        """Restore the state of a checkpoint, bit for bit; return the hardware and software it was computed on.

        Raises
        ------
        ModelError
            If the checkpoint belongs to another plan, or was not written by a training.
        """
        if not _belongs_to(checkpoint, plan):
            raise ModelError(
                f"{format_path(checkpoint.path)}: a state of another network or plan than this run's",
                "checkpoints of this run",
                "give another -o, or remove the checkpoints to begin again",
            )
        tensors = {k: torch.as_tensor(v) for k, v in checkpoint.tensors.items()}
        kept = {k.removeprefix("kept."): v for k, v in tensors.items() if k.startswith("kept.")}
        own = {k: v for k, v in tensors.items() if not k.startswith("kept.")}
        try:
            if "kept" in checkpoint.state:
                self._load(kept, Counters.model_validate(checkpoint.state["kept"]))
                self.keep()
            self._load(own, Counters.model_validate(checkpoint.state))
            if "kept" not in checkpoint.state:
                self.keep()
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ModelError(
                f"{format_path(checkpoint.path)}: does not hold the state of this training "
                f"({str(error).splitlines()[0]})",
                "checkpoints as training wrote them",
                "give another -o, or remove the checkpoints to begin again",
            ) from None
        return str(checkpoint.state.get("made_on"))

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the state by name, not copied."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"heads.{k}": v for k, v in self.supervised.heads.state_dict().items()}
        for number, weight in enumerate(self.optimizer.parameters):
            tensors |= {f"optimizer.{number}.{k}": v for k, v in self.optimizer.state.get(weight, {}).items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.tensors.items()}
        return tensors | {f"best.{k}": v for k, v in self.best_weights.items()}

    def _load(self, tensors: Mapping[str, Tensor], counters: Counters) -> None:
        """Go to a state: the tensors as `_tensors` returns them, and the counters."""
        parts: dict[str, dict[str, Tensor]] = {k: {} for k in ("network", "heads", "optimizer", "average", "best")}
        for name, value in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = value
        self.network.load_state_dict(parts["network"])
        self.supervised.heads.load_state_dict(parts["heads"])
        slots: dict[Tensor, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            number, key = name.split(".", 1)
            weight = self.optimizer.parameters[int(number)]
            # In the memory layout of the weight: otherwise each step would read one of them with strides.
            slot = torch.empty_like(weight if tensor.shape == weight.shape else tensor, requires_grad=False)
            slots.setdefault(weight, {})[key] = slot.copy_(tensor)
        self.optimizer.state = slots
        if self.average is not None:
            self.average.tensors = {k: v.to(self.device, copy=True) for k, v in parts["average"].items()}
        self.best_weights = {k: v.clone() for k, v in parts["best"].items()}
        for name, value in counters.model_copy(deep=True):
            setattr(self.counters, name, value)


def _belongs_to(checkpoint: Checkpoint, plan: Plan) -> bool:
    """Return True if a checkpoint belongs to a plan; values that its version did not know yet have their default."""
    try:
        return type(plan).model_validate(checkpoint.state.get("plan")) == plan
    except ValidationError:
        return False
