"""Give random layouts of data folders to ``check``, ``train``, ``predict`` and ``evaluate``.

    python benchmarks/fuzz_layouts.py --minutes 60 --seed 0

A layout mixes formats, dtypes, ranks, axes, names, numbers in the masks, missing, damaged and additional files. Each
command runs in this process as the command line does. It must leave with 0, 1 or 2 and without a traceback; an error
states what was expected and what to do; no warning of a library reaches the user; nothing unfinished stays behind; and
what goes in is what comes out: each image file belongs to a pair, has a result or a score, or is named. A layout is
made from one number, so ``--seed 123 --count 1`` repeats it; faults end with the seed of their layout.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

Array = NDArray[Any]
SMALL = ["--steps", "2", "--width", "2", "--depth", "1", "--batch", "1", "--device", "cpu"]
LONGEST_S = 60  # of processor time: a busy machine is no fault
EVERYTHING_READ = re.compile(r"\.(tiff?|png|jpe?g|bmp|gif|nii|nii\.gz|npy|zarr)$", re.IGNORECASE)
NOT_READ = re.compile(r"\.(webp|nrrd|mha|czi|h5)$", re.IGNORECASE)
# A number one with a plural, or a value of Python where a word belongs.
WORDS = re.compile(
    r"\b(?<![.,\d])1 (?:images|masks|pairs|steps|objects|pages|files|channels|tiles|blocks|classes|values|stacks|"
    r"predictions|volumes|folders|frames|labels|pixels) (?!x )|\bNone\b|PosixPath|<[a-z]+ object|array\(|\bnp\.\w+\("
)


# -- layouts -----------------------------------------------------------------------------------------------------------


@dataclass
class Layout:
    """A data set on disk: what `check` is given, the folder to predict, that of the masks, and the images in all."""

    data: list[str]
    images: Path
    masks: Path | None
    words: list[str] = field(default_factory=list)


def draw_cells(rng: np.random.Generator, sides: tuple[int, ...], number: int) -> Array:
    """Return boxes that may touch, ``(*S) int32``, numbered from 1."""
    ids = np.zeros(sides, np.int32)
    for k in range(1, number + 1):
        box = tuple(slice(a, a + int(rng.integers(2, 9))) for a in (int(rng.integers(0, max(1, n - 2))) for n in sides))
        ids[box] = np.where(ids[box] == 0, k, ids[box])
    return ids


def draw_image(rng: np.random.Generator, ids: Array, channels: int, dtype: str) -> Array:
    """Return an image ``(C, *S)`` of bright cells with noise."""
    values = 0.2 + 0.5 * (ids > 0) + rng.normal(0, 0.05, (channels, *ids.shape))
    if dtype.startswith("float"):
        image = values.astype(dtype)
        if rng.random() < 0.05:
            image.flat[0] = rng.choice([np.nan, np.inf, -np.inf])
        return image
    most = min(int(np.iinfo(dtype).max), 60000)
    image = (values.clip(0, 1) * most).astype(dtype)
    if rng.random() < 0.05:
        image[...] = 0
    return image


def _classes(rng: np.random.Generator, ids: Array) -> Array:
    return np.where(ids > 0, 1 + ids % int(rng.integers(1, 4)), 0).astype(np.uint8)


def _rims(rng: np.random.Generator, ids: Array) -> Array:
    from scipy.ndimage import grey_dilation, grey_erosion

    rim = grey_dilation(ids, (3,) * ids.ndim) != grey_erosion(ids, (3,) * ids.ndim)
    return np.where(rim, 255, _classes(rng, ids)).astype(np.uint8)


MASKS: dict[str, Callable[[np.random.Generator, Array], Array]] = {
    "ids": lambda rng, ids: ids.astype(str(rng.choice(["uint8", "uint16", "int32", "int64", "float32"]))),
    "0/1": lambda rng, ids: (ids > 0).astype(np.uint8),
    "0/255": lambda rng, ids: ((ids > 0) * 255).astype(np.uint8),
    "inverted": lambda rng, ids: ((ids == 0) * 255).astype(np.uint8),
    "bool": lambda rng, ids: ids > 0,
    "classes": _classes,
    "rims of 255": _rims,
    "background 1": lambda rng, ids: (ids + 1).astype(np.uint16),
    "background -1": lambda rng, ids: (ids - 1).astype(np.int16),
    "only background": lambda rng, ids: np.zeros_like(ids, np.uint8),
    "only objects": lambda rng, ids: np.ones_like(ids, np.uint8),
    "huge ids": lambda rng, ids: np.where(ids > 0, ids.astype(np.int64) + 2**33, 0),
    "probabilities": lambda rng, ids: (ids > 0) * rng.uniform(0.3, 1, ids.shape).astype(np.float32),
    "gray with smooth borders": lambda rng, ids: ((ids > 0) * 200 + rng.integers(0, 40, ids.shape)).astype(np.uint8),
    "one piece each": lambda rng, ids: np.where(ids > 0, 1 + ids % 12, 0).astype(np.uint8),
}


def _write_tiff(path: Path, array: Array, axes: str, rng: np.random.Generator) -> None:
    way = rng.integers(4)
    if array.dtype == np.int64 or array.dtype == bool:
        array = array.astype(np.int32 if array.dtype != bool and array.max() < 2**31 else np.uint8)
    if way == 0:
        tifffile.imwrite(path, array, metadata=None)
    elif way == 1 and "CZ" not in axes and array.dtype.name in ("uint8", "uint16", "float32"):
        tifffile.imwrite(path, array, imagej=True, metadata={"axes": axes})
    elif way == 2:
        tifffile.imwrite(path, array, ome=True, metadata={"axes": axes}, photometric="minisblack")
    else:
        tifffile.imwrite(path, array)


def write(path: Path, array: Array, axes: str, rng: np.random.Generator) -> None:
    """Write an array by the suffix of a name, in one of the ways that programs write this format."""
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
    if suffix in (".tif", ".tiff"):
        _write_tiff(path, array, axes, rng)
    elif suffix == ".npy":
        np.save(path, np.moveaxis(array, 0, -1) if axes[0] == "C" and rng.random() < 0.5 else array)
    elif suffix in (".nii", ".nii.gz"):
        import nibabel

        plain = array.T.astype(np.float32 if array.dtype.kind == "f" else np.int32 if array.max() < 2**31 else np.int64)
        kwargs = {"dtype": np.int64} if plain.dtype == np.int64 else {}
        affine = np.diag([*rng.choice([-1.0, 1.0], 2), 1.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(plain, affine, **kwargs), path)
    elif suffix == ".zarr":
        from septum.io.files import write_image

        write_image(path, array.astype(np.int32) if array.dtype == np.int64 else array, axes=axes)
    else:
        _write_picture(path, array, axes)


def _write_picture(path: Path, array: Array, axes: str) -> None:
    from PIL import Image

    if axes[0] == "C":
        array = np.moveaxis(array[[0, min(1, len(array) - 1), len(array) - 1]], 0, -1)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, posinf=1, neginf=0).clip(0, 1) * 255
    if array.dtype != np.uint16 or path.suffix != ".png" or array.ndim == 3:
        array = (array // 257 if array.dtype == np.uint16 and array.max() > 255 else array).astype(np.uint8)
    Image.fromarray(array).save(path)


PLANES = [".tif", ".png", ".tiff", ".npy", ".bmp", ".jpg", ".gif", ".nii.gz", ".zarr"]
VOLUMES = [".tif", ".nii.gz", ".nii", ".npy", ".zarr"]
NAMES: list[Callable[[int], str]] = [
    lambda n: f"c{n}",
    lambda n: f"{n:03d}",
    lambda n: f"Müller {n}",
    lambda n: "abcdefgh"[n] * 3,
    lambda n: f"t{n:03d}",
    lambda n: f"a [x={n},y=0]",
    lambda n: f"x.{n}.y",
    lambda n: "n" * 200 + str(n),
]
ENDINGS = ["", "_mask", "_label", "-labelled", "_cp_masks", "_seg", "_gt", "_Simple Segmentation"]


def make_layout(root: Path, rng: np.random.Generator) -> Layout:
    """Write a random data set below `root`."""
    rank = 3 if rng.random() < 0.25 else 2
    frames = int(rng.integers(2, 5)) if rng.random() < 0.15 else 0
    channels = int(rng.choice([1, 1, 1, 1, 2, 3, 3, 4]))
    number, name = int(rng.integers(1, 6)), NAMES[rng.integers(len(NAMES))]
    ending = ENDINGS[rng.integers(len(ENDINGS))] if rng.random() < 0.5 else ""
    several, suffixes = rng.random() < 0.2, PLANES if rank == 2 and not frames else VOLUMES
    image_suffix, mask_suffix = (str(rng.choice(suffixes)) for _ in range(2))
    dtype = str(rng.choice(["uint8", "uint8", "uint16", "int16", "uint32", "float32", "float64"]))
    mask_kind = str(rng.choice(list(MASKS)))
    arrangement = str(rng.choice(["roles", "roles", "roles", "two", "side", "subfolders", "objects", "parts", "files"]))
    images, masks = _folders(root, arrangement, rng)
    data = [str(images), str(masks)] if arrangement == "two" else [str(root)]
    layout = Layout(data, images, masks, [arrangement, f"{rank}D", f"{channels}C", dtype, mask_kind, image_suffix])
    for n in range(number):
        sides = tuple(int(rng.integers(6, 40)) if rng.random() < 0.3 else 24 for _ in range(rank))
        ids = np.stack([draw_cells(rng, sides, int(rng.integers(1, 7))) for _ in range(max(1, frames))])
        image = np.stack([draw_image(rng, page, channels, dtype) for page in ids], axis=1)
        kind = str(rng.choice(list(MASKS))) if rng.random() < 0.08 else mask_kind
        mask = np.stack([MASKS[kind](rng, page) for page in ids])
        axes = "ZYX"[-rank:]
        if not frames:
            image, mask = image[:, 0], mask[0]
        axes = ("T" if frames else "") + axes
        if channels == 1 or (frames and rng.random() < 0.5):
            image = image[0]
        image_axes = axes if image.ndim == len(axes) else "C" + axes
        if image_axes[:2] == "CT":
            image, image_axes = image.swapaxes(0, 1), "T" + "C" + axes[1:]
        if rng.random() < 0.06:
            mask = mask[..., : max(1, mask.shape[-1] - int(rng.integers(1, 4)))]
        if several:
            image_suffix, mask_suffix = (str(rng.choice(suffixes)) for _ in range(2))
        _write_pair(
            layout, arrangement, name(n), ending, (image, image_axes), (mask, axes), image_suffix, mask_suffix, rng
        )
    if arrangement == "files":
        _as_two_files(layout, root)
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        _disturb(layout, rng)
    return layout


def _folders(root: Path, arrangement: str, rng: np.random.Generator) -> tuple[Path, Path]:
    words = [("images", "masks"), ("imagesTr", "labelsTr"), ("img", "gt"), ("raw", "labels"), ("Images", "Annotations")]
    first, second = words[rng.integers(len(words))] if arrangement != "two" else ("left", "right")
    if arrangement == "side" or arrangement == "objects":
        first = second = "."
    for folder in (root / first, root / second):
        folder.mkdir(parents=True, exist_ok=True)
    return root / first, root / second


def _write_pair(
    layout: Layout,
    arrangement: str,
    stem: str,
    ending: str,
    image: tuple[Array, str],
    mask: tuple[Array, str],
    image_suffix: str,
    mask_suffix: str,
    rng: np.random.Generator,
) -> None:
    assert layout.masks is not None
    images, masks = layout.images, layout.masks
    if arrangement in ("subfolders", "parts"):
        part = str(rng.choice(["p1", "p2", "train"]))
        images, masks = images / part, masks / part
    if arrangement == "objects":
        images, masks = images / stem / "images", masks / stem / "masks"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    if arrangement == "side":
        ending = ending or "_mask"
    decomposed = rng.random() < 0.1
    write(images / f"{stem}{image_suffix}", *image, rng)
    mask_stem = unicodedata.normalize("NFD" if decomposed else "NFC", stem)
    if arrangement == "objects":
        for value in np.unique(mask[0])[:4]:
            if value:
                write(
                    masks / f"o{value}.png" if mask[0].ndim == 2 else masks / f"o{value}.tif",
                    (mask[0] == value) * np.uint8(255),
                    mask[1],
                    rng,
                )
        return
    write(masks / f"{mask_stem}{ending}{mask_suffix}", *mask, rng)


def _as_two_files(layout: Layout, root: Path) -> None:
    assert layout.masks is not None
    first, second = sorted(layout.images.iterdir())[:1], sorted(layout.masks.iterdir())[:1]
    layout.data = [str(p) for p in (*first, *second)]


def _disturb(layout: Layout, rng: np.random.Generator) -> None:
    """Remove, add, damage or rename files."""
    files = sorted(p for p in images_below(layout.images) | images_below(layout.masks or layout.images))
    if not files:
        return
    victim, folder = files[rng.integers(len(files))], layout.images if rng.random() < 0.5 else layout.masks
    assert folder is not None
    named = set(layout.data)
    way = str(
        rng.choice(
            [
                "remove",
                "empty",
                "cut",
                "text",
                "thumbs",
                "foreign",
                "hidden",
                "link",
                "folder",
                "suffix",
                "copy",
                "upper",
                "other-shape",
                "json",
            ]
        )
    )
    layout.words.append(way)
    if way == "remove" and str(victim) not in named:
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    elif way == "empty" and victim.is_file():
        victim.write_bytes(b"")
    elif way == "cut" and victim.is_file():
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    elif way == "text":
        (folder / "readme.txt").write_text("notes")
    elif way == "thumbs":
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf")
    elif way == "foreign":
        (folder / f"new{rng.choice(['.webp', '.nrrd', '.czi', '.h5'])}").write_bytes(b"RIFF0000WEBP")
    elif way == "hidden" and victim.is_file():
        (folder / f"._{victim.name}"[:250]).write_bytes(b"\0\5\x16\7")
    elif way == "link":
        (folder / "gone.tif").unlink(missing_ok=True)
        (folder / "gone.tif").symlink_to(folder / "nothing.tif")
    elif way == "folder":
        (folder / "deep" / "er").mkdir(parents=True, exist_ok=True)
    elif way == "suffix" and victim.is_file() and str(victim) not in named:
        victim.rename(victim.with_suffix(str(rng.choice([".png", ".tif", ".npy", ".jpg"]))))
    elif way == "copy" and victim.is_file():
        shutil.copy(victim, victim.with_name("copy of " + victim.name[-100:]))
    elif way == "upper" and victim.is_file() and str(victim) not in named:
        victim.rename(victim.with_name(victim.name.upper()))
    elif way == "other-shape":
        tifffile.imwrite(folder / "other.tif", rng.integers(0, 255, (3, 11, 13, 2), np.uint8))
    elif way == "json":
        (folder / "shapes.json").write_text('{"shapes": [], "imagePath": "c0.tif", "version": "5"}')


def images_below(folder: Path) -> set[Path]:
    """Return the files and Zarr folders below a folder that are named as images, without hidden ones."""
    found: set[Path] = set()
    for base, folders, files in os.walk(folder):
        zarrs = [f for f in folders if f.endswith(".zarr")]
        folders[:] = [f for f in folders if f not in zarrs and not f.startswith(".")]
        found |= {Path(base, f) for f in (*files, *zarrs) if EVERYTHING_READ.search(f) and not f.startswith(".")}
    return {p for p in found if p.exists()}


# -- commands ----------------------------------------------------------------------------------------------------------


class TooLongError(Exception):
    """A command took too much time of the processor."""


@dataclass
class Outcome:
    """Exit code, output and errors of a command; `fault` is why it is none that a user may meet."""

    code: int
    out: str
    err: str
    fault: str = ""


def run(arguments: list[str]) -> Outcome:
    """Run a command in this process as the command line does."""
    from septum.cli.main import main
    from septum.errors import SeptumWarning

    out, err, code, fault = io.StringIO(), io.StringIO(), 0, ""
    with warnings.catch_warnings(record=True) as seen, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.simplefilter("always")
        signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
        try:
            main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else -1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            code, fault = -1, "".join(traceback.format_exception(error)[-6:])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    said = out.getvalue() + err.getvalue()
    strange = [w for w in seen if not issubclass(w.category, SeptumWarning)]
    if not fault and code not in (0, 1, 2):
        fault = f"exit code {code}: {said[-300:]}"
    if not fault and strange:
        seen_at = f"{strange[0].filename}:{strange[0].lineno}"
        fault = f"warning of a library: {strange[0].category.__name__} {strange[0].message} ({seen_at})"
    if not fault and code == 2 and "error: " in said and "--json" not in arguments and "\nexpected: " not in said:
        fault = "" if arguments[0] == "check" else f"an error without what was expected: {said[-400:]}"
    if not fault and (odd := WORDS.search(said)):
        fault = f"words: {said[max(0, odd.start() - 80) : odd.end() + 60]!r}"
    return Outcome(code, out.getvalue(), err.getvalue(), fault)


def unnamed(said: str) -> int:
    """Return how many files a text counts without naming them."""
    words = re.findall(r"passed over (\d+)|and (\d+) more|(\d+) masks? of images", said)
    return sum(int(next(filter(None, groups))) for groups in words)


def lost_in_check(layout: Layout) -> str:
    """Return the image files that belong to no pair and are not named by a check; ``""`` if it refuses the data."""
    from septum.check.check import check
    from septum.errors import SeptumError

    try:
        report = check([Path(d) for d in layout.data])
    except SeptumError:
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    pairing = report.pairing
    known: set[Path] = {p for pair in pairing.pairs for p in (pair.image, pair.mask, pair.gold, pair.field) if p}
    known |= {file for issue in report.issues for file in issue.files}
    there = set(map(Path, layout.data)) if Path(layout.data[0]).is_file() else set()
    for folder in layout.data if not there else ():
        there |= images_below(Path(folder))
    lost = {p for p in there if not any(q == p or q in p.parents for q in known)}
    named = "\n".join(report.lines())
    lost = {p for p in lost if p.name not in named}
    counted = len(report.pairs) + len(report.left_out)
    if counted != len(pairing.pairs):
        return f"{len(pairing.pairs)} pairs, {counted} of them used or left out"
    return ", ".join(sorted(str(p) for p in lost)) if len(lost) > unnamed(named) else ""


def lost_in_prediction(layout: Layout, outcome: Outcome, out: Path) -> str:
    """Return images without a result that are not named, results that are not there, and what was left unfinished."""
    try:
        document = json.loads(outcome.out)
    except ValueError:
        return f"no JSON document with exit code {outcome.code}: {outcome.out[-200:]}" if outcome.code < 2 else ""
    done = {Path(d["path"]): Path(d["output"]) for d in document["done"]}
    failed = {Path(f["path"]) for f in document["failed"]}
    said = "\n".join(document["warnings"]) + outcome.err
    lost = [p for p in images_below(layout.images) if p not in done and p not in failed and p.name not in said]
    if len(lost) > unnamed(said):
        return f"neither predicted nor named: {lost}"
    if len(set(done.values())) != len(done) or not all(p.exists() for p in done.values()):
        return f"results that are not there or written twice: {done}"
    unfinished = [p for p in out.rglob("*") if "unfinished" in p.name]
    return f"unfinished: {unfinished}" if unfinished else ""


def lost_in_scores(predicted: Path, truth: Path, outcome: Outcome) -> str:
    """Return predictions and truths that are neither scored nor named nor counted."""
    try:
        document = json.loads(outcome.out)
    except ValueError:
        return f"no JSON document with exit code {outcome.code}: {outcome.out[-200:]}" if outcome.code < 2 else ""
    result = document["results"][0]
    scored = {i[role] for i in result["images"] for role in ("predicted", "truth")}
    said = "\n".join([*(f"{f['name']} {f['message']}" for f in result["failures"]), *document["notes"]])
    lost = []
    for role, folder in (("prediction", predicted), ("truth", truth)):
        for path in images_below(folder):
            stem = re.sub(r"\.(nii\.gz|ome\.zarr|\w+)$", "", path.name)
            if str(path) not in scored and stem not in said:
                lost.append(f"{role} {path}")
    return ", ".join(lost) if len(lost) > unnamed(said) else ""


# -- the run -----------------------------------------------------------------------------------------------------------


def faults_of(seed: int, root: Path, models: dict[str, Path], counts: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield (command, fault) of the layout of a seed."""
    rng = np.random.default_rng(seed)
    layout = make_layout(root / "data", rng)
    axes = ["--axes", str(rng.choice(["ZYX", "TYX", "CYX", "YX", "YXC", "ZCYX"]))] if rng.random() < 0.1 else []
    more = [*axes, *(["--kind", str(rng.choice(["objects", "classes"]))] if rng.random() < 0.1 else [])]

    def command(*arguments: str) -> Outcome:
        outcome = run(list(arguments))
        counts[f"{arguments[0]} {outcome.code}"] += 1
        return outcome

    checked = command("check", *layout.data, *more, *(["--json"] if rng.random() < 0.3 else []))
    yield f"check {' '.join(more)}", checked.fault
    if not axes:
        yield "check", lost_in_check(layout)
    if rng.random() < 0.3:
        fixed = command("check", *layout.data, *more, "--fix", str(root / "fixed"))
        yield "check --fix", fixed.fault
    run_folder = root / "run"
    trained = command("train", *layout.data, "-o", str(run_folder), *SMALL, *more)
    yield f"train {' '.join(more)}", trained.fault
    if checked.code == 2 and trained.code == 0:
        yield "train", f"trains what the check refuses: {checked.out}"
    if checked.code < 2 and trained.code == 2 and not re.search("too small|at least", trained.err):
        yield "train", f"refuses what the check accepts: {trained.err[-500:]}"
    own = run_folder / "model.safetensors"
    model = own if own.exists() else models[str(rng.choice(list(models)))]
    results = root / "results"
    predicted = command("predict", str(model), str(layout.images), "-o", str(results), *axes, "--json")
    yield f"predict {'own' if own.exists() else model.stem} {' '.join(axes)}", predicted.fault
    if not axes:
        yield "predict", lost_in_prediction(layout, predicted, results)
    if results.exists() and layout.masks is not None:
        scored = command("evaluate", str(results), str(layout.masks), *axes, "--json")
        yield f"evaluate {' '.join(axes)}", scored.fault
        if not axes and scored.code < 2 and layout.masks != layout.images:
            yield "evaluate", lost_in_scores(results, layout.masks, scored)


