"""Write results for other programs: along with a prediction, or from label images that exist."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from septum.errors import SeptumError, UsageError
from septum.events import Event
from septum.export.results import Exported, Exporter, LabelFile
from septum.export.settings import ConvertAndExportSettings, PredictAndExportSettings
from septum.folders import rivals_there
from septum.io.atomic import as_error
from septum.io.files import list_images
from septum.io.formats import format_of, format_path, image_stem, is_zarr
from septum.io.selection import Selection
from septum.pairing.find import find_pairs
from septum.pairing.folders import by_subfolder, common_subfolders, role_folders, subfolder_key
from septum.words import list_some

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
        If there are no label images, two of one name, or a label image has no image, several, or that of another one,
        where images are named or needed.
    """
    asked = settings.conversion
    images, folders = _label_images(settings)
    maps = {} if settings.probabilities is None else _partners(folders, asked.data, settings.probabilities)
    selection = Selection(level=asked.level, pixel_size=asked.pixel_size)
    if selection.of_level and not all(images.values()):
        raise UsageError(
            f"{selection.of_level} without images", "the images of the label images", "add --images IMAGES"
        )
    bases: dict[Path, Path] = {}
    for path, folder in folders.items():
        base = asked.out / folder / image_stem(path)
        if base in bases:
            given = f"{bases[base]} and {path} would both be written to {base.relative_to(asked.out)}"
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
                (folders[path] / (image or path).name).as_posix(),
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


def _label_images(settings: ConvertAndExportSettings) -> tuple[dict[Path, Path | None], dict[Path, Path]]:
    """Return the image of each label image as far as it is known, and the subfolder of each result."""
    data = settings.conversion.data
    if settings.images is None and _is_data_set(data):
        owners = {pair.mask: pair.image for pair in find_pairs(data).pairs if pair.mask is not None}
        folders = common_subfolders(owners.values())
        return dict(owners), {path: folders[image] for path, image in owners.items()}
    folders = _subfolders(list_images(data), data)
    images = {} if settings.images is None else _partners(folders, data, settings.images)
    return {path: images.get(path) for path in folders}, folders


def _subfolders(labels: Sequence[Path], data: Sequence[Path]) -> dict[Path, Path]:
    """Return the subfolder of each label image below the folder that is named, as predictions have.

    If two results would have one name, those below the folder that all have in common.
    """
    roots = {path: next((one for one in data if path.parent.is_relative_to(one)), path.parent) for path in labels}
    folders = {path: path.parent.relative_to(root) for path, root in roots.items()}
    names = {folder / image_stem(path) for path, folder in folders.items()}
    return folders if len(names) == len(folders) else common_subfolders(labels)


def _is_data_set(data: Sequence[Path]) -> bool:
    """Return True for a folder that holds images and masks in folders, or for two folders."""
    folders = [path for path in data if path.is_dir() and not is_zarr(path)]
    return len(folders) == len(data) and (len(data) == 2 or (len(data) == 1 and role_folders(data[0]) is not None))


def _partners(labels: Mapping[Path, Path], data: Sequence[Path], place: Path) -> dict[Path, Path]:
    """Return the image of each label image: of the same name, or of the longest name with which it begins.

    Parameters
    ----------
    labels
        Each with its subfolder. If images lie in subfolders, too, it takes one of the subfolder of the same name.
    data
        The files and folders that were named. One file of labels and one image belong together whatever their names.
    place
        The folder of images, or one image.

    Raises
    ------
    UsageError
        If a label image has no image or several, or an image several label images.
    """
    images = list_images([place])
    if len(images) == len(labels) == 1 and images == [place] and list(labels) == list(data):
        return dict.fromkeys(labels, place)
    everywhere, inside = _by_stem(images), {key: _by_stem(own) for key, own in by_subfolder(images, place).items()}
    owners: dict[Path, Path] = {}
    for path, key in _subfolder_keys(labels, inside).items():
        own = inside.get(key, {} if key and any(inside) else everywhere)
        image = _partner(path, own, place.joinpath(*key) if any(inside) else place)
        if image in owners:
            given = f"{format_path(owners[image])} and {format_path(path)} both fit the image {format_path(image)}"
            raise UsageError(
                given, "an image of its own for each", "add the image that is missing, or convert them one by one"
            )
        owners[image] = path
    return {path: image for image, path in owners.items()}


def _subfolder_keys(labels: Mapping[Path, Path], inside: Collection[tuple[str, ...]]) -> dict[Path, tuple[str, ...]]:
    """Return the subfolder of which each label image takes an image, as the key of `by_subfolder`.

    It is the subfolder of the label image. If images lie in no such one, it is counted from the folder that all label
    images have in common, where images lie in such subfolders: LABELS/p1 and LABELS/p2 were named.
    """
    own = {path: subfolder_key(folder / path.name, Path()) for path, folder in labels.items()}
    if any(key in inside for key in own.values() if key):
        return own
    with suppress(ValueError):  # on Windows, files on two drives have no folder in common
        common = {path: subfolder_key(folder / path.name, Path()) for path, folder in common_subfolders(labels).items()}
        if any(key in inside for key in common.values() if key):
            return common
    return own


def _by_stem(images: Sequence[Path]) -> dict[str, list[Path]]:
    by: dict[str, list[Path]] = {}
    for path in images:
        by.setdefault(image_stem(path), []).append(path)
    return by


def _partner(path: Path, images: Mapping[str, Sequence[Path]], place: Path) -> Path:
    """Return the only image, of those by their stems, whose name is that of a label image or its longest beginning."""
    stem = image_stem(path)
    begins = (stem[:end] for end in range(len(stem), 0, -1) if not stem[end : end + 1].isalnum())
    found = rivals_there(next((images[begin] for begin in begins if begin in images), ()))
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{format_path(path)}: {len(found)} images of this name: {list_some(map(format_path, found), 4)}",
            "one image",
            "name the folder of the images, or put the label images into subfolders of the same names",
        )
    raise UsageError(
        f"{format_path(path)}: no image of this name in {format_path(place)}",
        f"an image named like it, such as {stem}.tif",
        "rename one of them, or name the two: septum convert LABELS --images IMAGE",
    )
