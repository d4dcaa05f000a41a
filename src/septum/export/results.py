"""Write results for other programs: beside each result, and for all of a call together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError
from septum.events import Event
from septum.export.coco import CocoFile, coco_file
from septum.export.geojson import class_color, write_geojson
from septum.export.imagej import write_rois
from septum.export.measure import Columns, MeasuredChannel, channels_of, measure_objects
from septum.export.overlay import write_overlay
from septum.export.runs import Frame, split_labels
from septum.export.settings import Form
from septum.export.tables import ObjectTable, has_parquet, join_tables, write_csv, write_parquet
from septum.io.atomic import as_error
from septum.io.files import open_image
from septum.io.formats import format_of
from septum.io.image import Image
from septum.io.selection import EVERYTHING, Selection

TABLE, PARQUET, COCO = "objects.csv", "objects.parquet", "objects.coco.json"
"""Names of the files for all images of a call."""

MOST_PROPERTIES = 100_000
"""Most objects whose properties are written into an OME-Zarr label image, whose description viewers read as a whole."""


@dataclass(frozen=True)
class Exported(Event):
    """Files for other programs were written.

    Attributes
    ----------
    source : Path
        The label image; the folder for files of all images.
    written : tuple of Path
        The files.
    notes : tuple of str
        What was left out, and why.
    """

    source: Path
    written: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A label image to export.

    Attributes
    ----------
    path
        The file or folder.
    name
        Name of the image in tables and identifiers.
    image
        The image that the labels were made of; None if it is not known.
    probabilities
        Predicted probabilities; None if they are not known.
    classes
        The labels are class values.
    slices
        The slices of a stack are images of their own.
    axes
        Axes of the label image, where it does not state them.
    image_axes
        Axes of the image and the probabilities, where they do not state them.
    selection
        Level of the image, of which the label image has the size.
    confidence
        For each frame ``(N,)`` float32 in 0 .. 1, of object 1 .. N; None if it is not known.
    """

    path: Path
    name: str
    image: Path | None = None
    probabilities: Path | None = None
    classes: bool = False
    slices: bool = False
    axes: str | None = None
    image_axes: str | None = None
    selection: Selection = EVERYTHING
    confidence: Sequence[NDArray[np.float32]] | None = None


