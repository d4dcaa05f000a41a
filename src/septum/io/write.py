"""Write images of any format; the suffix of the name decides the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from septum.axes import canonical
from septum.errors import UsageError
from septum.io.atomic import whole_file, whole_folder
from septum.io.formats import RESULT_SUFFIXES, format_of
from septum.io.image import Affine
from septum.io.paths import format_path, image_suffix, url_of


@dataclass(frozen=True)
class WriteRequest:
    """Arguments of a writer beside the array and its axes.

    Attributes
    ----------
    path
        The file to be; the writer gets a temporary name, this one is for messages and titles.
    pixel_size_um
        Micrometers per pixel by axis, as far as they are known.
    affine
        4 x 4, index (x, y, z, 1) to scanner millimeters; for NIfTI.
    labels
        True if the values are ids.
    """

    path: Path
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    affine: Affine | None = None
    labels: bool = False


def write_image(
    path: Path,
    array: ArrayLike,
    *,
    axes: str,
    pixel_size_um: Mapping[str, float] | None = None,
    affine: Affine | None = None,
    labels: bool = False,
) -> None:
    """Write an image as a whole or not at all; the suffix decides the format.

    Parameters
    ----------
    path
        ``.tif``/``.tiff`` (OME-TIFF with axes and pixel size), ``.png`` (one plane of integers), ``.nii``/``.nii.gz``,
        ``.npy`` (as it is: neither axes nor pixel size), ``.zarr`` (OME-Zarr 0.5 with a pyramid).
    array
        ``(*A)`` with one dimension per letter of `axes`; bool, integers or floats of any values. It is put into
        canonical order, and ``C`` of length 1 is left out.
    axes
        Letters of ``TCZYX``, ``Y`` and ``X`` among them.
    pixel_size_um
        Micrometers per pixel by axis.
    affine
        Position in the scanner of a NIfTI image, see `septum.io.image.Image`; other formats cannot keep it.
    labels
        True if the values are ids: OME-Zarr states it, and its coarser levels never mix ids.

    Raises
    ------
    FileError
        If the format cannot hold the values, or the file cannot be written.
    UsageError
        If the suffix is none of the above.
    """
    path, array = Path(path), np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    kind = format_of(path.name)
    if kind is None or kind.writer is None:
        raise UsageError(
            f"{format_path(path)}: cannot write {image_suffix(path) or path.suffix or 'no suffix'}",
            " ".join(RESULT_SUFFIXES),
            "rename it",
        )
    if url_of(path) is not None:
        raise UsageError(
            f"{format_path(path)}: cannot write to URLs", "a path on this machine", "copy the result there"
        )
    assert len(axes) == array.ndim, f"axes {axes} for shape {array.shape}"
    _, permutation = canonical(axes)
    if kind.names_axes:
        axes = "".join(axes[i] for i in permutation)
        array = array.transpose(permutation)
        if "C" in axes and array.shape[axes.index("C")] == 1:
            array, axes = array.squeeze(axes.index("C")), axes.replace("C", "")
    request = WriteRequest(path, dict(pixel_size_um or {}), affine, labels)
    with (whole_folder if kind.folder else whole_file)(path) as temporary:
        kind.load_writer()(temporary, array, axes, request)
