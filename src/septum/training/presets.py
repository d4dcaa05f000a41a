"""Presets: how a plan follows from the fingerprint of the data, the device and the settings, with a reason a choice."""

from __future__ import annotations

from math import prod
from typing import Any

from septum.arrays.geometry import input_for_output, next_input
from septum.arrays.normalize import NormalizeSettings
from septum.check.issues import format_shape
from septum.errors import UsageError
from septum.nn.augment import AugmentSettings
from septum.nn.unet import UNetSettings
from septum.training.fingerprint import Fingerprint
from septum.training.plan import (
    LEAST_SCALE,
    OptimizerSettings,
    Plan,
    WeightSettings,
    asked_scale,
    network_with_values,
    smallest_tile,
    with_values,
)
from septum.training.pretrained import Pretrained
from septum.training.settings import Precision, TrainSettings

# Largest side of a planned tile's output in pixels (the paper's, in 2D), and pixels of a planned batch, by rank.
_LARGEST_OUTPUT = {2: 388, 3: 64}
_BATCH_PIXELS = {2: 388**2, 3: 48**3}
_LARGEST_BATCH = 8
# The paper's depth. Objects that are narrower are seen whole by a network with one pooling less than the paper's.
_WANTED_DEPTH, _SMALL_OBJECT_PX = 4, 40
# Objects of at least twice this width are seen on a coarser grid, at which they are this wide or a bit wider: whole
# objects are in view, and images have fewer pixels. Narrow objects, of which few are narrower, keep this width.
_WORKING_PX, _LEAST_WORKING_PX = 50, 20
# Normalized values are limited to this multiple of those of the brightest structures of a typical training image.
_BRIGHTER = 2.0

# Gain in the recall of the classes by gray values for which normalization and augmentation are changed. On hippocampus,
# ISBI 2012 and two other public sets it was between -0.05 and 0.01; on images made of gray values it is above 0.15.
_MIN_RECALL_GAIN = 0.1

LEAST_COARSE = 8
"""The coarsest map of a network should have this number of pixels along each axis of an image."""

# With this number of classes or more, a class may lie between two others, and its probability must rise and fall within
# a short range of the features. A few hundred steps with the rate of fewer classes do not reach weights that large.
_MANY_CLASSES, _RATE, _RATE_OF_MANY = 5, 1e-3, 3e-3

Reasons = tuple[str, ...]


def make_plan(
    fingerprint: Fingerprint,
    settings: TrainSettings,
    *,
    gpu: bool = False,
    bfloat16: bool = False,
    start: Pretrained | None = None,
) -> tuple[Plan, Reasons]:
    """Choose a plan.

    Parameters
    ----------
    fingerprint
        Of the data.
    settings
        ``preset``; and ``width``, ``depth``, ``tile``, ``batch``, ``precision``, ``set``, which override it. ``tile``
        grows to the next side that fits the depth.
    gpu, bfloat16
        Whether a GPU computes, and whether the device is faster in bfloat16 than in float32.
    start
        The model to start from: it decides the network and the normalization.

    Returns
    -------
    plan, reasons
        The plan, and one sentence for each choice.

    Raises
    ------
    UsageError
        If the preset does not exist for volumes, or a value of ``set`` is not a value of the plan or out of range.
    """
    if settings.preset != "auto" and len(fingerprint.sides) == 3:
        raise UsageError(
            f"--preset {settings.preset} with volumes", "--preset auto", "the published settings are for 2D images only"
        )
    network = None if start is None else start.network_for(fingerprint.channels, fingerprint.classes)
    match settings.preset:
        case "auto":
            plan, reasons = _auto(fingerprint, settings, gpu=gpu, network=network)
        case "paper":
            plan, reasons = _paper(fingerprint, settings.depth)
        case "fiji":
            plan, reasons = _fiji(fingerprint, settings.depth)
    if start is not None and network is not None:
        tile = smallest_tile(network, plan.output)
        normalization = start.header.normalization
        if normalization.method == "common" and len(normalization.common) != fingerprint.channels:
            normalization = NormalizeSettings(method="common", common=fingerprint.common)
        elif normalization.method == "standardize" and normalization.limit is None:
            # A model of an earlier version: without a limit a hot pixel hides the objects around it.
            limit = intensity_limit(fingerprint.brightest)
            normalization = normalization.model_copy(update={"limit": limit})
        plan = plan.model_copy(update={"network": network, "tile": tile, "normalization": normalization})
    elif settings.width is not None:
        plan = plan.model_copy(update={"network": plan.network.model_copy(update={"width": settings.width})})
        reasons += (f"width {settings.width}: asked for",)
    elif settings.preset == "auto":
        reasons += (f"width {plan.network.width}: {'a GPU computes' if gpu else 'no GPU, to keep steps short'}",)
    return _with_requests(plan, reasons, fingerprint, settings, gpu=gpu, bfloat16=bfloat16)


