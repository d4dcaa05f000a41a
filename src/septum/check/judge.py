"""Judge pairs, one by one and together: remarks that make the findings of a check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from septum.check.issues import KINDS, Remark, format_shape, pluralize
from septum.check.label_kind import Meaning, binary
from septum.check.masks import COLOR, fits_channels

if TYPE_CHECKING:
    from pathlib import Path

    from septum.check.census import Census
    from septum.check.statistics import PairStatistics
    from septum.pairing.find import Pairing

_TINY = 8  # pixels
_MOST_CLASSES = 254  # a target is uint8, and 255 is ignored


def without(items: Sequence[PairStatistics], remarks: Sequence[Remark]) -> dict[int, PairStatistics]:
    """Return by index the items that no remark leaves out."""
    out = {r.item for r in remarks if KINDS[r.code].leaves_out}
    return {index: item for index, item in enumerate(items) if index not in out}


def pairing_remarks(pairing: Pairing, items: Sequence[PairStatistics]) -> Iterator[Remark]:
    """Say what has no partner, and what is no mask to train on or one of several files."""
    unannotated = [p.image for p in pairing.pairs if p.mask is None and p.gold is None]
    for path in (*pairing.unmatched_images, *unannotated):
        yield Remark("unpaired-image", path)
    for path in pairing.unmatched_masks:
        yield Remark("unpaired-mask", path)
    for path, what in pairing.set_aside:
        if what == "second annotator":
            yield Remark("second-annotator", path)
        else:
            yield Remark("field-unfit", path, "no image of this name")
    for index, item in enumerate(items):
        if item.mask.is_dir() and item.mask_facts is not None:
            yield Remark(
                "mask-folder", item.mask, pluralize(len(item.mask_facts.census[0].values), "object"), item=index
            )


def item_remarks(index: int, item: PairStatistics) -> Iterator[Remark]:
    """Judge one pair by itself."""
    for path, reason in item.unreadable:
        vital = path in (item.image, item.mask)
        yield Remark("unreadable" if vital else "gold-unreadable", path, _short(reason, path), item=index)
    image, mask = item.image_facts, item.mask_facts
    if image is None or mask is None:
        return
    if item.field is not None:
        yield Remark("field-of-view", item.field, item=index)
    if item.unfit_field is not None:
        path, reason = item.unfit_field
        yield Remark("field-unfit", path, _short(reason, path), item=index)
    if item.axes is not None:
        yield Remark("pages-channels", item.image, f"--axes {item.axes}", item=index)
    if mask.problem:
        yield Remark("mask-no-labels", item.mask, mask.problem, item=index)
    if image.constant:
        yield Remark("image-constant", item.image, f"{image.low:g}", item=index)
    elif image.holes:
        yield Remark("image-holes", item.image, f"{image.holes} values", item=index)
    if min(image.sides[-2:]) < _TINY:
        yield Remark("image-tiny", item.image, format_shape(image.sides), item=index)
    section = item.masks[0][1] is not None
    if not section and image.frames != mask.frames:
        yield Remark("pages-differ", item.image, f"image {image.frames}, mask {mask.frames}", item=index)
    elif not section and mask.reorder is not None:
        code = "sizes-swapped" if len(mask.sides) == 2 else "axes-swapped"
        yield Remark(code, item.mask, f"{format_shape(mask.sides)} for {format_shape(image.sides)}", item=index)
    elif image.sides[1:] != mask.sides if section else image.sides != mask.sides:
        detail = (
            f"image {format_shape(image.sides)}, mask {format_shape(mask.sides)}"
            + ", rotated by 90 degrees" * mask.turned
        )
        yield Remark("sizes-differ", item.image, detail, item=index)
    for code in mask.mends:
        yield Remark(code, item.mask, item=index)
    yield from _census_remarks(index, item, mask.census)


def _census_remarks(index: int, item: PairStatistics, frames: Sequence[Census]) -> Iterator[Remark]:
    if frames and all(not c.values and not c.background for c in frames):
        yield Remark("mask-unannotated", item.mask, item=index)
        return
    unknown = [number for number, c in enumerate(frames) if not c.values and not c.background]
    if unknown:
        yield Remark("page-unannotated", item.mask, f"{len(unknown)} of {len(frames)}", item=index)
    if item.mask_facts and item.mask_facts.ignored:
        yield Remark("ignored", item.mask, item=index)
    empty = [number for number, c in enumerate(frames) if not c.values and c.background]
    if empty:
        pages = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
        yield Remark("mask-empty", item.mask, f"page {pages}" if len(frames) > 1 else "", item=index)


def _short(reason: str, path: Path) -> str:
    """Take the name of the file, which is said already, from the reason."""
    first = reason.splitlines()[0]
    return first.split(": ", 1)[1] if first.startswith(str(path)) and ": " in first else first


def common_channels(items: Sequence[PairStatistics]) -> int:
    """Return the number of channels that all samples get: that of most images which are not gray."""
    given = [i.image_facts.channels - i.image_facts.spare for i in items if i.image_facts]
    several = Counter(c for c in given if c > 1)
    return several.most_common(1)[0][0] if several else 1


def channel_remarks(index: int, item: PairStatistics, channels: int) -> Iterator[Remark]:
    """Compare an image's channels with those that all get."""
    if item.image_facts is None or item.image_facts.channels == channels:
        return
    given, spare = item.image_facts.channels, item.image_facts.spare
    if not fits_channels(given, channels, spare=spare):
        yield Remark("channels-differ", item.image, f"{given} instead of {channels}", item=index)
    elif given < channels:
        yield Remark("channels-repeated", item.image, item=index)
    else:
        yield Remark("channels-spare", item.image, item=index)


