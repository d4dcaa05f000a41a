"""Reports of a check of good and of bad data."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

import septum.check
from septum.check.census import Census, Trait, census
from septum.check.check import ISSUE_KINDS, Report, check
from septum.check.issues import IssueKind
from septum.check.label_kind import infer_label_kind
from septum.check.samples import load_samples
from septum.errors import DataError, SeptumError, UsageError
from septum.io.files import write_image
from septum.settings import MaskKind

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def pair(folder: Path, name: str, mask: np.ndarray, image: np.ndarray | None = None) -> None:
    for role in ("images", "masks"):
        (folder / role).mkdir(parents=True, exist_ok=True)
    if image is None:
        seed = sum(map(ord, name))
        image = np.random.default_rng(seed).integers(0, 255, mask.shape).astype(np.uint8)
    tifffile.imwrite(folder / f"images/{name}.tif", image, photometric="minisblack")
    tifffile.imwrite(folder / f"masks/{name}.tif", mask, photometric="minisblack")


def cells(count: int, *, seed: int = 0, side: int = 48) -> np.ndarray:
    """Return ids of `count` squares at random places of a grid."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.uint16)
    places = rng.permutation((side // 8) ** 2)[:count]
    for number, place in enumerate(places):
        y, x = 8 * (place // (side // 8)), 8 * (place % (side // 8))
        mask[y + 1 : y + 6, x + 1 : x + 1 + rng.integers(4, 7)] = number + 1
    return mask


def found(report: Report, code: str) -> list[str]:
    """Return the files of an issue."""
    return [p.name for f in report.issues if f.code == code for p in f.files]


def codes(report: Report) -> set[str]:
    return {f.code for f in report.issues}


def test_clean_data_have_no_issue(tmp_path: Path) -> None:
    for n in range(4):
        pair(tmp_path, f"a{n}", cells(3 + n, seed=n))
    report = check([tmp_path])
    assert report.issues == ()
    assert report.lines() == [
        "4 pairs (two folders)",
        "images: 48 x 48 pixels, 1 channel, uint8",
        "masks hold object ids, 3 to 6 per image",
        "nothing is wrong",
    ]
    assert (report.rules.kind, report.rules.channels, report.rules.rank) == ("objects", 1, 2)
    assert report.rules.class_values == (0, 1)


@pytest.mark.parametrize("role", ["images", "masks"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bad.png", b"this is text"),
        ("bad.tif", b""),
        ("bad.tif", b"II*\0\x08\0\0\0"),
        ("bad.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        ("bad.nii.gz", b"\x1f\x8b\x08\0"),
    ],
)
def test_one_broken_file_is_named_and_the_others_are_used(tmp_path: Path, role: str, name: str, content: bytes) -> None:
    for n in range(3):
        pair(tmp_path, f"a{n}", cells(4, seed=n))
    pair(tmp_path, "bad", cells(4, seed=9))
    (tmp_path / role / "bad.tif").unlink()
    (tmp_path / role / name).write_bytes(content)
    report = check([tmp_path])
    assert found(report, "unreadable") == [name]
    assert report.errors == ()
    assert [i.name for i in report.left_out] == ["bad"]
    assert [s.name for s in load_samples(report)] == ["a0", "a1", "a2"]


@pytest.mark.parametrize("partner", [True, False])
@pytest.mark.parametrize("role", ["images", "masks"])
def test_a_file_that_was_not_fetched_is_named_once_and_its_partner_is_no_fault(
    tmp_path: Path, role: str, partner: bool
) -> None:
    for n in range(3):
        pair(tmp_path, f"a{n}", cells(4, seed=n))
    for part in ("images", "masks"):
        if part == role or not partner:
            (tmp_path / part / "a1.tif").unlink()
    (tmp_path / role / "a1.tif").symlink_to("../.git/annex/objects/nothing.tif")
    report = check([tmp_path])
    assert not {"unpaired-image", "unpaired-mask", "unreadable"} & codes(report)
    (issue,) = [one for one in report.issues if one.code == "not-fetched"]
    assert issue.line() == (
        "1 link that leads nowhere: a1.tif; left out; fetch the files, as with `git annex get` or `datalad get`"
    )
    assert [s.name for s in load_samples(report)] == ["a0", "a2"]


def test_a_set_of_broken_files_only_is_an_error_that_names_them(tmp_path: Path) -> None:
    pair(tmp_path, "a", cells(4))
    whole = (tmp_path / "images/a.tif").read_bytes()
    (tmp_path / "images/a.tif").write_bytes(whole[: len(whole) // 2])
    report = check([tmp_path])
    assert "nothing-left" in codes(report)
    with pytest.raises(DataError, match=r"a\.tif"):
        list(load_samples(report))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda p: p / "missing", UsageError),
        (lambda p: (p / "empty").mkdir() or p / "empty", DataError),
        (lambda p: [(p / r).mkdir() for r in ("images", "masks")] and p, DataError),
    ],
)
def test_missing_or_empty_folders_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], kind: type[SeptumError]
) -> None:
    with pytest.raises(kind) as caught:
        check([make(tmp_path)])
    assert caught.value.expected
    assert caught.value.todo


def test_files_without_pairs_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", cells(3))
    (tmp_path / "masks/a.tif").rename(tmp_path / "masks/b.tif")
    with pytest.raises(DataError):
        check([tmp_path])


def test_unpaired_files_are_named(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path, f"a{n}", cells(3, seed=n))
    (tmp_path / "masks/a0.tif").unlink()
    (tmp_path / "images/a1.tif").unlink()
    report = check([tmp_path])
    assert found(report, "unpaired-image") == ["a0.tif"]
    assert found(report, "unpaired-mask") == ["a1.tif"]
    assert [p.name for p in report.pairs] == ["a2"]


def test_a_single_image_is_a_warning(tmp_path: Path) -> None:
    pair(tmp_path, "a", cells(6))
    report = check([tmp_path])
    assert codes(report) == {"one-image"}
    assert len(list(load_samples(report))) == 1


def test_long_lists_of_files_are_cut_in_lines_and_complete_in_json(tmp_path: Path) -> None:
    for n in range(9):
        pair(tmp_path, f"a{n}", cells(3, seed=n).astype(np.float32))
    report = check([tmp_path])
    (line,) = [line for line in report.lines() if line.startswith("mended")]
    names = "a0.tif, a1.tif, a2.tif, a3.tif, a4.tif and 4 more"
    assert line == f"mended: 9 masks saved as floating-point numbers: {names}; read as whole numbers"
    written = json.loads(json.dumps(report.as_dict()))
    assert [len(f["files"]) for f in written["issues"] if f["code"] == "mask-float"] == [9]
    assert written["rules"]["kind"] == "objects"
    assert written["used"] == 9
    assert written["images"][2]["mask"][0]["values"] == 3


def test_sizes_that_differ_are_refused_with_both_sizes(tmp_path: Path) -> None:
    pair(tmp_path, "a", cells(3))
    pair(tmp_path, "b", cells(3), np.zeros((20, 30), np.uint8) + np.arange(30, dtype=np.uint8))
    report = check([tmp_path])
    assert [f.code for f in report.errors] == ["sizes-differ"]
    with pytest.raises(DataError, match=r"b.tif \(image 20 x 30, mask 48 x 48\)"):
        list(load_samples(report))


def test_different_numbers_of_pages_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", np.stack([cells(3, seed=n) for n in range(3)]), np.random.rand(4, 48, 48).astype(np.float32))  # noqa: NPY002
    report = check([tmp_path])
    assert {"pages-differ", "nothing-left"} <= codes(report)
    assert "image 4, mask 3" in report.errors[0].line()


def test_constant_and_tiny_images_and_unannotated_masks_are_left_out(tmp_path: Path) -> None:
    pair(tmp_path, "good", cells(6))
    pair(tmp_path, "fine", cells(7, seed=2))
    pair(tmp_path, "zero", cells(6), np.zeros((48, 48), np.uint8))
    pair(tmp_path, "pixel", np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8))
    pair(tmp_path, "nothing", np.full((48, 48), np.nan, np.float32))
    report = check([tmp_path])
    assert found(report, "image-constant") == ["pixel.tif", "zero.tif"]
    assert found(report, "image-tiny") == ["pixel.tif"]
    assert found(report, "mask-unannotated") == ["nothing.tif"]
    assert [p.name for p in report.pairs] == ["fine", "good"]