@dataclass(eq=False)
class Exporter:
    """Writes label images one after the other, and what belongs to all of them at the end.

    Use it in a ``with`` statement, and call `finish` inside: if that is not reached, the files of all images are not
    written. Those of each image are whole as soon as `add` returns.

    Parameters
    ----------
    out
        Folder for the files of all images.
    forms
        What is written, see `septum.export.settings.PredictAndExportSettings`.
    """

    out: Path
    forms: Sequence[Form]
    _tables: list[ObjectTable] = field(default_factory=list)
    _coco: CocoFile | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        error = error or GeneratorExit()  # a file that `finish` has not closed is dropped, as after an error
        self._stack.__exit__(type(error), error, at)

    def add(self, labels: LabelFile, base: Path) -> Exported:
        """Write one label image.

        Parameters
        ----------
        labels
            The label image.
        base
            Names of its files without their endings: ``base.geojson``, ``base.rois.zip``, ``base.overlay.png``.

        Raises
        ------
        SeptumError
            If a file cannot be read or written, or the image does not fit the labels.
        """
        written: list[Path] = []
        notes: list[str] = []
        with ExitStack() as opened:
            source = opened.enter_context(open_image(labels.path, axes=labels.axes, labels=True))
            frames = split_labels(source, slices=labels.slices)
            image, maps = (
                None
                if path is None
                else opened.enter_context(open_image(path, axes=labels.image_axes, selection=selection))
                for path, selection in ((labels.image, labels.selection), (labels.probabilities, EVERYTHING))
            )
            if maps is not None and maps.dtype.kind != "f":
                given = f"{maps.name}: {maps.dtype} values instead of probabilities"
                raise DataError(given, "numbers from 0 to 1", "write them with septum predict --output probabilities")
            tables = self._measured(labels, frames, image, maps)
            if "properties" in self.forms:
                notes += _write_properties(labels, tables)
            if "geojson" in self.forms:
                written.append(_beside(base, ".geojson"))
                sure = _Confidence(labels, frames)
                write_geojson(
                    written[-1],
                    frames,
                    classes=labels.classes,
                    name=labels.name,
                    describe=sure.of if sure else None,
                    stretch=_stretch(image),
                )
            level = 0 if image is None else image.level
            if level and (plain := [form for form in ("rois", "coco") if form in self.forms]):
                notes.append(f"{' and '.join(plain)} in pixels of level {level}, geojson of the largest level")
            if "rois" in self.forms:
                written.append(_beside(base, ".rois.zip"))
                write_rois(written[-1], frames)
            if "overlay" in self.forms:
                if image is None:
                    notes.append("no overlay: the image is not known")
                else:
                    written.append(_beside(base, ".overlay.png"))
                    write_overlay(written[-1], frames[len(frames) // 2], image)
            if "coco" in self.forms:  # the last that can fail: the file of all images holds only what is complete
                self._open_coco().add(labels.name, frames, classes=labels.classes)
        if "tables" in self.forms:
            self._tables += tables
        return Exported(labels.path, tuple(written), tuple(notes))

    @property
    def shared(self) -> bool:
        """Return True if there are files of all images together."""
        return bool({"tables", "coco"} & set(self.forms))

    def finish(self) -> Exported:
        """Write the files of all images.

        Raises
        ------
        FileError
            If a file cannot be written.
        """
        written: list[Path] = []
        notes: list[str] = []
        if "tables" in self.forms:
            columns = join_tables(self._tables)
            write_csv(self.out / TABLE, columns)
            written.append(self.out / TABLE)
            if has_parquet():
                write_parquet(self.out / PARQUET, columns)
                written.append(self.out / PARQUET)
            else:
                notes.append(f"no {PARQUET}: pyarrow is not installed (pip install 'septum[tables]')")
        if "coco" in self.forms:
            self._open_coco()
            self._stack.close()
            written.append(self.out / COCO)
        return Exported(self.out, tuple(written), tuple(notes))

    def _open_coco(self) -> CocoFile:
        if self._coco is None:
            self._coco = self._stack.enter_context(coco_file(self.out / COCO))
        return self._coco

    def _measured(
        self, labels: LabelFile, frames: Sequence[Frame], image: Image | None, maps: Image | None
    ) -> list[ObjectTable]:
        """Return a table of each frame, where a form needs it."""
        if not {"tables", "properties"} & set(self.forms):
            return []
        channels = list(channels_of(image)) if image is not None and "tables" in self.forms else []
        if maps is not None and "tables" in self.forms:
            channels.append(MeasuredChannel("probability", maps, 0, ("mean",)))
        sizes = dict(image.pixel_size_um if image is not None else {}) | dict(frames[0].labels.pixel_size_um)
        axes, sure = frames[0].labels.axes, _Confidence(labels, frames)
        tables = []
        for frame in frames:
            columns = measure_objects(frame, channels, pixel_size_um=sizes)
            head: Columns = {"label": columns.pop("label")}
            if labels.classes:
                head["class"] = head["label"]
            if sure:
                head["confidence"] = np.array([sure.value(frame, label) for label in head["label"].tolist()])
            tables.append(ObjectTable(labels.name, frame.t if "T" in axes else None, frame.z, head | columns))
        return tables


def _beside(base: Path, ending: str) -> Path:
    """Return the place of a file of one label image, in a folder that exists."""
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_error(base.parent, error) from error
    return base.with_name(f"{base.name}{ending}")


def _stretch(image: Image | None) -> tuple[float, float]:
    """Return the X and Y pixels of the largest level of a pyramid in one of the level that was read."""
    if image is None or image.full_sides is None:
        return 1, 1
    return image.full_sides[1] / image.shape[-1], image.full_sides[0] / image.shape[-2]


class _Confidence:
    """The confidence of objects by frame and label; false if it is not known."""

    def __init__(self, labels: LabelFile, frames: Sequence[Frame]) -> None:
        known = labels.confidence
        self._known = {} if known is None else {(f.t, f.z): one for f, one in zip(frames, known, strict=True)}

    def __bool__(self) -> bool:
        return bool(self._known)

    def value(self, frame: Frame, label: int) -> float:
        """Return the confidence of an object."""
        return float(self._known[frame.t, frame.z][label - 1])

    def of(self, t: int, z: int, label: int) -> dict[str, float]:
        """Return the measurements of an object for GeoJSON."""
        one = self._known.get((t, z), self._known.get((t, None)))
        assert one is not None
        return {"confidence": round(float(one[label - 1]), 4)}


def _write_properties(labels: LabelFile, tables: Sequence[ObjectTable]) -> list[str]:
    """Write area and class of each object into an OME-Zarr label image; return why not, where it is not done."""
    from septum.io.zarr_labels import describe_labels

    stored = format_of(labels.path.name)
    if not ((stored is not None and stored.folder) or labels.path.parent.name == "labels"):
        return ["no properties: the result is not an OME-Zarr label image (write --format ome.zarr)"]
    if len(tables) > 1:
        return ["no properties: the ids of several planes or time points are not told apart in them"]
    (table,) = tables
    if len(table) > MOST_PROPERTIES:
        return [f"no properties: {len(table)} objects are more than {MOST_PROPERTIES}, use tables"]
    names = [name for name in ("confidence", "area_px", "volume_px", "area_um2", "volume_um3") if name in table.columns]
    columns = [table.columns[name].tolist() for name in ("label", *names)]
    properties = [
        {
            "label-value": row[0],
            "class": row[0] if labels.classes else "object",
            **dict(zip(names, row[1:], strict=True)),
        }
        for row in zip(*columns, strict=True)
    ]
    colors = {label: class_color(label) for label in columns[0]} if labels.classes else None
    describe_labels(labels.path, properties, colors)
    return []
