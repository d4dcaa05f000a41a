"""Data sets of nnU-Net and of the Medical Segmentation Decathlon, as their ``dataset.json`` describes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile

import septum
from septum.check.check import check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.errors import DataError, FileError
from septum.io.files import open_image, read_image
from septum.prediction.info import describe_model

Cells = Callable[..., tuple[np.ndarray, np.ndarray]]
NOTES = {
    "channel_names": {"0": "DAPI", "1": "GFP"},
    "labels": {"background": 0, "cell": 1, "ignore": 2},
    "file_ending": ".tif",
}


def nnunet(folder: Path, cells: Cells, count: int = 4, notes: dict[str, Any] = NOTES) -> Path:
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(notes))
    for n in range(count):
        image, ids = cells(n)
        mask = (ids > 0).astype(np.uint8)
        mask[:3] = 2
        tifffile.imwrite(folder / f"labelsTr/cell_{n:03d}.tif", mask)
        for part in ("imagesTr", "imagesTs"):
            tifffile.imwrite(folder / f"{part}/cell_{n:03d}_0000.tif", image)
            tifffile.imwrite(folder / f"{part}/cell_{n:03d}_0001.tif", 255 - image)
    return folder


def test_channels_names_and_what_is_ignored(tmp_path: Path, cells: Cells) -> None:
    report = check([nnunet(tmp_path / "set", cells)])
    assert (len(report.pairs), report.rules.channels, report.rules.kind) == (4, 2, "classes")
    assert report.rules.class_names == ("background", "cell")
    messages = {issue.code: issue.message for issue in report.issues}
    assert messages["named-classes"] == "dataset.json names the classes 0 background, 1 cell"
    assert "unnamed-class" not in messages
    sample = next(load_samples(report))
    image, ids = cells(0)
    assert np.array_equal(sample.image, np.stack([image, 255 - image]).astype(np.float32))
    expected = (ids > 0).astype(int)
    expected[:3] = -1
    assert np.array_equal(sample.mask, expected)


def test_training_and_prediction_of_channels_in_files_of_their_own(tmp_path: Path, cells: Cells) -> None:
    folder = nnunet(tmp_path / "set", cells)
    septum.train(folder, out=tmp_path / "run", steps=2, width=2, depth=1, tile=32, verbose=False, from_model="none")
    assert describe_model(tmp_path / "run/model.safetensors")["class_names"] == ["background", "cell"]
    from septum.prediction.predict import predict_files
    from septum.prediction.settings import PredictSettings

    settings = PredictSettings(model=tmp_path / "run", inputs=(str(folder / "imagesTs"),), out=tmp_path / "out")
    list(predict_files(settings))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"cell_{n:03d}.tif" for n in range(4)]


def test_channels_are_read_by_regions(tmp_path: Path, cells: Cells) -> None:
    nnunet(tmp_path, cells, 1)
    with open_image(tmp_path / "imagesTr/cell_000.tif") as image:
        assert (image.axes, image.shape[0], image.lazy) == ("CYX", 2, True)
        assert np.array_equal(image[1, 4:9, 3:7], 255 - cells(0)[0][4:9, 3:7])


def test_the_copy_holds_all_channels(tmp_path: Path, cells: Cells) -> None:
    list(fix(check([nnunet(tmp_path / "set", cells)]), tmp_path / "copy"))
    copied = read_image(tmp_path / "copy/images/cell_000.tif")
    assert np.array_equal(copied.array, np.stack([cells(0)[0], 255 - cells(0)[0]]))


def test_a_missing_channel_and_channels_that_differ_are_named(tmp_path: Path, cells: Cells) -> None:
    folder = nnunet(tmp_path / "set", cells)
    tifffile.imwrite(folder / "imagesTr/cell_001_0002.tif", cells(1)[0])
    with pytest.raises(DataError, match="2 channels of cell_000, 3 of cell_001"):
        check([folder])
    (folder / "imagesTr/cell_001_0002.tif").unlink()
    tifffile.imwrite(folder / "imagesTr/cell_001_0001.tif", np.zeros((5, 5), np.uint8))
    issue = next(issue for issue in check([folder]).issues if issue.code == "unreadable")
    assert issue.files[0].name == "cell_001.tif"
    (folder / "imagesTs/cell_002_0001.tif").unlink()
    from septum.prediction.outputs import input_images

    with pytest.raises(FileError, match=r"cell_002.tif: 1 file of channels"):
        input_images([str(folder / "imagesTs")])


@pytest.mark.parametrize("text", ["{", '{"labels": 3}', '{"channel_names": {}, "labels": {}}', "[1]"])
def test_another_or_a_damaged_dataset_json(tmp_path: Path, cells: Cells, text: str) -> None:
    folder = nnunet(tmp_path / "set", cells)
    (folder / "dataset.json").write_text(text)
    if text == "{":
        with pytest.raises(FileError, match=r"dataset.json: the dataset.json file is damaged"):
            check([folder])
    else:
        assert len(check([folder]).pairs) == 4


def test_the_decathlon(tmp_path: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    notes = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumor"},
        "training": [{"image": "./imagesTr/b_0.nii.gz", "label": "./labelsTr/b_0.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(notes))
    rng = np.random.default_rng(0)
    for n in range(3):
        mask = np.zeros((12, 11, 10), np.uint8)
        mask[2:6, 2:7, 3:8], mask[7:10, 3:8, 2:6] = 1, 2
        image = (40 * mask[..., None] + rng.normal(100, 5, (*mask.shape, 2))).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / f"imagesTr/b_{n}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), tmp_path / f"labelsTr/b_{n}.nii.gz")
    report = check([tmp_path])
    assert (report.rules.channels, report.rules.rank, report.rules.kind) == (2, 3, "classes")
    assert report.rules.class_names == ("background", "edema", "tumor")
