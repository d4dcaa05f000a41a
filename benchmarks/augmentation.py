"""Time to augment one 572 tile (image 572, label and weight 388) on one thread, beside the libraries in use.

Each contestant rotates by any angle, deforms elastically (3 x 3 vectors of 10 px if the library can) and changes
brightness and contrast, and draws its random numbers. Contestants take turns, so that all see the same machine.

The peers live in an environment of their own; those that are missing are named in the result::

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch numpy scipy pydantic opencv-python-headless elasticdeform monai kornia \
        batchgenerators batchgeneratorsv2 albumentations torchio
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=src /tmp/peers/bin/python benchmarks/augmentation.py

(elasticdeform's wheel is built for NumPy 1; with NumPy 2 install it with ``--no-binary elasticdeform``.)
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from septum.nn.augment import AugmentSettings, draw, training_tile
from septum.nn.spatial import cubic_matrix
from septum.seeding import generator

TILE, OUTPUT, SIDE, ROUNDS = 572, 388, 700, 11
CROP = slice((TILE - OUTPUT) // 2, (TILE + OUTPUT) // 2)
IMAGE = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
LABEL = (np.random.default_rng(1).random((SIDE, SIDE)) < 0.5).astype(np.uint8)
WEIGHT = np.random.default_rng(2).random((SIDE, SIDE), dtype=np.float32)
MIDDLE = (slice((SIDE - TILE) // 2, (SIDE + TILE) // 2),) * 2

Contestant = Callable[[int], object]


def gray(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    factor, summand = rng.uniform(0.9, 1.1), rng.uniform(-0.1, 0.1)
    return (values - 0.5) * factor + 0.5 + summand


def septum(settings: AugmentSettings) -> Contestant:
    image, label, weight = torch.from_numpy(IMAGE)[None], torch.from_numpy(LABEL), torch.from_numpy(WEIGHT)

    def run(index: int) -> object:
        rng = generator(0, "augment", 0, index)
        drawn = draw(settings, rng, center=(SIDE // 2, SIDE // 2), tile=(TILE, TILE))
        return training_tile(image, label, weight, drawn, tile=(TILE, TILE), output=(OUTPUT, OUTPUT))

    return run


def scipy() -> Contestant:
    from scipy.ndimage import map_coordinates

    weights = cubic_matrix(TILE, TILE / 2, 3).astype(np.float32)
    offset = (np.arange(TILE) - TILE // 2).astype(np.float32)

    def run(index: int) -> object:
        rng = np.random.default_rng(index)
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        coords = weights @ rng.normal(0, 10, (2, 3, 3)).astype(np.float32) @ weights.T + np.float32(SIDE / 2)
        coords[0] += c * offset[:, None] - s * offset
        coords[1] += s * offset[:, None] + c * offset
        x = gray(map_coordinates(IMAGE, coords, order=1, mode="mirror"), rng)
        inner = coords[:, CROP, CROP]
        return (
            x,
            map_coordinates(LABEL, inner, order=0, mode="mirror"),
            map_coordinates(WEIGHT, inner, order=1, mode="mirror"),
        )

    return run


def opencv() -> Contestant:
    import cv2

    cv2.setNumThreads(1)
    weights = cubic_matrix(TILE, TILE / 2, 3).astype(np.float32)
    offset = (np.arange(TILE) - TILE // 2).astype(np.float32)

    def run(index: int) -> object:
        rng = np.random.default_rng(index)
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        y, x = weights @ rng.normal(0, 10, (2, 3, 3)).astype(np.float32) @ weights.T + np.float32(SIDE / 2)
        y += c * offset[:, None] - s * offset
        x += s * offset[:, None] + c * offset
        image = gray(cv2.remap(IMAGE, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), rng)
        y, x = y[CROP, CROP].copy(), x[CROP, CROP].copy()
        label = cv2.remap(LABEL, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
        return image, label, cv2.remap(WEIGHT, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    return run


def elasticdeform() -> Contestant:
    import elasticdeform as peer

    inner = (slice((SIDE - OUTPUT) // 2, (SIDE + OUTPUT) // 2),) * 2

    def run(index: int) -> object:
        rng = np.random.default_rng(index)
        vectors, angle = rng.normal(0, 10, (2, 3, 3)), rng.uniform(0, 360)
        x = peer.deform_grid(IMAGE, vectors, order=1, mode="mirror", crop=MIDDLE, rotate=angle)
        rest = peer.deform_grid([LABEL, WEIGHT], vectors, order=[0, 1], mode="mirror", crop=inner, rotate=angle)
        return gray(x, rng), *rest

    return run


def monai() -> Contestant:
    from monai.transforms import Compose, Rand2DElasticd, RandAdjustContrastd, RandShiftIntensityd

    keys = ["image", "label", "weight"]
    transform = Compose(
        [
            Rand2DElasticd(
                keys,
                spacing=(TILE / 2, TILE / 2),
                magnitude_range=(10, 10),
                spatial_size=(TILE, TILE),
                prob=1.0,
                rotate_range=np.pi,
                mode=["bilinear", "nearest", "bilinear"],
                padding_mode="reflection",
            ),
            RandShiftIntensityd(["image"], offsets=0.1, prob=1.0),
            RandAdjustContrastd(["image"], gamma=(0.9, 1.1), prob=1.0),
        ]
    )
    data = {"image": torch.from_numpy(IMAGE)[None]}
    data |= {"label": torch.from_numpy(LABEL)[None], "weight": torch.from_numpy(WEIGHT)[None]}
    return lambda index: transform(dict(data))


def kornia() -> Contestant:
    import kornia.augmentation as peer

    transform = peer.AugmentationSequential(
        peer.RandomRotation(180.0, p=1.0),
        peer.RandomElasticTransform(p=1.0, padding_mode="reflection"),
        peer.RandomBrightness((0.9, 1.1), p=1.0),
        peer.RandomContrast((0.9, 1.1), p=1.0),
        data_keys=["input", "mask", "mask"],
    )
    tensors = [torch.from_numpy(a[MIDDLE].astype(np.float32))[None, None] for a in (IMAGE, LABEL, WEIGHT)]
    return lambda index: transform(*tensors)


def batchgeneratorsv2() -> Contestant:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

    transform = ComposeTransforms(
        [
            SpatialTransform(
                (TILE, TILE),
                patch_center_dist_from_border=0,
                random_crop=False,
                p_elastic_deform=1.0,
                elastic_deform_scale=(0.2, 0.2),
                elastic_deform_magnitude=(0.1, 0.1),
                p_rotation=1.0,
                rotation=(-np.pi, np.pi),
                mode_seg="nearest",
                padding_mode_image="reflection",
            ),
            MultiplicativeBrightnessTransform((0.9, 1.1), synchronize_channels=True),
            ContrastTransform((0.9, 1.1), preserve_range=True, synchronize_channels=True),
        ]
    )
    data = {"image": torch.from_numpy(IMAGE)[None], "segmentation": torch.from_numpy(LABEL)[None].to(torch.int16)}
    data |= {"regression_target": torch.from_numpy(WEIGHT)[None]}
    return lambda index: transform(**data)


def albumentations() -> Contestant:
    import albumentations as peer
    import cv2

    cv2.setNumThreads(1)
    transform = peer.Compose(
        [
            peer.Affine(rotate=(-180, 180), border_mode=cv2.BORDER_REFLECT_101, p=1.0),
            peer.ElasticTransform(alpha=300, sigma=50, border_mode=cv2.BORDER_REFLECT_101, p=1.0),
            peer.RandomBrightnessContrast(0.1, 0.1, p=1.0),
        ]
    )
    image, label, weight = (a[MIDDLE].copy() for a in (IMAGE, LABEL, WEIGHT))
    return lambda index: transform(image=image, masks=[label, weight])


def torchio() -> Contestant:
    import torchio as peer

    def volume(kind: type, values: np.ndarray) -> object:
        return kind(tensor=torch.from_numpy(values[MIDDLE].copy())[None, :, :, None])

    subject = peer.Subject(
        image=volume(peer.ScalarImage, IMAGE),
        label=volume(peer.LabelMap, LABEL),
        weight=volume(peer.ScalarImage, WEIGHT),
    )
    transform = peer.Compose(
        [
            peer.RandomAffineElasticDeformation(
                affine_kwargs={"scales": 0, "degrees": (0, 0, 0, 0, -180, 180)},
                elastic_kwargs={"num_control_points": (5, 5, 4), "max_displacement": (20, 20, 0), "locked_borders": 0},
            ),
            peer.RandomGamma((-0.1, 0.1)),
        ]
    )
    return lambda index: transform(subject)


CONTESTANTS: dict[str, tuple[Callable[[], Contestant], str]] = {
    "septum, paper": (lambda: septum(AugmentSettings.paper()), "one gather; borders mirrored"),
    "septum, fiji": (lambda: septum(AugmentSettings.fiji()), "one gather; gray value curve"),
    "septum, auto": (lambda: septum(AugmentSettings.auto()), "also scale, mirrors, gamma, noise, blur"),
    "scipy": (scipy, "our field in numpy, map_coordinates three times"),
    "opencv": (opencv, "our field in numpy, remap three times: coordinates rounded to 1/32 px"),
    "elasticdeform": (elasticdeform, "two calls (572 and 388), one gather"),
    "monai": (monai, "Rand2DElastic, one gather, labels and weights at 572"),
    "kornia": (kornia, "two interpolations; noise blurred by 63 x 63 instead of 3 x 3 vectors"),
    "batchgeneratorsv2": (batchgeneratorsv2, "one gather; noise blurred instead of 3 x 3 vectors"),
    "albumentations": (albumentations, "two interpolations, coordinates rounded to 1/32 px; blurred noise"),
    "torchio": (torchio, "one resampling by ITK, B-spline of 5 x 5 points"),
}


def version(name: str) -> str:
    package = {"opencv": "opencv-python-headless"}.get(name, name)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # albumentations asks the network for news otherwise
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    torch.set_num_threads(1)
    ready: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    for name, (make, _) in CONTESTANTS.items():
        try:
            ready[name] = make()
            ready[name](0)
            ready[name](1)
        except (ImportError, KeyError, AttributeError) as error:
            missing[name] = f"{type(error).__name__}: {error}"
    times: dict[str, list[float]] = {name: [] for name in ready}
    for index in range(ROUNDS):
        for name, run in ready.items():
            start = time.perf_counter()
            run(index)
            times[name].append(1e3 * (time.perf_counter() - start))
    fastest = statistics.median(times["septum, paper"])
    rows = [
        {
            "name": name,
            "version": version(name),
            "median_ms": round(statistics.median(values), 2),
            "min_ms": round(min(values), 2),
            "max_ms": round(max(values), 2),
            "times_septum": round(statistics.median(values) / fastest, 1),
            "what": CONTESTANTS[name][1],
        }
        for name, values in times.items()
    ]
    result = {
        "what": f"image {TILE}, label and weight {OUTPUT}: rotation, elastic deformation, gray values; one thread",
        "rounds": ROUNDS,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rows": rows,
        "missing": missing,
    }
    path = Path(__file__).parent / "results" / "augmentation.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(f"{row['name']:18} {row['median_ms']:8.2f} ms  ({row['min_ms']:.2f} to {row['max_ms']:.2f})")
    for name, why in missing.items():
        print(f"{name:18} missing: {why}")


if __name__ == "__main__":
    main()
