"""Tables of objects: equal to scikit-image, and equal whatever part of the image is held at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table

from septum.errors import DataError
from septum.export.measure import channels_of, measure_objects
from septum.export.runs import split_labels
from septum.io.image import Image

SAME = {
    "label": "label",
    "area_px": "area",
    "centroid_y_px": "centroid-0",
    "centroid_x_px": "centroid-1",
    "bbox_y_min_px": "bbox-0",
    "bbox_x_min_px": "bbox-1",
    "bbox_y_max_px": "bbox-2",
    "bbox_x_max_px": "bbox-3",
    "perimeter_px": "perimeter",
    "major_axis_px": "axis_major_length",
    "minor_axis_px": "axis_minor_length",
    "eccentricity": "eccentricity",
    "orientation_rad": "orientation",
    "feret_max_px": "feret_diameter_max",
    "solidity": "solidity",
    "mean_0": "intensity_mean-0",
    "min_0": "intensity_min-0",
    "max_0": "intensity_max-0",
    "std_0": "intensity_std-0",
    "mean_1": "intensity_mean-1",
}
PROPERTIES = tuple(dict.fromkeys(name.partition("-")[0] for name in SAME.values()))


def blobs(seed: int, sides: tuple[int, ...] = (90, 110), sigma: float = 2.5, share: float = 0.55) -> NDArray[np.int32]:
    """Return objects of any shape, with holes, that touch each other; labels with gaps."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=sides), sigma)
    parts, count = ndimage.label(smooth > np.quantile(smooth, share))
    parts[smooth < np.quantile(smooth, 0.2)] = count + 1  # one label, many pieces
    return (parts * 3).astype(np.int32)


def image_of(labels: NDArray[Any], channels: int = 2, dtype: str = "uint16") -> Image:
    rng = np.random.default_rng(7)
    values = rng.integers(0, 60_000, (channels, *labels.shape)).astype(dtype)
    return Image.from_array(values / 7 if dtype.startswith("float") else values, "CYX" if labels.ndim == 2 else "CZYX")


def label_image(labels: NDArray[Any], **known: Any) -> Image:
    return Image.from_array(labels[None], "CYX" if labels.ndim == 2 else "CZYX", **known)


@pytest.mark.parametrize("seed", range(4))
def test_a_table_equals_that_of_scikit_image(seed: int) -> None:
    labels = blobs(seed)
    image = image_of(labels)
    (frame,) = split_labels(label_image(labels))
    ours = measure_objects(frame, channels_of(image))
    theirs = regionprops_table(labels, image.array.transpose(1, 2, 0), properties=PROPERTIES)
    for name, other in SAME.items():
        if name == "orientation_rad":  # a line at pi / 2 is one at -pi / 2; that of a round object is any angle
            long = ours["eccentricity"] > 1e-3
            for wave in (np.sin, np.cos):
                np.testing.assert_allclose(wave(2 * ours[name][long]), wave(2 * theirs[other][long]), atol=1e-9)
        else:
            np.testing.assert_allclose(ours[name], theirs[other], rtol=1e-9, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("height", [1, 2, 3, 17, 64])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_a_table_in_bands_equals_that_of_the_whole_image_number_by_number(height: int, dtype: str) -> None:
    labels = blobs(5)
    image = image_of(labels, dtype=dtype)
    (frame,) = split_labels(label_image(labels, pixel_size_um={"Y": 0.3, "X": 0.3}))
    whole = measure_objects(frame, channels_of(image), height=1000)
    bands = measure_objects(frame, channels_of(image), height=height)
    assert whole.keys() == bands.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], bands[name], err_msg=name)


