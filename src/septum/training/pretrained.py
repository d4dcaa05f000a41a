"""Start a training from the weights of a trained model: a given one, or one that comes with Septum and fits the data.

A training without ``--from`` tries the models that come with Septum (`Trial`), unless it has seen the images: their
held-out scores would be too good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from septum.check.issues import format_shape
from septum.errors import ModelError, UsageError
from septum.evaluation.candidates import candidate_columns, object_sizes
from septum.io.formats import format_path
from septum.io.tensors import read_model
from septum.models.named import name_of
from septum.nn.device import Device
from septum.nn.unet import UNet, UNetSettings
from septum.pairing.sample import Sample, evenly_chosen, measured, on_grid
from septum.prediction.backend import for_scores
from septum.prediction.model import ModelHeader, model_file, trained_networks
from septum.prediction.tiled import image_probabilities
from septum.threads import map_in_threads
from septum.training.model_selection import choose, few_candidates
from septum.training.settings import TrainSettings
from septum.words import pluralize

_FIRST, _HEAD = "down.0.0.weight", ("head.weight", "head.bias")
# A start is tried on parts of this side of this number of images; hashes are of one pixel in `_HASHED` along each axis.
_TRIED_PX, _TRIED_IMAGES, _HASHED = 400, 4, 4


@dataclass(frozen=True)
class Pretrained:
    """A trained model to start from.

    Attributes
    ----------
    path
        Its file.
    fingerprint
        Hash of the file.
    header
        Header of the file.
    weights
        Weights of its network as trained, by name; float32 of any shape.
    """

    path: Path
    fingerprint: str
    header: ModelHeader
    weights: dict[str, Tensor]

    @property
    def name(self) -> str | None:
        """Return the name of a model that comes with Septum; None for another model."""
        return name_of(self.path)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance for the header of the new model: this model, and the model that it started from."""
        training = self.header.training
        own: dict[str, Any] = {"file": self.path.name, "fingerprint": self.fingerprint}
        return own | {key: training[key] for key in ("data_fingerprint", "seed", "steps", "from") if key in training}

    def network_for(self, channels: int, classes: int) -> UNetSettings:
        """Return the settings of this network with other numbers of channels and classes."""
        return self.header.network.model_copy(update={"channels": channels, "classes": classes})

    def keeps_head(self, class_values: tuple[int, ...]) -> bool:
        """Return True if the classes are the same; with two classes always, whatever their values."""
        before = self.header.class_values
        return len(before) == len(class_values) and (len(before) == 2 or before == class_values)

    def fill(self, network: UNet, *, keep_head: bool) -> None:
        """Copy the weights of this model into a new network.

        For another number of channels the first layer is averaged over the channels of this model, scaled so that an
        image of equal channels gives the same result: a gray image repeated as colors, or a color image turned gray.

        Parameters
        ----------
        network
            Of the settings that `network_for` returns.
        keep_head
            Copy the last layer too; otherwise it keeps its new weights.
        """
        own = network.state_dict()
        with torch.no_grad():
            for name, value in self.weights.items():
                if name in _HEAD and not keep_head:
                    continue
                if name == _FIRST and value.shape[1] != own[name].shape[1]:
                    given, wanted = value.shape[1], own[name].shape[1]
                    value = value.mean(dim=1, keepdim=True).expand_as(own[name]) * (given / wanted)
                own[name].copy_(value)

    def describe(self, channels: int, class_values: tuple[int, ...]) -> tuple[str, ...]:
        """Describe in words which layers are kept and which are new."""
        before = self.header.network
        lines = [f"starts from {self.name or format_path(self.path)}: its network and normalization"]
        if channels != before.channels:
            lines.append(f"first layer: {pluralize(before.channels, 'channel')} averaged for {channels}")
        if not self.keeps_head(class_values):
            lines.append(f"last layer: new, for {len(class_values)} classes instead of {before.classes}")
        return tuple(lines)

    def count_seen(self, samples: Sequence[Sample]) -> int:
        """Return the number of images that this model was trained on, or that belong to one of its sequences."""
        seen = set() if self.header.release is None else set(self.header.release.images)
        return sum(image_hash(sample.image) in seen for sample in measured(samples)) if seen else 0

    def score(self, samples: Sequence[Sample], *, lines: bool, device: Device) -> float:
        """Score this model, before the first step of a training, on parts of some images.

        Parameters
        ----------
        samples
            Annotated images of two classes, or of objects.
        lines
            True if the two classes are lines and areas.
        device
            Where to compute.

        Returns
        -------
        float
            AP50 of the objects, or V_Rand of the areas between lines: 0 (worst) to 1.
        """
        parts = [_part(samples[i]) for i in evenly_chosen(len(samples), _TRIED_IMAGES)]
        network = UNet.unset(self.network_for(len(parts[0].image), 2))
        self.fill(network, keep_head=True)
        scored, settings = for_scores(network.to(device.torch), device), self.header.normalization
        choices = few_candidates(object_sizes(parts, lines=lines), lines=lines)
        inside = [image_probabilities(scored, p.image, device=device, normalization=settings)[1] for p in parts]

        def compare(number: int) -> NDArray[np.float64]:
            return candidate_columns(parts[number], inside[number].astype(np.float16), choices, lines=lines)

        columns = dict(enumerate(map_in_threads(compare, range(len(parts)))))
        return float(np.nan_to_num(choose(columns, lines=lines)[1]["V_Rand" if lines else "AP50"]))


