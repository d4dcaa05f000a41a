"""The table of image formats: one row a format, with all properties that other modules use.

A new format is a row here and a module with its reader (and its writer). A reader is
``open(place, *, axes, labels) -> septum.io.image.StoredImage``; a writer is
``write(path, array, axes, request: septum.io.write.WriteRequest) -> None``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class ImageFormat:
    """Properties of one format.

    Attributes
    ----------
    name
        For messages.
    suffixes
        Suffix of a file to suffix of the result that Septum writes for such a file: results keep the format where it
        is lossless and written, and are PNG otherwise.
    magic
        First bytes of a file, one of these. Two bytes are too weak a proof: then the suffix must agree.
    reader, writer
        ``module:function``, imported at first use; None where the format is not written.
    lossy
        True if stored values differ from those that were saved, so that it holds no labels.
    dtypes
        Types of values that are stored as they are; empty for all that Septum uses.
    planes_only
        True if a file holds one plane, gray or RGB.
    names_axes
        True if files state which axis is which; other files are written in the caller's order of axes.
    by_blocks
        True if Septum writes the format piece by piece, so that a result need not fit into memory.
    folder
        True if an image is a folder.
    remote
        True if an image can be read from a URL.
    """

    name: str
    suffixes: Mapping[str, str]
    magic: tuple[bytes, ...]
    reader: str
    writer: str | None = None
    lossy: bool = False
    dtypes: tuple[str, ...] = ()
    planes_only: bool = False
    names_axes: bool = True
    by_blocks: bool = False
    folder: bool = False
    remote: bool = False

    def load_reader(self) -> Any:
        """Import and return the reader."""
        return _load(self.reader)

    def load_writer(self) -> Any:
        """Import and return the writer of a format that is written."""
        assert self.writer is not None, self.name
        return _load(self.writer)

    def holds(self, dtype: str, axes: str, channels: int = 1) -> bool:
        """Return True if a file keeps values, axes and channels exactly.

        Parameters
        ----------
        dtype
            Name of the type of the values, such as ``"uint16"``.
        axes
            Letters of ``TCZYX`` in this order.
        channels
            Length of ``C``.
        """
        plane = axes == "YX" or (axes == "CYX" and channels in (1, 3))
        return (
            self.writer is not None
            and not self.lossy
            and self.names_axes
            and (not self.dtypes or dtype in self.dtypes)
            and (plane or not self.planes_only)
        )


def _load(place: str) -> Any:
    module, _, function = place.partition(":")
    return getattr(import_module(module), function)


PNG = ImageFormat(
    name="PNG",
    suffixes={".png": ".png"},
    magic=(b"\x89PNG\r\n\x1a\n",),
    reader="septum.io.png:open_png",
    writer="septum.io.png:write_png",
    dtypes=("bool", "uint8", "uint16"),
    planes_only=True,
)
FORMATS = (
    PNG,
    ImageFormat(
        name="JPEG",
        suffixes={".jpg": ".png", ".jpeg": ".png"},
        magic=(b"\xff\xd8\xff",),
        reader="septum.io.png:open_photo",
        lossy=True,
    ),
    ImageFormat(name="BMP", suffixes={".bmp": ".png"}, magic=(b"BM",), reader="septum.io.png:open_photo"),
    ImageFormat(name="GIF", suffixes={".gif": ".png"}, magic=(b"GIF8",), reader="septum.io.png:open_photo"),
    ImageFormat(
        name="TIFF",
        suffixes={".tif": ".tif", ".tiff": ".tif", ".ome.tif": ".ome.tif", ".ome.tiff": ".ome.tif"},
        magic=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        reader="septum.io.tiff:open_tiff",
        writer="septum.io.tiff_write:write_tiff",
        by_blocks=True,
        remote=True,
    ),
    ImageFormat(
        name="NIfTI",
        suffixes={".nii": ".nii", ".nii.gz": ".nii.gz"},
        # The size of the header, 348 or 540, in either byte order; or gzip with its only method.
        magic=(b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c", b"\x1f\x8b\x08"),
        reader="septum.io.nifti:open_nifti",
        writer="septum.io.nifti:write_nifti",
    ),
    ImageFormat(
        name=".npy",
        suffixes={".npy": ".npy"},
        magic=(b"\x93NUMPY",),
        reader="septum.io.npy:open_npy",
        writer="septum.io.npy:write_npy",
        names_axes=False,
    ),
    ImageFormat(
        name="OME-Zarr",
        suffixes={".zarr": ".ome.zarr", ".ome.zarr": ".ome.zarr"},
        magic=(),
        reader="septum.io.ngff:open_zarr",
        writer="septum.io.zarr_write:write_zarr",
        by_blocks=True,
        folder=True,
        remote=True,
    ),
)
_BY_SUFFIX = {suffix: kind for kind in FORMATS for suffix in kind.suffixes}
_LONGEST_FIRST = sorted(_BY_SUFFIX, key=len, reverse=True)
# Suffixes for messages; ".ome.tif" is a ".tif".
SUFFIXES = tuple(suffix for suffix in _BY_SUFFIX if not suffix.startswith(".ome"))
# Suffixes of results, for the choice of a format.
RESULT_SUFFIXES = tuple(dict.fromkeys(written for kind in FORMATS for written in kind.suffixes.values()))


def suffix_of(name: str) -> str:
    """Return the image suffix of a file name in lower case (``".nii.gz"``, ``".ome.tif"``, ``".png"``), or ``""``."""
    name = name.lower()
    return next((s for s in _LONGEST_FIRST if name.endswith(s) and len(name) > len(s)), "")


def result_suffix(suffix: str, *, floats: bool = False) -> str:
    """Return the suffix of the result for an input of `suffix`, of a format that holds floats if `floats`."""
    kind = _BY_SUFFIX.get(suffix)
    written = kind.suffixes[suffix] if kind is not None else suffix
    return ".tif" if floats and kind is not None and _BY_SUFFIX[written].dtypes else written


def format_of(name: str) -> ImageFormat | None:
    """Return the format that a file name ends in; None if it is no image's."""
    return _BY_SUFFIX.get(suffix_of(name))
