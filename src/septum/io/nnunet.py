"""Data sets of nnU-Net and of the Medical Segmentation Decathlon: ``dataset.json``, and channels in files of their own.

An image whose channels lie in ``NAME_0000.EXT``, ``NAME_0001.EXT``, ... has the path ``NAME.EXT``, which does not
exist; `septum.io.files.open_image` opens the channels as one image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.formats import DAMAGE, damaged, format_path, image_stem, image_suffix, natural_key
from septum.io.image import StoredImage
from septum.words import pluralize

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_MOST_BYTES = 64 << 20
_IGNORE = "ignore"


@dataclass(frozen=True)
class DatasetNotes:
    """Facts of a ``dataset.json``.

    Attributes
    ----------
    path
        The file.
    channels
        Names of the channels in their order.
    names
        Name of each class by its value in the masks; regions of several values have none.
    ignore
        Values that mean not annotated.
    """

    path: Path
    channels: tuple[str, ...]
    names: Mapping[int, str]
    ignore: tuple[int, ...]


def dataset_notes(folder: Path) -> DatasetNotes | None:
    """Return the facts of the ``dataset.json`` in a folder or in the one above; None if there is none.

    Raises
    ------
    FileError
        If the file is damaged.
    """
    path = next((p for p in (folder / "dataset.json", folder.absolute().parent / "dataset.json") if p.is_file()), None)
    if path is None:
        return None
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("more than 64 MB")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (*DAMAGE, RecursionError) as error:
        raise damaged(path, "dataset.json", error) from error
    found: Any = content if isinstance(content, dict) else {}
    channels, labels = found.get("channel_names") or found.get("modality"), found.get("labels")
    if not isinstance(channels, dict) or not isinstance(labels, dict):
        return None
    names = tuple(str(name) for _, name in sorted(channels.items(), key=lambda item: natural_key(str(item[0]))))
    values = dict(_named_values(labels))
    ignore = tuple(value for value, name in values.items() if name.casefold() == _IGNORE)
    return DatasetNotes(path, names, {v: n for v, n in sorted(values.items()) if v not in ignore}, ignore)


def _named_values(labels: Mapping[str, Any]) -> Iterable[tuple[int, str]]:
    """Yield value and name: version 1 maps values to names, version 2 names to a value, or to several of a region."""
    for key, value in labels.items():
        if isinstance(value, str) and key.strip().isdecimal():
            yield int(key), value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value, key


def channel_files(path: Path) -> list[Path]:
    """Return the files of the channels of an image that is no file itself, in their order; none for other paths."""
    stem, suffix = image_stem(path), image_suffix(path)
    files: list[Path] = []
    if not suffix or path.exists():
        return files
    while (one := path.with_name(f"{stem}_{len(files):04d}{path.name[len(stem) :]}")).is_file():
        files.append(one)
    return files


def join_channels(paths: Iterable[Path]) -> list[Path]:
    """Return images with those of one ``dataset.json`` of several channels joined: ``a_0000.png`` ... become ``a.png``.

    Parameters
    ----------
    paths
        Image files; those without a ``dataset.json`` in their folder or the one above stay as they are.

    Raises
    ------
    FileError
        If a ``dataset.json`` is damaged, or an image lacks a channel that it names.
    """
    known: dict[Path, int] = {}
    joined: dict[Path, None] = {}
    for path in paths:
        folder = path.parent
        if folder not in known:
            notes = dataset_notes(folder)
            known[folder] = len(notes.channels) if notes is not None else 1
        hit = _CHANNEL.fullmatch(image_stem(path))
        if known[folder] < 2 or hit is None:
            joined[path] = None
            continue
        image = path.with_name(hit[1] + path.name[len(image_stem(path)) :])
        if image not in joined and len(channel_files(image)) != known[folder]:
            raise FileError(
                f"{format_path(image)}: {pluralize(len(channel_files(image)), 'file')} of channels",
                f"{known[folder]}, as dataset.json names",
                "add the files that are missing, from _0000 on",
            )
        joined[image] = None
    return list(joined)


def open_channels(files: list[Path], open_one: Callable[[Path], StoredImage]) -> StoredImage:
    """Open files of one channel each as one image.

    Parameters
    ----------
    files
        From `channel_files`.
    open_one
        Opens one of them.

    Raises
    ------
    FileError
        If a file cannot be read, has channels itself, or another size than the first one.
    """
    with ExitStack() as opened:
        parts = list[StoredImage]()
        for path in files:
            part = open_one(path)
            opened.callback(part.close)
            if "C" in part.axes or part.shape != (parts[0] if parts else part).shape:
                given = f"{format_path(path)}: {part.shape} ({part.axes})"
                first = f"{parts[0].shape}, as {files[0].name}" if parts else "gray values"
                raise FileError(given, f"one channel of {first}", "save each channel in a file of its own, of one size")
            parts.append(part)
        first_part = parts[0]
        close = opened.pop_all().close

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        return np.stack([part.read(index[:-1]) for part in parts[index[-1]]], axis=-1)

    return replace(
        first_part,
        shape=(*first_part.shape, len(parts)),
        dtype=np.result_type(*(part.dtype for part in parts)),
        axes=first_part.axes + "C",
        read=read,
        lazy=all(part.lazy for part in parts),
        close=close,
    )
