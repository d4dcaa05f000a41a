"""Channels are picked by number from 1 or by name, from files of any order of axes, by regions."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

import septum
from septum.errors import ModelError, UsageError
from septum.io.files import open_image, read_image, write_image
from septum.io.selection import Selection
from septum.prediction.predict import predict_files
from septum.prediction.settings import PredictSettings

STACK = np.random.default_rng(0).integers(0, 60000, (4, 20, 30), np.uint16)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Return an OME-Zarr image of four channels with names, two of them equal."""
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space"} for a in "yx")]
    labels = [{"label": name} for name in ("DAPI", "GFP", "3", "gfp")]
    levels = {"axes": axes, "datasets": [{"path": "0"}]}
    notes = {"version": "0.5", "multiscales": [levels], "omero": {"channels": labels}}
    group = zarr.create_group(str(tmp_path / "a.ome.zarr"), attributes={"ome": notes})
    group.create_array("0", shape=STACK.shape, dtype=STACK.dtype, chunks=(1, 16, 16))[...] = STACK
    return tmp_path / "a.ome.zarr"


def test_channels_by_number_and_name_in_the_order_asked_for(named: Path) -> None:
    for wanted, kept in {("1",): [0], ("dapi",): [0], ("4", "DAPI", "2"): [3, 0, 1], ("3",): [2]}.items():
        with open_image(named, selection=Selection(wanted)) as image:
            assert (image.shape[0], image.picked, len(image.channel_names)) == (len(kept), wanted, len(kept))
            np.testing.assert_array_equal(image[:, 3:9, 4:], STACK[kept, 3:9, 4:])
            with pickle.loads(pickle.dumps(image)) as again:
                np.testing.assert_array_equal(again.array, STACK[kept])


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "color.png"])
def test_channels_of_other_formats(tmp_path: Path, name: str) -> None:
    stack = STACK[:3].astype(np.uint8)
    axes = "YXC" if name == "a.npy" else "CYX"
    write_image(tmp_path / name, np.moveaxis(stack, 0, -1) if axes == "YXC" else stack, axes=axes)
    image = read_image(tmp_path / name, selection=Selection(("3", "1")))
    np.testing.assert_array_equal(image.array, stack[[2, 0]])


def test_channels_that_are_not_there_are_refused_with_those_that_are(named: Path, tmp_path: Path) -> None:
    for wanted in ("5", "0", "Cy5", "-1"):
        with pytest.raises(
            UsageError, match=rf"--channel {wanted}: the image has 4 channels \(1 DAPI, 2 GFP, 3 3, 4 gfp\)"
        ):
            open_image(named, selection=Selection((wanted,)))
    with pytest.raises(UsageError, match="several of that name"):
        open_image(named, selection=Selection(("GFP",)))
    with pytest.raises(UsageError, match="the same channel twice"):
        open_image(named, selection=Selection(("1", "DAPI")))
    write_image(tmp_path / "gray.png", np.ones((4, 5), np.uint8), axes="YX")
    assert read_image(tmp_path / "gray.png", selection=Selection(("1",))).shape == (1, 4, 5)
    with pytest.raises(UsageError, match="1 channel "):
        read_image(tmp_path / "gray.png", selection=Selection(("2",)))


def test_a_model_reads_the_channel_that_it_was_trained_on(tmp_path: Path, disks: Path) -> None:
    for number, path in enumerate(sorted((disks / "images").iterdir())):
        image = np.clip(read_image(path).array, 0, 255).astype(np.uint8)
        both = np.concatenate([np.random.default_rng(number).integers(0, 255, image.shape, np.uint8), image])
        (tmp_path / "images").mkdir(exist_ok=True)
        write_image(tmp_path / "images" / f"{path.stem}.tif", both, axes="CYX")
    common = {"steps": 3, "width": 2, "depth": 1, "tile": 32, "kind": "objects"}
    trained = septum.train(tmp_path / "images", disks / "masks", out=tmp_path / "run", channel=["2"], **common)
    assert (trained.header.network.channels, trained.header.read_channels) == (1, ("2",))
    source = tmp_path / "images" / "a.tif"
    results = {}
    for name, options in {"learned": {}, "asked": {"channel": ("2",)}, "blocks": {"in_blocks": True}}.items():
        settings = PredictSettings(model=tmp_path / "run", inputs=(str(source),), out=tmp_path / name, **options)
        said = [event.text for event in predict_files(settings) if hasattr(event, "text")]
        assert any("read with --channel 2, as in training" in text for text in said) == (name != "asked")
        results[name] = read_image(tmp_path / name / "a.tif").array
    np.testing.assert_array_equal(results["learned"], results["asked"])
    np.testing.assert_array_equal(results["learned"], results["blocks"])
    three = tmp_path / "three.tif"
    write_image(three, STACK[:3], axes="CYX")
    other = septum.train(disks / "images", disks / "masks", out=tmp_path / "gray", **common)
    with pytest.raises(ModelError, match="give channel, by number"):
        septum.predict(other, three)
