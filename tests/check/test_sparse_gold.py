"""Gold frames that name some of their objects: what they do not name is neither background nor a false positive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from septum.arrays.instances import ObjectSettings
from septum.check.check import Report, check
from septum.check.repair import fix
from septum.check.samples import load_samples
from septum.train.events import Checked, Trained
from septum.train.loop import train
from septum.train.settings import TrainSettings
from septum.train.validation import candidate_columns, choose

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SIDE = 64


def grid(frame: int, count: int) -> np.ndarray:
    """Return ids 1 .. `count` of squares of 8 pixels that do not touch and drift by a pixel a frame."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for number, (down, right) in enumerate(np.random.default_rng(3).integers(0, 5, (count, 2))):
        y, x = 2 + 16 * (number // 4) + down, 1 + 16 * (number % 4) + right + frame % 3
        labels[y : y + 8, x : x + 8] = number + 1
    return labels


def sequence(folder: Path, named: dict[int, int], *, there: int = 12, silver: tuple[int, ...] = ()) -> Path:
    """Write a sequence whose gold frames name so many of `there` objects."""
    for part in ("01", "01_GT/SEG", "01_ST/SEG"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for frame, count in named.items():
        noise = np.random.default_rng(frame).integers(0, 30, (SIDE, SIDE))
        tifffile.imwrite(
            folder / f"01/t{frame:03d}.tif", (40 + 150 * (grid(frame, there) > 0) + noise).astype(np.uint8)
        )
        tifffile.imwrite(folder / f"01_GT/SEG/man_seg{frame:03d}.tif", grid(frame, count))
        if frame in silver:
            tifffile.imwrite(folder / f"01_ST/SEG/man_seg{frame:03d}.tif", grid(frame, there))
    return folder


def lines(report: Report, code: str) -> list[str]:
    return [f.line() for f in report.findings if f.code == code]


def test_a_frame_that_names_far_fewer_objects_is_background_only_near_them(tmp_path: Path) -> None:
    report = check([sequence(tmp_path, {0: 12, 3: 11, 4: 12, 7: 3, 9: 12})])
    assert lines(report, "gold-partial") == [
        "1 frame whose gold truth names only some of its objects: man_seg007.tif (3 of about 12); "
        "there only a thin margin of these is background, the rest is not annotated"
    ]
    assert lines(report, "gold-only") == [
        "4 frames with gold truth only, which may not name every object: man_seg000.tif, man_seg003.tif, "
        "man_seg004.tif, man_seg009.tif; what it does not name is learned as background"
    ]
    samples = list(load_samples(report))
    truth = grid(7, 3).astype(np.int32)
    partial = samples[3]
    np.testing.assert_array_equal(partial.mask[truth > 0], truth[truth > 0])
    distance = ndimage.distance_transform_edt(truth == 0)
    np.testing.assert_array_equal(partial.mask < 0, distance > 5)
    assert (partial.mask[(distance > 0) & (distance <= 5)] == 0).all()
    np.testing.assert_array_equal(partial.gold, truth)
    for other, frame in zip((*samples[:3], samples[4]), (0, 3, 4, 9), strict=True):
        np.testing.assert_array_equal(other.mask, grid(frame, 11 if frame == 3 else 12))
        assert other.gold is None


@pytest.mark.parametrize(
    "named",
    [
        {0: 12, 3: 11, 4: 12, 7: 7, 9: 12},  # more than half
        {0: 1, 10: 1, 20: 2, 30: 4, 40: 6, 50: 8, 60: 12},  # cells that divide
        {0: 12, 7: 3},  # of two frames nobody knows which is usual
    ],
)
def test_other_frames_are_as_they_were(tmp_path: Path, named: dict[int, int]) -> None:
    report = check([sequence(tmp_path, named)])
    assert lines(report, "gold-partial") == []
    for sample, (frame, count) in zip(load_samples(report), named.items(), strict=True):
        np.testing.assert_array_equal(sample.mask, grid(frame, count))
        assert sample.gold is None


def test_of_one_frame_nothing_can_be_told_and_that_is_said(tmp_path: Path) -> None:
    assert lines(check([sequence(tmp_path, {7: 3})]), "gold-only") == [
        "1 frame with gold truth only, which may not name every object: man_seg007.tif (too few frames to tell); what "
        "it does not name is learned as background"
    ]


def test_silver_frames_of_the_sequence_say_how_many_are_usual_and_are_as_they_were(tmp_path: Path) -> None:
    report = check([sequence(tmp_path, {0: 12, 1: 3, 2: 3, 3: 2}, silver=(0, 1, 2))])
    assert lines(report, "gold-only") == []
    assert [f.files[0].name for f in report.findings if f.code == "gold-partial"] == ["man_seg003.tif"]
    samples = list(load_samples(report))
    for frame in (0, 1, 2):
        np.testing.assert_array_equal(samples[frame].mask, grid(frame, 12))
    assert (samples[3].mask < 0).any()


def test_a_frame_that_names_nothing_is_left_out(tmp_path: Path) -> None:
    report = check([sequence(tmp_path, {0: 12, 3: 12, 4: 12, 7: 0})])
    assert len(lines(report, "gold-partial")) == 1
    assert [s.position for s in load_samples(report)] == [0, 3, 4]


def test_tracking_markers_say_how_many_objects_there_are(tmp_path: Path) -> None:
    data = sequence(tmp_path / "data", {0: 3, 3: 12, 4: 11, 7: 2})
    (data / "01_GT/TRA").mkdir()
    for frame in (0, 3, 4):
        markers = np.where(ndimage.minimum_filter(grid(frame, 12), 5) > 0, grid(frame, 12), 0)
        tifffile.imwrite(data / f"01_GT/TRA/man_track{frame:03d}.tif", markers)
    (data / "01_GT/TRA/man_track007.tif").write_bytes(b"damaged")
    report = check([data])
    partial, only = (lines(report, code)[0].partition("; ")[0] for code in ("gold-partial", "gold-only"))
    assert partial.endswith("some of its objects: man_seg000.tif (3 of 12), man_seg007.tif (2 of about 11.5)")
    assert only.endswith("may not name every object: man_seg004.tif (11 of 12)")
    list(fix(report, tmp_path / "copy"))
    assert (tmp_path / "copy/01_GT/TRA/man_track003.tif").is_file()
    assert lines(check([tmp_path / "copy"]), "gold-partial") == lines(report, "gold-partial")


def test_one_frame_is_judged_by_its_markers(tmp_path: Path) -> None:
    data = sequence(tmp_path, {7: 12})
    (data / "01_GT/TRA").mkdir()
    tifffile.imwrite(data / "01_GT/TRA/man_track007.tif", grid(7, 12))
    assert not [f for f in check([data]).findings if f.code.startswith("gold")]
    tifffile.imwrite(data / "01_GT/SEG/man_seg007.tif", grid(7, 5))
    (sample,) = load_samples(check([data]))
    assert (sample.mask < 0).any()


def test_the_margin_grows_with_the_objects(tmp_path: Path) -> None:
    data = sequence(tmp_path, {0: 12, 3: 12, 7: 3})
    for path in (*(data / "01").iterdir(), *(data / "01_GT/SEG").iterdir()):
        tifffile.imwrite(path, np.kron(tifffile.imread(path), np.ones((13, 13), np.uint8)))
    report = check([data])  # squares of 104 pixels are as large as disks of 117
    assert [(item.position, item.near_px) for item in report.items if item.near_px] == [
        (7, pytest.approx(104 / np.sqrt(np.pi) / 10))
    ]


def test_objects_that_the_truth_does_not_name_are_no_false_positives(tmp_path: Path) -> None:
    sample = list(load_samples(check([sequence(tmp_path, {0: 12, 3: 12, 4: 12, 7: 3})])))[3]
    foreground = (grid(7, 12) > 0).astype(np.float16)
    assert choose({0: candidate_columns(sample, foreground, [ObjectSettings()])})[1] == {"SEG": 1, "AP50": 1, "AP": 1}
    foreground[:] = 1  # one object that holds all: it is none of those that are named
    scores = choose({0: candidate_columns(sample, foreground, [ObjectSettings()])})[1]
    assert scores == {"SEG": 64 / SIDE**2, "AP50": 0, "AP": 0}
    beside = np.zeros_like(foreground)
    first = np.argwhere(sample.mask == 1)[0]
    beside[first[0] + 9 : first[0] + 12, first[1] : first[1] + 8] = 1  # in the margin, where nothing is
    (columns,) = candidate_columns(sample, beside, [ObjectSettings(min_size_px=1)])
    assert columns[0, 2] == 1  # predicted objects


def test_training_says_it_and_the_copy_keeps_the_files(tmp_path: Path) -> None:
    data = sequence(tmp_path / "data", {0: 12, 3: 12, 4: 12, 7: 3})
    settings = TrainSettings(data=(data,), out=tmp_path / "run", steps=2, width=2, depth=1, batch=1, device="cpu")
    first, *_, last = train(settings)
    assert isinstance(first, Checked)
    assert any("1 frame whose gold truth names only some of its objects" in line for line in first.report.lines())
    assert isinstance(last, Trained)
    list(fix(first.report, tmp_path / "copy"))
    again = check([tmp_path / "copy"])
    assert again.findings[0].message == first.report.findings[0].message
    for old, new in zip(load_samples(first.report), load_samples(again), strict=True):
        np.testing.assert_array_equal(new.mask, old.mask)


@pytest.mark.parametrize(
    ("name", "frames", "partial"),
    [("DIC-C2DH-HeLa", (33, 34, 39, 54, 67), ["man_seg067.tif"]), ("PhC-C2DH-U373", (1, 21, 49, 59), [])],
)
def test_real_gold_frames(tmp_path: Path, name: str, frames: tuple[int, ...], partial: list[str]) -> None:
    data = REAL / "ctc" / name
    if not data.is_dir():
        pytest.skip("the real images are not beside the repository")
    for folder, stem in (("01", "t"), ("01_GT/SEG", "man_seg")):
        (tmp_path / folder).mkdir(parents=True)
        for frame in frames:
            (tmp_path / folder / f"{stem}{frame:03d}.tif").symlink_to(data / folder / f"{stem}{frame:03d}.tif")
    report = check([tmp_path])
    assert [p.name for f in report.findings if f.code == "gold-partial" for p in f.files] == partial
    if partial:
        sample = list(load_samples(report))[-1]
        silver, gold = tifffile.imread(data / "01_ST/SEG/man_seg067.tif"), sample.gold
        assert gold is not None
        # Two opinions on the same cells differ by a rim, so only cells that are not named count.
        unnamed = (silver > 0) & ~np.isin(
            silver, [i for i in np.unique(silver) if (gold[silver == i] > 0).mean() > 0.3]
        )
        assert unnamed[gold == 0].mean() > 0.5
        assert unnamed[sample.mask == 0].mean() < 0.1
