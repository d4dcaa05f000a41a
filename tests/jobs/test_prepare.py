from __future__ import annotations

from dataclasses import replace

import numpy as np

from septum import seeding
from septum.arrays.targets import IGNORE
from septum.jobs.load import Sample
from septum.jobs.plan import Facts, Plan, make_plan
from septum.jobs.prepare import draw_place, fingerprint, fingerprints, image_chances, prepare


def _plan(classes: int = 2, sampler: str = "objects") -> Plan:
    facts = Facts(channels=1, classes=classes, sides=(40, 40), anisotropy=(1, 1), object_px=None, gpu=False)
    plan, _ = make_plan(facts, width=2, depth=1, tile=36)
    return plan.model_copy(update={"sampler": sampler})


def _sample(mask: np.ndarray, name: str = "a") -> Sample:
    image = np.random.default_rng(0).normal(9, 3, (1, *mask.shape)).astype(np.float32)
    return Sample(name, "", 0, image, mask.astype(np.int32), None, None)


def _touching() -> np.ndarray:
    mask = np.zeros((40, 40), np.int32)
    mask[10:20, 5:15] = 3
    mask[10:20, 15:25] = 7
    mask[30:, 30:] = IGNORE
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
    images = list(prepare([_sample(mask)], plan, kind="objects"))
    chances = image_chances(images, plan)
    offsets = []
    for step in range(400):
        _, center = draw_place(images, plan, seeding.generator(0, "augment", step, 0), chances)
        offset = np.array([3, 4]) - center
        if (np.abs(offset) <= np.array(plan.output) / 2).all():
            offsets.append(offset)
    assert len(offsets) > 60  # a quarter of the draws are for the single pixel; by area it would be one in 100
    assert np.std(offsets, axis=0).min() > plan.output[0] / 5


def test_density_sampling_prefers_the_foreground_and_avoids_what_is_ignored() -> None:
    mask = np.zeros((100, 100), np.int32)
    mask[:, :50] = 1
    mask[:, 90:] = IGNORE
    plan = _plan(sampler="density")
    images = list(prepare([_sample(mask)], plan, kind="objects"))
    chances = image_chances(images, plan)
    centers = [draw_place(images, plan, seeding.generator(0, "a", i), chances)[1] for i in range(400)]
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
    mask[10:20, 10:20], mask[10:20, 22:32], mask[50:, :5] = 1, 2, IGNORE
    plan = _plan(3)
    for w0 in (50.0, 7.0):
        weights = plan.weights.model_copy(update={"method": "fiji", "w0": w0, "sigma_px": 6.0})
        fiji = plan.model_copy(update={"weights": weights})
        (three,) = prepare([_sample(mask)], fiji, kind="classes")
        assert set(np.unique(three.weight[mask > 0])) == {1.0}
        assert (three.weight[mask == IGNORE] == 0).all()
        assert three.weight[0, 59] < 0.2  # background far from all objects
        two = fiji.model_copy(update={"network": _plan().network})
        (objects,) = prepare([_sample(mask)], two, kind="objects")
        d = np.array([1, 2]).sum()
        expected = 0.1 + 0.9 * np.exp(-1 / 200) + w0 * np.exp(-(d**2) / 72)
        assert abs(float(objects.weight[15, 20]) - expected) < 1e-3 * expected
