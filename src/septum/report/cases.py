"""Draw single held-out images for a page: image, truth, prediction and difference, as data inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.report.pictures import (
    IGNORED_GRAY,
    PREDICTED_COLOR,
    RGB,
    TRUTH_COLOR,
    matched_colors,
    outlines,
    painted,
    panel_size,
    resize_nearest,
    resize_picture,
    to_picture,
)
from septum.report.plots import COLORS
from septum.settings import MaskKind
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.report.gallery import Case


# Longest side of a picture in pixels, and its JPEG quality: the first pair that keeps all pictures under the limit.
LADDER = ((640, 84), (640, 72), (512, 72), (400, 70), (320, 65), (240, 60), (160, 50))
MOST_BYTES = 1_900_000  # of all pictures; as text in the page they take a third more
CONFUSED_COLOR = (214, 39, 140)
_GROUND = 0.45  # brightness of the image under a difference


@dataclass(frozen=True)
class Picture:
    """One picture inside a page: its title, its description, its sides in pixels, and its data."""

    title: str
    alt: str
    width: int
    height: int
    uri: str


def class_color(number: int) -> tuple[int, int, int]:
    """Return the color of class `number`, 1 or more."""
    text = COLORS[(number + 3) % (len(COLORS) - 1)]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def pictures(cases: Sequence[Case], kind: MaskKind) -> tuple[list[list[Picture]], int]:
    """Draw image, truth, prediction and difference of each case.

    Parameters
    ----------
    cases
        Images to draw.
    kind
        Meaning of the labels.

    Returns
    -------
    pictures, longest
        Four pictures for each case, and their largest side in pixels; larger images are reduced to it, so that all
        pictures together stay below `MOST_BYTES`.
    """
    for longest, quality in LADDER:
        encoded = [
            [(name, _jpeg(drawn, quality)) for name, drawn in draw(case, kind, longest).items()] for case in cases
        ]
        if sum(len(data) for one in encoded for _, (data, _) in one) <= MOST_BYTES:
            break
    return [
        [_picture(case, name, data, size, kind) for name, (data, size) in one]
        for case, one in zip(cases, encoded, strict=True)
    ], longest


def draw(case: Case, kind: MaskKind, longest: int) -> dict[str, RGB]:
    """Draw the four panels of a case, ``(Y, X, 3)`` RGB uint8 0..255 each, by title.

    A predicted object has the color of the true object that it overlaps most. In the difference of objects, missed
    objects are orange and false ones blue; outlines of the truth are orange, of the prediction blue, of both white. In
    the difference of classes, missed pixels are orange, false pixels in the background are blue, and pixels of another
    class are magenta. Pixels that are not annotated are gray.
    """
    size = panel_size(case.image.shape[-2:], largest=longest)
    gray = resize_picture(to_picture(case.image), size)
    truth, predicted = resize_nearest(case.truth, size), resize_nearest(case.predicted, size)
    if kind == "objects":
        first, second = matched_colors(case.truth, case.truth), matched_colors(case.predicted, case.truth)
        change = _object_difference(gray, truth, predicted, case)
    else:
        first = second = {k: class_color(k) for k in range(1, int(max(truth.max(), predicted.max(), 1)) + 1)}
        change = _class_difference(gray, truth, predicted)
    return {
        "image": gray,
        "truth": painted(gray, truth, first),
        "prediction": painted(gray, predicted, second),
        "difference": change,
    }


def _object_difference(gray: RGB, truth: NDArray[np.int32], predicted: NDArray[np.int32], case: Case) -> RGB:
    picture = gray * _GROUND
    for labels, ids, color in ((truth, case.missed, TRUTH_COLOR), (predicted, case.false, PREDICTED_COLOR)):
        inside = np.isin(labels, ids)
        picture[inside] = 0.5 * picture[inside] + 0.5 * np.array(color)
    lines = outlines(truth), outlines(predicted)
    picture[lines[0]], picture[lines[1]] = TRUTH_COLOR, PREDICTED_COLOR
    picture[lines[0] & lines[1]] = 255
    picture[truth < 0] = IGNORED_GRAY
    return picture.astype(np.uint8)


def _class_difference(gray: RGB, truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> RGB:
    picture = gray * _GROUND
    wrong = truth != predicted
    for where, color in (
        (wrong & (predicted == 0), TRUTH_COLOR),
        (wrong & (truth == 0), PREDICTED_COLOR),
        (wrong & (truth > 0) & (predicted > 0), CONFUSED_COLOR),
    ):
        picture[where] = 0.25 * picture[where] + 0.75 * np.array(color)
    picture[truth < 0] = IGNORED_GRAY
    return picture.astype(np.uint8)


def _picture(case: Case, title: str, data: bytes, size: tuple[int, int], kind: MaskKind) -> Picture:
    true, found = (int((np.unique(labels) > 0).sum()) for labels in (case.truth, case.predicted))
    if kind == "objects":
        words: Mapping[str, str] = {
            "truth": pluralize(true, "object"),
            "prediction": pluralize(found, "object"),
            "difference": f"{len(case.missed)} missed, {len(case.false)} false",
        }
    else:
        wrong = int(((case.truth != case.predicted) & (case.truth >= 0)).sum())
        words = {"difference": f"{wrong} of {int((case.truth >= 0).sum())} pixels are wrong"}
    alt = f"{title} of {case.name}" if title != "image" else f"image {case.name}"
    if title in words:
        alt += f": {words[title]}"
    height, width = size
    return Picture(title, alt, width, height, f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}")


def _jpeg(picture: RGB, quality: int) -> tuple[bytes, tuple[int, int]]:
    """Encode a picture as JPEG with colors at full resolution (otherwise thin lines smear); return data and sides."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue(), picture.shape[:2]
