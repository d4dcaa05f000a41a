from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from septum.arrays.instances import ObjectSettings, find_regions, label_each, label_objects
from septum.arrays.learned import (
    CONTACT_PROPERTIES,
    OBJECT_PROPERTIES,
    LearnedDecisions,
    LogisticScore,
    contact_properties,
    decide,
    fit_score,
    object_properties,
)
from septum.arrays.regions import ellipsoid_share, merge_regions, moved_sums

STRICT = ObjectSettings(merge_ratio=1.0, seed_level=0.5, min_size_px=1)


def score(bias=0.0, **weights):
    ones, zeros = (1.0,) * len(weights), (0.0,) * len(weights)
    return LogisticScore(
        properties=tuple(weights), mean=zeros, deviation=ones, weights=tuple(weights.values()), bias=bias
    )


def disks(*circles, shape=(60, 90)):
    rows, columns = np.indices(shape)
    inside = np.zeros(shape, bool)
    for y, x, radius in circles:
        inside |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return inside.astype(np.float32)


def blobs(shape, seed=0):
    noise = gaussian_filter(np.random.Generator(np.random.Philox(seed)).random(shape), 2)
    return np.clip((noise - noise.mean()) / noise.std() * 0.3 + 0.6, 0, 1).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 50), (14, 16, 18)])
def test_sums_of_regions_equal_those_of_their_pixels(shape):
    foreground = blobs(shape)
    labels, regions = find_regions(foreground, ObjectSettings(merge_ratio=0.8))
    rank, values = len(shape), np.rint(foreground * np.float32(65535)).astype(np.int64)
    assert len(regions.number) == labels.max() > 5
    for number, first, sums, peaks in zip(regions.number, regions.first, regions.sums, regions.peaks, strict=True):
        inside = labels == number
        places = np.argwhere(inside)
        assert np.ravel_multi_index(tuple(places[0]), shape) == first
        near = places - places[0]
        ringed = np.pad(labels, 1, constant_values=-1)
        touching = [np.roll(ringed, step, axis)[(slice(1, -1),) * rank] for axis in range(rank) for step in (1, -1)]
        open_faces = sum(int((other[inside] == 0).sum()) for other in touching)
        seconds = [(near[:, a] * near[:, b]).sum() for a in range(rank) for b in range(a, rank)]
        assert sums.tolist() == [
            len(places),
            values[inside].sum(),
            (foreground[inside] > 0.9).sum(),
            open_faces,
            sum(int(values[inside & (other == 0)].sum()) for other in touching),
            sum(int((other[inside] == -1).sum()) for other in touching),
            *near.sum(axis=0),
            *seconds,
        ]
        assert peaks[0] == values[inside].max()


def test_contacts_are_the_faces_between_two_regions():
    labels, regions = find_regions(disks((30, 30, 15), (30, 54, 15)), STRICT)
    assert regions.pairs.tolist() == [[1, 2]]
    beside = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
    below = (labels[1:] != labels[:-1]) & (labels[1:] > 0) & (labels[:-1] > 0)
    faces = int(beside.sum() + below.sum())
    assert regions.contacts.tolist() == [[faces, faces * 65535]]
    assert regions.saddles[0, 0] == 65535 and regions.saddles[0, 1] < regions.peaks[:, 1].min()


def test_moments_far_from_the_origin_are_exact():
    sums = np.zeros((1, 11), np.int64)
    y, x = np.array([2**31, 2**31 + 3]), np.array([2**32 + 1, 2**32 + 5])  # squares exceed 64 bits
    sums[0, 0] = 2
    with np.errstate(over="ignore"):
        sums[0, 6:] = [y.sum(), x.sum(), (y * y).sum(), (y * x).sum(), (x * x).sum()]
    shape = (2**27, 2**33)  # wide enough to hold the columns
    start = np.zeros(1, np.int64)
    moved = moved_sums(sums, start, np.array([2**32 + 1]), shape)
    assert moved[0, 7] == 4 and moved[0, 10] == 16


def test_merged_regions_equal_those_of_merged_labels():
    foreground = blobs((40, 50), seed=3)
    labels, regions = find_regions(foreground, ObjectSettings(merge_ratio=0.9))
    one, two = regions.pairs[0]
    root = np.where(regions.number == two, one, regions.number)
    merged = merge_regions(regions, root, labels.shape)
    assert two not in merged.number and len(merged.number) == len(regions.number) - 1
    both = np.argwhere((labels == one) | (labels == two))
    row = merged.sums[merged.number == one][0]
    near = both - both[0]
    assert row[0] == len(both) and row[6:].tolist() == [
        *near.sum(axis=0),
        (near[:, 0] ** 2).sum(),
        (near[:, 0] * near[:, 1]).sum(),
        (near[:, 1] ** 2).sum(),
    ]


