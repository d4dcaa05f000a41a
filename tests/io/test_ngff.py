"""OME-Zarr of other programs: values, axes and pixel sizes are read, damaged stores are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ngff_zarr
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from septum.errors import FileError, UsageError
from septum.io.files import open_image, read_image

VOLUME = np.arange(3 * 20 * 30, dtype=np.uint16).reshape(3, 20, 30)
SPACE = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]


def scale(*steps: float) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": list(steps)}]


def write_group(
    folder: Path, multiscale: dict[str, Any], array: NDArray[Any], version: int = 3, path: str = "0", **more: Any
) -> None:
    """Write an OME-Zarr image with plain zarr; `multiscale` is put into its description as it is."""
    notes = {"multiscales": [multiscale], **more}
    attributes = {"ome": {"version": "0.5", **notes}} if version == 3 else notes
    group = zarr.create_group(str(folder), zarr_format=version, attributes=attributes)
    stored = group.create_array(path, shape=array.shape, dtype=array.dtype, chunks=(*array.shape[:-2], 16, 16))
    stored[...] = array


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
@pytest.mark.parametrize("axes", ["yx", "zyx", "cyx", "tczyx"])
def test_images_of_another_program(tmp_path: Path, version: str, axes: str) -> None:
    sides = {"t": 2, "c": 3, "z": 4, "y": 40, "x": 50}
    array = np.random.default_rng(0).integers(0, 60000, [sides[a] for a in axes], np.uint16)
    size = {a: {"z": 2.0, "y": 0.5, "x": 0.25}[a] for a in axes if a in "zyx"}
    image = ngff_zarr.to_ngff_image(array, dims=list(axes), scale=size, axes_units=dict.fromkeys(size, "micrometer"))
    levels = ngff_zarr.to_multiscales(image, scale_factors=[], chunks=16)
    ngff_zarr.to_ngff_zarr(str(tmp_path / "a.ome.zarr"), levels, version=version)
    read = read_image(tmp_path / "a.ome.zarr")
    assert read.file_axes == axes.upper()
    assert read.pixel_size_um == {a.upper(): v for a, v in size.items()}
    wanted = array if "c" in axes else np.expand_dims(array, 0)
    assert read.array.dtype == np.uint16
    np.testing.assert_array_equal(read.array, wanted)
    source = open_image(tmp_path / "a.ome.zarr")
    assert source.lazy
    np.testing.assert_array_equal(source[0, 3:23], wanted[0, 3:23])


@pytest.mark.parametrize("version", [2, 3])
def test_scales_are_combined_and_units_converted(tmp_path: Path, version: int) -> None:
    units = ["millimeter", "nanometer", "micrometer"]
    multiscale = {
        "axes": [{"name": a, "type": "space", "unit": u} for a, u in zip("zyx", units, strict=True)],
        "datasets": [{"path": "0", "coordinateTransformations": [*scale(0.5, 200, 3), {"type": "translation"}]}],
        "coordinateTransformations": scale(2, 2, 0.5),
    }
    write_group(tmp_path / "a.zarr", multiscale, VOLUME, version, omero={"channels": 7})
    image = read_image(tmp_path / "a.zarr")
    assert image.pixel_size_um == pytest.approx({"Z": 1000.0, "Y": 0.4, "X": 1.5})
    np.testing.assert_array_equal(image.array[0], VOLUME)


@pytest.mark.parametrize(
    ("axes", "wanted"),
    [
        ([{"name": a, "type": "space"} for a in "zyx"], "CZYX"),
        ([{"name": "frame", "type": "time"}, *SPACE[1:]], "TCYX"),
        (
            [{"name": "dye", "type": "channel"}, {"name": "row", "type": "space"}, {"name": "col", "type": "space"}],
            "CYX",
        ),
        ([{"name": n, "type": "space"} for n in ("depth", "height", "width")], "CZYX"),
        (["t", "y", "x"], "TCYX"),
    ],
)
def test_axes_by_name_then_by_type(tmp_path: Path, axes: list[Any], wanted: str) -> None:
    write_group(tmp_path / "a.zarr", {"axes": axes, "datasets": [{"path": "0"}]}, VOLUME, 2)
    image = read_image(tmp_path / "a.zarr")
    assert image.axes == wanted
    assert image.pixel_size_um == ({"Y": 1.0, "X": 1.0} if "unit" in str(axes) else {})


def test_unknown_axes_must_be_named(tmp_path: Path) -> None:
    strange = [{"name": n} for n in ("a", "b", "c")]
    write_group(tmp_path / "a.zarr", {"axes": strange, "datasets": [{"path": "0"}]}, VOLUME)
    with pytest.raises(FileError, match=r"\(3, 20, 30\)[\s\S]*--axes"):
        read_image(tmp_path / "a.zarr")
    assert read_image(tmp_path / "a.zarr", axes="ZYX").axes == "CZYX"
    with pytest.raises(UsageError, match="3 dimensions"):
        read_image(tmp_path / "a.zarr", axes="CZYX")


def test_version_0_6_maps_the_finest_level_to_a_coordinate_system(tmp_path: Path) -> None:
    systems = [{"name": "stage", "axes": [{"name": "t"}] * 3}, {"name": "intrinsic", "axes": SPACE}]
    sequence = [{"type": "scale", "scale": [2, 0.5, 0.25]}, {"type": "translation", "translation": [0, 1, 2]}]
    whole = [{"type": "affine", "input": "intrinsic", "output": "stage", "affine": [[1, 0, 0, 0]] * 3}]

    def written(name: str, transform: dict[str, Any]) -> Path:
        entry = {"path": "0", "coordinateTransformations": [{**transform, "input": "0", "output": "intrinsic"}]}
        levels = {"coordinateSystems": systems, "datasets": [entry], "coordinateTransformations": whole}
        write_group(tmp_path / name, levels, VOLUME, omero={"channels": [{"label": "DAPI"}]})
        return tmp_path / name

    image = read_image(written("a.zarr", {"type": "sequence", "transformations": sequence}))
    assert (image.file_axes, image.pixel_size_um) == ("ZYX", {"Z": 2.0, "Y": 0.5, "X": 0.25})
    assert image.channel_names == ("DAPI",)
    turned = [*sequence, {"type": "rotation", "rotation": [[1, 0, 0], [0, 0, 1], [0, 1, 0]]}]
    assert read_image(written("b.zarr", {"type": "sequence", "transformations": turned})).pixel_size_um == {}
    assert read_image(written("c.zarr", {"type": "identity"})).pixel_size_um == {"Z": 1.0, "Y": 1.0, "X": 1.0}
    with pytest.raises(FileError, match="2 scales for 3 axes"):
        read_image(written("d.zarr", {"type": "scale", "scale": [1, 2]}))


def test_the_first_versions_name_no_axes(tmp_path: Path) -> None:
    write_group(tmp_path / "a.zarr", {"datasets": [{"path": "0"}]}, VOLUME[None, None], 2)
    assert read_image(tmp_path / "a.zarr").file_axes == "TCZYX"


@pytest.mark.parametrize("version", [2, 3])
def test_plain_arrays(tmp_path: Path, version: int) -> None:
    names = {"dimension_names": ["z", "y", "x"]} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": list("zyx")}}
    zarr.create_array(str(tmp_path / "named.zarr"), data=VOLUME, zarr_format=version, **names)
    zarr.create_array(str(tmp_path / "plain.zarr"), data=VOLUME, zarr_format=version)
    zarr.create_array(str(tmp_path / "plane.zarr"), data=VOLUME[0], zarr_format=version)
    assert read_image(tmp_path / "named.zarr").axes == "CZYX"
    assert read_image(tmp_path / "plain.zarr").axes == "TCYX"
    assert read_image(tmp_path / "plain.zarr", axes="CYX").axes == "CYX"
    image = read_image(tmp_path / "plane.zarr")
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.array[0], VOLUME[0])


@pytest.mark.parametrize("codec", ["blosc", "zstd", "gzip", None])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [2, 3])
def test_common_encodings(tmp_path: Path, codec: str | None, order: Any, version: int) -> None:
    import numcodecs
    import zarr.codecs

    if version == 2:
        compressor: Any = {"blosc": numcodecs.Blosc(), "zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip()}.get(codec)
    else:
        three = {"blosc": zarr.codecs.BloscCodec, "zstd": zarr.codecs.ZstdCodec, "gzip": zarr.codecs.GzipCodec}
        compressor = three[codec]() if codec else None
    turned = [zarr.codecs.TransposeCodec(order=(2, 1, 0))] if order == "F" and version == 3 else "auto"
    stored = zarr.create_array(
        str(tmp_path / "a.zarr"),
        shape=VOLUME.shape,
        dtype=">u2",
        chunks=(2, 7, 11),
        zarr_format=version,
        compressors=compressor,
        order=order if version == 2 else None,
        filters=turned,
    )
    stored[...] = VOLUME
    image = read_image(tmp_path / "a.zarr", axes="ZYX")
    np.testing.assert_array_equal(image.array[0], VOLUME)
    assert image.array.dtype == np.uint16 and image.array.dtype.isnative


@pytest.mark.parametrize("name", ["zlib", "lz4", "bz2", "lzma"])
def test_older_encodings(tmp_path: Path, name: str) -> None:
    import numcodecs

    compressor = {"zlib": numcodecs.Zlib, "lz4": numcodecs.LZ4, "bz2": numcodecs.BZ2, "lzma": numcodecs.LZMA}[name]()
    zarr.create_array(
        str(tmp_path / "a.zarr"),
        data=VOLUME,
        zarr_format=2,
        compressors=compressor,
        filters=[numcodecs.Delta(dtype="u2"), numcodecs.Shuffle(2)],
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr", axes="ZYX").array[0], VOLUME)


def test_a_label_image_inside_is_named_by_its_folder(tmp_path: Path) -> None:
    write_group(tmp_path / "a.ome.zarr", {"axes": SPACE, "datasets": [{"path": "0"}]}, VOLUME)
    labels = tmp_path / "a.ome.zarr" / "labels"
    zarr.create_group(str(labels), attributes={"ome": {"version": "0.5", "labels": ["cells"]}})
    write_group(
        labels / "cells", {"axes": SPACE, "datasets": [{"path": "0"}]}, VOLUME % 7, **{"image-label": {"colors": []}}
    )
    np.testing.assert_array_equal(read_image(labels / "cells").array[0], VOLUME % 7)
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.zarr").array[0], VOLUME)
    with pytest.raises(FileError, match=r"list of label images: cells[\s\S]*labels/cells"):
        read_image(labels)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"plate": {"wells": [{"path": "B/03"}]}}, r"a plate of a screen[\s\S]*a\.zarr/B/03/0"),
        ({"well": {"images": [{"path": "2"}]}}, r"a well of a screen[\s\S]*a\.zarr/2"),
        ({"bioformats2raw.layout": 3}, r"several images[\s\S]*a\.zarr/0"),
        ({}, "without an image of its own"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_groups_of_many_images_name_one(tmp_path: Path, notes: dict[str, Any], message: str, version: int) -> None:
    attributes = {"ome": notes} if version == 3 else notes
    zarr.create_group(str(tmp_path / "a.zarr"), zarr_format=version, attributes=attributes)
    with pytest.raises(FileError, match=message):
        read_image(tmp_path / "a.zarr")


def test_the_one_image_of_a_converter_is_read(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "a.zarr"), attributes={"ome": {"bioformats2raw.layout": 3}})
    write_group(tmp_path / "a.zarr" / "0", {"axes": SPACE, "datasets": [{"path": "0"}]}, VOLUME)
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr").array[0], VOLUME)


def test_chunks_that_were_never_written_have_the_fill_value(tmp_path: Path) -> None:
    stored = zarr.create_array(str(tmp_path / "a.zarr"), shape=(40, 40), dtype="uint16", chunks=(20, 20), fill_value=9)
    stored[:20, :20] = 5
    array = read_image(tmp_path / "a.zarr").array[0]
    assert (array[:20, :20] == 5).all() and (array[20:] == 9).all()


def test_the_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_group(path, {"axes": SPACE, "datasets": [{"path": "0"}]}, VOLUME)
    chunk = path / "0" / "c" / "0" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    with pytest.raises(FileError, match=r"0/c/0/1/1: the Zarr file is damaged or cut off"):
        read_image(path)
    np.testing.assert_array_equal(open_image(path)[0, 0, :16], VOLUME[0, :16])
    (path / "0" / "zarr.json").unlink()
    with pytest.raises(FileError, match="its finest level"):
        read_image(path)
    (path / "zarr.json").write_text('{"zarr_format": 3')
    with pytest.raises(FileError, match="damaged"):
        read_image(path)
    (path / "zarr.json").unlink()
    with pytest.raises(FileError, match=r"not an OME-Zarr"):
        read_image(path)
    with pytest.raises(FileError, match="does not exist"):
        read_image(tmp_path / "none.zarr")


@pytest.mark.parametrize(
    "multiscale",
    [
        {},
        {"datasets": []},
        {"axes": SPACE, "datasets": [{}]},
        {"axes": SPACE, "datasets": [{"path": 3}]},
        {"axes": SPACE[1:], "datasets": [{"path": "0"}]},
        {"axes": SPACE, "datasets": [{"path": "0", "coordinateTransformations": scale(1, 2)}]},
        {"axes": 5, "datasets": [{"path": "0"}]},
        {"axes": SPACE, "datasets": 4},
    ],
)
def test_impossible_descriptions_are_refused(tmp_path: Path, multiscale: dict[str, Any]) -> None:
    write_group(tmp_path / "a.zarr", multiscale, VOLUME)
    with pytest.raises(FileError) as raised:
        read_image(tmp_path / "a.zarr")
    assert raised.value.todo


def test_flipped_bytes_of_descriptions_give_an_image_or_our_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_group(path, {"axes": SPACE, "datasets": [{"path": "0"}]}, VOLUME)
    random = np.random.default_rng(0)
    for document in (path / "zarr.json", path / "0" / "zarr.json"):
        whole = document.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            content[random.integers(len(content))] ^= 1 << random.integers(7)
            document.write_bytes(content)
            try:
                read_image(path)
            except (FileError, UsageError) as error:
                assert error.given
        document.write_bytes(whole)
    assert json.loads(whole)["shape"] == [3, 20, 30]