def _with_requests(
    plan: Plan, reasons: Reasons, fingerprint: Fingerprint, settings: TrainSettings, *, gpu: bool, bfloat16: bool
) -> tuple[Plan, Reasons]:
    """Return the plan of a preset with the tile, batch, precision and other values of the settings."""
    network, tile = plan.network, plan.tile
    if settings.tile is not None:
        tile = tuple(next_input(settings.tile, d, network.padding) for d in network.depths)
        reasons += (f"tile {format_shape(tile)}: asked for {settings.tile}",)
    computed: Precision = settings.precision or ("bfloat16" if bfloat16 else "float32")
    changed = {"tile": tile, "batch": settings.batch or plan.batch, "precision": computed}
    changed |= {"scale": fingerprint.scale}
    changed |= {"lines": fingerprint.boundary_lines and len(tile) == 2, "fill_holes": fingerprint.solid_objects}
    if fingerprint.solid_objects:
        reasons += (f"holes in predicted objects are filled: {fingerprint.holes:.1%} of the true objects have one",)
    plan = plan.model_copy(update=changed)
    plan = Plan.model_validate(plan.model_dump())
    if settings.set:
        # The network first: the tile is fitted to it unless it is asked for as well.
        network = network_with_values(plan.network, settings.set)
        plan = plan.model_copy(update={"network": network, "tile": smallest_tile(network, plan.output)})
        plan = with_values(plan, settings.set)
        reasons += (f"asked for: {', '.join(settings.set)}",)
    asked = settings.precision is not None or plan.precision != computed
    return plan, (*reasons, f"precision {plan.precision}: {_why_precision(asked=asked, gpu=gpu, bfloat16=bfloat16)}")


