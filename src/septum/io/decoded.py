"""What every reader hands back, and the two ways in which a file is refused: damaged, or claiming too much."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from septum.errors import FileError
from septum.io.paths import format_path

Affine = tuple[tuple[float, ...], ...]

# Decoders meet damaged bytes with whatever comes to hand; these are what they were seen to raise.
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
UNBOUNDED = 200_000  # run lengths of zstd, JPEG 2000, fax: no limit of their own, so a generous one of ours
_SMALL = 1 << 20  # nobody is harmed by a megabyte


@dataclass(frozen=True)
class Decoded:
    """An array as a file holds it.

    Attributes
    ----------
    array
        Values in their own dtype, dimensions in the order of `axes`.
    axes
        One letter of ``TCZYX`` per dimension, in the order of the file.
    pixel_size_um
        Micrometers per pixel by axis; empty if unknown.
    affine
        4 x 4, index (x, y, z, 1) to scanner millimeters; NIfTI only.
    """

    array: NDArray[Any]
    axes: str
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    affine: Affine | None = None


def damaged(path: Path | str, kind: str, why: object) -> FileError:
    """Return the error for a file of `kind` whose bytes cannot be decoded."""
    if isinstance(why, MemoryError):
        return FileError(
            f"{format_path(path)}: the image does not fit into the memory of this machine",
            "an image that fits",
            "cut it into parts, or use a machine with more memory",
        )
    text = " ".join(str(why).split()) or type(why).__name__
    return FileError(
        f"{format_path(path)}: the {kind} file is damaged or cut off ({text[:200]})",
        f"a complete {kind} file",
        "copy it again from where it came from, or save it anew",
    )


def check_memory(path: Path | str, needed: int) -> None:
    """Raise `FileError` if an image of `needed` bytes does not fit into the memory that is free."""
    import psutil

    if needed > psutil.virtual_memory().available:
        raise damaged(path, "image", MemoryError())


def check_claim(path: Path | str, kind: str, *, shape: tuple[int, ...], claimed: int, length: int, ratio: int) -> None:
    """Refuse a file that claims more pixels than its bytes can hold, before any memory is taken.

    Parameters
    ----------
    path, kind
        For the message.
    shape
        What the file says it holds.
    claimed
        Bytes of the decoded image.
    length
        Bytes of the encoded image that are really there.
    ratio
        The most bytes that one encoded byte can become: 1 if nothing is compressed.

    Raises
    ------
    FileError
        If ``claimed`` is more than ``length`` can become.
    """
    if claimed > length * ratio + (_SMALL if ratio > STORED else 0):
        sides = " x ".join(str(n) for n in shape)
        raise FileError(
            f"{format_path(path)}: the {kind} file claims {sides} values ({claimed:,} bytes) but holds only "
            f"{length:,} bytes",
            "a file as long as the image it describes",
            "it is cut off or forged: copy it again from where it came from",
        )
