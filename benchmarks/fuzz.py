"""Feed damaged files to the readers, guided by coverage: each must give a result or an error in words.

    python -m venv fuzz && fuzz/bin/pip install atheris . && fuzz/bin/python benchmarks/fuzz.py tiff 600

The first argument is ``model``, ``header``, a format of images (``tiff``, ``nifti``, ``nrrd``, ``mha``, ``lif``,
``nd2``, ``czi``, ``slide``) or of drawn objects (``imagej``, ``geojson``, ``coco``, ``labelme``, ``cvat``, ``napari``,
``cellpose``, ``dataset``), the second the seconds. ``header`` puts forged headers of a model under a checksum that
fits, so that they are believed as far as they can be. A finding ends the run with a traceback and leaves the input in a
file whose name begins with ``crash-``; memory of more than 2 GB is a finding as well. The libraries of ``czi`` and
``slide`` are compiled: their coverage guides nothing, and a fault in them ends the run without a traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import random
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import atheris

_LIBRARIES = {
    "imagej": "roifile", "tiff": "tifffile", "nifti": "nibabel", "nrrd": "nrrd", "lif": "liffile", "nd2": "nd2"
}  # fmt: skip
# Suffix by kind of image.
_IMAGES = {
    "tiff": ".tif", "nifti": ".nii", "nrrd": ".nrrd", "mha": ".mha", "lif": ".lif", "nd2": ".nd2", "czi": ".czi",
    "slide": ".svs"
}  # fmt: skip

with atheris.instrument_imports(include=["septum", _LIBRARIES.get(sys.argv[1], "safetensors")]):
    import nibabel
    import numpy as np
    import roifile
    import tifffile

    from septum.arrays.instances import ObjectSettings
    from septum.arrays.normalize import NormalizeSettings
    from septum.errors import SeptumError
    from septum.io import nifti, nnunet, tensors, tiff  # noqa: F401 - instrumented
    from septum.io.annotations import cellpose, coco, cvat, geojson, imagej, labelme, napari, raster
    from septum.io.files import open_image, read_image, with_scenes
    from septum.io.microscopes import czi, lif, nd2, slide  # noqa: F401 - instrumented
    from septum.io.selection import Selection
    from septum.io.volumes import mha, nrrd  # noqa: F401 - instrumented
    from septum.nn.unet import UNet, UNetSettings
    from septum.prediction import model

    if sys.argv[1] in _LIBRARIES:
        importlib.import_module(_LIBRARIES[sys.argv[1]])

_SEED = 20
_LARGE = 1 << 28  # bytes
_FOLDER = Path(tempfile.mkdtemp(prefix="septum-fuzz-"))


def _reader(read: Callable[[Path], object], suffix: str, name: str = "input") -> Callable[[bytes], None]:
    path = _FOLDER / f"{name}{suffix}"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except SeptumError as error:
            assert error.given

    return one


def _read_twice(path: Path) -> None:
    """Read a region, then the whole, unless it is larger than the limit of memory, then the coarsest level.

    Each takes a way of its own through the libraries.
    """
    for place in with_scenes([path])[:3]:
        with open_image(place) as image:
            if image.dtype.itemsize * math.prod(image.shape) > _LARGE:
                continue
            image[..., : max(1, image.shape[-1] // 2)]
            levels = image.level_sides
        read_image(place)
        if len(levels) > 1 and math.prod(levels[-1]) < _LARGE:
            read_image(place, selection=Selection(level=len(levels) - 1))


_DRAWN: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "imagej": (".zip", imagej.read_rois),
    "geojson": (".geojson", geojson.read_geojson),
    "coco": (".json", coco.read_coco),
    "labelme": (".json", labelme.read_labelme),
    "cvat": (".xml", cvat.read_cvat),
    "napari": (".csv", napari.read_napari),
    "cellpose": ("_seg.npy", cellpose.read_cellpose),
}


def _fill_twice(read: Callable[[Path], Any], path: Path) -> None:
    """Read drawn objects and fill them, on an image and on a stack, as ids and as classes."""
    for drawing in read(path):
        if drawing.labels is not None:
            continue
        classes = {one.label: 1 for one in drawing.objects}
        for pages, numbers in (((1, 1), None), ((2, 3), classes)):
            try:
                raster.fill(drawing, path, pages, drawing.size if _small(drawing.size) else (20, 24), numbers)
            except SeptumError as error:
                assert error.given


def _small(size: tuple[int, int] | None) -> bool:
    return size is not None and size[0] * size[1] < 1 << 20


def _read_notes(path: Path) -> None:
    nnunet.dataset_notes(path.parent)


def _drawn_seeds(folder: Path, kind: str) -> None:
    """Write whole files of drawn objects to begin with."""
    square = [[2, 3], [9, 3], [9, 8], [2, 8]]
    shape = {"label": "a", "points": square, "shape_type": "polygon", "group_id": 1}
    run = {"size": [20, 24], "counts": "PPYo0"}
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 24}
    one = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [np.ravel(square).tolist()], "iscrowd": 0}
    place = {"type": "Polygon", "coordinates": [[*square, square[0]]], "plane": {"c": 0, "z": 1, "t": 0}}
    feature = {"type": "Feature", "geometry": place, "properties": {"classification": {"name": "a"}, "name": "n"}}
    rois = [roifile.ImagejRoi.frompoints(np.array(square, kind_)) for kind_ in (np.int32, np.float32)]
    texts = {
        "labelme": {"shapes": [shape, {**shape, "shape_type": "circle", "points": square[:2]}], "imagePath": "a.png"},
        "coco": {
            "images": [image],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [one, {**one, "segmentation": run}, {**one, "segmentation": {**run, "counts": [470, 10]}}],
        },
        "geojson": {
            "type": "FeatureCollection",
            "features": [feature, {**feature, "geometry": {**place, "type": "x"}}],
        },
        "dataset": {"channel_names": {"0": "a"}, "labels": {"background": 0, "b": 1, "ignore": 2, "r": [1, 2]}},
    }
    if kind in texts:
        (folder / "a.json").write_text(json.dumps(texts[kind]))
    elif kind == "imagej":
        roifile.roiwrite(folder / "a.zip", rois, name=["a.roi", "b.roi"])
        (folder / "b.zip").write_bytes(rois[1].tobytes())
    elif kind == "cvat":
        shapes = '<polygon label="a" points="2,3;9,3;9,8"/><box xtl="1" ytl="1" xbr="5" ybr="6" rotation="9"/>'
        shapes += '<ellipse cx="5" cy="5" rx="2" ry="3"/><mask rle="1,2,3" left="1" top="2" width="3" height="2"/>'
        (folder / "a.xml").write_text(
            f'<annotations><image name="a" width="24" height="20">{shapes}</image></annotations>'
        )
    elif kind == "napari":
        rows = [
            f"{k},{name},{n},{y},{x}"
            for k, name in enumerate(("polygon", "ellipse"))
            for n, (x, y) in enumerate(square)
        ]
        (folder / "a.csv").write_text("index,shape-type,vertex-index,axis-0,axis-1\n" + "\n".join(rows))
    else:
        np.save(folder / "a_seg.npy", {"masks": np.ones((3, 4), np.uint16), "flows": [np.zeros(2)]}, allow_pickle=True)


def _header_reader(corpus: Path) -> Callable[[bytes], None]:
    """Open a small model whose header is the input."""
    path = _FOLDER / "whole.safetensors"
    shape = UNetSettings(depths=(1, 1), width=1)
    said = model.ModelHeader(
        network=shape, normalization=NormalizeSettings(), kind="objects", class_values=(0, 1), objects=ObjectSettings()
    )
    model.save_model(path, UNet(shape, seed=0), said)
    weights, header = tensors.read_model(path)
    (corpus / "header").write_text(json.dumps(header))

    def one(data: bytes) -> None:
        try:
            forged = json.loads(data)
            tensors.write_model(path, weights, forged)
        except (ValueError, RecursionError):
            return  # no JSON: what ``model`` tries
        try:
            model.open_model(path, "cpu")
        except SeptumError as error:
            assert error.given

    return one


def _forged(data: bytes, most: int, seed: int) -> bytes:
    """Change, remove or add a value somewhere in a JSON text; the values are those that programs stumble over.

    Often in the whole header, because the fuzzer prefers short inputs.
    """
    rng = random.Random(seed)
    try:
        root = json.loads((_FOLDER / "corpus/header").read_bytes() if rng.random() < 0.7 else data)
    except (ValueError, RecursionError):
        root = {}
    node: Any = {"": root}
    key: Any = ""
    while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
        node = node[key]
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    if rng.random() < 0.2:
        del node[key]
    else:
        some = [0, -1, 1, 2, 3, 2**31, 2**63, 10**40, 0.5, 1e308, float("nan"), None, True, "", "valid", [], [1, 2], {}]
        node[key] = rng.choice(some)
    changed = json.dumps(root).encode()
    return changed if len(changed) <= most else data[:most]


def _model_seeds(folder: Path) -> None:
    tensors.write_model(folder / "a.safetensors", {"w": np.ones((3, 2), np.float32)}, {"seed": 0, "b": [1.5, None]})


def _image_seeds(folder: Path, kind: str) -> None:
    """Write whole images to begin with."""
    image = np.random.default_rng(0).integers(0, 255, (20, 24), np.uint8)
    if kind == "tiff":
        tiled, lzw = {"tile": (16, 16)}, {"compression": "lzw", "predictor": True}
        for number, options in enumerate([{}, {"compression": "zlib"}, tiled, lzw, {"bigtiff": True}]):
            tifffile.imwrite(folder / f"{number}.tif", image, **options)
        tifffile.imwrite(folder / "ome.ome.tif", np.stack([image] * 3), metadata={"axes": "CYX"})
        with tifffile.TiffWriter(folder / "levels.ome.tif", ome=True) as file:
            file.write(np.kron(image, np.ones((2, 2), np.uint8)), subifds=1, **tiled)
            file.write(image, subfiletype=1, **tiled)
        pages = {"axes": "ZYX", "spacing": 2.0}
        tifffile.imwrite(folder / "ij.tif", np.stack([image] * 2), imagej=True, metadata=pages)
    elif kind == "nifti":
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32)[..., None], np.eye(4)), folder / "a.nii")
        nibabel.save(nibabel.Nifti2Image(image.astype(np.int16)[..., None], np.eye(4)), folder / "b.nii.gz")
    elif kind == "nrrd":
        import nrrd as library

        steps = {"space": "left-posterior-superior", "space directions": np.eye(2), "kinds": ["domain"] * 2}
        for encoding in ("raw", "gzip", "bzip2"):
            library.write(str(folder / f"{encoding}.nrrd"), image, {"encoding": encoding, **steps})
        spaced = {"encoding": "raw", "spacings": [1.0, 2.0, 3.0], "kinds": ["RGB-color", "domain", "domain"]}
        library.write(str(folder / "rgb.nrrd"), np.stack([image] * 3), spaced)
    elif kind == "mha":
        head = "NDims = 2\nCompressedData = {}\nElementSpacing = 1 2\nDimSize = 24 20\nElementType = MET_UCHAR\n"
        for packed in (False, True):
            values = zlib.compress(image.tobytes()) if packed else image.tobytes()
            text = head.format(packed) + "ElementNumberOfChannels = 1\nElementDataFile = LOCAL\n"
            (folder / f"{packed}.mha").write_bytes(text.encode() + values)
    else:
        _microscope_seeds(folder, kind, np.stack([image] * 2))


def _microscope_seeds(folder: Path, kind: str, pair: Any) -> None:
    """Write files of microscopes as the tests do; `pair` is ``(2, Y, X)`` uint8."""
    place = Path(__file__).parents[1] / "tests/contract/write_foreign.py"
    spec = importlib.util.spec_from_file_location("write_foreign", place)
    assert spec is not None and spec.loader is not None
    files = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(files)
    wide, names = pair.astype(np.uint16), ("DAPI", "GFP")
    if kind == "czi":
        files.write_czi(folder / "a.czi", [wide[:, None]], names)
        files.write_czi(folder / "b.czi", [np.stack([pair[0]] * 3, -1)] * 2)
    elif kind == "lif":
        files.write_lif(folder / "a.lif", {"one": wide[None], "two": wide[None]}, "ZCYX", names)
        files.write_lif(folder / "b.lif", {"one": np.stack([pair[0]] * 3, -1)}, "YXS", ("Red", "Green", "Blue"))
    elif kind == "nd2":
        for loop in (1, 2, 4):
            files.write_nd2(folder / f"{loop}.nd2", np.stack([wide] * 2), names, loop)
    else:
        files.write_svs(folder / "a.svs", np.kron(np.stack([pair[0]] * 3, -1), np.ones((4, 4, 1), np.uint8)), levels=2)


def main() -> None:
    kind, seconds = sys.argv[1], sys.argv[2]
    warnings.simplefilter("ignore")
    corpus = _FOLDER / "corpus"
    corpus.mkdir()
    more: dict[str, Any] = {}
    if kind == "header":
        test = _header_reader(corpus)
        more["custom_mutator"] = _forged
    elif kind == "model":
        test = _reader(tensors.read_model, ".safetensors")
        _model_seeds(corpus)
    elif kind in _IMAGES:
        test = _reader(_read_twice, _IMAGES[kind])
        _image_seeds(corpus, kind)
    else:
        suffix, read = _DRAWN.get(kind, (".json", None))
        _drawn_seeds(corpus, kind)
        if read is not None:
            test = _reader(partial(_fill_twice, read), suffix)
        else:
            test = _reader(_read_notes, ".json", name="dataset")
    longest = max(file.stat().st_size for file in corpus.iterdir())
    limits = [
        f"-max_total_time={seconds}",
        f"-seed={_SEED}",
        "-rss_limit_mb=2048",
        f"-max_len={max(8192, longest)}",
        "-timeout=120",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], test, **more)
    os.nice(max(0, 15 - os.nice(0)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