def test_ellipsoid_share_is_one_for_ellipses_and_larger_for_other_shapes():
    rows, columns = np.indices((60, 90))
    ellipse = ((rows - 30) / 12) ** 2 + ((columns - 40) / 30) ** 2 <= 1
    ring = disks((30, 30, 20)) - disks((30, 30, 15))
    shares = [
        ellipsoid_share(find_regions(one.astype(np.float32), ObjectSettings())[1].sums, 2)[0]
        for one in (ellipse, disks((30, 30, 20)), ring)
    ]
    assert shares[:2] == pytest.approx([1, 1], abs=0.01) and shares[2] > 2


def test_a_low_neck_keeps_two_disks_apart_and_a_wide_one_merges_them():
    learned = LearnedDecisions(size_px=700, contact=score(-8.0, neck=10.0), confidence=score(mean=1.0))
    for distance, count in ((28, 2), (10, 1)):
        settings = STRICT.model_copy(update={"learned": learned})
        assert label_objects(disks((30, 30, 15), (30, 30 + distance, 15)), settings).max() == count


def test_objects_of_low_confidence_are_removed_and_the_others_numbered_in_scan_order():
    foreground = disks((10, 10, 2), (30, 30, 15), (30, 70, 12))
    learned = LearnedDecisions(size_px=700, confidence=score(2.0, size=1.0), least=0.5)
    settings = ObjectSettings(min_size_px=1, learned=learned)
    ((_, labels, confidence),) = label_each(foreground, [settings])
    assert labels[10, 10] == 0 and labels[30, 30] == 1 and labels[30, 70] == 2
    sizes = np.bincount(labels.ravel())[1:]
    assert confidence == pytest.approx(1 / (1 + np.exp(-2 - np.log(sizes / 700))))
    unfiltered = settings.model_copy(update={"learned": learned.model_copy(update={"least": 0.0})})
    assert label_objects(foreground, unfiltered).max() == 3


def test_without_regions_there_is_nothing_to_decide():
    _, regions = find_regions(np.zeros((5, 6), np.float32), ObjectSettings())
    numbers, confidence = decide(regions, LearnedDecisions(size_px=5, confidence=score(mean=1.0)), (5, 6))
    assert numbers.tolist() == [0] and len(confidence) == 0


def test_fitted_score_recovers_the_weights_of_its_examples():
    rng = np.random.Generator(np.random.Philox(1))
    values = {"mean": rng.normal(2, 3, 20_000), "size": rng.normal(0, 1, 20_000)}
    chance = 1 / (1 + np.exp(-(0.5 * (values["mean"] - 2) - 2 * values["size"] + 0.3)))
    fitted = fit_score(values, rng.random(20_000) < chance)
    assert fitted.weights == pytest.approx([1.5, -2], abs=0.1) and fitted.bias == pytest.approx(0.3, abs=0.1)
    assert np.abs(fitted(values) - chance).mean() < 0.01


def test_a_score_that_separates_all_examples_stays_finite():
    fitted = fit_score({"mean": np.array([0.0, 0.1, 0.9, 1.0])}, np.array([False, False, True, True]))
    assert 0 < fitted({"mean": np.array([0.0])})[0] < 0.5 < fitted({"mean": np.array([1.0])})[0] < 1


def test_all_properties_have_the_names_that_a_model_file_may_use():
    _, regions = find_regions(blobs((40, 50)), ObjectSettings(merge_ratio=0.9))
    assert tuple(contact_properties(regions, 50, (40, 50))) == CONTACT_PROPERTIES
    assert tuple(object_properties(regions, 50, (40, 50))) == OBJECT_PROPERTIES
    with pytest.raises(ValidationError, match="properties among"):
        LearnedDecisions(size_px=5, confidence=score(color=1.0))
    with pytest.raises(ValidationError, match="a weight for each"):
        LogisticScore(properties=("mean",), mean=(0.0,), deviation=(1.0,), weights=(), bias=0.0)
    settings = ObjectSettings(learned=LearnedDecisions(size_px=5, confidence=score(mean=0.1)))
    assert ObjectSettings.model_validate_json(settings.model_dump_json()) == settings
