"""Write a bioimage.io package: the network as ONNX, its pre-processing in words of the format, a test and a cover.

Source: "bioimage.io model description", version 0.5.12, https://bioimage-io.github.io/spec-bioimage-io

The description is written here and needs no library; the package is judged by ``bioimageio test`` in the tests.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import NormalizeSettings
from septum.arrays.tiles import Readable, read_mirrored
from septum.errors import DataError
from septum.export.exportable import left_out, model_name
from septum.export.model_settings import ExportSettings
from septum.export.onnx_check import Comparison, TestPair, open_session
from septum.export.onnx_file import write_onnx
from septum.export.onnx_graph import IMAGE, OPSET, PROBABILITIES, smallest_sides
from septum.io.atomic import whole_file
from septum.io.files import write_image
from septum.nn.unet import UNetSettings
from septum.prediction.model import Model
from septum.version import __version__

FORMAT_VERSION = "0.5.12"
_WEIGHTS, _INPUT, _OUTPUT, _COVER, _README = "weights.onnx", "input.npy", "output.npy", "cover.png", "README.md"
_SEEN, _FOUND = "sample_input.tif", "sample_output.tif"  # the test once more, for programs that show pictures

_LEAST_EPS = 1e-12  # that hosts add to a deviation
_SAMPLE_SIDES = {2: (512, 512), 3: (32, 128, 128)}  # the most that are taken of a sample
_DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes

CITATIONS = (
    {
        "text": "Ronneberger, O., Fischer, P., Brox, T.: U-Net: Convolutional Networks for Biomedical Image "
        "Segmentation. MICCAI 2015",
        "doi": "10.1007/978-3-319-24574-4_28",
    },
)


def write_package(
    path: Path, model: Model, pair: TestPair, settings: ExportSettings, sample: Readable | None = None
) -> tuple[tuple[str, ...], Comparison]:
    """Write a package, and leave it only if its network computes what the model computes.

    Parameters
    ----------
    path
        The file, a zip archive.
    model
        The model.
    pair
        The test pair of the model file.
    settings
        License and authors of the package, and the name of its sample.
    sample
        ``(C, *S)``, raw intensities of any real type and range, on the grid of the network, whose middle is the test;
        None: the image of `pair`.

    Returns
    -------
    inputs, comparison
        Names of the inputs of the network, and what was compared.

    Raises
    ------
    FileError
        If a probability differs, or the sample cannot be read.
    DataError
        If a pixel of the sample, or a probability of it, is no finite number.
    """
    header = model.header
    with tempfile.TemporaryDirectory(prefix="septum-export-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        inputs, comparison = write_onnx(folder / _WEIGHTS, model, pair, None, named=path)
        image = pair.image if sample is None else _sample(sample, header.network)
        (output,) = open_session(folder / _WEIGHTS).run(
            [PROBABILITIES], {IMAGE: preprocess(image, preprocessing(header.normalization, image.ndim - 2))}
        )
        if not np.isfinite(output).all():
            given = f"{settings.sample}: probabilities that are no finite numbers"
            raise DataError(given, "intensities like those of the training", "name another image with --sample")
        np.save(folder / _INPUT, image, allow_pickle=False)
        np.save(folder / _OUTPUT, output, allow_pickle=False)
        axes = "CYX" if image.ndim == 4 else "CZYX"
        for name, tensor in ((_SEEN, image), (_FOUND, output)):
            write_image(folder / name, tensor[0], axes=axes)
        write_image(folder / _COVER, draw_cover(image, output), axes="CYX")
        (folder / _README).write_text(_readme(model, settings), encoding="utf-8")
        described = describe(model, settings, {file.name: _sha256(file) for file in folder.iterdir()})
        (folder / "rdf.yaml").write_text("\n".join(_yaml(described)) + "\n", encoding="utf-8")
        with whole_file(path) as temporary:
            temporary.write_bytes(_zipped(folder))
    return inputs, comparison


def preprocessing(settings: NormalizeSettings, rank: int) -> list[dict[str, Any]]:
    """Return the normalization of intensities in words of the format; statistics are those of each image.

    Parameters
    ----------
    settings
        The method.
    rank
        2 or 3 spatial axes.
    """
    axes = list("zyx"[-rank:])
    steps: list[dict[str, Any]] = [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    if settings.method == "common":
        offsets, scales = ([pair[k] for pair in settings.common] for k in (0, 1))
        one = {"mean": offsets[0], "std": scales[0]}
        each = {"mean": offsets, "std": scales, "axis": "channel"}
        steps.append({"id": "fixed_zero_mean_unit_variance", "kwargs": one if len(offsets) == 1 else each})
    elif settings.method == "range":
        steps.append({"id": "scale_range", "kwargs": {"axes": axes, "eps": _LEAST_EPS}})
    else:
        steps.append({"id": "zero_mean_unit_variance", "kwargs": {"axes": axes, "eps": _LEAST_EPS}})
    if settings.limit is not None:
        steps.append({"id": "clip", "kwargs": {"min": -settings.limit, "max": settings.limit}})
    return steps


def preprocess(images: NDArray[Any], steps: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Compute what a host computes before the network.

    Parameters
    ----------
    images
        ``(B, C, *S)``, any real dtype, raw intensities.
    steps
        From `preprocessing`.

    Returns
    -------
    ndarray
        ``(B, C, *S)`` float32, normalized intensities.
    """
    x: NDArray[Any] = images.astype(np.float32)
    space, column = tuple(range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
    for step in steps:
        match step["id"], step["kwargs"]:
            case "fixed_zero_mean_unit_variance", {"mean": mean, "std": std}:
                x = (x - np.float32(mean).reshape(column)) / np.float32(std).reshape(column)
            case "scale_range", {"eps": eps}:
                low, high = x.min(axis=space, keepdims=True), x.max(axis=space, keepdims=True)
                x = (x - low) / (high - low + eps)
            case "clip", {"min": least, "max": most}:
                x = np.clip(x, least, most)
            case "zero_mean_unit_variance", {"eps": eps}:
                x = (x - x.mean(axis=space, keepdims=True)) / (x.std(axis=space, keepdims=True) + eps)
    return x.astype(np.float32)


def describe(model: Model, settings: ExportSettings, sums: Mapping[str, str]) -> dict[str, Any]:
    """Return the description of the package, the content of ``rdf.yaml``.

    Parameters
    ----------
    model
        The model.
    settings
        License and authors.
    sums
        SHA-256 of each file in the package.
    """
    header, rank = model.header, len(model.header.network.depths)
    inputs, outputs = _axes(model)

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": sums[name]}

    name = model_name(settings.model)
    return {
        "type": "model",
        "format_version": FORMAT_VERSION,
        "name": f"Septum {name}" if name.isidentifier() else "Septum model",
        "description": header.describe_release() or _purpose(model),
        "authors": [{"name": author} for author in settings.author],
        "cite": [dict(entry) for entry in CITATIONS],
        "license": settings.license,
        "documentation": file(_README),
        "covers": [file(_COVER)],
        "tags": ["unet", "segmentation", "instance-segmentation", "microscopy", "onnx", f"{rank}d"],
        "inputs": [
            {
                "id": IMAGE,
                "axes": inputs,
                "data": {"type": "float32"},
                "test_tensor": file(_INPUT),
                "sample_tensor": file(_SEEN),
                "preprocessing": preprocessing(header.normalization, rank),
            }
        ],
        "outputs": [
            {
                "id": PROBABILITIES,
                "axes": outputs,
                "data": {"type": "float32"},
                "test_tensor": file(_OUTPUT),
                "sample_tensor": file(_FOUND),
            }
        ],
        "weights": {"onnx": {**file(_WEIGHTS), "opset_version": OPSET}},
        "config": {"septum": {"version": __version__, "left_out": left_out(header)}},
    }


def _smallest(network: UNetSettings) -> tuple[int, ...]:
    """Return the smallest sides of a tile; of a padded network with room for its margins beside one cell."""
    if network.padding == "valid":
        return smallest_sides(network)
    geometry = network.geometry
    return tuple(2 * context + grid for context, grid in zip(geometry.contexts, geometry.grid, strict=True))


def _axes(model: Model) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the axes of input and output, which are on the grid of the network, in words of the format."""
    header, network = model.header, model.header.network
    names = ["gray"] if network.channels == 1 else [f"channel_{k + 1}" for k in range(network.channels)]
    classes = [f"class_{value}" for value in header.class_values]
    classes = ["background", "object"] if header.kind == "objects" and len(classes) == 2 else classes
    inputs: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": names}]
    outputs: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": classes}]
    lost = [0 if network.padding == "same" else 2 * context for context in network.geometry.contexts]
    halo = [context if network.padding == "same" else 0 for context in network.geometry.contexts]
    letters, sizes = "zyx"[-len(network.depths) :], zip(_smallest(network), network.geometry.grid, strict=True)
    for k, (axis, (least, grid)) in enumerate(zip(letters, sizes, strict=True)):
        pixel = header.pixel_size_um.get(axis.upper())
        known = {} if pixel is None else {"unit": "micrometer", "scale": pixel / header.scale}
        space = {"type": "space", "id": axis} | known
        inputs.append(space | {"size": {"min": least, "step": grid}})
        size = {"tensor_id": IMAGE, "axis_id": axis, "offset": -lost[k]}
        outputs.append(space | {"size": size} | ({"halo": halo[k]} if halo[k] else {}))
    return inputs, outputs


def _purpose(model: Model) -> str:
    rank = "volumes" if len(model.header.network.depths) == 3 else "images"
    what = "objects" if model.header.kind == "objects" else f"{len(model.header.class_values)} classes"
    return f"U-Net that finds {what} in {rank}, trained with Septum {__version__}"


def _readme(model: Model, settings: ExportSettings) -> str:
    """Return the documentation of the package."""
    header = model.header
    scores = [f"- {name}: {value:.3f}" for name, value in sorted(header.scores.items())] or ["- none"]
    method = {
        "standardize": "The mean of the whole image becomes 0, its deviation 1. Septum computes both after clipping "
        "the darkest and brightest 0.5 % of the pixels, for which the format has no word: an image with hot pixels is "
        "fainter here. A program that normalizes each tile by itself gets another result at every tile.",
        "range": "The smallest value of the whole image becomes 0, the largest 1. A program that normalizes each tile "
        "by itself gets another result at every tile.",
        "common": "The same offset and scale for all images: tiles equal the whole.",
    }[header.normalization.method]
    test = "the noise of the model's own test" if settings.sample is None else f"a part of {settings.sample.name}"
    source = json.dumps(header.objects.model_dump(mode="json"))
    made = header.kind == "objects" or header.lines
    return "\n".join(
        [
            f"# {model_name(settings.model)}",
            "",
            header.describe_release() or _purpose(model),
            "",
            f"Written by Septum {__version__} (`septum export --to bioimageio`). License: {settings.license}. "
            f"The test input is {test}.",
            "",
            "## Validation",
            "",
            "Scores on the validation images of the training, which also chose the weights:",
            "",
            *scores,
            "",
            "## Intensities",
            "",
            method,
            "",
            "## What this package does not do",
            "",
            *(f"- {sentence}" for sentence in left_out(header)),
            *(["", "Objects in two lines of Python, with the settings of this model:", ""] if made else []),
            *(["```python", "from septum.arrays.instances import ObjectSettings, label_objects", ""] if made else []),
            *([f"settings = ObjectSettings.model_validate_json('{source}')"] if made else []),
            *(["labels = label_objects(probabilities[0, 1], settings)", "```"] if made else []),
            "",
        ]
    )


def _sample(frame: Readable, network: UNetSettings) -> NDArray[np.float32]:
    """Return the middle of a frame, ``(1, C, *S)`` float32, mirrored where the network needs more."""
    read = []
    for n, most, least, grid in zip(
        frame.shape[1:], _SAMPLE_SIDES[len(network.depths)], _smallest(network), network.geometry.grid, strict=True
    ):
        side = least + max(0, min(n, most) - least) // grid * grid
        read.append(((n - side) // 2, (n - side) // 2 + side))
    return read_mirrored(frame, read)[None].astype(np.float32)


def draw_cover(image: NDArray[Any], output: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw the image and, beside it, the most probable classes.

    Parameters
    ----------
    image
        ``(1, C, *S)``, any real dtype, raw intensities.
    output
        ``(1, K, *output)`` float32 probabilities, 0 to 1.

    Returns
    -------
    ndarray
        ``(3, Y, 2 X)`` uint8, 0 to 255: of volumes the middle section.
    """
    plane = image[0, 0] if image.ndim == 4 else image[0, 0, image.shape[2] // 2]
    found = output[0, 1] if output.ndim == 4 else output[0, 1, output.shape[2] // 2]
    margins = [(n - m) // 2 for n, m in zip(plane.shape, found.shape, strict=True)]
    plane = plane[tuple(slice(k, n - k) for k, n in zip(margins, plane.shape, strict=True))]
    low, high = np.quantile(plane, [0.01, 0.99])
    gray = np.clip((plane - low) / max(float(high - low), 1e-12), 0, 1)
    left = np.stack([gray] * 3)
    right = np.stack([gray * 0.6 + 0.4 * found, gray * 0.6 + 0.3 * found, gray * 0.6])
    return np.round(255 * np.concatenate([left, np.clip(right, 0, 1)], axis=2)).astype(np.uint8)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _zipped(folder: Path) -> bytes:
    """Return an archive of the files of a folder; the same files give the same bytes."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            entry = zipfile.ZipInfo(path.name, _DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(entry, path.read_bytes())
    return archive.getvalue()


def _yaml(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return the lines of a YAML document of dictionaries, lists and values that JSON can hold."""
    lines: list[str] = []
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            lines += [f"{indent}{key}:", *_yaml(entry, indent + "  ")]
        elif isinstance(entry, list) and entry and isinstance(entry[0], dict):
            lines.append(f"{indent}{key}:")
            for one in entry:
                first, *others = _yaml(one, indent + "    ")
                lines += [f"{indent}  - {first.strip()}", *others]
        else:
            lines.append(f"{indent}{key}: {json.dumps(entry, ensure_ascii=False)}")
    return lines
