"""Files as people name and arrange them: subfolders, letters of other systems, endings of programs, long names."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import septum
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.check.check import Report, check
from septum.check.repair import fix
from septum.errors import DataError, SeptumError, UsageError
from septum.evaluation.evaluate import evaluate
from septum.evaluation.results import EvaluateSettings, Evaluation
from septum.events import Warned
from septum.nn.unet import UNet, UNetSettings
from septum.pairing.find import find_pairs
from septum.prediction.model import ModelHeader, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings


def ids(seed: int, count: int = 6, side: int = 40) -> NDArray[np.uint16]:
    """Return disks of 1 to `count`."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    labels = np.zeros((side, side), np.uint16)
    while labels.max() < count:
        cy, cx = rng.uniform(4, side - 4, 2)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < 9
        if not labels[inside].any():
            labels[inside] = labels.max() + 1
    return labels


def photo(labels: NDArray[np.uint16], seed: int = 0) -> NDArray[np.uint8]:
    return (60 + 120 * (labels > 0) + np.random.default_rng(seed).normal(0, 4, labels.shape)).astype(np.uint8)


def save(path: Path, array: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


def pair(image: Path, mask: Path, seed: int) -> None:
    save(image, photo(ids(seed), seed))
    save(mask, ids(seed))


def names(report: Report) -> list[tuple[str, str]]:
    return [(pair.name, pair.group) for pair in report.pairs]


def scores(predicted: Path, truth: Path, **kwargs: object) -> tuple[float, int, Evaluation]:
    settings = EvaluateSettings(predicted=(predicted,), truth=truth, metrics=("instances",), **kwargs)  # type: ignore[arg-type]
    result = evaluate(settings)
    value = next(s.value for s in result.results[0].scores if s.name == "F1@0.50")
    return value, len(result.results[0].images), result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = UNetSettings(channels=1, classes=2, depths=(1, 1), width=2)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(min_size_px=1),
    )
    save_model(path, UNet(network, seed=1), header)
    return path


def predict(model: Path, *inputs: Path, out: Path) -> tuple[list[str], list[str]]:
    """Return the results relative to the folder `out`, and the warnings."""
    settings = PredictSettings(model=model, inputs=tuple(map(str, inputs)), out=out)
    warned = [event.text for event in predict_files(settings) if isinstance(event, Warned)]
    return sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()), warned


# Subfolders.


@pytest.mark.parametrize("folders", [("patient0", "patient1"), ("train", "val"), ("a/1", "b/1")])
def test_pairs_are_found_in_equal_subfolders(tmp_path: Path, folders: tuple[str, str]) -> None:
    for n in range(6):
        place = folders[n % 2]
        pair(tmp_path / "images" / place / f"s{n // 2}.tif", tmp_path / "masks" / place / f"s{n // 2}.tif", n)
    report = check([tmp_path])
    assert report.issues == ()
    assert names(report) == [(f"{f.replace('/', '_')}_s{n}", f) for f in folders for n in range(3)]
    list(fix(report, tmp_path / "copy"))
    assert len(check([tmp_path / "copy"]).pairs) == 6


def test_words_for_images_and_masks_in_subfolders_do_not_count(tmp_path: Path) -> None:
    for n in range(4):
        pair(tmp_path / f"images/p{n % 2}/raw/s{n}.tif", tmp_path / f"masks/p{n % 2}/seg/s{n}.tif", n)
    assert len(check([tmp_path]).pairs) == 4


def test_masks_may_lie_in_one_folder(tmp_path: Path) -> None:
    for n in range(4):
        pair(tmp_path / f"images/p{n % 2}/s{n}.tif", tmp_path / f"masks/s{n}.tif", n)
    assert names(check([tmp_path])) == [("s0", "p0"), ("s2", "p0"), ("s1", "p1"), ("s3", "p1")]


def test_images_and_masks_side_by_side_in_subfolders(tmp_path: Path) -> None:
    for n in range(4):
        pair(tmp_path / f"case{n % 2}/s{n // 2}.tif", tmp_path / f"case{n % 2}/s{n // 2}_mask.tif", n)
    assert names(check([tmp_path])) == [(f"case{k}_s{n}", f"case{k}") for k in range(2) for n in range(2)]


def test_patients_with_folders_of_images_and_masks_are_pooled(tmp_path: Path) -> None:
    for n in range(4):
        pair(tmp_path / f"p{n % 2}/images/s{n // 2}.tif", tmp_path / f"p{n % 2}/masks/s{n // 2}.tif", n)
    assert names(check([tmp_path])) == [(f"p{k}_s{n}", f"p{k}") for k in range(2) for n in range(2)]


def test_a_folder_for_each_image_may_hold_one_mask_of_all_objects(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path / f"p{n}/images/s.tif", tmp_path / f"p{n}/masks/s.tif", n)
    assert [len(pair.census[0].values) for pair in check([tmp_path]).pairs] == [6, 6, 6]


