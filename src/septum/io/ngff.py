"""OME-Zarr (NGFF): read versions 0.4 (Zarr 2), 0.5 and 0.6 (Zarr 3) and plain Zarr arrays, describe 0.5.

Source: "Next-generation file formats (NGFF)", versions 0.4, 0.5 and 0.6, https://ngff.openmicroscopy.org
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from septum.errors import FileError
from septum.io.formats import damaged, format_path
from septum.io.image import MICROMETERS, StoredImage
from septum.io.npy import guess_axes
from septum.io.zarr import Node, ZarrArray, child_folder, read_node
from septum.words import list_some

VERSION = "0.5"
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_OLD_AXES = "tczyx"  # of versions before 0.3, which do not name them
_NAMES = {"time": "T", "channel": "C"}
_DEEPEST = 8  # sequences inside of sequences


@dataclass(frozen=True)
class Multiscale:
    """An image of an OME-Zarr group.

    Attributes
    ----------
    node
        The group.
    axes
        One letter of ``TCZYX`` per dimension; None if the file uses other names.
    paths
        Names of the folders of its levels, the finest first.
    pixel_sizes_um
        Micrometers per pixel by axis, of each level.
    labels
        True if the group states that its values are ids.
    channels
        Names of the channels; empty if the group states none.
    """

    node: Node
    axes: str | None
    paths: tuple[str, ...]
    pixel_sizes_um: tuple[dict[str, float], ...]
    labels: bool
    channels: tuple[str, ...] = ()

    @property
    def pixel_size_um(self) -> dict[str, float]:
        """Micrometers per pixel by axis, of the finest level."""
        return self.pixel_sizes_um[0] if self.pixel_sizes_um else {}


def open_zarr(place: Path | str, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open the finest level of an OME-Zarr image, which leads to the others, or a plain Zarr array.

    Missing chunks have the array's fill value, as Zarr defines it. Arrays of Septum are marked once every chunk is
    written; there a missing one is an error.

    Parameters
    ----------
    place
        A folder, or a URL as `str`: an image, an image inside a group (``.../labels/cells``, ``.../0``), an array.
    axes
        Names of the dimensions if the file does not state them right.
    labels
        Ignored: values are the same for masks.

    Raises
    ------
    FileError
        If it is no Zarr, damaged, leads out of itself, claims chunks of more than 2 GiB, or holds many images.
    """
    place, multiscale, node = _find_image(place)
    array = ZarrArray(node)
    size = multiscale.pixel_size_um if multiscale is not None else {}
    named = axes or (multiscale.axes if multiscale is not None else _array_axes(node, array.shape))
    if named is None:
        raise FileError(
            f"{format_path(place)}: {len(array.shape)} dimensions {array.shape} with other names than T C Z Y X",
            "axes out of T C Z Y X",
            "name the axes, one letter of TCZYX per dimension, such as --axes CZYX",
        )
    if axes is None and len(named) != len(array.shape):
        raise damaged(place, "Zarr", f"{len(named)} axes for an array of {len(array.shape)} dimensions")
    stored = StoredImage(array.shape, array.dtype, named, array.read, pixel_size_um=size)
    if multiscale is None:
        return stored
    return replace(stored, channels=multiscale.channels, coarser=partial(_coarser, multiscale, stored))


def _coarser(multiscale: Multiscale, finest: StoredImage) -> list[StoredImage]:
    """Return the levels behind the finest one."""
    found = []
    for path, size in zip(multiscale.paths[1:], multiscale.pixel_sizes_um[1:], strict=True):
        node = read_node(child_folder(multiscale.node.place, path))
        if node is None or node.array is None or len((array := ZarrArray(node)).shape) != len(finest.shape):
            raise damaged(multiscale.node.place, "OME-Zarr", f"its level {path} is missing, or of other dimensions")
        found.append(replace(finest, shape=array.shape, dtype=array.dtype, read=array.read, pixel_size_um=size))
    return found


