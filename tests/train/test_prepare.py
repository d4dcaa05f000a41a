from __future__ import annotations

from dataclasses import replace

import numpy as np

from septum import seeding
from septum.arrays.targets import UNANNOTATED
from septum.check.samples import Sample, fingerprint, fingerprints
from septum.train.fingerprint import Fingerprint
from septum.train.plan import Plan, make_plan
from septum.train.prepare import Sampler, image_chances, prepare


def _plan(classes: int = 2, sampler: str = "objects") -> Plan:
    facts = Fingerprint(channels=1, classes=classes, sides=(40, 40), anisotropy=(1, 1), object_px=None, gpu=False)
    plan, _ = make_plan(facts, width=2, depth=1, tile=36, values=("weights.balance=10",))
    return plan.model_copy(update={"sampler": sampler})


def _sample(mask: np.ndarray, name: str = "a") -> Sample:
    image = np.random.default_rng(0).normal(9, 3, (1, *mask.shape)).astype(np.float32)
    return Sample(name, "", 0, image, mask.astype(np.int32), None, None)


def _touching() -> np.ndarray:
    mask = np.zeros((40, 40), np.int32)
    mask[10:20, 5:15] = 3
    mask[10:20, 15:25] = 7
    mask[30:, 30:] = UNANNOTATED
    return mask


def test_touching_objects_are_set_apart_and_the_border_weighs_most() -> None:
    (prepared,) = prepare([_sample(_touching())], _plan(), kind="objects")
    gap = (prepared.target == 0) & (_touching() > 0)
    assert gap.any()
    assert gap[:, 14:16].sum() == gap.sum()
    assert prepared.weight[gap].min() > 3 * np.median(prepared.weight)
    assert (prepared.target[30:, 30:] == 255).all()
    assert (prepared.weight[30:, 30:] == 0).all()
    assert abs(float(prepared.image.mean())) < 0.1
    assert abs(float(prepared.image.std()) - 1) < 0.1
    assert len(prepared.places) == 2


def test_classes_of_two_values_get_a_border_between_their_pieces_and_more_classes_none() -> None:
    mask = np.zeros((40, 40), np.int32)
    mask[5:20, 5:18] = 1
    mask[5:20, 20:35] = 1
    (two,) = prepare([_sample(mask)], _plan(), kind="classes")
    between = two.weight[8:17, 18:20]
    assert between.min() > two.weight[30, 2] + 5
    mask[30:35, 30:35] = 2
    (three,) = prepare([_sample(mask)], _plan(3), kind="classes")
    assert len(np.unique(three.weight)) == 3
    assert three.weight[32, 32] > three.weight[10, 10] > three.weight[0, 0]  # the rarer, the heavier


def test_the_sampler_reaches_every_object_at_many_places_of_the_tile() -> None:
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
    assert len(offsets) > 60  # a quarter of the draws are for the single pixel; by area it would be one in 100
    assert np.std(offsets, axis=0).min() > plan.output[0] / 5


def _draws(sampler: Sampler, count: int) -> list[tuple[int, np.ndarray]]:
    return [sampler.draw(seeding.generator(3, "augment", step, 0)) for step in range(count)]


def _seen(draws: list[tuple[int, np.ndarray]], plan: Plan, number: int, pixel: np.ndarray) -> np.ndarray:
    """Where in the tile a pixel of an image lies, of all tiles whose output holds it."""
    offsets = np.asarray([pixel - center for index, center in draws if index == number])
    return offsets[(np.abs(offsets) <= np.array(plan.output) / 2).all(axis=1)]


def test_a_class_that_is_in_one_pixel_of_one_image_is_drawn_as_often_as_the_others_anywhere_in_the_tile() -> None:
    masks = [np.zeros((120, 120), np.int32) for _ in range(20)]
    for mask in masks:
        mask[30:90, 30:90] = 1
    masks[13][5, 7] = 2
    plan = _plan(3)
    images = list(prepare([_sample(m, str(n)) for n, m in enumerate(masks)], plan, kind="classes"))
    offsets = _seen(_draws(Sampler(images, plan), 600), plan, 13, np.array([5, 7]))
    assert 60 < len(offsets) < 140  # a sixth of the draws; by area it would be one in 200
    assert np.std(offsets, axis=0).min() > plan.output[0] / 5


