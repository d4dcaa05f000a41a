"""Write an evaluation: ``scores.json`` for programs, ``per_image.csv`` and ``objects.csv`` for tables."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from septum.errors import FileError
from septum.evaluate.results import Evaluation
from septum.io.atomic import whole_file
from septum.io.paths import format_path


def write_results(evaluation: Evaluation, folder: Path) -> Evaluation:
    """Write the three files into `folder`, made if missing, and return the evaluation with their names.

    Undefined values are ``null`` in JSON and empty in CSV. ``objects.csv`` is written where there are objects.

    Raises
    ------
    FileError
        If the folder cannot be made or a file not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"{format_path(folder)}: cannot be made ({error.strerror})", "a folder to write to", "choose another -o"
        ) from error
    files = [folder / "scores.json", folder / "per_image.csv"]
    with whole_file(files[0]) as part:
        part.write_text(json.dumps(as_json(evaluation), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    names = list(dict.fromkeys(n for r in evaluation.results for i in r.images for n in i.scores))
    _write_csv(
        files[1],
        ["prediction", "image", "file", "truth", *names],
        (
            [r.predicted, i.name, i.predicted, i.truth, *(i.scores.get(n, math.nan) for n in names)]
            for r in evaluation.results
            for i in r.images
        ),
    )
    if any(r.objects for r in evaluation.results):
        files.append(folder / "objects.csv")
        _write_csv(
            files[-1],
            ["prediction", "image", "kind", "id", "partner", "iou", "area_px", "z", "y", "x"],
            (
                [r.predicted, o.image, o.kind, o.id, o.partner, o.iou, o.area_px]
                + [math.nan] * (3 - len(o.center_px))
                + list(o.center_px)
                for r in evaluation.results
                for o in r.objects
            ),
        )
    return replace(evaluation, files=tuple(files))


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as what JSON holds; the list of all objects is left to ``objects.csv``."""
    found = asdict(evaluation)
    for result in found["results"]:
        del result["objects"]
    plain = _plain(found)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])
