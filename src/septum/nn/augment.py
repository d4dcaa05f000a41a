"""Augmentation: each training tile is one interpolation of the whole image through one coordinate field.

`draw` turns random numbers into a small `Draw`; `training_batch` applies draws on the device of the images. Nothing
else is random, so that a draw determines its tile: on any device, in any order and in any batch.

Position, rotation, mirroring, scale and elastic displacement are composed before anything is interpolated
(`septum.nn.spatial`), the image is mirrored at its borders (`septum.nn.grid_sample`), and intensities are changed last
(`septum.nn.intensity`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from septum.nn.device import send
from septum.nn.grid_sample import buffer, cut_box, sample
from septum.nn.intensity import IntensityTransform, transform_intensity
from septum.nn.spatial import Deformation, bounding_box, grid
from septum.settings import Settings

# Axes whose pixels are more than this many times longer than the shortest ones are neither rotated nor deformed.
THICK = 3.0

Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class AugmentSettings(Settings):
    """Ranges of the random changes to a training tile; the defaults change nothing.

    Parameters
    ----------
    rotate
        Any angle (2D) or any orientation (3D), all equally likely.
    mirror
        Mirror each axis with probability 1/2.
    scale
        Smallest and largest magnification, drawn on a logarithmic scale; 2 shows objects twice as large.
    elastic_sigma_px
        Standard deviation of each component of the displacement vectors, in pixels of the finest axis; 0 for none.
    elastic_grid
        Displacement vectors along each axis of the tile (paper: 3), or None with `elastic_spacing_px`.
    elastic_spacing_px
        Distance of displacement vectors in pixels of the finest axis (Fiji plugin: 150), or None.
    brightness
        Largest offset added to or subtracted from the intensities.
    contrast
        Largest change, from 1, of the factor by which intensities depart from `middle`.
    middle
        Intensity that a change of contrast leaves in place: 0.5 for images in [0, 1], 0 for images of zero mean.
    black, white
        Largest change of the values that black (0) and white (1) are mapped to.
    slope
        Range of the slope of the intensity curve half-way between black and white; (1, 1) with `black` and `white` 0 is
        a straight line.
    gamma
        Range of the exponent.
    noise
        Largest standard deviation of Gaussian noise, in units of the intensities.
    blur_px
        Largest standard deviation of the blur, in pixels of the finest axis.
    chance
        Share of tiles with gamma, share with noise, and share with blur (drawn independently).
    """

    rotate: bool = False
    mirror: bool = False
    scale: Range = (1.0, 1.0)
    elastic_sigma_px: float = Field(default=0.0, ge=0)
    elastic_grid: int | None = Field(default=3, ge=1)
    elastic_spacing_px: float | None = Field(default=None, gt=0)
    brightness: float = Field(default=0.0, ge=0)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    middle: float = 0.0
    black: float = Field(default=0.0, ge=0, lt=0.5)
    white: float = Field(default=0.0, ge=0, lt=0.5)
    slope: Range | None = None
    gamma: Range = (1.0, 1.0)
    noise: float = Field(default=0.0, ge=0)
    blur_px: float = Field(default=0.0, ge=0, le=0.7)
    chance: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.elastic_grid is None) == (self.elastic_spacing_px is None):
            raise ValueError("give elastic_grid or elastic_spacing_px, and None for the other")
        for name, pair in (("scale", self.scale), ("gamma", self.gamma), ("slope", self.slope)):
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name}: the first number is larger than the second")
        return self

    @classmethod
    def none(cls) -> Self:
        """Return settings that change nothing: tiles are exact crops."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's augmentation, for images in [0, 1].

        Shift, rotation and a 3 x 3 grid of displacement vectors with 10 px standard deviation are published (section
        3.1); of the gray values only that they vary. Here they vary mildly: brightness and contrast by a tenth.
        """
        return cls(rotate=True, elastic_sigma_px=10.0, brightness=0.1, contrast=0.1, middle=0.5)

    @classmethod
    def fiji(cls) -> Self:
        """Return the augmentation of the authors' Fiji plugin (Falk et al. 2019), for images in [0, 1]."""
        return cls(
            rotate=True,
            elastic_sigma_px=10.0,
            elastic_grid=None,
            elastic_spacing_px=150.0,
            black=0.05,
            white=0.05,
            slope=(0.8, 1.2),
        )

    @classmethod
    def auto(cls) -> Self:
        """Return the augmentation of the preset ``auto``, for images of zero mean and unit standard deviation."""
        return cls(
            rotate=True,
            mirror=True,
            scale=(0.8, 1.25),
            elastic_sigma_px=10.0,
            elastic_grid=None,
            elastic_spacing_px=150.0,
            brightness=0.2,
            contrast=0.25,
            gamma=(0.7, 1.5),
            noise=0.2,
            blur_px=0.7,
            chance=0.2,
        )


