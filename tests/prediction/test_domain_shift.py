"""Images that differ from the training images are reported before they are predicted, each cause once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings, intensity_curve, inverted
from septum.events import Warned
from septum.io.files import write_image
from septum.io.tensors import read_model, write_model
from septum.nn.unet import UNet, UNetSettings
from septum.pairing.sample import Sample
from septum.prediction.domain_shift import TrainingDomain, distance, shift_warnings, training_domain, typical_distance
from septum.prediction.info import describe_model
from septum.prediction.model import ModelHeader, open_model, save_model
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings
from septum.training.loop import train
from septum.training.settings import TrainSettings


def nuclei(seed: int, side: int = 80) -> np.ndarray:
    """Return an image ``(side, side)`` of some bright disks on a dark ground, in 0 .. about 1.2."""
    rng = np.random.default_rng(seed)
    grid = np.indices((side, side))
    image = np.zeros((side, side))
    for _ in range(round(rng.integers(8, 16) * (side / 80) ** 2)):
        center = rng.uniform(0, side, 2)[:, None, None]
        image[((grid - center) ** 2).sum(axis=0) < rng.uniform(3, 6) ** 2] = rng.uniform(0.6, 1)
    return ndimage.gaussian_filter(image, 0.8) + rng.normal(0.1, 0.02, image.shape)


def sample(seed: int, spacing: tuple[float, ...] | None = None) -> Sample:
    image = nuclei(seed)[None].astype(np.float32)
    return Sample(str(seed), "", 0, image, np.ones(image.shape[1:], np.int32), None, spacing)


SEEN = training_domain([sample(n, (0.3, 0.3)) for n in range(12)], 9.04)


def causes(image: np.ndarray, size: float | None = None) -> list[str]:
    sizes = {} if size is None else {"Y": size, "X": size}
    return [cause for cause, _ in shift_warnings(image[None], "a.tif", sizes, SEEN)]


@pytest.mark.parametrize("seed", range(20, 40))
def test_images_like_the_training_images_cause_no_warning(seed: int) -> None:
    image = nuclei(seed)
    assert causes(image) == causes(image, 0.3) == causes(image, 0.41) == []
    assert causes(40 * image + 7) == []  # brightness and contrast are normalized
    assert causes((65000 * image / 1.5).clip(0, 65535).astype(np.uint16)) == []
    assert causes((120 * image).clip(0, 255).astype(np.uint8)) == []
    assert causes(nuclei(seed, side=150)) == []


def test_brightness_and_contrast_matter_to_a_model_of_one_normalization() -> None:
    def scaled(seed: int, factor: float) -> np.ndarray:
        return factor * nuclei(seed)[None].astype(np.float32)

    samples = [Sample(str(n), "", 0, scaled(n, 100), np.ones((80, 80), np.int32), None, None) for n in range(8)]
    seen = training_domain(samples, None, common=True)
    assert len(seen.ends) == 1 and training_domain(samples, None).ends == ()
    for seed in range(20, 30):
        assert list(shift_warnings(scaled(seed, 100), "a.tif", {}, seen)) == []
        assert (
            list(
                shift_warnings(
                    scaled(seed, 100).clip(0, 30), "a.tif", {}, seen.model_copy(update={"curves": ((0.0,) * 14,)})
                )
            )
            == []
        )
    for factor, offset in ((257.0, 0.0), (200.0, 0.0), (100.0, 60.0), (100.0, -60.0)):
        ((cause, text),) = shift_warnings(scaled(20, factor) + offset, "a.tif", {}, seen)
        assert cause == "gray values"
        assert text.startswith("a.tif: gray values are mostly ")
        assert "bring the image to the scale of the training images" in text


def test_the_pixel_size_warning_names_effect_and_remedy() -> None:
    ((cause, text),) = shift_warnings(nuclei(50)[None], "a.tif", {"Y": 0.63, "X": 0.63}, SEEN)
    assert cause == "pixel size"
    assert text == (
        "a.tif: pixels are 2.1 times larger than in training (0.63 instead of 0.3 micrometers): objects look 2.1 times "
        "smaller, about 4.3 pixels across instead of 9, some may be missed or cut; resample the image to 0.3 "
        "micrometers, or train with images of this pixel size"
    )
    ((_, text),) = shift_warnings(nuclei(50)[None], "a.tif", {"Y": 0.1, "X": 0.1}, SEEN)
    assert "pixels are 3 times smaller than in training" in text
    assert "objects look 3 times larger, about 27 pixels across instead of 9" in text


def test_pixel_size_along_one_axis() -> None:
    seen = SEEN.model_copy(update={"pixel_um": {"Z": (1.0, 1.0), "Y": (0.3, 0.5), "X": (0.3, 0.5)}})
    assert [c for c, _ in shift_warnings(nuclei(50)[None], "a", {"Z": 1.2, "Y": 0.55, "X": 0.25}, seen)] == []
    ((_, text),) = shift_warnings(nuclei(50)[None], "a", {"Z": 4, "Y": 0.4, "X": 0.4}, seen)
    assert "4 times larger than in training along Z (4 instead of 1 micrometers)" in text


def test_warnings_of_inverted_other_and_few_intensities() -> None:
    image = nuclei(51)
    ((cause, text),) = shift_warnings(-image[None], "a.tif", {}, SEEN)
    assert cause == "intensities"
    assert "dark and bright are inverted" in text and "invert the image" in text
    noise = np.random.default_rng(1).uniform(0, 1, (1, 80, 80))
    ((cause, text),) = shift_warnings(noise, "a.tif", {}, SEEN)
    assert cause == "intensities"
    assert "differs from all training images" in text
    ((cause, text),) = shift_warnings(np.rint(3 * image)[None], "a.tif", {}, SEEN)
    assert cause == "contrast"
    assert "only 4 gray values" in text or "only 5 gray values" in text


def test_intensity_curves_computed_by_hand() -> None:
    curve, levels = intensity_curve(np.arange(101.0)[None])
    assert levels == 101
    np.testing.assert_allclose(curve[0], (np.array([1, 5, 25, 50, 75, 95, 99]) - 50) / np.arange(101).std(), rtol=5e-3)
    np.testing.assert_allclose(intensity_curve(5 - 3 * np.arange(101.0)[None])[0], inverted(curve), atol=1e-6)
    assert distance(curve, [curve + 2, curve - 0.5]) == pytest.approx(0.5)
    assert typical_distance([curve]) == pytest.approx(1.3)
    assert typical_distance([curve, curve + 0.2, curve + 0.4]) == pytest.approx(0.6)
    assert typical_distance([curve] * 12) == pytest.approx(0.2)


def test_hot_pixels_and_added_frames_are_named() -> None:
    robust = NormalizeSettings(limit=6, skip_constant=True)
    image = nuclei(50)
    assert list(shift_warnings(image[None], "a.tif", {}, SEEN, robust)) == []
    hot = image.astype(np.float32)
    hot[3, [4, 9]] = 65_535
    ((cause, text),) = shift_warnings(hot[None], "a.tif", {}, SEEN, robust)
    assert cause == "hot pixels"
    assert text.startswith("a.tif: 2 pixels far brighter or darker than anything in the training images (up to ")
    assert "limited to the intensities of the training" in text
    paper = NormalizeSettings(method="range")
    assert "hot pixels" not in [c for c, _ in shift_warnings(hot[None], "a.tif", {}, SEEN, paper)]
    earlier = dict(shift_warnings(hot[None], "a.tif", {}, SEEN, NormalizeSettings()))["hot pixels"]  # has no limit
    assert earlier.startswith("a.tif: 2 pixels far brighter or darker than anything in the training images (up to ")
    assert earlier.endswith(
        "hot pixels of a camera: this model does not limit them, so that objects around them may be missed; remove "
        "them, for example with a median filter of 3 pixels"
    )
    framed = np.pad(image.astype(np.float32) + 5000, 20)
    found = dict(shift_warnings(framed[None], "a.tif", {}, SEEN, robust))
    share = np.mean(framed == 0)
    assert f"{share:.1%} of the pixels have exactly the value 0, far from all others" in found["constant value"]


def test_large_frames_are_read_in_windows() -> None:
    class Counted:
        shape = (1, 20_000, 9_000)
        pixels = 0

        def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
            sides = [s.stop - s.start for s in index[1:]]
            self.pixels += int(np.prod(sides))
            assert all(s.start >= 0 and s.stop <= n for s, n in zip(index[1:], self.shape[1:], strict=True))
            return nuclei(self.pixels, max(sides))[None, : sides[0], : sides[1]]

    frame = Counted()
    list(shift_warnings(frame, "a", {}, SEEN))
    assert frame.pixels == 9 * 256 * 256


def _model(path: Path, seen: TrainingDomain | None) -> Path:
    network = UNetSettings(channels=1, classes=2, depths=(1, 1), width=2)
    header = ModelHeader(
        network=network,
        normalization=NormalizeSettings(),
        kind="objects",
        class_values=(0, 1),
        objects=ObjectSettings(min_size_px=1),
        domain=seen,
    )
    save_model(path, UNet(network, seed=1), header)
    return path


def warned(tmp_path: Path, model: Path) -> list[str]:
    settings = PredictSettings(model=model, inputs=(str(tmp_path / "in"),), out=tmp_path / "out", device="cpu")
    return [r.text for r in predict_files(settings) if isinstance(r, Warned)]


def test_each_cause_is_reported_once(tmp_path: Path) -> None:
    model = _model(tmp_path / "m.safetensors", SEEN)
    (tmp_path / "in").mkdir()
    for n in range(3):
        image = nuclei(n + 60).astype(np.float32)
        write_image(tmp_path / f"in/a{n}.tif", image, axes="YX", pixel_size_um={"Y": 0.3, "X": 0.3})
    assert warned(tmp_path, model) == []
    for n in range(3):
        image = nuclei(n + 60).astype(np.float32)
        write_image(tmp_path / f"in/b{n}.tif", image, axes="YX", pixel_size_um={"Y": 0.9, "X": 0.9})
        write_image(tmp_path / f"in/c{n}.tif", -image, axes="YX", pixel_size_um={"Y": 0.3, "X": 0.3})
    texts = warned(tmp_path, model)
    assert [t.split(":")[0].rsplit("/", 1)[-1] for t in texts] == ["b0.tif", "c0.tif"]
    scaled, inverted = texts
    assert "0.9 instead of 0.3 micrometers): predicted at scale 3 (--scale 1 keeps its size)" in scaled
    assert scaled.endswith("(reported once; each result names its scale)")
    assert inverted.endswith("(reported once, also for other images of this kind)")


def test_models_without_training_statistics_open(tmp_path: Path) -> None:
    model = _model(tmp_path / "m.safetensors", None)
    tensors, raw = read_model(model)
    raw.pop("domain")
    write_model(tmp_path / "old.safetensors", tensors, raw)
    assert open_model(tmp_path / "old.safetensors").header.domain is None
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/a.tif", -nuclei(1).astype(np.float32), axes="YX")
    assert warned(tmp_path, tmp_path / "old.safetensors") == []


def test_training_statistics_are_read_by_their_old_name(tmp_path: Path) -> None:
    tensors, raw = read_model(_model(tmp_path / "m.safetensors", SEEN))
    raw["seen"] = raw.pop("domain")
    write_model(tmp_path / "old.safetensors", tensors, raw)
    assert open_model(tmp_path / "old.safetensors").header.domain == SEEN


def test_training_stores_statistics_of_its_images(tmp_path: Path, disks: Path) -> None:
    for _ in train(TrainSettings(data=(disks,), out=tmp_path / "run", steps=1, width=2, depth=1, batch=1)):
        pass
    seen = open_model(tmp_path / "run/model.safetensors").header.domain
    assert seen is not None
    assert len(seen.curves) == 5
    assert set(describe_model(tmp_path / "run")["domain"]) == {  # type: ignore[arg-type]
        "pixel_um",
        "object_px",
        "width_by_area_px",
        "levels",
        "ends",
    }
    assert seen.pixel_um == {}
    assert seen.object_px == pytest.approx(13.6, abs=0.5)
    settings = PredictSettings(
        model=tmp_path / "run/model.safetensors", inputs=(str(disks / "images"),), out=tmp_path / "out"
    )
    assert not [r for r in predict_files(settings) if isinstance(r, Warned)]
