"""The scale of an image is found by the width of its objects; images like those of the training stay as they are."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import septum
from septum.arrays.instances import ObjectSettings
from septum.arrays.normalize import NormalizeSettings
from septum.errors import UnfamiliarImageWarning, UsageError
from septum.events import Event, Warned
from septum.io.files import open_image, read_image, write_image
from septum.io.image import Image
from septum.nn.unet import UNet, UNetSettings
from septum.prediction.domain_shift import TrainingDomain
from septum.prediction.events import BlockDone, ImageDone, ImageFailed
from septum.prediction.frames import ImageFrame
from septum.prediction.model import ModelHeader, open_model, save_model
from septum.prediction.predict import predict_files
from septum.prediction.scale import Evidence, Measured, ScaleFinder, ScaleState, find_scale
from septum.prediction.settings import PredictSettings

WIDTH = 10.0


def _bright(rank: int = 2) -> UNet:
    """Return a network that takes bright pixels for objects, at any scale."""
    network = UNet(UNetSettings(depths=(1,) * rank, width=2, padding="same", batch_norm=False), seed=0)
    middle = (1,) * rank
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
        weights = network.state_dict()
        for name in ("down.0.0.weight", "down.0.2.weight", "merge.0.0.weight", "merge.0.2.weight"):
            weights[name][(0, 0, *middle)] = 1
        weights["head.weight"][1, 0] = 12
        weights["head.bias"][1] = -9
    return network


def _save(path: Path, rank: int = 2, **changes: object) -> Path:
    network = _bright(rank)
    domain = TrainingDomain(
        curves=((0.0,) * 7,),
        levels=2,
        object_px=WIDTH,
        pixel_um=changes.pop("pixel_um", {}),  # type: ignore[arg-type]
    )
    given: dict[str, object] = {
        "network": network.settings,
        "normalization": NormalizeSettings(),
        "kind": "objects",
        "class_values": (0, 1),
        "objects": ObjectSettings(threshold=0.5, seed_level=0.5, merge_ratio=0.0, min_size_px=3),
        "domain": domain,
    }
    save_model(path, network, ModelHeader.model_validate(given | changes))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("model") / "model.safetensors")


def _disks(width: float, side: int = 240, seed: int = 0) -> np.ndarray:
    """Return an image of bright disks on a dark ground with a little noise."""
    y, x = np.mgrid[:side, :side]
    step = 2.2 * width
    near = [((a + 0.5) % step - step / 2) for a in (y, x)]
    whole = (y // step < side // step) & (x // step < side // step)
    bright = 1000.0 * ((near[0] ** 2 + near[1] ** 2 < (width / 2) ** 2) & whole)
    return (bright + np.random.default_rng(seed).integers(0, 40, (side, side))).astype(np.uint16)


def _write(folder: Path, *widths: float, **more: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, width in enumerate(widths):
        image = _disks(width, seed=number) if width else np.full((240, 240), 20)
        size = more.get("pixel_size_um")
        write_image(folder / f"{number}.tif", image.astype(np.uint16), axes="YX", pixel_size_um=size)  # type: ignore[arg-type]
    return folder


def _run(model: Path, folder: Path, out: Path, **more: object) -> list[Event]:
    given = {"model": model, "inputs": (str(folder),), "out": out, "device": "cpu"}
    return list(predict_files(PredictSettings.model_validate(given | more)))


def _scales(events: list[Event]) -> list[float]:
    found = sorted((r.path.name, r.scale or 1.0) for r in events if isinstance(r, ImageDone))
    return [scale for _, scale in found]  # type: ignore[misc]


def _said(events: list[Event]) -> list[str]:
    return [r.text for r in events if isinstance(r, Warned) and r.cause == "scale"]


@pytest.mark.parametrize("width", [7.5, 10, 13])
def test_images_whose_objects_fit_are_predicted_as_before(model: Path, tmp_path: Path, width: float) -> None:
    folder = _write(tmp_path / "in", width, width)
    events = _run(model, folder, tmp_path / "auto")
    _run(model, folder, tmp_path / "one", scale=1.0)
    for name in ("0.tif", "1.tif"):
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert _said(events) == []
    assert _scales(events) == [1.0, 1.0]


@pytest.mark.parametrize(("width", "least", "most"), [(40, 0.23, 0.28), (20, 0.45, 0.56), (5, 1.7, 2.3)])
def test_the_scale_of_other_images_is_found_and_said(
    model: Path, tmp_path: Path, width: float, least: float, most: float
) -> None:
    events = _run(model, _write(tmp_path / "in", width, width), tmp_path / "out")
    assert all(least <= scale <= most for scale in _scales(events))
    assert len(set(_scales(events))) == 1  # one scale is found and kept
    (text,) = _said(events)  # once
    assert f"predicted at scale {_scales(events)[0]:.2g} (--scale 1 keeps its size)" in text
    made = read_image(tmp_path / "out/0.tif").array[0]
    assert made.shape == (240, 240)
    assert ((made > 0) == (_disks(width) > 500)).mean() > 0.97


def test_the_sentence_names_the_width_and_the_ratio(model: Path, tmp_path: Path) -> None:
    (text,) = _said(_run(model, _write(tmp_path / "in", 40), tmp_path / "out"))
    assert text.split(": ", 1)[1].startswith(
        "objects are about 42 px wide, 4.2 times those of the training: predicted at"
    )
    (text,) = _said(_run(model, _write(tmp_path / "small", 5), tmp_path / "out"))
    assert "px wide, 0.52 times those of the training: predicted at scale 1.9" in text


def test_an_image_that_differs_is_measured_itself(model: Path, tmp_path: Path) -> None:
    events = _run(model, _write(tmp_path / "in", 40, 10, 41, 20), tmp_path / "out")
    scales = _scales(events)
    assert scales[1] == 1
    assert scales[0] == scales[2]
    assert 0.4 < scales[3] < 0.6
    _run(model, tmp_path / "in", tmp_path / "one", scale=1.0)
    assert (tmp_path / "out/1.tif").read_bytes() == (tmp_path / "one/1.tif").read_bytes()


def test_images_without_objects_follow_the_first_that_holds_some(model: Path, tmp_path: Path) -> None:
    assert _scales(_run(model, _write(tmp_path / "in", 0, 40, 0), tmp_path / "out"))[0] == 1
    events = _run(model, _write(tmp_path / "none", 0, 0, 0, 0), tmp_path / "out")
    assert _scales(events) == [1, 1, 1, 1]
    assert _said(events) == []


def test_images_that_have_a_result_count_for_the_scale_of_the_others(model: Path, tmp_path: Path) -> None:
    folder = _write(tmp_path / "in", 40, 0, 10, 41, 20, 0)
    scales = _scales(_run(model, folder, tmp_path / "out"))
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for name in ("1.tif", "3.tif", "4.tif", "5.tif"):
        (tmp_path / "out" / name).unlink()
    events = _run(model, folder, tmp_path / "out", skip_existing=True)
    assert _scales(events) == [scales[k] for k in (1, 3, 4, 5)]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole


def _shards(model: Path, folder: Path, out: Path) -> list[Event]:
    return [event for part in ((1, 2), (2, 2)) for event in _run(model, folder, out, shard=part)]


def test_parts_of_a_job_array_and_blocks_find_the_same_scales(model: Path, tmp_path: Path) -> None:
    folder = _write(tmp_path / "in", 0, 40, 10, 20)
    alone = _run(model, folder, tmp_path / "alone")
    assert _scales(_shards(model, folder, tmp_path / "shards")) == _scales(alone)
    blocks = _run(model, folder, tmp_path / "blocks", in_blocks=True)
    assert any(isinstance(r, BlockDone) for r in blocks)
    assert _scales(blocks) == pytest.approx(_scales(alone), rel=1e-6)
    for number in range(4):
        expected = read_image(tmp_path / f"alone/{number}.tif").array
        for way in ("shards", "blocks"):
            np.testing.assert_array_equal(read_image(tmp_path / f"{way}/{number}.tif").array, expected)


@pytest.mark.parametrize("way", ["at once", "part after part", "again"])
def test_images_that_have_label_images_count_for_the_scale_of_the_others(model: Path, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, width in enumerate((20, 0, 0, 20)):
        image = _disks(width, seed=number) if width else np.full((240, 240), 20, np.uint16)
        write_image(folder / f"{number}.ome.zarr", image, axes="YX")

    def run(shard: tuple[int, int] | None = None) -> list[Event]:
        given = {"model": model, "inputs": (str(folder),), "label_image": "cells", "device": "cpu", "shard": shard}
        return list(predict_files(PredictSettings.model_validate(given)))

    if way == "again":
        run(shard=(1, 2))
        events = run()
        failed = [(e.path.name, "cells exists" in e.message) for e in events if isinstance(e, ImageFailed)]
        assert failed == [("0.ome.zarr", True), ("2.ome.zarr", True)]
        expected = 2
    else:
        events = [event for part in ((1, 2), (2, 2)) for event in run(part)] if way == "part after part" else run()
        expected = 4
    assert not [e.text for e in events if isinstance(e, Warned) and "job array" in e.text]
    assert len(_scales(events)) == expected
    assert len(set(_scales(events))) == 1 and 0.4 < _scales(events)[0] < 0.6  # as image 0 tells


@pytest.mark.slow
def test_workers_find_the_same_scales(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs septum[cluster]")
    folder = _write(tmp_path / "in", 0, 40, 10, 20)
    alone, shared = _run(model, folder, tmp_path / "alone"), _run(model, folder, tmp_path / "shared", workers=2)
    assert _scales(shared) == _scales(alone)
    for number in range(4):
        same = [(tmp_path / way / f"{number}.tif").read_bytes() for way in ("alone", "shared")]
        assert same[0] == same[1]


def test_large_images_are_measured_on_a_part(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("septum.prediction.scale._WHOLE_PX", 200 * 200)
    monkeypatch.setattr("septum.prediction.scale._LEAST_SIDE", 96)
    read: list[int] = []
    original = ImageFrame.__getitem__

    def counted(self: ImageFrame, index: tuple[slice, ...]) -> np.ndarray:
        part = original(self, index)
        read.append(part.size)
        return part

    monkeypatch.setattr(ImageFrame, "__getitem__", counted)
    monkeypatch.setattr("septum.prediction.scale._VIEW_PX", 512)
    write_image(tmp_path / "a.tif", np.tile(_disks(40), (5, 5)), axes="YX")
    with open_image(tmp_path / "a.tif") as image:
        found = find_scale(open_model(model, "cpu"), image)
    assert 0.2 < found.factors[0] < 0.3
    assert max(read) <= 512 * 512


def test_only_images_of_objects_are_measured(tmp_path: Path) -> None:
    classes = _save(tmp_path / "classes.safetensors", kind="classes")
    old = _save(tmp_path / "old.safetensors", domain=None)
    for model in (classes, old):
        assert _scales(_run(model, _write(tmp_path / "in", 40), tmp_path / model.stem)) == [1]
    volumes = _save(tmp_path / "volumes.safetensors", rank=3)
    write_image(tmp_path / "v.tif", np.stack([_disks(40, side=90)] * 6), axes="ZYX")
    assert _scales(_run(volumes, tmp_path / "v.tif", tmp_path / "volumes")) == [1]


def test_pixel_sizes_come_first(tmp_path: Path) -> None:
    model = _save(tmp_path / "m.safetensors", pixel_um={"Y": (0.5, 0.5), "X": (0.5, 0.5)})
    finer = _write(tmp_path / "in", 40, pixel_size_um={"Y": 0.25, "X": 0.25})
    events = _run(model, finer, tmp_path / "out")
    assert _scales(events) == [0.5]  # whatever the width of the objects
    (text,) = (r.text for r in events if isinstance(r, Warned))
    assert (
        "pixels are 2 times smaller than in training (0.25 instead of 0.5 micrometers): predicted at scale 0.5" in text
    )
    same = _write(tmp_path / "same", 40, pixel_size_um={"Y": 0.5, "X": 0.5})
    assert _scales(_run(model, same, tmp_path / "out")) == [1]
    refused = _run(model, finer, tmp_path / "out", scale=1.0)
    assert ["some may be missed or cut" in r.text for r in refused if isinstance(r, Warned)] == [True]
    wrong = _write(tmp_path / "wrong", 20, pixel_size_um={"Y": 352.8, "X": 352.8})  # 72 dots per inch
    assert 0.4 < _scales(_run(model, wrong, tmp_path / "out"))[0] < 0.6


def test_the_axes_of_volumes_have_their_own_factors(tmp_path: Path) -> None:
    model = _save(tmp_path / "m.safetensors", rank=3, pixel_um={"Z": (1.0, 1.0), "Y": (0.5, 0.5), "X": (0.5, 0.5)})
    volume = np.stack([_disks(20, side=80)] * 6)
    write_image(tmp_path / "a.tif", volume, axes="ZYX", pixel_size_um={"Z": 1.0, "Y": 0.25, "X": 0.25})
    (done,) = (r for r in _run(model, tmp_path / "a.tif", tmp_path / "out") if isinstance(r, ImageDone))
    assert done.scale == (1.0, 0.5, 0.5)
    assert read_image(done.output).array.shape == (6, 1, 80, 80) or read_image(done.output).array.shape[-3:] == (
        6,
        80,
        80,
    )


def test_python_finds_the_same_scale_and_warns(model: Path, tmp_path: Path) -> None:
    image, opened = _disks(40), open_model(model, "cpu")
    with pytest.warns(UnfamiliarImageWarning, match=r"4.2 times those of the training.*\(scale=1 keeps its size\)"):
        found = septum.predict(opened, image)
    _run(model, _write(tmp_path / "in", 40), tmp_path / "out")
    np.testing.assert_array_equal(found, read_image(tmp_path / "out/0.tif").array[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(septum.predict(opened, image, object_size=40.0).shape, image.shape)
        fixed = septum.predict(opened, image, scale=0.25)
    assert ((fixed > 0) == (image > 500)).mean() > 0.97
    for wrong in ({"scale": 0.0}, {"scale": "big"}, {"object_size": -1.0}, {"scale": 2.0, "object_size": 20.0}):
        with pytest.raises(UsageError):
            septum.predict(opened, image, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [{"scale": 0.0}, {"scale": 65.0}, {"object_size": 0.0}, {"scale": 2.0, "object_size": 9.0}]
)
def test_values_that_cannot_be_used_are_refused(model: Path, tmp_path: Path, given: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"--(scale|object-size)"):
        PredictSettings(model=model, inputs=("a.tif",), out=tmp_path, **given)  # type: ignore[arg-type]


def _finder(model: Path, first: Measured | None = None) -> ScaleFinder:
    return ScaleFinder(open_model(model, "cpu"), ScaleState(first, 3))


def test_an_image_keeps_the_first_factor_where_its_objects_fit(model: Path) -> None:
    finder = _finder(model, Measured(0.25, 40, 0.9))
    assert finder.start == 0.25
    assert finder.fits(Evidence(0.25, 20, 9.0, 0.85))
    assert not finder.fits(Evidence(0.25, 20, 9.0, 0.7))  # the network is less sure
    assert not finder.fits(Evidence(0.25, 20, 3.0, 0.9))
    assert finder.following(Evidence(0.25, 20, 3.0, 0.9)) == 1  # 12 px wide
    assert finder.following(Evidence(0.25, 20, 20.0, 0.9)) == pytest.approx(1 / 8)
    assert finder.fits(Evidence(0.25, 2, 90.0, 0.2))  # too few to tell
    assert finder.following(Evidence(0.25, 20, 0.2, 0.9)) == 0.25  # specks tell nothing


def test_a_finer_first_factor_is_kept_although_the_own_grid_would_do(model: Path) -> None:
    finder = _finder(model, Measured(2.0, 5, 0.9))
    assert finder.start == 1  # looked at first, as it costs less
    assert not finder.fits(Evidence(1.0, 20, 7.0, 0.9))
    assert finder.following(Evidence(1.0, 20, 7.0, 0.9)) == 2
    assert finder.fits(Evidence(1.0, 20, 9.0, 0.9))


def test_the_first_image_is_always_searched(model: Path) -> None:
    finder = ScaleFinder(open_model(model, "cpu"))
    assert not finder.fits(Evidence(1.0, 20, 10.0, 0.9))
    tiler = septum_tiler(model)
    found = finder.search(tiler, _disks(20)[None], [])
    assert found is not None
    assert found == finder.first
    assert found.width_px == pytest.approx(20, rel=0.1)


def septum_tiler(model: Path):  # type: ignore[no-untyped-def]
    from septum.prediction.in_memory import image_tiler

    opened = open_model(model, "cpu")
    frame = Image.from_array(_disks(20)[None], "CYX")
    return image_tiler(opened, [ImageFrame(frame, (), 2, 1)], None)
