from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from septum.errors import DataError, UsageError
from septum.pairing.sample import Sample
from septum.training.settings import SplitSettings
from septum.training.split import (
    Split,
    folds_sentence,
    hold_out,
    make_folds,
    named,
    require_objects,
    split,
    split_sentence,
    train_on_every_class,
)


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
def test_every_image_is_trained_on_or_held_out(groups: list[tuple[str, int]]) -> None:
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
def test_the_number_of_held_out_images_of_few(count: int, held: int) -> None:
    assert len(hold_out(_samples(("", count)), seed=3)[1]) == held


def test_the_sentence_of_a_split_has_the_numbers() -> None:
    samples = _samples(("s", 30))
    assert split_sentence(samples, [24, 25, 26, 27, 28, 29]).startswith("24 images for training, 6 held out")
    assert "one image only" in split_sentence(samples[:1], [])


def _neighbors(samples: list[Sample], fold: Split) -> bool:
    """Return True if an image that is trained on is next to one that is held out."""
    places = {(samples[i].group, samples[i].position) for i in fold.train if samples[i].group}
    return any((samples[i].group, samples[i].position + d) in places for i in fold.held_out for d in (-1, 1))


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(1, 15)),
        min_size=1,
        max_size=4,
        unique_by=lambda g: g[0],
    ),
    st.integers(2, 5),
)
def test_folds_hold_out_every_image_once_and_train_on_no_neighbor(groups: list[tuple[str, int]], number: int) -> None:
    samples = _samples(*groups)
    try:
        folds = make_folds(samples, number, seed=0)
    except DataError:
        return
    assert sorted(i for fold in folds for i in fold.held_out) == list(range(len(samples)))
    for fold in folds:
        assert fold.train and not set(fold.train) & set(fold.held_out)
        assert not _neighbors(samples, fold)


def test_a_stack_is_cut_into_blocks_and_their_neighbors_are_left_out() -> None:
    samples = _samples(("stack", 30))
    folds = make_folds(samples, 5, seed=0)
    assert [fold.held_out for fold in folds] == [tuple(range(k, k + 6)) for k in range(0, 30, 6)]
    assert folds[1].train == (*range(5), *range(13, 30))
    assert folds[1].sentence == (
        "fold 2 of 5: 22 images for training (2 next to them left out), 6 held out: stack6, stack7, stack8, stack9 "
        "and 2 more"
    )
    assert folds_sentence(folds, samples) == (
        "5 folds of 6 images: contiguous blocks, those next to a block are left out of its training"
    )


def test_sequences_stay_whole_if_there_are_as_many_as_folds() -> None:
    samples = _samples(("a", 9), ("b", 4), ("c", 5))
    folds = make_folds(samples, 2, seed=0)
    assert [{samples[i].group for i in fold.held_out} for fold in folds] == [{"a"}, {"b", "c"}]
    assert folds_sentence(folds, samples) == "2 folds of 9 images: groups stay whole"


def test_independent_images_are_split_evenly_by_the_seed() -> None:
    samples = _samples(("", 13))
    first, again, other = ([f.held_out for f in make_folds(samples, 5, seed=s)] for s in (0, 0, 1))
    assert first == again != other
    assert sorted(map(len, first)) == [2, 2, 3, 3, 3]


def test_copies_are_never_on_both_sides_of_a_fold() -> None:
    samples = [replace(s, copy_of="x" if i in (2, 7) else "") for i, s in enumerate(_samples(("", 10)))]
    for fold in make_folds(samples, 5, seed=0):
        assert len({2, 7} & set(fold.held_out)) in (0, 2)


def test_copies_in_two_sequences_are_never_on_both_sides_of_a_fold() -> None:
    samples = _samples(("a", 4), ("b", 4), ("c", 4))
    samples = [replace(s, copy_of="x" if s.name in ("a0", "b0") else "") for s in samples]
    for number in (3, 4):  # whole sequences, and blocks of them
        folds = make_folds(samples, number, seed=0)
        assert sorted(i for fold in folds for i in fold.held_out) == list(range(12))
        for fold in folds:
            held, trained = ({samples[i].copy_of for i in part} - {""} for part in (fold.held_out, fold.train))
            assert not held & trained
    whole = make_folds(samples, 3, seed=0)
    assert sorted(fold.sentence[13:60] for fold in whole)[1].startswith(
        "7 images for training (1 near-duplicate of the"
    )
    assert folds_sentence(whole, samples) == (
        "3 folds of 4 images: groups stay whole, copies of held-out images are left out of the training"
    )


