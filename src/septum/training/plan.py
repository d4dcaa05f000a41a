"""The plan: frozen settings of everything that decides a training besides the data and the seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, ValidationError, model_validator

from septum.arrays.geometry import next_input
from septum.arrays.normalize import NormalizeSettings
from septum.check.issues import format_shape
from septum.errors import UsageError
from septum.nn.augment import AugmentSettings
from septum.nn.unet import UNetSettings
from septum.settings import Settings, expectation
from septum.training.settings import Precision
from septum.words import pluralize

LEAST_SCALE, LARGEST_SCALE = 1 / 64, 8.0
"""Bounds of the scale of the working grid."""

# Values of a plan that the data decide.
_FROM_DATA = ("network.channels", "network.classes")


class OptimizerSettings(Settings):
    """The optimizer and its learning rate.

    Parameters
    ----------
    method
        ``"sgd"`` with `momentum`, ``"adam"`` or ``"adamw"`` with `momentum` as the first beta.
    rate
        Highest learning rate.
    momentum
        Momentum of SGD, or the first beta of Adam.
    decay
        Weight decay (AdamW only).
    schedule
        ``"cosine"``: linear warm-up over the first 2 % of the training, then a cosine down to 0. ``"constant"``: `rate`
        throughout.
    average
        Score and store the mean of the weights over about this share of the steps so far
        (`septum.nn.optimizer.WeightAverage`); 0: the weights of the last step.
    freeze_batchnorm
        Share of the training, at its end, with frozen batch normalization (`septum.nn.unet.freeze_batchnorm`).
    """

    method: Literal["sgd", "adam", "adamw"] = "adamw"
    rate: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    decay: float = Field(default=0.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    average: float = Field(default=0.0, ge=0, le=1)
    freeze_batchnorm: float = Field(
        default=0.0, ge=0, le=1, validation_alias=AliasChoices("freeze_batchnorm", "settle")
    )


class WeightSettings(Settings):
    """The weight map w(x) of the loss.

    Parameters
    ----------
    method
        ``"paper"``: equation 2, class balance plus separation border. ``"fiji"``: the authors' plugin, which also
        lowers the weight of background far from objects.
    w0, sigma_px
        Height and width of the separation border.
    balance
        Largest weight of a rare class relative to the most frequent one; 1 weighs all classes alike.
    """

    method: Literal["paper", "fiji"] = "paper"
    w0: float = Field(default=10.0, ge=0)
    sigma_px: float = Field(default=5.0, gt=0)
    balance: float = Field(default=10.0, ge=1)


class Plan(Settings):
    """Everything that decides a training besides the data and the seed.

    Parameters
    ----------
    network, normalization, augmentation, optimizer, weights
        Settings of the parts.
    dice
        Weight of the soft Dice loss that is added to the weighted cross entropy (`septum.nn.loss.soft_dice`).
    deep
        Weight of the loss of the level below the finest, a quarter of it for the next
        (`septum.nn.deep_supervision`).
    prior
        Start from the shares of the classes in the loss instead of equal ones
        (`septum.nn.deep_supervision.DeeplySupervised.set_prior`).
    tile
        Sides of the network's input in training, in pixels.
    batch
        Tiles in a step, over all devices.
    sampler
        Where tiles are drawn: ``"uniform"`` anywhere; ``"objects"`` half of them around a random object or class, so
        that small and rare ones are reached; ``"density"`` with density 1 in the foreground, 0.1 in the background and
        0 where ignored (Fiji).
    validations
        Number of validations in the training.
    lines
        The two classes are boundary lines and the areas between them, in 2D: gaps that join areas lower the score
        (`septum.training.model_selection.selection_score`), and masks are made of areas
        (`septum.prediction.outputs.most_probable_class`).
    fill_holes
        Background that a predicted object encloses becomes part of it
        (`septum.arrays.instances.ObjectSettings.fill_holes`).
    precision
        Number format of the convolutions of a step; weights, loss and everything but training are float32.
    scale
        Pixels of the working grid, on which the network sees images in training and prediction, for each pixel of an
        image along each axis. All other sizes of the plan are pixels of this grid.
    """

    network: UNetSettings
    normalization: NormalizeSettings
    augmentation: AugmentSettings
    optimizer: OptimizerSettings
    weights: WeightSettings
    dice: float = Field(default=0.0, ge=0)
    deep: float = Field(default=0.0, ge=0)
    prior: bool = False
    tile: tuple[int, ...]
    batch: int = Field(ge=1)
    sampler: Literal["uniform", "objects", "density"] = "uniform"
    validations: int = Field(default=10, ge=1)
    lines: bool = False
    fill_holes: bool = False
    precision: Precision = "float32"
    scale: float = Field(default=1.0, ge=LEAST_SCALE, le=LARGEST_SCALE)

    @model_validator(mode="after")
    def _check_tile(self) -> Self:
        if len(self.tile) != len(self.network.depths):
            raise ValueError(f"a tile of {len(self.tile)} sides for {len(self.network.depths)} axes")
        self.network.geometry.output(self.tile)
        return self

    @model_validator(mode="after")
    def _check_lines(self) -> Self:
        if self.lines and (self.network.classes != 2 or len(self.tile) != 2):
            raise ValueError("lines are of two classes in 2D")
        return self

    @model_validator(mode="after")
    def _check_normalization(self) -> Self:
        pairs, channels = len(self.normalization.common), self.network.channels
        if self.normalization.method == "common" and pairs != channels:
            raise ValueError(f"normalization.common: {pairs} pairs of offset and scale for {channels} channels")
        return self

    @property
    def output(self) -> tuple[int, ...]:
        """Return the sides of the network's output in training, in pixels."""
        return self.network.geometry.output(self.tile)


