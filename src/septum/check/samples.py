"""Samples for training: checked pairs with their repairs applied in memory, one sample per image or volume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.resample import Resampled, scaled_sides
from septum.arrays.targets import UNANNOTATED, drop_unannotated
from septum.check.alignment import align
from septum.check.check import Report
from septum.check.images import fill_holes, match_channels
from septum.check.label_kind import Rules, to_mask
from septum.check.masks import Labels
from septum.check.pair_files import mark_outside
from septum.check.reading import Files, image_frames
from septum.check.sparse_gold import keep_margin
from septum.check.statistics import PairStatistics
from septum.errors import DataError, FileError
from septum.io.formats import format_path
from septum.threads import map_in_threads

Truth = tuple[tuple[Path, int | None], ...]


@dataclass(frozen=True)
class Sample:
    """One image or volume ready for training.

    Attributes
    ----------
    name
        Unique; pages of a stack are ``NAME_t003``, sections of a volume that is read as images ``NAME_z003``.
    group, position
        Samples of one sequence or stack share a group, in which `position` rises; ``""`` is a separate image.
    image
        ``(C, *S)`` float32, raw intensities, finite.
    mask
        ``(*S)`` int32: object ids (0 background) or classes 0 .. K - 1; `UNANNOTATED` where not annotated.
    gold
        ``(*S)`` int32, truth for scores where it differs from `mask`: ids of some of the objects, `UNANNOTATED` where
        not annotated. None if `mask` is the truth.
    spacing_um
        Micrometers per pixel along ``*S``; None if unknown.
    copy_of
        Images with the same name here are copies of one another, and stay together; ``""`` is no copy.
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
    """Return the predicted objects that the mask of a sample can judge.

    A gold frame that names some of its objects cannot judge the others; elsewhere all objects are judged.

    Parameters
    ----------
    labels
        ``(*S)`` int32, ids of predicted objects, 0 background.
    sample
        The sample.

    Returns
    -------
    labels
        ``(*S)`` int32, ids, 0 in place of objects that are not judged.
    """
    return labels if sample.gold is None else drop_unannotated(labels, sample.mask)


def on_grid(sample: Sample, scale: float) -> Sample:
    """Return a sample on a coarser or finer grid of the same extent.

    The image is resampled as prediction resamples it (`septum.arrays.resample.Resampled`); a pixel of a mask takes the
    value at its center.

    Parameters
    ----------
    sample
        The sample.
    scale
        Pixels of the grid for each pixel of the image, along each axis; at 1 the sample is returned as it is.
    """
    if scale == 1:
        return sample
    before = sample.mask.shape
    sides = scaled_sides(before, (scale,) * len(before))
    centers = np.ix_(*(((np.arange(m) + 0.5) * n / m).astype(np.intp) for m, n in zip(sides, before, strict=True)))
    return replace(
        sample,
        image=Resampled(sample.image, sides)[(slice(None),) * sample.image.ndim],
        mask=sample.mask[centers],
        gold=None if sample.gold is None else sample.gold[centers],
        spacing_um=None if sample.spacing_um is None else tuple(size / scale for size in sample.spacing_um),
    )


@dataclass(frozen=True)
class LoadedData:
    """A checked data set in memory: the report, the samples, and a hash of each sample by its name."""

    report: Report
    samples: tuple[Sample, ...]
    images: dict[str, str]


def load_data(report: Report) -> LoadedData:
    """Load all samples of a checked data set.

    Raises
    ------
    SeptumError
        As `load_samples`; and if no image is usable.
    """
    report.refuse_errors()

    def load(pair: PairStatistics) -> tuple[list[Sample], dict[str, str]]:
        samples = list(load_pair(pair, report))
        return samples, fingerprints(samples)

    loaded = map_in_threads(load, report.pairs)
    samples = tuple(sample for of_pair, _ in loaded for sample in of_pair)
    if not samples:
        raise DataError("no image with a usable mask", "at least one", "look at the findings of: septum check DATA")
    return LoadedData(report, samples, {name: digest for _, of_pair in loaded for name, digest in of_pair.items()})