def test_an_empty_mask_is_a_warning_and_only_empty_masks_are_an_error(tmp_path: Path) -> None:
    pair(tmp_path, "a", cells(6))
    pair(tmp_path, "b", cells(0))
    report = check([tmp_path])
    assert found(report, "mask-empty") == ["b.tif"]
    assert len(report.pairs) == 2
    pair(tmp_path, "a", cells(0))
    with pytest.raises(DataError, match="every mask is empty"):
        check([tmp_path]).refuse_errors()


def test_masks_of_one_value_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", np.full((48, 48), 255, np.uint8))
    with pytest.raises(DataError, match="255 only"):
        check([tmp_path]).refuse_errors()


def test_equal_pairs_are_left_out_and_equal_images_with_other_masks_named(tmp_path: Path) -> None:
    image = np.random.default_rng(5).integers(0, 255, (48, 48)).astype(np.uint8)
    pair(tmp_path, "a", cells(6), image)
    pair(tmp_path, "b", cells(6), image)
    pair(tmp_path, "c", cells(5, seed=3), image)
    pair(tmp_path, "d", cells(4, seed=4))
    report = check([tmp_path])
    assert found(report, "duplicate") == ["b.tif"]
    assert found(report, "duplicate-conflict") == ["c.tif"]
    assert [p.name for p in report.pairs] == ["a", "c", "d"]


