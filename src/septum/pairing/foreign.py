"""Files that hold images or annotations, but in a form that Septum does not read: what they are, and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from septum.folders import below
from septum.io.annotations.formats import VGG_WORDS, drawn_format
from septum.io.formats import format_path, image_stem, is_image, is_zarr
from septum.words import list_some, pluralize

_PICTURES = "PNG or TIFF"
_VOLUMES = "NIfTI"
_MICROSCOPES = "OME-TIFF (in Fiji: File > Import > Bio-Formats)"
_ARRAYS = "TIFF or .npy"
_SUFFIXES = {
    _PICTURES: """
        .webp .heic .heif .avif .jxl .jp2 .j2k .jpx .tga .ppm .pgm .pbm .pnm .psd .xcf .exr
        .cr2 .cr3 .nef .arw .dng .raf .orf .rw2
    """,
    _VOLUMES: ".dcm .dicom .ima .hdr .mgz .mgh .mnc",
    _MICROSCOPES: """
        .oib .oif .oir .vsi .ims .zvi .dv .r3d .mvd2 .sld .sldy .flex
        .dm3 .dm4 .ser .mrc .rec
    """,
    _ARRAYS: ".h5 .hdf5 .npz .mat .fits .fit .raw",
}
_UNREAD = {suffix: way for way, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
_HEAD = 1 << 16  # bytes of a text that are searched for the words of a program


@dataclass(frozen=True)
class ForeignFile:
    """A file that holds an image or annotations in a form that is not read.

    Attributes
    ----------
    path
        The file.
    kind
        Its format or program: ``".webp"``, ``"YOLO"``.
    todo
        The way out, as a phrase.
    """

    path: Path
    kind: str
    todo: str


def unread_images(folder: Path) -> tuple[ForeignFile, ...]:
    """Return the files below a folder that are images of formats that are not read, in the order of their names."""
    found = ((path, path.suffix.casefold()) for path in sorted(below(folder, is_zarr)) if not is_image(path))
    return tuple(ForeignFile(p, end, f"save {end} files as {_UNREAD[end]}") for p, end in found if end in _UNREAD)


def drawn_objects(folder: Path) -> tuple[ForeignFile, ...]:
    """Return the files in a folder with drawn objects that are not read, in the order of their names."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return tuple(found for path in files if (found := _annotation(path)) is not None)


def _annotation(path: Path) -> ForeignFile | None:
    suffix = path.suffix.casefold()
    if suffix in (".json", ".xml", ".txt") and drawn_format(path) is None:
        with suppress(OSError), path.open("rb") as file:
            return _text(path, suffix, file.read(_HEAD).decode("utf-8", "replace"))
    return None


# By suffix: words that a text must hold, the program, and the way out. The first that fits counts.
_TEXTS = (
    ((".json",), VGG_WORDS, "VGG Image Annotator", "write masks of its regions"),
    ((".xml",), ("<annotation>", "<object>"), "Pascal VOC", "export masks: boxes do not show outlines"),
    ((".xml",), ("<Annotation", "Coordinate"), "ASAP", "export masks from ASAP"),
    ((".xml",), ("<Annotation", "Vert"), "ImageScope", "write masks of its regions"),
)


def _text(path: Path, suffix: str, text: str) -> ForeignFile | None:
    for suffixes, words, kind, todo in _TEXTS:
        if suffix in suffixes and all(word in text for word in words):
            return ForeignFile(path, kind, todo)
    if suffix == ".txt" and _is_yolo(text):
        return ForeignFile(path, "YOLO", "write masks of its polygons")
    return None


def _is_yolo(text: str) -> bool:
    """Return True if each line is a class and an even number of coordinates from 0 to 1."""
    lines = [line.split() for line in text.splitlines()[:20] if line.strip()]
    try:
        rows = [(int(line[0]), [float(word) for word in line[1:]]) for line in lines]
    except ValueError:
        return False
    return bool(rows) and all(len(row) >= 4 and len(row) % 2 == 0 and all(0 <= v <= 1 for v in row) for _, row in rows)


def describe(files: Sequence[ForeignFile]) -> str:
    """Return the numbers of files by kind: ``"4 .webp files, 1 YOLO file (a.txt)"``."""
    counts: dict[str, list[str]] = {}
    for file in files:
        counts.setdefault(file.kind, []).append(format_path(file.path.name))
    parts = []
    for kind, names in counts.items():
        parts.append(f"{pluralize(len(names), f'{kind} file')} ({list_some(names, 1)})")
    return ", ".join(parts)


def way_out(files: Sequence[ForeignFile]) -> str:
    """Return what to do about the files, each kind once."""
    return "; ".join(dict.fromkeys(file.todo for file in files))


def annotations_beside(images: Iterable[Path]) -> dict[Path, ForeignFile]:
    """Return, by image, the annotations beside it: ``a.txt`` of YOLO beside ``a.tif``."""
    images = list(images)
    by_stem = {
        (file.path.parent, file.path.stem): file
        for folder in dict.fromkeys(path.parent for path in images)
        for file in drawn_objects(folder)
    }
    beside = {path: by_stem.get((path.parent, image_stem(path))) for path in images}
    return {path: file for path, file in beside.items() if file is not None}
