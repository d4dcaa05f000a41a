"""Make pairs of matched files: their names, groups and places in these; find samples that belong together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from septum import seeding
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


def sequences(samples: Sequence[Sample]) -> list[list[int]]:
    """Return sequences and stacks, each in order of time or depth, and single images with their copies."""
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        own = f"copy of {sample.copy_of}" if sample.copy_of else f"{index}"
        groups.setdefault(f"in {sample.group}" if sample.group else own, []).append(index)
    return [sorted(members, key=lambda i: samples[i].position) for members in groups.values()]


def largest_first(groups: Sequence[Sequence[int]], seed: int) -> list[Sequence[int]]:
    """Return the groups, the largest first; the seed orders equally large ones."""
    order = seeding.generator(seed, "folds").permutation(len(groups))
    return sorted((groups[int(i)] for i in order), key=len, reverse=True)


def neighbors(samples: Sequence[Sample], groups: Sequence[Sequence[int]]) -> Mapping[int, list[int]]:
    """Return, by image, the images before and after it in its sequence."""
    near: dict[int, list[int]] = {}
    for members in groups:
        if samples[members[0]].group:
            for before, after in pairwise(members):
                near.setdefault(before, []).append(after)
                near.setdefault(after, []).append(before)
    return near


def copy_groups(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the indices of the images, copies of one another in one list."""
    same: dict[tuple[str, int], list[int]] = {}
    for index, sample in enumerate(samples):
        same.setdefault((sample.copy_of, 0) if sample.copy_of else ("", index), []).append(index)
    return list(same.values())


def copies_of(samples: Sequence[Sample], held_out: Sequence[int]) -> set[int]:
    """Return the images that are copies of held-out ones, and are not held out themselves."""
    held = {samples[i].copy_of for i in held_out} - {""}
    return {i for i, sample in enumerate(samples) if sample.copy_of in held} - set(held_out)


def inseparable(samples: Sequence[Sample], index: int, held: Collection[int], keep_groups: bool) -> list[int]:
    """Return a held-out image and those of `held` that must stay on its side: its copies, and the group if it is kept.

    So must the copies and groups of these.
    """
    found = {index}
    while True:
        groups = {samples[i].group for i in found} if keep_groups else set()
        copies = {samples[i].copy_of for i in found} - {""}
        more = {i for i in held if samples[i].group in groups or samples[i].copy_of in copies} - found
        if not more:
            return sorted(found)
        found |= more