def read_multiscale(node: Node) -> Multiscale | None:
    """Read the description of the image of a group; return None if the group holds none.

    Raises
    ------
    FileError
        If the description is impossible.
    """
    notes = node.attributes.get("ome", node.attributes)
    if not isinstance(notes, dict) or "multiscales" not in notes:
        return None
    try:
        first = notes["multiscales"][0]
        paths = tuple(d["path"] for d in first["datasets"])
        system = _coordinate_system(first)
        raw = first.get("axes") if system is None else system["axes"]
        axes = [{"name": a} if isinstance(a, str) else dict(a) for a in raw] if raw is not None else None
        if axes is None:
            axes = [{"name": a} for a in _OLD_AXES]
        letters = _letters(axes)
        # From 0.6 on the transformations of the whole image lead to coordinate systems of other images.
        whole = _scale(first, len(axes)) if system is None else [1.0] * len(axes)
        scales = [[a * b for a, b in zip(_scale(d, len(axes)), whole, strict=True)] for d in first["datasets"]]
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        raise damaged(node.place, "OME-Zarr", f"multiscales: {type(error).__name__}: {error}") from error
    sizes = tuple(_size(letters or "", axes, scale) for scale in scales)
    return Multiscale(node, letters, paths, sizes, "image-label" in notes, _channel_names(notes))


def _size(letters: str, axes: list[dict[str, Any]], scale: list[float]) -> dict[str, float]:
    """Return micrometers per pixel by axis, as far as the file states them."""
    size = {}
    for letter, axis, step in zip(letters, axes, scale, strict=False):
        unit = MICROMETERS.get(str(axis.get("unit", "")).casefold())
        if letter in "ZYX" and unit is not None and math.isfinite(step * unit) and step > 0:
            size[letter] = step * unit
    return size


def _coordinate_system(first: dict[str, Any]) -> dict[str, Any] | None:
    """Return the coordinate system that the finest level is mapped to, of version 0.6; None of older versions."""
    systems = first.get("coordinateSystems")
    if "axes" in first or not systems:
        return None
    output = next((t.get("output") for t in first["datasets"][0].get("coordinateTransformations") or []), None)
    name = output.get("name") if isinstance(output, dict) else output
    found: dict[str, Any] = next((system for system in systems if system.get("name") == name), systems[0])
    return found


def _channel_names(notes: dict[str, Any]) -> tuple[str, ...]:
    """Return the labels of the channels for viewers, which are notes by custom; empty unless all have one."""
    shown = notes.get("omero")
    channels = shown.get("channels") if isinstance(shown, dict) else None
    labels = [c.get("label") if isinstance(c, dict) else None for c in channels] if isinstance(channels, list) else []
    return tuple(str(label) for label in labels) if all(isinstance(label, str) for label in labels) else ()


def _letters(axes: list[dict[str, Any]]) -> str | None:
    """Return one letter of ``TCZYX`` per axis, by name, else by type; None if that does not give each letter once."""
    names = [str(a["name"]).upper() for a in axes]
    if not all(len(n) == 1 and n in "TCZYX" for n in names):
        kinds = [str(a.get("type", "")) for a in axes]
        space = iter("ZYX"[-kinds.count("space") :] if 2 <= kinds.count("space") <= 3 else "")
        names = [next(space, "") if k == "space" else _NAMES.get(k, "") for k in kinds]
    letters = "".join(names)
    sound = len(letters) == len(axes) == len(set(letters)) and {"Y", "X"} <= set(letters)
    return letters if sound else None


def _scale(notes: dict[str, Any], rank: int, depth: int = 0) -> list[float]:
    """Return the product of the scales of transformations; NaN behind a rotation, where pixels have no size."""
    scale = [1.0] * rank
    inner = notes.get("transformations") if depth else notes.get("coordinateTransformations")
    for transform in inner or []:
        kind, steps = transform.get("type"), [1.0] * rank
        if kind == "scale" and "scale" in transform:
            steps = [float(s) for s in transform["scale"]]
        elif kind == "sequence" and depth < _DEEPEST:
            steps = _scale(transform, rank, depth + 1)
        elif kind in ("affine", "rotation", "mapAxis", "displacements", "coordinates", "sequence"):
            steps = [math.nan] * rank
        if len(steps) != rank:
            raise ValueError(f"{len(steps)} scales for {rank} axes")
        scale = [a * b for a, b in zip(scale, steps, strict=True)]
    return scale


def _array_axes(node: Node, shape: tuple[int, ...]) -> str | None:
    """Return the axes of a plain array: the names of its dimensions, else as for a .npy file."""
    names = (node.array or {}).get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    if isinstance(names, list) and len(names) == len(shape) and all(isinstance(n, str) for n in names):
        return _letters([{"name": n} for n in names])
    return guess_axes(node.place, shape)


