"""Synthetic cells: shape, values and statistics of image and truth."""

import subprocess
import sys
import time
from pathlib import Path

import cc3d
import numpy as np
import pytest
from PIL import Image

from septum.demo.otsu_watershed import otsu_watershed
from septum.demo.synthetic_cells import generate


def test_the_same_seed_gives_the_same_image_and_another_seed_another():
    image, labels = generate(3, shape=(64, 80))
    again, labels_again = generate(3, shape=(64, 80))
    other, _ = generate(4, shape=(64, 80))
    assert np.array_equal(image, again)
    assert np.array_equal(labels, labels_again)
    assert not np.array_equal(image, other)


@pytest.mark.parametrize("shape", [(256, 256), (70, 130), (1, 1), (5, 90), (20, 48, 40)])
def test_shape_dtype_and_values_of_image_and_truth(shape):
    image, labels = generate(0, shape=shape)
    assert image.shape == (1, *shape)
    assert image.dtype == np.float32
    assert labels.shape == shape
    assert labels.dtype == np.int32
    assert np.array_equal(image, image.astype(np.uint8))  # fits into 8 bits
    assert set(np.unique(labels)) - {0} == set(range(1, labels.max() + 1))


@pytest.mark.parametrize("seed", range(4))
def test_every_cell_is_connected(seed):
    _, labels = generate(seed)
    pieces = cc3d.connected_components(labels, connectivity=8)
    assert pieces.max() == labels.max()


def test_every_cell_of_a_volume_is_connected():
    _, labels = generate(0, shape=(24, 64, 64), radius_px=9)
    assert labels.max() > 10
    assert cc3d.connected_components(labels, connectivity=26).max() == labels.max()


def test_cells_touch_each_other_and_the_border():
    _, labels = generate(0)
    left, right = labels[:, :-1], labels[:, 1:]
    touching = {tuple(sorted(pair)) for pair in zip(left[left != right], right[left != right], strict=True)}
    assert sum(0 not in pair for pair in touching) > labels.max() / 4
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    assert np.unique(rim[rim > 0]).size >= 8


def test_cells_cover_about_half_of_the_area_and_differ_in_size():
    covered, sizes = [], []
    for seed in range(4):
        _, labels = generate(seed)
        inner = labels[20:-20, 20:-20]
        covered.append((labels > 0).mean())
        sizes.append(np.bincount(inner[inner > 0]))
    areas = np.concatenate(sizes)
    assert 0.35 < np.mean(covered) < 0.6
    assert np.percentile(areas[areas > 60], 90) > 2 * np.percentile(areas[areas > 60], 10)


def test_the_number_of_cells_is_kept_if_there_is_room():
    # All twelve fit; those in the margin are cut off.
    _, labels = generate(1, shape=(256, 256), cells=12, radius_px=8)
    assert 4 <= labels.max() <= 12
    _, none = generate(1, shape=(64, 64), cells=0)
    assert none.max() == 0


def test_cells_are_brighter_than_the_background_in_even_light():
    image, labels = generate(2, uneven_light=0.0, debris=0.0)
    assert image[0][labels > 0].mean() > 2.5 * image[0][labels == 0].mean()


def test_uneven_light_darkens_by_the_given_share():
    even, _ = generate(5, cells=0, uneven_light=0.0, debris=0.0)
    uneven, _ = generate(5, cells=0, uneven_light=0.8, debris=0.0)
    dark, bright = np.percentile(uneven - 8, [2, 98])
    assert np.percentile(even - 8, 2) > 0
    assert dark < 0.5 * bright


def test_shot_noise_falls_with_the_square_root_of_the_photons():
    def deviation(photons):
        image, labels = generate(0, photons=photons, uneven_light=0.0, debris=0.0)
        bright = (image[0] > 40) & (image[0] < 180) & (labels > 0)
        steps = np.diff(image[0], axis=1)[bright[:, 1:]]
        return np.median(np.abs(steps))

    assert deviation(50) > 1.6 * deviation(800)


def test_a_threshold_fails_in_uneven_light():
    def found(uneven):
        hits = 0.0
        for seed in range(2):
            image, labels = generate(seed, uneven_light=uneven, debris=0.0)
            hits += ((otsu_watershed(image, background_px=None) > 0) == (labels > 0)).mean() / 2
        return hits

    assert found(0.0) > found(0.75) + 0.05


def test_an_image_is_created_quickly():
    generate(0)
    times = []
    for seed in range(5):
        begin = time.process_time()
        generate(seed)
        times.append(time.process_time() - begin)
    assert min(times) < 0.2  # 0.04 s of CPU time


def test_the_example_writes_a_data_folder(tmp_path):
    program = Path(__file__).parents[2] / "examples" / "make_cells.py"
    subprocess.run([sys.executable, program, tmp_path / "cells", "2", "64"], check=True, capture_output=True)
    image, labels = generate(1, shape=(64, 64))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "cells" / "images" / "cells-02.png")), image[0])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "cells" / "masks" / "cells-02.png")), labels)