@dataclass(frozen=True, eq=False)
class Draw(Deformation):
    """All random properties of one training tile: the deformation, and `intensity`, the change of its intensities."""

    intensity: IntensityTransform


def draw(
    settings: AugmentSettings,
    rng: np.random.Generator,
    *,
    center: Sequence[float],
    tile: Sequence[int],
    spacing: Sequence[float] | None = None,
) -> Draw:
    """Draw the random properties of one training tile.

    Parameters
    ----------
    settings
        Ranges to draw from.
    rng
        ``septum.seeding.generator(seed, "augment", step, index)``.
    center
        ``D`` coordinates in pixels of the image at which the tile's pixel ``n // 2`` lies. Rounded to whole pixels with
        settings that neither rotate, scale nor deform, so that tiles are exact crops, perhaps mirrored.
    tile
        Sides of the network's input in pixels; the grid of displacement vectors spans them.
    spacing
        Pixel size along each axis in any unit; None: all equal. Rotation and scale preserve shapes in this unit. Axes
        more than 3 times coarser than the finest are mirrored, but not rotated, scaled or deformed.

    Returns
    -------
    Draw
    """
    rank = len(tile)
    ratio = np.ones(rank) if spacing is None else np.asarray(spacing, dtype=np.float64) / min(spacing)
    fine = [axis for axis in range(rank) if ratio[axis] <= THICK]
    # All numbers are drawn in a fixed order whatever the settings, so that changing one setting keeps the other draws.
    # A draw of a new augmentation comes last, so that old seeds keep their tiles.
    turn = _rotation(rng, len(fine))
    signs = rng.choice([-1.0, 1.0], size=rank)
    low, high = np.log(settings.scale)
    magnification = math.exp(rng.uniform(low, high))
    intensity = _draw_intensity(
        settings, rng, tuple(1.0 / ratio[axis] if axis in fine else 0.0 for axis in range(rank))
    )
    matrix = np.eye(rank)  # in units of the finest axis
    matrix[np.ix_(fine, fine)] = (turn if settings.rotate else np.eye(len(fine))) / magnification
    if settings.mirror:
        matrix *= signs
    grid_px, points = _grid(settings, tile, ratio)
    vectors = rng.normal(0.0, settings.elastic_sigma_px, (rank, *points)).astype(np.float32)
    reduced = np.array([1.0 / ratio[axis] if axis in fine else 0.0 for axis in range(rank)], dtype=np.float32)
    place = np.asarray(center, dtype=np.float64)
    keeps_pixels = not settings.rotate and settings.scale == (1.0, 1.0) and not settings.elastic_sigma_px
    return Draw(
        center=np.rint(place) if keeps_pixels else place,
        matrix=matrix * ratio / ratio[:, None],
        displacement=vectors * reduced.reshape(-1, *[1] * rank),
        grid_px=grid_px,
        intensity=intensity,
    )


