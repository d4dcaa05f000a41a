"""A trained model: the network and all that is needed to use it, in one file."""

from __future__ import annotations

from dataclasses import dataclass
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
from septum.io.model_file import read_model, write_model
from septum.nn.device import Device, find_device
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.settings import Settings

# The stored test pair must be met to this difference of logits, relative to their largest value. Another processor or
# library version differs by some 1e-6; a wrong weight by far more.
_TEST_TOLERANCE = 1e-3


class ModelHeader(Settings):
    """What a model file says beside its weights.

    Parameters
    ----------
    network
        The network's shape.
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
        How probabilities become objects, tuned on the validation images.
    scores
        Scores on the validation images; empty if there were none.
    training
        How it was made: preset, seed, steps, seconds, fingerprint of the data, versions.
    """

    network: UNetSettings
    normalization: NormalizeSettings
    kind: Literal["objects", "classes"]
    class_values: tuple[int, ...]
    gray_as_color: bool = False
    pixel_size_um: dict[str, float] = Field(default_factory=dict)
    objects: ObjectSettings
    scores: dict[str, float] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model ready to predict: batch normalization folded, in evaluation mode, on its device."""

    header: ModelHeader
    network: UNet
    device: Device

    @property
    def rank(self) -> int:
        """Return 2 for images, 3 for volumes."""
        return len(self.header.network.depths)


def save_model(path: Path, network: UNet, header: ModelHeader) -> None:
    """Write a model file with a small test pair, made on the CPU, that is verified whenever it is opened.

    Parameters
    ----------
    path
        Ends in ``.safetensors``; appears only when it is whole.
    network
        As trained, batch normalization not folded; on any device.
    header
        Its `network` settings are the network's.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    assert header.network == network.settings
    tensors = {f"network.{name}": t.detach().cpu().numpy() for name, t in network.state_dict().items()}
    image = _test_image(header.network)
    tensors["test.input"] = image
    tensors["test.output"] = _logits(for_prediction(network).cpu(), image, find_device("cpu"))
    write_model(path, tensors, header.model_dump(mode="json"))


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
    tensors, raw = read_model(path)
    try:
        header = ModelHeader.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
        raise ModelError(
            f"{path}: the header does not fit this version of Septum ({what})",
            "a Septum model file",
            "train it again, or use the version that wrote it",
        ) from None
    weights = {k.removeprefix("network."): torch.from_numpy(v) for k, v in tensors.items() if k.startswith("network.")}
    try:
        _is_as_large_as_it_says(header.network, weights)
        network = UNet.unset(header.network)
        network.load_state_dict(weights)
    except (RuntimeError, KeyError, ValueError):
        raise ModelError(
            f"{path}: the weights do not fit the network in the header", "a Septum model file", "copy the file again"
        ) from None
    folded = for_prediction(network).to(found.torch)
    _verify(path, folded, tensors, found)
    return Model(header, folded, found)


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


def _verify(path: Path, network: UNet, tensors: dict[str, NDArray[Any]], device: Device) -> None:
    """Raise `ModelError` unless the network gives the stored output for the stored input."""
    expected = tensors.get("test.output")
    image = tensors.get("test.input")
    if expected is None or image is None:
        raise ModelError(f"{path}: no test pair inside", "a Septum model file", "copy the file again")
    try:
        difference = float(np.abs(_logits(network, image, device) - expected).max())
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


def _logits(network: UNet, image: NDArray[Any], device: Device) -> NDArray[np.float32]:
    with torch.inference_mode(), device.exact():
        out: NDArray[np.float32] = network(torch.from_numpy(image).to(device.torch)).float().cpu().numpy()
    return out
