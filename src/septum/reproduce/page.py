"""Write the report of a reproduction as one page: our figures beside those of the paper, and example images."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from septum.io.atomic import as_error, whole_file
from septum.io.formats import format_path
from septum.report.numbers import format_scores, format_seconds, score_format
from septum.report.pictures import panel
from septum.words import pluralize

if TYPE_CHECKING:
    from septum.reproduce.results import Example, Reproduced

NAME = "report.html"


def write_reproduction(reproduced: Reproduced) -> Path:
    """Write ``report.html``, and its pictures as files, into the folder of a reproduction; return the path of the page.

    Raises
    ------
    FileError
        If a file cannot be written.
    """
    folder = reproduced.folder / "pictures"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise as_error(folder, error) from error
    pictures = [_picture(example, reproduced, folder) for example in reproduced.examples]
    path = reproduced.folder / NAME
    with whole_file(path) as part:
        part.write_bytes(_page(reproduced, pictures).encode("utf-8", "backslashreplace"))
    return path


def _picture(example: Example, reproduced: Reproduced, folder: Path) -> tuple[Example, str, tuple[int, int]]:
    """Draw an example beside its truth; return it with the picture as a URI, and the sides of the picture."""
    from PIL import Image

    kind = reproduced.protocol.kind
    prediction = (
        "probability of the inside"
        if kind == "classes"
        else f"prediction: {pluralize(_count(example.predicted), 'object')}"
    )
    truth = "truth" if kind == "classes" else f"truth: {pluralize(_count(example.truth), 'object')}"
    word = example.name.rpartition("(")[2].rstrip(")")
    maps = {truth: example.truth, prediction: example.predicted}
    path = panel(folder / f"{word}.png", example.image, maps, title=example.name, kind=kind)
    with Image.open(path) as opened:
        width, height = opened.size
    uri = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    return example, uri, (height, width)


def _count(labels: NDArray[Any]) -> int:
    return int((np.unique(labels) > 0).sum())


def _page(reproduced: Reproduced, pictures: list[tuple[Example, str, tuple[int, int]]]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "seconds": format_seconds,
        "path": format_path,
        "scores": format_scores,
        "format_as": lambda form, value: format(value, form),
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    environment.globals |= {"digits": score_format}
    style = files("septum.report").joinpath("page.css").read_text(encoding="utf-8")
    template = files("septum.reproduce").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        style=Markup(style),
        r=reproduced,
        trained_s=sum(t.seconds for t in reproduced.trainings),
        pictures=pictures,
    )
