"""A trained model in one file: one network or several, and the settings that prediction needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, ValidationError, model_validator

from septum import seeding
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import ModelError, UsageError
from septum.io.formats import format_path
from septum.io.selection import Selection
from septum.io.tensors import read_model, write_model
from septum.models.named import NAMES, Release, file_of, unknown_name
from septum.nn.device import Device, find_device
from septum.nn.ensemble import Ensemble, Network
from septum.nn.unet import UNet, UNetSettings, for_prediction
from septum.prediction.backend import Choice, Workload, select_backend
from septum.prediction.domain_shift import TrainingDomain
from septum.prediction.settings import Backend
from septum.settings import MaskKind, Settings
from septum.words import list_some

# Name of the model file in a run folder.
MODEL_NAME = "model.safetensors"

# Largest difference from the logits of the stored test pair, relative to the largest of them. Another processor or
# library version differs by some 1e-6, a wrong weight by far more.
_TEST_TOLERANCE = 1e-3
_MOST_MEMBERS = 99


class ModelHeader(Settings):
    """The header of a model file: everything but the weights.

    Parameters
    ----------
    network
        Shape of the network.
    members
        Number of networks of this shape in the file; the mean of their probabilities is predicted.
    normalization
        Normalization of intensities in training.
    kind
        Whether the masks held object ids or classes.
    class_values
        Value of each class in the training masks, background first; written again at prediction.
    class_names
        Name of each class of `class_values`; empty if the training data named none.
    gray_as_color
        Gray images were repeated into the color channels in training, so they may be at prediction.
    read_axes
        Axes by which the training images were read whose files state others or none; ``""``: as their files state.
    read_channels
        Channels of the training images that were read, by number from 1 or by name; empty: all.
    read_level, read_um
        Level of pyramids that was read, or micrometers per pixel by which it was chosen; both None: the largest.
    pixel_size_um
        Median pixel size of the training images for each axis, in micrometers; empty if unknown.
    objects
        Settings that turn probabilities into objects, or areas between lines, tuned on the validation images.
    lines
        The two classes are lines and the areas between them: areas are separated as objects are, and a line is drawn
        where two areas meet.
    scores
        Scores on the validation images; empty without any.
    domain
        Statistics of the training images (``seen`` in older files); None in files of versions that did not store them.
    scale
        Side of the training images on the grid on which they were learned, as a share of their own side: 0.5 where
        the network saw them half as large. Images like them are predicted on this grid.
    training
        Provenance: preset, seed, steps, seconds, fingerprint of the data, versions.
    release
        Purpose and terms of a model that comes with Septum; None for other models.
    """

    network: UNetSettings
    members: int = Field(default=1, ge=1, le=_MOST_MEMBERS)
    normalization: NormalizeSettings
    kind: MaskKind
    class_values: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    gray_as_color: bool = False
    read_axes: str = ""
    read_channels: tuple[str, ...] = ()
    read_level: int | None = None
    read_um: float | None = None
    pixel_size_um: dict[str, float] = Field(default_factory=dict)
    objects: ObjectSettings
    lines: bool = False
    scores: dict[str, float] = Field(default_factory=dict)
    domain: TrainingDomain | None = Field(default=None, validation_alias=AliasChoices("domain", "seen"))
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    training: dict[str, Any] = Field(default_factory=dict)
    release: Release | None = None

    @model_validator(mode="after")
    def _fits_the_network(self) -> Self:
        """Raise `ValueError` unless classes, their names and normalized channels are those of the network."""
        for name, count, wanted, optional in (
            ("class_values", len(self.class_values), self.network.classes, False),
            ("class_names", len(self.class_names), self.network.classes, True),
            ("normalization.common", len(self.normalization.common), self.network.channels, True),
        ):
            if count != wanted and (count or not optional):
                raise ValueError(f"{name}: {count} for a network of {wanted}")
        return self

    @property
    def selection(self) -> Selection:
        """What was read of the training images."""
        return Selection(self.read_channels, self.read_level, self.read_um)

    def describe_release(self) -> str | None:
        """Describe in one line for what a model that comes with Septum was made; None for another model."""
        if self.release is None:
            return None
        size = (
            ""
            if self.domain is None or self.domain.object_px is None
            else f", about {self.domain.object_px:.0f} px wide"
        )
        return f"a model that comes with Septum, for {self.release.purpose}{size}; trained on {self.release.data}"


@dataclass(frozen=True)
class Model:
    """A model ready to predict: in evaluation mode, batch normalization folded, on its device.

    `engine`: the code that computes it on a CPU; ``"auto"``: by rule, PyTorch until the work adds up to
    `septum.prediction.backend.LEAST_OPERATIONS`. The results of the two differ in their last bits.
    """

    header: ModelHeader
    network: Network
    device: Device
    engine: Backend = "auto"
    _work: Workload = field(default_factory=Workload, repr=False, compare=False)

    def choose(self, wanted: Backend = "auto", *, work: float = inf, coming: float = 0, room: float = inf) -> Choice:
        """Choose the code that computes the network; see `septum.prediction.backend.select_backend`.

        The `work` of all calls is added up, and the work known to be `coming`: the engine may pay off for many small
        images although it does not for one.
        """
        self._work.operations += work
        return select_backend(
            self.network,
            self.device,
            wanted=self.engine if wanted == "auto" else wanted,
            work=self._work.operations + coming,
            room=room,
            make=lambda: self._work.verified(self.network),
        )

    def computed_by(self, engine: bool) -> Network:
        """Return the CPU engine of the network if `engine` and the device is a CPU, else the network itself."""
        return self._work.verified(self.network).engine if engine and self.device.torch.type == "cpu" else self.network

    @property
    def rank(self) -> int:
        """Return 2 for a model of images, 3 for a model of volumes."""
        return len(self.header.network.depths)


def model_file(path: Path) -> Path:
    """Return the model file of a path: the file itself, that of a run folder, or that of a name.

    Parameters
    ----------
    path
        A model file; or a run folder, whose ``model.safetensors`` is taken. In a run of several trainings that is the
        model of all of them together, which averages their probabilities. Where there is neither, the name of a model
        that comes with Septum (`septum.models.named.NAMES`): a file or run of this name wins, a folder of images does
        not.

    Raises
    ------
    ModelError
        If `path` is a folder without a model: a run that has not ended, or no run; or if it names nothing.
    """
    file = path / MODEL_NAME if path.is_dir() else path
    if file.is_file():
        return file
    if str(path) in NAMES and not (path / "settings.json").is_file():
        return file_of(str(path))
    if not path.exists():
        raise unknown_name(path)
    where, expected = format_path(path), f"a model file, or a run folder that holds {MODEL_NAME}"
    parts = sorted(part.name for part in path.iterdir() if (part / MODEL_NAME).is_file())
    if (path / "settings.json").is_file():
        todo = "run the same septum train command again: it resumes the run and writes the model at its end"
        if parts:
            todo += f"; or name a training that has ended: {format_path(path / parts[0])}"
        raise ModelError(f"{where}: this run has not ended, there is no model in it yet", expected, todo)
    todo = f"name one of the runs in it: {list_some(parts, 3)}" if parts else "check the name"
    raise ModelError(f"{where}: a folder without a model", expected, todo)


def names_model(path: Path) -> bool:
    """Return True if a path names a model, as `model_file` understands it: a file of tensors, a run folder, a name."""
    try:
        return model_file(path).suffix == Path(MODEL_NAME).suffix
    except ModelError:
        return False


def save_model(path: Path, network: UNet | Sequence[UNet], header: ModelHeader, *, half: bool = False) -> None:
    """Write a model file, with a small test pair that is verified whenever the file is opened.

    The test pair is an image of noise and the logits of each network for it, computed on the CPU.

    Parameters
    ----------
    path
        Ends in ``.safetensors``; appears only once it is complete.
    network
        As trained, batch normalization not folded, on any device. Several networks are an ensemble.
    header
        Its `network` are the settings of the networks, its `members` their number.
    half
        Store the weights in half precision (float16), in half the space; the test pair is of the rounded weights.

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
            tensors[_prefix(number, len(networks)) + name] = stored.detach().cpu().numpy()
    image = _test_image(header.network)
    tensors["test.input"] = image
    tensors["test.output"] = _logits([for_prediction(n).cpu() for n in networks], image, find_device("cpu"))
    write_model(path, tensors, header.model_dump(mode="json"))


