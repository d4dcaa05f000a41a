from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.jobs.load import Sample
from septum.jobs.split import hold_out, split_sentence, with_every_class


def _samples(*groups: tuple[str, int]) -> list[Sample]:
    empty = np.zeros((4, 4), np.int32)
    return [
        Sample(f"{group}{i}", group, i, empty[None].astype(np.float32), empty, None, None)
        for group, count in groups
        for i in range(count)
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 12)), min_size=1, max_size=3, unique_by=lambda g: g[0]
    )
)
def test_every_image_is_on_one_side_and_one_is_held_out(groups: list[tuple[str, int]]) -> None:
    samples = _samples(*groups)
    train, held_out = hold_out(samples, seed=0)
    assert sorted(train + held_out) == list(range(len(samples)))
    assert len(train) >= 1
    assert (len(held_out) >= 1) == (len(samples) > 1)


def test_the_last_fifth_of_a_stack_is_held_out() -> None:
    samples = _samples(("stack", 30))
    assert hold_out(samples, seed=0) == (list(range(24)), [24, 25, 26, 27, 28, 29])
    assert hold_out(samples[::-1], seed=0)[1] == [0, 1, 2, 3, 4, 5]  # by position, not by order in the list


def test_a_seeded_fifth_of_independent_images_is_held_out() -> None:
    samples = _samples(("", 50))
    first, again, other = (hold_out(samples, seed=s)[1] for s in (0, 0, 1))
    assert first == again != other
    assert len(first) == 10


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 1), (3, 1), (7, 1), (8, 2)])
def test_how_many_of_few(count: int, held: int) -> None:
    assert len(hold_out(_samples(("", count)), seed=3)[1]) == held


def test_the_sentence_counts() -> None:
    samples = _samples(("s", 30))
    assert split_sentence(samples, [24, 25, 26, 27, 28, 29]).startswith("24 images for training, 6 held out")
    assert "one image only" in split_sentence(samples[:1], [])


def test_a_held_out_image_that_alone_holds_a_class_is_trained_on() -> None:
    samples = _samples(("", 5))
    for i, values in enumerate([[0], [0, 1], [0, 2], [0, 2, 2], [0, 1, 3]]):
        samples[i] = replace(samples[i], mask=np.asarray([values], np.int32))
    assert with_every_class(samples, [0, 1, 2], [3]) == ([0, 1, 2], [3], ())
    train, held_out, said = with_every_class(samples, [0, 1], [2, 3, 4])
    assert (train, held_out) == ([0, 1, 3, 4], [2])  # of two images with class 2 that with more of it
    assert said == (
        "3 is trained on: no other training image holds class 2",
        "4 is trained on: no other training image holds class 3",
    )
