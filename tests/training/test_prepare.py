from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from septum.arrays.targets import UNANNOTATED, connected_components, object_target, separate_touching
from septum.arrays.weight_map import class_balance, class_counts, weight_map
from septum.check.samples import fingerprint, fingerprints
from septum.pairing.sample import Sample
from septum.settings import MaskKind
from septum.training import prepare as prepare_module
from septum.training import sampler as sampler_module
from septum.training.fingerprint import Fingerprint
from septum.training.plan import Plan
from septum.training.prepare import prepare
from septum.training.presets import make_plan
from septum.training.sampler import class_shares
from septum.training.settings import TrainSettings


def _plan(classes: int = 2, sampler: str = "objects") -> Plan:
    fingerprint = Fingerprint(channels=1, classes=classes, sides=(40, 40), anisotropy=(1, 1))
    values = ("weights.balance=10", f"sampler={sampler}")
    return make_plan(fingerprint, TrainSettings(data=(), out=Path("run"), width=2, depth=1, tile=36, set=values))[0]


def _sample(mask: np.ndarray, name: str = "a") -> Sample:
    image = np.random.default_rng(0).normal(9, 3, (1, *mask.shape)).astype(np.float32)
    return Sample(name, "", 0, image, mask.astype(np.int32), None, None)


def _touching() -> np.ndarray:
    mask = np.zeros((40, 40), np.int32)
    mask[10:20, 5:15] = 3
    mask[10:20, 15:25] = 7
    mask[30:, 30:] = UNANNOTATED
    return mask


def test_touching_objects_are_separated_and_their_border_weighs_most() -> None:
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


def test_two_classes_get_a_border_between_pieces_and_more_classes_none() -> None:
    mask = np.zeros((40, 40), np.int32)
    mask[5:20, 5:18] = 1
    mask[5:20, 20:35] = 1
    (two,) = prepare([_sample(mask)], _plan(), kind="classes")
    between = two.weight[8:17, 18:20]
    assert between.min() > two.weight[30, 2] + 5
    mask[30:35, 30:35] = 2
    (three,) = prepare([_sample(mask)], _plan(3), kind="classes")
    assert len(np.unique(three.weight)) == 3
    assert three.weight[32, 32] > three.weight[10, 10] > three.weight[0, 0]  # rare classes weigh more


def test_shares_of_classes_are_those_of_the_weight_of_their_pixels() -> None:
    mask = np.zeros((40, 40), np.int32)
    mask[:20], mask[0, :2], mask[30:] = 1, 2, UNANNOTATED
    images = tuple(prepare([_sample(mask), _sample(np.zeros((40, 40)))], _plan(4), kind="classes"))
    weights = [np.concatenate([i.weight[i.target == k] for i in images]).sum() for k in range(3)]
    expected = np.array([*weights, 1.0]) / (sum(weights) + 1)
    np.testing.assert_allclose(class_shares(images, 4), expected, rtol=1e-6)
    assert expected[2] > 5 * 2 / 2800  # rare classes weigh more


@pytest.mark.parametrize(("kind", "shape", "spacing"), [("objects", (1000, 900), None), ("classes", (1000, 900), None)])
def test_weights_of_blocks_are_those_of_the_whole_image_to_the_bit(
    kind: MaskKind, shape: tuple[int, ...], spacing: tuple[float, ...] | None
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=shape), 4)
    mask = ndimage.label(noise > 0.03)[0] if kind == "objects" else (noise > 0.03).astype(int)
    mask[:30, 700:] = UNANNOTATED
    (image,) = prepare([replace(_sample(mask), spacing_um=spacing)], _plan(), kind=kind)
    assert len(image.blocks) == 4
    corner = tuple(slice(n - 40, n) for n in shape)
    before = image.arrays(corner)[2][corner].copy()
    labels = separate_touching(mask) if kind == "objects" else np.where(mask < 0, mask, connected_components(mask == 1))
    target = object_target(labels)
    balance = class_balance(class_counts(target, classes=2), cap=10)
    weights = _plan().weights
    whole = weight_map(labels, target, balance, w0=weights.w0, sigma_px=weights.sigma_px, spacing=spacing)
    np.testing.assert_array_equal(image.weight, whole)
    np.testing.assert_array_equal(before, whole[corner])
    assert (whole > 2 * balance.max()).any()


def test_only_the_part_that_a_tile_needs_is_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    weigh = prepare_module.weight_map
    monkeypatch.setattr(prepare_module, "weight_map", lambda *args, **named: made.append(0) or weigh(*args, **named))
    mask = np.zeros((1600, 800), np.int32)
    mask[10:20, 10:20] = 1
    (image, other) = prepare([_sample(mask), _sample(mask[:300])], _plan(), kind="objects")
    assert (image.annotated, image.values, image.shape, made) == (mask.size, {1}, mask.shape, [])
    image.arrays((slice(0, 100), slice(0, 100)))
    assert len(made) == 1
    image.arrays((slice(50, 800), slice(0, 100)))
    assert len(made) == 2
    assert other.weight.shape == (300, 800) and len(made) == 4


def test_every_piece_of_a_class_has_a_place() -> None:
    mask = np.zeros((300, 300), np.int32)
    mask[100:, :] = 1
    specks = [(y, x) for y in range(5, 90, 28) for x in range(5, 300, 40)]
    for y, x in specks:
        mask[y, x] = 1
    plan = _plan()
    (image,) = prepare([_sample(mask)], plan, kind="classes")
    places = next(p.pixels for p in image.places if p.value == 1)
    assert {(int(y), int(x)) for y, x in places} >= set(specks)


def test_hashes_of_images_differ_if_any_part_differs() -> None:
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


def test_fiji_weighs_all_foreground_classes_alike_and_adds_the_border() -> None:
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


def test_shares_of_many_blocks_come_from_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "_BLOCK", {2: 60})
    mask = np.random.default_rng(0).integers(0, 3, (60, 48)).repeat(5, axis=0).repeat(5, axis=1)
    divided = prepare([_sample(mask)], _plan(3), kind="classes")
    assert len(divided[0].blocks) == 20
    weighed = []
    arrays = type(divided[0]).arrays
    monkeypatch.setattr(type(divided[0]), "arrays", lambda image, box: weighed.append(box) or arrays(image, box))
    shares = class_shares(divided, 3)
    assert len(weighed) == 16
    weighed.clear()
    monkeypatch.setattr(sampler_module, "_SHARES_PX", 5 * 60 * 60)  # not fewer than half
    fewer = class_shares(divided, 3)
    assert len(weighed) == 8
    np.testing.assert_allclose(fewer, shares, atol=0.1)


def test_a_class_in_none_of_the_blocks_has_the_share_of_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "_BLOCK", {2: 10})
    mask = np.zeros((10, 1000), np.int32)
    mask[:, ::2], mask[:, 10:20] = 1, 2  # the second of a hundred blocks holds nothing but class 2
    shares = class_shares(prepare([_sample(mask)], _plan(3), kind="classes"), 3)
    assert shares[2] == pytest.approx(0.01, rel=0.05) and shares.sum() == pytest.approx(1, rel=0.02)
