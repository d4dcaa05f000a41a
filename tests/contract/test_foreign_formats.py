"""One suite that every format passes that Septum reads and does not write."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from septum.errors import FileError, SeptumError, UsageError
from septum.io.files import list_images, open_image, read_image
from septum.io.formats import image_stem, result_suffix, split_scene, suffix_of
from septum.io.microscopes import libraries as extras

NAMES = ("DAPI", "GFP")


def _writers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_foreign", Path(__file__).with_name("write_foreign.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("write_foreign", module)
    spec.loader.exec_module(module)
    return module


files = _writers()


def _meta_image(path: Path, volume: NDArray[Any], um: float, packed: bool = False) -> None:
    import zlib

    raw = volume.tobytes()  # Z, Y, X: the last is fastest
    spacing = f"ElementSpacing = {um / 1000} {um / 1000} {4 * um / 1000}\n" if um else ""
    data = zlib.compress(raw) if packed else raw
    path.write_bytes(
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {packed}\n"
        f"{spacing}DimSize = {' '.join(map(str, volume.shape[::-1]))}\nElementType = MET_USHORT\n"
        "ElementDataFile = LOCAL\n".encode()
        + data
    )


def _nrrd(path: Path, volume: NDArray[Any], um: float, encoding: str = "raw") -> None:
    import nrrd

    header: dict[str, Any] = {"encoding": encoding, "kinds": ["domain"] * 3}
    if um:
        steps = np.diag([um / 1000, um / 1000, 4 * um / 1000])
        header |= {"space": "left-posterior-superior", "space directions": steps}
    nrrd.write(str(path), volume.T, header)


@dataclass(frozen=True)
class Foreign:
    """A format: `make` writes ``(C, Z, Y, X)`` uint16 with pixels of `um` micrometers (0: unknown), Z 4 times that."""

    suffix: str
    library: str
    make: Callable[[Path, NDArray[Any], float], None]
    channels: int = 2
    sections: int = 3
    named: bool = True
    lazy: bool = True
    text: bool = True  # noise and text in a file of this suffix are recognized by their first bytes


FORMATS = [
    Foreign(".czi", "pylibCZIrw", lambda p, a, um: files.write_czi(p, [a], NAMES, um)),
    Foreign(".nd2", "nd2", lambda p, a, um: files.write_nd2(p, np.moveaxis(a, 1, 0), NAMES, 4, um)),
    Foreign(".lif", "liffile", lambda p, a, um: files.write_lif(p, {"one": np.moveaxis(a, 1, 0)}, "ZCYX", NAMES, um)),
    Foreign(".nrrd", "nrrd", lambda p, a, um: _nrrd(p, a[0], um), channels=1, named=False),
    Foreign(".nrrd", "nrrd", lambda p, a, um: _nrrd(p, a[0], um, "gzip"), channels=1, named=False, lazy=False),
    Foreign(".mha", "numpy", lambda p, a, um: _meta_image(p, a[0], um), channels=1, named=False),
    Foreign(".mha", "numpy", lambda p, a, um: _meta_image(p, a[0], um, True), channels=1, named=False, lazy=False),
]


@pytest.fixture(params=FORMATS, ids=lambda kind: kind.suffix[1:] + ("" if kind.lazy else " packed"))
def kind(request: pytest.FixtureRequest) -> Foreign:
    pytest.importorskip(request.param.library, reason="the extra [formats] is not installed")
    found: Foreign = request.param
    return found


def pixels(kind: Foreign) -> NDArray[Any]:
    shape = (kind.channels, kind.sections, 20, 30)
    return np.random.default_rng(0).integers(0, 65535, shape, np.uint16)


def test_values_axes_channels_and_pixel_size(tmp_path: Path, kind: Foreign) -> None:
    array, path = pixels(kind), tmp_path / f"image{kind.suffix}"
    kind.make(path, array, 0.25)
    image = read_image(path)
    assert (image.axes, image.dtype) == ("CZYX", np.dtype(np.uint16))
    np.testing.assert_array_equal(image.array, array)
    assert image.array.flags.c_contiguous and image.array.flags.writeable and image.array.dtype.isnative
    assert image.channel_names == (NAMES if kind.named else ())
    sizes = {"Z": 0.25 if kind.suffix == ".lif" else 1.0, "Y": 0.25, "X": 0.25}
    assert {a: round(v, 9) for a, v in image.pixel_size_um.items()} == sizes


def test_no_pixel_size_is_made_up(tmp_path: Path, kind: Foreign) -> None:
    path = tmp_path / f"image{kind.suffix}"
    kind.make(path, pixels(kind), 0)
    assert read_image(path).pixel_size_um == {}


def test_regions_are_read_as_asked_for_by_several_threads_and_processes(tmp_path: Path, kind: Foreign) -> None:
    array, path = pixels(kind), tmp_path / f"image{kind.suffix}"
    kind.make(path, array, 0.25)
    with open_image(path) as image:
        assert image.lazy == kind.lazy
        rng = np.random.default_rng(1)
        places = [tuple(slice(*sorted(rng.choice(n + 1, 2, replace=False))) for n in array.shape) for _ in range(12)]
        with ThreadPoolExecutor(4) as threads:
            for place, part in zip(places, threads.map(image.__getitem__, places), strict=True):
                np.testing.assert_array_equal(part, array[place])
        with pickle.loads(pickle.dumps(image)) as again:
            np.testing.assert_array_equal(again[0, 1], array[0, 1])


def test_every_truncation_is_noticed(tmp_path: Path, kind: Foreign) -> None:
    path = tmp_path / f"image{kind.suffix}"
    kind.make(path, pixels(kind), 0.25)
    whole = path.read_bytes()
    for tenth in range(1, 10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(FileError, match=r"cut off|holds only"):
            read_image(path)


def test_empty_text_and_missing_files_are_no_images(tmp_path: Path, kind: Foreign) -> None:
    path = tmp_path / f"image{kind.suffix}"
    for content, message in [
        (b"", "0 bytes"),
        (b"cell,area\n1,20\n", "text that begins"),
        (b"\7\1" * 99, "bytes that"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FileError, match=message) as raised:
            read_image(path)
        assert raised.value.expected and raised.value.todo
    with pytest.raises(FileError, match="does not exist"):
        read_image(tmp_path / f"none{kind.suffix}")


def test_axes_can_be_named(tmp_path: Path, kind: Foreign) -> None:
    array, path = pixels(kind), tmp_path / f"image{kind.suffix}"
    kind.make(path, array, 0.25)
    stored = read_image(path).file_axes
    named = stored.replace("Z", "T")
    assert read_image(path, axes=named).shape == (3, kind.channels, 20, 30)
    with pytest.raises(UsageError, match="axes"):
        read_image(path, axes="YX")


def test_flipped_bytes_give_an_image_or_our_error(tmp_path: Path, kind: Foreign) -> None:
    if kind.suffix == ".czi":
        pytest.skip("compiled code: a fault in it would end the test process")
    path, random = tmp_path / f"image{kind.suffix}", np.random.default_rng(3)
    kind.make(path, pixels(kind), 0.25)
    source = path.read_bytes()
    head = min(len(source), 20_000)
    for _ in range(150):
        content = bytearray(source)
        for _ in range(3):
            content[random.integers(head)] ^= 1 << random.integers(8)
        path.write_bytes(bytes(content))
        try:
            read_image(path)
        except SeptumError as error:
            assert error.given


def test_a_missing_library_is_named_with_the_line_that_installs_it(
    tmp_path: Path, kind: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.library == "numpy":
        pytest.skip("needs no library")
    path = tmp_path / f"image{kind.suffix}"
    kind.make(path, pixels(kind), 0.25)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(UsageError, match=rf"not installed \({kind.library}\)[\s\S]*pip install 'septum\[formats\]'"):
        read_image(path)
    assert list_images([tmp_path]) == [path], "it is listed; its error is raised where it is read"


SCENES: dict[str, Callable[[Path, NDArray[Any]], None]] = {
    ".czi": lambda p, a: files.write_czi(p, [a, a + 1], NAMES),
    ".nd2": lambda p, a: files.write_nd2(p, np.stack([a[:, 0], a[:, 0] + 1]), NAMES, 2),
    ".lif": lambda p, a: files.write_lif(
        p, {"one": np.moveaxis(a, 1, 0), "two": np.moveaxis(a + 1, 1, 0)}, "ZCYX", NAMES
    ),
}


@pytest.mark.parametrize("suffix", SCENES)
def test_images_of_one_file_are_named_by_number_and_listed(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip({".czi": "pylibCZIrw", ".nd2": "nd2", ".lif": "liffile"}[suffix])
    array = np.random.default_rng(0).integers(0, 60000, (2, 1, 20, 30), np.uint16)
    path = tmp_path / f"plate{suffix}"
    SCENES[suffix](path, array)
    both = [path.with_name(f"plate{suffix}#{number}") for number in (1, 2)]
    assert list_images([tmp_path]) == list_images([path]) == both
    assert list_images([both[1]]) == [both[1]]
    for number, one in enumerate(both):
        np.testing.assert_array_equal(read_image(one).array, array[:, 0] + number)
        assert (image_stem(one), suffix_of(one.name)) == (f"plate#{number + 1}", f"{suffix}#{number + 1}")
        assert result_suffix(suffix_of(one.name)) == ".tif" and split_scene(one) == (path, number + 1)
    with pytest.raises(FileError, match=r"holds 2 images[\s\S]*#1"):
        read_image(path)
    with pytest.raises(FileError, match=r"#3: the file holds 2 images"):
        read_image(path.with_name(f"plate{suffix}#3"))


def test_a_name_with_a_number_sign_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "cell#2.npy"
    np.save(path, np.ones((4, 5), np.uint8))
    assert list_images([tmp_path]) == [path] and image_stem(path) == "cell#2"
    assert suffix_of("cell.png#2") == "" and split_scene(Path("cell.png#2")) == (Path("cell.png#2"), None)


def test_color_of_czi_and_lif_is_red_green_blue(tmp_path: Path) -> None:
    pytest.importorskip("pylibCZIrw")
    pytest.importorskip("liffile")
    color = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    files.write_czi(tmp_path / "a.czi", [color])
    files.write_lif(tmp_path / "a.lif", {"one": color}, "YXS", ("Red", "Green", "Blue"))
    for name in ("a.czi", "a.lif"):
        with open_image(tmp_path / name) as image:
            np.testing.assert_array_equal(image[:, 3:9, 4:], np.moveaxis(color, -1, 0)[:, 3:9, 4:])


def test_a_slide_is_read_by_regions_with_its_pixel_size(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="the extra [formats] is not installed")
    slide = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    files.write_svs(tmp_path / "a.svs", slide, mpp=0.4)
    with open_image(tmp_path / "a.svs") as image:
        assert (image.axes, image.shape, image.lazy) == ("CYX", (3, 200, 300), True)
        assert image.pixel_size_um == {"Y": 0.4, "X": 0.4}
        np.testing.assert_array_equal(image[1:, 60:130, 120:260], np.moveaxis(slide, -1, 0)[1:, 60:130, 120:260])


def test_a_small_slide_that_claims_a_huge_image_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="the extra [formats] is not installed")
    import tifffile

    files.write_svs(tmp_path / "a.svs", np.zeros((200, 300, 3), np.uint8))
    with tifffile.TiffFile(tmp_path / "a.svs", mode="r+") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[name].overwrite(1_000_000)
    with pytest.raises(FileError, match=r"claims 1000000 x 1000000 x 3 values|damaged"):
        read_image(tmp_path / "a.svs")


def test_transparent_parts_of_a_slide_are_white() -> None:
    from septum.io.microscopes.slide import on_white

    pixels = np.array([[[10, 20, 30, 255], [0, 0, 0, 0], [0, 100, 200, 51]]], np.uint8)
    assert on_white(pixels).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 224, 244]]]


def test_a_small_file_that_claims_a_huge_volume_is_refused(tmp_path: Path) -> None:
    head = (
        "ObjectType = Image\nNDims = 2\nDimSize = 1000000 1000000\nElementType = MET_DOUBLE\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(head.encode() + bytes(100))
    (tmp_path / "b.mha").write_bytes(head.replace("ElementT", "CompressedData = True\nElementT").encode() + bytes(100))
    nrrd = "NRRD0004\ntype: double\ndimension: 2\nsizes: 1000000 1000000\nencoding: {}\nendian: little\n\n"
    for number, encoding in enumerate(("raw", "gzip", "bzip2")):
        (tmp_path / f"{number}.nrrd").write_bytes(nrrd.format(encoding).encode() + bytes(100))
    (tmp_path / "3.nrrd").write_bytes(nrrd.format("raw\nbyte skip: -1").encode() + bytes(100))
    if importlib.util.find_spec("nrrd") is None:
        pytest.skip("the extra [formats] is not installed")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(FileError, match=r"claims 1000000 x 1000000"):
            read_image(path)


def test_a_small_czi_that_claims_thousands_of_planes_is_refused(tmp_path: Path) -> None:
    """Each plane would be read as zeros, for hours."""
    pytest.importorskip("pylibCZIrw", reason="the extra [formats] is not installed")
    files.write_czi(tmp_path / "a.czi", [pixels(FORMATS[0])], NAMES)
    place, third = b"Z\0\0\0", (2).to_bytes(4, "little")
    whole = (tmp_path / "a.czi").read_bytes()
    assert whole.count(place + third) >= 2
    (tmp_path / "a.czi").write_bytes(whole.replace(place + third, place + (60_000).to_bytes(4, "little")))
    with pytest.raises(FileError, match=r"claims 2 x 60001 x 20 x 30 values"):
        read_image(tmp_path / "a.czi")


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd", "sub/../../x.raw"])
def test_a_header_that_names_data_outside_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    head = f"ObjectType = Image\nNDims = 2\nDimSize = 2 2\nElementType = MET_UCHAR\nElementDataFile = {name}\n"
    (tmp_path / "a.mhd").write_text(head)
    with pytest.raises(FileError, match="outside"):
        read_image(tmp_path / "a.mhd")


def test_detached_headers_find_their_values(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd", reason="the extra [formats] is not installed")
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nrrd.write(str(tmp_path / "a.nhdr"), values.T, {"encoding": "gzip"}, detached_header=True)
    (tmp_path / "b.raw").write_bytes(values.astype(">i2").tobytes())
    (tmp_path / "b.mhd").write_text(
        "NDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\nElementByteOrderMSB = True\nElementDataFile = b.raw\n"
    )
    for name in ("a.nhdr", "b.mhd"):
        np.testing.assert_array_equal(read_image(tmp_path / name).array[0], values)
    (tmp_path / "b.raw").unlink()
    with pytest.raises(FileError, match=r"b.raw does not exist\nexpected: the values of b.mhd"):
        read_image(tmp_path / "b.mhd")


def test_colors_and_times_of_nrrd_are_channels_and_frames(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd", reason="the extra [formats] is not installed")
    values = np.arange(3 * 5 * 4 * 2, dtype=np.uint8).reshape(3, 5, 4, 2)
    kinds = ["RGB-color", "domain", "domain", "time"]
    nrrd.write(str(tmp_path / "a.nrrd"), values, {"encoding": "raw", "kinds": kinds})
    image = read_image(tmp_path / "a.nrrd")
    assert (image.axes, image.file_axes) == ("TCYX", "CXYT")
    np.testing.assert_array_equal(image.array, values.transpose(3, 0, 2, 1))
    nrrd.write(str(tmp_path / "b.nrrd"), values, {"encoding": "raw", "kinds": ["list", "vector", "domain", "domain"]})
    with pytest.raises(FileError, match=r"4 axes of the kinds list, vector[\s\S]*--axes CXYZ"):
        read_image(tmp_path / "b.nrrd")


def test_a_tiff_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    import tifffile

    for name in ("a.dat", "a", "a.lsm", "a.png"):
        tifffile.imwrite(tmp_path / name, np.full((4, 5), 7, np.uint8))
        assert list_images([tmp_path / name]) == [tmp_path / name]
        assert read_image(tmp_path / name).array.tolist() == [[[7] * 5] * 4]
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match="not an image"):
        list_images([tmp_path / "notes.txt"])


def test_values_that_a_header_states_are_packed_into_chunks_that_end(tmp_path: Path) -> None:
    """A MetaImage whose packed values are longer or shorter than stated is damaged, and is not unpacked further."""
    import zlib

    head = b"NDims = 2\nCompressedData = True\nDimSize = 4 4\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    for count in (15, 17, 10**6):
        (tmp_path / "a.mha").write_bytes(head + zlib.compress(bytes(count)))
        with pytest.raises(FileError, match="damaged"):
            read_image(tmp_path / "a.mha")
