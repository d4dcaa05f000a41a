from __future__ import annotations

from septum.seeding import generator, number


def test_draws_repeat_and_differ_by_seed_purpose_and_place() -> None:
    draws = {
        (seed, purpose, *place): generator(seed, purpose, *place).random(4).tobytes()
        for seed in (0, 1)
        for purpose in ("augment", "noise")
        for place in ((0, 0), (0, 1), (1, 0), (1, 1))
    }
    assert len(set(draws.values())) == len(draws)
    assert all(generator(*key).random(4).tobytes() == value for key, value in draws.items())  # type: ignore[arg-type]


def test_numbers_fit_the_seeds_of_other_libraries() -> None:
    numbers = [number(0, "dropout", i) for i in range(100)]
    assert len(set(numbers)) == 100 and all(0 <= n < 2**63 for n in numbers)
    assert numbers == [number(0, "dropout", i) for i in range(100)]