def describe_plan(plan: Plan) -> tuple[str, ...]:
    """Describe a plan in words, one sentence for each part."""
    network, weights, optimizer, drawn = plan.network, plan.weights, plan.optimizer, plan.augmentation
    border = "no border weight" if weights.w0 == 0 else f"border weight {weights.w0:g} over {weights.sigma_px:g} px"
    dice = f", soft Dice {plan.dice:g}" if plan.dice else ""
    deep = f"; coarser levels {plan.deep:g}" if plan.deep else ""
    balance = "all classes alike" if weights.balance == 1 else f"rare classes up to {weights.balance:g} times"
    balance = balance if weights.method == "paper" else "weight map of the Fiji plugin"
    averaged = f", weights averaged over the last {optimizer.average:.0%} of the steps" if optimizer.average else ""
    frozen = f", batch normalization frozen in the last {optimizer.freeze_batchnorm:.0%}"
    frozen = frozen if optimizer.freeze_batchnorm and network.batch_norm else ""
    changes = [name for name in ("rotate", "mirror") if getattr(drawn, name)]
    changes += [f"scale {drawn.scale[0]:g} to {drawn.scale[1]:g}"] if drawn.scale != (1.0, 1.0) else []
    changes += [f"deform by {drawn.elastic_sigma_px:g} px"] if drawn.elastic_sigma_px else []
    varied = any((drawn.brightness, drawn.contrast, drawn.black, drawn.white, drawn.gamma != (1.0, 1.0)))
    return (
        f"network: depth {format_shape(network.depths)}, width {network.width}, {network.padding} padding, "
        f"{pluralize(network.channels, 'channel')}, {network.classes} classes",
        f"tile {format_shape(plan.tile)} -> {format_shape(plan.output)}, {plan.batch} a step, sampler {plan.sampler}",
        f"loss: {border}, {balance}{dice}{deep}",
        f"augmentation: {', '.join(changes) or 'none'}, {'gray values' if varied else 'noise and blur'}",
        f"{optimizer.method}, rate {optimizer.rate:g}, {optimizer.schedule}{averaged}{frozen}",
    )


def smallest_tile(network: UNetSettings, output: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest sides of a training tile whose output has at least these sides, in pixels.

    With padding a tile needs no context: every convolution sees zeros outside it.
    """
    if network.padding == "same":
        return tuple(next_input(n, d, "same") for n, d in zip(output, network.depths, strict=True))
    return network.geometry.input_for(output)


def with_values(plan: Plan, values: Sequence[str]) -> Plan:
    """Return a plan with some values replaced.

    Parameters
    ----------
    plan
        Any plan.
    values
        ``"name=value"`` each; the name as in ``plan.json`` (``weights.w0``, ``batch``), the value as JSON or a word.

    Raises
    ------
    UsageError
        If a name is unknown (all names are listed) or a value is out of range.
    """
    fields = plan.model_dump(mode="json")
    for name, value in _parse_values(plan, values).items():
        *group, last = name.split(".")
        (fields[group[0]] if group else fields)[last] = value
    with _name_wrong_value(values):
        return Plan.model_validate(fields)


def network_with_values(network: UNetSettings, values: Sequence[str]) -> UNetSettings:
    """Return the network of a plan with those of `values` that belong to it replaced; see `with_values`."""
    own = [v for v in values if v.startswith("network.")]
    fields = network.model_dump(mode="json")
    for text in own:
        name, _, value = text.removeprefix("network.").partition("=")
        if name.strip() in fields and f"network.{name.strip()}" not in _FROM_DATA:  # `with_values` names the others
            fields[name.strip()] = _parse_value(value.strip())
    with _name_wrong_value(own):
        replaced = UNetSettings.model_validate(fields)
    if len(replaced.depths) != len(network.depths):
        wrong = next(v for v in own if "depths" in v)
        expected = f"{len(network.depths)} numbers, one for each axis of the images"
        raise UsageError(f"--set {wrong}", expected, "give as many numbers as the images have axes")
    return replaced


def asked_scale(values: Sequence[str]) -> float | None:
    """Return the scale that is among `values`; None without one, or if it is one that `with_values` refuses."""
    named = [value for name, _, value in (text.partition("=") for text in values) if name.strip() == "scale"]
    found = _parse_value(named[-1].strip()) if named else None
    return float(found) if isinstance(found, int | float) and LEAST_SCALE <= found <= LARGEST_SCALE else None


def _parse_values(plan: Plan, values: Sequence[str]) -> dict[str, Any]:
    names = value_names(plan)
    parsed = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or name.strip() not in names:
            expected = "NAME=VALUE with one of the names " + ", ".join(names)
            raise UsageError(f"--set {text}", expected, "correct the name, or leave this --set out")
        parsed[name.strip()] = _parse_value(value.strip())
    return parsed


@contextmanager
def _name_wrong_value(values: Sequence[str]) -> Iterator[None]:
    """Turn a `ValidationError` into a `UsageError` that names which of the values is out of range."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        last = str(next((part for part in reversed(first["loc"]) if isinstance(part, str)), ""))
        wrong = [v for v in values if v.partition("=")[0].strip().rsplit(".", 1)[-1] == last] or list(values)
        given = "--set " + " --set ".join(wrong)
        raise UsageError(given, expectation(error), "correct the value, or leave it out") from None


def value_names(plan: Plan) -> tuple[str, ...]:
    """Return the names that `with_values` takes, in the order of the plan; the data decide the others."""
    names: list[str] = []
    for name in type(plan).model_fields:
        part = getattr(plan, name)
        names += [f"{name}.{inner}" for inner in type(part).model_fields] if isinstance(part, Settings) else [name]
    return tuple(name for name in names if name not in _FROM_DATA)


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
