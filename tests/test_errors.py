from __future__ import annotations

import pickle

import pytest

from septum.errors import DataError, FileError, ModelError, SeptumError, UsageError


@pytest.mark.parametrize("kind", [DataError, FileError, ModelError, UsageError])
def test_errors_state_three_things_and_survive_pickling(kind: type[SeptumError]) -> None:
    error = kind("cells.png: 3 channels", "1 channel, as in training", "convert the image to gray")
    assert str(error).splitlines() == [
        "cells.png: 3 channels",
        "expected: 1 channel, as in training",
        "to do: convert the image to gray",
    ]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and (again.given, again.expected, again.todo) == (
        error.given,
        error.expected,
        error.todo,
    )
    assert str(kind("an empty folder")) == "an empty folder"
