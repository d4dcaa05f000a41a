"""List, open and write images of any format.

The first bytes of a file decide the format that is read; the suffix of its name decides the format that is written.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from septum.axes import canonical
from septum.errors import FileError, SeptumError, UsageError
from septum.folders import below, check_spelling, leads_nowhere
from septum.io.atomic import whole_file, whole_folder
from septum.io.formats import (
    FORMATS,
    RESULT_SUFFIXES,
    SUFFIXES,
    ImageFormat,
    damaged,
    format_of,
    format_path,
    image_suffix,
    is_image,
    is_image_file,
    is_zarr,
    local_path,
    natural_key,
    split_scene,
    suffix_of,
    url_of,
)
from septum.io.image import Affine, Image, StoredImage
from septum.io.remote import glob_urls, list_folder
from septum.io.selection import EVERYTHING, Selection, check_axes, select
from septum.settings import MaskKind


def open_image(
    location: str | Path, *, axes: str | None = None, labels: bool = False, selection: Selection = EVERYTHING
) -> Image:
    """Open an image of any format; its pixels are read by indexing.

    OME-Zarr, TIFF, .npy and plain NIfTI are read piece by piece; images of other formats are read whole at once.

    Parameters
    ----------
    location
        A file, a folder of OME-Zarr, or a URL of OME-Zarr or TIFF; or ``a.png`` for the channels ``a_0000.png``,
        ``a_0001.png``, ... of nnU-Net.
    axes
        Names of the dimensions of the file, one letter of ``TCZYX`` each, if the file does not state them right.
    labels
        True if the image is a mask: a palette gives indices, never colors.
    selection
        Channels, and the level of a pyramid, to read.

    Raises
    ------
    FileError
        If the file is missing, empty, damaged, truncated, forged, or no image.
    UsageError
        If `axes` do not fit, a channel or a level is not there, or a library is missing.
    """
    axes = check_axes(axes)
    place: Path | str = url_of(location) or local_path(location)
    stored = _open_stored(place, axes, labels)
    try:
        stored = select(stored, selection, place)
        again = partial(open_image, place, axes=axes, labels=labels, selection=selection)
        image = Image(stored, place, named=axes is not None, reopen=again)
        image.picked = selection.channels
        return image
    except BaseException:
        stored.close()
        raise


def _open_stored(place: Path | str, axes: str | None, labels: bool) -> StoredImage:
    if isinstance(place, Path) and not place.exists():
        from septum.io.nnunet import channel_files, open_channels

        if files := channel_files(place):
            inner = None if axes is None else axes.replace("C", "")
            return open_channels(files, lambda path: _open_stored(path, inner, labels))
    stored: StoredImage = find_format(place).load_reader()(place, axes=axes, labels=labels)
    return stored


def read_image(
    location: str | Path, *, axes: str | None = None, labels: bool = False, selection: Selection = EVERYTHING
) -> Image:
    """Read an image into memory: `open_image`, then everything; see there for parameters and errors."""
    return open_image(location, axes=axes, labels=labels, selection=selection).load()


def read_mask(location: str | Path, *, axes: str | None = None, sides: tuple[int, int] | None = None) -> Image:
    """Read a mask into memory, or a prediction.

    Parameters
    ----------
    location
        See `open_image`.
    axes
        Axes of its image, if the files do not state them right; a mask of one dimension fewer has no channels.
    sides
        Y and X sides of its image: of a mask in several sizes the level of this size is read. None: the largest.

    Raises
    ------
    FileError, UsageError
        As `open_image`; if the number of dimensions does not fit.
    """
    axes = check_axes(axes)
    if axes is not None and "C" in axes:
        with open_image(location, labels=True) as stored:
            if len(stored.file_axes) == len(axes) - 1:
                axes = axes.replace("C", "")
    selection = EVERYTHING
    if sides is not None:
        with open_image(location, axes=axes, labels=True) as stored:
            level = stored.level_sides.index(sides) if sides in stored.level_sides else 0
            selection = Selection(level=level)
    return read_image(location, axes=axes, labels=True, selection=selection)


def find_format(location: Path | str) -> ImageFormat:
    """Find the format of a file or folder by its first bytes.

    Parameters
    ----------
    location
        A path, or a URL as `str`; the name of a URL decides.

    Raises
    ------
    FileError
        If it is missing, empty, cannot be read, or is no image.
    """
    if isinstance(location, str):
        return _remote_format(location)
    if is_zarr(location):
        return next(kind for kind in FORMATS if kind.folder)
    place = split_scene(location)[0]
    try:
        with place.open("rb") as file:
            head = file.read(64)
    except IsADirectoryError as error:
        raise FileError(f"{format_path(location)}: is a folder", "an image", "name a file in it") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        if leads_nowhere(place):
            todo = "fetch it, as with `git annex get` or `datalad get`"
            raise FileError(f"{format_path(location)}: a link that leads nowhere", "the image itself", todo) from error
        raise FileError(f"{format_path(location)} does not exist", "an image", "check the name") from error
    except OSError as error:
        given = f"{format_path(location)}: cannot be read ({error.strerror})"
        raise FileError(given, "a file you may read", "check its rights") from error
    if not head:
        given = f"{format_path(location)}: the file is empty (0 bytes)"
        raise FileError(given, "an image", "copy it again from the original")
    suffix = image_suffix(location)
    named = format_of(location.name)
    if named is not None and named.by_suffix:
        return named
    for kind in FORMATS:
        if any(head.startswith(magic) and (len(magic) > 2 or suffix in kind.suffixes) for magic in kind.magic):
            return kind
    raise _no_image(location, head)


def _remote_format(url: str) -> ImageFormat:
    kind = format_of(url.partition("?")[0].partition("#")[0].rstrip("/"))
    if kind is None:  # an image inside: URL/labels/cells
        return next(kind for kind in FORMATS if kind.folder)
    if kind.remote:
        return kind
    names = " or ".join(k.name for k in FORMATS if k.remote)
    raise FileError(f"{format_path(url)}: of this format only files on this machine are read", names, "copy it here")


def _no_image(path: Path, head: bytes) -> FileError:
    kind = format_of(path.name)
    pointers = {b"version https://git-lfs": ("Git LFS", "lfs pull"), b"/annex/objects/": ("git-annex", "annex get")}
    for magic, (program, command) in pointers.items():
        if head.startswith(magic):
            given = f"{format_path(path)}: a {program} pointer, not the image"
            return FileError(given, "the image itself", f"run: git {command}")
    if kind is not None and any(head.startswith(magic[:2]) for magic in kind.magic):
        return damaged(path, kind.name, "its first bytes are wrong")
    text = all(b in b"\t\n\r" or 32 <= b < 127 for b in head[:64])
    begin = f"text that begins {head[:24].decode('ascii')!r}" if text else f"bytes that begin {head[:8].hex(' ')}"
    *names, last = [k.name for k in FORMATS]
    return FileError(
        f"{format_path(path)}: not an image: {begin}",
        f"{', '.join(names)} or {last}",
        "export the image in one of these formats",
    )


def list_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Return the images that files, folders and patterns name, in natural order (``t2`` before ``t10``).

    Of a file that holds several images each is one, ``file.czi#1``, ``file.czi#2``; a single one can be named so.

    Parameters
    ----------
    inputs
        Files, folders (the images directly inside, or those in its subfolders if there are none), or patterns with
        ``*``, ``?``, ``[...]`` and ``**``. Hidden files are left out of folders and patterns. A file named
        twice is listed once. A folder of Zarr is an image. URLs (``s3://``, ``https://``) name images, folders and
        patterns too; they are listed as paths, from which
        `septum.io.formats.url_of` restores the URL.

    Raises
    ------
    UsageError
        If an input does not exist, holds no image, or is a file of another kind.
    """
    images: dict[Path, None] = {}
    for given in inputs:
        try:
            matches = _matches(given)
        except OSError as error:
            raise UsageError(
                f"{format_path(given)}: {error.strerror}", "images that you may read", "check the name and the rights"
            ) from error
        images.update(dict.fromkeys(sorted(matches, key=natural_key)))
    return list(images)


