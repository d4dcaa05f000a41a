"""NIfTI: volumes of medical scanners, with millimeters and the position in the scanner."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.files import WriteRequest
from septum.io.formats import DAMAGE, DEFLATE, STORED, check_claim, damaged, format_path
from septum.io.image import Affine, Reader, StoredImage
from septum.io.npy import mapped_reader

_AXES = "XYZTC"
_MICROMETERS = {"mm": 1000.0, "micron": 1.0, "meter": 1e6, "unknown": 1000.0}
_NIFTI2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the size of its header


def open_nifti(path: Path, *, axes: str | None, labels: bool = False) -> StoredImage:
    """Open a ``.nii`` or ``.nii.gz`` (NIfTI-1 or -2) as it is stored: dimensions ``X Y Z T C``, no reorientation.

    Slope and intercept are applied where the file has them (the values are then float64). Pixel sizes become
    micrometers and the affine millimeters, whatever the unit of the file; without a unit, millimeters are meant. Packed
    RGB becomes three channels. A packed file is unpacked whole at once: gzip proves only at its end that nothing was
    damaged, and it cannot be entered in the middle.

    Parameters
    ----------
    path, axes
        See `septum.io.files.open_image`.
    labels
        Ignored: values are the same for masks.

    Raises
    ------
    FileError
        If the file is damaged, cut off, claims more than it can hold, or holds complex numbers.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    header, size, affine = _read_header(path, packed)
    stored, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header.get_data_offset())
    shape, names = _known_axes(path, stored, dtype)
    if packed:
        read_raw = _unpack(path, shape, dtype, offset)
    else:
        read_raw = mapped_reader(path, shape, dtype, offset=offset, column_major=True)
    slope, inter = (1.0 if v is None else v for v in header.get_slope_inter())
    color = dtype.names

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        from nibabel.volumeutils import apply_read_scaling

        try:
            if color is not None:
                part = read_raw(index[:-1])
                return np.stack([part[name] for name in color[:3]], axis=-1)[..., index[-1]]
            scaled: NDArray[Any] = apply_read_scaling(read_raw(index), slope, inter)
            return scaled
        except DAMAGE as error:
            raise damaged(path, "NIfTI", error) from error

    whole = (*shape, 3) if color is not None else shape
    first = read(tuple(slice(0, min(1, n)) for n in whole))  # scaling can change the dtype
    return StoredImage(whole, first.dtype, axes or names, read, not packed, size, affine)


def _unpack(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> Reader:
    """Return a reader of a gzip file that is unpacked in memory."""
    try:
        with gzip.open(path) as stream:
            content = stream.read()
        array: NDArray[Any] = np.ndarray(shape, dtype, content, offset, order="F")
    except DAMAGE as error:
        raise damaged(path, "NIfTI", error) from error
    return array.__getitem__


def _read_header(path: Path, packed: bool) -> tuple[Any, dict[str, float], Affine | None]:
    """Return the header, the pixel size and the affine in millimeters; raise `FileError` if they are impossible."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    length = path.stat().st_size
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            head = stream.read(540)
        kind = Nifti2Header if head[:4] in _NIFTI2 else Nifti1Header
        if len(head) < kind.sizeof_hdr:
            raise EOFError("the header ends too early")
        # Without nibabel's own check, which prints messages about valid files, too.
        header = kind(head[: kind.sizeof_hdr], check=False)
        if header["magic"].item()[:2] != b"n+":
            raise ValueError("it is not NIfTI in one file")
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        claimed = math.prod(shape) * dtype.itemsize + header.get_data_offset()
        check_claim(path, "NIfTI", shape=shape, claimed=claimed, length=length, ratio=DEFLATE if packed else STORED)
        header.get_slope_inter()  # raises where they are impossible
        unit = header.get_xyzt_units()[0]
        zooms = [abs(float(str(z))) for z in header.get_zooms()]  # shortest decimals: 0.0005, not 0.0005000000237
        in_mm = np.diag([*[_MICROMETERS[unit] / 1000] * 3, 1]) @ header.get_best_affine()
        affine = tuple(tuple(float(v) for v in row) for row in in_mm)
    except (*DAMAGE, HeaderDataError) as error:
        raise damaged(path, "NIfTI", error) from error
    if unit == "unknown" and all(z == 1 for z in zooms[:3]):
        zooms = []
    size = {a: z * _MICROMETERS[unit] for a, z in zip("XYZ", zooms, strict=False) if math.isfinite(z) and z > 0}
    return header, size, affine if np.isfinite(affine).all() else None


def _known_axes(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[tuple[int, ...], str]:
    """Return the shape without dimensions of length 1 behind the third, and the axes with ``C`` for packed colors."""
    color = dtype.names is not None
    last = len(shape)
    while last > 3 and shape[last - 1] == 1:
        last -= 1
    if not 2 <= last <= 5 or (color and last > 4):
        raise FileError(
            f"{format_path(path)}: {last} dimensions {shape}",
            "2 to 5: X Y Z T C",
            "save its parts as files of their own",
        )
    return shape[:last], _AXES[:last] + "C" * color


def write_nifti(path: Path, array: NDArray[Any], axes: str, request: WriteRequest) -> None:
    """Write a NIfTI-1 (NIfTI-2 if a side is longer than 32767).

    Parameters
    ----------
    path
        The file to write; ``.gz`` is packed.
    array
        ``(*A)`` in the order of `axes`, any values. bool is written as uint8, float16 as float32.
    axes
        Letters of ``TCZYX`` in this order.
    request
        Without an affine, the pixel size makes one.

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
    steps = [request.pixel_size_um.get(a, 1000.0) / 1000.0 for a in "XYZ"]
    matrix = np.diag([*steps, 1.0]) if request.affine is None else np.asarray(request.affine, dtype=np.float64)
    kind = nib.Nifti2Image if max(array.shape) > 32767 else nib.Nifti1Image
    try:
        image = kind(array, matrix, dtype=array.dtype)
    except HeaderDataError as error:
        raise FileError(
            f"{format_path(request.path)}: values of type {array.dtype} in a NIfTI file",
            f"a type that NIfTI holds ({error})",
            "write to a name that ends in .tif or .npy",
        ) from error
    image.header.set_xyzt_units("mm" if request.pixel_size_um or request.affine is not None else "unknown")
    with path.open("wb") as raw:
        if path.suffix.lower() != ".gz":
            image.to_stream(raw)
        else:  # without a time stamp, so that the same image gives the same bytes
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed:
                image.to_stream(packed)