def test_pages_read_as_channels_keep_ignored_values(tmp_path: Path) -> None:
    for n in range(2):
        mask = (cells(4, seed=n) > 0).astype(np.uint8)
        mask[:5] = 255
        pair(tmp_path, f"a{n}", mask)
        pages = np.random.default_rng(n).integers(0, 255, (3, *mask.shape)).astype(np.uint8)
        (tmp_path / f"images/a{n}.png").unlink(missing_ok=True)
        tifffile.imwrite(tmp_path / f"images/a{n}.tif", pages, photometric="minisblack", metadata=None)
    rules = check([tmp_path], kind="classes", ignore=(255,)).rules
    assert (rules.channels, rules.class_values) == (3, (0, 1))


def test_images_with_other_channels_than_most_are_refused(tmp_path: Path) -> None:
    def channels(count: int) -> np.ndarray:
        return np.random.default_rng(count).integers(0, 255, (count, 48, 48)).astype(np.uint8)

    for n, count in enumerate((2, 2, 5)):
        (tmp_path / "images").mkdir(exist_ok=True)
        pair(tmp_path, f"a{n}", cells(4, seed=n))
        tifffile.imwrite(
            tmp_path / f"images/a{n}.tif", channels(count) + np.uint8(n), ome=True, metadata={"axes": "CYX"}
        )
    report = check([tmp_path])
    assert [f.code for f in report.errors] == ["channels-differ"]
    assert found(report, "channels-differ") == ["a2.tif"]
    assert report.rules.channels == 2


