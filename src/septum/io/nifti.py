"""NIfTI: volumes of medical scanners, with millimeters and the position in the scanner."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.decoded import DAMAGE, DEFLATE, STORED, Affine, Decoded, check_claim, damaged
from septum.io.opened import Opened, in_memory
from septum.io.paths import format_path
from septum.io.plain import plain_reader

_AXES = "XYZTC"
_MICROMETERS = {"mm": 1000.0, "micron": 1.0, "meter": 1e6, "unknown": 1000.0}
_NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the size of its header


def read_nifti(path: Path, *, axes: str | None) -> Decoded:
    """Read a ``.nii`` or ``.nii.gz`` (NIfTI-1 or -2) as it is stored: dimensions ``X Y Z T C``, no reorientation.

    Slope and intercept are applied where the file has them (the values are then float64). Millimeters become
    micrometers. Packed RGB becomes three channels.

    Raises
    ------
    FileError
        If the file is damaged, cut off, claims more than it can hold, or holds complex numbers.
    """
    from nibabel.spatialimages import HeaderDataError

    header, size, affine = _read_header(path)
    try:
        with gzip.open(path) if _is_packed(path) else path.open("rb") as stream:
            # To the end: only there gzip proves that nothing was damaged on the way.
            array = np.asanyarray(header.data_from_fileobj(io.BytesIO(stream.read())))
    except (*DAMAGE, HeaderDataError) as error:
        raise damaged(path, "NIfTI", error) from error
    array, names = _plain(path, array)
    return Decoded(array, axes or names, size, affine)


def open_nifti(path: Path, *, axes: str | None) -> Opened:
    """Open a volume as `read_nifti` reads it; of a packed one the whole is read, of others parts by their place."""
    from nibabel.volumeutils import apply_read_scaling

    if _is_packed(path):
        return in_memory(read_nifti(path, axes=axes))
    header, size, affine = _read_header(path)
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header.get_data_offset())
    sample, names = _plain(path, np.zeros([1 if i < 2 else n for i, n in enumerate(shape)], dtype))
    slope, inter = (1.0 if v is None else v for v in header.get_slope_inter())
    shape = (*shape[:2], *sample.shape[2:])
    colored = dtype.names is not None
    read_stored = plain_reader(path, shape[:-1] if colored else shape, dtype, offset=offset, order="F")

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        part = read_stored(index[:-1] if colored else index)
        if dtype.names is not None:
            return np.stack([part[n] for n in dtype.names[:3]], axis=-1)[..., index[-1]]
        scaled: NDArray[Any] = apply_read_scaling(part, slope, inter)
        return scaled

    return Opened(
        shape=shape,
        dtype=read(tuple(slice(0, 1) for _ in shape)).dtype,
        axes=axes or names,
        read=read,
        chunks=(shape[0], *(1 for _ in shape[1:])),
        pixel_size_um=size,
        affine=affine,
    )


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _read_header(path: Path) -> tuple[Any, dict[str, float], Affine | None]:
    """Return the header, the pixel size and the affine; raise `FileError` where they cannot be."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    length = path.stat().st_size
    packed = _is_packed(path)
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            head = stream.read(540)
        kind = Nifti2Header if head[:4] in _NIFTI2 else Nifti1Header
        if len(head) < kind.sizeof_hdr:
            raise EOFError("the header ends too early")
        # Without nibabel's own check, which talks to the terminal, also about files that are sound.
        header = kind(head[: kind.sizeof_hdr], check=False)
        if header["magic"].item()[:2] != b"n+":
            raise ValueError("it is not NIfTI in one file")
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        claimed = math.prod(shape) * dtype.itemsize + header.get_data_offset()
        check_claim(path, "NIfTI", shape=shape, claimed=claimed, length=length, ratio=DEFLATE if packed else STORED)
        unit = header.get_xyzt_units()[0]
        zooms = [abs(float(str(z))) for z in header.get_zooms()]  # shortest decimals: 0.0005, not 0.0005000000237
        affine = tuple(tuple(float(v) for v in row) for row in header.get_best_affine())
    except (*DAMAGE, HeaderDataError) as error:
        raise damaged(path, "NIfTI", error) from error
    if unit == "unknown" and all(z == 1 for z in zooms[:3]):
        zooms = []
    size = {a: z * _MICROMETERS[unit] for a, z in zip("XYZ", zooms, strict=False) if math.isfinite(z) and z > 0}
    return header, size, affine if np.isfinite(affine).all() else None


def _plain(path: Path, array: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """Return numbers and their axes; dimensions of length 1 behind the third are dropped."""
    color = array.dtype.names is not None
    if array.dtype.names is not None:
        array = np.stack([array[n] for n in array.dtype.names[:3]], axis=-1)
    last = array.ndim - color
    while last > 3 and array.shape[last - 1] == 1:
        array = array.reshape(*array.shape[: last - 1], *array.shape[last:])
        last -= 1
    if not 2 <= last <= 5 or (color and last > 4):
        raise FileError(f"{format_path(path)}: {last} dimensions {array.shape}", "2 to 5: X Y Z T C", "split the file")
    return array, _AXES[:last] + "C" * color


def write_nifti(
    file: Path,
    array: NDArray[Any],
    axes: str,
    *,
    pixel_size_um: Mapping[str, float],
    affine: Affine | None,
    name: Path,
) -> None:
    """Write a NIfTI-1 (NIfTI-2 if a side is longer than 32767).

    Parameters
    ----------
    array
        In canonical order without superfluous axes. bool is written as uint8, float16 as float32.
    affine
        Index (x, y, z, 1) to scanner millimeters, as read from the image that `array` belongs to. Without it, the pixel
        size makes one.
    name
        The name for messages.

    Raises
    ------
    FileError
        If NIfTI does not know the dtype.
    """
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError

    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    last = max(_AXES.index(a) for a in axes)
    order = [a for a in _AXES if a in axes]
    array = array.transpose([axes.index(a) for a in order])
    array = np.expand_dims(array, [i for i, a in enumerate(_AXES[: last + 1]) if a not in axes])
    steps = [pixel_size_um.get(a, 1000.0) / 1000.0 for a in "XYZ"]
    matrix = np.diag([*steps, 1.0]) if affine is None else np.asarray(affine, dtype=np.float64)
    kind = nib.Nifti2Image if max(array.shape) > 32767 else nib.Nifti1Image
    try:
        image = kind(array, matrix, dtype=array.dtype)
    except HeaderDataError as error:
        raise FileError(
            f"{format_path(name)}: {array.dtype} values in a NIfTI file", "numbers that it knows", str(error)
        ) from error
    image.header.set_xyzt_units("mm" if pixel_size_um or affine is not None else "unknown")
    with file.open("wb") as raw:
        if file.suffix.lower() != ".gz":
            image.to_stream(raw)
        else:  # no time in it: the same image gives the same bytes
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed:
                image.to_stream(packed)
