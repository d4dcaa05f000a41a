"""Label images inside an OME-Zarr image: ``image.ome.zarr/labels/NAME``, where viewers look for them."""

from __future__ import annotations

import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from septum.errors import FileError, UsageError
from septum.io.atomic import as_error, rename
from septum.io.files import write_image
from septum.io.formats import format_path
from septum.io.ngff import VERSION, read_multiscale
from septum.io.zarr import read_description, read_node
from septum.io.zarr_write import write_group


def label_image_path(image: Path, name: str) -> Path:
    """Return the path of a label image of `image`, whether there is one or not.

    Parameters
    ----------
    image
        The folder of an OME-Zarr image.
    name
        Name of the label image: a folder.

    Raises
    ------
    UsageError
        If the name is impossible.
    """
    if not name or name in (".", "..") or set(name) & set("/\\:") or name.startswith((".", "__")):
        raise UsageError(f"the name {name!r} of a label image", "a name of a folder", "such as cells")
    return image / "labels" / name


def labels_place(image: Path, name: str) -> Path:
    """Return the place of a label image of `image`, after checking that it can be put there.

    Parameters
    ----------
    image
        The folder of an OME-Zarr 0.5 image.
    name
        Name of the label image: a folder to be.

    Raises
    ------
    UsageError
        If `image` is no OME-Zarr 0.5 image, the name is impossible, or a label image of this name exists.
    """
    node = read_node(image) if image.is_dir() else None
    if node is None or read_multiscale(node) is None:
        raise UsageError(
            f"{format_path(image)}: not an OME-Zarr image",
            "one to write labels into",
            "give -o FOLDER in place of --label-image",
        )
    if node.version != 3:
        raise UsageError(
            f"{format_path(image)}: an OME-Zarr 0.4 image, and labels are written as 0.5; one store cannot hold both",
            "an OME-Zarr 0.5 image",
            "give -o FOLDER in place of --label-image, or save the image as 0.5",
        )
    place = label_image_path(image, name)
    if place.exists():
        raise UsageError(f"{format_path(place)} exists", "a name that is not in use", "give another name, or delete it")
    return place


def add_labels(image: Path, name: str, made: Path) -> Path:
    """Move a finished label image into an OME-Zarr 0.5 image, and name it in the image's list of labels.

    Parameters
    ----------
    image
        The folder of the image.
    name
        Name of the label image.
    made
        A complete label image on the same disk, see `septum.io.zarr_write.add_pyramid`.

    Returns
    -------
    Path
        Its new place: ``image/labels/name``.

    Raises
    ------
    UsageError
        See `labels_place`.
    FileError
        If `made` is no label image, or the image may not be written.
    """
    place = labels_place(image, name)
    node = read_node(made)
    multiscale = read_multiscale(node) if node is not None else None
    if node is None or multiscale is None or not multiscale.labels:
        raise FileError(f"{format_path(made)}: not a label image", "an OME-Zarr image of ids", "make it with labels")
    notes = dict(node.attributes["ome"])
    notes["image-label"] = {**notes["image-label"], "source": {"image": "../../"}}
    try:
        write_group(made, notes)
        with _locked(image / "labels"):
            rename(made, place)
            _register(image, name)
    except OSError as error:
        raise as_error(place, error) from error
    return place


def write_labels(
    image: Path, name: str, array: NDArray[Any], *, axes: str, pixel_size_um: Mapping[str, float] | None = None
) -> Path:
    """Write an array of ids into an OME-Zarr 0.5 image, as a whole or not at all.

    Parameters
    ----------
    image, name
        See `add_labels`.
    array
        ``(*A)`` with one dimension per letter of `axes`; integers, ids >= 0.
    axes
        Letters of ``TCZYX``.
    pixel_size_um
        Micrometers per pixel by axis.

    Returns
    -------
    Path
        Its place: ``image/labels/name``.

    Raises
    ------
    UsageError
        See `labels_place`.
    FileError
        If the image may not be written, or the disk is full.
    """
    place = labels_place(image, name)
    part = place.with_name(f".septum-part-{secrets.token_hex(6)}")
    made = part / f"{name}.ome.zarr"
    try:
        part.mkdir(parents=True)
        write_image(made, array, axes=axes, pixel_size_um=pixel_size_um, labels=True)
        return add_labels(image, name, made)
    except OSError as error:
        raise as_error(place, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def describe_labels(
    place: Path,
    properties: Sequence[Mapping[str, Any]],
    colors: Mapping[int, tuple[int, int, int]] | None = None,
) -> None:
    """Write properties and colors of objects into the description of a label image, in one stroke.

    Parameters
    ----------
    place
        The folder of the label image.
    properties
        Of each object its id, ``label-value``, and values under names of your own.
    colors
        Red, green and blue, 0 .. 255, by id; None: those that are there remain.

    Raises
    ------
    FileError
        If `place` is no label image of OME-Zarr 0.5, or may not be written.
    """
    node = read_node(place)
    multiscale = read_multiscale(node) if node is not None else None
    if node is None or multiscale is None or not multiscale.labels or node.version != 3:
        raise FileError(
            f"{format_path(place)}: not a label image", "an OME-Zarr 0.5 image of ids", "make it with labels"
        )
    notes = dict(node.attributes["ome"])
    notes["image-label"] = {**notes["image-label"], "properties": [dict(one) for one in properties]}
    if colors is not None:
        listed = [{"label-value": label, "rgba": [*color, 255]} for label, color in colors.items()]
        notes["image-label"]["colors"] = listed
    write_group(place, notes)
    if place.parent.name == "labels":
        _renew_list(place.parent.parent)


def _register(image: Path, name: str) -> None:
    """Name a label image in the list of labels; the list is replaced in one stroke."""
    folder = image / "labels"
    node = read_node(folder)
    notes = dict(node.attributes.get("ome") or {}) if node is not None else {}
    there = [n for n in notes.get("labels") or [] if n != name]
    write_group(folder, {**notes, "version": VERSION, "labels": [*there, name]})
    _renew_list(image)


def _renew_list(image: Path) -> None:
    """Renew the list of everything in the store that some writers keep in it; the description of labels is in it."""
    if (read_description(image, "zarr.json") or {}).get("consolidated_metadata"):
        import zarr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such a list is no part of the format, but the image has one already
            zarr.consolidate_metadata(str(image), zarr_format=3)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change the list of labels in `folder`, which is made if missing."""
    folder.mkdir(exist_ok=True)
    if os.name != "posix":  # where folders cannot be locked, a file stands for it; it is removed again
        from filelock import FileLock

        with FileLock(folder / ".septum-lock"):
            yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
