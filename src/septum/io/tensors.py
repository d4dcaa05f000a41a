"""Tensors and JSON under one checksum in one safetensors file: the format of models and checkpoints.

Nothing in such a file is code, and no pickle is read or written.

Layout (safetensors): 8 bytes length of the header, the header as JSON, the tensors. The
header's ``__metadata__`` holds one entry, ``septum``, a JSON object with sorted keys and no spaces::

    format   version of this layout, 1
    header   JSON of the writer
    kind     "model" or "checkpoint"
    sha256   over this object without sha256, and over name, dtype, shape and bytes of every tensor, sorted by name

One entry, because safetensors writes several in an order that changes from run to run.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from septum.errors import ModelError
from septum.io.atomic import whole_file
from septum.io.formats import format_path

FileKind = Literal["model", "checkpoint"]

FORMAT = 1
_HEADER_LIMIT = 16 << 20  # far above every valid header; a forged length must not exhaust the memory
_AGAIN = "copy it again from the original; without the original, train again"


def write_tensors(
    path: Path, kind: FileKind, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, object]
) -> None:
    """Write tensors and JSON as a whole or not at all. The same content gives the same bytes.

    Parameters
    ----------
    path
        The file; an older one is replaced.
    kind
        Kind of the file, so that one is not taken for the other.
    tensors
        Arrays by name: any shape, also empty and scalar, any numeric dtype and any values.
    header
        JSON values; keys are strings. Floats come back exactly, NaN and infinity included.

    Raises
    ------
    FileError
        If the file cannot be written.
    ValueError
        If `header` is longer than 16 MB: large data belong into tensors.
    """
    from safetensors.numpy import save

    plain = {n: np.asarray(t, dtype=t.dtype.newbyteorder("="), order="C") for n, t in tensors.items()}
    # Through JSON once, so that the checksum covers the values that a reader gets: keys become strings, tuples lists.
    sealed: dict[str, object] = {"format": FORMAT, "kind": kind, "header": json.loads(json.dumps(header))}
    sealed["sha256"] = _checksum(sealed, plain)
    blob = save(plain, metadata={"septum": _canonical(sealed)})
    if struct.unpack("<Q", blob[:8])[0] > _HEADER_LIMIT:
        raise ValueError(f"the header of {format_path(path)} is longer than {_HEADER_LIMIT:,} bytes")
    with whole_file(path) as temporary:
        temporary.write_bytes(blob)


def read_tensors(path: Path, kind: FileKind) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
    """Read a file of `write_tensors`, and prove by its checksum that no bit has changed.

    Returns
    -------
    tensors
        Writable arrays by name: the same shape, dtype and bits as they were written.
    header
        The JSON values; tuples have become lists.

    Raises
    ------
    ModelError
        If the file is missing, empty, cut off, changed, of another kind, of a newer format, a pickle, or of another
        program.
    """
    length = _length(path, kind)
    try:
        with path.open("rb") as file:
            size = _header_size(path, kind, file.read(8), length)
            sealed = _sealed(path, kind, json.loads(file.read(size)), length - 8 - size)
            file.seek(0)
            blob = file.read()
    except OSError as error:
        raise ModelError(
            f"{format_path(path)}: cannot be read ({error.strerror})",
            f"a {kind} file that you may read",
            "check its rights",
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, kind, "its header is not JSON") from error
    tensors = _tensors(path, kind, blob)
    checksum, header = sealed.pop("sha256", None), sealed.get("header")
    if checksum != _checksum(sealed, tensors):
        raise _damaged(path, kind, "its checksum does not fit its content")
    if not isinstance(header, dict):
        raise _damaged(path, kind, "its header is not a JSON object")
    return tensors, header


def write_model(path: Path, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, object]) -> None:
    """Write a model: `write_tensors` of kind ``"model"``.

    Parameters
    ----------
    path
        The file, by custom ``model.safetensors``; an older one is replaced.
    tensors
        Weights by name: ``(*A)`` of any shape, numeric dtype and any values.
    header
        JSON values: settings, axes, normalization, classes, thresholds, scores.
    """
    write_tensors(path, "model", tensors, header)


def read_model(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
    """Read a model: `read_tensors` of kind ``"model"``.

    Returns
    -------
    tensors
        Weights by name: the same shape, dtype and bits as they were written.
    header
        The JSON values; tuples have become lists.
    """
    return read_tensors(Path(path), "model")


def _length(path: Path, kind: FileKind) -> int:
    try:
        length = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{format_path(path)} does not exist", f"a {kind} file of Septum", "check the name") from error
    if path.is_dir():
        raise ModelError(
            f"{format_path(path)}: is a folder", f"a {kind} file of Septum (.safetensors)", "name a file in it"
        )
    if not length:
        raise _damaged(path, kind, "0 bytes")
    return length


def _header_size(path: Path, kind: FileKind, head: bytes, length: int) -> int:
    """Return the length of the JSON header, after checking it."""
    size = struct.unpack("<Q", head)[0] if len(head) == 8 else length
    if size > _HEADER_LIMIT and head.startswith((b"PK\x03\x04", b"\x80")):
        raise ModelError(
            f"{format_path(path)}: a pickle or zip archive, such as PyTorch's .pt and .pth",
            f"a {kind} file of Septum (.safetensors)",
            "pickles can run any code and are never opened; name the model.safetensors that training wrote",
        )
    if size > _HEADER_LIMIT:
        expected = f"a {kind} file of Septum (.safetensors)"
        raise ModelError(f"{format_path(path)}: not a safetensors file", expected, "check the name")
    if 8 + size > length:
        raise _damaged(path, kind, f"its header ends beyond the {length:,} bytes that are there")
    return int(size)


def _sealed(path: Path, kind: FileKind, header: object, rest: int) -> dict[str, object]:
    """Return Septum's entry of the header of a file whose tensors fill the rest of it exactly."""
    if not isinstance(header, dict):
        raise _damaged(path, kind, "its header is not a JSON object")
    metadata = header.pop("__metadata__", None)
    text = metadata.get("septum") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelError(
            f"{format_path(path)}: a safetensors file of another program",
            f"a {kind} file of Septum",
            "name the model.safetensors that training wrote",
        )
    sealed = json.loads(text)
    if not isinstance(sealed, dict) or text != _canonical(sealed):
        raise _damaged(path, kind, "its header was edited")
    version, other = sealed.get("format"), sealed.get("kind")
    if not isinstance(version, int) or other not in get_args(FileKind):
        raise _damaged(path, kind, "its header was edited")
    if version > FORMAT:
        given = f"{format_path(path)}: written in format {version} by a newer Septum"
        raise ModelError(given, f"format {FORMAT} or older", "update Septum")
    if other != kind:
        raise ModelError(
            f"{format_path(path)}: a {other}, not a {kind}",
            f"a {kind} file of Septum",
            "a run folder keeps its model in model.safetensors and its checkpoints in checkpoints/",
        )
    try:
        end = max((int(t["data_offsets"][1]) for t in header.values()), default=0)
    except (TypeError, LookupError, ValueError) as error:
        raise _damaged(path, kind, "a tensor has no place") from error
    if end != rest:
        raise _damaged(path, kind, f"{rest:,} bytes of tensors are there, {end:,} are announced")
    return sealed


def _tensors(path: Path, kind: FileKind, blob: bytes) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {name: np.require(tensor, requirements="W") for name, tensor in load(blob).items()}
    except (SafetensorError, ValueError, TypeError, LookupError) as error:
        raise _damaged(path, kind, str(error)) from error


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _checksum(sealed: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]) -> str:
    described = [[n, t.dtype.str, list(t.shape)] for n, t in sorted(tensors.items())]
    digest = hashlib.sha256(_canonical([sealed, described]).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(path: Path, kind: FileKind, why: str) -> ModelError:
    return ModelError(f"{format_path(path)}: damaged or changed ({why})", f"a {kind} file as it was written", _AGAIN)
