"""Choose how to train: from the data, the device and the preset to one frozen plan, each choice with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from septum.arrays.geometry import input_for_output, next_input
from septum.arrays.normalize import NormalizeSettings
from septum.errors import UsageError
from septum.nn.augment import AugmentSettings
from septum.nn.unet import UNetSettings
from septum.settings import Settings
from septum.train.fingerprint import Fingerprint

if TYPE_CHECKING:
    pass

Preset = Literal["auto", "paper", "fiji"]
Precision = Literal["float32", "bfloat16"]


class OptimizerSettings(Settings):
    """How weights move.

    Parameters
    ----------
    method
        ``"sgd"`` with `momentum`, ``"adam"`` or ``"adamw"`` with `momentum` as the first beta.
    rate
        Learning rate at the beginning.
    momentum
        Share of the last step that goes on.
    decay
        Weight decay (AdamW only).
    schedule
        ``"cosine"``: up over the first 2 % of the training, then down to 0 along a cosine. ``"constant"``: `rate`
        throughout.
    average
        The weights that are scored and kept are a mean over about this share of the steps so far
        (`septum.nn.weight_averaging`); 0: the last ones.
    settle
        Share of the training, at its end, in which batch normalization computes as in prediction
        (`septum.nn.unet.freeze_batchnorm`).
    """

    method: Literal["sgd", "adam", "adamw"] = "adamw"
    rate: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    decay: float = Field(default=0.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    average: float = Field(default=0.0, ge=0, le=1)
    settle: float = Field(default=0.0, ge=0, le=1)


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
        How many times the weight of the most frequent class a rarer one may get at most; 1 weighs all pixels alike.
    """

    method: Literal["paper", "fiji"] = "paper"
    w0: float = Field(default=10.0, ge=0)
    sigma_px: float = Field(default=5.0, gt=0)
    balance: float = Field(default=10.0, ge=1)


class Plan(Settings):
    """All that decides a training beside the data and the seed.

    Parameters
    ----------
    network, normalization, augmentation, optimizer, weights
        Settings of the parts.
    dice
        Share of the soft Dice loss that is added to the weighted cross entropy (see `septum.nn.loss.soft_dice`).
    deep
        Weight of the loss of the level below the finest, a quarter of it for the next (see
        `septum.nn.deep_supervision`).
    tile
        Sides of the network's input in training, in pixels.
    batch
        Tiles a step, over all devices.
    sampler
        Where tiles are drawn: ``"uniform"`` everywhere alike; ``"objects"`` half of them around a random object or
        class, so that small and rare ones are reached; ``"density"`` 1 in the foreground, 0.1 in the background, 0
        where ignored (Fiji).
    validations
        How often the held-out images are predicted and scored.
    lines
        The two classes are lines and the areas between them, in 2D: weights that join areas through gaps in the lines
        are scored lower (`septum.train.model_selection.selection_score`), and masks are made of areas
        (`septum.predict.outputs.most_probable_class`).
    precision
        What convolutions of a step are computed in; weights, loss and everything but training are in float32.
    """

    network: UNetSettings
    normalization: NormalizeSettings
    augmentation: AugmentSettings
    optimizer: OptimizerSettings
    weights: WeightSettings
    dice: float = Field(default=0.0, ge=0)
    deep: float = Field(default=0.0, ge=0)
    tile: tuple[int, ...]
    batch: int = Field(ge=1)
    sampler: Literal["uniform", "objects", "density"] = "uniform"
    validations: int = Field(default=10, ge=1)
    lines: bool = False
    precision: Precision = "float32"

    @model_validator(mode="after")
    def _tile_fits(self) -> Self:
        if len(self.tile) != len(self.network.depths):
            raise ValueError(f"a tile of {len(self.tile)} sides for {len(self.network.depths)} axes")
        self.network.geometry.output(self.tile)
        return self

    @model_validator(mode="after")
    def _lines_fit(self) -> Self:
        if self.lines and (self.network.classes != 2 or len(self.tile) != 2):
            raise ValueError("lines are of two classes in 2D")
        return self

    @property
    def output(self) -> tuple[int, ...]:
        """Sides of the network's output in training."""
        return self.network.geometry.output(self.tile)


