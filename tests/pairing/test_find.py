from __future__ import annotations

from itertools import product
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import DataError, SeptumError, UsageError
from septum.pairing.find import find_pairs
from septum.pairing.names import match
from septum.pairing.pair import Pairing


def touch(folder: Path, *names: str) -> Path:
    """Make empty files: pairing opens none of them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def partners(pairing: Pairing) -> dict[str, str | None]:
    return {p.image.name: p.mask.name if p.mask else None for p in pairing.pairs}


def refused(*data: Path, kind: type[SeptumError]) -> SeptumError:
    with pytest.raises(kind) as raised:
        find_pairs(data)
    assert raised.value.given and raised.value.expected and raised.value.todo
    return raised.value


def dead(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).symlink_to("../.git/annex/objects/nothing")


@pytest.mark.parametrize("images", ["images", "Images", "image", "imgs"])
@pytest.mark.parametrize("masks", ["masks", "LABELS", "annotations", "gt", "Ground_Truth"])
def test_a_folder_with_images_and_masks(tmp_path: Path, images: str, masks: str) -> None:
    names = ["b.png", "a 2.png", "a 10.tif"]
    touch(tmp_path, *(f"{images}/{n}" for n in names), *(f"{masks}/{n}" for n in names), f"{masks}/notes.txt")
    pairing = find_pairs([tmp_path])
    assert (pairing.layout, pairing.objects) == ("folders", None)
    assert [p.name for p in pairing.pairs] == ["a 2", "a 10", "b"]
    assert all(p.mask == tmp_path / masks / p.image.name for p in pairing.pairs)
    assert {(p.group, p.position, p.gold) for p in pairing.pairs} == {("", 0, None)}
    assert find_pairs([tmp_path / images, tmp_path / masks]) == pairing


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.tif", "a.png"),
        ("a.ome.tif", "a.tif"),
        ("a.nii.gz", "a.nii"),
        ("a.png", "a_mask.png"),
        ("a.png", "A-Label.PNG"),
        ("a.png", "mask_a.png"),
        ("a.png", "seg-a.tif"),
        ("a.png", "a_cp_masks.png"),
        ("a_img.png", "a_seg.png"),
        ("train-volume.tif", "train-labels.tif"),
        ("image_a.png", "mask_a.png"),
        ("cell_label.png", "cell_label.png"),
        ("mask.png", "mask.png"),
    ],
)
def test_words_for_masks_and_images_are_ignored_when_names_are_matched(tmp_path: Path, image: str, mask: str) -> None:
    touch(tmp_path, f"images/{image}", f"masks/{mask}", "images/other.png", "masks/other.png")
    pairing = find_pairs([tmp_path])
    assert partners(pairing) == {image: mask, "other.png": "other.png"}
    assert pairing.unmatched_images == pairing.unmatched_masks == ()


def test_1_never_matches_10(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png", "images/10.png", "images/2.png", "masks/10.png", "masks/2.png", "masks/100.png")
    pairing = find_pairs([tmp_path])
    assert partners(pairing) == {"2.png": "2.png", "10.png": "10.png"}
    assert [p.name for p in pairing.unmatched_images] == ["1.png"]
    assert [p.name for p in pairing.unmatched_masks] == ["100.png"]


def test_names_of_two_patterns_are_matched_by_their_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10, 11):
        touch(tmp_path, f"images/frame{number:03d}_c0.tif", f"masks/truth-{number}.tif")
    touch(tmp_path, "images/frame100_c0.tif")
    pairing = find_pairs([tmp_path])
    assert partners(pairing) == {f"frame{n:03d}_c0.tif": f"truth-{n}.tif" for n in (1, 2, 10, 11)}
    assert [p.name for p in pairing.unmatched_images] == ["frame100_c0.tif"]


def test_numbers_of_mixed_patterns_are_not_trusted(tmp_path: Path) -> None:
    touch(tmp_path, "images/liver1.tif", "images/kidney2.tif", "masks/truth1.tif", "masks/truth2.tif")
    error = refused(tmp_path, kind=DataError)
    assert "liver1.tif" in error.given and "truth1.tif" in error.given


@pytest.mark.parametrize(
    ("files", "rivals"),
    [
        (["images/a.png", "images/a.tif", "masks/a.png"], ["a.png", "a.tif"]),
        (["images/a.png", "masks/a.png", "masks/a.tif"], ["a.png", "a.tif"]),
        (["images/a.png", "masks/a_mask.png", "masks/a_label.png"], ["a_mask.png", "a_label.png"]),
        (["images/a.png", "masks/a.png", "masks/a_mask.png"], ["a.png", "a_mask.png"]),
        (["images/t01.tif", "images/t1.tif", "masks/m1.tif", "masks/m2.tif"], ["t01.tif", "t1.tif"]),
    ],
)
def test_two_files_for_one_partner_are_both_named(tmp_path: Path, files: list[str], rivals: list[str]) -> None:
    error = refused(touch(tmp_path, *files), kind=DataError)
    assert all(name in error.given for name in rivals)


def test_fields_of_view_are_paired_as_masks_are(tmp_path: Path) -> None:
    touch(tmp_path, "images/01_test.tif", "images/2_test.tif", "images/03_test.tif")
    touch(tmp_path, "1st_manual/1_manual1.gif", "1st_manual/02_manual1.gif", "1st_manual/03_manual1.gif")
    touch(tmp_path, "mask/01_test_mask.gif", "mask/2_test_mask.gif", "mask/10_test_mask.gif")
    pairing = find_pairs([tmp_path])
    assert partners(pairing)["01_test.tif"] == "1_manual1.gif"
    fields = {p.image.name: p.field and p.field.name for p in pairing.pairs}
    assert fields == {"01_test.tif": "01_test_mask.gif", "2_test.tif": "2_test_mask.gif", "03_test.tif": None}
    assert pairing.set_aside == ((tmp_path / "mask/10_test_mask.gif", "field of view"),)
    for path in (tmp_path / "mask").iterdir():
        path.unlink()
    touch(tmp_path, "mask/fov1.png", "mask/fov2.png", "mask/fov3.png")
    assert [p.field and p.field.name for p in find_pairs([tmp_path]).pairs] == ["fov1.png", "fov2.png", "fov3.png"]


def test_consecutive_numbers_are_sections_of_one_group(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{f}/{n:02d}.png" for f in ("images", "masks") for n in range(5, 12)))
    (tmp_path / "masks" / "07.png").unlink()
    pairs = find_pairs([tmp_path]).pairs
    assert [(p.name, p.group, p.position) for p in pairs] == [(f"{n:02d}", "images", n) for n in (5, 6, 8, 9, 10, 11)]
    touch(tmp_path, "images/13.png", "masks/13.png")
    assert {p.group for p in find_pairs([tmp_path]).pairs} == {""}


def test_two_files(tmp_path: Path) -> None:
    touch(tmp_path, "train-volume.tif", "train-labels.tif", "notes.txt")
    pairing = find_pairs([tmp_path / "train-volume.tif", tmp_path / "train-labels.tif"])
    assert pairing.layout == "stacks"
    (pair,) = pairing.pairs
    assert (pair.name, pair.image.name, pair.mask, pair.group) == (
        "train-volume",
        "train-volume.tif",
        tmp_path / "train-labels.tif",
        "train-volume",
    )
    assert partners(find_pairs([tmp_path])) == {"train-volume.tif": "train-labels.tif"}
    refused(tmp_path / "train-volume.tif", tmp_path / "notes.txt", kind=UsageError)
    refused(tmp_path / "train-volume.tif", tmp_path / "train-volume.tif", kind=UsageError)


def test_masks_before_images_are_noticed(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "masks/a.png", "b.png", "b_mask.png")
    for first, second in [("masks", "images"), ("masks/a.png", "images/a.png"), ("b_mask.png", "b.png")]:
        error = refused(tmp_path / first, tmp_path / second, kind=UsageError)
        assert "first" in error.expected


def test_side_by_side(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a_mask.png", "b.tif", "b_seg.png", "c.png", "d_label.png", "readme.md")
    pairing = find_pairs([tmp_path])
    assert pairing.layout == "files"
    assert partners(pairing) == {"a.png": "a_mask.png", "b.tif": "b_seg.png"}
    assert [p.name for p in pairing.unmatched_images] == ["c.png"]
    assert [p.name for p in pairing.unmatched_masks] == ["d_label.png"]
    assert find_pairs(sorted(p for p in tmp_path.iterdir() if p.suffix != ".md")) == pairing
    refused(tmp_path / "a.png", tmp_path / "b.tif", tmp_path / "c.png", kind=DataError)
    refused(tmp_path / "a.png", tmp_path / "a_mask.png", tmp_path / "readme.md", kind=UsageError)


@pytest.mark.parametrize(
    ("folder", "made"), [("runs", "runs/1/settings.json"), ("predictions", ".studio/labels.sqlite")]
)
def test_folders_of_a_person_that_are_named_as_results_hold_images(tmp_path: Path, folder: str, made: str) -> None:
    touch(tmp_path, f"{folder}/1/a.png", f"{folder}/1/b.png", "masks/a.png", "masks/b.png", "raw/a.png")
    pairing = find_pairs([tmp_path / folder / "1", tmp_path / "masks"])
    (tmp_path / "raw" / "a.png").unlink()
    assert (
        partners(find_pairs([tmp_path, tmp_path / "masks"]))
        == partners(pairing)
        == {"a.png": "a.png", "b.png": "b.png"}
    )
    touch(tmp_path, made, "raw/a.png")
    assert partners(find_pairs([tmp_path, tmp_path / "masks"])) == {"a.png": "a.png"}


def test_a_subfolder_named_as_one_of_masks_holds_images_where_the_masks_have_it_too(tmp_path: Path) -> None:
    touch(tmp_path, "gt/a.png", "p1/b.png", "labels/c.png", "seg/gt/a.png", "seg/p1/b.png")
    pairing = find_pairs([tmp_path, tmp_path / "seg"])
    assert [(p.image.relative_to(tmp_path).as_posix(), p.mask) for p in pairing.pairs] == [
        ("gt/a.png", tmp_path / "seg" / "gt" / "a.png"),
        ("p1/b.png", tmp_path / "seg" / "p1" / "b.png"),
    ]
    assert not pairing.unmatched_images and not pairing.unmatched_masks


def test_images_in_subfolders_beside_images_in_the_folder_are_set_aside(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "p1/b.png", "p1/c.png", *(f"masks/{n}.png" for n in "abc"))
    pairing = find_pairs([tmp_path, tmp_path / "masks"])
    assert partners(pairing) == {"a.png": "a.png"}
    assert pairing.set_aside == ((tmp_path / "p1" / "b.png", "subfolder"), (tmp_path / "p1" / "c.png", "subfolder"))


@pytest.mark.parametrize("inside", ["", "p1/"])
def test_masks_and_results_in_a_folder_of_images_are_no_images(tmp_path: Path, inside: str) -> None:
    touch(tmp_path, *(f"{inside}{n}.png" for n in "abc"), f"masks/{inside}a.tif", "predictions/b.tif", "runs/1/b.png")
    (tmp_path / ".studio").mkdir()
    (tmp_path / "predictions" / "c.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    pairing = find_pairs([tmp_path, tmp_path / "masks"])
    assert partners(pairing) == {"a.png": "a.tif"}
    assert [p.name for p in pairing.unmatched_images] == ["b.png", "c.png"]
    assert pairing.unmatched_masks == ()


def test_a_list_of_files_from_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/b.png")
    pairing = find_pairs(sorted(tmp_path.glob("*/*")))
    assert pairing.layout == "files"
    assert partners(pairing) == {"a.png": "a.png", "b.png": "b.png"}


def test_names_stay_unique(tmp_path: Path) -> None:
    files = ["x/a.png", "x/a_mask.png", "y/a.tif", "y/b.png", "y/b_mask.png"]
    touch(tmp_path, *files)
    error = refused(*(tmp_path / f for f in files), kind=DataError)
    assert "a.png" in error.given and "a.tif" in error.given


def ctc_data(folder: Path) -> Path:
    frames = [f"01/t{n:03d}.tif" for n in range(12)] + [f"02/t{n:03d}.tif" for n in range(3)]
    gold = ["01_GT/SEG/man_seg002.tif", "01_GT/SEG/man_seg010.tif", "01_GT/TRA/man_track002.tif"]
    silver = [f"01_ST/SEG/man_seg{n:03d}.tif" for n in range(11)] + ["02_GT/SEG/man_seg001.tif"]
    return touch(folder, *frames, *gold, *silver, "03/t000.tif", "01_GT/SEG/notes.txt")


def test_a_cell_tracking_data_set(tmp_path: Path) -> None:
    pairing = find_pairs([ctc_data(tmp_path)])
    assert (pairing.layout, pairing.objects) == ("ctc", True)
    assert [p.name for p in pairing.pairs] == [f"01_t{n:03d}" for n in range(12)] + [f"02_t{n:03d}" for n in range(3)]
    assert [(p.group, p.position) for p in pairing.pairs] == [("01", n) for n in range(12)] + [
        ("02", n) for n in range(3)
    ]
    by_name = {p.name: p for p in pairing.pairs}
    silver, gold = tmp_path / "01_ST" / "SEG", tmp_path / "01_GT" / "SEG"
    assert (by_name["01_t001"].mask, by_name["01_t001"].gold) == (silver / "man_seg001.tif", None)
    assert (by_name["01_t010"].mask, by_name["01_t010"].gold) == (silver / "man_seg010.tif", gold / "man_seg010.tif")
    assert (by_name["01_t011"].mask, by_name["01_t011"].gold) == (None, None)
    only_gold = tmp_path / "02_GT" / "SEG" / "man_seg001.tif"
    assert (by_name["02_t001"].mask, by_name["02_t001"].gold) == (only_gold, only_gold)


def test_one_sequence_and_its_truth_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctc_data(tmp_path)
    sequence = find_pairs([tmp_path / "01"])
    assert [p.name for p in sequence.pairs] == [f"01_t{n:03d}" for n in range(12)]
    for truth in ("01_ST", "01_ST/SEG"):
        pairing = find_pairs([tmp_path / "01", tmp_path / truth])
        assert {p.gold for p in pairing.pairs} == {None}
        assert [p.mask for p in pairing.pairs] == [p.mask for p in sequence.pairs]
    gold = find_pairs([tmp_path / "01", tmp_path / "01_GT"])
    assert {p.position: p.mask == p.gold for p in gold.pairs if p.mask} == {2: True, 10: True}
    monkeypatch.chdir(tmp_path / "01")
    assert [p.group for p in find_pairs([Path()]).pairs] == ["01"] * 12


def test_gold_slices_of_a_volume(tmp_path: Path) -> None:
    touch(tmp_path, *(f"01/t{n:03d}.tif" for n in range(3)), "01_ST/SEG/man_seg000.tif")
    touch(
        tmp_path, *(f"01_GT/SEG/man_seg_{n}.tif" for n in ("000_004", "000_010", "002_007")), "01_GT/SEG/man_seg001.tif"
    )
    found = [
        (p.name, p.mask.name if p.mask else None, p.gold.name if p.gold else None, p.gold_slice, p.position)
        for p in find_pairs([tmp_path]).pairs
    ]
    assert found == [
        ("01_t000_z004", "man_seg000.tif", "man_seg_000_004.tif", 4, 0),
        ("01_t000_z010", None, "man_seg_000_010.tif", 10, 0),
        ("01_t001", "man_seg001.tif", "man_seg001.tif", None, 1),
        ("01_t002", "man_seg_002_007.tif", "man_seg_002_007.tif", 7, 2),
    ]


def test_truth_without_a_frame_and_doubled_frames(tmp_path: Path) -> None:
    touch(tmp_path, "01/t000.tif", "01_GT/SEG/man_seg000.tif", "01_GT/SEG/man_seg007.tif", "01_ST/SEG/man_seg008.tif")
    assert [p.name for p in find_pairs([tmp_path]).unmatched_masks] == ["man_seg008.tif", "man_seg007.tif"]
    touch(tmp_path, "01/t0.tif")
    error = refused(tmp_path, kind=DataError)
    assert "t0.tif" in error.given and "t000.tif" in error.given
    touch(tmp_path, "other/02/x.png", "other/02_GT/SEG/man_seg000.tif")
    assert "holds no frame" in refused(tmp_path / "other", kind=DataError).given


def test_folders_that_are_no_data_set_are_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "many/train/images/a.png", "many/train/masks/a.png", "many/deep/ctc/01/t0.tif")
    touch(
        tmp_path,
        "many/deep/ctc/01_GT/SEG/man_seg0.tif",
        "plain/a.png",
        "plain/b.png",
        "texts/a.txt",
        "one/images/a.png",
    )
    touch(
        tmp_path, "none/images/a.txt", "none/masks/a.png", "strange/images/a.png", "strange/masks/z.png", "twice/a.png"
    )
    touch(
        tmp_path, "json/images/a.png", "json/masks/a.json", "both/images/a.png", "both/masks/a.png", "both/labels/a.png"
    )
    for name, kind, message in [
        ("missing", UsageError, "does not exist"),
        ("empty", DataError, "empty"),
        ("many", UsageError, "in subfolders: deep/ctc, train|in subfolders: train, deep/ctc"),
        ("plain", DataError, "only images (2), no masks"),
        ("texts", DataError, "a.txt"),
        ("none", DataError, "holds no image (1 .txt)"),
        ("json", DataError, "holds no image (1 .json)"),
        ("strange", DataError, "no mask fits an image by name: images a.png"),
        ("both", DataError, "several folders of masks, by their names: labels and masks"),
        ("one", DataError, "no images and masks, but images"),
        ("one/images", DataError, "only images (1), no masks"),
        ("plain/a.png", UsageError, "a.png"),
    ]:
        error = refused(tmp_path / name, kind=kind)
        assert any(text in error.given for text in message.split("|")), error.given
    assert "septum predict nuclei " in refused(tmp_path / "plain", kind=DataError).todo
    refused(kind=UsageError)
    refused(tmp_path / "plain", tmp_path / "plain", kind=UsageError)
    refused(tmp_path / "plain", tmp_path / "plain" / "a.png", kind=UsageError)
    refused(tmp_path / "plain", tmp_path / "texts", tmp_path / "many", kind=UsageError)


def test_hidden_files_and_odd_names(tmp_path: Path) -> None:
    names = ["a b.png", "line\nbreak.png", "zelle 🔬.png", "[x].png"]
    touch(tmp_path, *(f"{f}/{n}" for f in ("images", "masks") for n in names), "images/._a b.png", "masks/.DS_Store")
    touch(tmp_path, "images/.hidden.png")
    assert partners(find_pairs([tmp_path])) == {n: n for n in names}


@given(st.sets(st.integers(0, 300), min_size=2), st.sets(st.integers(0, 300), min_size=2), st.randoms())
def test_numbers_match_exactly_the_same_numbers_in_any_order(images: set[int], masks: set[int], random: Random) -> None:
    image_files = [Path(f"images/frame{n}.tif") for n in images]
    mask_files = [Path(f"masks/{n:04d}_truth7.png") for n in masks]
    random.shuffle(image_files)
    random.shuffle(mask_files)
    found = match(image_files, mask_files)
    common = sorted(images & masks)
    assert found.pairs == [(Path(f"images/frame{n}.tif"), Path(f"masks/{n:04d}_truth7.png")) for n in common]
    assert found.images_left == [Path(f"images/frame{n}.tif") for n in sorted(images - masks)]
    assert found.masks_left == [Path(f"masks/{n:04d}_truth7.png") for n in sorted(masks - images)]


def test_links_multiply_no_pair_and_their_search_ends(tmp_path: Path) -> None:
    for patient, part in product(("p1", "p2"), ("images", "masks")):
        touch(tmp_path / "folders" / part / patient, "a.png", "b.png")
        touch(tmp_path / "parts" / patient / part, "a.png", "b.png")
        touch(tmp_path / "samples" / patient / part, "a.png")
    for part, link in product(("images", "masks"), ("latest", "newest")):
        (tmp_path / "folders" / part / link).symlink_to(".")
    for layout in ("parts", "samples"):
        (tmp_path / layout / "latest").symlink_to("p2")
    for layout, names in (
        ("folders", ["p1_a", "p1_b", "p2_a", "p2_b"]),
        ("parts", ["p1_a", "p1_b", "p2_a", "p2_b"]),
        ("samples", ["p1", "p2"]),
    ):
        pairing = find_pairs([tmp_path / layout])
        assert [pair.name for pair in pairing.pairs] == names
        assert not pairing.unmatched_images and not pairing.unmatched_masks and not pairing.unread


def test_a_folder_that_several_links_lead_to_gives_pairs_for_each(tmp_path: Path) -> None:
    touch(
        tmp_path / "stains",
        *(f"{part}/{n}.png" for part in ("images/phase", "images/fluo", "masks/phase") for n in "ab"),
    )
    (tmp_path / "stains" / "masks" / "fluo").symlink_to("phase")
    pairs = {(p.name, p.mask) for p in find_pairs([tmp_path / "stains"]).pairs}
    masks = tmp_path / "stains" / "masks"
    assert pairs == {(f"{s}_{n}", masks / s / f"{n}.png") for s, n in product(("fluo", "phase"), "ab")}

    touch(tmp_path / "pool" / "p1", "a.png", "sub/b.png")
    touch(tmp_path / "visits", "masks/p1/a.png", "masks/p2/b.png").joinpath("images").mkdir()
    for link, target in (("p1", "p1"), ("p2", "p1/sub")):
        (tmp_path / "visits" / "images" / link).symlink_to(tmp_path / "pool" / target)
    assert partners(find_pairs([tmp_path / "visits"])) == {"a.png": "a.png", "b.png": "b.png"}


@pytest.mark.parametrize(
    ("there", "gone"),
    [
        (["images/a.png", "masks/a.png"], "images/a.tif"),
        (["images/a.png", "masks/a.png"], "masks/a.tif"),
        (["images/a.png", "masks/a_mask.png"], "masks/a.tif"),
        (["images/a_img.png", "masks/a.png"], "images/a_raw.tif"),
        (["a.png", "a_mask.png"], "a_mask.tif"),
    ],
)
def test_a_link_that_leads_nowhere_is_left_where_another_file_fits(tmp_path: Path, there: list[str], gone: str) -> None:
    touch(tmp_path, *there)
    dead(tmp_path, gone)
    pairing = find_pairs([tmp_path])
    assert [(p.image, p.mask) for p in pairing.pairs] == [tuple(tmp_path / name for name in there)]
    assert [*pairing.unmatched_images, *pairing.unmatched_masks] == [tmp_path / gone]


def test_links_that_lead_nowhere_are_counted_where_nothing_else_fits(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "masks/b.png")
    dead(tmp_path, "images/b.png", "masks/a.png")
    assert partners(find_pairs([tmp_path])) == {"a.png": "a.png", "b.png": "b.png"}
    dead(tmp_path, "images/b.tif")
    assert "2 images fit the mask b.png" in refused(tmp_path, kind=DataError).given
