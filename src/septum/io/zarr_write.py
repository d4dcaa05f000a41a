"""OME-Zarr 0.5 written piece by piece: images larger than memory, by several processes, with a pyramid.

Source: "Next-generation file formats (NGFF)", version 0.5, https://ngff.openmicroscopy.org/0.5
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from septum.errors import FileError
from septum.io.atomic import as_error, sync_file, whole_file, whole_folder
from septum.io.ngff import Multiscale, read_multiscale
from septum.io.opened import Index, cuts
from septum.io.paths import format_path, image_stem
from septum.io.zarr_store import COMPLETE, Node, ZarrArray, read_node

VERSION = "0.5"
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_CHUNK = {"Z": 32, "Y": 512, "X": 512}
_SHARD = {"Z": 64, "Y": 2048, "X": 2048}


class ZarrTarget:
    """One level of an OME-Zarr image on this machine, written and read piece by piece.

    Writers that own whole shards may work side by side, in threads and in processes: every shard is one file, written
    under another name and renamed. Whoever writes a part of a shard reads and writes all of it, and must be alone.

    Attributes
    ----------
    path
        The folder of the image.
    level
        0 is the full resolution.
    axes
        Letters of ``TCZYX`` in this order; those that were given to `create_zarr`.
    shape, dtype
        Of the level.
    chunks
        What is compressed together.
    shards
        What is one file.
    pixel_size_um
        Micrometers per pixel of the full resolution; empty if unknown.
    labels
        Whether the values are ids.
    """

    def __init__(self, path: Path, level: int = 0) -> None:
        import zarr

        multiscale = _multiscale(path)
        self.path, self.level = path, level
        self.axes, self.labels = str(multiscale.axes), multiscale.labels
        self.pixel_size_um = multiscale.pixel_size_um
        self._folder = path / str(level)
        try:
            # Given to `open_array` itself, the setting is lost (zarr 3.1).
            with zarr.config.set({"array.write_empty_chunks": True}):
                self._array: Any = zarr.open_array(str(self._folder), mode="r+")
        except Exception as error:
            raise FileError(
                f"{format_path(self._folder)}: cannot be opened to be written ({' '.join(str(error).split())[:200]})",
                "an OME-Zarr image that Septum has begun",
                "delete it and run the command again",
            ) from error
        self.shape = tuple(int(n) for n in self._array.shape)
        self.dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        self.chunks = tuple(int(n) for n in self._array.chunks)
        self.shards = tuple(int(n) for n in (self._array.shards or self.chunks))

    def write(self, index: Index, values: NDArray[Any]) -> None:
        """Write a part; whole shards where others write at the same time. It is on the disk when this returns.

        Parameters
        ----------
        index
            An integer or a slice with step 1 per axis; axes that are not named are taken whole.
        values
            As many values as `index` names, without the axes that it names by an integer.

        Raises
        ------
        FileError
            If the disk is full or may not be written; shards are then the old or the new ones, never torn.
        """
        wanted = cuts(index, self.shape)
        where = tuple(slice(cut.start, cut.stop) for cut in wanted)
        stored = np.asarray(values, self.dtype).reshape([cut.stop - cut.start for cut in wanted])
        try:
            self._array[where] = stored
            for piece in self._pieces(where):
                with suppress(FileNotFoundError):
                    sync_file(piece)
        except OSError as error:
            raise as_error(self.path, error) from error

    def read(self, index: Index) -> NDArray[Any]:
        """Return a part; what is not written yet is 0.

        Raises
        ------
        FileError
            If a piece is damaged; it is named.
        """
        wanted = cuts(index, self.shape)
        taken = tuple(cut.taken for cut in wanted)
        where = tuple(slice(cut.start, cut.stop) for cut in wanted)
        try:
            return np.asarray(self._array[where])[taken]
        except Exception:
            ZarrArray(_array_node(self._folder)).read(where)  # names the piece
            raise

    def missing(self) -> list[Path]:
        """Return the files of shards that are not written yet."""
        return [p for p in self._pieces(tuple(slice(0, n) for n in self.shape)) if not p.exists()]

    def _pieces(self, where: Sequence[slice]) -> list[Path]:
        spans = (range(s.start // n, -(-s.stop // n)) for s, n in zip(where, self.shards, strict=True))
        return [self._folder / self._array.metadata.encode_chunk_key(cell) for cell in product(*spans)]

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrTarget, (self.path, self.level)


def create_zarr(
    path: Path,
    *,
    shape: Sequence[int],
    axes: str,
    dtype: DTypeLike,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    pixel_size_um: Mapping[str, float] | None = None,
    labels: bool = False,
    name: str | None = None,
) -> ZarrTarget:
    """Make an empty OME-Zarr 0.5 image, as a whole or not at all; its pieces are written through what is returned.

    When all of them are written, `septum.io.pyramid.add_pyramid` completes the image. Until then it can be opened, and
    what is not written is 0.

    Parameters
    ----------
    path
        The folder to be; its name should end in ``.ome.zarr``. It must not exist.
    shape
        One side per letter of `axes`.
    axes
        Letters of ``TCZYX`` in this order, ``Y`` and ``X`` among them. Classes of probabilities are ``C``.
    dtype
        bool is written as uint8.
    chunks
        What is compressed together: 512 x 512, or 32 x 512 x 512 where not given.
    shards
        What is one file, a multiple of `chunks`; 2048 x 2048 or 64 x 2048 x 2048 where neither is given.
    pixel_size_um
        Micrometers per pixel by axis, as far as they are known.
    labels
        The values are ids: levels of a pyramid take one of them, never a mean.
    name
        What the image is called in its description; the stem of `path` where not given.

    Raises
    ------
    FileError
        If `path` exists, or cannot be written.
    """
    assert axes == "".join(a for a in "TCZYX" if a in axes) and len(axes) == len(shape), f"axes {axes} for {shape}"
    if path.exists():
        raise FileError(f"{format_path(path)} exists", "a name that is free", "choose another name, or delete it")
    dtype = np.dtype(np.uint8) if np.dtype(dtype) == np.bool_ else np.dtype(dtype)
    size = {a: float(v) for a, v in (pixel_size_um or {}).items() if a in axes and a in "ZYX"}
    notes = describe(name or image_stem(path), axes, [tuple(shape)], size, labels=labels)
    with whole_folder(path) as new:
        create_level(new, 0, shape, axes=axes, dtype=dtype, chunks=chunks, shards=shards)
        write_group(new, notes)
    return ZarrTarget(path)


def open_target(path: Path) -> ZarrTarget:
    """Open an image that `create_zarr` has made, to go on writing.

    Raises
    ------
    FileError
        If it is not there, or no OME-Zarr 0.5.
    """
    return ZarrTarget(path)


def create_level(
    path: Path,
    level: int,
    shape: Sequence[int],
    *,
    axes: str,
    dtype: np.dtype[Any],
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
) -> None:
    """Make the empty array of one level in the folder `path`, in place of one that is there; see `create_zarr`."""
    import zarr
    from zarr.codecs import ZstdCodec

    if chunks is None:
        chunks = [_CHUNK.get(a, 1) for a in axes]
        shards = [_SHARD.get(a, 1) for a in axes] if shards is None else shards
    fitting = [min(c, n) for c, n in zip(chunks, shape, strict=True)]
    files = [-(-min(s, n) // c) * c for s, n, c in zip(shards or fitting, shape, fitting, strict=True)]
    shutil.rmtree(path / str(level), ignore_errors=True)
    zarr.create_array(
        str(path / str(level)),
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(fitting),
        shards=tuple(files) if shards is not None else None,
        compressors=ZstdCodec(level=3, checksum=True),
        fill_value=0,
        dimension_names=[a.lower() for a in axes],
        config={"write_empty_chunks": True},
    )


def describe(
    name: str,
    axes: str,
    shapes: Sequence[tuple[int, ...]],
    pixel_size_um: Mapping[str, float],
    *,
    labels: bool,
    source: str | None = None,
    factors: Sequence[tuple[int, ...]] | None = None,
) -> dict[str, Any]:
    """Return the NGFF 0.5 description of an image.

    Parameters
    ----------
    shapes
        Of the levels, the finest first.
    source
        Of labels: where their image lies, relative to their folder.
    factors
        Pixels of the finest level in one of each level, per axis; all 1 where not given.
    """
    spatial = [a in "ZYX" and a in pixel_size_um for a in axes]
    described = [{"name": a.lower(), "type": _TYPES[a]} for a in axes]
    for entry, known in zip(described, spatial, strict=True):
        if known:
            entry["unit"] = "micrometer"
    steps = [pixel_size_um.get(a, 1.0) for a in axes]
    levels = []
    for level, times in enumerate(factors or [(1,) * len(axes)] * len(shapes)):
        transforms: list[dict[str, Any]] = [
            {"type": "scale", "scale": [s * f for s, f in zip(steps, times, strict=True)]}
        ]
        if not labels and any(f > 1 for f in times):  # the middle of a mean lies between the pixels it is made of
            moved = [s * (f - 1) / 2 for s, f in zip(steps, times, strict=True)]
            transforms.append({"type": "translation", "translation": moved})
        levels.append({"path": str(level), "coordinateTransformations": transforms})
    multiscale = {"name": name, "axes": described, "datasets": levels, "type": "nearest" if labels else "mean"}
    notes: dict[str, Any] = {"version": VERSION, "multiscales": [multiscale]}
    if labels:
        notes["image-label"] = {"source": {"image": source}} if source else {}
    return notes


def write_group(path: Path, notes: Mapping[str, Any], *, marks: Mapping[str, Any] | None = None) -> None:
    """Write the description of a group in one stroke; `notes` is what NGFF says."""
    attributes = {"ome": dict(notes)} | dict(marks or {})
    write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON document in one stroke."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def mark_complete(path: Path, level: int) -> None:
    """Note in a level that all of its chunks are written, so that one that is missing later is not taken for zeros."""
    description = path / str(level) / "zarr.json"
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
    except OSError as error:
        raise as_error(description, error) from error
    content["attributes"] = {**content.get("attributes", {}), "septum": {COMPLETE: True}}
    write_json(description, content)


def _multiscale(path: Path) -> Multiscale:
    node = read_node(path)
    multiscale = read_multiscale(node) if node is not None else None
    if multiscale is None or multiscale.node.version != 3 or multiscale.axes is None:
        raise FileError(
            f"{format_path(path)}: no OME-Zarr 0.5 image", "an image that Septum has begun", "delete it and run again"
        )
    return multiscale


def _array_node(folder: Path) -> Node:
    node = read_node(folder)
    if node is None or node.array is None:
        raise FileError(f"{format_path(folder)}: no Zarr array", "the level of an image", "delete it and run again")
    return node
