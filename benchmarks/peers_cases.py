"""Training cases and inputs for the programs of benchmarks/peers.py: one TIFF a channel, which all of them read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import ObjectSettings
from septum.arrays.targets import class_target, object_target, separate_touching
from septum.check.check import check
from septum.check.images import fill_holes, match_channels
from septum.check.samples import load_samples
from septum.evaluation.candidates import candidate_columns
from septum.io.files import list_images, read_image, write_image
from septum.io.formats import image_stem
from septum.pairing.sample import Sample, evenly_chosen
from septum.training.model_selection import CandidateColumns, tune_objects

TUNED_ON = 12


def write_cases(data: Path, cases: Path, *, kind: Literal["objects", "classes"]) -> dict[str, Sample]:
    """Write the training and test images of a set, unless that is done.

    Parameters
    ----------
    data
        Folder with ``train/images``, ``train/masks`` and ``test/images``.
    cases
        Folder to write: ``images``, ``labels`` (objects or classes), ``inside`` (of objects: 1 inside, with a pixel
        of 0 between touching ones), ``tuning`` (copies of some of the images), ``inputs`` (test images), ``job.json``.
    kind
        What the masks hold.

    Returns
    -------
    dict
        The images of ``tuning`` by their names.
    """
    report = check([data / "train"], kind=kind)
    samples = {f"case_{count:04d}": sample for count, sample in enumerate(load_samples(report), start=1)}
    names = list(samples)
    tuning = [names[i] for i in evenly_chosen(len(names), TUNED_ON)]
    if not (cases / "job.json").exists():
        shutil.rmtree(cases, ignore_errors=True)
        for folder in ("images", "labels", "inside", "tuning", "inputs"):
            (cases / folder).mkdir(parents=True)
        for name, sample in samples.items():
            write_channels(cases / "images" / name, sample.image)
            if name in tuning:
                write_channels(cases / "tuning" / name, sample.image)
            label = sample.mask.clip(0) if kind == "objects" else class_target(sample.mask)
            write_label(cases / "labels" / f"{name}.tif", label)
            if kind == "objects":
                write_label(cases / "inside" / f"{name}.tif", object_target(separate_touching(sample.mask)) == 1)
        for path in list_images([data / "test" / "images"]):
            frame = match_channels(fill_holes(read_image(path).array), report.rules.channels)
            write_channels(cases / "inputs" / image_stem(path), frame)
        job = {
            "kind": kind,
            "channels": report.rules.channels,
            "axes": next(iter(samples.values())).mask.ndim,
            "classes": 2 if kind == "objects" else 1 + max(int(s.mask.max()) for s in samples.values()),
        }
        (cases / "job.json").write_text(json.dumps(job) + "\n")
    return {name: samples[name] for name in tuning}


def write_channels(path: Path, image: NDArray[Any]) -> None:
    """Write ``(C, *S)`` as one float TIFF a channel."""
    for number, channel in enumerate(image):
        array = channel.astype(np.float32)
        write_image(path.with_name(f"{path.name}_{number:04d}.tif"), array, axes="ZYX"[-array.ndim :])


def write_label(path: Path, label: NDArray[Any]) -> None:
    """Write ``(*S)`` as uint16."""
    write_image(path, label.astype(np.uint16), axes="ZYX"[-label.ndim :])


def tune(found: Path, samples: dict[str, Sample]) -> ObjectSettings:
    """Tune how probabilities become objects as Septum does, on training images: a peer holds none out."""
    maps = {n: np.load(found / f"{n}.npy", allow_pickle=False).astype(np.float16) for n in samples}

    def measure(choices: Sequence[ObjectSettings], again: Collection[int]) -> CandidateColumns:
        return {i: candidate_columns(samples[n], maps[n], choices) for i, n in enumerate(samples)}

    return tune_objects(measure, list(samples.values()))
