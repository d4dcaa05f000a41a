"""Write results for other programs: along with a prediction, or from label images that exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from septum.errors import SeptumError, UsageError
from septum.events import Event
from septum.export.results import Exported, Exporter, LabelFile
from septum.export.settings import ConvertAndExportSettings, PredictAndExportSettings
from septum.io.atomic import as_error
from septum.io.files import list_images
from septum.io.formats import format_of, format_path, image_stem, is_zarr
from septum.io.selection import Selection
from septum.pairing.find import find_pairs
from septum.pairing.folders import role_folders

if TYPE_CHECKING:
    from septum.prediction.events import ImageDone


@dataclass(frozen=True)
class NotExported(Event):
    """The label image `source` was not exported, for the `reason` given."""

    source: Path
    reason: str


def predict_and_export(settings: PredictAndExportSettings) -> Iterator[Event]:
    """Predict images, and write each result for other programs as soon as it is complete.

    Yields
    ------
    The events of `septum.prediction.predict.predict_files`; Exported after each ImageDone, and ImageFailed where a
    result could not be written for other programs; Exported for the files of all images before the last event.

    Raises
    ------
    SeptumError
        As `predict_files`.
    """
    from septum.prediction.events import ImageDone, ImageFailed, Predicted
    from septum.prediction.predict import predict_files

    asked = settings.prediction
    if not settings.also:
        yield from predict_files(asked)
        return
    with Exporter(asked.out or Path(), settings.also) as exporter:
        failed = 0
        for event in predict_files(asked):
            if isinstance(event, Predicted) and exporter.shared:
                yield exporter.finish()
            yield replace(event, failed=event.failed + failed) if isinstance(event, Predicted) and failed else event
            if isinstance(event, ImageDone):
                try:
                    yield exporter.add(_predicted(event, asked.out), event.output.with_name(image_stem(event.output)))
                except SeptumError as error:
                    failed += 1
                    yield ImageFailed(event.path, str(error))


def _predicted(event: ImageDone, out: Path | None) -> LabelFile:
    """Return the result of an image; it is named as the image, in the subfolder of its result."""
    details = event.details
    assert details is not None
    if details.output == "probabilities":
        raise UsageError(
            f"{event.output}: probabilities", "objects or classes", "predict with --output labels, or leave --also out"
        )
    folder = event.output.parent.relative_to(out) if out is not None else Path()
    written = format_of(event.output.name)
    return LabelFile(
        event.output,
        (folder / event.path.name).as_posix(),
        image=event.path,
        classes=details.output == "classes",
        slices=details.rank == 2,
        axes=details.axes if written is not None and not written.names_axes else None,
        image_axes=details.read_axes,
        selection=Selection(level=details.level),
        confidence=details.confidence,
    )


def export_labels(settings: ConvertAndExportSettings) -> Iterator[Exported | NotExported]:
    """Write label images for other programs.

    Yields
    ------
    Exported or NotExported for each label image; Exported for the files of all images at the end.

    Raises
    ------
    UsageError, DataError
        If there are no label images, two of one name, or a label image lacks its image where one is named or needed.
    """
    asked = settings.conversion
    images = _label_images(settings)
    maps = {} if settings.probabilities is None else _partners(list(images), settings.probabilities)
    selection = Selection(level=asked.level, pixel_size=asked.pixel_size)
    if selection.of_level and not all(images.values()):
        raise UsageError(
            f"{selection.of_level} without images", "the images of the label images", "add --images IMAGES"
        )
    bases: dict[Path, Path] = {}
    for path in images:
        base = asked.out / image_stem(path)
        if base in bases:
            given = f"{bases[base]} and {path} would both be written to {base.name}"
            raise UsageError(given, "label images of different names", "convert them into different folders")
        bases[base] = path
    if asked.out.exists() and not asked.out.is_dir():
        raise UsageError(f"{format_path(asked.out)}: a file", "a folder", "name another one with -o")
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_error(asked.out, error) from error
    with Exporter(asked.out, settings.forms) as exporter:
        done = 0
        for base, path in bases.items():
            image = images[path]
            labels = LabelFile(
                path,
                (image or path).name,
                image=image,
                probabilities=maps.get(path),
                classes=asked.kind == "classes",
                slices=settings.slices,
                axes=asked.axes,
                image_axes=asked.axes,
                selection=selection,
            )
            try:
                exported = exporter.add(labels, base)
            except SeptumError as error:
                yield NotExported(path, str(error))
                continue
            done += 1
            # Where each form that was asked for has a reason against it, nothing came of the label image.
            nothing = len(exported.notes) >= len(settings.forms) and not exported.written
            yield NotExported(path, "; ".join(exported.notes)) if nothing else exported
        if done and exporter.shared:
            yield exporter.finish()


def _label_images(settings: ConvertAndExportSettings) -> dict[Path, Path | None]:
    """Return the label images, and the image of each as far as it is known."""
    data = settings.conversion.data
    if settings.images is None and _is_data_set(data):
        pairs = find_pairs(data).pairs
        return {pair.mask: pair.image for pair in pairs if pair.mask is not None}
    labels = list_images(data)
    images = {} if settings.images is None else _partners(labels, settings.images)
    return {path: images.get(path) for path in labels}


def _is_data_set(data: Sequence[Path]) -> bool:
    """Return True for a folder that holds images and masks in folders, or for two folders."""
    folders = [path for path in data if path.is_dir() and not is_zarr(path)]
    return len(folders) == len(data) and (len(data) == 2 or (len(data) == 1 and role_folders(data[0]) is not None))


def _partners(labels: Sequence[Path], place: Path) -> dict[Path, Path]:
    """Return the image of each label image: of the same name, or of the longest name with which it begins.

    Raises
    ------
    UsageError
        If a label image has no image.
    """
    images = list_images([place])
    if len(images) == 1 == len(labels):
        return {labels[0]: images[0]}
    by_stem = {image_stem(path): path for path in images}
    found = {}
    for path in labels:
        stem = image_stem(path)
        begins = [s for s in by_stem if s == stem or (stem.startswith(s) and not stem[len(s)].isalnum())]
        if not begins:
            raise UsageError(
                f"{path}: no image of this name in {place}",
                f"an image named like it, such as {stem}.tif",
                "rename one of them",
            )
        found[path] = by_stem[max(begins, key=len)]
    return found
