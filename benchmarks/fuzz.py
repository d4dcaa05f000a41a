"""Feed damaged files to the readers, guided by coverage: each must give a result or an error in words.

    python -m venv fuzz && fuzz/bin/pip install atheris . && fuzz/bin/python benchmarks/fuzz.py tiff 600

The first argument is ``model``, ``tiff`` or ``nifti``, the second the seconds. A finding ends the run with a traceback
and leaves the input in a file whose name begins with ``crash-``; memory of more than 2 GB is a finding as well.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["septum", "safetensors", "tifffile", "nibabel"]):
    import nibabel
    import numpy as np
    import tifffile

    from septum.errors import SeptumError
    from septum.io import images, model_file, nifti, sealed, tiff  # noqa: F401 - instrumented

_FOLDER = Path(tempfile.mkdtemp(prefix="septum-fuzz-"))


def _reader(read: Callable[[Path], object], suffix: str) -> Callable[[bytes], None]:
    path = _FOLDER / f"input{suffix}"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        try:
            read(path)
        except SeptumError as error:
            assert error.given

    return one


def _seeds(folder: Path) -> None:
    """Write whole files to begin with."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (20, 24), np.uint8)
    model_file.write_model(folder / "a.safetensors", {"w": np.ones((3, 2), np.float32)}, {"seed": 0, "b": [1.5, None]})
    for number, options in enumerate(
        [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"compression": "lzw", "predictor": True}, {"bigtiff": True}]
    ):
        tifffile.imwrite(folder / f"{number}.tif", image, **options)
    tifffile.imwrite(folder / "ome.ome.tif", np.stack([image] * 3), metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "ij.tif", np.stack([image] * 2), imagej=True, metadata={"axes": "ZYX", "spacing": 2.0})
    nibabel.save(nibabel.Nifti1Image(image.astype(np.float32)[..., None], np.eye(4)), folder / "a.nii")
    nibabel.save(nibabel.Nifti2Image(image.astype(np.int16)[..., None], np.eye(4)), folder / "b.nii.gz")


def main() -> None:
    kind, seconds = sys.argv[1], sys.argv[2]
    warnings.simplefilter("ignore")
    suffixes = {"model": ".safetensors", "tiff": ".tif", "nifti": ".nii"}
    read = model_file.read_model if kind == "model" else images.read_image
    corpus = _FOLDER / "corpus"
    corpus.mkdir()
    _seeds(_FOLDER)
    for file in _FOLDER.iterdir():
        if file.name.endswith(suffixes[kind]) or (kind == "nifti" and file.name.endswith(".nii.gz")):
            file.rename(corpus / file.name)
    limits = [
        f"-max_total_time={seconds}",
        "-rss_limit_mb=2048",
        "-max_len=8192",
        "-timeout=20",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], _reader(read, suffixes[kind]))
    os.nice(15)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
