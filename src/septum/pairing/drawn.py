"""Find which file of drawn objects belongs to which image: by names, or by the images that the file lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from septum.errors import DataError
from septum.folders import below, rivals_there
from septum.io.annotations.drawing import Drawing
from septum.io.annotations.formats import drawn_format, place_of, read_drawing, read_drawings, split_place
from septum.io.annotations.texts import by_folded, folded, text
from septum.io.formats import format_path, image_stem, image_suffix, is_zarr, natural_key
from septum.pairing.folders import BySubfolder, match_by_subfolder, subfolder_key
from septum.pairing.grouping import make_pairing
from septum.pairing.names import Matches, composed
from septum.pairing.pair import Pair, Pairing
from septum.words import list_some

_CELLPOSE = "_seg.npy"


def drawn_below(folder: Path, unread: list[Path] | None = None) -> list[Path]:
    """Return the files of drawn objects in a folder and its subfolders, in natural order; see `below`."""
    found = below(folder, is_zarr, unread=unread)
    return sorted((p for p in found if drawn_format(p) is not None), key=natural_key)


def pair_drawn(images: Sequence[Path], files: Sequence[Path], *roots: Path) -> Pairing:
    """Pair images with files of drawn objects; see `match_drawn`.

    Raises
    ------
    DataError
        If no file fits an image, or two files claim the same one.
    FileError
        If a file that lists its images cannot be read.
    """
    matches = match_drawn(images, files, *roots)
    if not matches.pairs:
        raise no_image(images, matches.masks_left or files)
    return replace(make_pairing(matches, "drawn", root=roots[0]), objects=True)


def with_drawn(pairing: Pairing, files: Sequence[Path], *roots: Path) -> Pairing:
    """Return a pairing with drawn objects for its images without a mask; those of the other images are set aside.

    Parameters
    ----------
    pairing
        Images with mask images.
    files, roots
        See `match_drawn`.
    """
    if not files:
        return pairing
    images = [*pairing.unmatched_images, *(pair.image for pair in pairing.pairs)]
    matches = match_drawn(images, files, *roots)
    needed = set(pairing.unmatched_images)
    added = Matches(pairs=[(image, mask) for image, mask in matches.pairs if image in needed])
    spare = [mask for image, mask in matches.pairs if image not in needed and drawn_format_name(mask) != "Cellpose"]
    taken = {pair.name for pair in pairing.pairs}
    pairs = [*pairing.pairs, *(_renamed(p, taken) for p in make_pairing(added, "drawn", root=roots[0]).pairs)]
    return replace(
        pairing,
        pairs=tuple(sorted(pairs, key=lambda pair: natural_key(pair.image))) if added.pairs else pairing.pairs,
        unmatched_images=tuple(image for image in pairing.unmatched_images if image not in dict(added.pairs)),
        unmatched_masks=(*pairing.unmatched_masks, *matches.masks_left),
        set_aside=(*pairing.set_aside, *((path, "drawn objects") for path in spare)),
    )


def _renamed(pair: Pair, taken: set[str]) -> Pair:
    """Return a pair with the name of its folder before its own name, if another pair has this one."""
    return replace(pair, name=f"{pair.image.absolute().parent.name}_{pair.name}") if pair.name in taken else pair


def match_drawn(images: Sequence[Path], files: Sequence[Path], *roots: Path) -> Matches:
    """Match images with files of drawn objects.

    A file that lists its images (COCO, CVAT) belongs to those: by path, by name, by name without suffix, or by a name
    that differs in white space alone. Others are
    matched by their names as masks are; ``a.tif.geojson``, ``a_seg.npy`` and ``a_RoiSet.zip`` belong to ``a.tif``. The
    only file of a folder, or of all folders, belongs to the only image there whatever its name.

    Parameters
    ----------
    images, files
        The files.
    roots
        The folders of images and of files, whose subfolders correspond.

    Returns
    -------
    Matches
        Its masks are places, see `septum.io.annotations.formats`.

    Raises
    ------
    DataError
        If two files claim the same image.
    FileError
        If a file that lists its images cannot be read.
    """
    matches = Matches(images_left=list(images))
    for path in files:
        kind = drawn_format(path)
        if kind is not None and kind.many:
            _match_listed(matches, path, images)
    single = [p for p in files if (kind := drawn_format(p)) is not None and not kind.many]
    _match_single(matches, images, single, roots)
    matches.pairs.sort(key=lambda pair: natural_key(pair[0]))
    return matches


def _match_listed(matches: Matches, path: Path, images: Sequence[Path]) -> None:
    """Match the images that a file lists."""
    drawings = read_drawings(path)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        for name in {_folded(image.name), _folded(image_stem(image))}:
            by_name[name].append(image)
    if len(drawings) == 1 == len(images) and not drawings[0].image:
        by_name[""] = list(images)
    owners = dict(matches.pairs)
    listed = _with_folded(drawings, [_listed(one, by_name) for one in drawings], images)
    for drawing, found in zip(drawings, listed, strict=True):
        if found is None:
            matches.masks_left.append(place_of(path, drawing))
            continue
        if found in owners and split_place(owners[found])[0] == path:
            names = [text(one.image) for one, its in zip(drawings, listed, strict=True) if its == found]
            raise _listed_twice(found, path, names)
        if found in owners:
            raise _claimed(found, owners[found], place_of(path, drawing))
        owners[found] = place_of(path, drawing)
        matches.pairs.append((found, owners[found]))
        matches.images_left.remove(found)


def _listed(drawing: Drawing, by_name: dict[str, list[Path]]) -> Path | None:
    """Return the image that a drawing names; None if there is none, or several and its folders do not decide."""
    stated = _folded(drawing.image.replace("\\", "/"))
    name = stated.rpartition("/")[2]
    found = by_name.get(name) or by_name.get(_folded(image_stem(Path(name)))) or []
    if len(found) > 1:
        found = [image for image in found if f"/{_folded(image.as_posix())}".endswith(f"/{stated}")]
    there = rivals_there(found)
    return there[0] if len(there) == 1 else None


def _with_folded(
    drawings: Sequence[Drawing], listed: Sequence[Path | None], images: Sequence[Path]
) -> list[Path | None]:
    """Return the images of drawings, also of names that differ from those of other images by white space alone."""
    free = {_folded(path.name): path for path in set(images).difference(listed)}
    stated = [_folded(one.image.replace("\\", "/").rpartition("/")[2]) for one in drawings]
    alike = by_folded(_folded(path.name) for path in images)
    alone = by_folded(name for name, found in zip(stated, listed, strict=True) if found is None)
    there = {name: free.get(alike.get(short, "")) for short, name in alone.items()}
    return [there.get(name) if found is None else found for name, found in zip(stated, listed, strict=True)]


def _match_single(matches: Matches, all_images: Sequence[Path], files: Sequence[Path], roots: Sequence[Path]) -> None:
    """Match files that hold the objects of one image each with the images that are left."""
    renamed: dict[Path, Path] = {}
    for path in files:
        if (mask := _as_mask(path)) in renamed:
            raise _claimed(mask, renamed[mask], path)
        renamed[mask] = path
    images_by, masks_by = _by_subfolder(matches.images_left, roots), _by_subfolder(renamed, roots)
    joined = match_by_subfolder(images_by, masks_by)
    pairs = [(image, renamed[mask]) for image, mask in joined.pairs]
    images, left = joined.images_left, [renamed[mask] for mask in joined.masks_left]
    for key in (_folded, _unspaced):
        for path in list(left):
            image = _stated_image(path, images, key) if drawn_format_name(path) == "labelme" else None
            image = image or _only_image(path, all_images, files)
            if image in images:
                pairs.append((image, path))
                images.remove(image)
                left.remove(path)
    matches.pairs += pairs
    matches.images_left = sorted(images, key=natural_key)
    matches.masks_left += left


def drawn_format_name(path: Path) -> str:
    """Return the name of the format of a file of drawn objects, ``""`` for other files."""
    kind = drawn_format(split_place(path)[0])
    return "" if kind is None else kind.name


def _stated_image(path: Path, images: Sequence[Path], key: Callable[[str], str]) -> Path | None:
    name = key(read_drawing(path).image)
    found = [image for image in images if key(image.name) == name]
    return found[0] if len(found) == 1 else None


def _only_image(path: Path, images: Sequence[Path], files: Sequence[Path]) -> Path | None:
    """Return the image of a file of any name: the only image, and the file the only one, of their folder or of all."""
    if any(image.parent == path.parent for image in images):
        images, files = ([one for one in paths if one.parent == path.parent] for paths in (images, files))
    return images[0] if len(images) == len(files) == 1 else None


def _as_mask(path: Path) -> Path:
    """Return a path of an image that is named as the objects are: ``a.tif.geojson`` gives ``a.png``."""
    name = path.name
    name = name[: -len(_CELLPOSE)] if name.casefold().endswith(_CELLPOSE) else path.stem
    inner = Path(name)
    return path.with_name((image_stem(inner) if image_suffix(inner) else name) + ".png")


def _by_subfolder(paths: Iterable[Path], roots: Sequence[Path]) -> BySubfolder:
    by: BySubfolder = {}
    for path in sorted(paths, key=natural_key):
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        by.setdefault(subfolder_key(path, root), []).append(path)
    return by


def _folded(name: str) -> str:
    return composed(name).casefold()


def _unspaced(name: str) -> str:
    return folded(_folded(name))


def no_image(images: Sequence[Path], files: Sequence[Path]) -> DataError:
    """Return the error for drawn objects of which no file fits an image."""
    programs = ", ".join(dict.fromkeys(drawn_format_name(path) for path in files))
    names = list_some((format_path(path.name) for path in files), 4)
    shown = list_some((format_path(path.name) for path in images), 3)
    return DataError(
        f"drawn objects of {programs} fit no image by name: {names} (images: {shown})",
        "names alike, such as cell1.tif with cell1.json, cell1.zip or cell1_seg.npy; or a file that lists its images",
        "name each file after its image; of a single image, name the two: IMAGE FILE",
    )


def _claimed(image: Path, first: Path, second: Path) -> DataError:
    parts = 2 if first.name == second.name else 1
    names = " and ".join(format_path(Path(*p.parts[-parts:])) for p in (first, second))
    return DataError(
        f"two files hold objects of the image {format_path(image.name)}: {names}",
        "one of them for it",
        "move the other one away, or name the images and the file: IMAGES FILE",
    )


def _listed_twice(image: Path, path: Path, names: Sequence[str]) -> DataError:
    return DataError(
        f"{format_path(path)} lists the image {format_path(image.name)} {len(names)} times: {list_some(names, 4)}",
        "one entry with all objects of an image; of a stack in COCO, an entry for each plane, with t and z",
        "move the objects to one of the entries, and remove the others",
    )
