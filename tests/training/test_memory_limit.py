"""A limit of memory changes where images are held, and never a training: the same bits, also after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from septum.check.check import check
from septum.check.samples import load_data
from septum.errors import DataError, UsageError
from septum.events import Event
from septum.io.tensors import read_model
from septum.kept import KeptValues, Memory
from septum.pairing import parts
from septum.pairing.sample import StoredSample
from septum.training import loop as train_module
from septum.training import planner
from septum.training.events import Planned, Resumed, Step
from septum.training.loop import train
from septum.training.settings import TrainSettings

SIDE = 96


def write(folder: Path, count: int, side: int, *, kind: str = "objects") -> Path:
    """Write images of spots with ids, or of three classes, as TIFF in tiles."""
    for number in range(count):
        rng = np.random.default_rng(number)
        smooth = ndimage.gaussian_filter(rng.normal(size=(side, side)), 4)
        mask = ndimage.label(smooth > 0.05)[0] if kind == "objects" else np.digitize(smooth, [0, 0.1])
        image = 40 + 60 * (smooth > 0.05) + 20 * (smooth > 0.1) + rng.integers(0, 30, mask.shape)
        for role, array in (("images", image.astype(np.uint8)), ("masks", mask.astype(np.uint16))):
            (folder / role).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(folder / role / f"{number}.tif", array, tile=(32, 32), compression="zlib")
    return folder


@pytest.fixture(scope="module", params=["objects", "classes"])
def several(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("several"), 5, SIDE, kind=request.param)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return one image that counts as large, of nine parts."""
    monkeypatch.setattr(parts, "LARGE_PX", 1 << 14)
    monkeypatch.setattr(parts, "PART_PX", 96)
    return write(tmp_path / "large", 1, 280)


def settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    small = {"steps": 5, "width": 2, "depth": 1, "tile": 36, "batch": 2, "from_model": "none", "device": "cpu"}
    return TrainSettings.model_validate({"data": (data,), "out": out} | small | changes)


def bits(out: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in read_model(out / "model.safetensors")[0].items()}


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Step)]


def limit_images(monkeypatch: pytest.MonkeyPatch, limit_bytes: int) -> None:
    monkeypatch.setattr(planner, "memory_for_images", lambda *_: Memory(limit_bytes=limit_bytes))
    monkeypatch.setattr(train_module, "memory_for_images", lambda *_: Memory(limit_bytes=limit_bytes))


def said(events: list[Event]) -> str:
    return "\n".join(line for event in events if isinstance(event, Planned) for line in event.lines)


def test_images_that_do_not_fit_give_the_same_bits(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list(train(settings(several, tmp_path / "held")))
    limit_images(monkeypatch, 3 * SIDE**2 * 21)
    stored = list(train(settings(several, tmp_path / "stored")))
    assert losses(stored) == losses(held)
    assert bits(tmp_path / "stored") == bits(tmp_path / "held")
    assert stored[-1].scores == held[-1].scores  # type: ignore[union-attr]
    assert "are read from their files" not in said(held)
    assert "images are read from their files when tiles need them" in said(stored)


def test_a_large_image_gives_the_same_bits_whatever_the_memory_and_after_a_stop(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list(train(settings(large, tmp_path / "held")))
    limit_images(monkeypatch, 2 * 96**2 * 21)
    monkeypatch.setattr(train_module, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(train_module, "KEEP_STEPS", 1)
    first = []
    for event in train(settings(large, tmp_path / "stored")):
        first.append(event)
        if isinstance(event, Step) and event.step == 3:
            break
    second = list(train(settings(large, tmp_path / "stored")))
    assert [event.step for event in second if isinstance(event, Resumed)] == [2]
    assert losses(first)[:2] + losses(second) == losses(held)
    assert bits(tmp_path / "stored") == bits(tmp_path / "held")
    assert second[-1].scores == held[-1].scores  # type: ignore[union-attr]
    assert "2 held out" in said(held)


def test_parts_of_a_large_image_are_its_pixels_and_have_its_statistics(large: Path) -> None:
    from septum.arrays.normalize import NormalizeSettings, statistics

    report = check([large])
    image, mask = (tifffile.imread(large / role / "0.tif") for role in ("images", "masks"))
    samples = load_data(report).samples
    assert len(samples) == 9
    assert sum(np.prod(sample.sides) for sample in samples) == mask.size
    for sample in samples:
        assert isinstance(sample, StoredSample)
        y, x = (int(place[1:]) for place in sample.name.split("_")[1:])
        cut = (slice(y, y + sample.sides[0]), slice(x, x + sample.sides[1]))
        np.testing.assert_array_equal(sample.image[0], image[cut])
        np.testing.assert_array_equal(sample.mask, mask[cut])
        assert sample.source.counts is not None
        assert sample.source.counts.tolist() == [np.count_nonzero(mask[cut] == 0), np.count_nonzero(mask[cut] > 0)]
        for method in ("standardize", "range"):
            wanted = NormalizeSettings(method=method)  # type: ignore[arg-type]
            np.testing.assert_array_equal(sample.statistics(wanted), statistics(image[None], wanted))


def test_the_check_says_what_it_did_not_look_for_in_a_large_image(large: Path) -> None:
    report = check([large])
    (issue,) = [issue for issue in report.issues if issue.code == "image-large"]
    assert "280 x 280, 9 parts" in issue.line()
    assert "near-duplicates and one id on objects far apart are not found" in issue.line()
    assert "look at the mask and the images yourself" in issue.line()
    assert "one-image" not in {issue.code for issue in report.issues}


@pytest.mark.filterwarnings("error")
def test_a_large_image_without_a_finite_value_is_left_out_like_a_small_one(large: Path) -> None:
    image = np.full((280, 280), np.nan, np.float32)
    tifffile.imwrite(large / "images" / "0.tif", image, tile=(32, 32))
    report = check([large])
    assert "image-constant" in {issue.code for issue in report.issues}
    with pytest.raises(DataError, match="no pair is left to train on"):
        load_data(report)


def test_rare_values_of_a_large_mask_are_found(large: Path) -> None:
    path = large / "masks" / "0.tif"
    mask = (tifffile.imread(path) > 0).astype(np.uint8)
    mask[250, 17] = 2
    tifffile.imwrite(path, mask, tile=(32, 32))
    report = check([large], kind="classes")
    assert report.rules.mask_values == (0, 1, 2)


def test_an_image_that_cannot_be_read_in_parts_is_refused_only_if_it_does_not_fit(large: Path) -> None:
    path = large / "images" / "0.tif"
    np.save(large / "masks" / "0.npy", tifffile.imread(large / "masks" / "0.tif").astype(np.float32))
    (large / "masks" / "0.tif").unlink()
    assert check([large]).pairs[0].survey is None
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(parts, "_SMALL", 1)
        with pytest.raises(DataError, match="when they are read whole"):
            check([large], memory=Memory(limit_bytes=1 << 20)).refuse_errors()
    assert path.exists()


def test_a_limit_in_which_no_step_fits_is_refused(several: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--max-memory 100 MB: a step takes about"):
        list(train(settings(several, tmp_path / "run", max_memory=100 << 20)))
    assert not (tmp_path / "run" / "plan.json").exists()


def test_values_are_given_up_in_the_order_of_their_use() -> None:
    kept, made = KeptValues(2), list[str]()

    def get(key: str) -> str:
        return kept.get(key, lambda: made.append(key) or key, lambda _: 1)  # type: ignore[func-returns-value]

    for key in "abacab":
        assert get(key) == key
    assert made == ["a", "b", "c", "b"]