def test_every_piece_of_a_class_is_reached_beside_a_large_one() -> None:
    mask = np.zeros((300, 300), np.int32)
    mask[100:, :] = 1
    specks = [(y, x) for y in range(5, 90, 28) for x in range(5, 300, 40)]
    for y, x in specks:
        mask[y, x] = 1
    plan = _plan()
    (image,) = prepare([_sample(mask)], plan, kind="classes")
    places = next(p.pixels for p in image.places if p.value == 1)
    assert {(int(y), int(x)) for y, x in places} >= set(specks)


def test_every_object_of_every_image_is_covered_and_where_it_lies_in_the_tile_is_spread() -> None:
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
    assert image_chances(images, plan)[0] < 0.5  # one tile's worth is annotated, of 100 of the other's size
    sampler = Sampler(images, plan)
    half = np.asarray(plan.output) / 2
    for step in range(200):
        index, center = sampler.draw(seeding.generator(0, "augment", step, 0))
        if index == 0:
            low, high = np.maximum(np.rint(center - half), 0).astype(int), np.rint(center + half + 1).astype(int)
            assert (mask[low[0] : high[0], low[1] : high[1]] != UNANNOTATED).any()


def test_density_sampling_prefers_the_foreground_and_avoids_what_is_ignored() -> None:
    mask = np.zeros((100, 100), np.int32)
    mask[:, :50] = 1
    mask[:, 90:] = UNANNOTATED
    plan = _plan(sampler="density")
    sampler = Sampler(list(prepare([_sample(mask)], plan, kind="objects")), plan)
    centers = [sampler.draw(seeding.generator(0, "a", i))[1] for i in range(400)]
    x = np.rint([c[1] for c in centers])
    assert (x < 90).all()
    assert 0.85 < np.mean(x < 50) < 0.99  # 50 columns of density 1 against 40 of 0.1: 0.93


def test_large_images_are_seen_more_often() -> None:
    plan = _plan()
    images = list(prepare([_sample(np.ones((20, 20))), _sample(np.ones((200, 200)))], plan, kind="objects"))
    chances = image_chances(images, plan)
    assert chances.sum() == 1
    assert chances[1] > 20 * chances[0]


def test_the_fingerprints_tell_data_apart_and_name_the_image_that_differs() -> None:
    a, b, other = _sample(_touching()), _sample(_touching() * 1), _sample(_touching(), "b")
    assert fingerprints([a]) == fingerprints([b])
    assert fingerprint(fingerprints([a, other])) == fingerprint(fingerprints([other, b]))
    changes = [
        {"mask": a.mask + 1},
        {"image": a.image + 1},
        {"gold": a.mask},
        {"spacing_um": (1.0, 2.0)},
        {"group": "movie", "position": 3},
    ]
    hashes = {fingerprints([replace(a, **change)])["a"] for change in [{}, *changes]}
    assert len(hashes) == 6
    before, after = fingerprints([a, other]), fingerprints([replace(a, mask=a.mask + 1), other])
    assert [name for name in before if before[name] != after[name]] == ["a"]
    assert fingerprint(before) != fingerprint(after)
    assert fingerprint(fingerprints([a])) != fingerprint(fingerprints([other]))


def test_fiji_weighs_every_class_of_foreground_alike_with_the_plans_border() -> None:
    mask = np.zeros((60, 60), np.int32)
    mask[10:20, 10:20], mask[10:20, 22:32], mask[50:, :5] = 1, 2, UNANNOTATED
    plan = _plan(3)
    for w0 in (50.0, 7.0):
        weights = plan.weights.model_copy(update={"method": "fiji", "w0": w0, "sigma_px": 6.0})
        fiji = plan.model_copy(update={"weights": weights})
        (three,) = prepare([_sample(mask)], fiji, kind="classes")
        assert set(np.unique(three.weight[mask > 0])) == {1.0}
        assert (three.weight[mask == UNANNOTATED] == 0).all()
        assert three.weight[0, 59] < 0.2  # background far from all objects
        two = fiji.model_copy(update={"network": _plan().network})
        (objects,) = prepare([_sample(mask)], two, kind="objects")
        d = np.array([1, 2]).sum()
        expected = 0.1 + 0.9 * np.exp(-1 / 200) + w0 * np.exp(-(d**2) / 72)
        assert abs(float(objects.weight[15, 20]) - expected) < 1e-3 * expected
