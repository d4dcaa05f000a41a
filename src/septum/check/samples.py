"""Open checked data for training: mended in memory, one sample per image or volume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import connected_components

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING, Any

from septum.arrays.targets import UNANNOTATED, drop_unannotated, ignore_far_background
from septum.check.analyze import image_frames, read_mask
from septum.check.field_of_view import outside_unknown
from septum.check.masks import fill_holes, match_channels, to_classes
from septum.check.placement import placed
from septum.check.split_ids import set_apart
from septum.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from septum.check.check import Report, Rules
    from septum.check.masks import Labels
    from septum.check.statistics import PairStatistics


@dataclass(frozen=True)
class Sample:
    """One image or volume ready for training.

    Attributes
    ----------
    name
        Unique; pages of a stack are ``NAME_t003``, sections of a volume that is read flat ``NAME_z003``.
    group, position
        Samples of one sequence or stack share a group, in which `position` rises; ``""`` is an image on its own.
    image
        ``(C, *S)`` float32, raw intensities, finite.
    mask
        ``(*S)`` int32: object ids (0 background) or classes 0 .. K - 1; `UNANNOTATED` where not annotated.
    gold
        ``(*S)`` int32, truth for scoring where it differs: ids of some of the objects, `UNANNOTATED` where nothing is
        known. None where `mask` is the truth.
    spacing_um
        Micrometers per pixel along ``*S``; None if unknown.
    copy_of
        Images of the same name here are copies of one another, and stay together; ``""`` is no copy.
    """

    name: str
    group: str
    position: int
    image: NDArray[np.float32]
    mask: NDArray[np.int32]
    gold: NDArray[np.int32] | None
    spacing_um: tuple[float, ...] | None
    copy_of: str = ""


def judged_objects(labels: NDArray[np.int32], sample: Sample) -> NDArray[np.int32]:
    """Return the predicted objects that a sample's mask can judge.

    A gold frame that names some of its objects says nothing of the others; elsewhere all objects are judged.
    """
    return labels if sample.gold is None else drop_unannotated(labels, sample.mask)


@dataclass(frozen=True)
class LoadedData:
    """Data that were checked and opened: the report, the samples, and a fingerprint of each by its name."""

    report: Report
    samples: tuple[Sample, ...]
    images: dict[str, str]


def load_data(report: Report) -> LoadedData:
    """Open checked data for training, all at once.

    Raises
    ------
    SeptumError
        As `load_samples`; and if no image is usable.
    """
    samples = tuple(load_samples(report))
    if not samples:
        raise DataError("no image with a usable mask", "at least one", "`septum check DATA` says what is wrong")
    return LoadedData(report, samples, fingerprints(samples))


def load_samples(report: Report) -> Iterator[Sample]:
    """Open the pairs of a report one after the other.

    Only the samples that the caller keeps stay in memory. What the report names as mended is mended.

    Parameters
    ----------
    report
        From `septum.check.check.check`.

    Raises
    ------
    DataError
        If the report holds errors.
    FileError
        If a file has become unreadable since the check.
    """
    report.refuse_errors()
    for item in report.items:
        yield from open_item(item, report.rules)


def open_item(item: PairStatistics, rules: Rules) -> Iterator[Sample]:
    """Open one pair: one sample, or one per annotated page (T) and, for rank 2, per annotated section (Z).

    Parameters
    ----------
    item
        A usable pair of a report.
    rules
        The report's rules.

    Raises
    ------
    FileError
        If a file cannot be read.
    """
    from septum.io.open import read_image

    image = read_image(item.image, axes=item.axes)
    frames = image_frames(image)
    masks = _truth(item.masks, item, rules, frames)
    golds = _truth(item.golds, item, rules, frames) if item.golds and item.golds != item.masks else None
    facts = item.image_facts
    if item.near_px is not None:
        golds = masks if (masks > 0).any() else None
        sizes = facts.spacing_um if facts else None
        masks = np.stack([ignore_far_background(mask, reach_px=item.near_px, spacing=sizes) for mask in masks])
    spacing = facts.spacing_um[-rules.rank :] if facts and facts.spacing_um else None
    walks_z = rules.rank == 2 and frames.ndim == 5
    places = [(t, z) for t in range(len(frames)) for z in (range(frames.shape[2]) if walks_z else (None,))]
    for number, (t, z) in enumerate(places):
        frame = frames[t] if z is None else frames[t, :, z]
        many = len(places) > 1
        truth = masks[t] if z is None else masks[t, z]
        gold = None if golds is None else golds[t] if z is None else golds[t, z]
        if (truth == UNANNOTATED).all() and (gold is None or (gold == UNANNOTATED).all()):
            continue  # a page that nobody annotated: nothing to learn from and nothing to score
        suffix = (f"_t{t:03d}" if len(frames) > 1 else "") + ("" if z is None else f"_z{z:03d}")
        yield Sample(
            name=item.name + suffix,
            group=item.group or (item.name if many else ""),
            position=item.position * (len(places) if item.group else 1) + number if many else item.position,
            image=match_channels(fill_holes(frame), rules.channels).astype(np.float32),
            mask=truth,
            gold=gold,
            spacing_um=spacing,
            copy_of=item.copy_of,
        )


def _truth(
    files: tuple[tuple[Path, int | None], ...], item: PairStatistics, rules: Rules, frames: NDArray[Any]
) -> NDArray[np.int32]:
    """Return ``(T, *S)`` int32 from files that are all of the truth, or Z slices of it."""
    shape = (frames.shape[0], *frames.shape[2:])
    whole = np.full(shape, UNANNOTATED, np.int32)
    for path, section in files:
        axes = item.image_facts.axes if item.image_facts else ""
        found = meant_frames(
            read_mask(path, axes, ignore=rules.ignore)[1], rules, item.binary if path == item.mask else ()
        )
        if section is not None:
            whole[:, section] = found
        else:
            whole[:] = put_right(found, item, path)
    return outside_unknown(whole, item.field)


def put_right(frames: NDArray[np.int32], item: PairStatistics, path: Path) -> NDArray[np.int32]:
    """Turn and move the frames ``(T, *S)`` of a mask as its item says; other truth of the item has its own place."""
    placement = item.placement
    if placement is None or (path != item.mask and placement == item.mend):
        return frames
    return np.stack([placed(frame, placement) for frame in frames])


def meant_frames(frames: Sequence[Labels], rules: Rules, binary: Sequence[int]) -> NDArray[np.int32]:
    """Return ``(T, *S)`` int32 from the frames of a mask; those in `binary` have one value for all objects."""
    return np.stack([meant(f.array, rules, pieces=rules.pieces or t in binary) for t, f in enumerate(frames)])


def meant(labels: NDArray[np.int32], rules: Rules, *, pieces: bool = False) -> NDArray[np.int32]:
    """Turn labels as read from a file into ids of objects or numbers of classes.

    Parameters
    ----------
    labels
        ``(*S)`` int32 from `septum.check.masks.read_labels`.
    rules
        What the values mean.
    pieces
        Objects are the connected pieces, whatever their values.

    Returns
    -------
    mask
        ``(*S)`` int32: ids with 0 background, or classes 0 .. K - 1; `UNANNOTATED` where not annotated.
    """
    if rules.kind == "classes":
        if rules.mixed:
            return np.where(labels > 0, np.int32(1), labels)
        return to_classes(labels, rules.mask_values, rules.ignore)
    if pieces:
        return np.where(labels == UNANNOTATED, np.int32(UNANNOTATED), connected_components(labels > 0))
    return set_apart(labels)[0] if "object-apart" in rules.mends else labels


def fingerprints(samples: Sequence[Sample]) -> dict[str, str]:
    """Return a hash of all that training and scoring take from each sample, by its name."""
    found = {}
    for sample in samples:
        said = f"{sample.group!r} {sample.position} {sample.spacing_um} {sample.image.shape} {sample.mask.shape}"
        digest = hashlib.blake2b(said.encode(errors="surrogateescape"), digest_size=16)
        for array in (sample.image, sample.mask, *([] if sample.gold is None else [sample.gold])):
            digest.update(np.ascontiguousarray(array).data)
        found[sample.name] = digest.hexdigest()
    return found


def fingerprint(images: Mapping[str, str]) -> str:
    """Return one hash of a whole data set from the `fingerprints` of its images."""
    said = json.dumps(sorted(images.items())).encode()
    return hashlib.blake2b(said, digest_size=16).hexdigest()
