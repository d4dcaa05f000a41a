"""How objects are made is tuned on held-out images: by probability and shape first, then by what is a speck."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from septum.arrays.instances import ObjectSettings, candidates, speck_sizes
from septum.jobs.load import Sample
from septum.jobs.validate import Tables, choose, object_sizes, object_tables, tuned


def _sample(number: int) -> tuple[Sample, np.ndarray]:
    """Nine true squares of 10 x 10, and nine false ones of 6 x 6 that the network is as sure of."""
    mask = np.zeros((96, 96), np.int32)
    sure = np.full(mask.shape, 0.02, np.float16)
    for i in range(9):
        y, x = 4 + 30 * (i // 3), 4 + 30 * (i % 3)
        mask[y : y + 10, x : x + 10] = i + 1
        sure[y : y + 10, x : x + 10] = sure[y + 16 : y + 22, x + 16 : x + 22] = 0.97
    image = np.zeros((1, *mask.shape), np.float32)
    return Sample(f"{number}", "", number, image, mask, gold=None, spacing_um=None), sure


def test_what_is_a_speck_is_tuned_on_the_same_images() -> None:
    made = [_sample(i) for i in range(3)]
    samples = [sample for sample, _ in made]
    assert speck_sizes(object_sizes(samples)) == [25, 30, 37, 45, 55, 67, 82, 100]
    calls: list[tuple[int, list[int]]] = []

    def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> Tables:
        calls.append((len(choices), sorted(again)))
        chosen = sorted(again) or [0, 2]  # no time for the other one
        return {i: object_tables(*made[i], choices) for i in chosen}

    best = tuned(measure, samples)
    assert calls == [(32, []), (8, [0, 2])]
    first = choose(measure(candidates(object_sizes(samples)), ()))[1]
    second = choose(measure([best], ()))[1]
    assert (first["AP50"], second["AP50"]) == (0.5, 1.0)
    assert best.min_size_px == 37  # the lowest that is larger than 36 pixels


def test_without_images_the_settings_are_the_usual_ones() -> None:
    assert tuned(lambda *_: {}, []) == ObjectSettings()
