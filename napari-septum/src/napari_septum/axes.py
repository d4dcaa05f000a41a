"""Axes, pixel sizes and units: the words of napari and those of Septum.

napari numbers the axes of a layer, Septum names them ``T C Z Y X``. A layer that this plugin has read states names by
the labels of its axes; otherwise the number of dimensions decides, and a person can name them in a panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from septum.axes import ORDER
from septum.errors import UsageError
from septum.io.selection import check_axes

_BY_RANK = {2: "YX", 3: "ZYX", 4: "TZYX"}


def name_axes(rank: int, labels: Sequence[object], *, color: bool, asked: str = "", name: str = "") -> str:
    """Return the axes of the data of a layer.

    Parameters
    ----------
    rank
        Number of axes of the layer, without that of color.
    labels
        Labels of its axes; empty if it has none.
    color
        True if its data has color as a last dimension.
    asked
        Axes that a person named, one letter of ``TCZYX`` for each dimension of the data; empty: by the labels where
        they are such letters, else by the number of axes: ``YX``, ``ZYX``, ``TZYX``.
    name
        Name of the layer, for messages.

    Returns
    -------
    str
        One letter of ``TCZYX`` for each dimension of the data; of a color image the last is ``C``.

    Raises
    ------
    UsageError
        If the axes do not fit the data, or are not known.
    """
    last = "C" if color else ""
    if asked.strip():
        named = str(check_axes(asked.strip()))
        if len(named) != rank + color:
            given = f"axes {named} for layer {name}, which has {rank + color} dimensions"
            raise UsageError(given, f"{rank + color} letters of TCZYX", "name one axis for each dimension")
        return named
    stated = "".join(str(label).upper() for label in labels)
    known = len(stated) == rank and len(set(stated)) == rank and {"Y", "X"} <= set(stated) <= set(ORDER)
    if known and not (color and "C" in stated):
        return stated + last
    if rank not in _BY_RANK:
        given = f"layer {name} has {rank} dimensions without names"
        raise UsageError(given, "axes out of TCZYX", "name them in the field Axes, such as TCZYX")
    return _BY_RANK[rank] + last


def pixel_size_um(scale: Sequence[float], units: Sequence[Any], axes: str) -> dict[str, float]:
    """Return the micrometers per pixel by axis; empty where the units are no lengths.

    Parameters
    ----------
    scale, units
        Of a layer, one for each of its axes.
    axes
        Of its data; a color axis at the end has neither scale nor unit.
    """
    size = {}
    for axis, factor, unit in zip(axes, scale, units, strict=False):
        if axis in "ZYX" and hasattr(unit, "is_compatible_with") and unit.is_compatible_with("micrometer"):
            size[axis] = abs(float(factor)) * float((1 * unit).to("micrometer").magnitude)
    return size if {"Y", "X"} <= set(size) else {}


def layer_axes(axes: str, size_um: Mapping[str, float]) -> dict[str, Any]:
    """Return the keywords of a layer that state its axes, and the size of its pixels where that is known.

    Parameters
    ----------
    axes
        Letters of ``TCZYX``, one for each axis of the layer.
    size_um
        Micrometers per pixel by axis.
    """
    found: dict[str, Any] = {"axis_labels": tuple(a.lower() for a in axes)}
    if size_um:
        found["scale"] = tuple(size_um.get(a, 1.0) for a in axes)
        found["units"] = tuple("um" if a in size_um else "pixel" for a in axes)
    return found
