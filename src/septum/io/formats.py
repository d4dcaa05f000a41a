"""The table of image formats, names of image files, and refusals of files that hold no whole image.

The table has one row a format, with all properties that other modules use. A new format is a row here and a
module with its reader (and its writer). A reader is ``open(place, *, axes, labels) ->
septum.io.image.StoredImage``; a writer is ``write(path, array, axes, request: septum.io.files.WriteRequest) -> None``.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from septum.errors import FileError
from septum.folders import leads_nowhere
from septum.words import reason_of


@dataclass(frozen=True)
class ImageFormat:
    """Properties of one format.

    Attributes
    ----------
    name
        For messages.
    suffixes
        Maps the suffix of an input to the suffix of its result. The format is kept if it is lossless and Septum writes
        it; otherwise the result is PNG.
    magic
        First bytes of a file, one of these; empty for folders. Two bytes alone can be chance: then the suffix must
        match as well.
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
        True if Septum writes the format piece by piece, so that a result need not fit into memory; then
        `septum.prediction.in_blocks.deliver` must know how.
    folder
        True if an image is a folder.
    remote
        True if an image can be read from a URL.
    by_suffix
        True if the first bytes are those of another format, so that the suffix decides.
    scenes
        ``module:function`` that counts the images in a file: ``file.czi#1``, ``file.czi#2``; None if it holds one.
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
    by_suffix: bool = False
    scenes: str | None = None

    def load_reader(self) -> Any:
        """Import and return the reader."""
        return _load(self.reader)

    def count_scenes(self, path: Path) -> int:
        """Return the number of images in a file of a format that holds several."""
        return 1 if self.scenes is None else int(_load(self.scenes)(path))

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


def _microscope(name: str, magic: tuple[bytes, ...], count: str) -> ImageFormat:
    """Return the row of a format whose files hold several images, and whose module is named after it."""
    place = f"septum.io.microscopes.{name.lower()}:"
    return ImageFormat(name, {f".{name.lower()}": ".tif"}, magic, f"{place}open_{name.lower()}", scenes=place + count)


