"""A trained model: one network or several, and all that is needed to use them, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from septum import seeding
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import ModelError
from septum.io.tensors import read_model, write_model
from septum.nn.device import Device, find_device
from septum.nn.ensemble import Ensemble, Network
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.predict.backend import Choice, VerifiedEngine, Wanted, select_backend, verified_engine
from septum.predict.domain_shift import TrainingDomain
from septum.settings import Settings

# The stored test pair must be met to this difference of logits, relative to their largest value. Another processor or
# library version differs by some 1e-6; a wrong weight by far more.
_TEST_TOLERANCE = 1e-3
_MOST_MEMBERS = 99


class ModelHeader(Settings):
    """What a model file says beside its weights.

    Parameters
    ----------
    network
        The network's shape.
    members
        Networks of this shape in the file; the mean of their probabilities is predicted.
    normalization
        How intensities were normalized in training.
    kind
        Whether it was trained on object ids or on classes.
    class_values
        Value of each class in the training masks, background first; written again at prediction.
    gray_as_color
        Gray images were repeated into the color channels in training, so they may be at prediction.
    pixel_size_um
        Median pixel size of the training images per axis, in micrometers; empty if unknown.
    objects
        How probabilities become objects, or areas between lines, tuned on the validation images.
    lines
        The two classes are lines and the areas between them: areas are told apart as objects are, and a line is drawn
        where two of them meet.
    scores
        Scores on the validation images; empty if there were none.
    seen
        What the training images were like; None in files written before it was kept.
    training
        How it was made: preset, seed, steps, seconds, fingerprint of the data, versions.
    """

    network: UNetSettings
    members: int = Field(default=1, ge=1, le=_MOST_MEMBERS)
    normalization: NormalizeSettings
    kind: Literal["objects", "classes"]
    class_values: tuple[int, ...]
    gray_as_color: bool = False
    pixel_size_um: dict[str, float] = Field(default_factory=dict)
    objects: ObjectSettings
    lines: bool = False
    scores: dict[str, float] = Field(default_factory=dict)
    seen: TrainingDomain | None = None
    training: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model ready to predict: batch normalization folded, in evaluation mode, on its device."""

    header: ModelHeader
    network: Network
    device: Device
    _work: list[float] = field(default_factory=list, repr=False, compare=False)

    def choose(self, wanted: Wanted = "auto", *, work: float = inf, coming: float = 0.0, room: float = inf) -> Choice:
        """Choose what computes the network; see `septum.predict.backend.select_backend`.

        Work adds up, with what is known to be `coming`: what is too little in one call may be enough in several.
        """
        self._work[:] = [sum(self._work) + work]
        work = self._work[0] + coming
        return select_backend(
            self.network, self.device, wanted=wanted, work=work, room=room, make=lambda: self._checked
        )

    def computed_by(self, engine: bool) -> Network:
        """Return what computes the network: Septum's engine if it was chosen, and never elsewhere than on a CPU."""
        return self._checked.engine if engine and self.device.torch.type == "cpu" else self.network

    @cached_property
    def _checked(self) -> VerifiedEngine:
        return verified_engine(self.network)

    @property
    def rank(self) -> int:
        """Return 2 for images, 3 for volumes."""
        return len(self.header.network.depths)


def save_model(path: Path, network: UNet | Sequence[UNet], header: ModelHeader, *, half: bool = False) -> None:
    """Write a model file with a small test pair, made on the CPU, that is verified whenever it is opened.

    The output of the pair is that of each network.

    Parameters
    ----------
    path
        Ends in ``.safetensors``; appears only when it is whole.
    network
        As trained, batch normalization not folded; on any device. Several make an ensemble.
    header
        Its `network` settings are the networks', `members` is their number.
    half
        Store the weights in half precision (float16), in half the space; the test pair is that of the rounded weights.

    Raises
    ------
    FileError
        If the file cannot be written.
    ModelError
        If a weight is too large for half precision.
    """
    networks = [network] if isinstance(network, UNet) else list(network)
    if half:
        networks = [_rounded(n) for n in networks]
    assert header.members == len(networks) and all(header.network == n.settings for n in networks)
    tensors = {}
    for number, one in enumerate(networks):
        for name, value in one.state_dict().items():
            stored = value.half() if half and value.is_floating_point() else value
            tensors[_place(number, len(networks)) + name] = stored.detach().cpu().numpy()
    image = _test_image(header.network)
    tensors["test.input"] = image
    tensors["test.output"] = _logits([for_prediction(n).cpu() for n in networks], image, find_device("cpu"))
    write_model(path, tensors, header.model_dump(mode="json"))


