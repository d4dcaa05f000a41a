"""What can be asked of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from septum.settings import Settings
from septum.train.plan import Precision, Preset
from septum.train.split import SplitSettings


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
        The number of steps, or seconds for the whole training; both None: until the scores no longer get better.
    early_stop
        End where the held-out scores no longer get better, before the steps or the time are over; always where neither
        is given (see `septum.train.schedule.Schedule`).
    seed
        Of everything random.
    kind
        What masks hold; read from their values where not given.
    ignore
        Values of the masks that mean not annotated.
    width, depth, tile, batch, precision
        Values that win over the plan.
    set
        Any other value of the plan, ``"weights.w0=5"``; see `septum.train.overrides.with_values`.
    from_model
        A model file whose weights the training starts from.
    device
        See `septum.nn.device.find_device`.
    split
        What is held out.
    deterministic
        Use repeatable algorithms only; slower on GPUs, refused where there are none. CPUs always repeat.
    compile
        Compile the network for the GPU with `torch.compile`; where that fails, training goes on without and says so.
    """

    data: tuple[Path, ...]
    out: Path
    preset: Preset = "auto"
    steps: int | None = Field(default=None, ge=1)
    budget_s: float | None = Field(default=1800.0, gt=0)
    early_stop: bool = False
    seed: int = Field(default=0, ge=0)
    kind: Literal["objects", "classes"] | None = None
    ignore: tuple[int, ...] = ()
    width: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1, le=8)
    tile: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1)
    set: tuple[str, ...] = ()
    from_model: Path | None = None
    precision: Precision | None = None
    device: str = "auto"
    split: SplitSettings = SplitSettings()
    deterministic: bool = False
    compile: bool = False

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is not None:
            return {"budget_s": None, **values}
        return values

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.steps is not None and self.budget_s is not None:
            raise ValueError("give steps or budget_s, not both")
        return self

    @property
    def plateau(self) -> bool:
        """Whether the scores decide when the training ends."""
        return self.early_stop or (self.steps is None and self.budget_s is None)
