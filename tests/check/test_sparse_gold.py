"""Gold frames that name only some of their objects: the others are neither background nor false positives."""

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
from septum.evaluation.candidates import candidate_columns
from septum.training.events import Checked, Trained
from septum.training.loop import train
from septum.training.model_selection import choose
from septum.training.settings import TrainSettings

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SIDE = 64


def grid(frame: int, count: int) -> np.ndarray:
    """Return ids 1 .. `count` of squares of 8 pixels that do not touch and drift by a pixel a frame."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    for number, (down, right) in enumerate(np.random.default_rng(3).integers(0, 5, (count, 2))):
        y, x = 2 + 16 * (number // 4) + down, 1 + 16 * (number % 4) + right + frame % 3
        labels[y : y + 8, x : x + 8] = number + 1
    return labels


def sequence(
    folder: Path, named: dict[int, int], *, there: int = 12, silver: tuple[int, ...] = (), tracked: bool = True
) -> Path:
    """Write a sequence whose gold frames name some of `there` objects: their number by frame."""
    for part in ("01", "01_GT/SEG", "01_GT/TRA", "01_ST/SEG"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for frame, count in named.items():
        noise = np.random.default_rng(frame).integers(0, 30, (SIDE, SIDE))
        tifffile.imwrite(
            folder / f"01/t{frame:03d}.tif", (40 + 150 * (grid(frame, there) > 0) + noise).astype(np.uint8)
        )
        tifffile.imwrite(folder / f"01_GT/SEG/man_seg{frame:03d}.tif", grid(frame, count))
        if tracked:
            markers = np.where(ndimage.minimum_filter(grid(frame, there), 5) > 0, grid(frame, there), 0)
            tifffile.imwrite(folder / f"01_GT/TRA/man_track{frame:03d}.tif", markers)
        if frame in silver:
            tifffile.imwrite(folder / f"01_ST/SEG/man_seg{frame:03d}.tif", grid(frame, there))
    return folder


def lines(report: Report, code: str) -> list[str]:
    return [f.line() for f in report.issues if f.code == code]


def test_a_frame_that_names_fewer_objects_than_its_markers_has_background_only_near_them(tmp_path: Path) -> None:
    report = check([sequence(tmp_path, {0: 12, 3: 11, 4: 12, 7: 3, 9: 12})])
    assert lines(report, "gold-partial") == [
        "1 frame whose gold truth names only some of its objects: man_seg007.tif (3 of 12); "
        "only a thin margin of these is background, the rest is not annotated"
    ]
    assert lines(report, "gold-only") == [
        "1 frame with gold truth only, which may not name every object: man_seg003.tif (11 of 12); pixels that it does "
        "not name are learned as background; add tracking markers (01_GT/TRA) or silver truth (01_ST/SEG) if it names "
        "only some objects"
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


@pytest.mark.parametrize("named", [{0: 12, 3: 11, 4: 12, 7: 3, 9: 12}, {0: 1, 10: 1, 20: 2, 30: 12}, {7: 3}])
def test_without_markers_all_gold_frames_are_named(tmp_path: Path, named: dict[int, int]) -> None:
    report = check([sequence(tmp_path, named, tracked=False)])
    assert lines(report, "gold-partial") == []
    assert [len(f.files) for f in report.issues if f.code == "gold-only"] == [len(named)]
    for sample, (frame, count) in zip(load_samples(report), named.items(), strict=True):
        np.testing.assert_array_equal(sample.mask, grid(frame, count))
        assert sample.gold is None


def test_frames_with_silver_truth_are_unchanged(tmp_path: Path) -> None:
    report = check([sequence(tmp_path, {0: 12, 1: 3, 2: 3, 3: 2}, silver=(0, 1, 2))])
    assert lines(report, "gold-only") == []
    assert [f.files[0].name for f in report.issues if f.code == "gold-partial"] == ["man_seg003.tif"]
    samples = list(load_samples(report))
    for frame in (0, 1, 2):
        np.testing.assert_array_equal(samples[frame].mask, grid(frame, 12))
    assert (samples[3].mask < 0).any()


def test_a_frame_that_names_no_object_is_left_out(tmp_path: Path) -> None:
    report = check([sequence(tmp_path, {0: 12, 3: 12, 4: 12, 7: 0})])
    assert len(lines(report, "gold-partial")) == 1
    assert [s.position for s in load_samples(report)] == [0, 3, 4]


def test_damaged_markers_count_as_none_and_the_copy_keeps_the_markers(tmp_path: Path) -> None:
    data = sequence(tmp_path / "data", {0: 3, 3: 12, 4: 11, 7: 2})
    (data / "01_GT/TRA/man_track007.tif").write_bytes(b"damaged")
    report = check([data])
    partial, only = (lines(report, code)[0].partition("; ")[0] for code in ("gold-partial", "gold-only"))
    assert partial.endswith("some of its objects: man_seg000.tif (3 of 12)")
    assert only.endswith("may not name every object: man_seg004.tif (11 of 12), man_seg007.tif")
    list(fix(report, tmp_path / "copy"))
    assert (tmp_path / "copy/01_GT/TRA/man_track003.tif").is_file()
    assert lines(check([tmp_path / "copy"]), "gold-partial") == lines(report, "gold-partial")


def test_a_single_frame_is_judged_by_its_markers(tmp_path: Path) -> None:
    data = sequence(tmp_path, {7: 12})
    assert not [f for f in check([data]).issues if f.code.startswith("gold")]
    tifffile.imwrite(data / "01_GT/SEG/man_seg007.tif", grid(7, 5))
    (sample,) = load_samples(check([data]))
    assert (sample.mask < 0).any()


def test_the_margin_grows_with_the_objects(tmp_path: Path) -> None:
    data = sequence(tmp_path, {0: 12, 3: 12, 7: 3})
    for path in (*(data / "01").iterdir(), *(data / "01_GT").glob("*/*.tif")):
        tifffile.imwrite(path, np.kron(tifffile.imread(path), np.ones((13, 13), np.uint8)))
    report = check([data])  # squares of 104 pixels are as large as disks of 117
    assert [(pair.position, pair.background_margin_px) for pair in report.pairs if pair.background_margin_px] == [
        (7, pytest.approx(104 / np.sqrt(np.pi) / 10))
    ]


def test_predicted_objects_that_the_truth_does_not_name_are_no_false_positives(tmp_path: Path) -> None:
    sample = list(load_samples(check([sequence(tmp_path, {0: 12, 3: 12, 4: 12, 7: 3})])))[3]
    foreground = (grid(7, 12) > 0).astype(np.float16)
    assert choose({0: candidate_columns(sample, foreground, [ObjectSettings()])})[1] == {"SEG": 1, "AP50": 1, "AP": 1}
    foreground[:] = 1  # one object that holds all: it matches no named object
    scores = choose({0: candidate_columns(sample, foreground, [ObjectSettings()])})[1]
    assert scores == {"SEG": 64 / SIDE**2, "AP50": 0, "AP": 0}
    beside = np.zeros_like(foreground)
    first = np.argwhere(sample.mask == 1)[0]
    beside[first[0] + 9 : first[0] + 12, first[1] : first[1] + 8] = 1  # in the margin, which holds no object
    (columns,) = candidate_columns(sample, beside, [ObjectSettings(min_size_px=1)])
    assert columns[0, 2] == 1  # predicted objects


def test_training_names_such_frames_and_the_copy_keeps_the_files(tmp_path: Path) -> None:
    data = sequence(tmp_path / "data", {0: 12, 3: 12, 4: 12, 7: 3})
    settings = TrainSettings(data=(data,), out=tmp_path / "run", steps=2, width=2, depth=1, batch=1, device="cpu")
    *events, last = train(settings)
    first = next(event for event in events if isinstance(event, Checked))
    assert any("1 frame whose gold truth names only some of its objects" in line for line in first.report.lines())
    assert isinstance(last, Trained)
    list(fix(first.report, tmp_path / "copy"))
    again = check([tmp_path / "copy"])
    assert again.issues[0].message == first.report.issues[0].message
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
    sources = [("01", "01", "t", "t"), ("01_GT/SEG", "01_GT/SEG", "man_seg", "man_seg")]
    sources += [("01_ST/SEG", "01_GT/TRA", "man_seg", "man_track")]  # silver truth names every cell, as markers do
    for folder, place, stem, name in sources:
        (tmp_path / place).mkdir(parents=True)
        for frame in frames:
            (tmp_path / place / f"{name}{frame:03d}.tif").symlink_to(data / folder / f"{stem}{frame:03d}.tif")
    report = check([tmp_path])
    assert [p.name for f in report.issues if f.code == "gold-partial" for p in f.files] == partial
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