@dataclass(frozen=True)
class Trial:
    """A training without ``--from``: annotated images on which the models that come with Septum are tried.

    Attributes
    ----------
    samples
        All annotated images.
    held_out
        Those held out for validation; may be empty.
    scale
        That of the working grid; see `septum.training.plan.Plan`.
    """

    samples: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    scale: float = 1.0

    @property
    def judged(self) -> tuple[Sample, ...]:
        """Return the images to score models on, on the working grid."""
        return tuple(on_grid(sample, self.scale) for sample in self.held_out or self.samples)


def image_hash(image: NDArray[np.float32]) -> str:
    """Return a hash of an image, by which a model knows the images that it has seen.

    Parameters
    ----------
    image
        ``(C, *S)`` float32, raw intensities of any range.
    """
    grid = np.ascontiguousarray(image[(slice(None), *(slice(None, None, _HASHED),) * (image.ndim - 1))], dtype="<f4")
    return hashlib.blake2b(f"{image.shape}".encode() + grid.tobytes(), digest_size=8).hexdigest()


def _part(sample: Sample) -> Sample:
    """Return a part of a sample around a pixel of an object, in the middle of all of them."""
    sample = sample.held()
    pixels = np.flatnonzero(sample.mask > 0)
    place = np.unravel_index(pixels[len(pixels) // 2] if len(pixels) else sample.mask.size // 2, sample.mask.shape)
    begins = [
        max(0, min(int(p) - _TRIED_PX // 2, n - _TRIED_PX)) for p, n in zip(place, sample.mask.shape, strict=True)
    ]
    cut = tuple(slice(begin, begin + _TRIED_PX) for begin in begins)
    gold = None if sample.gold is None else sample.gold[cut]
    return replace(sample, image=sample.image[(slice(None), *cut)], mask=sample.mask[cut], gold=gold)


def read_pretrained(path: Path) -> Pretrained:
    """Load the model, of a model file or a run folder, that a training starts from.

    Raises
    ------
    ModelError
        If the file is missing, damaged or foreign; if the run has not ended.
    """
    path = model_file(path)
    networks = trained_networks(path)
    header = ModelHeader.model_validate(read_model(path)[1])
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise ModelError(
            f"{format_path(path)}: {error.strerror}", "a Septum model file", "copy the file again"
        ) from None
    return Pretrained(path, digest, header, dict(networks[0].state_dict()))


def check_compatible(start: Pretrained, settings: TrainSettings, *, rank: int) -> None:
    """Raise `UsageError` if the settings or the data ask for another network than that of the model to start from.

    Parameters
    ----------
    start
        The model to start from.
    settings
        Of the new training.
    rank
        2 for images, 3 for volumes.
    """
    network = start.header.network
    if len(network.depths) != rank:
        kinds = {2: "images", 3: "volumes"}
        raise UsageError(
            f"--from {format_path(start.path)}: a model of {kinds[len(network.depths)]}, and the data are "
            f"{kinds[rank]}",
            f"a model of {kinds[rank]}",
            "leave --from out",
        )
    width, depth = settings.width, settings.depth
    wrong = [f"--width {width}"] if width not in (None, network.width) else []
    wrong += [f"--depth {depth}"] if depth is not None and any(d != depth for d in network.depths) else []
    wrong += [f"--set {value}" for value in settings.set if value.startswith(("network.", "normalization."))]
    if wrong:
        raise UsageError(
            f"{' '.join(wrong)} with --from {format_path(start.path)}",
            f"the network of that model: width {network.width}, depth {format_shape(network.depths)}, "
            f"padding {network.padding}; its weights fit no other",
            f"leave out {' '.join(wrong)}, or --from",
        )
