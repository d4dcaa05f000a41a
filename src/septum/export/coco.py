"""Write objects as COCO JSON: an annotation an object and plane, its pixels as a run-length code.

The code is that of the COCO API: runs of pixels down the columns, in turn outside and inside, as differences in digits
of base 32. It holds every pixel, holes and parts included.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import SeptumError
from septum.export.outlines import column_runs
from septum.export.runs import LABEL, SLICE, Frame, complete_objects
from septum.io.atomic import whole_file


@dataclass(eq=False)
class CocoFile:
    """A COCO file that is being written; images are added one after the other."""

    file: IO[str]
    images: list[dict[str, Any]] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)
    count: int = 0

    def add(self, name: str, frames: Sequence[Frame], *, classes: bool = False, height: int | None = None) -> int:
        """Add the objects of a label image.

        Parameters
        ----------
        name
            File name of the image; the planes of a stack are images of this name with the keys ``t`` and ``z``.
        frames
            Of the label image, from `septum.export.runs.split_labels`.
        classes
            Labels are class values, which are categories then; otherwise all objects are of one category.
        height
            Rows that are held at a time; None: by the number of pixels.

        Returns
        -------
        int
            Number of annotations.

        Raises
        ------
        SeptumError
            If the label image cannot be read: then the file holds nothing of it.
        """
        begin, images, categories, before = self.file.tell(), len(self.images), dict(self.categories), self.count
        try:
            self._add(name, frames, classes=classes, height=height)
        except SeptumError:
            self.file.seek(begin)
            self.file.truncate()
            del self.images[images:]
            self.categories, self.count = categories, before
            raise
        return self.count - before

    def _add(self, name: str, frames: Sequence[Frame], *, classes: bool, height: int | None) -> None:
        for frame in frames:
            depth, rows, columns = frame.sides
            first, layers = len(self.images) + 1, [frame.z or 0] if frame.z is not None else range(depth)
            stack = {"T", "Z"} & set(frame.labels.axes)
            for z in layers:
                entry: dict[str, Any] = {
                    "id": len(self.images) + 1,
                    "file_name": name,
                    "width": columns,
                    "height": rows,
                }
                self.images.append(entry | ({"t": frame.t, "z": z} if stack else {}))
            for runs in complete_objects(frame, height=height):
                for one in np.split(runs, np.flatnonzero(np.diff(runs[:, LABEL])) + 1):
                    self._write(one, first + int(one[0, SLICE]), (rows, columns), classes=classes)

    def _write(self, runs: NDArray[np.int64], image: int, sides: tuple[int, int], *, classes: bool) -> None:
        label = int(runs[0, LABEL])
        category = label if classes else 1
        self.categories.setdefault(category, f"class {label}" if classes else "object")
        left, top = int(runs[:, 3].min()), int(runs[:, 2].min())
        right, bottom = int(runs[:, 4].max()), int(runs[:, 2].max()) + 1
        self.count += 1
        annotation = {
            "id": self.count,
            "image_id": image,
            "category_id": category,
            "iscrowd": 0,
            "area": int((runs[:, 4] - runs[:, 3]).sum()),
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": {"size": list(sides), "counts": encode_runs(column_runs(runs, sides[0]), sides)},
            "label": label,
        }
        self.file.write(",\n" if self.count > 1 else "\n")
        self.file.write(json.dumps(annotation, separators=(",", ":")))


@contextmanager
def coco_file(path: Path) -> Iterator[CocoFile]:
    """Write a COCO file as a whole or not at all; the body adds images.

    Parameters
    ----------
    path
        The ``.json`` file.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"annotations":[')
        coco = CocoFile(file)
        yield coco
        categories = [{"id": number, "name": name} for number, name in sorted(coco.categories.items())]
        rest = json.dumps({"images": coco.images, "categories": categories}, separators=(",", ":"))
        file.write(f"\n],{rest[1:]}\n")


def encode_runs(ends: NDArray[np.int64], sides: tuple[int, int]) -> str:
    """Encode runs of pixels as COCO's compressed run-length code.

    Parameters
    ----------
    ends
        ``(2, M)`` int64 pixels counted down the columns, from `septum.export.outlines.column_runs`.
    sides
        Rows and columns of the image.

    Returns
    -------
    str
        The code.
    """
    edges = ends.T.ravel()
    lengths = np.diff(edges, prepend=0, append=sides[0] * sides[1]).tolist()
    if lengths[-1] == 0:
        lengths.pop()
    code = []
    for n, length in enumerate(lengths):
        left = length - lengths[n - 2] if n > 2 else length
        more = True
        while more:
            digit = left & 31
            left >>= 5
            more = left != (-1 if digit & 16 else 0)
            code.append(48 + digit + 32 * more)
    return bytes(code).decode("ascii")
