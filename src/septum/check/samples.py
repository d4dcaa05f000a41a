"""Samples for training: checked pairs with their repairs applied in memory, one sample per image or volume."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.arrays.targets import UNANNOTATED
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
from septum.pairing.parts import Box, Survey
from septum.pairing.sample import Sample, Source, StoredSample, WholeImage
from septum.threads import map_in_threads

Truth = tuple[tuple[Path, int | None], ...]


@dataclass(frozen=True)
class LoadedData:
    """A checked data set in memory: the report, the samples, and a hash of each sample by its name."""

    report: Report
    samples: tuple[Sample, ...]
    images: dict[str, str]


def load_data(report: Report) -> LoadedData:
    """Load all samples of a checked data set; if they do not fit into the memory, they stay in their files.

    Raises
    ------
    SeptumError
        As `load_samples`; and if no image is usable.
    """
    report.refuse_errors()

    needed, limit = bytes_when_held(report), report.files.memory.limit_bytes
    held = limit is None or needed <= limit
    if limit is not None and held:
        report.files.values.limit_bytes = limit - needed

    def load(pair: PairStatistics) -> tuple[list[Sample], dict[str, str]]:
        samples = list(load_pair(pair, report))
        hashes = fingerprints(samples)
        if not held and pair.survey is None:
            samples = [_stored(sample, pair, report) for sample in samples]
            report.files.samples.update({sample.name: sample for sample in samples})
        return samples, hashes

    loaded = map_in_threads(load, report.pairs)
    samples = tuple(sample for of_pair, _ in loaded for sample in of_pair)
    if not samples:
        raise DataError("no image with a usable mask", "at least one", "look at the findings of: septum check DATA")
    return LoadedData(report, samples, {name: digest for _, of_pair in loaded for name, digest in of_pair.items()})


def bytes_when_held(report: Report) -> int:
    """Return the memory of all images that are read whole, held with all that training makes of them."""
    stats = [pair.image_stats for pair in report.pairs if pair.image_stats and pair.survey is None]
    return sum(s.frames * math.prod(s.sides) * bytes_of_pixel(report.rules.channels) for s in stats)


def bytes_of_pixel(channels: int) -> int:
    """Return the bytes that training takes for a pixel of an image: image, labels, target, weights, and its mask."""
    return 4 * channels + 17


def _stored(sample: Sample, pair: PairStatistics, report: Report) -> StoredSample:
    """Return a sample of a pair that is read again when it is needed."""

    def read(name: str) -> Sample:
        return next(again for again in load_pair(pair, report) if again.name == name)

    source = Source(read, report.files.values, sample.sides, sample.channels)
    known = {name: getattr(sample, name) for name in ("name", "group", "position", "spacing_um", "copy_of")}
    return StoredSample(**known, source=source)


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
        if name == pair.name or name.startswith((f"{pair.name}_t", f"{pair.name}_z", f"{pair.name}_y")):
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
    if pair.survey is not None:
        yield from _load_parts(pair, pair.survey, report)
        return
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


def _load_parts(pair: PairStatistics, figures: Survey, report: Report) -> Iterator[StoredSample]:
    """Yield the annotated parts of a large image, each a sample that stays in its file."""
    files, rules = report.files, report.rules
    zeros, stats = bool((figures.values == 0).any()), pair.image_stats
    pieces = rules.pieces or bool(pair.binary_frames)
    limits = match_channels(np.stack([figures.low, figures.high], axis=1), rules.channels)
    whole = WholeImage(match_channels(fill_holes(figures.sampled), rules.channels), limits)
    boxes = {_part_name(pair, part.box): part.box for part in figures.parts}

    def read(name: str) -> Sample:
        box = boxes[name]
        image = files.image(pair.image, pair.named_axes)[(slice(None), *box)]
        labels = files.interpreted(files.stored_mask(pair.mask)[(0, *box)].astype(np.int32), zeros=zeros)
        held = np.ascontiguousarray(match_channels(fill_holes(image), rules.channels), np.float32)
        return Sample(name, "", 0, held, to_mask(labels, rules, pieces=pieces), None, None, whole=whole)

    for position, part in enumerate(figures.parts):
        values = to_mask(files.interpreted(part.values.astype(np.int32), zeros=zeros), rules)
        classes = values if rules.kind == "classes" else np.minimum(values, 1)
        known = classes >= 0
        counts = np.bincount(classes[known], part.counts[known], minlength=max(2, len(rules.mask_values)))
        sides = tuple(s.stop - s.start for s in part.box)
        sample = StoredSample(
            name=_part_name(pair, part.box),
            group=pair.group or pair.name,
            position=pair.position * len(figures.parts) + position if pair.group else position,
            spacing_um=stats.spacing_um if stats else None,
            copy_of=pair.copy_of,
            whole=whole,
            source=Source(
                read, files.values, sides, rules.channels, counts=counts.astype(np.int64), digest=" ".join(part.digests)
            ),
        )
        if counts.any():
            files.samples[sample.name] = sample
            yield sample


def _part_name(pair: PairStatistics, box: Box) -> str:
    return f"{pair.name}_y{box[0].start:05d}_x{box[1].start:05d}"


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
        shapes = f"{(sample.channels, *sample.sides)} {sample.sides}"
        header = f"{sample.group!r} {sample.position} {sample.spacing_um} {shapes}"
        digest = hashlib.blake2b(header.encode(errors="surrogateescape"), digest_size=16)
        if isinstance(sample, StoredSample) and sample.source.counts is not None:
            digest.update(f"{sample.source.digest} {sample.source.counts.tolist()}".encode())
            hashes[sample.name] = digest.hexdigest()
            continue
        for array in (sample.image, sample.mask, *([] if sample.gold is None else [sample.gold])):
            digest.update(np.ascontiguousarray(array).data)
        hashes[sample.name] = digest.hexdigest()
    return hashes


def fingerprint(images: Mapping[str, str]) -> str:
    """Return one hash of a data set from the `fingerprints` of its images."""
    text = json.dumps(sorted(images.items())).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()