def test_objects_in_several_pieces_are_counted(tmp_path: Path) -> None:
    mask = cells(8)
    mask[mask == 2] = 1
    pair(tmp_path, "a", mask)
    pair(tmp_path, "b", cells(9, seed=1))
    mask[30:34, 2:6], mask[30:34, 8:12] = 9, 9  # two pieces side by side: one object, perhaps behind another
    pair(tmp_path, "a", mask)
    report = check([tmp_path])
    assert [f.details for f in report.issues if f.code == "object-split"] == [("1 of 8",)]


def test_a_dim_image_is_named(tmp_path: Path) -> None:
    for n in range(9):
        pair(tmp_path, f"a{n}", cells(5, seed=n))
    dim = np.random.default_rng(0).integers(0, 4, (48, 48)).astype(np.uint8)
    pair(tmp_path, "dim", cells(5, seed=20), dim)
    report = check([tmp_path])
    assert found(report, "intensity-outlier") == ["dim.tif"]


def test_a_mask_may_hold_65535_objects(tmp_path: Path) -> None:
    ids = np.zeros((768, 768), np.uint16)
    ids[::3, ::3] = np.arange(256 * 256).reshape(256, 256)
    pair(tmp_path, "many", ids)
    report = check([tmp_path])
    assert report.label_kind.reason == "object ids, 65535 per image"
    (sample,) = load_samples(report)
    assert int(sample.mask.max()) == 65535
    assert len(json.dumps(report.as_dict())) < 3000


def test_negative_values_other_than_minus_one_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", cells(5).astype(np.int16) - 1)
    pair(tmp_path, "b", cells(5, seed=1).astype(np.int16) - 7)
    report = check([tmp_path])
    assert found(report, "mask-no-labels") == ["b.tif"]
    assert "the value -7" in report.errors[0].line()


def test_masks_too_smooth_to_repair_are_refused(tmp_path: Path) -> None:
    for n in range(2):
        sharp = np.where(cells(9, seed=n) > 0, 255.0, 0.0)
        pair(tmp_path, f"a{n}", np.rint(ndimage.gaussian_filter(sharp, 2)).astype(np.uint8))
    report = check([tmp_path])
    assert [f.code for f in report.errors] == ["mask-no-labels", "nothing-left"]
    assert "blurred, as by JPEG or smoothing" in report.errors[0].line()


def test_many_values_in_several_pieces_are_neither_ids_nor_classes(tmp_path: Path) -> None:
    for n in range(2):
        values = np.random.default_rng(n).integers(1, 81, (20, 20)).astype(np.uint8)
        pair(tmp_path, f"a{n}", np.kron(values, np.pad(np.ones((6, 6), np.uint8), 1)))
    report = check([tmp_path])
    assert [f.code for f in report.errors] == ["kind-unclear"]
    assert check([tmp_path], kind="objects").errors == ()


def bright(mask: np.ndarray, seed: int) -> np.ndarray:
    """Return an image in which the objects of `mask` are bright."""
    noise = np.random.default_rng(seed).integers(0, 30, mask.shape)
    return (40 + 150 * (mask > 0) + noise).astype(np.uint8)


def test_masks_of_other_images_are_named(tmp_path: Path) -> None:
    masks = [np.roll(cells(9, seed=n), (n * n % 7, n * n % 5 + n), axis=(0, 1)) for n in range(8)]
    for n, mask in enumerate(masks):
        pair(tmp_path, f"a{n}", mask, bright(masks[{2: 6, 6: 2}.get(n, n)], n))
    assert found(check([tmp_path]), "mask-astray") == ["a2.tif", "a6.tif"]
    for n, mask in enumerate(masks):
        pair(tmp_path, f"a{n}", mask, bright(masks[n - 1], n))
    assert "masks-astray" in codes(check([tmp_path]))