def make_plan(
    facts: Fingerprint,
    *,
    preset: Preset = "auto",
    width: int | None = None,
    depth: int | None = None,
    tile: int | None = None,
    batch: int | None = None,
    values: Sequence[str] = (),
    precision: Precision | None = None,
) -> tuple[Plan, tuple[str, ...]]:
    """Choose a plan.

    Parameters
    ----------
    facts
        What is known of the data and the machine.
    preset
        ``"paper"`` and ``"fiji"`` are fixed; ``"auto"`` follows the facts.
    width, depth, tile, batch, precision
        Values given by a person; they win over the preset. `tile` is a wish for the input side; it grows to the next
        side that fits the depth.
    values
        Any other value of the plan, ``"name=value"`` each (see `septum.train.overrides.with_values`).

    Returns
    -------
    plan, reasons
        The plan and, for people, one sentence a choice.

    Raises
    ------
    UsageError
        If the preset does not exist for volumes, or one of `values` is none of a plan.
    """
    from septum.train.overrides import network_with_values, with_values

    if preset != "auto" and len(facts.sides) == 3:
        raise UsageError(
            f"--preset {preset} with volumes", "--preset auto", "the published settings are for 2D images only"
        )
    chosen, reasons = {"auto": _auto, "paper": _paper, "fiji": _fiji}[preset](facts, depth)
    network = chosen.network.model_copy(update={"width": width} if width else {})
    if facts.network is not None:
        network = facts.network
        fit = {"tile": fitted(network, chosen.output), "normalization": facts.normalization or chosen.normalization}
        chosen = chosen.model_copy(update=fit)
    elif width is not None:
        reasons += (f"width {width}: asked for",)
    elif preset == "auto":
        reasons += (f"width {network.width}: {'a GPU computes' if facts.gpu else 'no GPU, so that steps stay short'}",)
    sides = chosen.tile
    if tile is not None:
        sides = tuple(next_input(tile, d, network.padding) for d in network.depths)
        reasons += (f"tile {_times(sides)}: asked for {tile}",)
    computed: Precision = precision or ("bfloat16" if facts.bfloat16 else "float32")
    made = {"network": network, "tile": sides, "batch": batch or chosen.batch, "precision": computed}
    plan = chosen.model_copy(update={**made, "lines": facts.lines and len(sides) == 2})
    plan = Plan.model_validate(plan.model_dump())
    if values:
        # The network first: its tile is fitted to it where none was asked for.
        network = network_with_values(plan.network, values)
        plan = with_values(plan.model_copy(update={"network": network, "tile": fitted(network, plan.output)}), values)
        reasons += (f"asked for: {', '.join(values)}",)
    asked = precision if plan.precision == computed else plan.precision
    return plan, (*reasons, f"precision {plan.precision}: {_why_precision(facts, asked)}")


def plan_lines(plan: Plan) -> tuple[str, ...]:
    """Return the plan in plain words, one sentence a part."""
    network, weights, optimizer, drawn = plan.network, plan.weights, plan.optimizer, plan.augmentation
    border = "no border weight" if weights.w0 == 0 else f"border weight {weights.w0:g} over {weights.sigma_px:g} px"
    dice = f", soft Dice {plan.dice:g}" if plan.dice else ""
    deep = f"; coarser levels {plan.deep:g}" if plan.deep else ""
    balance = "all classes alike" if weights.balance == 1 else f"rare classes up to {weights.balance:g} times"
    balance = balance if weights.method == "paper" else "as the Fiji plugin's"
    averaged = f", weights averaged over the last {optimizer.average:.0%} of the steps" if optimizer.average else ""
    settled = f", normalization as in prediction in the last {optimizer.settle:.0%}"
    settled = settled if optimizer.settle and network.batch_norm else ""
    changes = [name for name in ("rotate", "mirror") if getattr(drawn, name)]
    changes += [f"scale {drawn.scale[0]:g} to {drawn.scale[1]:g}"] if drawn.scale != (1.0, 1.0) else []
    changes += [f"deform by {drawn.elastic_sigma_px:g} px"] if drawn.elastic_sigma_px else []
    return (
        f"network: depth {_times(network.depths)}, width {network.width}, {network.padding} padding, "
        f"{network.channels} channel{'s' * (network.channels > 1)}, {network.classes} classes",
        f"tile {_times(plan.tile)} -> {_times(plan.output)}, {plan.batch} a step, drawn by {plan.sampler}",
        f"loss: {border}, {balance}{dice}{deep}",
        f"augmentation: {', '.join(changes) or 'none'}, gray values",
        f"{optimizer.method}, rate {optimizer.rate:g}, {optimizer.schedule}{averaged}{settled}",
    )


