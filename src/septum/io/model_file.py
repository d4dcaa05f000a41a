"""A model as one file: weights and a JSON header in safetensors. No pickle, no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from septum.io.tensors import read_tensors, write_tensors


def write_model(path: Path, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, object]) -> None:
    """Write a model as a whole or not at all.

    Parameters
    ----------
    path
        The file, by custom ``model.safetensors``; an older one is replaced.
    tensors
        Weights by name, any shape.
    header
        JSON values: settings, axes, normalization, classes, thresholds, scores. Keys are strings.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    write_tensors(path, "model", tensors, header)


def read_model(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
    """Read a model and prove by its checksum that neither weights nor header have changed.

    Returns
    -------
    tensors
        Weights by name, bit for bit as they were written.
    header
        The JSON values; tuples have become lists.

    Raises
    ------
    ModelError
        If the file is missing, empty, cut off, changed, a pickle, of another program, a checkpoint, or of a newer
        version of the format.
    """
    return read_tensors(Path(path), "model")