def test_masks_that_all_seem_shifted_are_named_and_used_as_they_are(tmp_path: Path) -> None:
    for n in range(6):
        mask = cells(9, seed=n)
        pair(tmp_path, f"a{n}", np.roll(mask, 1, axis=1), bright(mask, n))
    report = check([tmp_path])
    assert report.mended == ()
    (issue,) = report.warnings
    assert (issue.code, set(issue.details)) == ("mask-shifted", {"shifted by 1 pixel along X"})
    assert issue.line().endswith(
        "; used unchanged; `septum check DATA --fix OUT` undoes the shift in a copy; look at the copy"
    )
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, np.roll(cells(9, seed=n), 1, axis=1))


def test_a_rotated_mask_is_not_transposed(tmp_path: Path) -> None:
    for n in range(3):
        mask = cells(12, seed=n)[:, :40]
        pair(tmp_path, f"a{n}", np.rot90(mask).copy() if n == 1 else mask, bright(mask, n))
    report = check([tmp_path])
    assert [f.line() for f in report.errors] == [
        "1 pair whose image and mask differ in size: a1.tif (image 48 x 40, mask 40 x 48, rotated by 90 degrees); "
        "left out of the copy of `septum check --fix`; export each mask in the size of its image"
    ]


def test_a_palette_is_read_as_indices(tmp_path: Path) -> None:
    for n in range(3):
        pair(tmp_path, f"a{n}", cells(4 + n, seed=n))
        mask = Image.fromarray((cells(4 + n, seed=n) > 0).astype(np.uint8) + cells(4 + n, seed=n).astype(np.uint8) % 2)
        mask.putpalette([0, 0, 0, 250, 10, 10, 20, 20, 240] + [9] * 750)
        (tmp_path / f"masks/a{n}.tif").unlink()
        mask.save(tmp_path / f"masks/a{n}.png")
    report = check([tmp_path])
    assert report.rules.mask_values == (0, 1, 2)
    assert report.mended == ()


def test_masks_in_color_give_classes_numbered_from_0(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [0, 0, 255], [255, 0, 0]], np.uint8)
    for n in range(3):
        pair(tmp_path, f"a{n}", cells(9, seed=n))
        (tmp_path / f"masks/a{n}.tif").unlink()
        labels = np.where(cells(9, seed=n) > 0, 1 + cells(9, seed=n) % 2, 0)
        Image.fromarray(colors[labels]).save(tmp_path / f"masks/a{n}.png")
    report = check([tmp_path])
    assert report.label_kind.reason == "classes: values 0, #0000ff, #ff0000"
    assert report.rules.class_values == (0, 1, 2)
    for n, sample in enumerate(load_samples(report)):
        np.testing.assert_array_equal(sample.mask, np.where(cells(9, seed=n) > 0, 1 + cells(9, seed=n) % 2, 0))


def test_every_issue_kind_is_listed_and_has_a_code_of_its_own() -> None:
    modules = [importlib.import_module(f"septum.check.{m.name}") for m in pkgutil.iter_modules(septum.check.__path__)]
    declared = {value for module in modules for value in vars(module).values() if isinstance(value, IssueKind)}
    assert len(declared) == len(ISSUE_KINDS)
    assert declared == set(ISSUE_KINDS.values())


def test_every_issue_kind_reads_as_a_phrase() -> None:
    for code, kind in ISSUE_KINDS.items():
        assert code == kind.code == code.lower()
        assert not any(text.endswith(".") for text in (kind.text, kind.mend, kind.fix, kind.todo))
        assert kind.severity != "mended" or kind.mend, code
        assert kind.severity != "error" or kind.fix or kind.todo, code
        assert not kind.leaves_out or "out" in kind.mend or kind.fix, code


# The meaning of mask values


def of(*masks: np.ndarray) -> list[Census]:
    return [census(m) for m in masks]


def test_two_values_are_classes_unless_objects_are_asked_for() -> None:
    masks = of(*(np.where(cells(5, seed=n) > 0, 255, 0) for n in range(3)))
    assert infer_label_kind(masks).kind == "classes"
    assert infer_label_kind(masks).values == (0, 255)
    asked = infer_label_kind(masks, kind="objects")
    assert (asked.kind, asked.pieces) == ("objects", True)
    assert asked.reason == "objects, one per connected piece, 5 per image (as asked)"