def make_models(folder: Path) -> dict[str, Path]:
    """Train a model of gray images, of color, of two channels and of volumes."""
    from septum import train

    models, rng = {}, np.random.default_rng(0)
    for name, channels, rank in (("gray", 1, 2), ("color", 3, 2), ("two", 2, 2), ("volumes", 1, 3)):
        ids = [draw_cells(rng, (24,) * rank, 5) for _ in range(3)]
        images = [draw_image(rng, i, channels, "uint8") for i in ids]
        out = folder / name
        train(
            [i[0] if channels == 1 else i for i in images],
            ids,
            out=out,
            steps=2,
            width=2,
            depth=1,
            batch=1,
            device="cpu",
            verbose=False,
        )
        models[name] = out / "model.safetensors"
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first layout; the others follow")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="layouts at most")
    parser.add_argument("--keep", action="store_true", help="keep the layouts with faults")
    options = parser.parse_args()
    faulthandler.enable()

    def too_long(*_: object) -> None:
        raise TooLongError(f"longer than {LONGEST_S} s")

    signal.signal(signal.SIGPROF, too_long)
    base = Path(tempfile.mkdtemp(prefix="septum-layouts-"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = make_models(base)
    counts: Counter[str] = Counter()
    faults, layouts, start, seed = 0, 0, time.monotonic(), options.seed
    while time.monotonic() - start < 60 * options.minutes and layouts < options.count:
        root, faulty = base / str(seed), False
        (root / "data").mkdir(parents=True)
        for where, fault in faults_of(seed, root, models, counts):
            if fault:
                faults, faulty = faults + 1, True
                print(f"seed {seed}: {where}: {fault}", flush=True)
        if not (faulty and options.keep):
            shutil.rmtree(root)
        seed, layouts = seed + 1, layouts + 1
    codes = ", ".join(f"{name}: {n}" for name, n in sorted(counts.items()))
    minutes = (time.monotonic() - start) / 60
    print(
        f"{layouts} layouts (seeds {options.seed} to {seed - 1}), {sum(counts.values())} commands in {minutes:.1f} min"
    )
    print(f"command and exit code: {codes}")
    print(f"{faults} faults")
    if not options.keep:
        shutil.rmtree(base)
    raise SystemExit(min(faults, 1))


if __name__ == "__main__":
    main()