@torch.no_grad()
def training_tile(
    image: Tensor,
    target: Tensor,
    weight: Tensor,
    drawn: Draw,
    *,
    tile: Sequence[int],
    output: Sequence[int],
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make one training tile.

    Parameters
    ----------
    image
        ``(C, *S) float32``, normalized; may be smaller than the tile. Borders are mirrored.
    target
        ``(*S) uint8``, classes, 255 for ignored.
    weight
        ``(*S) float32``, non-negative.
    drawn
        From `draw`, with the same `tile`.
    tile
        Sides of the network's input.
    output
        Sides of the network's output, the center of the input: ``tile - output`` is even.
    device
        Device of the tile; None: that of the image. Of an image elsewhere only the part that the tile needs is copied,
        and the tile is the same to the bit.

    Returns
    -------
    x : Tensor
        ``(C, *tile) float32``, normalized, linearly interpolated, intensities changed.
    y : Tensor
        ``(*output) uint8``, classes of the nearest pixels.
    w : Tensor
        ``(*output) float32``, non-negative, linearly interpolated.
    """
    context = [(n - m) // 2 for n, m in zip(tile, output, strict=True)]
    assert all(n - m == 2 * c >= 0 for n, m, c in zip(tile, output, context, strict=True)), (tile, output)
    device, channels = device or image.device, image.shape[0]
    low, sizes = bounding_box(drawn, tile)
    # One buffer holds image, weight and target as channels, so that all three share one set of coordinates.
    padded, box = buffer(channels + 2, sizes, device)
    cut = box if image.device.type == device.type else torch.empty(box.shape)
    cut_box(image, low, cut[:channels])
    cut_box(weight[None], low, cut[-2:-1])
    cut_box(target[None], low, cut[-1:])
    if cut is not box:
        box.copy_(send(cut, device))
    with torch.autocast(device.type, enabled=False):  # coordinates need float32, whatever dtype the network uses
        coords = grid(drawn, tile, low=low, sizes=sizes, device=device)
        middle = coords[(slice(None), *(slice(c, c + m) for c, m in zip(context, output, strict=True)))]
        x = sample(padded[:channels], coords, "linear")
        w = sample(padded[-2:-1], middle, "linear")[0]
        y = sample(padded[-1:], middle, "nearest")[0].to(torch.uint8)
    transform_intensity(x, drawn.intensity)
    return x, y, w


def training_batch(
    images: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[Tensor],
    draws: Sequence[Draw],
    *,
    tile: Sequence[int],
    output: Sequence[int],
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Make a batch of training tiles: `training_tile` of each, so that no tile depends on the others by one bit.

    Parameters
    ----------
    images, targets, weights, draws
        ``B`` of each, as `training_tile` takes them: ``(C, *S)`` float32 images, ``(*S)`` uint8 classes, ``(*S)``
        float32 weights; the sizes of images may differ.
    tile, output
        Sides of the network's input and output.
    device
        Device of the batch; None: that of the images.

    Returns
    -------
    x, y, w : Tensor
        ``(B, C, *tile) float32``, ``(B, *output) uint8`` classes, ``(B, *output) float32`` weights.
    """
    tiles = [
        training_tile(image, target, weight, drawn, tile=tile, output=output, device=device)
        for image, target, weight, drawn in zip(images, targets, weights, draws, strict=True)
    ]
    x, y, w = (torch.stack(part) for part in zip(*tiles, strict=True))
    return x, y, w


def _rotation(rng: np.random.Generator, rank: int) -> NDArray[np.float64]:
    """Draw a rotation matrix, uniformly over the rotations of the circle (rank 2) or the sphere (rank 3)."""
    w, x, y, z = (q := rng.standard_normal(4)) / np.linalg.norm(q)
    if rank == 3:  # a unit quaternion
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
    if rank == 2:
        cosine, sine = np.array([w, x]) / np.hypot(w, x)
        return np.array([[cosine, -sine], [sine, cosine]])
    return np.eye(rank)


def _grid(
    settings: AugmentSettings, tile: Sequence[int], ratio: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return the distance (in pixels of each axis) and number of displacement vectors along each axis.

    A coarse axis gets one vector: all its planes are displaced equally.
    """
    distances, counts = [], []
    for n, r in zip(tile, ratio, strict=True):
        if settings.elastic_spacing_px is None:
            count = settings.elastic_grid or 1
            distance = n / max(count - 1, 1)
        else:
            distance = settings.elastic_spacing_px / float(r)
            count = math.ceil(n / distance) + 1
        distances.append(distance)
        counts.append(count if r <= THICK else 1)
    return tuple(distances), tuple(counts)


def _draw_intensity(
    settings: AugmentSettings, rng: np.random.Generator, reduced: Sequence[float]
) -> IntensityTransform:
    """Draw the change of intensities; `reduced` is the blur along each axis for a blur of 1."""
    sides = rng.uniform(-1.0, 1.0, size=4)
    factor = 1.0 + settings.contrast * sides[0]
    summand = settings.brightness * sides[1] + settings.middle * (1.0 - factor)
    black, white = settings.black * sides[2], 1.0 + settings.white * sides[3]
    slope = rng.uniform(*(settings.slope or (1.0, 1.0)))
    gamma = math.exp(rng.uniform(*np.log(settings.gamma)))
    noise, blur = settings.noise * rng.random(), settings.blur_px * rng.random()
    has_gamma, has_noise, has_blur = rng.random(3) < settings.chance
    return IntensityTransform(
        blur_px=tuple(blur * r for r in reduced) if has_blur and blur else (),
        gain=factor * (white - black),
        offset=factor * black + summand,
        bend=2.0 * (slope / (white - black) - 1.0) if settings.slope else 0.0,
        gamma=gamma if has_gamma else 1.0,
        noise=noise if has_noise else 0.0,
        noise_seed=int(rng.integers(0, 2**63 - 1)),
    )