def test_parts_that_are_to_be_held_out_are_not_pooled(tmp_path: Path) -> None:
    for n in range(4):
        part = ("train", "test")[n % 2]
        pair(tmp_path / part / f"images/{n}.tif", tmp_path / part / f"masks/{n}.tif", n)
    with pytest.raises(UsageError, match="holds data sets in subfolders: test, train"):
        find_pairs([tmp_path])


def test_an_image_in_a_subfolder_without_a_mask_is_named(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path / f"images/s{n}.tif", tmp_path / f"masks/s{n}.tif", n)
    save(tmp_path / "images/more/x.tif", photo(ids(9)))
    report = check([tmp_path])
    assert [(i.code, [p.name for p in i.files]) for i in report.issues] == [("unpaired-image", ["x.tif"])]


def test_results_mirror_the_wells_of_a_plate(tmp_path: Path, model: Path) -> None:
    wells = [save(tmp_path / "plate" / well / "img.tif", photo(ids(0))) for well in ("A1", "A2", "B1")]
    expected = ["A1/img.tif", "A2/img.tif", "B1/img.tif"]
    assert predict(model, tmp_path / "plate", out=tmp_path / "folder") == (expected, [])
    assert predict(model, *wells, out=tmp_path / "files") == (expected, [])
    assert predict(model, tmp_path / "plate/*/*.tif", out=tmp_path / "pattern") == (expected, [])
    assert scores(tmp_path / "folder", tmp_path / "files")[1] == 3


def test_two_folders_of_equal_names_get_a_folder_each(tmp_path: Path, model: Path) -> None:
    for plate in ("one", "two"):
        save(tmp_path / plate / "img.tif", photo(ids(0)))
    assert predict(model, tmp_path / "one", tmp_path / "two", out=tmp_path / "out")[0] == ["one/img.tif", "two/img.tif"]


def test_a_second_prediction_leaves_out_the_results_of_the_first(tmp_path: Path, model: Path) -> None:
    save(tmp_path / "plate/A1/img.tif", photo(ids(0)))
    for _ in range(2):
        assert predict(model, tmp_path / "plate", out=tmp_path / "plate/results") == (["A1/img.tif"], [])


def test_images_in_subfolders_beside_images_are_named(tmp_path: Path, model: Path) -> None:
    for name in ("a.tif", "old/b.tif"):
        save(tmp_path / "in" / name, photo(ids(0)))
    done, warned = predict(model, tmp_path / "in", out=tmp_path / "out")
    assert done == ["a.tif"]
    assert warned == [
        f"{tmp_path / 'in'}: passed over 1 image in subfolders (old); name the subfolders to predict them"
    ]


def test_a_data_set_is_not_predicted_with_its_masks(tmp_path: Path, model: Path) -> None:
    pair(tmp_path / "images/a.tif", tmp_path / "masks/a.tif", 0)
    with pytest.raises(UsageError, match=r"a data set with masks[\s\S]*name .*images"):
        predict(model, tmp_path, out=tmp_path / "out")


def test_masks_beside_images_are_not_predicted(tmp_path: Path, model: Path) -> None:
    for n in range(2):
        pair(tmp_path / f"in/c{n}.tif", tmp_path / f"in/c{n}_mask.png", n)
    done, warned = predict(model, tmp_path / "in", out=tmp_path / "out")
    assert done == ["c0.tif", "c1.tif"]
    assert "passed over 2 masks of images in the same folder (c0_mask.png ...)" in warned[0]


# Letters.


