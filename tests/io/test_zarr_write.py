"""OME-Zarr as Septum writes it: read by an independent program, valid by the rules of NGFF, whole after a failure."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ngff_zarr
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from septum.errors import FileError, UsageError
from septum.io.files import open_image, read_image, write_image
from septum.io.zarr_labels import add_labels, labels_place
from septum.io.zarr_write import ZarrTarget, add_pyramid, create_zarr, halve, level_factors

IMAGE = np.random.default_rng(0).integers(0, 60000, (2, 100, 131), np.uint16)
SIZE = {"Y": 0.5, "X": 0.25}


def made(path: Path, array: NDArray[Any] = IMAGE, axes: str = "CYX", **options: Any) -> ZarrTarget:
    """Write `array` shard by shard of 64 x 64, in chunks of 32 x 32."""
    lead = (1,) * (array.ndim - 2)
    target = create_zarr(
        path, shape=array.shape, axes=axes, dtype=array.dtype, chunks=(*lead, 32, 32), shards=(*lead, 64, 64), **options
    )
    for y in range(0, array.shape[-2], 64):
        for x in range(0, array.shape[-1], 64):
            where = (*(slice(None) for _ in lead), slice(y, min(y + 64, array.shape[-2])), slice(x, x + 64))
            target.write(where, array[where])
    return target


def finish(path: Path, smallest: int = 20) -> list[float]:
    return list(add_pyramid(path, smallest=smallest))


def check_rules(path: Path) -> None:
    """State the rules of NGFF 0.5 for images and their labels, and hold them against a store."""
    document = json.loads((path / "zarr.json").read_text())
    assert (document["zarr_format"], document["node_type"]) == (3, "group")
    ome = document["attributes"]["ome"]
    assert ome["version"] == "0.5"
    assert len(ome["multiscales"]) == 1
    multiscale = ome["multiscales"][0]
    axes = multiscale["axes"]
    assert 2 <= len(axes) <= 5
    names, kinds = [a["name"] for a in axes], [a["type"] for a in axes]
    assert len(set(names)) == len(names)
    assert kinds == sorted(kinds, key=["time", "channel", "space"].index), "time, then channel, then space"
    assert 2 <= kinds.count("space") <= 3 and kinds.count("time") <= 1 and kinds.count("channel") <= 1
    assert names[-2:] == ["y", "x"]
    assert all(a.get("unit", "micrometer") == "micrometer" for a in axes)
    scales = []
    shapes = []
    for dataset in multiscale["datasets"]:
        transforms = dataset["coordinateTransformations"]
        assert [t["type"] for t in transforms] in (["scale"], ["scale", "translation"])
        assert all(len(t[t["type"]]) == len(axes) for t in transforms)
        array = json.loads((path / dataset["path"] / "zarr.json").read_text())
        assert array["node_type"] == "array"
        assert array["dimension_names"] == names
        scales.append(transforms[0]["scale"])
        shapes.append(array["shape"])
    assert all(all(b >= a for a, b in zip(*pair, strict=True)) for pair in pairwise(scales)), "finest first"
    assert all(all(b <= a for a, b in zip(*pair, strict=True)) for pair in pairwise(shapes))
    if "image-label" in ome:
        assert set(ome["image-label"]) <= {"colors", "properties", "source", "version"}
        assert array["data_type"].startswith(("int", "uint"))


def test_another_program_reads_it(tmp_path: Path) -> None:
    made(tmp_path / "a.ome.zarr", pixel_size_um=SIZE)
    done = finish(tmp_path / "a.ome.zarr")
    assert done == sorted(done) and done[-1] == 1.0
    check_rules(tmp_path / "a.ome.zarr")
    image = ngff_zarr.from_ngff_zarr(str(tmp_path / "a.ome.zarr"))
    assert image.metadata.name == "a"
    finest = image.images[0]
    assert finest.dims == ("c", "y", "x")
    assert (finest.scale["y"], finest.scale["x"]) == (0.5, 0.25)
    assert finest.axes_units is not None and finest.axes_units["x"] == "micrometer"
    np.testing.assert_array_equal(finest.data.compute(), IMAGE)
    # Y pixels are twice as large: X is halved first.
    assert [tuple(i.data.shape) for i in image.images] == [
        (2, 100, 131),
        (2, 100, 66),
        (2, 50, 33),
        (2, 25, 17),
        (2, 13, 9),
    ]
    means = IMAGE[:, :, :130].reshape(2, 100, 65, 2).mean(axis=-1)
    np.testing.assert_array_equal(image.images[1].data.compute()[..., :65], np.rint(means))
    np.testing.assert_array_equal(image.images[1].data.compute()[..., 65], IMAGE[..., 130])
    assert image.images[1].translation["x"] == 0.125 and image.images[1].scale["x"] == 0.5


def test_plain_zarr_reads_it_and_shards_are_files(tmp_path: Path) -> None:
    made(tmp_path / "a.ome.zarr")
    array = zarr.open_array(str(tmp_path / "a.ome.zarr" / "0"), mode="r")
    np.testing.assert_array_equal(array[...], IMAGE)
    assert (array.chunks, array.shards) == ((1, 32, 32), (1, 64, 64))
    assert [c.to_dict()["name"] for c in array.compressors] == ["zstd"]
    files = [p for p in (tmp_path / "a.ome.zarr" / "0" / "c").rglob("*") if p.is_file()]
    assert len(files) == 2 * 2 * 3


def test_written_values_are_read_back(tmp_path: Path) -> None:
    target = made(tmp_path / "a.ome.zarr", pixel_size_um=SIZE)
    image = read_image(tmp_path / "a.ome.zarr")
    assert (image.axes, image.file_axes, image.pixel_size_um) == ("CYX", "CYX", SIZE)
    np.testing.assert_array_equal(image.array, IMAGE)
    np.testing.assert_array_equal(target.read((1, slice(3, 70), slice(60, 131))), IMAGE[1, 3:70, 60:])
    again = pickle.loads(pickle.dumps(ZarrTarget(tmp_path / "a.ome.zarr")))
    assert (again.axes, again.shape, again.dtype, again.shards) == ("CYX", IMAGE.shape, IMAGE.dtype, (1, 64, 64))
    again.write((0, slice(0, 64), slice(0, 64)), IMAGE[1, :64, :64])
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.zarr").array[0, :64, :64], IMAGE[1, :64, :64])


@pytest.mark.parametrize("axes", ["YX", "ZYX", "CYX", "TCZYX"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, bool])
def test_images_in_memory_are_written_too(tmp_path: Path, axes: str, dtype: type) -> None:
    sides = {"T": 2, "C": 3, "Z": 4, "Y": 40, "X": 50}
    array = (np.arange(np.prod([sides[a] for a in axes])).reshape([sides[a] for a in axes]) % 251).astype(dtype)
    for _ in range(2):  # the second replaces the first
        write_image(tmp_path / "a.ome.zarr", array, axes=axes)
    check_rules(tmp_path / "a.ome.zarr")
    image = read_image(tmp_path / "a.ome.zarr")
    assert image.file_axes == axes
    np.testing.assert_array_equal(image.array.reshape(array.shape), array)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.ome.zarr"]


def test_labels_are_never_mixed(tmp_path: Path) -> None:
    labels = (IMAGE[0] % 5 * 1000).astype(np.uint32)
    made(tmp_path / "a.ome.zarr", labels, "YX", labels=True)
    finish(tmp_path / "a.ome.zarr")
    check_rules(tmp_path / "a.ome.zarr")
    levels = ngff_zarr.from_ngff_zarr(str(tmp_path / "a.ome.zarr")).images
    assert len(levels) == 4
    for level, image in enumerate(levels):
        np.testing.assert_array_equal(image.data.compute(), labels[:: 2**level, :: 2**level])
    assert json.loads((tmp_path / "a.ome.zarr/zarr.json").read_text())["attributes"]["ome"]["image-label"] == {}


def test_probabilities_of_classes_are_averaged(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).random((3, 64, 64), np.float32)
    made(tmp_path / "a.ome.zarr", maps, "CYX")
    finish(tmp_path / "a.ome.zarr", smallest=32)
    coarse = ZarrTarget(tmp_path / "a.ome.zarr")
    level = ZarrTarget(tmp_path / "a.ome.zarr", 1).read(())
    np.testing.assert_allclose(level, maps.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4)), rtol=1e-6)
    assert coarse.axes == "CYX" and level.dtype == np.float32


def test_levels_of_volumes_become_more_isotropic() -> None:
    size = {"Z": 2.0, "Y": 0.5, "X": 0.5}
    factors = level_factors((60, 4096, 4096), "ZYX", size)
    assert factors == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]
    assert level_factors((60, 4096, 4096), "ZYX", {}) == [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8)]
    assert level_factors((3, 512, 512), "CYX", {}) == [(1, 1, 1)]
    assert level_factors((1, 10**6), "YX", {})[-1] == (1, 2048)
    assert level_factors((5, 3, 700, 20), "TCYX", {"Y": 1.0, "X": 1.0}) == [(1, 1, 1, 1), (1, 1, 2, 2)]


def test_means_are_rounded_once() -> None:
    part = np.array([[0, 1], [1, 1], [255, 255]], np.uint8)
    assert halve(part, (2, 2), labels=False).tolist() == [[1], [255]]
    assert halve(part, (1, 2), labels=False).tolist() == [[0], [1], [255]]
    large = np.full((3, 3), 2**32 - 1, np.uint32)
    assert (halve(large, (2, 2), labels=False) == 2**32 - 1).all()


def test_a_pyramid_needs_all_pieces_and_can_be_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    target = create_zarr(path, shape=(100, 131), axes="YX", dtype="u2", chunks=(32, 32), shards=(64, 64))
    target.write((slice(0, 64), slice(0, 64)), IMAGE[0, :64, :64])
    assert len(target.missing()) == 5
    assert read_image(path).array[0, 64:].sum() == 0, "until the image is complete, missing pixels are 0"
    with pytest.raises(FileError, match="5 pieces not written"):
        finish(path)
    target.write((), IMAGE[0])
    steps = add_pyramid(path, smallest=20)
    next(steps)
    steps.close()
    assert len(json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["datasets"]) == 1
    finish(path)
    first = sorted(p.relative_to(path) for p in path.rglob("*"))
    finish(path)
    assert sorted(p.relative_to(path) for p in path.rglob("*")) == first
    check_rules(path)


def test_a_missing_chunk_of_a_complete_image_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    made(path, np.zeros((100, 131), np.uint16), "YX")
    finish(path)
    (path / "0/c/1/2").unlink()
    source = open_image(path)
    assert source[0, :64].sum() == 0
    with pytest.raises(FileError, match=r"the piece c/1/2 is missing"):
        source[...]


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    target = made(path)
    shard = path / "0/c/1/0/1"
    content = bytearray(shard.read_bytes())
    content[10:200] = bytes(190)
    shard.write_bytes(content)
    for read in (lambda: target.read(()), lambda: read_image(path)):
        with pytest.raises(FileError, match=r"0/c/1/0/1: the Zarr file is damaged"):
            read()
    shard.write_bytes(content[:-3])
    with pytest.raises(FileError, match=r"0/c/1/0/1: the Zarr file is damaged"):
        read_image(path)


def _write_rows(path: Path, row: int) -> None:
    ZarrTarget(path).write((slice(None), slice(row, row + 64)), IMAGE[:, row : row + 64])


def test_processes_that_own_shards_write_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    create_zarr(path, shape=IMAGE.shape, axes="CYX", dtype="u2", chunks=(1, 32, 32), shards=(1, 64, 64))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(_write_rows, [path] * 2, [0, 64]))
    np.testing.assert_array_equal(read_image(path).array, IMAGE)


def test_a_killed_writer_leaves_old_or_new_shards(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    target = create_zarr(path, shape=(1024, 1024), axes="YX", dtype="u1", chunks=(64, 64), shards=(512, 512))
    target.write((), np.full((1024, 1024), 1, np.uint8))
    program = (
        "import sys, itertools, numpy as np; from pathlib import Path; from septum.io.zarr_write import ZarrTarget\n"
        "target = ZarrTarget(Path(sys.argv[1])); random = np.random.default_rng(0)\n"
        "print('go', flush=True)\n"
        "for n in itertools.count(2):\n"
        "    noise = random.integers(0, 2, (1024, 1024), np.uint8) * 100\n"
        "    target.write((), noise + n % 100)\n"
    )
    for wait in (0.02, 0.05, 0.1):
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"go\n"
            time.sleep(wait)
            writer.kill()
        array = read_image(path).array[0]
        for y, x in np.ndindex(2, 2):
            shard = array[y * 512 : (y + 1) * 512, x * 512 : (x + 1) * 512]
            assert len(np.unique(shard % 100)) == 1, "a shard of one writing"


def test_names_that_are_taken_and_folders_that_are_missing(tmp_path: Path) -> None:
    made(tmp_path / "a.ome.zarr")
    with pytest.raises(FileError, match="exists"):
        made(tmp_path / "a.ome.zarr")
    with pytest.raises(FileError, match="does not exist"):
        made(tmp_path / "none" / "a.ome.zarr")
    with pytest.raises(FileError, match=r"not an OME-Zarr 0\.5 image"):
        ZarrTarget(tmp_path / "none.zarr")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.ome.zarr"]


def labels_beside(folder: Path) -> Path:
    made(folder / "made.zarr", (IMAGE[0] % 3).astype(np.uint16), "YX", labels=True, name="cells")
    finish(folder / "made.zarr")
    return folder / "made.zarr"


@pytest.mark.parametrize("whole_list", [False, True])
def test_labels_inside_an_image_are_found_by_another_program(tmp_path: Path, whole_list: bool) -> None:
    image = tmp_path / "a.ome.zarr"
    made(image)
    if whole_list:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(str(image))
    for name in ("cells", "nuclei"):
        place = add_labels(image, name, labels_beside(tmp_path))
        assert place == image / "labels" / name
        check_rules(place)
    notes = json.loads((image / "labels/zarr.json").read_text())["attributes"]["ome"]
    assert notes == {"version": "0.5", "labels": ["cells", "nuclei"]}
    assert list(tmp_path.iterdir()) == [image]
    np.testing.assert_array_equal(read_image(image / "labels/cells").array[0], IMAGE[0] % 3)
    np.testing.assert_array_equal(read_image(image).array, IMAGE)
    read = ngff_zarr.from_ngff_zarr(str(image / "labels" / "nuclei"))
    np.testing.assert_array_equal(read.images[0].data.compute(), IMAGE[0] % 3)
    group = zarr.open_group(str(image), mode="r")
    assert "labels/cells/0" in group
    label = json.loads((image / "labels/cells/zarr.json").read_text())["attributes"]["ome"]["image-label"]
    assert label == {"source": {"image": "../../"}}


def test_older_labels_are_kept(tmp_path: Path) -> None:
    image = tmp_path / "a.ome.zarr"
    made(image)
    zarr.create_group(str(image / "labels"), attributes={"ome": {"version": "0.5", "labels": ["old"]}, "mine": 1})
    add_labels(image, "new", labels_beside(tmp_path))
    attributes = json.loads((image / "labels/zarr.json").read_text())["attributes"]
    assert attributes == {"ome": {"version": "0.5", "labels": ["old", "new"]}, "mine": 1}
    with pytest.raises(UsageError, match="exists"):
        labels_place(image, "new")


def test_labels_are_refused_for_other_images_than_ome_zarr_0_5(tmp_path: Path) -> None:
    axes = [{"name": a, "type": "space"} for a in "yx"]
    old = tmp_path / "old.ome.zarr"
    zarr.create_group(
        str(old), zarr_format=2, attributes={"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    )
    with pytest.raises(UsageError, match=r"0\.4 image[\s\S]*save the image as 0\.5"):
        labels_place(old, "cells")
    with pytest.raises(UsageError, match="not an OME-Zarr image"):
        labels_place(tmp_path, "cells")
    made(tmp_path / "a.ome.zarr")
    for name in ("", "..", "a/b", ".hidden"):
        with pytest.raises(UsageError, match="the name"):
            labels_place(tmp_path / "a.ome.zarr", name)
    with pytest.raises(FileError, match="not a label image"):
        add_labels(tmp_path / "a.ome.zarr", "cells", tmp_path / "a.ome.zarr")
