"""Layers as files of Septum, and results of Septum as layers that lie on the image they were made of."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from septum.axes import ORDER
from septum.errors import SeptumError
from septum.io.files import open_image, write_image
from septum.io.formats import is_zarr, url_of
from septum.io.image import Image
from septum.io.ngff import read_multiscale
from septum.io.zarr import read_node
from septum.io.zarr_write import create_zarr, mark_complete

from napari_septum.axes import name_axes, pixel_size_um

if TYPE_CHECKING:
    from napari.layers import Layer

LayerData = tuple[Any, dict[str, Any], str]
"""Data, keyword arguments and type of a layer, as readers and sample data of napari return them."""

LARGE = 1 << 28
"""Bytes from which an image is shown piece by piece instead of being read whole."""


def finest(layer: Layer) -> Any:
    """Return the data of a layer, of several levels the finest: an array of numpy, dask, Zarr or the like."""
    return layer.data[0] if layer.multiscale else layer.data


def axes_of(layer: Layer, asked: str = "") -> str:
    """Return the axes of the data of a layer; see `napari_septum.axes.name_axes`."""
    color = bool(getattr(layer, "rgb", False))
    return name_axes(layer.ndim, layer.axis_labels, color=color, asked=asked, name=layer.name)


def sides_of(layer: Layer, axes: str) -> dict[str, int]:
    """Return the side of each axis of a layer in pixels."""
    return dict(zip(axes, (int(n) for n in finest(layer).shape), strict=True))


def layer_pixel_size(layer: Layer, axes: str) -> dict[str, float]:
    """Return the micrometers per pixel of a layer by axis; empty if it states none."""
    return pixel_size_um(layer.scale, layer.units, axes)


def placement(layer: Layer, axes: str) -> dict[str, Any]:
    """Return the keywords that put a result of one value for each pixel where its image layer lies.

    Parameters
    ----------
    layer
        The image layer.
    axes
        Of its data. A channel axis is left out: the result has none.
    """
    kept = [i for i, axis in enumerate(axes[: layer.ndim]) if axis != "C"]
    found: dict[str, Any] = {
        "scale": tuple(float(layer.scale[i]) for i in kept),
        "translate": tuple(float(layer.translate[i]) for i in kept),
        "units": tuple(layer.units[i] for i in kept),
        "axis_labels": tuple(layer.axis_labels[i] for i in kept),
        "rotate": np.asarray(layer.rotate)[np.ix_(kept, kept)],
        "affine": np.asarray(layer.affine.affine_matrix)[np.ix_([*kept, layer.ndim], [*kept, layer.ndim])],
    }
    if len(kept) == layer.ndim:
        found["shear"] = np.asarray(layer.shear)
    return found


def is_large(layer: Layer) -> bool:
    """Return True if the pixels of a layer are not in memory (dask, Zarr, memory maps), or fill much of it."""
    data = finest(layer)
    return not isinstance(data, np.ndarray) or isinstance(data, np.memmap) or data.nbytes >= LARGE


def save_layer(layer: Layer, axes: str, folder: Path, name: str) -> tuple[Path, str | None]:
    """Return a file with the pixels of a layer, and the axes by which to read it; None: as it states.

    Pixels in memory are written to a TIFF. An image that is larger than the memory (dask, Zarr) is read from its own
    file if Septum can open it, else written piece by piece to an OME-Zarr.

    Parameters
    ----------
    layer
        An image or labels.
    axes
        Of its data.
    folder
        Folder for the file.
    name
        Its name without suffix.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    data, size = finest(layer), layer_pixel_size(layer, axes)
    if isinstance(data, np.ndarray) and not isinstance(data, np.memmap):
        write_image(folder / f"{name}.tif", data, axes=axes, pixel_size_um=size)
        return folder / f"{name}.tif", None
    if (own := _own_file(layer, axes)) is not None:
        return own, axes
    return _write_by_pieces(data, axes, folder / f"{name}.ome.zarr", size), None


def _own_file(layer: Layer, axes: str) -> Path | None:
    """Return the file that a layer was read from, if it holds the same pixels for Septum."""
    place = getattr(layer.source, "path", None)
    if place is None or url_of(place) is not None:
        return None
    data = finest(layer)
    try:
        with open_image(place, axes=axes) as image:
            sides = dict(zip(image.axes, image.shape, strict=True))
            same = all(sides.get(a) == n for a, n in zip(axes, data.shape, strict=True))
            return Path(place) if same and image.dtype == data.dtype else None
    except SeptumError:
        return None