def _matches(given: str | Path) -> list[Path]:
    """Return the images that one file, folder, pattern or URL names."""
    url = url_of(given)
    if url is not None:
        return _remote_matches(url)
    path = local_path(given)
    if is_zarr(path):
        matches = [path]
    elif path.is_dir():
        matches = with_scenes(p for p in path.iterdir() if is_image_file(p))
        matches = matches or images_below(path)
    elif path.exists():
        matches = with_scenes([path] if is_image(path) or _begins_as_image(path) else [])
    elif is_image_file(path):  # one image of a file that holds several
        matches = [path]
    elif any(c in str(path) for c in "*?["):
        matches = [Path(p) for p in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - absolute patterns too
        matches = with_scenes(p for p in matches if is_image_file(p))
    else:
        raise UsageError(f"{format_path(path)} does not exist", "an image, a folder or a pattern", check_spelling(path))
    return matches or _no_images(path, folder=path.is_dir())


def images_below(folder: Path, unread: list[Path] | None = None) -> list[Path]:
    """Return the images in a folder and its subfolders, in natural order, without hidden ones; see `below`."""
    found = below(folder, is_zarr, unread=unread)
    return sorted(with_scenes(p for p in found if is_image_file(p)), key=natural_key)


def images_in(folder: Path) -> list[Path]:
    """Return the images directly in a folder, in natural order, without hidden ones."""
    inside = (p for p in folder.iterdir() if is_image_file(p) and not p.name.startswith("."))
    return sorted(with_scenes(inside), key=natural_key)


def with_scenes(files: Iterable[Path]) -> list[Path]:
    """Return image files; instead of one that holds several images, each of them: ``a.czi#1``, ``a.czi#2``.

    A file that cannot be opened stays: its error is raised where it is read.
    """
    found: list[Path] = []
    for path in files:
        kind, count = format_of(path.name), 1
        if kind is not None and kind.scenes is not None and split_scene(path)[1] is None:
            with suppress(SeptumError):
                count = kind.count_scenes(path)
        several = [path.with_name(f"{path.name}#{number}") for number in range(1, count + 1)]
        found += several if count > 1 else [path]
    return found


def _begins_as_image(path: Path) -> bool:
    """Return True if a file whose suffix is none of an image begins as one: a TIFF named ``a.dat``."""
    try:
        return path.is_file() and find_format(path) is not None
    except SeptumError:
        return False


def _remote_matches(url: str) -> list[Path]:
    """Return images by URL: a named one unseen, of a folder or pattern those that lie there."""
    if suffix_of(url):
        if not any(c in url for c in "*["):  # a question mark begins the query of a URL
            return [Path(url)]
        matches = [Path(found) for found in glob_urls(url)]
    elif any((kind := format_of(part)) is not None and kind.folder for part in url.split("/")):
        return [Path(url)]  # an image inside, such as .../labels/cells
    else:
        matches = [Path(found) for found in list_folder(url)]
    matches = [p for p in matches if is_image(p) and not p.name.startswith(".")]
    return matches or _no_images(Path(url), folder=True)


def _no_images(path: Path, *, folder: bool) -> list[Path]:
    raise UsageError(
        f"{format_path(path)}: {'a folder without images' if folder else 'not an image'}",
        "files that end in " + " ".join(SUFFIXES),
        "name a folder of images, or save them in one of these formats",
    )


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
    labels, kind
        True if the values are ids or classes; which of the two, if that is known.
    """

    path: Path
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    affine: Affine | None = None
    labels: bool = False
    kind: MaskKind | None = None


def write_image(
    path: Path,
    array: ArrayLike,
    *,
    axes: str,
    pixel_size_um: Mapping[str, float] | None = None,
    affine: Affine | None = None,
    labels: bool | MaskKind = False,
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
        True if the values are ids or classes: OME-Zarr states it, and its coarser levels never mix ids. Which of the
        two, if that is known: TIFF states it (`septum.io.tiff.stated_kind`).

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
            f"{format_path(path)}: files that end in {image_suffix(path) or path.suffix or 'nothing'} are not written",
            "a name that ends in " + " ".join(RESULT_SUFFIXES),
            "give the file such a name",
        )
    if url_of(path) is not None:
        given = f"{format_path(path)}: cannot write to URLs"
        raise UsageError(given, "a path on this machine", "copy the result there")
    assert len(axes) == array.ndim, f"axes {axes} for shape {array.shape}"
    _, permutation = canonical(axes)
    if kind.names_axes:
        axes = "".join(axes[i] for i in permutation)
        array = array.transpose(permutation)
        if "C" in axes and array.shape[axes.index("C")] == 1:
            array, axes = array.squeeze(axes.index("C")), axes.replace("C", "")
    known = labels if isinstance(labels, str) else None
    request = WriteRequest(path, dict(pixel_size_um or {}), affine, bool(labels), known)
    with (whole_folder if kind.folder else whole_file)(path) as temporary:
        kind.load_writer()(temporary, array, axes, request)
