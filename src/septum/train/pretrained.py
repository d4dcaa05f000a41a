"""Start a training from a trained model: what is kept of it, and what is made new."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septum.errors import ModelError, UsageError
from septum.io.paths import format_path
from septum.io.tensors import read_model
from septum.nn.unet import UNet, UNetSettings
from septum.predict.model import ModelHeader, trained_networks

_FIRST, _HEAD = "down.0.0.weight", ("head.weight", "head.bias")


@dataclass(frozen=True)
class Pretrained:
    """A trained model as the start of a training.

    Attributes
    ----------
    path
        Its file.
    fingerprint
        Hash of the file.
    header
        What the file says.
    weights
        Of its network, as trained.
    """

    path: Path
    fingerprint: str
    header: ModelHeader
    weights: dict[str, Tensor]

    def provenance(self) -> dict[str, Any]:
        """Return what the new model's header says of this one, and that one's of its own start."""
        made = self.header.training
        said: dict[str, Any] = {"file": self.path.name, "fingerprint": self.fingerprint}
        return said | {key: made[key] for key in ("data_fingerprint", "seed", "steps", "from") if key in made}

    def network_for(self, channels: int, classes: int) -> UNetSettings:
        """Return this network's shape with other numbers of channels and classes."""
        return self.header.network.model_copy(update={"channels": channels, "classes": classes})

    def keeps_head(self, class_values: tuple[int, ...]) -> bool:
        """Say whether the classes are the same; background and foreground always are, whatever their values."""
        before = self.header.class_values
        return len(before) == len(class_values) and (len(before) == 2 or before == class_values)

    def fill(self, network: UNet, *, keep_head: bool) -> None:
        """Give a new network the weights of this one.

        With another number of channels the first layer is the mean over this one's channels, scaled so that an image
        of equal channels gives the same: a gray image repeated into colors, or a color image averaged to gray.

        Parameters
        ----------
        network
            Of the shape `network_for` gives.
        keep_head
            The last layer as well; otherwise that stays new.
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

    def lines(self, channels: int, class_values: tuple[int, ...]) -> tuple[str, ...]:
        """Say what is kept and what is new."""
        before = self.header.network
        lines = [f"starts from {format_path(self.path)}: its network and normalization"]
        if channels != before.channels:
            lines.append(f"first layer: {before.channels} channel{'s' * (before.channels > 1)} averaged for {channels}")
        if not self.keeps_head(class_values):
            lines.append(f"last layer: new, for {len(class_values)} classes instead of {before.classes}")
        return tuple(lines)


def read_pretrained(path: Path) -> Pretrained:
    """Read the model that a training starts from.

    Raises
    ------
    ModelError
        If the file is missing, damaged or foreign.
    """
    networks = trained_networks(path)
    header = ModelHeader.model_validate(read_model(path)[1])
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise ModelError(
            f"{format_path(path)}: {error.strerror}", "a Septum model file", "copy the file again"
        ) from None
    return Pretrained(path, digest, header, dict(networks[0].state_dict()))


def see_it_fits(start: Pretrained, *, rank: int, width: int | None, depth: int | None, values: tuple[str, ...]) -> None:
    """Raise `UsageError` if what is asked for is not the shape of the network that the training starts from."""
    network = start.header.network
    if len(network.depths) != rank:
        kinds = {2: "images", 3: "volumes"}
        raise UsageError(
            f"--from {format_path(start.path)}: a model of {kinds[len(network.depths)]}, and the data are "
            f"{kinds[rank]}",
            f"a model of {kinds[rank]}",
            "leave --from out",
        )
    said = [f"--width {width}"] if width not in (None, network.width) else []
    said += [f"--depth {depth}"] if depth is not None and any(d != depth for d in network.depths) else []
    said += [f"--set {value}" for value in values if value.startswith(("network.", "normalization."))]
    if said:
        raise UsageError(
            f"{' '.join(said)} with --from {format_path(start.path)}",
            f"the network of that model: width {network.width}, depth {' x '.join(map(str, network.depths))}, "
            f"padding {network.padding}; its weights fit no other",
            f"leave out {' '.join(said)}, or --from",
        )