def stated(kind: MaskKind | None, *masks: np.ndarray) -> list[Census]:
    return [replace(one, stated=kind) for one in of(*masks)]


def test_files_that_state_what_their_values_are_decide_before_the_values() -> None:
    organs = [np.where(cells(9, seed=n) > 0, 1 + cells(9, seed=n) % 3, 0) for n in range(3)]
    assert infer_label_kind(stated(None, *organs)).kind == "classes"
    read = infer_label_kind(stated("objects", *organs))
    assert (read.kind, read.guess, read.reason) == ("objects", False, "object ids, 3 per image (as the files state)")
    varied = [cells(4 + 3 * n, seed=n) for n in range(4)]
    assert infer_label_kind(stated("classes", *varied)).values == tuple(range(14))
    assert infer_label_kind(stated("classes", *varied), objects=True).kind == "classes"  # before the folders
    assert infer_label_kind(stated("classes", *varied), kind="objects").kind == "objects"  # after the person
    some = infer_label_kind([*stated("objects", *organs), *stated(None, *varied)])
    assert (some.kind, some.guess) == ("objects", False)


def test_a_file_that_states_its_kind_does_not_decide_against_the_plain_values_of_others() -> None:
    organs = [np.where(cells(9, seed=n) > 0, 1 + cells(9, seed=n) % 3, 0) for n in range(9)]
    varied = [cells(4 + 3 * n, seed=n) for n in range(4)]
    read = infer_label_kind([*stated("objects", organs[0]), *stated(None, *organs[1:])])
    assert read.unclear == "objects in 1 mask, as the files state, and classes: values 0, 1, 2, 3 in 8 others"
    assert infer_label_kind([*stated("classes", organs[0]), *stated(None, *varied)]).unclear
    for kind in ("objects", "classes"):
        asked = infer_label_kind([*stated("objects", organs[0]), *stated(None, *organs[1:])], kind=kind)
        assert (asked.kind, asked.unclear) == (kind, "")
    foreground = [np.where(mask > 0, 1, 0) for mask in organs]  # one value: objects, or a class
    assert not infer_label_kind([*stated("objects", *varied), *stated(None, *foreground)]).unclear


def test_an_object_that_is_alone_in_its_image_stays_one_object_if_the_file_states_objects() -> None:
    alone = np.where(cells(5) == 1, 17, 0)
    alone[40:44, 40:44] = 17
    assert infer_label_kind(stated(None, alone, alone), kind="objects").pieces
    read = infer_label_kind(stated("objects", alone, alone))
    assert (read.kind, read.pieces) == ("objects", False)


def test_what_is_not_annotated_is_not_the_background_of_files_that_state_objects() -> None:
    drawn = [cells(n + 3, seed=n).astype(np.int32) for n in range(3)]
    sparse = [np.where(mask > 0, mask, -1) for mask in drawn]
    assert infer_label_kind(stated(None, *sparse), kind="objects").background == -1
    assert infer_label_kind(stated("objects", *sparse)).background == 0


def test_files_that_state_different_kinds_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for number, kind in enumerate(("objects", "objects", "classes")):
        mask = cells(4, seed=number)
        pair(tmp_path, str(number), mask)
        write_image(tmp_path / "masks" / f"{number}.tif", mask.astype(np.uint16), axes="YX", labels=kind)
    report = check([tmp_path])
    (error,) = report.errors
    assert error.code == "kind-unclear"
    assert "masks hold classes in 1 mask and objects in 2 masks, as the files state" in "\n".join(report.lines())
    assert "give --kind objects or --kind classes" in "\n".join(report.lines())
    assert not check([tmp_path], kind="objects").errors


