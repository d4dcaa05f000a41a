from __future__ import annotations

import numpy as np
import pytest

from septum.axes import canonical, relative_spacing, spatial
from septum.errors import UsageError


@pytest.mark.parametrize(
    ("axes", "expected", "permutation"),
    [
        ("YX", "CYX", (0, 1)),
        ("XYC", "CYX", (2, 1, 0)),
        ("ZYXC", "CZYX", (3, 0, 1, 2)),
        ("CTZYX", "TCZYX", (1, 0, 2, 3, 4)),
    ],
)
def test_canonical_axes_and_permutation(axes: str, expected: str, permutation: tuple[int, ...]) -> None:
    assert canonical(axes) == (expected, permutation)
    sides = {axis: 2 + i for i, axis in enumerate("TCZYX")}
    moved = np.zeros([sides[a] for a in axes]).transpose(permutation)
    assert moved.shape == tuple(sides[a] for a in expected if a in axes)


@pytest.mark.parametrize("axes", ["", "Y", "YY", "YXQ", "CZX", "yx"])
def test_unknown_repeated_or_missing_axes_are_refused(axes: str) -> None:
    with pytest.raises(ValueError, match="axes"):
        canonical(axes)


def test_spatial_axes() -> None:
    assert [spatial(axes) for axes in ("CYX", "CZYX", "TCYX", "TCZYX")] == ["YX", "ZYX", "YX", "ZYX"]


def test_relative_spacing() -> None:
    assert relative_spacing(None, 3) == (1.0, 1.0, 1.0)
    assert relative_spacing((2.0, 0.5, 0.5), 3) == (4.0, 1.0, 1.0)
    for wrong in ((1.0, 1.0), (1.0, 0.0, 1.0), (1.0, float("inf"), 1.0), (1.0, float("nan"), 1.0)):
        with pytest.raises(UsageError, match="spacing"):
            relative_spacing(wrong, 3)
