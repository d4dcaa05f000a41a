"""Synthetic cells: images of touching cells with their truth, for the demo, the tests and the examples.

An image is composed as in a fluorescence microscope: sample (cells, debris, haze), optics (uneven illumination, blur
that increases with the distance from the plane of focus), camera (shot noise, read noise, 8 bits). Each effect makes a
threshold fail on real images; a person still recognizes the cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from septum.seeding import generator

Float = NDArray[np.float32]

MARGIN = 24  # pixels around the image, cut off at the end: cells cross the border, and the blur does not wrap
SMALLEST_PX = 10  # smaller pieces of cells at the border are left out of the truth
OFFSET, WHITE = 8.0, 255.0  # gray values of the camera without light, and at saturation
READ_NOISE = 1.5  # gray values


def generate(
    seed: int,
    *,
    shape: tuple[int, ...] = (256, 256),
    cells: int | None = None,
    radius_px: float = 12.0,
    uneven_light: float = 0.75,
    photons: float = 220.0,
    debris: float = 1.0,
) -> tuple[Float, NDArray[np.int32]]:
    """Create one image of cells and its truth.

    Parameters
    ----------
    seed
        0 or more; the same seed gives the same image on every machine.
    shape
        ``(Y, X)`` or ``(Z, Y, X)`` in pixels, each 1 or more.
    cells
        Number of cells in the image and the margin around it; fewer if no room is left. None: as many as cover about
        half of the area.
    radius_px
        Mean radius of a cell in pixels; radii vary by a fifth, and cells are up to twice as long as wide.
    uneven_light
        Share of the light that is missing at the darkest place, 0..1.
    photons
        Photons in a pixel at gray value 255; the standard deviation of the shot noise is their square root.
    debris
        Amount of bright specks, dim fragments and cells far out of focus: 0 for none, 1 for the usual amount.

    Returns
    -------
    image
        ``(1, *S)`` float32, whole numbers 0..255, which fit into uint8.
    labels
        ``(*S)`` int32, 0 background, 1..n the cells. Cells in a cluster touch without background between them.
    """
    rng = generator(seed, "cells")
    canvas = tuple(side + 2 * MARGIN for side in shape)
    wanted = _usual_number(canvas, radius_px) if cells is None else cells
    placed = _place(rng, canvas, wanted, radius_px)
    sample, labels = _draw_cells(rng, canvas, placed, radius_px)
    sample += _haze_and_debris(rng, canvas, radius_px, debris)
    exposed = _illumination(rng, canvas, uneven_light) * _focus(rng, sample)
    inner = tuple(slice(MARGIN, MARGIN + side) for side in shape)
    return _camera(rng, exposed[inner], photons)[None], _renumber(labels[inner])


@dataclass(frozen=True)
class _Cell:
    """One cell: the ellipse and the texture."""

    center: NDArray[np.float64]  # (rank,), pixels
    radius: float  # pixels, of the ball of the same volume
    shape: NDArray[np.float64]  # (rank, rank): offset from the center in pixels -> in half axes of the cell
    length: float  # pixels, longest half axis
    brightness: float  # 1 is typical
    grain: float  # relative strength of the texture
    nucleus: float  # relative brightness of the middle, below 0 for a dark nucleus


def _usual_number(canvas: tuple[int, ...], radius_px: float) -> int:
    """Return the number of cells that cover half of the canvas."""
    rank = len(canvas)
    ball = math.pi ** (rank / 2) / math.gamma(rank / 2 + 1) * radius_px**rank
    return max(1, int(0.5 * math.prod(canvas) / ball + 0.5))


def _place(rng: np.random.Generator, canvas: tuple[int, ...], wanted: int, radius_px: float) -> list[_Cell]:
    """Place cells in clusters: four of five next to a cell that is placed, the others as the first of a new cluster."""
    rank = len(canvas)
    centers = np.zeros((wanted, rank))
    radii = np.zeros(wanted)
    placed: list[_Cell] = []
    for _ in range(30 * wanted):  # attempts; a crowded image has fewer cells
        n = len(placed)
        if n == wanted:
            break
        radius = radius_px * float(np.clip(rng.lognormal(0.0, 0.2), 0.65, 1.5))
        center = rng.uniform(0, canvas)
        if n and rng.random() < 0.8:
            neighbor = rng.integers(n)
            direction = rng.normal(size=rank)
            reach = (radius + radii[neighbor]) * rng.uniform(0.8, 0.95)
            center = centers[neighbor] + direction * (reach / np.linalg.norm(direction))
        distances = np.sqrt(((centers[:n] - center) ** 2).sum(axis=1))
        # With closer centers, one of the two cells would be a thin crescent.
        if np.any(distances < 0.78 * (radii[:n] + radius)) or np.any((center < 0) | (center >= canvas)):
            continue
        centers[n], radii[n] = center, radius
        placed.append(_cell(rng, center, radius))
    return placed


def _cell(rng: np.random.Generator, center: NDArray[np.float64], radius: float) -> _Cell:
    """Draw the shape and the texture of one cell."""
    rank = len(center)
    stretch = np.exp(rng.uniform(-0.3, 0.3, rank))
    half_axes = radius * stretch / np.prod(stretch) ** (1 / rank)
    turn, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    dim = rng.random() < 0.2
    return _Cell(
        center=center,
        radius=radius,
        shape=turn / half_axes[:, None],
        length=float(half_axes.max()),
        brightness=rng.uniform(0.25, 0.45) if dim else rng.uniform(0.5, 1.2),
        grain=rng.uniform(0.05, 0.3),
        nucleus=rng.uniform(-0.4, 0.4),
    )


def _draw_cells(
    rng: np.random.Generator, canvas: tuple[int, ...], placed: list[_Cell], radius_px: float
) -> tuple[Float, NDArray[np.int32]]:
    """Return the fluorescence of the cells (1 is typical) and their labels, both ``(*canvas)``.

    Where cells meet, a pixel belongs to the cell whose circle is nearer. This region and the ellipse are both
    star-shaped around the center, so that every cell is connected. A smooth deformation of the plane, the same for all
    cells, makes outlines and walls irregular.
    """
    rank = len(canvas)
    bend = [1.8 * _smooth_noise(rng, canvas, radius_px / 2) for _ in range(rank)]
    texture = _smooth_noise(rng, canvas, 1.5)
    nearest = np.full(canvas, np.inf, np.float32)
    second = np.full(canvas, np.inf, np.float32)
    depth = np.full(canvas, np.inf, np.float32)  # 0 at the center of the nearest cell, 1 at its outline
    owner = np.zeros(canvas, np.int32)
    for number, cell in enumerate(placed, start=1):
        window = _window(canvas, cell.center, cell.length + radius_px)
        grid = np.ogrid[window]
        offset = np.stack([grid[a] + bend[a][window] - np.float32(cell.center[a]) for a in range(rank)])
        distance = np.sqrt((offset**2).sum(axis=0)) - np.float32(cell.radius)
        scaled = np.tensordot(cell.shape.astype(np.float32), offset, axes=1)
        before = nearest[window]
        closer = distance < before
        second[window] = np.minimum(second[window], np.maximum(distance, before))
        depth[window] = np.where(closer, np.sqrt((scaled**2).sum(axis=0)), depth[window])
        owner[window] = np.where(closer, number, owner[window])
        nearest[window] = np.minimum(before, distance)

    labels = np.where(depth < 1, owner, 0).astype(np.int32)
    look = np.array([(0, 0, 0), *((c.brightness, c.grain, c.nucleus) for c in placed)], np.float32)[labels]
    inside = np.minimum(depth, 1)
    body = look[..., 0] * (0.6 + 0.4 * np.sqrt(1 - inside**2))  # cells are thicker in the middle
    body *= 1 + look[..., 2] * np.exp(-((inside / 0.5) ** 2))
    body *= np.maximum(1 + look[..., 1] * texture, 0)
    to_wall = (np.minimum(second, 1e3) - np.minimum(nearest, 1e3)) / 2
    body *= 1 - 0.65 * np.exp(-((to_wall / 1.5) ** 2) / 2)  # the wall between two cells has no dye
    return body.astype(np.float32), labels


def _haze_and_debris(rng: np.random.Generator, canvas: tuple[int, ...], radius_px: float, debris: float) -> Float:
    """Return haze and debris: ``(*canvas)``, in units of the brightness of a typical cell."""
    haze = 0.12 + 0.03 * _smooth_noise(rng, canvas, 2 * radius_px)
    per_kind = debris * math.prod(canvas) / (8 * radius_px) ** len(canvas)
    kinds = (  # number, radius and brightness
        (1.5 * per_kind, (0.6, 1.3), (1.0, 3.0)),  # bright specks: dust, clumped dye
        (0.7 * per_kind, (0.2 * radius_px, 0.35 * radius_px), (0.3, 0.7)),  # fragments of dead cells
        (0.7 * per_kind, (0.9 * radius_px, 1.6 * radius_px), (0.15, 0.4)),  # cells far above or below the focus
    )
    for number, (small, large), (dim, bright) in kinds:
        for _ in range(rng.poisson(number)):
            center, radius = rng.uniform(0, canvas), rng.uniform(small, large)
            window = _window(canvas, center, 4 * radius)
            squares = sum((g - c) ** 2 for g, c in zip(np.ogrid[window], center, strict=True))
            haze[window] += (rng.uniform(dim, bright) * np.exp(-squares / (2 * radius**2))).astype(np.float32)
    return np.asarray(np.maximum(haze, 0), np.float32)


def _illumination(rng: np.random.Generator, canvas: tuple[int, ...], uneven: float) -> Float:
    """Return the illumination ``(*canvas)``, from ``1 - uneven`` to 1, of a lamp that is not centered."""
    center = rng.uniform(0.1, 0.9, len(canvas)) * canvas
    grid = np.ogrid[tuple(map(slice, canvas))]
    squares = sum(((g - c) / side) ** 2 for g, c, side in zip(grid, center, canvas, strict=True))
    falloff = np.exp(-np.asarray(squares) / (2 * 0.4**2))
    span = falloff.max() - falloff.min()
    relative = (falloff - falloff.min()) / span if span > 0 else np.ones(canvas)
    return (1 - uneven * (1 - relative)).astype(np.float32)


def _focus(rng: np.random.Generator, sample: Float) -> Float:
    """Blur a sample by tilted optics: little at one side, more at the other."""
    canvas = sample.shape
    slope = rng.normal(size=len(canvas))
    grid = np.ogrid[tuple(map(slice, canvas))]
    plane = sum(s * (g / side - 0.5) for s, g, side in zip(slope, grid, canvas, strict=True))
    tilt = np.asarray(plane) / np.abs(slope).sum() + 0.5
    return np.asarray((1 - tilt) * _blur(sample, 0.9) + tilt * _blur(sample, 2.2), np.float32)


def _camera(rng: np.random.Generator, exposed: Float, photons: float) -> Float:
    """Return gray values 0..255 (whole numbers, float32) of the light `exposed`, in which a typical cell has 1."""
    gain = 0.7 * (WHITE - OFFSET) / photons  # gray values per photon; a typical cell has 0.7 of white
    caught = rng.poisson(np.maximum(exposed, 0) * photons)
    gray = OFFSET + gain * caught + rng.normal(0.0, READ_NOISE, exposed.shape)
    return np.clip(np.rint(gray), 0, WHITE).astype(np.float32)


def _renumber(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Renumber labels to 1..n, without small pieces."""
    counts = np.bincount(labels.ravel())
    kept = counts >= min(SMALLEST_PX, labels.size)
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]