def test_ids_that_vary_are_objects() -> None:
    meaning = infer_label_kind(of(*(cells(4 + 3 * n, seed=n) for n in range(4))))
    assert (meaning.kind, meaning.guess) == ("objects", False)


def test_values_in_many_pieces_are_classes() -> None:
    meaning = infer_label_kind(of(*(np.where(cells(9, seed=n) > 0, 1 + cells(9, seed=n) % 3, 0) for n in range(3))))
    assert (meaning.kind, meaning.values, meaning.guess) == ("classes", (0, 1, 2, 3), False)


def test_three_objects_in_every_image_are_a_guess() -> None:
    meaning = infer_label_kind(of(*(cells(3, seed=n) for n in range(10))))
    assert (meaning.kind, meaning.guess) == ("objects", True)


def test_three_organs_in_their_places_are_classes() -> None:
    masks = []
    for n in range(10):
        mask = np.zeros((48, 48), np.uint8)
        y, x = np.random.default_rng(n).integers(0, 5, 2)
        mask[4 + y : 20 + y, 4 + x : 30 + x], mask[30 + y : 40 + y, 10 + x : 20 + x], mask[26, 40] = 1, 2, 3
        masks.append(mask)
    meaning = infer_label_kind(of(*masks))
    assert (meaning.kind, meaning.guess) == ("classes", False)
    assert infer_label_kind(of(*masks[:4])).guess


