"""Pictures: the right pixels in the right colors."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from septum.report.pictures import (
    CAPTION_PX,
    GAP_PX,
    LARGEST_PX,
    color,
    panel,
    to_picture,
)

SIDE = 400  # nothing is enlarged or reduced at this side


def two_squares(*boxes):
    labels = np.zeros((SIDE, SIDE), np.int32)
    for name, (y, x, side) in enumerate(boxes, start=1):
        labels[y : y + side, x : x + side] = name
    return labels


def pixel(path, place, y, x):
    """The color at (y, x) of panel number `place`."""
    picture = np.asarray(Image.open(path))
    return picture[CAPTION_PX + y, place * (SIDE + GAP_PX) + x]


def hue(rgb):
    red, green, blue = (float(v) for v in rgb)
    return np.array([red, green, blue]) / max(red, green, blue)


@pytest.fixture
def dark():
    return np.zeros((1, SIDE, SIDE), np.float32)


def test_a_matching_object_has_the_color_of_the_true_one_for_any_id(tmp_path, dark):
    truth = two_squares((50, 50, 100), (200, 200, 100))
    predicted = np.where(truth == 1, 7, np.where(truth == 2, 3, 0)).astype(np.uint16)
    path = panel(tmp_path / "p.png", dark, {"truth": truth, "prediction": predicted})
    for y, x in ((100, 100), (250, 250)):
        assert np.array_equal(pixel(path, 1, y, x), pixel(path, 2, y, x))
        assert pixel(path, 1, y, x).max() > 60
    assert np.abs(hue(pixel(path, 1, 100, 100)) - hue(pixel(path, 1, 250, 250))).max() > 0.3


def test_a_split_object_shows_a_new_color(tmp_path, dark):
    truth = two_squares((100, 100, 200))
    predicted = truth.copy()
    predicted[100:300, 250:300] = 2
    path = panel(tmp_path / "p.png", dark, {"truth": truth, "prediction": predicted})
    assert np.array_equal(pixel(path, 2, 200, 150), pixel(path, 1, 200, 150))
    assert np.abs(hue(pixel(path, 2, 200, 275)) - hue(pixel(path, 1, 200, 275))).max() > 0.3


def test_a_merged_object_has_the_color_of_its_larger_part(tmp_path, dark):
    truth = two_squares((100, 50, 60), (100, 110, 120))
    path = panel(tmp_path / "p.png", dark, {"truth": truth, "prediction": (truth > 0).astype(np.int32)})
    assert np.array_equal(pixel(path, 2, 130, 170), pixel(path, 1, 130, 170))
    assert not np.array_equal(pixel(path, 2, 130, 80), pixel(path, 1, 130, 80))


def test_outlines_lie_inside_the_edge_of_each_object(tmp_path, dark):
    truth = two_squares((100, 100, 100))
    path = panel(tmp_path / "p.png", dark, {"truth": truth})
    rim, inside, outside = (pixel(path, 1, 150, x) for x in (100, 101, 99))
    assert tuple(rim) == color(0)
    assert np.allclose(inside, 0.55 * rim, atol=1)
    assert np.array_equal(outside, [0, 0, 0])


def test_pixels_that_are_not_annotated_are_gray(tmp_path, dark):
    truth = two_squares((100, 100, 100))
    truth[300:] = -1
    path = panel(tmp_path / "p.png", dark, {"truth": truth, "prediction": np.abs(truth)})
    assert np.array_equal(pixel(path, 1, 350, 200), [90, 90, 90])


def test_classes_and_probabilities_are_gray(tmp_path, dark):
    classes = np.repeat(np.arange(4), 100)[:, None].repeat(SIDE, axis=1)
    probability = np.full((SIDE, SIDE), 0.5, np.float32)
    path = panel(tmp_path / "p.png", dark, {"classes": classes, "membrane": probability}, kind="classes")
    assert [int(pixel(path, 1, y, 5)[0]) for y in (50, 150, 250, 350)] == [0, 85, 170, 255]
    assert np.array_equal(pixel(path, 2, 9, 9), [128, 128, 128])


def test_volumes_show_their_middle_slice(tmp_path):
    image = np.zeros((1, 5, SIDE, SIDE), np.float32)
    image[0, 2, 100, :] = 1
    labels = np.zeros((5, SIDE, SIDE), np.int32)
    labels[2, 200:300, 200:300] = 5
    path = panel(tmp_path / "p.png", image, {"truth": labels})
    assert pixel(path, 0, 100, 7)[0] == 255
    assert pixel(path, 0, 101, 7)[0] == 0
    assert pixel(path, 1, 250, 250).max() > 60


def test_large_images_are_reduced_and_small_ones_enlarged(tmp_path):
    for sides, expected in (((2100, 700), (LARGEST_PX, 233)), ((50, 25), (400, 200)), ((450, 30), (450, 30))):
        labels = np.zeros(sides, np.int32)
        path = panel(tmp_path / "p.png", np.zeros((1, *sides), np.float32), {"truth": labels})
        height, width, _ = np.asarray(Image.open(path)).shape
        assert height == CAPTION_PX + expected[0]
        assert width == 2 * max(expected[1], 150) + GAP_PX


def test_three_channels_are_shown_as_red_green_and_blue_and_two_as_their_mean():
    image = np.zeros((3, 4, 4), np.float32)
    image[0, :2] = 100
    image[2, 2:] = 20
    assert np.array_equal(to_picture(image)[0, 0], [255, 0, 0])
    assert np.array_equal(to_picture(image)[3, 3], [0, 0, 51])
    assert np.array_equal(to_picture(image[:2])[:, 0, 0], [255, 255, 0, 0])
    assert to_picture(np.full((1, 4, 4), 7.0)).max() == 0


def test_colors_of_many_objects_differ():
    colors = {color(i) for i in range(500)}
    assert len(colors) > 480
    assert all(max(c) > 150 for c in colors)  # seen on black
    following = [np.abs(np.subtract(color(i), color(i + 1))).sum() for i in range(500)]
    assert min(following) > 80


def test_long_captions_are_shortened(tmp_path):
    image = np.zeros((1, SIDE, SIDE), np.float32)
    path = panel(tmp_path / "p.png", image, {}, title="a name that is far too long " * 10)
    assert np.asarray(Image.open(path)).shape == (CAPTION_PX + SIDE, SIDE, 3)


def test_importing_pictures_loads_no_heavy_library():
    program = (
        "import sys; from septum.report import pictures;"
        "assert not {'PIL', 'torch', 'scipy'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
