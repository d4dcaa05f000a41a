from __future__ import annotations

from pathlib import Path

import numba
import pytest

from septum.compiling import listening
from septum.jit import lazy_jit


def test_loops_compile_without_a_writable_cache_folder():
    def twice(x):
        return x + x

    twice.__code__ = twice.__code__.replace(co_filename="<nowhere>")  # no file, so no cache folder beside it
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(twice)
    assert lazy_jit(twice)(21) == 42


def test_loops_compile_where_the_disk_takes_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ended any command that needed a loop for the first time: "error: file: No space left on device"."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))

    @lazy_jit
    def once_more(x):
        return x + 1

    @lazy_jit
    def thrice(x):
        return once_more(x) + once_more(x) + x

    for folder in list((tmp_path / "cache").iterdir()):
        folder.rmdir()
        folder.write_bytes(b"")  # neither read nor written as a folder
    assert thrice(2) == 8


def test_compiling_is_told_once_for_a_loop_and_those_that_it_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def inner(x):
        return x + 1

    inner = lazy_jit(inner)

    def outer(x):
        return inner(x) * 2

    outer = lazy_jit(outer)
    told = []
    with listening(told.append):
        assert outer(3) == 8
        assert outer(4) == 10
    assert told == [True, False]


def test_loops_run_without_numba_where_its_compiler_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)

    @lazy_jit
    def twice(x):
        return 2 * x

    assert twice(4) == 8
