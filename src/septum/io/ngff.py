"""OME-Zarr (NGFF) read: versions 0.4 (Zarr 2) and 0.5 (Zarr 3), and plain Zarr arrays.

Source: "Next-generation file formats (NGFF)", versions 0.4 and 0.5, https://ngff.openmicroscopy.org
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from septum.errors import FileError
from septum.io.decoded import Decoded, check_memory, damaged
from septum.io.npy import guess_axes
from septum.io.opened import Opened
from septum.io.paths import format_path
from septum.io.units import MICROMETERS
from septum.io.zarr_store import Node, ZarrArray, inside, read_node

_OLD_AXES = "tczyx"  # of versions before 0.3, which do not name them
_NAMES = {"time": "T", "channel": "C"}


@dataclass(frozen=True)
class Multiscale:
    """An image of an OME-Zarr group.

    Attributes
    ----------
    node
        The group.
    axes
        One letter of ``TCZYX`` per dimension; None if the file's names are others.
    paths
        The folders of its levels, the finest first.
    pixel_size_um
        Micrometers per pixel by axis, of the finest level.
    labels
        Whether the group says that its values are ids.
    """

    node: Node
    axes: str | None
    paths: tuple[str, ...]
    pixel_size_um: dict[str, float]
    labels: bool


def open_zarr(place: Path | str, *, axes: str | None) -> Opened:
    """Open the finest level of an OME-Zarr image, or a plain Zarr array.

    Chunks that are not there have the array's fill value, as Zarr says. Arrays that Septum has written say that every
    chunk was written; there a missing one is an error.

    Parameters
    ----------
    place
        A folder, or a URL as `str`: an image, an image inside a group (``.../labels/cells``, ``.../0``), an array.
    axes
        Names of the dimensions where the file does not say them right.

    Raises
    ------
    FileError
        If it is no Zarr, damaged, leads out of itself, claims chunks of more than 2 GiB, or holds many images.
    """
    place, multiscale, node = _find_image(place)
    try:
        array = ZarrArray(node)
    except FileError:
        raise
    size = multiscale.pixel_size_um if multiscale is not None else {}
    named = axes or (multiscale.axes if multiscale is not None else _array_axes(node, array.shape))
    if named is None:
        raise FileError(
            f"{format_path(place)}: {len(array.shape)} dimensions {array.shape} whose names are none of T C Z Y X",
            "axes out of T C Z Y X",
            "name the axes, one letter of TCZYX per dimension, such as --axes CZYX",
        )
    if axes is None and len(named) != len(array.shape):
        raise damaged(place, "Zarr", f"{len(named)} axes for an array of {len(array.shape)} dimensions")
    return Opened(array.shape, array.dtype, named, array.read, array.chunks, pixel_size_um=size)


def read_zarr(place: Path | str, *, axes: str | None) -> Decoded:
    """Read the finest level of an OME-Zarr image as a whole, or a plain Zarr array; see `open_zarr`."""
    opened = open_zarr(place, axes=axes)
    check_memory(place, math.prod(opened.shape) * opened.dtype.itemsize)
    return Decoded(opened.read_all(), opened.axes, opened.pixel_size_um)


def read_multiscale(node: Node) -> Multiscale | None:
    """Return what a group says about its image; None if it holds none.

    Raises
    ------
    FileError
        If what it says cannot be.
    """
    notes = node.attributes.get("ome", node.attributes)
    if not isinstance(notes, dict) or "multiscales" not in notes:
        return None
    try:
        first = notes["multiscales"][0]
        paths = tuple(d["path"] for d in first["datasets"])
        raw = first.get("axes")
        axes = [{"name": a} if isinstance(a, str) else dict(a) for a in raw] if raw is not None else None
        if axes is None:
            axes = [{"name": a} for a in _OLD_AXES]
        letters = _letters(axes)
        scale = _scale(first["datasets"][0], len(axes))
        for factor, whole in enumerate(_scale(first, len(axes))):
            scale[factor] *= whole
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        raise damaged(node.place, "OME-Zarr", f"multiscales: {type(error).__name__}: {error}") from error
    size = {}
    for letter, axis, step in zip(letters or "", axes, scale, strict=False):
        unit = MICROMETERS.get(str(axis.get("unit", "")).casefold())
        if letter in "ZYX" and unit is not None and math.isfinite(step * unit) and step > 0:
            size[letter] = step * unit
    return Multiscale(node, letters, paths, size, "image-label" in notes)


def _letters(axes: list[dict[str, Any]]) -> str | None:
    """Return one letter of ``TCZYX`` per axis, by name, else by type; None if that does not give each one once."""
    names = [str(a["name"]).upper() for a in axes]
    if not all(len(n) == 1 and n in "TCZYX" for n in names):
        kinds = [str(a.get("type", "")) for a in axes]
        space = iter("ZYX"[-kinds.count("space") :] if 2 <= kinds.count("space") <= 3 else "")
        names = [next(space, "") if k == "space" else _NAMES.get(k, "") for k in kinds]
    found = "".join(names)
    sound = len(found) == len(axes) == len(set(found)) and {"Y", "X"} <= set(found)
    return found if sound else None


def _scale(notes: dict[str, Any], rank: int) -> list[float]:
    scale = [1.0] * rank
    for transform in notes.get("coordinateTransformations") or []:
        if transform.get("type") == "scale" and "scale" in transform:
            steps = [float(s) for s in transform["scale"]]
            if len(steps) != rank:
                raise ValueError(f"{len(steps)} scales for {rank} axes")
            scale = [a * b for a, b in zip(scale, steps, strict=True)]
    return scale


def _array_axes(node: Node, shape: tuple[int, ...]) -> str | None:
    """Return the axes of a plain array: as it names its dimensions, else as those of a .npy file."""
    names = (node.array or {}).get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    if isinstance(names, list) and len(names) == len(shape) and all(isinstance(n, str) for n in names):
        return _letters([{"name": n} for n in names])
    return guess_axes(node.place, shape)


def _find_image(place: Path | str) -> tuple[Path | str, Multiscale | None, Node]:
    """Return where the image lies, what its group says, and its array."""
    node = read_node(place)
    if node is None:
        raise FileError(
            f"{format_path(place)}: no OME-Zarr (it has neither zarr.json nor .zattrs)",
            "a folder that holds an OME-Zarr image",
            "check the name; if the copy is not complete, copy it again",
        )
    if node.array is not None:
        return place, None, node
    multiscale = read_multiscale(node)
    if multiscale is None:
        first = _only_series(node)
        if first is None:
            raise _no_image(node)
        return _find_image(first)
    where = inside(place, multiscale.paths[0]) if multiscale.paths else place
    array = read_node(where)
    if array is None or array.array is None:
        raise FileError(
            f"{format_path(place)}: its finest level, {multiscale.paths[:1]}, is missing",
            "the folder with all levels",
            "copy it again from where it came from",
        )
    return place, multiscale, array


def _only_series(node: Node) -> Path | str | None:
    """Return the one image of a group that a converter of microscope files wrote: ``0``, if there is no ``1``."""
    notes = node.attributes.get("ome", node.attributes)
    if not isinstance(notes, dict) or "bioformats2raw.layout" not in notes:
        return None
    first, second = (inside(node.place, name) for name in "01")
    return first if read_node(first) is not None and read_node(second) is None else None


def _no_image(node: Node) -> FileError:
    """Return the error for a group that holds no image itself, with what to name instead."""
    notes = node.attributes.get("ome", node.attributes)
    notes = notes if isinstance(notes, dict) else {}
    place = format_path(node.place)
    if "plate" in notes or "well" in notes:
        what = "plate" if "plate" in notes else "well"
        return FileError(
            f"{place}: a {what} of a screen, which holds many images",
            "one image",
            f"name an image inside, such as {place}/{_first_inside(notes, what)}",
        )
    if isinstance(notes.get("labels"), list):
        names = ", ".join(str(n) for n in notes["labels"][:6])
        return FileError(f"{place}: a list of label images: {names}", "one image", f"name one: {place}/{names[:60]}")
    if "bioformats2raw.layout" in notes:
        return FileError(f"{place}: several images", "one image", f"name one, such as {place}/0")
    return FileError(
        f"{place}: a Zarr group without an image of its own", "an OME-Zarr image or an array", "name an image inside"
    )


def _first_inside(notes: dict[str, Any], what: str) -> str:
    try:
        if what == "plate":
            return f"{notes['plate']['wells'][0]['path']}/0"
        return str(notes["well"]["images"][0]["path"])
    except (TypeError, LookupError):
        return "A/1/0" if what == "plate" else "0"