def _rounded(network: UNet) -> UNet:
    """Return a copy whose weights are those that half precision can hold."""
    rounded = UNet.unset(network.settings)
    rounded.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()})
    if not all(bool(torch.isfinite(v).all()) for v in rounded.state_dict().values()):
        raise ModelError("a weight beyond 65504", "weights that half precision can hold", "store it in float32")
    return rounded


def open_model(path: Path, device: str = "auto") -> Model:
    """Open a model file and verify its test pair.

    Parameters
    ----------
    path
        A file written by `save_model`.
    device
        See `septum.nn.device.find_device`.

    Raises
    ------
    ModelError
        If the file is missing, damaged, foreign, or does not reproduce its test pair here.
    UsageError
        If the device does not exist.
    """
    found = find_device(device)
    header, tensors = _read(path)
    folded = [for_prediction(n).to(found.torch) for n in _networks(path, header, tensors)]
    _verify(path, folded, tensors, found)
    return Model(header, folded[0] if len(folded) == 1 else Ensemble(folded), found)


def trained_networks(path: Path) -> list[UNet]:
    """Return the networks of a model file as they were trained, on the CPU; to be written into another one.

    Raises
    ------
    ModelError
        If the file is missing, damaged or foreign.
    """
    header, tensors = _read(path)
    return _networks(path, header, tensors)


def _read(path: Path) -> tuple[ModelHeader, dict[str, NDArray[Any]]]:
    tensors, raw = read_model(path)
    try:
        return ModelHeader.model_validate(raw), tensors
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
        raise ModelError(
            f"{path}: the header does not fit this version of Septum ({what})",
            "a Septum model file",
            "train it again, or use the version that wrote it",
        ) from None


def _place(number: int, members: int) -> str:
    """Return what the names of a network's weights begin with in the file."""
    return "network." if members == 1 else f"network{number + 1}."


def _networks(path: Path, header: ModelHeader, tensors: Mapping[str, NDArray[Any]]) -> list[UNet]:
    """Make the networks of a file."""
    networks = []
    try:
        for number in range(header.members):
            begin = _place(number, header.members)
            weights = {k.removeprefix(begin): torch.from_numpy(v) for k, v in tensors.items() if k.startswith(begin)}
            _is_as_large_as_it_says(header.network, weights)
            network = UNet.unset(header.network)
            network.load_state_dict(weights)
            networks.append(network)
    except (RuntimeError, KeyError, ValueError):
        raise ModelError(
            f"{path}: the weights do not fit the network in the header", "a Septum model file", "copy the file again"
        ) from None
    return networks


def _is_as_large_as_it_says(settings: UNetSettings, weights: dict[str, torch.Tensor]) -> None:
    """Raise `ValueError` or `KeyError` unless the widest and the outermost weights in the file are those of `settings`.

    A header alone must not make us ask for the memory of a network that the file does not hold.
    """
    widest = settings.width * 2 ** max(settings.depths)
    expected = {
        "down.0.0.weight": (settings.width, settings.channels),
        "bottom.3.weight" if settings.batch_norm else "bottom.2.weight": (widest, widest),
        "head.weight": (settings.classes, settings.width),
    }
    for name, sides in expected.items():
        if tuple(weights[name].shape[:2]) != sides:
            raise ValueError(f"{name} is {tuple(weights[name].shape)}")


def _verify(path: Path, networks: Sequence[UNet], tensors: Mapping[str, NDArray[Any]], device: Device) -> None:
    """Raise `ModelError` unless each network gives its stored output for the stored input."""
    expected = tensors.get("test.output")
    image = tensors.get("test.input")
    if expected is None or image is None:
        raise ModelError(f"{path}: no test pair inside", "a Septum model file", "copy the file again")
    try:
        difference = float(np.abs(_logits(networks, image, device) - expected).max())
    except (ValueError, RuntimeError, TypeError):
        raise ModelError(
            f"{path}: its test pair does not fit its network", "a Septum model file", "copy the file again"
        ) from None
    if not difference <= _TEST_TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ModelError(
            f"{path}: the network differs from its stored test output by {difference:.2g} on {device.name}",
            "the same result as on the machine that trained it",
            "try --device cpu; if that works, this device computes wrongly",
        )


def _test_image(settings: UNetSettings) -> NDArray[np.float32]:
    """Return a small normalized image of noise, ``(1, C, *S) float32``."""
    sides = settings.geometry.input_for((1,) * len(settings.depths))
    return seeding.generator(0, "test pair").standard_normal((1, settings.channels, *sides), dtype=np.float32)


def _logits(networks: Sequence[UNet], image: NDArray[Any], device: Device) -> NDArray[np.float32]:
    """Return the output of each network, ``(members, K, *S)``."""
    with torch.inference_mode(), device.exact():
        x = torch.from_numpy(image).to(device.torch)
        out: NDArray[np.float32] = torch.cat([network(x).float().cpu() for network in networks]).numpy()
    return out
