"""Tests compute with one thread: networks here are too small for more, and two test runs do not slow each other.

Property tests draw the same examples in each run; SEPTUM_HYPOTHESIS=fresh draws others, in several rounds.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

_unhurried = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fixed", _unhurried, derandomize=True)
settings.register_profile("fresh", _unhurried)
_profile = os.environ.get("SEPTUM_HYPOTHESIS", "fixed")
settings.load_profile(_profile)  # before test modules make settings of their own, which take over what they do not set

_ROUNDS = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each property test several times with fresh examples; many tests set the number of examples themselves."""
    if _profile == "fresh" and is_hypothesis_test(metafunc.function):
        metafunc.fixturenames.append("fresh_round")
        metafunc.parametrize("fresh_round", range(_ROUNDS))


@pytest.fixture(scope="session")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of five images of two touching disks, `images/` and `masks/`; not to be changed."""
    folder = tmp_path_factory.mktemp("disks")
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:44, :44]
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number, name in enumerate("abcde"):
        cy, cx = rng.uniform(14, 28, 2)
        mask = np.where((y - cy) ** 2 + (x - cx) ** 2 < 49, 1, np.where((y - cy) ** 2 + (x - cx - 14) ** 2 < 49, 2, 0))
        image = 100.0 * (mask > 0) + rng.normal(50, 5, mask.shape)
        mask = np.where(mask > 0, mask + 10 * number, 0)  # ids that differ between images: objects, not classes
        np.save(folder / "masks" / f"{name}.npy", mask.astype(np.uint8))
        np.save(folder / "images" / f"{name}.npy", image.astype(np.float32))
    return folder


@pytest.fixture(scope="session")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three images of bright disks, as nuclei are, `images/` and `masks/`; not to be changed."""
    folder, rng = tmp_path_factory.mktemp("nuclei"), np.random.default_rng(2)
    y, x = np.mgrid[:128, :128]
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number, name in enumerate("abc"):
        mask = np.zeros((128, 128), np.uint16)
        for place, (cy, cx) in enumerate((cy, cx) for cy in (20, 64, 108) for cx in (20, 64, 108)):
            dy, dx = rng.integers(-6, 7, 2)
            mask[(y - cy - dy) ** 2 + (x - cx - dx) ** 2 < 90] = 10 * number + place + 1
        image = (120.0 * (mask > 0) + rng.normal(50, 8, mask.shape)).clip(0, 255).astype(np.uint8)
        np.save(folder / "images" / f"{name}.npy", image)
        np.save(folder / "masks" / f"{name}.npy", mask)
    return folder
