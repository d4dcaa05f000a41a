"""Draw images to annotate next: the disagreement of predictions and the suggested regions."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
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


# Name of the text in each picture by which it is known as one that Septum wrote.
_MARK = "Septum"
_RANKED = re.compile(r"\d{2,}-.*\.png", re.DOTALL)


def draw_suggestions(suggestions: Sequence[Suggestion], folder: Path) -> tuple[list[Path], list[Path]]:
    """Write a picture of each suggestion, the first with rank 1, in place of those of an earlier run.

    A picture of an earlier run is removed if its name and its pixels are those that Septum wrote. Pictures that
    somebody has renamed or painted on stay, and all other files.

    Parameters
    ----------
    suggestions
        In the order of their ranks.
    folder
        Created if missing.

    Returns
    -------
    written, others
        The pictures; and other files of the folder that are named like pictures: ``NN-*.png``.

    Raises
    ------
    FileError
        If the folder cannot be created, or a file cannot be written or removed.
    """
    from septum.io.atomic import as_error

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in _ranked(folder):
            if _is_unchanged(path):
                path.unlink()
    except OSError as error:
        raise as_error(folder, error) from None
    written = [draw_suggestion(one, rank, folder) for rank, one in enumerate(suggestions, start=1)]
    return written, [path for path in _ranked(folder) if path not in written]


def _ranked(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _RANKED.fullmatch(path.name))


def _is_unchanged(path: Path) -> bool:
    """Return True if a file has the name and the pixels that `draw_suggestion` gave it."""
    from PIL import Image

    if path.is_symlink() or not path.is_file():
        return False
    try:
        with Image.open(path) as picture:
            mark = picture.info.get(_MARK)
            return mark is not None and mark == _mark(path.name, np.asarray(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _mark(name: str, picture: RGB) -> str:
    return f"septum suggest {hashlib.sha256(os.fsencode(name) + picture.tobytes()).hexdigest()}"


def draw_suggestion(suggestion: Suggestion, rank: int, folder: Path) -> Path:
    """Write ``folder/RANK-NAME.png``: the image, and its disagreement, with frames around the suggested regions.

    Of a volume the section through the middle of the strongest region is drawn.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from septum.io.atomic import whole_file

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
    caption, text = f"disagreement, at most {information.max():.2f} bits", PngInfo()
    picture = side_by_side([gray, heat], [path.stem, caption])
    text.add_text(_MARK, _mark(path.name, picture))
    with whole_file(path) as part:
        Image.fromarray(picture).save(part, optimize=True, pnginfo=text)
    return path


def _heat(gray: RGB, information: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> RGB:
    """Return the disagreement in red over a darkened picture; the highest value is full red."""
    share = (information / max(float(information.max()), 1e-9))[..., None]
    red = np.array([255, 40, 0], np.float32)
    return np.asarray(np.rint(0.7 * gray * (1 - share) + red * share), np.uint8)
