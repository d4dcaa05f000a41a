"""Files on other machines: parts of them by URL, through fsspec where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from septum.errors import FileError, SeptumError, UsageError
from septum.io.paths import format_path

_BLOCK = 1 << 18  # headers are read in pieces of this size


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn whatever goes wrong on the way to `url` into an error in words."""
    try:
        yield
    except SeptumError:
        raise
    except ImportError as error:
        raise UsageError(
            f"{format_path(url)}: reading from URLs needs libraries that are not installed ({error.name or error})",
            "fsspec, and s3fs or aiohttp for what it is read from",
            "install them: pip install septum[remote]",
        ) from error
    except FileNotFoundError as error:
        raise FileError(f"{format_path(url)} does not exist", "an image", "check the address") from error
    except Exception as error:  # every protocol has errors of its own, and they share no parent
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileError(
            f"{format_path(url)}: cannot be fetched ({reason[:200]})",
            "an address that this machine can reach and may read",
            "check the address, the network and your rights, then run again",
        ) from error


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path in it.

    Raises
    ------
    UsageError
        If fsspec, or what it needs for this protocol, is not installed.
    """
    with reaching(url):
        try:
            from fsspec.core import url_to_fs

            fs, path = url_to_fs(url)
        except ValueError as error:
            raise UsageError(
                f"{format_path(url)}: {error}", "s3://, https:// or http://", "check the address"
            ) from error
    return fs, str(path)


class RemoteFile:
    """Parts of one file on another machine; safe from several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._path = filesystem(url)
        with reaching(url):
            info = self._fs.info(self._path)
            if info.get("size") is None:
                raise FileError(
                    f"{format_path(url)}: the server does not say how long the file is",
                    "a server that hands out parts of files",
                    "download the file first",
                )
        self.length = int(info["size"])

    def read_at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`; fewer at the end of the file."""
        with reaching(self.url):
            found = bytes(self._fs.cat_file(self._path, start=offset, end=min(offset + count, self.length)))
        if len(found) > count:
            raise FileError(
                f"{format_path(self.url)}: the server sends the whole file where a part was asked for",
                "a server that hands out parts of files (range requests)",
                "download the file first",
            )
        return found

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """Open the file for a library that reads headers here and there."""
        with reaching(self.url):
            file = self._fs.open(self._path, "rb", block_size=_BLOCK)
            with file:
                yield file


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
    """Return the error for a description that is longer than any sound one."""
    return FileError(
        f"{format_path(str(name))}: {size:,} bytes of description",
        f"at most {limit:,}",
        "this is no sound Zarr: get it again from where it came from",
    )


def list_folder(url: str) -> list[str]:
    """Return the URLs of what lies in a folder; raise `FileError` if it cannot be listed."""
    fs, path = filesystem(url)
    with reaching(url):
        return [_full(url, str(found)) for found in fs.ls(path, detail=False)]


def glob_urls(url: str) -> list[str]:
    """Return the URLs that fit a pattern."""
    fs, path = filesystem(url)
    with reaching(url):
        return [_full(url, str(found)) for found in fs.glob(path)]


def _full(url: str, path: str) -> str:
    """Return a path of the file system of `url` as a URL; some file systems give URLs, some paths."""
    return path if "://" in path else f"{url.partition('://')[0]}://{path.lstrip('/')}"