def _rounded(network: UNet) -> UNet:
    """Return a copy with the weights rounded to half precision."""
    rounded = UNet.unset(network.settings)
    rounded.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()})
    if not all(bool(torch.isfinite(v).all()) for v in rounded.state_dict().values()):
        raise ModelError("a weight beyond 65504", "weights that half precision can hold", "store it in float32")
    return rounded


def open_model(path: str | Path, device: str = "auto") -> Model:
    """Open a model file and verify its test pair.

    Parameters
    ----------
    path
        A file written by `save_model`, or a run folder; see `model_file`.
    device
        See `septum.nn.device.find_device`.

    Raises
    ------
    ModelError
        If the file is missing, damaged, foreign, or does not reproduce its test pair here; if the run has not ended.
    UsageError
        If the device does not exist, or `path` is no path.
    """
    if not isinstance(path, str | PathLike):
        given = f"model: an object of type {type(path).__name__}"
        todo = "give a path, or what septum.open_model returns"
        raise UsageError(given, "a model file, a run folder or a model", todo)
    chosen, file = find_device(device), model_file(Path(path))
    header, tensors = _read(file)
    folded = [for_prediction(n).to(chosen.torch) for n in _networks(file, header, tensors)]
    _verify(file, folded, tensors, chosen)
    return Model(header, folded[0] if len(folded) == 1 else Ensemble(folded), chosen)


