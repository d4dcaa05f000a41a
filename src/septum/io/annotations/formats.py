"""The table of formats of drawn objects: how a file is recognized, and which module reads it.

The objects of one image of a file that holds several (COCO, CVAT) have the place ``FILE#KEY``, in which the key is the
name of the image; see `read_drawings`.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from septum.io.annotations.drawing import Drawing, refuse
from septum.io.annotations.texts import text
from septum.io.formats import DAMAGE, image_stem, is_image, is_image_file

_BLOCK = 1 << 16  # bytes of a text that are searched for the words of a program at once
_OVERLAP = 256  # bytes that are searched twice: a word, and the beginning of its value behind white space
_STRINGS = ('"imagePath"', '"shape_type"', '"file_name"')  # words of JSON whose value is a string
VGG_WORDS = ('"regions"', '"shape_attributes"')  # of the VGG Image Annotator, whose files are not read
_LONGEST_KEY = 100  # bytes: a place is a path, whose names may not be of any length


@dataclass(frozen=True)
class DrawnFormat:
    """Properties of one format of drawn objects.

    Attributes
    ----------
    name
        Program or format, for messages.
    suffixes
        Ends of file names in lower case.
    words
        Sets of words, one of which a text holds completely; empty if the file decides otherwise.
    reader
        ``module:function`` in this folder, imported at first use.
    many
        True if a file holds the objects of many images.
    table
        True if the words name columns, and so stand at the beginning of the text.
    """

    name: str
    suffixes: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    reader: str
    many: bool = False
    table: bool = False

    def read(self, path: Path) -> tuple[Drawing, ...]:
        """Read a file; see the reader."""
        module, _, function = self.reader.partition(":")
        found: Callable[[Path], tuple[Drawing, ...]] = getattr(
            import_module(f"septum.io.annotations.{module}"), function
        )
        return found(path)


_JSON = (".json", ".geojson")
# The first that fits counts.
DRAWN_FORMATS = (
    DrawnFormat("Cellpose", ("_seg.npy",), (), "cellpose:read_cellpose"),
    DrawnFormat("ImageJ", (".roi", ".zip"), (), "imagej:read_rois"),
    DrawnFormat(
        "labelme", (".json",), (('"shapes"', '"imagePath"'), ('"shapes"', '"shape_type"')), "labelme:read_labelme"
    ),
    DrawnFormat(
        "COCO", (".json",), (('"annotations"', '"images"'), ('"images"', '"file_name"')), "coco:read_coco", True
    ),
    DrawnFormat(
        "GeoJSON",
        _JSON,
        (('"FeatureCollection"',), ('"geometry"', '"coordinates"'), ('"Feature"', '"geometry"')),
        "geojson:read_geojson",
    ),
    DrawnFormat("CVAT", (".xml",), (("<annotations", "<image "), ("<annotations", "<track ")), "cvat:read_cvat", True),
    DrawnFormat("napari", (".csv",), (("shape-type", "vertex-index", "axis-0"),), "napari:read_napari", table=True),
)


def is_named_as_drawn(path: Path) -> bool:
    """Return True if the name of a file ends as those of drawn objects alone; the file is not opened."""
    endings = tuple(ending for row in DRAWN_FORMATS for ending in row.suffixes)
    return path.name.casefold().endswith(endings) and not is_image(path)


def drawn_format(path: Path) -> DrawnFormat | None:
    """Return the format of a file of drawn objects by its name and the words in it; None for other files."""
    name = path.name.casefold()
    rows = tuple(row for row in DRAWN_FORMATS if name.endswith(row.suffixes) and path.stem and not name.startswith("."))
    if not rows or not path.is_file() or is_image_file(path):
        return None
    if name.endswith(".zip"):
        return rows[0] if _holds_rois(path) else None
    if not rows[0].words:
        return rows[0]
    with suppress(OSError):
        status = path.stat()
        return _by_words(path, rows, (status.st_mtime_ns, status.st_size))
    return None


@lru_cache(maxsize=1 << 12)
def _by_words(path: Path, rows: tuple[DrawnFormat, ...], _: object) -> DrawnFormat | None:
    """Return the format whose words a text holds first. Words can come late: behind the pixels of labelme, say.

    A late word of JSON counts only with a value of the kind that the format has there: others hold such words, too.
    """
    wanted = [(row, set(words)) for row in rows for words in row.words]
    missing = set().union(*(words for _, words in wanted))
    with path.open("rb") as file:
        end = b""
        while block := file.read(_BLOCK):
            found = end + block
            missing -= {w for w in missing if w.encode() in found and (not end or _late(w).search(found))}
            fitting = next((row for row, words in wanted if not words & missing), None)
            foreign = not end and all(word.encode() in found for word in VGG_WORDS)
            if fitting is not None or foreign or all(row.table for row in rows):
                return fitting
            end = found[-_OVERLAP:]
    return None


@lru_cache
def _late(word: str) -> re.Pattern[bytes]:
    """Return the pattern of a word behind the first block: in JSON a key of a string, or of a list of objects."""
    value = rb'\s*:\s*(?:"|null)' if word in _STRINGS else rb"\s*:\s*\[\s*[{\]]"
    return re.compile(re.escape(word.encode()) + (value if word.startswith('"') else b""))


def _holds_rois(path: Path) -> bool:
    with suppress(*DAMAGE, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.casefold().endswith(".roi") for name in archive.namelist())
    return False


def is_drawn(place: Path) -> bool:
    """Return True if a place is a file of drawn objects, or the objects of one image in such a file."""
    return drawn_format(split_place(place)[0]) is not None


def split_place(place: Path) -> tuple[Path, str]:
    """Return the file of a place, and the key of the image in it or ``""``."""
    name = place.name
    for at in (at for at in range(1, len(name) - 1) if name[at] == "#"):  # names of files may hold the sign, too
        if (file := place.with_name(name[:at])).is_file():
            return file, name[at + 1 :]
    return place, ""


def place_of(path: Path, drawing: Drawing) -> Path:
    """Return the place of the objects of one image in a file that holds those of many."""
    return path.with_name(f"{path.name}#{drawing.key}")


def read_drawings(path: Path) -> tuple[Drawing, ...]:
    """Read all drawings of a file; the last files read stay in memory, since a file may hold many images.

    Each has a key of its own: the name of its image without the suffix, ``:`` between its folders. The suffix stays
    where several images have the same name without it, and a number follows where keys would still be equal. No key
    is longer than 100 bytes; of a longer name it is the end.

    Raises
    ------
    FileError
        If the file cannot be read, or is none of drawn objects.
    """
    stat = path.stat() if path.exists() else None
    return _read_cached(path, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=2)
def _read_cached(path: Path, _: object) -> tuple[Drawing, ...]:
    kind = drawn_format(path)
    if kind is None:
        raise refuse(
            path, "not a file of drawn objects", ", ".join(row.name for row in DRAWN_FORMATS), "check the name"
        )
    drawings = kind.read(path)
    return tuple(replace(one, key=key) for one, key in zip(drawings, _keys(drawings), strict=True))


def _keys(drawings: Sequence[Drawing]) -> Iterator[str]:
    """Yield a key for each drawing, see `read_drawings`."""
    flat = [one.image.replace("\\", "/").replace("/", ":") or str(number) for number, one in enumerate(drawings, 1)]
    names = ["".join(letter if letter.isprintable() else "_" for letter in name) for name in flat]
    stems = [image_stem(Path(name)) for name in names]
    counts, taken, numbers = Counter(stems), set[str](), dict[str, int]()
    for name, stem in zip(names, stems, strict=True):
        full = (stem if counts[stem] == 1 else name).encode()
        first = key = full[-_LONGEST_KEY:].decode(errors="ignore")
        number = numbers.get(first, 2)
        while key in taken:
            end = f" ({number})"
            key, number = full[len(end) - _LONGEST_KEY :].decode(errors="ignore") + end, number + 1
        numbers[first] = number
        taken.add(key)
        yield key


def read_drawing(place: Path) -> Drawing:
    """Read the objects of one image.

    Parameters
    ----------
    place
        A file, or ``FILE#KEY`` for one that holds several images.

    Raises
    ------
    FileError
        If the file cannot be read, or does not hold exactly one drawing for the place.
    """
    path, key = split_place(place)
    drawings = read_drawings(path)
    fitting = [one for one in drawings if not key or one.key == key]
    if len(fitting) != 1:
        images = ", ".join(text(one.image) for one in drawings[:4])
        given = f"{len(fitting)} of its {len(drawings)} images fit" + (f" ({images} ...)" if images else "")
        raise refuse(path, given, "one image", "name the images and this file together")
    return fitting[0]
