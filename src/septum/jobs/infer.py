"""From one image array to class probabilities: the overlap-tile loop that prediction and validation share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septum.arrays.geometry import Geometry
from septum.arrays.normalize import NormalizeSettings, normalize, statistics
from septum.arrays.tiles import Tile, plan_tiles, read_mirrored
from septum.nn.device import Device
from septum.nn.unet import UNet, UNetSettings

# Working memory that one tile's feature maps may take. Larger tiles waste less context but reach cache and memory
# limits.
_TILE_BYTES = {"cpu": 1_000_000_000, "cuda": 6_000_000_000, "mps": 3_000_000_000}


def largest_output(settings: UNetSettings, device: Device) -> tuple[int, ...]:
    """Return the largest sides that a tile should write on this device, from the memory of its feature maps.

    At the finest level about six maps of `width` float32 features are alive at once: the skip connection, the
    concatenation of twice the width, and a convolution's input and output.
    """
    geometry = settings.geometry
    pixels = _TILE_BYTES[device.torch.type] / (settings.width * 6 * 4)
    side = int(pixels ** (1 / len(settings.depths)))
    return tuple(max(g, side - 2 * c) for g, c in zip(geometry.grid, geometry.contexts, strict=True))


def tile_probabilities(
    network: UNet,
    image: NDArray[Any],
    *,
    device: Device,
    normalization: NormalizeSettings,
    max_output: Sequence[int] | None = None,
) -> Iterator[tuple[Tile, int, NDArray[np.float32]]]:
    """Predict an image tile by tile.

    Parameters
    ----------
    network
        In evaluation mode, on `device`.
    image
        ``(C, *S)``, raw intensities, the whole image: its statistics normalize every tile.
    device
        Where the network is.
    normalization
        As in training.
    max_output
        Largest sides that a tile may write; `largest_output` where not given.

    Yields
    ------
    tile, tiles, probabilities
        The tile, the number of tiles in all, and ``(K, *write) float32`` in 0..1 for its written part.
    """
    stats = statistics(image, normalization)
    tiles = plan_tiles(image.shape[1:], network.geometry, max_output or largest_output(network.settings, device))
    for tile in tiles:
        part = normalize(read_mirrored(image, tile.read), stats)
        with torch.inference_mode(), device.exact():
            logits = network(torch.from_numpy(part[None]).to(device.torch))
            kept = logits[(0, slice(None), *tile.keep)]
            probabilities = torch.softmax(kept.float(), dim=0).cpu().numpy()
        yield tile, len(tiles), probabilities


def image_probabilities(
    network: UNet,
    image: NDArray[Any],
    *,
    device: Device,
    normalization: NormalizeSettings,
    max_output: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Return the class probabilities ``(K, *S) float32`` of a whole image held in memory; see `tile_probabilities`."""
    out = np.empty((network.settings.classes, *image.shape[1:]), dtype=np.float32)
    tiles = tile_probabilities(network, image, device=device, normalization=normalization, max_output=max_output)
    for tile, _, probabilities in tiles:
        out[(slice(None), *tile.write)] = probabilities
    return out


def versions(geometry: Geometry) -> list[tuple[int, bool]]:
    """Return the rotated and mirrored versions that are averaged: quarter turns in the plane, each also mirrored.

    Seven rotated versions of the input are averaged in the paper (section 4); these eight are exact, no pixel is
    interpolated. Where the network treats Y and X differently only half turns are possible.
    """
    turns = range(4) if geometry.depths[-1] == geometry.depths[-2] else (0, 2)
    return list(product(turns, (False, True)))


def turn(array: NDArray[Any], version: tuple[int, bool]) -> NDArray[Any]:
    """Return ``(..., Y, X)`` turned by quarter turns and then mirrored along X, as `version` says."""
    quarters, mirrored = version
    turned = np.rot90(array, quarters, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned
