"""Write a data folder of synthetic sections of tissue, as an electron microscope shows them: images/ and masks/.

python examples/make_membranes.py FOLDER [NUMBER OF IMAGES] [SIDE IN PIXELS] [NUMBER OF THE FIRST IMAGE]

Masks are those of the ISBI challenge of 2012: 0 on membranes, 255 inside of cells. Inside of the cells lie dark
organelles with rims as dark as the membranes, and some membranes fade: brightness alone does not find the cells.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from septum.io.files import write_image
from septum.seeding import generator


def section(number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image ``(Y, X)`` uint8 and its mask ``(Y, X)`` uint8."""
    rng = generator(number, "membranes")
    yx = np.stack(np.mgrid[:side, :side]).astype(float)
    bent = yx + np.stack([9 * smooth(rng, side, 14) for _ in range(2)])  # cells are not polygons
    seeds = rng.uniform(-30, side + 30, (round((side + 60) ** 2 / 900), 2))
    owner = cKDTree(seeds).query(bent.reshape(2, -1).T)[1].reshape(side, side)
    wall = np.zeros((side, side), bool)
    wall[1:] |= owner[1:] != owner[:-1]
    wall[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    away = distance_transform_edt(~wall)

    fading = 0.65 + 0.35 * np.clip(1 + smooth(rng, side, 12), 0, 1)
    image = 0.72 + 0.06 * rng.standard_normal(len(seeds))[owner] + 0.03 * smooth(rng, side, 6)
    image -= 0.5 * fading * np.exp(-((away / 1.8) ** 2))
    for _ in range(side * side // 2600):
        image -= organelle(rng, yx, away)
    image = gaussian_filter(image, 0.8) + 0.05 * rng.standard_normal((side, side))
    return (255 * image.clip(0, 1)).astype(np.uint8), np.where(away < 1.5, 0, 255).astype(np.uint8)


def smooth(rng: np.random.Generator, side: int, sigma_px: float) -> np.ndarray:
    """Return a random field ``(Y, X)`` with mean about 0 and standard deviation 1."""
    coarse = rng.standard_normal((side // 4 + 8, side // 4 + 8))
    field = gaussian_filter(coarse, sigma_px / 4)
    at = np.mgrid[:side, :side] / 4 + 2
    return map_coordinates(field / field.std(), at, order=1)


def organelle(rng: np.random.Generator, yx: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Return the darkness ``(Y, X)`` of an ellipse with a dark rim, 0 where no room is left for it."""
    center = rng.integers(0, away.shape[0], 2)
    radius = rng.uniform(3, 6)
    if away[tuple(center)] < radius + 3:
        return np.zeros_like(away)
    turn = rng.uniform(0, np.pi)
    y, x = yx - center[:, None, None]
    u, v = y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)
    from_center = np.hypot(u / 1.3, v) / radius
    return 0.16 * (from_center < 1) + 0.28 * np.exp(-(((from_center - 1) * radius / 1.2) ** 2))


def main(folder: Path, count: int, side: int, first: int) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image, mask = section(number, side)
        write_image(folder / "images" / f"section-{number:02d}.png", image, axes="YX")
        write_image(folder / "masks" / f"section-{number:02d}.png", mask, axes="YX")
    print(f"{count} sections in {folder}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *(int(a) for a in (*sys.argv[2:], *("8", "256", "1")[len(sys.argv) - 2 :])))