def _find_image(place: Path | str) -> tuple[Path | str, Multiscale | None, Node]:
    """Return the place of the image, the description of its group, and its array."""
    node = read_node(place)
    if node is None:
        raise FileError(
            f"{format_path(place)}: not an OME-Zarr (it has neither zarr.json nor .zattrs)",
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
    where = child_folder(place, multiscale.paths[0]) if multiscale.paths else place
    array = read_node(where)
    if array is None or array.array is None:
        raise FileError(
            f"{format_path(place)}: its finest level, {list_some(multiscale.paths, 1) or 'none'}, is missing",
            "the folder with all levels",
            "copy it again from the original",
        )
    return place, multiscale, array


def _only_series(node: Node) -> Path | str | None:
    """Return the only image of a group that a converter of microscope files wrote: ``0``, if there is no ``1``."""
    notes = node.attributes.get("ome", node.attributes)
    if not isinstance(notes, dict) or "bioformats2raw.layout" not in notes:
        return None
    first, second = (child_folder(node.place, name) for name in "01")
    return first if read_node(first) is not None and read_node(second) is None else None


def _no_image(node: Node) -> FileError:
    """Return the error for a group that holds no image itself; it proposes a place inside."""
    notes = node.attributes.get("ome", node.attributes)
    notes = notes if isinstance(notes, dict) else {}
    place = format_path(node.place)
    if "plate" in notes or "well" in notes:
        kind = "plate" if "plate" in notes else "well"
        return FileError(
            f"{place}: a {kind} of a screen, which holds many images",
            "one image",
            f"name an image inside, such as {place}/{_first_inside(notes, kind)}",
        )
    if isinstance(notes.get("labels"), list):
        names = ", ".join(str(n) for n in notes["labels"][:6])
        return FileError(f"{place}: a list of label images: {names}", "one image", f"name one: {place}/{names[:60]}")
    if "bioformats2raw.layout" in notes:
        return FileError(f"{place}: holds several images", "one image", f"name one, such as {place}/0")
    return FileError(
        f"{place}: a Zarr group without an image of its own", "an OME-Zarr image or an array", "name an image inside"
    )


def _first_inside(notes: dict[str, Any], kind: str) -> str:
    try:
        if kind == "plate":
            return f"{notes['plate']['wells'][0]['path']}/0"
        return str(notes["well"]["images"][0]["path"])
    except (TypeError, LookupError):
        return "A/1/0" if kind == "plate" else "0"


def describe(
    name: str,
    axes: str,
    pixel_size_um: Mapping[str, float],
    *,
    labels: bool,
    source: str | None = None,
    factors: Sequence[tuple[int, ...]],
) -> dict[str, Any]:
    """Return the NGFF 0.5 description of an image.

    Parameters
    ----------
    name
        Title of the image.
    axes
        Letters of ``TCZYX`` in this order.
    pixel_size_um
        Micrometers per pixel by axis, as far as they are known.
    labels
        True if the values are ids.
    source
        Place of the image that labels belong to, relative to their folder.
    factors
        One per level, the finest first: pixels of the finest level in one pixel, per axis.
    """
    spatial = [a in "ZYX" and a in pixel_size_um for a in axes]
    described = [{"name": a.lower(), "type": _TYPES[a]} for a in axes]
    for entry, known in zip(described, spatial, strict=True):
        if known:
            entry["unit"] = "micrometer"
    steps = [pixel_size_um.get(a, 1.0) for a in axes]
    levels = []
    for level, times in enumerate(factors):
        transforms: list[dict[str, Any]] = [
            {"type": "scale", "scale": [s * f for s, f in zip(steps, times, strict=True)]}
        ]
        if not labels and any(f > 1 for f in times):  # the center of a mean lies between its pixels
            moved = [s * (f - 1) / 2 for s, f in zip(steps, times, strict=True)]
            transforms.append({"type": "translation", "translation": moved})
        levels.append({"path": str(level), "coordinateTransformations": transforms})
    multiscale = {"name": name, "axes": described, "datasets": levels, "type": "nearest" if labels else "mean"}
    notes: dict[str, Any] = {"version": VERSION, "multiscales": [multiscale]}
    if labels:
        notes["image-label"] = {"source": {"image": source}} if source else {}
    return notes