def trained_networks(path: Path) -> list[UNet]:
    """Return the networks of a model file or run folder as they were trained, on the CPU.

    Raises
    ------
    ModelError
        If the file is missing, damaged or foreign; if the run has not ended.
    """
    path = model_file(path)
    header, tensors = _read(path)
    return _networks(path, header, tensors)


def _read(path: Path) -> tuple[ModelHeader, dict[str, NDArray[Any]]]:
    tensors, raw = read_model(path)
    try:
        return ModelHeader.model_validate(raw), tensors
    except ValidationError as error:
        first = error.errors()[0]
        place, said = ".".join(str(p) for p in first["loc"]), first["msg"].removeprefix("Value error, ")
        wrong = f"{place}: {said}" if place else said
        raise ModelError(
            f"{path}: the header does not fit this version of Septum ({wrong})",
            "a Septum model file",
            "use the version of Septum that wrote it, or train again",
        ) from None


def _prefix(number: int, members: int) -> str:
    """Return the prefix of the names of a network's weights in the file."""
    return "network." if members == 1 else f"network{number + 1}."


def _networks(path: Path, header: ModelHeader, tensors: Mapping[str, NDArray[Any]]) -> list[UNet]:
    """Build the networks of a file from its tensors."""
    networks = []
    try:
        for number in range(header.members):
            prefix = _prefix(number, header.members)
            weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in tensors.items() if k.startswith(prefix)}
            _check_sizes(header.network, weights)
            network = UNet.unset(header.network)
            network.load_state_dict(weights)
            networks.append(network)
    except (RuntimeError, KeyError, ValueError):
        raise ModelError(
            f"{path}: the weights do not fit the network in the header", "a Septum model file", "copy the file again"
        ) from None
    return networks


def _check_sizes(settings: UNetSettings, weights: dict[str, torch.Tensor]) -> None:
    """Raise `ValueError` or `KeyError` unless the widest and the outermost weights have the sizes of `settings`.

    Memory for a network is allocated only if the file holds weights of its size.
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
    """Raise `ModelError` unless each network reproduces its stored output for the stored input."""
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
            "give --device cpu; if that works, this device computes wrong results",
        )


def _test_image(settings: UNetSettings) -> NDArray[np.float32]:
    """Return a small image of standard normal noise, ``(1, C, *S) float32``."""
    sides = settings.geometry.input_for((1,) * len(settings.depths))
    return seeding.generator(0, "test pair").standard_normal((1, settings.channels, *sides), dtype=np.float32)


def _logits(networks: Sequence[UNet], image: NDArray[Any], device: Device) -> NDArray[np.float32]:
    """Return the logits of each network, ``(members, K, *S) float32``, for an image ``(1, C, *S)``."""
    with torch.inference_mode(), device.exact():
        x = torch.from_numpy(image).to(device.torch)
        out: NDArray[np.float32] = torch.cat([network(x).float().cpu() for network in networks]).numpy()
    return out