def _smooth_noise(rng: np.random.Generator, canvas: tuple[int, ...], sigma_px: float) -> Float:
    """Return Gaussian noise ``(*canvas)`` of mean 0 and standard deviation 1, smooth over about `sigma_px` pixels."""
    noise = _blur(rng.standard_normal(canvas, np.float32), sigma_px)
    noise -= noise.mean()
    return noise / max(float(noise.std()), 1e-6)


def _blur(array: Float, sigma_px: float) -> Float:
    """Convolve an array with a Gaussian of standard deviation `sigma_px`, periodic at the borders."""
    axes = tuple(range(array.ndim))
    spectrum = np.fft.rfftn(array, axes=axes)
    for axis, side in enumerate(array.shape):
        frequency = (np.fft.rfftfreq if axis == array.ndim - 1 else np.fft.fftfreq)(side)
        response = np.exp(-2 * (math.pi * sigma_px * frequency) ** 2)
        spectrum *= response.reshape([-1 if a == axis else 1 for a in axes])
    return np.fft.irfftn(spectrum, array.shape, axes=axes).astype(np.float32)


def _window(canvas: tuple[int, ...], center: NDArray[np.float64], reach: float) -> tuple[slice, ...]:
    """Return the slices of the box of `reach` pixels around `center`, cut off at the canvas."""
    low = np.maximum(np.floor(center - reach), 0).astype(int)
    high = np.minimum(np.ceil(center + reach) + 1, canvas).astype(int)
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))