def _paper(fingerprint: Fingerprint, depth: int | None) -> tuple[Plan, Reasons]:
    """Ronneberger et al. 2015. The learning rate is not published; 0.001 with the loss averaged over pixels is ours."""
    depths = (depth or 4,) * 2
    network = UNetSettings.paper(channels=fingerprint.channels, classes=fingerprint.classes)
    plan = Plan(
        network=network.model_copy(update={"depths": depths}),
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


def _fiji(fingerprint: Fingerprint, depth: int | None) -> tuple[Plan, Reasons]:
    """Falk et al. 2019, the authors' plugin (see there for each figure)."""
    depths = (depth or 4,) * 2
    plan = Plan(
        network=UNetSettings(channels=fingerprint.channels, classes=fingerprint.classes, depths=depths, leak=0.1),
        normalization=NormalizeSettings(method="range"),
        augmentation=AugmentSettings.fiji(),
        optimizer=OptimizerSettings(method="adam", rate=1e-5, momentum=0.9, schedule="constant"),
        weights=WeightSettings(method="fiji", w0=50.0, sigma_px=6.0),
        tile=tuple(input_for_output(356, d) for d in depths),
        batch=1,
        sampler="density",
    )
    return plan, ("preset fiji: network, weight map, augmentation and Adam as in the authors' Fiji plugin of 2019",)


def _auto(
    fingerprint: Fingerprint, settings: TrainSettings, *, gpu: bool, network: UNetSettings | None
) -> tuple[Plan, Reasons]:
    """Follow the data and the device; `network` is that of the model to start from."""
    rank = len(fingerprint.sides)
    depths, reasons = (network.depths, []) if network else _auto_depths(fingerprint, settings.depth)
    # Unpadded, a third to a half of a step (three quarters in 3D) is spent on context around the output. In equal time
    # padded networks were better on all sets (benchmarks/ablation.py). Predictions do not see such edges.
    planned = UNetSettings(
        channels=fingerprint.channels,
        classes=fingerprint.classes,
        depths=depths,
        width=(32 if rank == 3 else 64) if gpu else 16,
        padding="same",
        batch_norm=True,
    )
    if network is None:
        reasons.append("same padding: without it much of each step would be context around the tile")
    # A tile larger than the image would only repeat its mirror image.
    tile = smallest_tile(planned, [min(side, _LARGEST_OUTPUT[rank]) for side in fingerprint.sides])
    normalization, augmentation, of_data = _normalization_and_augmentation(fingerprint)
    reasons += of_data
    if fingerprint.boundary_lines:
        reasons.append(
            "lines between areas, such as membranes: their pixels weigh more, and no soft Dice, which tolerates gaps"
        )
    many = fingerprint.classes >= _MANY_CLASSES
    if many:
        reasons.append(f"rate {_RATE_OF_MANY:g} instead of {_RATE:g}: {fingerprint.classes} classes")
    # One large tile in 2D, as in the paper; two or more small ones in 3D, for a steady gradient.
    batch = round(_BATCH_PIXELS[rank] / prod(planned.geometry.output(tile)))
    plan = Plan(
        network=planned,
        normalization=normalization,
        augmentation=augmentation,
        # With statistics of batches to the end, images unlike the others were predicted too faint or too strong
        # (benchmarks/ablation.py).
        optimizer=OptimizerSettings(
            method="adamw",
            rate=_RATE_OF_MANY if many else _RATE,
            decay=1e-2,
            average=0.1,
            freeze_batchnorm=0.25,
        ),
        # The soft Dice already balances rare classes; weighing their pixels as well would draw them too large. But it
        # tolerates gaps in boundary lines, which have few pixels and separate large areas.
        weights=WeightSettings(w0=10.0, sigma_px=5.0, balance=10.0 if fingerprint.boundary_lines else 1.0),
        dice=0.0 if fingerprint.boundary_lines else 1.0,
        deep=0.5,
        # The class balance makes both classes of lines and areas about equally heavy: there is nothing to start from.
        prior=not fingerprint.boundary_lines,
        tile=tile,
        batch=max(1, min(_LARGEST_BATCH, batch)),
        sampler="objects",
    )
    return plan, tuple(reasons)


def intensity_limit(brightest: float) -> float | None:
    """Choose the normalized value beyond which a pixel is no structure of the images.

    Parameters
    ----------
    brightest
        Of the training images, in standard deviations (`Fingerprint.brightest`).

    Returns
    -------
    limit
        A value of `NormalizeSettings.limit`; None for images without structures.
    """
    return round(_BRIGHTER * brightest, 1) or None


def _normalization_and_augmentation(
    fingerprint: Fingerprint,
) -> tuple[NormalizeSettings, AugmentSettings, list[str]]:
    """Choose the normalization, and leave out changes to tiles that would hide what tells the classes apart.

    An image that is standardized by itself has other gray values with every class that it holds more or less of. This
    is right if brightness and contrast of images vary by chance, as in most microscopes, and wrong if a gray value has
    the same meaning in all images, as in computed tomography.
    """
    normalization = NormalizeSettings(limit=intensity_limit(fingerprint.brightest), skip_constant=True)
    kept, reasons = dict[str, Any](), list[str]()
    if fingerprint.fixed_orientation:
        kept |= {"rotate": False, "mirror": False}
        reasons.append("neither rotated nor mirrored: classes lie the same way around in all images")
    if (found := fingerprint.gray_values) is not None:
        alone, varied = found.each, found.each_varied
        if found.common > found.each + _MIN_RECALL_GAIN:
            normalization = NormalizeSettings(method="common", common=fingerprint.common)
            alone, varied = found.common, found.common_varied
            reasons.append(
                f"one normalization for all images: their gray values tell {found.common:.0%} of the classes, and "
                f"{found.each:.0%} with each image standardized"
            )
        if alone > varied + _MIN_RECALL_GAIN:
            kept |= {"brightness": 0.0, "contrast": 0.0, "gamma": (1.0, 1.0)}
            reasons.append(
                f"brightness and contrast are not varied: gray values would tell {varied:.0%} of the classes instead "
                f"of {alone:.0%}"
            )
    return normalization, AugmentSettings.auto().model_copy(update=kept), reasons


def working_scale(fingerprint: Fingerprint, settings: TrainSettings) -> float:
    """Choose the scale of the working grid: 1, or 1 / n where objects are wide (benchmarks/working_scale.py).

    Parameters
    ----------
    fingerprint
        Of the images on their own grid.
    settings
        A scale in ``set`` is taken; presets that were published keep 1.
    """
    asked = asked_scale(settings.set)
    if asked is not None:
        return asked
    if settings.preset != "auto" or len(fingerprint.sides) != 2 or fingerprint.object_range_px is None:
        return 1.0
    wide, narrow = fingerprint.object_px or 0.0, fingerprint.object_range_px[0]
    deepest = min(fingerprint.sides) / (LEAST_COARSE * 2**_WANTED_DEPTH)
    return 1.0 / max(1, int(min(wide / _WORKING_PX, narrow / _LEAST_WORKING_PX, deepest, 1 / LEAST_SCALE)))


def _auto_depths(fingerprint: Fingerprint, depth: int | None) -> tuple[tuple[int, ...], list[str]]:
    """Choose the poolings of each axis: enough to see an object, no more than the image and its pixel size allow."""
    if depth is not None:
        return (depth,) * len(fingerprint.sides), [f"depth {depth}: asked for"]
    wanted = _WANTED_DEPTH if len(fingerprint.sides) == 2 else 3
    reason = "the paper's depth"
    object_px = fingerprint.object_px
    if len(fingerprint.sides) == 2 and object_px is not None and object_px < _SMALL_OBJECT_PX:
        wanted, reason = 3, f"objects are about {object_px:.0f} px wide"
    depths = []
    for side, ratio in zip(fingerprint.sides, fingerprint.anisotropy, strict=True):
        d = wanted
        while d > 1 and side < LEAST_COARSE * 2**d:
            d -= 1
        while d > 0 and ratio >= 2:  # a coarse axis is pooled once less for each doubling of its pixel size
            d, ratio = d - 1, ratio / 2
        depths.append(d)
    if max(depths) == 0:
        depths[depths.index(max(depths))] = 1
    text = f"depth {format_shape(depths)}: {reason}"
    if min(depths) < wanted:
        sides, sizes = format_shape(fingerprint.sides), format_shape(fingerprint.anisotropy)
        text += f", as far as sides {sides} and pixel sizes {sizes} allow"
    return tuple(depths), [text]


def _why_precision(*, asked: bool, gpu: bool, bfloat16: bool) -> str:
    if asked:
        return "asked for"
    where = "GPU" if gpu else "processor"
    if bfloat16:
        return f"the {where} is faster in it; weights and loss are float32"
    return f"the {where} is not faster in bfloat16"
