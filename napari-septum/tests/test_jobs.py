"""Training and ranking on layers, without a window."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Image, Labels
from septum.errors import DataError, UsageError
from septum.io.files import write_image
from septum.training.events import Checked
from septum.training.interrupt import StopRequest
from septum.training.settings import TrainSettings

from made import disks, done
from napari_septum import jobs
from napari_septum.jobs import train
from napari_septum.layer_jobs import TrainOptions, suggest_in_folder, suggest_in_layer, train_on_layers


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(3):
        image, labels = disks(number)
        write_image(folder / "images" / f"{number}.tif", image, axes="YX")
        write_image(folder / "masks" / f"{number}.tif", (labels + 10 * number * (labels > 0)), axes="YX", labels=True)
    return folder


def settings(data: Path, out: Path, steps: int) -> TrainSettings:
    plain = {"width": 2, "depth": 1, "tile": 32, "batch": 1, "from_model": "none", "device": "cpu"}
    return TrainSettings(data=(data / "images", data / "masks"), out=out, steps=steps, kind="objects", **plain)


def test_a_training_tells_steps_and_losses_and_gives_a_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_EVERY_S", 0.0)
    updates, learned = done(train(settings(data, tmp_path / "run", 3), StopRequest()))
    assert [update.point[0] for update in updates if update.point] == [1, 2, 3]
    assert learned.model == tmp_path / "run" / "model.safetensors"
    assert learned.model.is_file() and learned.report.is_file()
    assert "3 steps" in learned.text


def test_a_stop_ends_a_training_in_order(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_EVERY_S", 0.0)
    stop = StopRequest()
    work, learned = train(settings(data, tmp_path / "run", 1000), stop), None
    try:
        while True:
            if next(work).point is not None:
                stop.request()
    except StopIteration as end:
        learned = end.value
    assert learned.model is None
    assert "the state is saved" in learned.text
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_one_job_runs_at_a_time_and_an_error_frees_the_place(data: Path, tmp_path: Path) -> None:
    first = train(settings(data, tmp_path / "a", 100), StopRequest())
    next(first)
    with pytest.raises(UsageError, match="another job"):
        done(train(settings(data, tmp_path / "b", 1), StopRequest()))
    first.close()
    with pytest.raises(UsageError, match=r"does not exist|no image|missing"):
        done(train(settings(tmp_path / "nothing", tmp_path / "c", 1), StopRequest()))
    done(train(settings(data, tmp_path / "d", 1), StopRequest()))


def test_training_on_layers_leaves_a_data_set_with_its_run(tmp_path: Path) -> None:
    image, labels = (np.stack(part) for part in zip(*(disks(n) for n in range(4)), strict=True))
    labels[1] = 0
    layers = Image(image, name="film", axis_labels=("t", "y", "x")), Labels(labels)
    updates, learned = done(train_on_layers(*layers, tmp_path, TrainOptions(4.0, start="none"), StopRequest()))
    assert learned.model == tmp_path / "film-1" / "runs" / "napari-1" / "model.safetensors"
    assert sorted(p.name for p in (tmp_path / "film-1" / "masks").iterdir()) == [
        "film-t000.tif",
        "film-t002.tif",
        "film-t003.tif",
    ]
    assert any(update.warning == "learning from 3 images; 1 without labels left out" for update in updates)


def test_the_frames_to_annotate_next_are_places_in_the_layer(models: dict[int, Path]) -> None:
    image = np.stack([disks(n)[0] for n in range(3)])
    layer = Image(image, name="film", axis_labels=("t", "y", "x"))
    _, found = done(suggest_in_layer(layer, "", str(models[2]), StopRequest(), number=2))
    assert 1 <= len(found.regions) <= 2
    for region in found.regions:
        assert region.stop[0] == region.start[0] + 1
        assert all(0 <= a < b <= n for a, b, n in zip(region.start, region.stop, image.shape, strict=True))
    assert [r.disagreement for r in found.regions] == sorted((r.disagreement for r in found.regions), reverse=True)


def test_in_a_folder_only_images_without_a_mask_are_ranked(data: Path, tmp_path: Path, models: dict[int, Path]) -> None:
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "new.tif", disks(9)[0], axes="YX")
    _, found = done(suggest_in_folder(tmp_path, str(models[2]), StopRequest()))
    assert [one.path.name for one in found.suggestions] == ["new.tif"]
    with pytest.raises(DataError, match="every image has a mask"):
        done(suggest_in_folder(data, str(models[2]), StopRequest()))


def test_a_warning_of_the_check_is_said_once() -> None:
    report = SimpleNamespace(lines=lambda: ["3 pairs", "warning: only one image", "note: 8 bits"])
    assert jobs.describe(Checked(report)).warning == "only one image"
