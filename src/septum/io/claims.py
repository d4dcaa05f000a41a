"""Refuse files: those that cannot be decoded, and those that claim more than their bytes can hold."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from septum.errors import FileError
from septum.io.paths import format_path

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
    text = " ".join(str(why).split()) or type(why).__name__
    return FileError(
        f"{format_path(path)}: the {kind} file is damaged or cut off ({text[:200]})",
        f"a complete {kind} file",
        "copy it again from the original, or save it anew",
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
        sides = " x ".join(str(n) for n in shape)
        raise FileError(
            f"{format_path(path)}: the {kind} file claims {sides} values ({claimed:,} bytes) but holds only "
            f"{length:,} bytes",
            "a file as long as the image it describes",
            "it is cut off or forged: copy it again from the original",
        )
