"""Draw images to annotate next: the disagreement of predictions and the suggested regions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from septum.io.formats import image_stem
from septum.report.pictures import (
    RGB,
    TRUTH_COLOR,
    panel_size,
    resize_nearest,
    resize_picture,
    side_by_side,
    to_picture,
)

if TYPE_CHECKING:
    from septum.review.suggest import Suggestion


def draw_suggestion(suggestion: Suggestion, rank: int, folder: Path) -> Path:
    """Write ``folder/RANK-NAME.png``: the image, and its disagreement, with frames around the suggested regions.

    Of a volume the section through the middle of the strongest region is drawn. The folder is created if missing.
    """
    from PIL import Image

    from septum.io.atomic import as_error, whole_file

    image, information = suggestion.image, suggestion.information
    boxes = suggestion.regions
    if information.ndim == 3:
        depth = (boxes[0].start[0] + boxes[0].stop[0]) // 2 if boxes else len(information) // 2
        image, information = image[:, depth], information[depth]
        boxes = tuple(box for box in boxes if box.start[0] <= depth < box.stop[0])
    size = panel_size(image.shape[-2:])
    scale = size[0] / image.shape[-2]
    gray = resize_picture(to_picture(image), size)
    frames = [[round(v * scale) for v in (*box.start[-2:], *box.stop[-2:])] for box in boxes]
    heat = _heat(gray, resize_nearest(information, size))
    for picture in (gray, heat):
        for top, left, bottom, right in frames:
            picture[top:bottom, [left, right - 1]] = TRUTH_COLOR
            picture[[top, bottom - 1], left:right] = TRUTH_COLOR
    names = "".join(f"_{axis.lower()}{number:03d}" for axis, number in suggestion.place.items())
    path = folder / f"{rank:02d}-{image_stem(suggestion.path)}{names}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_error(folder, error) from None
    with whole_file(path) as part:
        caption = f"disagreement, at most {information.max():.2f} bits"
        Image.fromarray(side_by_side([gray, heat], [path.stem, caption])).save(part, optimize=True)
    return path


def _heat(gray: RGB, information: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> RGB:
    """Return the disagreement in red over a darkened picture; the highest value is full red."""
    share = (information / max(float(information.max()), 1e-9))[..., None]
    red = np.array([255, 40, 0], np.float32)
    return np.asarray(np.rint(0.7 * gray * (1 - share) + red * share), np.uint8)
