"""Draw one synthetic section of tissue and its mask, for docs/tutorials/membranes.md.

    python examples/membranes_picture.py [PICTURE.png]

Writes ``docs/images/membranes-picture.png`` unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from make_membranes import section
from PIL import Image

from septum.report.pictures import resize_nearest, side_by_side


def main(path: Path) -> None:
    panels = [resize_nearest(np.repeat(part[..., None], 3, axis=2), (448, 448)) for part in section(1, 224)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(side_by_side(panels, ["section", "mask: 0 on membranes, 255 inside"])).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs/images/membranes-picture.png")
