"""Fit the learned scores of contacts and objects (`septum.arrays.learned`) on images with known truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings, find_regions
from septum.arrays.learned import (
    LearnedDecisions,
    LogisticScore,
    contact_properties,
    decide,
    fit_score,
    merged_by,
    object_properties,
)
from septum.arrays.regions import PIXELS, Regions
from septum.metrics.contingency import Table, renumbered, table
from septum.metrics.matching import match
from septum.pairing.sample import Sample

FEWEST, FEWEST_OF_CONFIDENCE = 20, 5
"""Least number of examples of either kind, from which decisions are learned, and from which a confidence is stated."""

LEAST_CONFIDENCE = 0.3
"""Objects below this confidence lower the mean of SEG and AP50 where both are about 0.8: with N true objects, one of
confidence p adds 0.8 p / N to SEG and (p - 0.8 (1 - p)) / N to AP50."""


@dataclass(frozen=True, eq=False)
class ObjectExample:
    """The regions of one image with known truth.

    Attributes
    ----------
    regions
        Regions 1 .. N, from `septum.arrays.instances.find_regions`.
    shape
        Sides of the image.
    truth
        Table of the true objects and the regions.
    """

    regions: Regions
    shape: tuple[int, ...]
    truth: Table

    def decided(self, learned: LearnedDecisions) -> Table:
        """Return the table of the true and the predicted objects."""
        return renumbered(self.truth, decide(self.regions, learned, self.shape)[0])

    def packed(self) -> NDArray[np.int64]:
        """Return the content as one array, ``(n,)`` int64 of any values, for `unpacked`."""
        parts = [getattr(held, f.name) for held in (self.regions, self.truth) for f in fields(held)]
        shapes = [(p.size, p.shape[1] if p.ndim > 1 else 0) for p in parts]
        return np.concatenate([[len(self.shape), *self.shape], np.ravel(shapes), *(p.ravel() for p in parts)])

    @classmethod
    def unpacked(cls, flat: NDArray[np.int64]) -> ObjectExample:
        """Return the example of `packed`, ``(n,)`` int64 of any values."""
        rank, held = int(flat[0]), len(fields(Regions))
        shapes = flat[rank + 1 :][: 2 * (held + len(fields(Table)))].reshape(-1, 2)
        ends = rank + 1 + shapes.size + np.cumsum(shapes[:, 0])
        parts = [flat[end - size : end].copy() for end, (size, _) in zip(ends, shapes, strict=True)]
        parts = [p.reshape(-1, width) if width else p for p, (_, width) in zip(parts, shapes, strict=True)]
        return cls(Regions(*parts[:held]), tuple(int(n) for n in flat[1 : rank + 1]), Table(*parts[held:]))


def object_examples(
    sample: Sample, foreground: NDArray[np.float16], options: Sequence[ObjectSettings]
) -> tuple[ObjectExample, ...]:
    """Find the parts of objects that several settings make of an image, and compare them with its mask.

    Parameters
    ----------
    sample
        An image with its mask.
    foreground
        ``(*S) float16`` probability of the object class, 0 .. 1.
    options
        The settings.
    """
    found = (find_regions(foreground.astype(np.float32), one, spacing=sample.spacing_um) for one in options)
    return tuple(ObjectExample(regions, sample.mask.shape, table(sample.mask, labels)) for labels, regions in found)


def fit_decisions(
    examples: Sequence[ObjectExample], size_px: float, *, merge: bool, least: float, fewest: int = FEWEST
) -> LearnedDecisions | None:
    """Fit the scores on images with known truth.

    Parameters
    ----------
    examples
        The images.
    size_px
        Median size of true objects, positive.
    merge
        Fit a score of contacts and merge by it.
    least
        0 .. 1, as `LearnedDecisions.least`.
    fewest
        Least number of examples of either kind.

    Returns
    -------
    LearnedDecisions or None
        None with fewer examples.
    """
    contact = None
    if merge:
        contact = _fitted([_contacts(e, size_px) for e in examples if len(e.regions.pairs)], fewest)
        if contact is None:
            return None
    confidence = _fitted([_objects(e, contact, size_px) for e in examples if len(e.regions.number)], fewest)
    if confidence is None:
        return None
    return LearnedDecisions(size_px=size_px, contact=contact, confidence=confidence, least=least)


Examples = tuple[Mapping[str, NDArray[np.float64]], NDArray[np.bool_], NDArray[np.bool_]]
"""Properties by name, what is true, and which of the examples are used."""


def _fitted(images: Sequence[Examples], fewest: int) -> LogisticScore | None:
    if not images:
        return None
    names = images[0][0]
    values = {name: np.concatenate([one[name][used] for one, _, used in images]) for name in names}
    true = np.concatenate([true[used] for _, true, used in images])
    if min(np.count_nonzero(true), np.count_nonzero(~true)) < fewest:
        return None
    return fit_score(values, true)


def _contacts(example: ObjectExample, size_px: float) -> Examples:
    """Return the contacts of an image; those of two regions that lie in the same true object are true.

    A region lies in the object that holds at least half of it. Contacts of a region that lies in none by half, but in
    one by more than a fifth, are not used: merging and not merging are about as wrong.
    """
    owner, share = _owners(example)
    one, two = np.searchsorted(example.regions.number, example.regions.pairs).T
    inside, outside, known = share >= 0.5, share < 0.2, share >= 0
    true = inside[one] & inside[two] & (owner[one] == owner[two])
    clear = (inside[one] & (inside[two] | outside[two])) | (inside[two] & outside[one])
    return contact_properties(example.regions, size_px, example.shape), true, clear & known[one] & known[two]


def _owners(example: ObjectExample) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the true object that holds most of each region, and its share; -1 where too little is annotated."""
    ids, sizes = example.truth.predicted_objects
    shared = example.truth.overlaps
    owner, share = np.zeros(len(ids), np.int64), np.zeros(len(ids))
    order = np.argsort(shared.shared, kind="stable")
    owner[shared.column[order]] = shared.row[order]
    share[shared.column[order]] = (shared.shared / sizes[shared.column])[order]
    owners, shares = np.zeros(len(example.regions.number), np.int64), np.full(len(example.regions.number), -1.0)
    place = np.searchsorted(example.regions.number, ids)
    annotated = 2 * sizes >= example.regions.sums[place, PIXELS]
    owners[place[annotated]], shares[place[annotated]] = owner[annotated], share[annotated]
    return owners, shares


def _objects(example: ObjectExample, contact: LogisticScore | None, size_px: float) -> Examples:
    """Return the objects of an image; those that match a true object with an IoU of at least one half are true."""
    objects, root = merged_by(contact, example.regions, size_px, example.shape)
    counted = renumbered(example.truth, np.concatenate([[0], root]))
    ids, sizes = counted.predicted_objects
    annotated = np.isin(objects.number, ids)
    annotated[annotated] = 2 * sizes >= objects.sums[annotated, PIXELS]
    true = np.isin(objects.number, match(counted).predicted)
    return object_properties(objects, size_px, example.shape), true, annotated
