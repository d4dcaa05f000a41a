"""Models that come with Septum: found by name, opened and verified, small, with a card, in the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from septum import open_model, predict
from septum.errors import ModelError
from septum.io.image import Image
from septum.models.named import FOLDER, NAMES, file_of, name_of, read_card
from septum.prediction.in_memory import predict_image
from septum.prediction.model import model_file


def test_the_folder_holds_a_file_and_a_card_of_each_name_and_nothing_else() -> None:
    assert {p.stem for p in FOLDER.glob("*.safetensors")} == {p.stem for p in FOLDER.glob("*.md")} == set(NAMES)
    assert all(name_of(file_of(name)) == name for name in NAMES)
    assert name_of(Path("nuclei.safetensors")) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_named_model_is_small_states_its_purpose_and_predicts(name: str) -> None:
    assert file_of(name).stat().st_size < 5_000_000
    model = open_model(name, "cpu")
    card, release = read_card(name), model.header.release
    assert release is not None and len(set(release.images)) >= 30
    assert card.startswith(f"# {name}\n\nA U-Net for {release.purpose}, made with Septum")
    assert f"septum predict {name} IMAGES" in card and f"{model.header.training['steps']} steps" in card
    assert "**Terms of the data**" in card and "**Not for**" in card
    assert release.data in (model.header.describe_release() or "")
    pixels = np.random.default_rng(0).normal(100, 20, (1, 96, 80)).astype(np.float32)
    assert predict_image(model, Image.from_array(pixels, "CYX")).shape == (1, 96, 80)


def test_nuclei_finds_bright_disks_at_once() -> None:
    y, x = np.mgrid[:160, :160]
    truth = sum((y - cy) ** 2 + (x - cx) ** 2 < 100 for cy in (30, 80, 130) for cx in (30, 80, 130))
    image = 100.0 * truth + np.random.default_rng(0).normal(50, 8, truth.shape)
    found = predict("nuclei", image.astype(np.float32))
    assert found.max() == 9
    assert np.count_nonzero((found > 0) & (truth > 0)) > 0.8 * np.count_nonzero((found > 0) | (truth > 0))


def test_a_file_or_run_of_the_name_wins_and_a_folder_of_images_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_file(Path("nuclei")) == file_of("nuclei")
    (tmp_path / "nuclei" / "images").mkdir(parents=True)
    assert model_file(Path("nuclei")) == file_of("nuclei")
    (tmp_path / "nuclei" / "settings.json").write_text("{}")
    with pytest.raises(ModelError, match="this run has not ended"):
        model_file(Path("nuclei"))
    shutil.copyfile(file_of("cells"), tmp_path / "nuclei" / "model.safetensors")
    assert model_file(Path("nuclei")) == Path("nuclei/model.safetensors")
    shutil.copyfile(file_of("cells"), tmp_path / "membranes")
    assert model_file(Path("membranes")) == Path("membranes")


@pytest.mark.parametrize(("given", "todo"), [("nucleus", "did you mean: nuclei?"), ("xyz", "check the spelling")])
def test_an_unknown_name_is_refused_with_the_most_similar_one(given: str, todo: str) -> None:
    with pytest.raises(ModelError) as raised:
        open_model(given)
    assert raised.value.given == f"{given}: no file, folder or model of this name"
    assert raised.value.expected.endswith("a model that comes with Septum: cells, membranes, nuclei")
    assert raised.value.todo == todo


def test_a_missing_path_is_refused_with_what_a_model_can_be() -> None:
    with pytest.raises(ModelError, match=r"run.nuclei: no file, folder or model[\s\S]*a model file, a run folder, or"):
        open_model("run/nuclei")