def _write_by_pieces(data: Any, axes: str, path: Path, size: dict[str, float]) -> Path:
    order = "".join(a for a in ORDER if a in axes)
    turn = [axes.index(a) for a in order]
    dtype = np.dtype(np.float32) if data.dtype == np.float16 else np.dtype(data.dtype)
    shape = [int(data.shape[i]) for i in turn]
    target = create_zarr(path, shape=shape, axes=order, dtype=dtype, pixel_size_um=size)
    for start in product(*(range(0, side, step) for side, step in zip(shape, target.shards, strict=True))):
        region = tuple(slice(a, min(a + n, m)) for a, n, m in zip(start, target.shards, shape, strict=True))
        index: list[slice] = [slice(None)] * len(axes)
        for place, part in zip(turn, region, strict=True):
            index[place] = part
        target.write(region, np.asarray(data[tuple(index)]).transpose(turn))
    mark_complete(path, 0)
    return path


def as_array(image: Image) -> Any:
    """Return the pixels of an image, ``image.shape`` of its dtype, any values: read at once, or lazily where LARGE."""
    if not image.lazy or int(np.prod(image.shape, dtype=object)) * image.dtype.itemsize < LARGE:
        return image.array
    import dask.array

    sides = {"T": 1, "C": 1, "Z": 1, "Y": 1024, "X": 1024}
    chunks = tuple(min(sides[a], n) for a, n in zip(image.axes, image.shape, strict=True))
    meta = np.empty((0,) * len(image.shape), image.dtype)
    return dask.array.from_array(image, chunks=chunks, name=False, lock=False, meta=meta)


def levels_of(path: Path, image: Image) -> list[Image]:
    """Return an opened image and the coarser levels that its OME-Zarr holds, the finest first."""
    node = read_node(path) if is_zarr(path) else None
    notes = read_multiscale(node) if node is not None else None
    if notes is None or notes.axes is None:
        return [image]
    return [image, *(open_image(path / name, axes=notes.axes) for name in notes.paths[1:])]


def result_layers(path: Path, layer: Layer, axes: str, *, output: str, name: str) -> list[LayerData]:
    """Read a result of Septum as layers that lie on the image layer that was predicted.

    Parameters
    ----------
    path
        The result: one value for each pixel, or a channel for each class.
    layer, axes
        The image layer that was predicted, and its axes.
    output
        ``"labels"``, ``"classes"`` or ``"probabilities"``.
    name
        Name of the new layer.

    Returns
    -------
    list
        One layer of labels; or for probabilities one image for each class.
    """
    place, sides = placement(layer, axes), sides_of(layer, axes)
    wanted = [a for a in axes if a != "C"]
    image = open_image(path)
    large = not isinstance(as_array(image), np.ndarray)
    levels = levels_of(path, image) if large else [image]
    count = image.shape[image.axes.index("C")]
    made: list[LayerData] = []
    for channel in range(count):
        data = [_in_order(one, channel, wanted, sides if one is image else None) for one in levels]
        keywords = {**place, "name": name, "metadata": {"septum": str(path)}}
        if output == "probabilities":
            keywords |= {"contrast_limits": (0.0, 1.0)} | ({"name": f"{name} {channel + 1}"} if count > 1 else {})
        keywords |= {"multiscale": True} if len(data) > 1 else {}
        kind = "image" if output == "probabilities" else "labels"
        made.append((data if len(data) > 1 else data[0], keywords, kind))
    return made


def _in_order(image: Image, channel: int, wanted: list[str], sides: dict[str, int] | None) -> Any:
    """Return a channel of an image with its axes in the order of a layer; axes of length 1 may be missing in a file."""
    array = as_array(image)[(slice(None),) * image.axes.index("C") + (channel,)]
    order = [a for a in ORDER if a in wanted]
    lengths = dict(zip(image.axes, image.shape, strict=True))
    array = array.reshape([lengths.get(a, 1) if sides is None else sides[a] for a in order])
    return array.transpose([order.index(a) for a in wanted])