def load_samples(report: Report) -> Iterator[Sample]:
    """Yield the samples of a report, pair by pair.

    Only samples that the caller keeps stay in memory. Issues that the report calls mended are mended.

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
    for pair in report.pairs:
        yield from load_pair(pair, report)


def open_sample(report: Report, name: str) -> Sample:
    """Return the sample of this name: from memory if it is in use, else read again.

    Raises
    ------
    FileError
        If there is no such sample, or its files cannot be read.
    """
    held = report.files.samples.get(name)
    if isinstance(held, Sample):
        return held
    for pair in report.pairs:
        if name == pair.name or name.startswith((f"{pair.name}_t", f"{pair.name}_z")):
            for sample in load_pair(pair, report):
                if sample.name == name:
                    return sample
    raise FileError(
        f"{format_path(name)}: not found again", "the images of the check", "do not move the images during a training"
    )


def load_pair(pair: PairStatistics, report: Report) -> Iterator[Sample]:
    """Yield the samples of one pair: one, or one per annotated page (T) and, for rank 2, per annotated section (Z).

    Arrays that the check has kept become those of the samples; the report keeps them no longer.

    Parameters
    ----------
    pair
        A pair of the report.
    report
        The report, which holds the rules for reading the data.

    Raises
    ------
    FileError
        If a file cannot be read.
    """
    files, rules = report.files, report.rules
    frames = image_frames(files.image(pair.image, pair.named_axes))
    masks = _load_truth(pair.masks, pair, rules, frames=frames, files=files)
    golds = None
    if pair.golds and pair.golds != pair.masks:
        golds = _load_truth(pair.golds, pair, rules, frames=frames, files=files)
    if pair.background_margin_px is not None:
        masks, golds = keep_margin(masks, pair)
    files.release(pair.files)
    stats = pair.image_stats
    spacing = stats.spacing_um[-rules.rank :] if stats and stats.spacing_um else None
    walks_z = rules.rank == 2 and frames.ndim == 5
    places = [(t, z) for t in range(len(frames)) for z in (range(frames.shape[2]) if walks_z else (None,))]
    many = len(places) > 1
    for number, (t, z) in enumerate(places):
        frame = frames[t] if z is None else frames[t, :, z]
        mask = masks[t] if z is None else masks[t, z]
        gold = None if golds is None else golds[t] if z is None else golds[t, z]
        if (mask == UNANNOTATED).all() and (gold is None or (gold == UNANNOTATED).all()):
            continue  # a page without annotation: nothing to learn from and nothing to score
        suffix = (f"_t{t:03d}" if len(frames) > 1 else "") + ("" if z is None else f"_z{z:03d}")
        sample = Sample(
            name=pair.name + suffix,
            group=pair.group or (pair.name if many else ""),
            position=pair.position * (len(places) if pair.group else 1) + number if many else pair.position,
            image=np.ascontiguousarray(match_channels(fill_holes(frame), rules.channels), np.float32),
            mask=mask,
            gold=gold,
            spacing_um=spacing,
            copy_of=pair.copy_of,
        )
        files.samples[sample.name] = sample
        yield sample


def _load_truth(
    truth: Truth, pair: PairStatistics, rules: Rules, *, frames: NDArray[np.generic], files: Files
) -> NDArray[np.int32]:
    """Return ``(T, *S)`` int32 from files that hold the whole truth, or Z slices of it."""
    if len(truth) == 1 and truth[0][1] is None:
        whole = mask_of_file(truth[0][0], pair, rules, files)
    else:
        whole = np.full((frames.shape[0], *frames.shape[2:]), UNANNOTATED, np.int32)
        for path, section in truth:
            file_truth = mask_of_file(path, pair, rules, files)
            if section is None:
                whole[:] = file_truth
            else:
                whole[:, section] = file_truth
    return whole if pair.field is None else mark_outside(whole, pair.field, files)


def mask_of_file(
    path: Path, pair: PairStatistics, rules: Rules, files: Files, *, likely: bool = False
) -> NDArray[np.int32]:
    """Return the mask that a truth file holds, in the order of axes of its image.

    Parameters
    ----------
    path
        A truth file of the pair.
    pair
        The pair.
    rules
        Meaning of the values.
    files
        Reader of the data set.
    likely
        Apply repairs that are not certain as well, as the copy does; see `PairStatistics.placement`.

    Returns
    -------
    mask
        ``(T, *S)`` int32: ids with 0 background, or classes 0 .. K - 1; `UNANNOTATED` where not annotated. ``*S``
        without Z if the file holds one section.
    """
    labels = files.labels(path, pair.grid)
    masks = _to_masks(labels, rules, pair.binary_frames if path == pair.mask else ())
    placement = pair.placement(path, likely=likely)
    return masks if placement is None else align(masks, placement)


def _to_masks(labels: Sequence[Labels], rules: Rules, binary_frames: Sequence[int]) -> NDArray[np.int32]:
    masks = [to_mask(f.array, rules, pieces=rules.pieces or t in binary_frames) for t, f in enumerate(labels)]
    return masks[0][np.newaxis] if len(masks) == 1 else np.stack(masks)


def fingerprints(samples: Sequence[Sample]) -> dict[str, str]:
    """Return a hash of the data that training and scores use of each sample, by its name."""
    hashes = {}
    for sample in samples:
        header = f"{sample.group!r} {sample.position} {sample.spacing_um} {sample.image.shape} {sample.mask.shape}"
        digest = hashlib.blake2b(header.encode(errors="surrogateescape"), digest_size=16)
        for array in (sample.image, sample.mask, *([] if sample.gold is None else [sample.gold])):
            digest.update(np.ascontiguousarray(array).data)
        hashes[sample.name] = digest.hexdigest()
    return hashes


def fingerprint(images: Mapping[str, str]) -> str:
    """Return one hash of a data set from the `fingerprints` of its images."""
    text = json.dumps(sorted(images.items())).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()
