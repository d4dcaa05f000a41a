from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from septum.arrays import geometry

depths = st.integers(0, 6)


def trace_side(side: int, depth: int) -> int | None:
    """Trace one axis through a network without padding; None if a map to be pooled is odd or has no pixel left."""
    for _ in range(depth):
        side -= 4
        if side < 2 or side % 2:
            return None
        side //= 2
    side -= 4
    for _ in range(depth):
        side = 2 * side - 4
    return side if side > 0 else None


@given(depths, st.integers(1, 1500))
@example(1, 18)
def test_closed_formula_equals_the_traced_network(depth: int, side: int) -> None:
    traced = trace_side(side, depth)
    if traced is None:
        assert not geometry.is_valid_input(side, depth)
        with pytest.raises(ValueError, match="does not fit"):
            geometry.output_side(side, depth)
    else:
        assert geometry.is_valid_input(side, depth)
        assert geometry.output_side(side, depth) == traced == side - 2 * geometry.context(depth)


@given(depths, st.integers(1, 2000), st.sampled_from(["valid", "same"]))
def test_next_input_is_the_smallest_valid_one(depth: int, side: int, padding: geometry.Padding) -> None:
    found = geometry.next_input(side, depth, padding)
    smaller = [n for n in range(side, found) if geometry.is_valid_input(n, depth, padding)]
    assert found >= side
    assert geometry.is_valid_input(found, depth, padding)
    assert smaller == []


@given(depths, st.integers(1, 1000))
def test_input_for_output_gives_at_least_the_wanted_pixels(depth: int, wanted: int) -> None:
    side = geometry.input_for_output(wanted, depth)
    assert geometry.output_side(side, depth) >= wanted


def test_contexts_by_depth() -> None:
    assert [geometry.context(d) for d in range(5)] == [2, 8, 20, 44, 92]


def test_padded_context_is_on_the_pooling_grid_and_covers_the_receptive_field() -> None:
    # By hand for depth 1: an even pixel a sees conv pixels a-2..a+2, pooled pixels a/2-1..a/2+1 grown by two more
    # convolutions to a/2-3..a/2+3: a-6..a+7 before pooling, a-8..a+9 in the image; an odd one a-7-2..a+6+2.
    assert geometry.context(1, "same") == 10
    for depth in range(6):
        assert geometry.context(depth, "same") % 2**depth == 0
        assert geometry.context(depth, "same") >= geometry.context(depth, "valid")


def test_axes_of_different_depth() -> None:
    flat = geometry.Geometry((1, 3, 3))
    assert flat.grid == (2, 8, 8)
    assert flat.contexts == (8, 44, 44)
    assert flat.output((20, 92, 100)) == (4, 4, 12)
    assert flat.input_for((5, 4, 5)) == (22, 92, 100)
