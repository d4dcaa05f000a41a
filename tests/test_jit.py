from __future__ import annotations

import numba
import pytest

from septum.jit import lazy_jit


def test_loops_compile_without_a_writable_cache_folder():
    def twice(x):
        return x + x

    twice.__code__ = twice.__code__.replace(co_filename="<nowhere>")  # no file, so no cache folder beside it
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(twice)
    assert lazy_jit(twice)(21) == 42