def fitted(network: UNetSettings, output: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest sides of a training tile whose output has at least these sides.

    With padding a tile needs no context: what lies outside it is 0 at every convolution, in training.
    """
    if network.padding == "same":
        return tuple(next_input(n, d, "same") for n, d in zip(output, network.depths, strict=True))
    return network.geometry.input_for(output)


def _paper(facts: Fingerprint, depth: int | None) -> tuple[Plan, tuple[str, ...]]:
    """Ronneberger et al. 2015. The learning rate is not published; 0.001 with the loss averaged over pixels is ours."""
    depths = (depth or 4,) * 2
    network = UNetSettings.paper(channels=facts.channels, classes=facts.classes).model_copy(update={"depths": depths})
    plan = Plan(
        network=network,
        normalization=NormalizeSettings(method="range"),
        augmentation=AugmentSettings.paper(),
        optimizer=OptimizerSettings(method="sgd", rate=1e-3, momentum=0.99, schedule="constant"),
        weights=WeightSettings(w0=10.0, sigma_px=5.0),
        tile=tuple(input_for_output(388, d) for d in depths),
        batch=1,
    )
    return plan, (
        "preset paper: network, weight map, augmentation and momentum as published in 2015; rate 0.001 is ours",
    )


def _fiji(facts: Fingerprint, depth: int | None) -> tuple[Plan, tuple[str, ...]]:
    """Falk et al. 2019, the authors' plugin (see there for each figure)."""
    depths = (depth or 4,) * 2
    plan = Plan(
        network=UNetSettings(channels=facts.channels, classes=facts.classes, depths=depths, leak=0.1),
        normalization=NormalizeSettings(method="range"),
        augmentation=AugmentSettings.fiji(),
        optimizer=OptimizerSettings(method="adam", rate=1e-5, momentum=0.9, schedule="constant"),
        weights=WeightSettings(method="fiji", w0=50.0, sigma_px=6.0),
        tile=tuple(input_for_output(356, d) for d in depths),
        batch=1,
        sampler="density",
    )
    return plan, ("preset fiji: network, weight map, augmentation and Adam as in the authors' Fiji plugin of 2019",)


def _auto(facts: Fingerprint, depth: int | None) -> tuple[Plan, tuple[str, ...]]:
    """Follow the data and the device."""
    rank = len(facts.sides)
    depths, reasons = (facts.network.depths, []) if facts.network else _auto_depths(facts, depth)
    width = (32 if rank == 3 else 64) if facts.gpu else 16
    # A tile larger than the image would only show its mirror image again.
    limit = 388 if rank == 2 else 64
    # Without padding a third to a half of a step (of volumes three quarters) is spent on context around the output. In
    # equal time padded networks were better on all sets (benchmarks/ablation.py). Predictions know no such edges.
    network = UNetSettings(
        channels=facts.channels,
        classes=facts.classes,
        depths=depths,
        width=width,
        padding="same",
        batch_norm=True,
    )
    if facts.network is None:
        reasons.append("same padding: without it much of each step would be context around the tile")
    sides = fitted(network, [min(s, limit) for s in facts.sides])
    augmentation = AugmentSettings.auto()
    if facts.oriented:
        augmentation = augmentation.model_copy(update={"rotate": False, "mirror": False})
        reasons.append("neither rotated nor mirrored: classes lie the same way around in all images")
    if facts.lines:
        reasons.append(
            "lines between areas, such as membranes: their pixels weigh more, and no soft Dice lets gaps pass"
        )
    # One large tile in 2D, as in the paper; of volumes two or more small ones, for a steady gradient.
    pixels, goal = 1, 388**2 if rank == 2 else 48**3
    for side in network.geometry.output(sides):
        pixels *= side
    batch = max(1, min(8, round(goal / pixels)))
    plan = Plan(
        network=network,
        normalization=NormalizeSettings(method="standardize"),
        augmentation=augmentation,
        # Without `settle`, images unlike the others were predicted too faint or too strong (benchmarks/ablation.py).
        optimizer=OptimizerSettings(method="adamw", rate=1e-3, decay=1e-2, average=0.1, settle=0.25),
        # The overlap of areas sees rare classes; to weigh their pixels as well would draw them too large. But it lets
        # gaps pass in lines, which fill few pixels and part much.
        weights=WeightSettings(w0=10.0, sigma_px=5.0, balance=10.0 if facts.lines else 1.0),
        dice=0.0 if facts.lines else 1.0,
        deep=0.5,
        tile=sides,
        batch=batch,
        sampler="objects",
    )
    return plan, tuple(reasons)


def _auto_depths(facts: Fingerprint, depth: int | None) -> tuple[tuple[int, ...], list[str]]:
    """Choose the poolings per axis: enough to see an object, no more than the image and its pixel size allow."""
    if depth is not None:
        return (depth,) * len(facts.sides), [f"depth {depth}: asked for"]
    wanted = 4 if len(facts.sides) == 2 else 3
    reason = "the paper's depth"
    if len(facts.sides) == 2 and facts.object_px is not None and facts.object_px < 40:
        wanted, reason = 3, f"objects are about {facts.object_px:.0f} px wide"
    depths = []
    for side, ratio in zip(facts.sides, facts.anisotropy, strict=True):
        d = wanted
        while d > 1 and side < 8 * 2**d:  # the coarsest map should still have eight pixels
            d -= 1
        while d > 0 and ratio >= 2:  # a coarse axis is pooled once less for each doubling of its pixel size
            d, ratio = d - 1, ratio / 2
        depths.append(d)
    if max(depths) == 0:
        depths[depths.index(max(depths))] = 1
    text = f"depth {_times(depths)}: {reason}"
    if min(depths) < wanted:
        text += f", as far as sides {_times(facts.sides)} and pixel sizes {_times(facts.anisotropy)} allow"
    return tuple(depths), [text]


def _why_precision(facts: Fingerprint, asked: Precision | None) -> str:
    if asked is not None:
        return "asked for"
    where = "GPU" if facts.gpu else "processor"
    if facts.bfloat16:
        return f"the {where} is faster in it; weights and loss are float32"
    return f"the {where} is not faster in bfloat16"


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
