"""Write a data folder of synthetic cells: images/ and masks/, ready for `septum train`.

python examples/make_cells.py FOLDER [NUMBER OF IMAGES] [SIDE IN PIXELS] [NUMBER OF THE FIRST IMAGE]
"""

import sys
from pathlib import Path

import numpy as np

from septum.demo.synthetic_cells import generate
from septum.io.files import write_image


def make(folder: Path, count: int, side: int, first: int) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        image, labels = generate(number - 1, shape=(side, side))
        write_image(folder / "images" / f"cells-{number:02d}.png", image.astype(np.uint8), axes="CYX")
        write_image(folder / "masks" / f"cells-{number:02d}.png", labels.astype(np.uint16), axes="YX")
        print(f"cells-{number:02d}.png: {labels.max()} cells")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    make(Path(sys.argv[1]), *(int(a) for a in (*sys.argv[2:], *("8", "256", "1")[len(sys.argv) - 2 :])))