def meaning_remarks(meaning: Meaning, masks: Sequence[Census], items: Sequence[PairStatistics]) -> Iterator[Remark]:
    """Say what the values mean where a person would want to know."""
    if not items:
        yield Remark("nothing-left")
        return
    values = {v for m in masks for v in m.values} | ({0} if any(m.background for m in masks) else set())
    if not values - {0}:
        yield Remark("no-labels", text="every mask is empty: there is nothing to learn")
        return
    if meaning.unclear:
        yield Remark("kind-unclear", text=f"masks hold {meaning.unclear}; --kind objects or --kind classes says which")
    elif meaning.guess:
        other = "classes" if meaning.kind == "objects" else "objects"
        yield Remark(
            "kind-guess", text=f"masks are read as {meaning.reason}, but this is a guess; if not: --kind {other}"
        )
    if meaning.kind == "objects":
        yield from _object_remarks(meaning, items)
    elif len(meaning.values) < 2:
        yield Remark("no-labels", text=f"every mask holds {meaning.values[0]} only: there is nothing to tell apart")
    elif len(meaning.values) > _MOST_CLASSES:
        yield Remark("too-many-classes", text=f"{len(meaning.values)} classes, but {_MOST_CLASSES} are the most")
    elif meaning.mixed:
        yield Remark("mask-mixed")
    elif meaning.values != tuple(range(len(meaning.values))) and meaning.values[-1] < COLOR:
        shown = ", ".join(map(str, meaning.values[:8])) + (" ..." if len(meaning.values) > 8 else "")
        yield Remark("class-values", text=f"classes have the values {shown}")
    if meaning.ignore:
        yield Remark("ignore-255")


def with_binary(item: PairStatistics, meaning: Meaning) -> PairStatistics:
    """Mark the frames of an item that have one value for all objects in a set of ids."""
    census = item.mask_facts.census if item.mask_facts else ()
    return replace(item, binary=tuple(t for t, c in enumerate(census) if binary(c, meaning)))


def _object_remarks(meaning: Meaning, items: Sequence[PairStatistics]) -> Iterator[Remark]:
    if meaning.pieces:
        yield Remark("pieces")
        return
    for item in items:
        census = item.mask_facts.census if item.mask_facts else ()
        if item.binary:
            yield Remark("mask-binary", item.mask)
            continue
        apart = item.mask_facts.apart if item.mask_facts else ()
        if apart:
            listed = ", ".join(map(str, apart[:3])) + (" ..." if len(apart) > 3 else "")
            yield Remark("object-apart", item.mask, f"id {listed}")
        if (split := sum(c.split for c in census) - len(apart)) > 0:
            yield Remark("object-split", item.mask, f"{split} of {sum(len(c.values) for c in census)}")


def set_remarks(items: Sequence[PairStatistics]) -> Iterator[Remark]:
    """Compare the images with one another."""
    facts = [(item.image, item.image_facts) for item in items if item.image_facts]
    if len(facts) == 1 and facts[0][1].frames == 1 and len(facts[0][1].sides) == 2:
        yield Remark("one-image")
    if common_rank(items) == 2:
        flat = any(len(f.sides) == 2 for _, f in facts)
        for path, f in facts:
            if len(f.sides) == 3 and flat:
                yield Remark("ranks-differ", path, format_shape(f.sides))
    several = [f for _, f in facts if f.channels > 1]
    for channel in sorted({c for f in several for c in f.flat}):
        with_it = [(path, f) for path, f in facts if f.channels > 1 and channel < f.channels - f.spare]
        empty = [path for path, f in with_it if channel in f.flat]
        if len(empty) == len(with_it) > 0:
            text = f"channel {channel + 1} has the same value everywhere in all images; it does no harm"
            yield Remark("channel-constant", text=text)
        else:
            for path in empty:
                yield Remark("channel-empty", path, f"channel {channel + 1}")


def common_rank(items: Sequence[PairStatistics]) -> int:
    """Return 3 if all images are volumes, else 2."""
    return 3 if items and all(i.image_facts and len(i.image_facts.sides) == 3 for i in items) else 2