@pytest.mark.parametrize("seed", range(6))
def test_copies_in_two_groups_are_never_on_both_sides(seed: int) -> None:
    samples = [replace(s, name=f"p{i // 2}_{i % 2}") for i, s in enumerate(_samples(("", 10)))]
    samples = [replace(s, copy_of="x" if s.name in ("p1_0", "p2_0") else "") for s in samples]
    found = split(samples, SplitSettings(group=r"p\d"), seed=seed)
    held, trained = ({samples[i].name for i in part} for part in (found.held_out, found.train))
    copied = bool(held & {"p1_0", "p2_0"})
    assert len(trained & {"p1_0", "p2_0"}) == (0 if copied else 2)
    left = " (1 near-duplicate of them left out)" if copied else ""
    names = ", ".join(sorted(held))
    assert found.sentence == f"{8 - copied} images for training{left}, 2 held out for validation: {names}"


@pytest.mark.parametrize("groups", [3, 7])
def test_a_group_that_alone_holds_a_class_is_trained_on_as_a_whole(groups: int) -> None:
    samples = _samples(("", 2 * groups))
    for i, value in enumerate([0, 1, 2] + [0, 1, 1] * groups):
        if i < len(samples):
            samples[i] = replace(samples[i], name=f"p{i // 2}_{i}", mask=np.full((4, 4), value, np.int32))
    chosen = [split(samples, SplitSettings(group=r"p\d"), seed=seed, kind="classes") for seed in range(12)]
    for found in chosen:
        trained, held_out = ({samples[i].name[:2] for i in part} for part in (found.train, found.held_out))
        assert "p1" in trained  # of whose images alone one holds class 2
        assert held_out  # other groups, if the first ones that were chosen are needed
        assert not trained & held_out
    said = {found.sentence.rpartition("; ")[2] for found in chosen if "; " in found.sentence}
    moved = {"p1_2 and 1 more of its group are trained on: no other training image holds class 2"}
    assert said == (moved if groups > 5 else set())  # a fifth of three groups is one of them


def test_copies_in_all_groups_are_refused_without_folds() -> None:
    samples = [replace(s, name=f"p{i // 2}_{i % 2}", copy_of="x") for i, s in enumerate(_samples(("", 6)))]
    with pytest.raises(DataError) as error:
        split(samples, SplitSettings(group=r"p\d"), seed=0)
    assert error.value.given == "no image to train on but neighbors or copies of held-out ones"
    assert "--folds" not in str(error.value)


def test_a_pattern_that_matches_alike_in_every_name_is_refused() -> None:
    samples = [replace(s, name=f"patient01_{i}") for i, s in enumerate(_samples(("", 5)))]
    for fold in (None, (1, 5)):
        with pytest.raises(DataError, match="matches 'patient01' in all 5 names, which makes 1 group"):
            split(samples, SplitSettings(group=r"patient\d+", fold=fold), seed=0)
    assert split(samples[:1], SplitSettings(group=r"patient\d+"), seed=0).train == (0,)


def test_a_pattern_groups_images_and_no_group_is_on_both_sides() -> None:
    samples = [replace(s, name=f"patient{i % 3}_image{i}") for i, s in enumerate(_samples(("", 9)))]
    for k in (1, 2, 3):
        fold = split(samples, SplitSettings(fold=(k, 3), group=r"patient(\d)"), seed=0)
        held, trained = ({samples[i].name[:8] for i in part} for part in (fold.held_out, fold.train))
        assert (len(held), held & trained) == (1, set())
    once = split(samples, SplitSettings(group="patient."), seed=0)
    assert len({samples[i].name[:8] for i in once.held_out}) == 1
    with pytest.raises(DataError, match="3 groups for 4 folds"):
        split(samples, SplitSettings(fold=(1, 4), group="patient."), seed=0)
    with pytest.raises(DataError, match="does not match 9 of 9 names"):
        split(samples, SplitSettings(group="mouse"), seed=0)
    with pytest.raises(ValueError, match="a regular expression"):
        SplitSettings(group="(")


