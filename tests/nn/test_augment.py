"""Training tiles: exact crops, one coordinate field for image, labels and weights, determined by the draw."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from septum.nn.augment import AugmentSettings, Draw, draw, training_batch, training_tile
from septum.nn.intensity import IntensityTransform, transform_intensity
from septum.nn.spatial import coordinates, image_window, translated
from septum.seeding import generator

RNG = np.random.default_rng(0)
PRESETS = [AugmentSettings.none(), AugmentSettings.paper(), AugmentSettings.fiji(), AugmentSettings.auto()]


def example(shape: tuple[int, ...], channels: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(sum(shape))
    image = torch.from_numpy(rng.random((channels, *shape), dtype=np.float32))
    target = torch.from_numpy(rng.choice(np.array([0, 1, 2, 255], np.uint8), size=shape))
    return image, target, torch.from_numpy(rng.random(shape, dtype=np.float32))


def plain(center: tuple[float, ...], matrix: np.ndarray | None = None) -> Draw:
    rank = len(center)
    return Draw(
        center=np.array(center, np.float64),
        matrix=np.eye(rank) if matrix is None else matrix,
        displacement=np.zeros((rank, *[1] * rank), np.float32),
        grid_px=(1.0,) * rank,
        intensity=IntensityTransform(),
    )


@pytest.mark.parametrize(
    ("shape", "center", "tile", "output"),
    [
        ((30, 40), (15, 20), (12, 16), (4, 8)),  # inside
        ((30, 40), (1, 39), (21, 30), (11, 20)),  # a corner
        ((5, 7), (2, 3), (40, 33), (20, 13)),  # smaller than the tile, mirrored several times
        ((1, 9), (0, 4), (8, 8), (8, 8)),  # one pixel high
        ((6, 9, 8), (5, 0, 4), (10, 12, 7), (4, 6, 7)),
        ((1, 9, 8), (0, 8, 8), (1, 12, 20), (1, 2, 10)),
    ],
)
def test_no_augmentation_is_an_exact_crop_with_mirrored_borders(shape, center, tile, output):
    image, target, weight = example(shape, channels=2)
    drawn = draw(AugmentSettings.none(), generator(0, "test"), center=center, tile=tile)
    x, y, w = training_tile(image, target, weight, drawn, tile=tile, output=output)
    far = 60
    box = [slice(far + c - n // 2, far + c - n // 2 + n) for c, n in zip(center, tile, strict=True)]
    inner = [slice((n - m) // 2, (n + m) // 2) for n, m in zip(tile, output, strict=True)]
    pad = [(far, far)] * len(shape)
    assert np.array_equal(x, np.pad(image.numpy(), [(0, 0), *pad], mode="reflect")[(slice(None), *box)])
    assert np.array_equal(y, np.pad(target.numpy(), pad, mode="reflect")[tuple(box)][tuple(inner)])
    assert np.array_equal(w, np.pad(weight.numpy(), pad, mode="reflect")[tuple(box)][tuple(inner)])
    assert (x.dtype, y.dtype, w.dtype) == (torch.float32, torch.uint8, torch.float32)


@pytest.mark.parametrize("changes", [{}, {"mirror": True}])
def test_without_deformation_a_tile_at_any_place_holds_whole_pixels(changes):
    image, target, weight = example((40, 33), channels=1)
    settings = AugmentSettings(**changes)
    drawn = draw(settings, generator(0, "test"), center=(20.3, 17.6), tile=(16, 16))
    tile = training_tile(image, target, weight, drawn, tile=(16, 16), output=(16, 16))
    whole = draw(settings, generator(0, "test"), center=(20, 18), tile=(16, 16))
    expected = training_tile(image, target, weight, whole, tile=(16, 16), output=(16, 16))
    assert np.isin(tile[0].numpy(), image.numpy()).all()
    assert all(torch.equal(a, b) for a, b in zip(tile, expected, strict=True))


@pytest.mark.parametrize("preset", PRESETS[1:])
def test_the_presets_draw_tiles_at_any_place(preset):
    assert draw(preset, generator(0, "test"), center=(20.3, 17.6), tile=(16, 16)).center.tolist() == [20.3, 17.6]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_mirrors_and_quarter_turns_are_exact(turns, flip):
    image, target, weight = example((21, 21))
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    matrix = np.linalg.matrix_power(quarter, turns) @ np.diag([1, -1 if flip else 1])
    x, y, w = training_tile(image, target, weight, plain((10, 10), matrix), tile=(21, 21), output=(21, 21))

    def turned(array: torch.Tensor) -> np.ndarray:
        out = np.rot90(array.numpy(), turns, axes=(-2, -1))
        return np.flip(out, -1) if flip else out

    for found, source in ((x, image), (y, target), (w, weight)):
        assert np.array_equal(found.numpy(), turned(source))


def test_quarter_turn_of_a_volume_is_exact():
    image, target, weight = example((7, 9, 9))
    matrix = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    x, y, _ = training_tile(image, target, weight, plain((3, 4, 4), matrix), tile=(7, 9, 9), output=(7, 9, 9))
    assert np.array_equal(x.numpy(), np.flip(np.rot90(image.numpy(), axes=(2, 3)), 1))
    assert np.array_equal(y.numpy(), np.flip(np.rot90(target.numpy(), axes=(1, 2)), 0))


@pytest.mark.parametrize(
    ("shape", "tile", "output"), [((50, 44), (40, 36), (24, 20)), ((14, 20, 18), (9,) * 3, (5,) * 3)]
)
def test_image_weight_and_labels_follow_one_field(shape, tile, output):
    image, target, weight = example(shape, channels=2)
    choice = AugmentSettings(rotate=True, mirror=True, scale=(0.7, 1.4), elastic_sigma_px=2.0)
    drawn = draw(choice, generator(1, "test"), center=[n // 2 for n in shape], tile=tile)
    x, y, w = training_tile(image, target, weight, drawn, tile=tile, output=output)
    field = coordinates(drawn, tile).numpy().astype(np.float64)
    inner = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(tile, output, strict=True))
    middle = field[(slice(None), *inner)]
    for channel in range(2):
        expected = ndimage.map_coordinates(image[channel].numpy(), field, order=1, mode="mirror")
        np.testing.assert_allclose(x[channel], expected, atol=2e-4)
    np.testing.assert_allclose(w, ndimage.map_coordinates(weight.numpy(), middle, order=1, mode="mirror"), atol=2e-4)
    clear = (np.abs(middle % 1 - 0.5) > 1e-3).all(axis=0)
    assert np.array_equal(
        y.numpy()[clear], ndimage.map_coordinates(target.numpy(), middle, order=0, mode="mirror")[clear]
    )
    assert set(y.unique().tolist()) <= {0, 1, 2, 255}


def test_no_black_corners():
    for choice in PRESETS[1:]:
        choice = choice.model_copy(
            update={"brightness": 0, "contrast": 0, "black": 0, "white": 0, "slope": None, "chance": 0}
        )
        drawn = draw(choice, generator(2, "test"), center=(0, 0), tile=(64, 64))
        x, y, w = training_tile(
            torch.full((1, 30, 30), 5.0),
            torch.full((30, 30), 255, dtype=torch.uint8),
            torch.full((30, 30), 2.0),
            drawn,
            tile=(64, 64),
            output=(32, 32),
        )
        torch.testing.assert_close(x, torch.full_like(x, 5), atol=1e-5, rtol=0)
        torch.testing.assert_close(w, torch.full_like(w, 2), atol=1e-5, rtol=0)
        assert (y == 255).all()


def sample(seed: int, step: int, index: int) -> tuple[torch.Tensor, Draw]:
    rng = generator(seed, "augment", step, index)
    drawn = draw(AugmentSettings.auto().model_copy(update={"chance": 0.7}), rng, center=(20, 31), tile=(24, 24))
    image, target, weight = example((40 + index, 50))
    return training_tile(image, target, weight, drawn, tile=(24, 24), output=(16, 16)), drawn


def test_tile_does_not_depend_on_order_or_batch():
    forward = {i: sample(7, 3, i) for i in range(5)}
    backward = {i: sample(7, 3, i) for i in reversed(range(5))}
    sources = [example((40 + i, 50)) for i in range(5)]
    batch = training_batch(
        *map(list, zip(*sources, strict=True)), [forward[i][1] for i in range(5)], tile=(24, 24), output=(16, 16)
    )
    with torch.autocast("cpu", torch.bfloat16):
        mixed = sample(7, 3, 0)
    assert all(torch.equal(a, b) for a, b in zip(mixed[0], forward[0][0], strict=True))
    for i in range(5):
        for part in range(3):
            assert torch.equal(forward[i][0][part], backward[i][0][part])
            assert torch.equal(forward[i][0][part], batch[part][i])
    assert not torch.equal(forward[0][0][0], sample(7, 4, 0)[0][0])
    assert not torch.equal(forward[0][0][0], sample(8, 3, 0)[0][0])


@pytest.mark.parametrize("center", [(200, 150), (3, 298), (-40, 299), (150, 0)])
def test_tile_from_a_window_is_bit_identical(center):
    image, target, weight = example((300, 300))
    drawn = draw(AugmentSettings.auto(), generator(5, "test"), center=center, tile=(40, 48))
    whole = training_tile(image, target, weight, drawn, tile=(40, 48), output=(24, 32))
    part = image_window(drawn, (40, 48), (300, 300))
    assert np.prod([s.stop - s.start for s in part]) < 200 * 200
    cut = training_tile(
        image[:, *part], target[part], weight[part], translated(drawn, part), tile=(40, 48), output=(24, 32)
    )
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_draws_depend_on_step_and_index_and_settings_are_independent():
    def one(choice: AugmentSettings, *place: int) -> Draw:
        return draw(choice, generator(0, "augment", *place), center=(5, 5), tile=(64, 64))

    first, again, other = one(PRESETS[1], 3, 1), one(PRESETS[1], 3, 1), one(PRESETS[1], 1, 3)
    assert np.array_equal(first.matrix, again.matrix)
    assert np.array_equal(first.displacement, again.displacement)
    assert first.intensity == again.intensity
    assert not np.array_equal(first.matrix, other.matrix)
    unturned = one(PRESETS[1].model_copy(update={"rotate": False}), 3, 1)
    assert np.array_equal(unturned.matrix, np.eye(2))
    assert np.array_equal(unturned.displacement, first.displacement)


def test_rotations_are_uniform_and_mirrors_even():
    plane = AugmentSettings(rotate=True)
    angles, determinants, means = [], [], []
    for i in range(400):
        m = draw(plane, generator(0, "test", i), center=(0, 0), tile=(8, 8)).matrix
        np.testing.assert_allclose(m @ m.T, np.eye(2), atol=1e-12)
        assert np.linalg.det(m) == pytest.approx(1)
        angles.append(np.arctan2(m[1, 0], m[0, 0]))
        m = draw(
            plane.model_copy(update={"mirror": True}), generator(0, "test", i), center=(0,) * 3, tile=(8,) * 3
        ).matrix
        np.testing.assert_allclose(m @ m.T, np.eye(3), atol=1e-12)
        determinants.append(round(np.linalg.det(m)))
        means.append(draw(plane, generator(1, "test", i), center=(0,) * 3, tile=(8,) * 3).matrix)
    counts = np.histogram(angles, bins=8, range=(-np.pi, np.pi))[0]
    assert (np.abs(counts - 50) < 25).all()
    assert abs(np.mean(determinants)) < 0.15
    assert {np.linalg.det(m).round(6) for m in means} == {1.0}
    assert np.abs(np.mean(means, axis=0)).max() < 0.12  # Haar measure: no direction is preferred
    np.testing.assert_allclose(np.mean(np.square(means), axis=0), np.full((3, 3), 1 / 3), atol=0.06)


def test_anisotropic_volumes_rotate_in_physical_space_and_thick_ones_in_the_plane():
    choice = AugmentSettings.auto()
    spacing = np.array([2.0, 1.0, 1.0])
    drawn = draw(choice, generator(4, "test"), center=(9, 9, 9), tile=(16, 32, 32), spacing=spacing)
    physical = np.diag(spacing) @ drawn.matrix @ np.diag(1 / spacing)
    size = np.cbrt(abs(np.linalg.det(physical)))
    np.testing.assert_allclose(physical @ physical.T, size**2 * np.eye(3), atol=1e-12)
    assert 0.8 <= size <= 1.25
    assert drawn.matrix[0, 1] != 0
    displaced = np.stack(
        [
            draw(choice, generator(4, "test", i), center=(9,) * 3, tile=(99,) * 3, spacing=spacing).displacement
            for i in range(200)
        ]
    )
    np.testing.assert_allclose(displaced.std(axis=(0, 2, 3, 4)), [5, 10, 10], rtol=0.07)

    thick = draw(choice, generator(4, "test"), center=(9, 9, 9), tile=(16, 32, 32), spacing=(0.5, 0.1, 0.1))
    assert np.array_equal(np.abs(thick.matrix[0]), [1, 0, 0])
    assert np.array_equal(np.abs(thick.matrix[:, 0]), [1, 0, 0])
    assert thick.matrix[1, 2] != 0
    field = coordinates(thick, (16, 32, 32)).numpy()
    assert np.array_equal(np.unique(field[0]), np.arange(1, 17) if thick.matrix[0, 0] > 0 else np.arange(2, 18))
    assert np.array_equal(field[1:, 0], field[1:, 15])  # all planes have the same displacement
    assert thick.intensity.blur_px == () or thick.intensity.blur_px[0] == 0


def test_intensity_presets_stay_in_their_ranges():
    ramp = torch.linspace(0, 1, 201).expand(1, 1, 201)
    ends, slopes = [], []
    for i in range(200):
        gray = draw(AugmentSettings.fiji(), generator(0, "test", i), center=(0, 0), tile=(8, 8)).intensity
        curve = ramp.clone()
        transform_intensity(curve, gray)
        curve = curve.flatten().numpy().astype(np.float64)
        assert (np.diff(curve) > 0).all()
        ends.append(curve[[0, -1]])
        slopes.append((curve[101] - curve[99]) * 100)
    black, white = np.array(ends).T
    for values, low, high in ((black, -0.05, 0.05), (white, 0.95, 1.05), (np.array(slopes), 0.8, 1.2)):
        assert low - 1e-3 <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high + 1e-3
    paper = [
        draw(AugmentSettings.paper(), generator(0, "test", i), center=(0, 0), tile=(8, 8)).intensity for i in range(200)
    ]
    gain, middle = np.array([[g.gain, g.gain * 0.5 + g.offset] for g in paper]).T
    assert 0.9 <= gain.min() < 0.91 < 1.09 < gain.max() <= 1.1
    assert 0.4 <= middle.min() < 0.41 < 0.59 < middle.max() <= 0.6
    auto = [
        draw(AugmentSettings.auto(), generator(0, "test", i), center=(0, 0), tile=(8, 8)).intensity for i in range(300)
    ]
    for share in ([g.noise > 0 for g in auto], [g.gamma != 1 for g in auto], [bool(g.blur_px) for g in auto]):
        assert 0.13 < np.mean(share) < 0.27


def test_settings_are_closed_and_survive_json():
    for preset in PRESETS:
        assert AugmentSettings.model_validate_json(preset.model_dump_json()) == preset
    for wrong in (
        {"elastic_spacing_px": 150.0},
        {"elastic_grid": None},
        {"scale": (1.2, 0.8)},
        {"gamma": (0.0, 1.0)},
        {"chance": 1.5},
        {"rotation": True},
    ):
        with pytest.raises(ValidationError):
            AugmentSettings.model_validate(wrong)


def test_tile_and_output_without_a_common_center_are_refused():
    image, target, weight = example((9, 9))
    with pytest.raises(AssertionError):
        training_tile(image, target, weight, plain((4, 4)), tile=(8, 8), output=(5, 8))


def test_intensities_change_after_interpolation():
    image, target, weight = example((20, 20))
    drawn = plain((10, 10))
    x, _, w = training_tile(
        image,
        target,
        weight,
        replace(drawn, intensity=IntensityTransform(gain=2.0, offset=1.0)),
        tile=(8, 8),
        output=(4, 4),
    )
    torch.testing.assert_close(x, image[:, 6:14, 6:14] * 2 + 1)
    assert torch.equal(w, weight[8:12, 8:12])


def test_docs_and_example_run(tmp_path):
    root = Path(__file__).parents[2]
    page = (root / "docs" / "explanation" / "augmentation.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})  # noqa: S102
    script = runpy.run_path(str(root / "examples" / "augmentation.py"))
    script["main"](tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
