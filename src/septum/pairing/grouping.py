"""Make pairs of matched files: their names, their groups and their places in them; group samples by a pattern."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from septum.errors import DataError
from septum.io.formats import format_path, image_stem, natural_key
from septum.pairing.names import Matches, composed
from septum.pairing.pair import Pair, Pairing
from septum.pairing.sample import Sample
from septum.words import list_some


def make_pairing(matches: Matches, layout: Literal["folders", "files", "drawn"], *, root: Path) -> Pairing:
    """Return the pairs; the images of a subfolder, and images named by consecutive numbers, are a group each."""
    stems = Counter(composed(image_stem(image)) for image, _ in matches.pairs)
    folders: dict[tuple[str, ...], list[Path]] = {}
    for image in (*(image for image, _ in matches.pairs), *matches.images_left):
        folders.setdefault(_subfolder(image, root), []).append(image)
    sections = _sections(sorted(folders.get((), []), key=natural_key)) if layout == "folders" else {}
    pairs = []
    for image, mask in matches.pairs:
        folder, stem = _subfolder(image, root), composed(image_stem(image))
        where = "_".join(map(composed, folder)) or image.absolute().parent.name
        name = stem if stems[stem] == 1 else f"{where}_{stem}"
        group = "/".join(map(composed, folder)) or (root.absolute().name if image in sections else "")
        position = folders[folder].index(image) if folder else sections.get(image, 0)
        pairs.append(Pair(name, image, mask, group=group, position=position))
    return Pairing(
        tuple(pairs),
        layout,
        unmatched_images=tuple(matches.images_left),
        unmatched_masks=tuple(matches.masks_left),
        set_aside=tuple((p, "second annotator") for p in matches.seconds),
    )


def _subfolder(image: Path, root: Path) -> tuple[str, ...]:
    """Return the names of the subfolders of `root` that an image lies in; none for an image elsewhere."""
    return image.relative_to(root).parent.parts if image.is_relative_to(root) else ()


def _sections(images: Sequence[Path]) -> dict[Path, int]:
    """Return the numbers of images that are named by nothing but consecutive numbers; empty for other names."""
    stems = [image_stem(p) for p in images]
    if len(stems) < 2 or not all(s.isdecimal() for s in stems):
        return {}
    numbers = sorted(int(s) for s in stems)
    consecutive = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return {p: int(s) for p, s in zip(images, stems, strict=True)} if consecutive else {}


def no_partner(images: Sequence[Path], masks: Sequence[Path]) -> DataError:
    """Return the error for images and masks of which no name fits another."""
    first, second = (list_some((format_path(p.name) for p in files), 3) for files in (images, masks))
    return DataError(
        f"no mask fits an image by name: images {first}; masks {second}",
        "names alike, such as cell1.tif and cell1.tif or cell1_mask.tif",
        "rename the masks after their images",
    )


def grouped(samples: Sequence[Sample], pattern: str) -> list[Sample]:
    """Return the samples grouped by the text that a pattern matches in their names (its first group, if it has one).

    Raises
    ------
    DataError
        If a name does not match, or all names match alike.
    """
    matches = [re.search(pattern, sample.name) for sample in samples]
    missed = [format_path(sample.name) for sample, match in zip(samples, matches, strict=True) if match is None]
    if missed:
        raise DataError(
            f"--group {pattern!r} does not match {len(missed)} of {len(samples)} names: {list_some(missed, 4)}",
            "a regular expression that matches in the name of every image",
            "correct the expression; names are those of the files, without their ending",
        )
    keys = ["".join((m.group(1) if m.re.groups else m.group(0)) or "") for m in matches if m is not None]
    if len(samples) > 1 and len(set(keys)) == 1:
        raise DataError(
            f"--group {pattern!r} matches {keys[0]!r} in all {len(samples)} names, which makes 1 group",
            "at least two groups, because a group is trained on or held out as a whole",
            "give a --group that makes more groups, or leave it out",
        )
    return [replace(sample, group=f"={key}") for sample, key in zip(samples, keys, strict=True)]