def test_tracked_cells_are_objects() -> None:
    start = cells(12)
    meaning = infer_label_kind(of(*(np.roll(start, n // 3, axis=1) for n in range(20))))
    assert (meaning.kind, meaning.guess) == ("objects", False)


def test_cells_that_keep_their_places_through_one_stack_are_objects() -> None:
    rng = np.random.default_rng(2)
    start = np.zeros((48, 48), np.uint16)
    for number in range(24):
        y, x = 8 * (number // 6), 7 * (number % 6)
        start[y : y + rng.integers(1, 8), x : x + rng.integers(1, 7)] = number + 1
    pages = of(*(np.roll(start, n // 3, axis=1) for n in range(10)))
    assert infer_label_kind(pages).kind == "classes"  # of ten images on their own
    assert infer_label_kind(pages, sources=1).kind == "objects"
    assert infer_label_kind(of(*(np.where(start < 9, start, 0) for _ in range(10))), sources=1).kind == "classes"


def test_255_after_consecutive_classes_is_ignored_but_three_gray_levels_are_classes() -> None:
    labels = np.where(cells(9) > 0, 1 + cells(9) % 2, 0)
    labels[:, :2] = 255
    meaning = infer_label_kind(of(labels))
    assert (meaning.values, meaning.ignore) == ((0, 1, 2), (255,))
    levels = np.select([cells(9) % 2 == 1, cells(9) > 0], [255, 128], 0)
    assert infer_label_kind(of(levels)).values == (0, 128, 255)
    assert infer_label_kind(of(levels)).ignore == ()


def test_layout_and_user_decide_first() -> None:
    masks = of(np.array([[0, 1], [0, 1]]))
    assert infer_label_kind(masks, objects=True).kind == "objects"
    assert infer_label_kind(masks, objects=True, kind="classes").kind == "classes"
    assert infer_label_kind(of(cells(5)), kind="classes").values == (0, 1, 2, 3, 4, 5)


def test_sizes_distinguish_cell_and_nucleus() -> None:
    def mask(n: int) -> Census:
        rng = np.random.default_rng(n)
        where = tuple(rng.uniform(0.2, 0.8, 2))
        traits = (Trait(where, rng.uniform(0.1, 0.2), 0.5), Trait(where, rng.uniform(0.01, 0.02), 1.0))
        return Census((1, 2), (100, 10), 900, 0, 2, 2, 0, 55.0, 55.0, traits)

    assert infer_label_kind([mask(n) for n in range(10)]).kind == "classes"


@pytest.mark.parametrize(
    ("name", "kind", "values", "channels", "rank"),
    [
        ("isbi2012/train", "classes", (0, 255), 1, 2),
        ("dsb2018/brightfield", "objects", (0, 1), 3, 2),
        ("hippocampus", "classes", (0, 1, 2), 1, 3),
    ],
)
def test_real_data_sets_have_no_false_issues(
    tmp_path: Path, name: str, kind: str, values: tuple[int, ...], channels: int, rank: int
) -> None:
    if not (REAL / name).is_dir():
        pytest.skip("the real images are not beside the repository")
    for role in ("images", "masks"):
        (tmp_path / role).mkdir()
        for path in sorted((REAL / name / role).iterdir())[:12]:
            (tmp_path / role / path.name).symlink_to(path)
    report = check([tmp_path])
    rules = report.rules
    assert (rules.kind, rules.class_values, rules.channels, rules.rank) == (kind, values, channels, rank)
    assert report.errors == ()
    assert report.left_out == ()
    reported = {
        "kind-guess",
        "mask-astray",
        "masks-astray",
        "masks-shifted",
        "mask-shifted",
        "mask-turned",
        "object-apart",
    }
    reported |= {
        "near-duplicate",
        "sequence",
        "intensity-outlier",
        "intensity-unlike",
        "size-outlier",
        "object-size-outlier",
    }
    assert not reported & codes(report)
    assert not {"mask-astray", "masks-astray", "masks-shifted", "kind-guess"} & codes(report)


def test_values_to_ignore_are_not_annotated(tmp_path: Path) -> None:
    for n in range(4):
        mask = cells(5 + n, seed=n).astype(np.uint16)
        mask[40:] = 9999
        pair(tmp_path, f"a{n}", mask)
    report = check([tmp_path], ignore=[9999])
    assert (report.rules.kind, report.rules.ignore) == ("objects", (9999,))
    assert found(report, "ignored") == ["a0.tif", "a1.tif", "a2.tif", "a3.tif"]
    for sample in load_samples(report):
        assert (sample.mask[40:] == -1).all()
        assert sample.mask[:40].min() == 0
        assert sample.mask.max() < 9999
    with pytest.raises(UsageError, match="--ignore-value 77: no mask holds it"):
        check([tmp_path], ignore=[77])


def test_scribbles_are_classes_if_0_is_not_annotated(tmp_path: Path) -> None:
    for n in range(3):
        mask = np.zeros((48, 48), np.uint8)
        mask[5, 3:30] = 1  # background
        mask[20 + n, 8:20] = 2
        pair(tmp_path, f"a{n}", mask)
    report = check([tmp_path], ignore=[0])
    assert (report.rules.kind, report.rules.class_values) == ("classes", (1, 2))
    first = next(iter(load_samples(report))).mask
    assert (first[5, 3:30] == 0).all()
    assert (first[20, 8:20] == 1).all()
    assert np.count_nonzero(first != -1) == 27 + 12
    with pytest.raises(UsageError, match="--kind classes"):
        check([tmp_path], ignore=[0], kind="objects")


def test_pages_without_annotation_are_left_out_and_named(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (4, 48, 48)).astype(np.uint8)
    mask = np.stack([cells(4, seed=n) for n in range(4)]).astype(np.int16)
    mask[[1, 3]] = -1
    for role, array in (("images", image), ("masks", mask)):
        (tmp_path / role).mkdir()
        tifffile.imwrite(tmp_path / role / "film.tif", array, photometric="minisblack", metadata={"axes": "TYX"})
    report = check([tmp_path])
    (issue,) = [f for f in report.issues if f.code == "page-unannotated"]
    assert issue.line() == (
        "1 mask with pages in which nothing is annotated: film.tif (2 of 4); these pages are left out"
    )
    assert [(s.name, s.position) for s in load_samples(report)] == [("film_t000", 0), ("film_t002", 2)]