PNG = ImageFormat(
    name="PNG",
    suffixes={".png": ".png"},
    magic=(b"\x89PNG\r\n\x1a\n",),
    reader="septum.io.png:open_png",
    writer="septum.io.png:write_png",
    dtypes=("bool", "uint8", "uint16"),
    planes_only=True,
)
_NRRD, _META = "septum.io.volumes.nrrd:open_nrrd", "septum.io.volumes.mha:open_mha"
_META_WORDS = (b"ObjectType", b"NDims", b"Comment")  # with which the header of a MetaImage begins
FORMATS = (
    PNG,
    ImageFormat(
        name="JPEG",
        suffixes={".jpg": ".png", ".jpeg": ".png", ".jfif": ".png"},
        magic=(b"\xff\xd8\xff",),
        reader="septum.io.png:open_photo",
        lossy=True,
    ),
    ImageFormat(name="BMP", suffixes={".bmp": ".png"}, magic=(b"BM",), reader="septum.io.png:open_photo"),
    ImageFormat(name="GIF", suffixes={".gif": ".png"}, magic=(b"GIF8",), reader="septum.io.png:open_photo"),
    ImageFormat(
        name="TIFF",
        suffixes={
            **dict.fromkeys((".tif", ".tiff", ".btf"), ".tif"),
            **dict.fromkeys((".ome.tif", ".ome.tiff", ".ome.btf"), ".ome.tif"),
            **dict.fromkeys((".qptiff", ".lsm", ".stk"), ".tif"),  # of microscopes
        },
        magic=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        reader="septum.io.tiff:open_tiff",
        writer="septum.io.tiff_write:write_tiff",
        by_blocks=True,
        remote=True,
    ),
    ImageFormat(
        name="slide",
        suffixes=dict.fromkeys((".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide"), ".tif"),
        magic=(),
        reader="septum.io.microscopes.slide:open_slide",
        by_suffix=True,
        remote=True,
    ),
    _microscope("CZI", (b"ZISRAWFILE",), "count_scenes"),
    _microscope("ND2", (b"\xda\xce\xbe\x0a", b"\0\0\0\x0cjP  "), "count_positions"),
    _microscope("LIF", (b"\x70\0\0\0",), "count_images"),
    ImageFormat(name="NRRD", suffixes=dict.fromkeys((".nrrd", ".nhdr"), ".tif"), magic=(b"NRRD00",), reader=_NRRD),
    ImageFormat(name="MetaImage", suffixes=dict.fromkeys((".mha", ".mhd"), ".tif"), magic=_META_WORDS, reader=_META),
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
SUFFIXES = tuple(suffix for suffix in _BY_SUFFIX if not suffix.startswith(".ome"))  # for messages
RESULT_SUFFIXES = tuple(dict.fromkeys(written for kind in FORMATS for written in kind.suffixes.values()))


@lru_cache(maxsize=1 << 18)  # pairing asks for the suffix of each name some twenty times
def suffix_of(name: str) -> str:
    """Return the image suffix of a file name in lower case (``".nii.gz"``, ``".ome.tif"``, ``".png"``), or ``""``."""
    name = name.lower()
    found = next((s for s in sorted(_BY_SUFFIX, key=len, reverse=True) if name.endswith(s) and len(name) > len(s)), "")
    if not found and (scene := _SCENE.fullmatch(name)) is not None:
        kind = format_of(scene[1])
        return suffix_of(scene[1]) + scene[2] if kind is not None and kind.scenes is not None else ""
    return found


def split_scene(path: Path) -> tuple[Path, int | None]:
    """Return the file of a path, and the number of the image in it, from 1: 2 for ``file.czi#2``; None for a file."""
    scene = _SCENE.fullmatch(path.name)
    if scene is None or not suffix_of(path.name).endswith(scene[2]) or path.exists():
        return path, None
    return path.with_name(scene[1]), int(scene[2][1:])


def result_suffix(suffix: str, *, floats: bool = False) -> str:
    """Return the suffix of the result for an input of `suffix`, of a format that holds floats if `floats`."""
    suffix = suffix.partition("#")[0]
    kind = _BY_SUFFIX.get(suffix)
    written = kind.suffixes[suffix] if kind is not None else suffix or ".tif"
    return ".tif" if floats and kind is not None and _BY_SUFFIX[written].dtypes else written


def format_of(name: str) -> ImageFormat | None:
    """Return the format that a file name ends in; None if it is no image's."""
    return _BY_SUFFIX.get(suffix_of(name).partition("#")[0])


# The name of one image of a file that holds several.
_SCENE = re.compile(r"(.+)(#[1-9]\d*)", re.DOTALL)
# Two letters at least: one letter is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")
_ZARR_DOCUMENTS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


def url_of(location: Path | str) -> str | None:
    """Return the URL that `location` is, None if it is a path on this machine.

    A URL may travel as a `Path`, which merges its slashes: ``Path("s3://bucket/a.zarr")`` reads ``s3:/bucket/a.zarr``.
    No folder here is called ``s3:``, so the URL can be restored. ``file://`` is a path here (on Windows with a drive).
    """
    text = location.as_posix() if isinstance(location, Path) else location
    match = _URL.match(text)
    if match is None or match[1].lower() == "file":
        return None
    return f"{match[1].lower()}://{text[match.end() :]}"


def local_path(location: Path | str) -> Path:
    """Return the path on this machine that `location` is; it must not be a URL of another machine."""
    text = location.as_posix() if isinstance(location, Path) else location
    match = _URL.match(text)
    return Path(location) if match is None else Path(("" if os.name == "nt" else "/") + text[match.end() :])


def is_image(path: Path) -> bool:
    """Return True if the name of `path` ends as that of an image that Septum reads; the file is not opened."""
    return bool(image_suffix(path))


def is_zarr(path: Path) -> bool:
    """Return True if `path` is a folder of Zarr: an image or a group. One that may not be read is none."""
    named = (kind := format_of(path.name)) is not None and kind.folder
    return path.is_dir() and (named or any(os.path.isfile(path / name) for name in _ZARR_DOCUMENTS))  # noqa: PTH113


def is_image_file(path: Path) -> bool:
    """Return True if `path` exists and is named as an image: a file, or a folder of Zarr.

    A link that leads nowhere is one, so that the image is named as one that cannot be read. Hidden files are none, nor
    are pictures of results (``a.overlay.png``) and files that Cellpose keeps beside an image (``a_seg.npy`` of Python
    objects, and ``a_flows.tif`` beside ``a.png``).
    """
    kind = format_of(path.name)
    if kind is None or path.name.startswith(".") or _is_note(path):
        return False
    place = split_scene(path)[0]
    return (place.is_dir() if kind.folder else place.is_file()) or leads_nowhere(place)


def _is_note(path: Path) -> bool:
    name = path.name.casefold()
    if name.endswith(".overlay.png"):
        return True
    if name.endswith("_seg.npy") and path.is_file():
        with suppress(OSError), path.open("rb") as file:
            return b"'|O'" in file.read(128)  # the header of an array of objects
    for ending in ("_flows.tif", "_flows.tiff"):
        if name.endswith(ending):
            stem = path.name[: -len(ending)]
            return any(path.with_name(stem + s).is_file() for suffix in _BY_SUFFIX for s in (suffix, suffix.upper()))
    return False


def image_suffix(path: Path) -> str:
    """Return the image suffix of `path` in lower case (``".nii.gz"``, ``".ome.tif"``, ``".png"``), or ``""``."""
    return suffix_of(path.name)


def image_stem(path: Path) -> str:
    """Return the name of `path` without its image suffix: ``"a.b.nii.gz"`` gives ``"a.b"``."""
    suffix = image_suffix(path)
    return path.name[: -len(suffix)] + "".join(suffix.partition("#")[1:]) if suffix else path.stem


def natural_key(path: Path | str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a key that sorts ``t2`` before ``t10``; names that differ only in case or zeros keep a fixed order."""
    text = str(path)
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p.casefold()) for p in parts if p), text


def format_path(path: Path | str) -> str:
    """Return `path` for a message: as it is, or quoted and escaped if it holds line breaks or the like."""
    text = url_of(path) or str(path)
    return text if text.isprintable() else ascii(text)


# Errors that decoders raise for damaged bytes.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    struct.error,
    zlib.error,
)

# The most bytes that one byte of a file can become.
STORED = 1
DEFLATE = 1100  # 258 bytes from two bits
LZW = 3000
UNBOUNDED = 200_000  # run lengths of zstd, JPEG 2000, fax: the formats set no limit, so Septum sets a generous one
_SMALL = 1 << 20  # a megabyte harms no machine


def damaged(path: Path | str, kind: str, why: object) -> FileError:
    """Return the error for a file of `kind` whose bytes cannot be decoded."""
    if isinstance(why, MemoryError):
        return FileError(
            f"{format_path(path)}: the image does not fit into the memory of this machine",
            "an image that fits",
            "cut it into parts, or use a machine with more memory",
        )
    return FileError(
        f"{format_path(path)}: the {kind} file is damaged or cut off ({reason_of(why)})",
        f"a complete {kind} file",
        "copy it again from the original, or save it again",
    )


def check_memory(path: Path | str, needed: int) -> None:
    """Raise `FileError` if an image of `needed` bytes does not fit into the free memory."""
    import psutil

    if needed > psutil.virtual_memory().available:
        raise damaged(path, "image", MemoryError())


def check_claim(path: Path | str, kind: str, *, shape: tuple[int, ...], claimed: int, length: int, ratio: int) -> None:
    """Refuse a file that claims more pixels than its bytes can hold, before any memory is taken.

    Parameters
    ----------
    path, kind
        File and name of its format, for the message.
    shape
        Shape that the file states.
    claimed
        Bytes of the decoded image.
    length
        Bytes of the encoded image in the file.
    ratio
        The most bytes that one encoded byte can become: 1 if nothing is compressed.

    Raises
    ------
    FileError
        If `length` bytes cannot become `claimed` bytes.
    """
    if claimed > length * ratio + (_SMALL if ratio > STORED else 0):
        sides = " x ".join(map(str, shape))
        given = f"the {kind} file claims {sides} values ({claimed:,} bytes) but holds only {length:,} bytes"
        todo = "it is cut off or forged: copy it again from the original"
        raise FileError(f"{format_path(path)}: {given}", "a file as long as the image it describes", todo)
