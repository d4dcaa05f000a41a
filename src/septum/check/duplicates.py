"""Compare the images of a data set with one another: copies, near copies, and images unlike the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.intensity_profile import QUANTILES, inverted
from septum.check.issues import Remark, format_shape
from septum.check.masks import fill_holes

if TYPE_CHECKING:
    from septum.check.statistics import ImageFacts, PairStatistics

_ENOUGH = 8  # images, to say what is usual
# Thumbnails of copies (other brightness, JPEG, another size) correlate by 0.99 and more; of neighboring frames of a
# time lapse by up to 0.997 as well, so the fine detail decides: copies 0.6 and more.
_ALIKE, _SURELY, _DETAIL = 0.98, 0.999, 0.6
_SEQUENCE = 0.8  # of the images
_SIDE = 1024  # of larger images the middle part is compared
_UNLIKE = 4.0  # times the 95th percentile of the distances to the nearest other image
_UNLIKE_LEAST = 0.3  # standard deviations
_DIM, _LEVELS = 8, 32  # times less contrast than the median, with so few gray values that it matters
_SIZE = 64  # times fewer or more pixels than the median
_OBJECT_SIZE = 4  # times the median diameter, at least


def copies(items: Mapping[int, PairStatistics]) -> tuple[dict[int, PairStatistics], list[Remark]]:
    """Find images that are equal, or nearly equal, to an earlier one.

    Neighbors of one stack or sequence are alike by nature and not compared. Mirrored and rotated copies are found too.

    Returns
    -------
    items, remarks
        The items with `Item.copy_of` set; equal pairs have a remark that leaves them out.
    """
    marked, remarks, equal = dict(items), [], set()
    seen: dict[str, int] = {}
    for index, item in items.items():
        if item.image_facts is None or item.mask_facts is None:
            continue
        first = seen.setdefault(item.image_facts.digest, index)
        if first == index:
            continue
        other = items[first]
        same = other.mask_facts is not None and other.mask_facts.digest == item.mask_facts.digest
        equal.add(index)
        code = "duplicate" if same else "duplicate-conflict"
        remarks.append(Remark(code, item.image, f"= {other.image.name}", item=index))
        marked = _marked(marked, first, index)
    left = {k: i for k, i in items.items() if k not in equal and i.image_facts and i.image_facts.thumbnail}
    for index, first, how in _near_copies(left):
        remarks.append(Remark("near-copy", items[index].image, f"= {items[first].image.name}{how}", item=index))
        marked = _marked(marked, first, index)
    return _sequence(marked, remarks)


def _sequence(
    items: dict[int, PairStatistics], remarks: list[Remark]
) -> tuple[dict[int, PairStatistics], list[Remark]]:
    """Take nearly all images for frames of one sequence where they are alike: else none could be held out."""
    name, count = Counter(i.copy_of for i in items.values() if i.copy_of).most_common(1)[0] if remarks else ("", 0)
    if count < _ENOUGH or count < _SEQUENCE * len(items):
        return items, remarks
    frames = {k: replace(i, copy_of="", group=name, position=k) for k, i in items.items() if i.copy_of == name}
    text = f"{count} of {len(items)} images look like frames of one sequence: the last fifth of them is held out"
    kept = [r for r in remarks if r.code != "near-copy"]
    return items | frames, [*kept, Remark("sequence", text=text)]


def _marked(items: dict[int, PairStatistics], first: int, index: int) -> dict[int, PairStatistics]:
    name = items[first].copy_of or items[first].name
    return items | {i: replace(items[i], copy_of=name) for i in (first, index)}


def _near_copies(items: Mapping[int, PairStatistics]) -> Iterator[tuple[int, int, str]]:
    """Yield (index, index of an earlier image, how it is turned) of images that are nearly equal."""
    for length in {len(i.image_facts.thumbnail) for i in items.values() if i.image_facts}:
        same = {k: i for k, i in items.items() if i.image_facts and len(i.image_facts.thumbnail) == length}
        keys = list(same)
        table = np.asarray([i.image_facts.thumbnail for i in same.values() if i.image_facts])
        side = round(length ** (1 / 2 if length == 256 else 1 / 3))
        for place, key in enumerate(keys[1:], start=1):
            for turn in range(8 if length == 256 else 1):
                own = table[place] if not turn else _turn(table[place].reshape(side, side), turn).ravel()
                likeness = table[:place] @ own
                best = int(likeness.argmax())
                one, other = items[key], items[keys[best]]
                neighbors = one.group and one.group == other.group
                if likeness[best] > _ALIKE and not neighbors and _same(one, other, turn, float(likeness[best])):
                    yield key, keys[best], ", turned or mirrored" if turn else ""
                    break


def _turn(image: NDArray[Any], turn: int) -> NDArray[Any]:
    return np.rot90(image.T if turn >= 4 else image, turn % 4)


def _same(one: PairStatistics, other: PairStatistics, turn: int, likeness: float) -> bool:
    """Compare the fine detail of two images whose thumbnails are alike."""
    from scipy.ndimage import uniform_filter

    from septum.io.open import read_image

    details = []
    for item, how in ((one, turn), (other, 0)):
        flat = fill_holes(read_image(item.image, axes=item.axes).array).mean(axis=0, dtype=np.float32)
        flat = _turn(flat, how) if flat.ndim == 2 else flat
        middle = tuple(slice(max(0, (n - _SIDE) // 2), max(0, (n - _SIDE) // 2) + _SIDE) for n in flat.shape)
        details.append(flat[middle] - uniform_filter(flat[middle], 5))
    if details[0].shape != details[1].shape:
        return likeness > _SURELY
    return float(np.corrcoef(details[0].ravel(), details[1].ravel())[0, 1]) > _DETAIL


def unlike_remarks(items: Sequence[PairStatistics], *, objects: bool) -> Iterator[Remark]:
    """Name images unlike the others in intensities, size, or size of their objects, with figures."""
    facts = [(item, item.image_facts) for item in items if item.image_facts]
    if len(facts) < _ENOUGH:
        return
    yield from _intensities(facts)
    pixels = np.asarray([float(np.prod(f.sides)) for _, f in facts])
    for (item, f), ratio in zip(facts, pixels / np.median(pixels), strict=True):
        if not 1 / _SIZE <= ratio <= _SIZE:
            usual = facts[int(np.argsort(pixels)[len(pixels) // 2])][1]
            yield Remark("size-outlier", item.image, f"{format_shape(f.sides)}, usual {format_shape(usual.sides)}")
    if objects:
        yield from _object_sizes([(i, float(np.median(_sizes(i))), len(f.sides)) for i, f in facts if _sizes(i)])


def _intensities(facts: Sequence[tuple[PairStatistics, ImageFacts]]) -> Iterator[Remark]:
    contrasts = np.asarray([max(f.percentiles[2] - f.percentiles[0], 1e-12) for _, f in facts])
    middle = float(np.median(contrasts))
    dim = set()
    for (item, f), contrast in zip(facts, contrasts, strict=True):
        levels = min(f.levels, contrast + 1) if "int" in f.dtype else f.levels
        if contrast * _DIM < middle and levels < _LEVELS:
            dim.add(item.name)
            detail = f"contrast 1/{middle / contrast:.2g} of the median, some {levels:.0f} gray values"
            yield Remark("intensity-outlier", item.image, detail)
    several = [(i, np.asarray(f.curve).reshape(f.channels, len(QUANTILES))) for i, f in facts if not f.constant]
    for channels in {len(c) for _, c in several}:
        alike = [(i, c) for i, c in several if len(c) == channels]
        if len(alike) < _ENOUGH:
            continue
        table = np.stack([c for _, c in alike])
        away = np.stack([np.abs(table - c).mean(axis=(1, 2)) for c in table])
        np.fill_diagonal(away, np.inf)
        nearest = away.min(axis=1)
        usual = max(_UNLIKE_LEAST, _UNLIKE * float(np.quantile(nearest, 0.95, method="lower")))
        for (item, curve), far in zip(alike, nearest, strict=True):
            if far > usual and item.name not in dim:
                other = np.abs(table - inverted(curve)).mean(axis=(1, 2)).min()
                way = ", as if inverted" if other < usual else ""
                yield Remark("intensity-unlike", item.image, f"{far:.2g} standard deviations{way}; usual {usual:.2g}")


def _sizes(item: PairStatistics) -> list[int]:
    return [n for c in (item.mask_facts.census if item.mask_facts else ()) for n in c.counts]


def _object_sizes(found: Sequence[tuple[PairStatistics, float, int]]) -> Iterator[Remark]:
    widths = np.asarray([size ** (1 / rank) for _, size, rank in found])
    if len(widths) < _ENOUGH:
        return
    logs = np.log(widths)
    middle = float(np.median(logs))
    usual = max(float(np.log(_OBJECT_SIZE)), 3.5 * 1.4826 * float(np.median(np.abs(logs - middle))))
    for (item, _, _), width, log in zip(found, widths, logs, strict=True):
        if abs(log - middle) > usual:
            yield Remark("object-size-outlier", item.mask, f"{width:.3g} pixels, usual {np.exp(middle):.3g}")
