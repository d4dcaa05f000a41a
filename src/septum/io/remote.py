"""Files on other machines, by URL: fsspec where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from septum.errors import FileError, SeptumError, UsageError
from septum.io.formats import damaged, format_path
from septum.io.image import Reader
from septum.words import reason_of

_BLOCK = 1 << 18  # bytes that are fetched at once while headers are read
_RUN = 64 << 20  # plain values are fetched from another machine in runs of at most this size, in bytes


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn every error of a protocol on the way to `url` into one that a user understands."""
    try:
        yield
    except SeptumError:
        raise
    except ImportError as error:
        raise UsageError(
            f"{format_path(url)}: reading from URLs needs libraries that are not installed ({error.name or error})",
            "fsspec, and s3fs or aiohttp for the protocol of the URL",
            "install them: pip install 'septum[remote]'",
        ) from error
    except FileNotFoundError as error:
        raise FileError(f"{format_path(url)} does not exist", "an image", "check the address") from error
    except Exception as error:  # every protocol has errors of its own, and they share no parent
        reason = reason_of(error)
        raise FileError(
            f"{format_path(url)}: cannot be fetched ({reason})",
            "an address that this machine can reach and may read",
            "check the address, the network and your rights, then run again",
        ) from error


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path in it.

    Raises
    ------
    UsageError
        If fsspec, or the library of this protocol, is not installed.
    """
    with reaching(url):
        try:
            from fsspec.core import url_to_fs

            fs, path = url_to_fs(url)
        except ValueError as error:
            raise UsageError(
                f"{format_path(url)}: {error}",
                "an address that begins with s3://, https:// or http://",
                "check the address",
            ) from error
    return fs, str(path)


def open_url(url: str) -> tuple[IO[bytes], int]:
    """Open a file of which parts are fetched as they are read; return it with its length in bytes.

    Raises
    ------
    FileError
        If the file cannot be reached, or the server does not hand out parts of files.
    """
    fs, path = filesystem(url)
    with reaching(url):
        info = fs.info(path)
        if info.get("size") is None or not info.get("partial", True):
            raise FileError(
                f"{format_path(url)}: the server does not hand out parts of the file",
                "a server that states lengths and answers range requests",
                "download the file first",
            )
        return fs.open(path, "rb", block_size=_BLOCK), int(info["size"])


def fetch(url: str, *, limit: int) -> bytes | None:
    """Return a small file, None if there is none; raise `FileError` if it is longer than `limit` bytes."""
    fs, path = filesystem(url)
    with reaching(url):
        try:
            size = fs.info(path).get("size")
            if size is not None and size > limit:
                raise too_long(url, size, limit)
            content = bytes(fs.cat_file(path))
        except FileNotFoundError:
            return None
    if len(content) > limit:
        raise too_long(url, len(content), limit)
    return content


def too_long(name: object, size: int, limit: int) -> FileError:
    """Return the error for a description that is longer than any valid one."""
    return FileError(
        f"{format_path(str(name))}: {size:,} bytes of description",
        f"at most {limit:,}",
        "this Zarr is not valid: get it again from the original",
    )


def list_folder(url: str) -> list[str]:
    """Return the URLs of the files and folders in a folder; raise `FileError` if it cannot be listed."""
    fs, path = filesystem(url)
    with reaching(url):
        return [_full(url, str(found)) for found in fs.ls(path, detail=False)]


def glob_urls(url: str) -> list[str]:
    """Return the URLs that match a pattern."""
    fs, path = filesystem(url)
    with reaching(url):
        return [_full(url, str(found)) for found in fs.glob(path)]


def _full(url: str, path: str) -> str:
    """Return a path of the file system of `url` as a URL; some file systems list URLs, others paths."""
    return path if "://" in path else f"{url.partition('://')[0]}://{path.lstrip('/')}"


def rows_reader(url: str, file: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *, offset: int) -> Reader:
    """Return a reader of one block of plain values in a file on another machine, which fetches runs of whole rows.

    Parameters
    ----------
    url, file
        The place, and the opened file with a lock of its own.
    shape, dtype
        Of the array, rows and columns last.
    offset
        Bytes before the first value.

    Raises
    ------
    FileError
        If the file cannot be fetched, or ends too early; by the reader.
    """
    row = shape[-1] * dtype.itemsize
    at_once = max(1, _RUN // row)

    def read(index: tuple[slice, ...]) -> NDArray[Any]:
        out = np.empty([s.stop - s.start for s in index], dtype)
        *leading, rows, columns = index
        for place in np.ndindex(out.shape[:-2]):
            plane = [s.start + p for s, p in zip(leading, place, strict=True)]
            first = int(np.ravel_multi_index(plane, shape[:-2])) * shape[-2] if plane else 0
            for start in range(rows.start, rows.stop, at_once):
                stop = min(start + at_once, rows.stop)
                with reaching(url), file.lock:
                    file.seek(offset + (first + start) * row)
                    stored = file.read((stop - start) * row)
                if len(stored) < (stop - start) * row:
                    raise damaged(url, "TIFF", "the last values are missing")
                values = np.frombuffer(stored, dtype).reshape(stop - start, shape[-1])
                out[place][start - rows.start : stop - rows.start] = values[:, columns]
        return out

    return read
