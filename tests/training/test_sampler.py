from __future__ import annotations

from pathlib import Path

import numpy as np

from septum import seeding
from septum.arrays.targets import UNANNOTATED
from septum.pairing.sample import Sample
from septum.training.fingerprint import Fingerprint
from septum.training.plan import Plan
from septum.training.prepare import prepare
from septum.training.presets import make_plan
from septum.training.sampler import Sampler, draw_probabilities
from septum.training.settings import TrainSettings


def _plan(classes: int = 2, sampler: str = "objects") -> Plan:
    fingerprint = Fingerprint(channels=1, classes=classes, sides=(40, 40), anisotropy=(1, 1))
    values = ("weights.balance=10", f"sampler={sampler}")
    return make_plan(fingerprint, TrainSettings(data=(), out=Path("run"), width=2, depth=1, tile=36, set=values))[0]


def _sample(mask: np.ndarray, name: str = "a") -> Sample:
    image = np.random.default_rng(0).normal(9, 3, (1, *mask.shape)).astype(np.float32)
    return Sample(name, "", 0, image, mask.astype(np.int32), None, None)


def test_a_single_pixel_object_is_drawn_at_many_places_of_the_tile() -> None:
    mask = np.zeros((200, 200), np.int32)
    mask[3, 4] = 1
    mask[100:160, 100:160] = 2
    plan = _plan()
    sampler = Sampler(list(prepare([_sample(mask)], plan, kind="objects")), plan)
    offsets = []
    for step in range(400):
        _, center = sampler.draw(seeding.generator(0, "augment", step, 0))
        offset = np.array([3, 4]) - center
        if (np.abs(offset) <= np.array(plan.output) / 2).all():
            offsets.append(offset)
    assert len(offsets) > 60  # a quarter of the draws; by area it would be one in 100
    assert np.std(offsets, axis=0).min() > plan.output[0] / 5


def _draws(sampler: Sampler, count: int) -> list[tuple[int, np.ndarray]]:
    return [sampler.draw(seeding.generator(3, "augment", step, 0)) for step in range(count)]


def _seen(draws: list[tuple[int, np.ndarray]], plan: Plan, number: int, pixel: np.ndarray) -> np.ndarray:
    """Return where a pixel lies in each of the tiles whose output contains it."""
    offsets = np.asarray([pixel - center for index, center in draws if index == number])
    return offsets[(np.abs(offsets) <= np.array(plan.output) / 2).all(axis=1)]


def test_a_class_of_one_pixel_is_drawn_as_often_as_the_others() -> None:
    masks = [np.zeros((120, 120), np.int32) for _ in range(20)]
    for mask in masks:
        mask[30:90, 30:90] = 1
    masks[13][5, 7] = 2
    plan = _plan(3)
    images = list(prepare([_sample(m, str(n)) for n, m in enumerate(masks)], plan, kind="classes"))
    offsets = _seen(_draws(Sampler(images, plan), 600), plan, 13, np.array([5, 7]))
    assert 60 < len(offsets) < 140  # a sixth of the draws; by area it would be one in 200
    assert np.std(offsets, axis=0).min() > plan.output[0] / 5


def test_every_object_of_every_image_is_drawn_at_many_places_of_the_tile() -> None:
    rng = np.random.default_rng(4)
    masks = []
    for number in range(3):
        mask = np.zeros((160, 160), np.int32)
        mask[60:150, 10:140] = 1
        for k in range(2, 8):
            y, x = rng.integers(0, 50), rng.integers(0, 150)
            mask[y : y + 1 + number, x : x + 2] = k
        masks.append(mask)
    plan = _plan()
    images = list(prepare([_sample(m, str(n)) for n, m in enumerate(masks)], plan, kind="objects"))
    draws = _draws(Sampler(images, plan), 3000)
    for number, mask in enumerate(masks):
        for value in np.unique(mask[mask > 0]):
            offsets = _seen(draws, plan, number, rng.permutation(np.argwhere(mask == value))[0])
            assert len(offsets) > 4, (number, value)
            assert np.ptp(offsets, axis=0).min() > plan.output[0] / 3, (number, value)


def test_tiles_of_a_sparsely_annotated_image_hold_annotated_pixels() -> None:
    mask = np.full((400, 400), UNANNOTATED, np.int32)
    mask[300:306, 50:56] = 0
    mask[306:310, 50:56] = 1
    plan = _plan()
    images = list(prepare([_sample(mask), _sample(np.zeros((40, 40)), "b")], plan, kind="classes"))
    assert draw_probabilities(images, plan)[0] < 0.5  # about one tile of 100 is annotated
    sampler = Sampler(images, plan)
    half = np.asarray(plan.output) / 2
    for step in range(200):
        index, center = sampler.draw(seeding.generator(0, "augment", step, 0))
        if index == 0:
            low, high = np.maximum(np.rint(center - half), 0).astype(int), np.rint(center + half + 1).astype(int)
            assert (mask[low[0] : high[0], low[1] : high[1]] != UNANNOTATED).any()


def test_density_sampling_prefers_foreground_and_avoids_ignored_pixels() -> None:
    mask = np.zeros((100, 100), np.int32)
    mask[:, :50] = 1
    mask[:, 90:] = UNANNOTATED
    plan = _plan(sampler="density")
    sampler = Sampler(list(prepare([_sample(mask)], plan, kind="objects")), plan)
    centers = [sampler.draw(seeding.generator(0, "a", i))[1] for i in range(400)]
    x = np.rint([c[1] for c in centers])
    assert (x < 90).all()
    assert 0.85 < np.mean(x < 50) < 0.99  # 50 columns of density 1 against 40 of 0.1: 0.93


def test_large_images_are_drawn_more_often() -> None:
    plan = _plan()
    images = list(prepare([_sample(np.ones((20, 20))), _sample(np.ones((200, 200)))], plan, kind="objects"))
    probabilities = draw_probabilities(images, plan)
    assert probabilities.sum() == 1
    assert probabilities[1] > 20 * probabilities[0]