def test_too_few_images_for_folds_are_refused() -> None:
    with pytest.raises(DataError, match="2 annotated images for 3 folds"):
        make_folds(_samples(("", 2)), 3, seed=0)
    with pytest.raises(DataError, match="no image to train on but neighbors or copies"):
        make_folds(_samples(("stack", 3)), 3, seed=0)


def test_subsets_of_the_training_images_are_nested_and_share_the_held_out_ones() -> None:
    samples = _samples(("", 20), ("a", 10))
    whole = split(samples, SplitSettings(), seed=0)
    parts = [split(samples, SplitSettings(limit=n), seed=0) for n in (2, 5, 12)]
    assert [len(part.train) for part in parts] == [2, 5, 12]
    assert set(parts[0].train) < set(parts[1].train) < set(parts[2].train) < set(whole.train)
    assert {part.held_out for part in parts} == {whole.held_out}
    assert parts[1].sentence.startswith("5 of 24 images for training, 6 held out for validation: ")


def test_named_images_are_held_out_and_all_may_be_trained_on() -> None:
    samples = _samples(("a", 3), ("", 1))
    assert named(samples, ["a2", "0"]) == ([0, 1], [2, 3])
    assert named(samples, []) == ([0, 1, 2, 3], [])
    assert split_sentence(samples, []) == "4 images for training: none is held out, so no score can be given"
    with pytest.raises(UsageError, match="no image b7"):
        named(samples, ["b7", "a1"])
    with pytest.raises(UsageError, match="all images"):
        named(samples, ["a0", "a1", "a2", "0"])


def test_a_held_out_image_with_the_only_pixels_of_a_class_is_trained_on() -> None:
    samples = _samples(("", 5))
    for i, values in enumerate([[0], [0, 1], [0, 2], [0, 2, 2], [0, 1, 3]]):
        samples[i] = replace(samples[i], mask=np.asarray([values], np.int32))
    assert train_on_every_class(samples, [0, 1, 2], [3]) == ([0, 1, 2], [3], ())
    train, held_out, sentences = train_on_every_class(samples, [0, 1], [2, 3, 4])
    assert (train, held_out) == ([0, 1, 3, 4], [2])  # of two images with class 2, the one with more pixels of it
    assert sentences == (
        "3 is trained on: no other training image holds class 2",
        "4 is trained on: no other training image holds class 3",
    )
    samples[2:4] = [replace(sample, copy_of="x") for sample in samples[2:4]]
    assert train_on_every_class(samples, [0, 1], [2, 3])[0] == [0, 1, 2, 3]  # never a copy on the other side


def _with_objects(samples: list[Sample], *holders: int) -> list[Sample]:
    """Return the samples with an object in the masks of `holders`, and no object in the others."""
    cell = np.eye(4, dtype=np.int32) * 7
    return [replace(sample, mask=cell) if i in holders else sample for i, sample in enumerate(samples)]


def _sides(found: Split, *holders: int) -> tuple[int, int]:
    """Return how many of `holders` are trained on, and how many are held out."""
    return len(set(holders) & set(found.train)), len(set(holders) & set(found.held_out))