def test_a_volume_is_measured_as_by_scikit_image() -> None:
    labels = blobs(3, (12, 40, 30), 2.0)
    image = image_of(labels)
    (frame,) = split_labels(label_image(labels, pixel_size_um={"Z": 2.0, "Y": 0.5, "X": 0.5}))
    ours = measure_objects(frame, channels_of(image), height=7)
    kinds = ("label", "area", "centroid", "bbox", "axis_major_length", "axis_minor_length", "intensity_mean")
    theirs = regionprops_table(labels, image.array.transpose(1, 2, 3, 0), properties=kinds)
    sized = regionprops_table(labels, properties=("axis_major_length", "area"), spacing=(2.0, 0.5, 0.5))
    same = {
        "volume_px": theirs["area"],
        "centroid_z_px": theirs["centroid-0"],
        "centroid_x_px": theirs["centroid-2"],
        "bbox_z_max_px": theirs["bbox-3"],
        "major_axis_px": theirs["axis_major_length"],
        "minor_axis_px": theirs["axis_minor_length"],
        "mean_1": theirs["intensity_mean-1"],
        "volume_um3": sized["area"],
        "major_axis_um": sized["axis_major_length"],
    }
    for name, other in same.items():
        np.testing.assert_allclose(ours[name], other, rtol=1e-7, atol=1e-5, err_msg=name)
    assert "perimeter_px" not in ours


def test_micrometers_follow_from_the_pixel_size() -> None:
    labels = np.zeros((9, 12), np.uint8)
    labels[2:6, 3:11] = 1
    (frame,) = split_labels(label_image(labels, pixel_size_um={"Y": 0.5, "X": 0.5}))
    table = measure_objects(frame)
    assert table["area_um2"] == pytest.approx([32 * 0.25])
    assert table["perimeter_um"] == pytest.approx(table["perimeter_px"] / 2)
    assert table["major_axis_um"] == pytest.approx(table["major_axis_px"] / 2)
    (uneven,) = split_labels(label_image(labels, pixel_size_um={"Y": 1.0, "X": 0.5}))
    table = measure_objects(uneven)
    assert table["area_um2"] == pytest.approx([16])
    assert "perimeter_um" not in table
    assert not {name for name in measure_objects(split_labels(label_image(labels))[0]) if "um" in name.split("_")}


def test_an_object_at_the_border_is_marked_and_pixels_that_are_not_annotated_are_no_object() -> None:
    labels = np.array([[-1, 0, 0, 0], [-1, 5, 0, 0], [0, 0, 0, 9]], np.int16)
    (frame,) = split_labels(label_image(labels))
    table = measure_objects(frame)
    assert table["label"].tolist() == [5, 9]
    assert table["touches_border"].tolist() == [False, True]


def test_labels_beyond_31_bits_stay_what_they_are() -> None:
    labels = np.zeros((4, 4), np.uint64)
    labels[1, 1:3] = 2**40
    (frame,) = split_labels(label_image(labels))
    assert measure_objects(frame)["label"].tolist() == [2**40]


def test_an_image_without_objects_gives_an_empty_table() -> None:
    (frame,) = split_labels(label_image(np.zeros((4, 5), np.uint8)))
    table = measure_objects(frame, channels_of(image_of(np.zeros((4, 5)))))
    assert all(len(column) == 0 for column in table.values())


def test_an_image_of_other_sides_is_refused() -> None:
    (frame,) = split_labels(label_image(blobs(1)))
    with pytest.raises(DataError, match="same sides"):
        measure_objects(frame, channels_of(image_of(np.zeros((90, 111)))))


def test_probabilities_are_no_label_image() -> None:
    with pytest.raises(DataError, match="whole numbers"):
        split_labels(Image.from_array(np.zeros((1, 4, 4), np.float32), "CYX"))


def test_slices_are_images_of_their_own_where_asked() -> None:
    labels = label_image(np.ones((3, 4, 4), np.uint8))
    assert len(split_labels(labels)) == 1
    frames = split_labels(labels, slices=True)
    assert [frame.z for frame in frames] == [0, 1, 2]
    assert measure_objects(frames[2])["area_px"].tolist() == [16]
