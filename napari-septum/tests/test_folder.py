"""Pairs of layers as an ordinary data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image, Labels
from septum.errors import DataError
from septum.io.files import read_image, read_mask, write_image

from made import disks
from napari_septum.folder import file_name, pairs, send, unannotated, unused


def stack(count: int) -> tuple[np.ndarray, np.ndarray]:
    image, labels = (np.stack(part) for part in zip(*(disks(n) for n in range(count)), strict=True))
    return image, labels


def test_a_pair_becomes_an_image_and_a_mask(tmp_path: Path) -> None:
    image, labels = disks(0)
    sent = send(tmp_path, Image(image, name="day 1"), Labels(labels))
    assert [path.relative_to(tmp_path).as_posix() for path in sent.images] == ["images/day 1.tif"]
    assert np.array_equal(read_image(tmp_path / "images" / "day 1.tif").array[0], image)
    assert np.array_equal(read_mask(tmp_path / "masks" / "day 1.tif").array[0], labels)
    assert sent.left_out == 0


def test_of_a_stack_the_annotated_planes_are_sent_and_the_others_counted(tmp_path: Path) -> None:
    image, labels = stack(4)
    labels[[0, 2]] = 0
    sent = send(tmp_path, Image(image, name="s"), Labels(labels))
    assert [path.name for path in sent.images] == ["s-z001.tif", "s-z003.tif"]
    assert sent.left_out == 2
    assert np.array_equal(read_mask(tmp_path / "masks" / "s-z003.tif").array[0], labels[3])


def test_a_volume_is_sent_whole(tmp_path: Path) -> None:
    image, labels = stack(4)
    labels[0] = 0
    sent = send(tmp_path, Image(image, name="s"), Labels(labels), volume=True)
    assert [path.name for path in sent.images] == ["s.tif"]
    assert read_image(sent.images[0]).axes == "CZYX"


def test_frames_of_a_film_of_volumes_are_volumes(tmp_path: Path) -> None:
    image, labels = stack(6)
    sent = send(
        tmp_path, Image(image.reshape(2, 3, 44, 44), name="s"), Labels(labels.reshape(2, 3, 44, 44)), volume=True
    )
    assert [path.name for path in sent.images] == ["s-t000.tif", "s-t001.tif"]


def test_channels_stay_with_their_image(tmp_path: Path) -> None:
    image, labels = disks(0)
    both = np.stack([image, image[::-1]])
    sent = send(tmp_path, Image(both, name="s"), Labels(labels), axes="CYX")
    assert np.array_equal(read_image(sent.images[0]).array, both)


def test_labels_of_other_sides_are_refused(tmp_path: Path) -> None:
    image, labels = stack(2)
    with pytest.raises(DataError, match="2 x 44 x 44"):
        send(tmp_path, Image(image, name="s"), Labels(labels[0]))


def test_labels_without_objects_are_refused_and_nothing_is_learned_from(tmp_path: Path) -> None:
    image, labels = disks(0)
    with pytest.raises(DataError, match="no pixel is labeled"):
        send(tmp_path, Image(image, name="s"), Labels(labels * 0))


def test_a_folder_tells_what_has_a_mask_and_a_prediction(tmp_path: Path) -> None:
    image, labels = disks(0)
    send(tmp_path, Image(image, name="a"), Labels(labels))
    write_image(tmp_path / "images" / "b.tif", image, axes="YX")
    (tmp_path / "predictions").mkdir()
    write_image(tmp_path / "predictions" / "b.tif", labels, axes="YX", labels=True)
    found = {pair.name: (pair.mask is not None, pair.prediction is not None) for pair in pairs(tmp_path)}
    assert found == {"a": (True, False), "b": (False, True)}
    assert [path.name for path in unannotated(tmp_path)] == ["b.tif"]


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("cells", "cells"),
        ("a/b: c?", "a_b_ c_"),
        ("..", "layer"),
        ("x [1]", "x _1_"),
        ("CON", "CON_"),
        ("nul.1", "nul_.1"),
    ],
)
def test_names_of_layers_are_names_of_files_on_every_system(layer: str, name: str) -> None:
    assert file_name(layer) == name


def test_a_new_folder_is_unused(tmp_path: Path) -> None:
    (tmp_path / "a-1").mkdir()
    assert unused(tmp_path, "a") == tmp_path / "a-2"