@pytest.mark.parametrize(("one", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_of_a_mac_and_of_windows_are_the_same(tmp_path: Path, one: str, other: str) -> None:
    def form(kind: str, name: str) -> str:
        return unicodedata.normalize(kind, name)  # type: ignore[arg-type]

    for n, name in enumerate(("Größe A", "Müller", "naïve", "plain")):
        pair(tmp_path / f"images/{form(one, name)}.tif", tmp_path / f"masks/{form(other, name)}.tif", n)
        pair(tmp_path / f"side/{form(one, name)}.tif", tmp_path / f"side/{form(other, name)}_mask.tif", n)
        folder = f"Zähler {n % 2}"
        pair(tmp_path / f"n/images/{form(one, folder)}/{n}.tif", tmp_path / f"n/masks/{form(other, folder)}/{n}.tif", n)
    for place in (tmp_path, tmp_path / "side", tmp_path / "n"):
        report = check([place] if place != tmp_path else [tmp_path / "images", tmp_path / "masks"])
        assert (len(report.pairs), report.issues) == (4, ())
    value, count, _ = scores(tmp_path / "masks", tmp_path / "masks")
    assert (value, count) == (1.0, 4)


# Endings.


@pytest.mark.parametrize("ending", ["-labelled", "-labeled", "_cp_masks", "_Simple Segmentation", "_Object Identities"])
def test_endings_of_other_programs_mark_masks(tmp_path: Path, ending: str) -> None:
    for n in range(3):
        name = f"Slide A [x={96 * n},y=0,w=96,h=96]"
        pair(tmp_path / f"{name}.tif", tmp_path / f"{name}{ending}.tif", n)
    assert len(check([tmp_path]).pairs) == 3


def test_names_in_two_formats_are_shown_as_pairs(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path / f"tile {n}.jpg", tmp_path / f"tile {n}.png", n)
    with pytest.raises(DataError) as caught:
        check([tmp_path])
    assert "3 names, each as .jpg and .png (tile 0.jpg, tile 0.png ...)" in str(caught.value)
    assert f"if the .png files are the masks: move them to {tmp_path / 'masks'}" in str(caught.value)


@pytest.mark.parametrize("ending", ["_pred", "_Simple Segmentation", ".seg v2", "-ours"])
@pytest.mark.parametrize("count", [1, 4])
def test_an_ending_that_all_predictions_share_is_left_out(tmp_path: Path, ending: str, count: int) -> None:
    for n, name in enumerate(("ax", "by", "cz", "dw")[:count]):
        save(tmp_path / "truth" / f"{name}.tif", ids(n))
        save(tmp_path / "predicted" / f"{name}{ending}.tif", ids(n))
        save(tmp_path / "first" / f"pred {name}.tif", ids(n))
    for folder in ("predicted", "first"):
        assert scores(tmp_path / folder, tmp_path / "truth")[:2] == (1.0, count)


def test_an_ending_of_some_predictions_is_part_of_their_names(tmp_path: Path) -> None:
    for n, (truth, predicted) in enumerate((("ax", "ax_pred"), ("by", "by_pred"), ("cz", "other"))):
        save(tmp_path / f"truth/{truth}.tif", ids(n))
        save(tmp_path / f"predicted/{predicted}.tif", ids(n))
    with pytest.raises(DataError, match="no prediction fits a truth by name"):
        scores(tmp_path / "predicted", tmp_path / "truth")


def test_no_letters_are_left_out_of_a_word(tmp_path: Path) -> None:
    for n, name in enumerate(("ax", "by")):
        save(tmp_path / "truth" / f"{name}.tif", ids(n))
        save(tmp_path / "predicted" / f"{name}es.tif", ids(n))
    with pytest.raises(DataError, match="no prediction fits"):
        scores(tmp_path / "predicted", tmp_path / "truth")


@pytest.mark.parametrize("name", ["ax", "case_001"])
def test_the_number_of_an_only_channel_is_no_part_of_the_name(tmp_path: Path, name: str) -> None:
    pair(tmp_path / f"imagesTr/{name}_0000.tif", tmp_path / f"labelsTr/{name}.tif", 0)
    pair(tmp_path / "imagesTr/other_0000.tif", tmp_path / "labelsTr/other.tif", 1)
    assert [p.image.name for p in check([tmp_path]).pairs] == [f"{name}_0000.tif", "other_0000.tif"]


def test_channels_in_files_of_their_own_are_one_image(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path / f"imagesTr/cell_{n:03d}_0000.tif", tmp_path / f"labelsTr/cell_{n:03d}.tif", n)
        save(tmp_path / f"imagesTr/cell_{n:03d}_0001.tif", photo(ids(n)))
    report = check([tmp_path])
    assert [p.image.name for p in report.pairs] == ["cell_000.tif", "cell_001.tif", "cell_002.tif"]
    assert report.rules.channels == 2


# Files of other programs.


def cellpose(folder: Path, *, saved: bool) -> Path:
    for n in range(3):
        save(folder / f"img{n}.tif", photo(ids(n), n))
        np.save(folder / f"img{n}_seg.npy", {"masks": ids(n)}, allow_pickle=True)  # type: ignore[arg-type]
        if saved:
            save(folder / f"img{n}_cp_masks.png", ids(n))
            tifffile.imwrite(folder / f"img{n}_flows.tif", np.zeros((3, 40, 40), np.float32), photometric="minisblack")
    return folder


def test_a_folder_of_cellpose_is_read_by_its_masks(tmp_path: Path, model: Path) -> None:
    report = check([cellpose(tmp_path / "in", saved=True)])
    assert (len(report.pairs), report.issues) == (3, ())
    assert predict(model, tmp_path / "in", out=tmp_path / "out")[0] == ["img0.tif", "img1.tif", "img2.tif"]


def yolo(folder: Path) -> None:
    save(folder / "p0.png", photo(ids(0)))
    (folder / "p0.txt").write_text("0 0.1 0.1 0.5 0.1 0.3 0.6\n1 0.7 0.7 0.9 0.7 0.8 0.9\n")


def test_drawn_objects_that_are_not_read_are_named_with_the_way_out(tmp_path: Path) -> None:
    yolo(tmp_path)
    with pytest.raises(DataError) as caught:
        check([tmp_path])
    assert "1 YOLO file (p0.txt)" in str(caught.value)
    assert "write masks of its polygons; put the masks into a folder of their own" in str(caught.value)


def test_an_image_with_drawn_objects_that_are_not_read_says_so(tmp_path: Path) -> None:
    yolo(tmp_path)
    for n in range(2, 4):
        pair(tmp_path / f"p{n}.png", tmp_path / f"p{n}_mask.png", n)
    issue = next(issue for issue in check([tmp_path]).issues if issue.code == "unpaired-image")
    assert issue.details[0] == "but p0.txt of YOLO, not an image: write masks of its polygons"


def test_texts_and_notes_need_no_word(tmp_path: Path) -> None:
    for n in range(2):
        pair(tmp_path / f"images/p{n}.png", tmp_path / f"masks/p{n}.png", n)
    for name in ("Thumbs.db", "notes.txt", "settings.json", ".DS_Store"):
        (tmp_path / "images" / name).write_text("0 1 2")
    assert {issue.code for issue in check([tmp_path]).issues} <= {"one-image"}


# Formats that are not read.


def test_files_of_formats_that_are_not_read_are_counted_and_named(tmp_path: Path, model: Path) -> None:
    for n in range(3):
        pair(tmp_path / f"images/c{n}.png", tmp_path / f"masks/c{n}.png", n)
    for n in range(3, 5):
        save(tmp_path / f"images/c{n}.webp", photo(ids(n)))
        (tmp_path / f"masks/c{n}.dcm").write_bytes(b"DICM\n")
    report = check([tmp_path])
    (issue,) = report.issues
    assert issue.message == "4 files of a format that is not read (2 .webp in images, 2 .dcm in masks)"
    assert "save images as PNG or TIFF, volumes as NIfTI or OME-TIFF" in issue.remedy
    left_out = [done.source.name for done in fix(report, tmp_path / "copy") if done.written is None]
    assert left_out == ["c3.webp", "c4.webp", "c3.dcm", "c4.dcm"]
    done, warned = predict(model, tmp_path / "images", out=tmp_path / "out")
    assert len(done) == 3
    assert warned == [
        f"{tmp_path / 'images'}: passed over 2 .webp files (c3.webp ...); save .webp files as PNG or TIFF"
    ]
    _, count, result = scores(tmp_path / "masks", tmp_path / "masks")
    assert count == 3
    assert any("passed over 4 .dcm files" in note for note in result.notes)


@pytest.mark.parametrize("suffix", [".oib", ".dcm", ".webp"])
def test_a_folder_of_other_formats_says_how_to_convert(tmp_path: Path, model: Path, suffix: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / f"images/a{suffix}").write_bytes(b"any")
    for job in (
        lambda: check([tmp_path]),
        lambda: check([tmp_path / "images"]),
        lambda: predict(model, tmp_path / "images", out=tmp_path / "out"),
    ):
        with pytest.raises(SeptumError, match=rf"1 {suffix} file \(a{suffix}\)[\s\S]*save {suffix} files as"):
            job()


# Long names.


def test_very_long_names_are_predicted_trained_on_and_scored(tmp_path: Path, model: Path) -> None:
    long = "b" * 246
    for n, name in enumerate((long, "ä" * 120, "ok", "fine")):
        pair(tmp_path / f"images/{name}.tif", tmp_path / f"masks/{name}.tif", n)
    done, _ = predict(model, tmp_path / "images", out=tmp_path / "out")
    assert len(done) == 4
    assert scores(tmp_path / "out", tmp_path / "masks", out=tmp_path / "tables")[1] == 4
    assert len(list(fix(check([tmp_path / "images", tmp_path / "masks"]), tmp_path / "copy"))) == 8
    septum.train(tmp_path / "images", tmp_path / "masks", out=tmp_path / "run", steps=2, width=2, depth=1, tile=32)


def test_a_result_with_a_name_that_is_too_long_fails_alone(tmp_path: Path, model: Path) -> None:
    for name in ("b" * 246, "ok"):
        save(tmp_path / f"in/{name}.tif", photo(ids(0)))
    settings = PredictSettings(model=model, inputs=(str(tmp_path / "in"),), out=tmp_path / "out", format="ome.zarr")
    list(predict_files(settings))
    settings = PredictSettings(model=model, inputs=(str(tmp_path / "in"),), out=tmp_path / "out", format="nii.gz")
    list(predict_files(settings))
    assert (tmp_path / "out/ok.nii.gz").exists()
