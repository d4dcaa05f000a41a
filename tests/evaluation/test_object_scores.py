from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from septum.arrays.instances import ObjectSettings, label_objects
from septum.evaluation.object_scores import ObjectExample, fit_decisions, object_examples
from septum.metrics.contingency import renumbered, table
from septum.metrics.matching import match
from septum.pairing.sample import Sample
from septum.training.distributed import Processes
from septum.training.model_selection import (
    JudgedExample,
    choose_decisions,
    decision_options,
    gather_examples,
)

SIZES = np.full(50, 500)


def image(number, *, dim=True):
    """Return an image of pairs: two disks that touch are two objects, two disks far into each other are one.

    The dim spots between the pairs are nothing.
    """
    rng = np.random.Generator(np.random.Philox(number))
    mask, sure = np.zeros((160, 240), np.int32), np.zeros((160, 240), np.float32)
    rows, columns = np.indices(mask.shape)
    for y in (25, 75, 125):
        for x in (30, 110, 190):
            together = rng.random() < 0.5
            gap = 20 + rng.uniform(-2, 2) if together else 25 + rng.uniform(-2, 2)
            for k, center in enumerate((x - gap / 2, x + gap / 2)):
                inside = (rows - y) ** 2 + (columns - center) ** 2 < 13**2
                mask[inside & (mask == 0)] = mask.max() + 1 if k == 0 or not together else mask.max()
                sure[inside] = 0.97
            if dim:
                sure[(rows - y - 25) ** 2 + (columns - x - 35) ** 2 < 9**2] = rng.uniform(0.55, 0.75)
    sample = Sample(f"{number}", "", number, np.zeros((1, *mask.shape), np.float32), mask, gold=None, spacing_um=None)
    return sample, gaussian_filter(sure, 1).astype(np.float16)


TUNED = ObjectSettings(threshold=0.5, seed_level=0.9, merge_ratio=0.0, min_size_px=10)


def examples(count, **how):
    options = decision_options(TUNED, SIZES)
    made = [image(number, **how) for number in range(count)]
    return options, [
        JudgedExample(object_examples(sample, sure, options), held_out=i % 2 == 0, place=i)
        for i, (sample, sure) in enumerate(made)
    ]


def test_learned_decisions_separate_what_touches_and_remove_what_is_dim():
    options, found = examples(14)
    chosen = choose_decisions(options, found, SIZES)
    assert chosen.learned is not None and chosen.learned.contact is not None and chosen.learned.gain > 0.1
    sample, sure = image(100)
    scores = [match(table(sample.mask, label_objects(sure.astype(np.float32), one))) for one in (TUNED, chosen)]
    before, after = ((len(m.truth), m.n_predicted) for m in scores)
    assert after[0] == after[1] == sample.mask.max() and before[0] < after[0]


def test_decisions_that_gain_nothing_only_state_a_confidence():
    options, found = examples(4)
    perfect = [
        JudgedExample((_with_truth(one.options[0]), one.options[1]), held_out=True, place=one.place) for one in found
    ]
    chosen = choose_decisions(options, perfect, SIZES)
    assert chosen.learned is None or (chosen.learned.gain == 0 and chosen.learned.least == 0)
    assert chosen.model_copy(update={"learned": None}) == TUNED


def _with_truth(example: ObjectExample) -> ObjectExample:
    """Return the example with its own regions as the true objects."""
    number = np.concatenate([[0], example.regions.number])
    pixels = np.concatenate([[1], example.regions.sums[:, 0]])
    return ObjectExample(example.regions, example.shape, type(example.truth)(number, number, pixels))


def test_too_few_examples_leave_the_tuned_settings_alone():
    options, found = examples(1, dim=False)
    assert choose_decisions(options, found, SIZES) == TUNED
    assert choose_decisions(options, [], SIZES) == TUNED
    assert fit_decisions([one.options[1] for one in found], 500, merge=True, least=0.3) is None


def test_strict_settings_keep_the_threshold_and_take_the_smallest_size():
    tuned, strict = decision_options(TUNED.model_copy(update={"threshold": 0.85}), SIZES)
    assert tuned.threshold == strict.threshold == strict.seed_level == 0.85
    assert (strict.merge_ratio, strict.seed_share, strict.min_size_px) == (0.8, 0.0, 125)


def test_examples_pass_between_processes_unchanged():
    _, found = examples(3)
    for one in found:
        for example in one.options:
            again = ObjectExample.unpacked(example.packed())
            assert again.shape == example.shape
            for held, other in ((again.regions, example.regions), (again.truth, example.truth)):
                for name, values in vars(other).items():
                    if isinstance(values, np.ndarray):
                        assert np.array_equal(getattr(held, name), values) and getattr(held, name).shape == values.shape

    class Two(Processes):
        def gather(self, arrays):
            return [list(arrays), []]

    gathered = gather_examples(Two(world=2), list(reversed(found)))
    assert [(one.held_out, one.place) for one in gathered] == [(True, 0), (True, 2), (False, 1)]
    assert np.array_equal(gathered[1].options[1].regions.sums, found[2].options[1].regions.sums)


def test_renumbered_table_equals_the_table_of_renumbered_labels():
    rng = np.random.Generator(np.random.Philox(2))
    truth, labels = rng.integers(-1, 4, (30, 40)).astype(np.int32), rng.integers(0, 6, (30, 40))
    numbers = np.array([0, 2, 2, 0, 1, 3])
    one, other = renumbered(table(truth, labels), numbers), table(truth, numbers[labels])
    for name in ("truth", "predicted", "count"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("count", [3, 10])
def test_confidence_is_near_the_share_of_true_objects(count):
    options, found = examples(count)
    learned = fit_decisions([one.options[1] for one in found], 500, merge=True, least=0.0, fewest=5)
    assert learned is not None
    sample, sure = image(200)
    labels = label_objects(sure.astype(np.float32), options[1].model_copy(update={"learned": learned}))
    assert labels.max() >= sample.mask.max()