@pytest.mark.parametrize("seed", range(8))
def test_objects_are_trained_on_and_held_out_wherever_few_images_hold_any(seed: int) -> None:
    for groups, holders in [
        ([("", 3)], (0, 2)),
        ([("", 30)], (3, 20)),
        ([("stack", 30)], (2, 3, 4, 5)),  # the last fifth of the stack is empty
        ([("a", 10), ("b", 10), ("", 4)], (0, 9, 12)),
    ]:
        found = split(_with_objects(_samples(*groups), *holders), SplitSettings(), seed=seed, kind="objects")
        assert min(_sides(found, *holders)) >= 1, (groups, found)
        assert not found.warning
    usual = _with_objects(_samples(("", 20)), *range(20))
    assert split(usual, SplitSettings(), seed=seed, kind="objects") == split(usual, SplitSettings(), seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_the_only_image_with_objects_is_trained_on_and_the_lack_of_a_score_is_reported(seed: int) -> None:
    for count in (2, 6):
        found = split(_with_objects(_samples(("", count)), 1), SplitSettings(), seed=seed, kind="objects")
        assert (found.train, found.held_out) == (tuple(range(count)), ())
        assert found.sentence == f"{count} images for training: none is held out, so no score can be given"
        assert found.warning == (
            "the images with objects cannot be divided into training and held-out ones: no score is possible, and how "
            "objects are made is not tuned; draw objects in another image"
        )
    assert not split(_with_objects(_samples(("", 1)), 0), SplitSettings(), seed=seed, kind="objects").warning


@pytest.mark.parametrize("seed", range(8))
def test_groups_with_objects_are_trained_on_and_held_out_as_a_whole(seed: int) -> None:
    samples = [replace(s, name=f"p{i // 2}_{i % 2}") for i, s in enumerate(_samples(("", 20)))]
    holders = (4, 15)  # in two of ten groups, which some seeds would hold out together
    found = split(_with_objects(samples, *holders), SplitSettings(group=r"p\d"), seed=seed, kind="objects")
    assert _sides(found, *holders) == (1, 1)
    trained, held_out = ({samples[i].name[:2] for i in part} for part in (found.train, found.held_out))
    assert not trained & held_out
    alone = split(_with_objects(samples, 4, 5), SplitSettings(group=r"p\d"), seed=seed, kind="objects")
    assert alone.held_out == () and alone.warning.endswith("draw objects in another group")


def test_of_many_groups_only_those_with_objects_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [replace(s, name=f"p{i}") for i, s in enumerate(_samples(("", 60)))]
    built = list[int]()

    def counted(samples: list[Sample], number: int, **settings: Any) -> list[Split]:
        built.append(number)
        return make_folds(samples, number, **settings)

    monkeypatch.setattr("septum.training.split.make_folds", counted)
    for seed in range(20):  # some seeds put both groups with objects into one of five folds
        found = split(_with_objects(samples, 7, 31), SplitSettings(group=r"p\d+"), seed=seed, kind="objects")
        assert _sides(found, 7, 31) == (1, 1)
    assert set(built) == {5}


def _require_objects(samples: list[Sample], settings: SplitSettings) -> None:
    require_objects(samples, split(samples, settings, seed=0, kind="objects"), settings)


def test_a_training_without_any_object_is_refused() -> None:
    samples = _with_objects(_samples(("", 6)), 2)
    with pytest.raises(DataError, match="no image to train on holds an object"):
        _require_objects(_samples(("", 3)), SplitSettings())
    with pytest.raises(DataError, match="no image to train on holds an object"):
        _require_objects(samples, SplitSettings(names=("2",)))
    _require_objects(samples, SplitSettings(names=("0",)))
    assert split(samples, SplitSettings(names=("0",)), seed=0, kind="objects").warning == (
        "the held-out images hold no object: no score is possible, and how objects are made is not tuned; draw objects "
        "in more images"
    )
    assert not split(samples, SplitSettings(names=()), seed=0, kind="objects").warning


def test_a_fold_is_refused_for_its_own_objects_only() -> None:
    samples, refused = _with_objects(_samples(("", 6)), 2), []
    for k in (1, 2, 3):
        settings = SplitSettings(fold=(k, 3))
        held_out = split(samples, settings, seed=0, kind="objects").held_out
        if 2 not in held_out:
            _require_objects(samples, settings)
            continue
        with pytest.raises(DataError, match=rf"fold {k} of 3: no image to train on holds an object") as error:
            _require_objects(samples, settings)
        assert error.value.todo == "draw objects in more images, or give another --seed or number of --folds"
        refused.append(k)
    assert len(refused) == 1


def test_every_subset_of_the_training_images_holds_an_object() -> None:
    samples = _with_objects(_samples(("", 20)), 3, 11)
    for seed in range(8):
        whole = split(samples, SplitSettings(), seed=seed, kind="objects")
        parts = [split(samples, SplitSettings(limit=n), seed=seed, kind="objects") for n in (1, 2, 5, 12)]
        assert [len(part.train) for part in parts] == [1, 2, 5, 12]
        assert all(_sides(part, 3, 11) == (1, 1) for part in parts)
        assert set(parts[0].train) < set(parts[1].train) < set(parts[2].train) < set(parts[3].train) < set(whole.train)
