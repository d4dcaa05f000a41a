"""Reading a model or checkpoint file of any bytes returns the content as written, or raises `ModelError`."""

from __future__ import annotations

import json
import struct
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from septum.errors import ModelError
from septum.io import tensors as sealed
from septum.io.tensors import read_tensors, write_tensors

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array([1, -2, 3], np.int64),
    "empty": np.zeros((0, 5), np.float16),
    "scalar": np.array(7, np.uint8),
}
SAID = {"seed": 3, "names": ["a", "ü"], "deep": {"x": [1.5, None, True]}}


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model.safetensors"


@pytest.fixture(scope="module")
def whole(path: Path) -> bytes:
    write_tensors(path, "model", TENSORS, SAID)
    return path.read_bytes()


def _content(tensors: dict[str, Any], header: dict[str, object]) -> object:
    return {n: (t.dtype.str, t.shape, t.tobytes()) for n, t in tensors.items()}, header


def _same_or_refused(path: Path, data: bytes, whole: bytes) -> None:
    path.write_bytes(data)
    try:
        found = _content(*read_tensors(path, "model"))
    except ModelError as error:
        assert error.given and error.todo
        assert data != whole
    else:
        assert found == _content({n: np.asarray(t) for n, t in TENSORS.items()}, SAID)


@QUICK
@given(data=st.data())
def test_changed_cut_and_inserted_bytes_are_noticed(path: Path, whole: bytes, data: st.DataObject) -> None:
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(st.sampled_from(["change", "cut", "insert", "end", "swap"])):
            case "change" if content:
                content[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[place : place + data.draw(st.integers(1, 40))]
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=40))
            case "end":
                del content[place:]
            case "swap":
                other = data.draw(st.integers(0, max(0, len(content) - 1)))
                low, high = sorted((place, other))
                content[low:high] = content[low:high][::-1]
    _same_or_refused(path, bytes(content), whole)


@QUICK
@given(data=st.binary(max_size=300))
def test_bytes_of_any_kind(path: Path, whole: bytes, data: bytes) -> None:
    _same_or_refused(path, data, whole)
    _same_or_refused(path, struct.pack("<Q", len(data)) + data, whole)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@QUICK
@given(data=st.data())
def test_any_part_of_the_header_replaced(path: Path, whole: bytes, data: st.DataObject) -> None:
    """A forged header: JSON of the right length, one value of which is replaced by any other."""
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    inner = json.loads(header["__metadata__"]["septum"])
    where = data.draw(st.sampled_from(["tensor", "field", "inner", "all", "metadata"]))
    value = data.draw(JSON)
    match where:
        case "tensor":
            header[data.draw(st.sampled_from([*TENSORS, "new", "__metadata__"]))] = value
        case "field":
            header["a.weight"][data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))] = value
        case "inner":
            inner[data.draw(st.sampled_from([*inner, "more"]))] = value
            header["__metadata__"]["septum"] = sealed._canonical(inner)
        case "all":
            header = value
        case "metadata":
            header["__metadata__"]["septum"] = value
    text = json.dumps(header).encode()
    _same_or_refused(path, struct.pack("<Q", len(text)) + text + whole[8 + size :], whole)


@QUICK
@given(data=st.data())
def test_forged_headers_with_a_right_checksum_are_refused(path: Path, data: st.DataObject) -> None:
    """With a right checksum any JSON is returned unchanged; its meaning is checked by its readers."""
    header = data.draw(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
    write_tensors(path, "model", {}, header)
    found = read_tensors(path, "model")[1]
    assert json.dumps(found, sort_keys=True) == json.dumps(json.loads(json.dumps(header)), sort_keys=True)


def _forged(header: object, rest: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


SEAL = {"septum": '{"format":1,"header":{},"kind":"model","sha256":""}'}


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**31) + b"{}",  # a header of 2 GB
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}" * 100,
        _forged({"__metadata__": SEAL, "w": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 8]}}, b"x" * 8),
        _forged({"__metadata__": SEAL, "w": {"dtype": "F64", "shape": [2**61], "data_offsets": [0, 2**64]}}, b"x" * 8),
        _forged({"__metadata__": SEAL, "w": {"dtype": "F32", "shape": [-1], "data_offsets": [-4, 8]}}, b"x" * 8),
        _forged({"__metadata__": SEAL, "w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"x" * 8),
        _forged({"__metadata__": SEAL, "w": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 8]}}, b"x" * 8),
        _forged({"__metadata__": SEAL, "w": {"dtype": "F32", "shape": [1e300], "data_offsets": [0, 8.5]}}, b"x" * 8),
        _forged({"__metadata__": SEAL, "w": {"dtype": "F32", "shape": [[2]], "data_offsets": {"1": 8}}}, b"x" * 8),
        _forged(
            {"__metadata__": SEAL, **{f"t{i}": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for i in (1, 2)}},
            b"x" * 8,
        ),
        struct.pack("<Q", 400_000) + b"[" * 400_000,
        struct.pack("<Q", 500_000) + b'{"a":' * 100_000,
        _forged({"__metadata__": {"septum": "[" * 400_000}}),
        _forged({"__metadata__": {"septum": '{"format":1e999,"header":{},"kind":"model","sha256":""}'}}),
        struct.pack("<Q", 10) + b"\xff\xfe" * 5,
        struct.pack("<Q", 5000) + b"1" * 5000,  # an integer of more digits than Python converts
    ],
)
def test_forged_files_are_refused_in_little_memory(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            read_tensors(path, "model")
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_names_of_tensors_are_no_paths(tmp_path: Path) -> None:
    names = ["../../outside", "/etc/passwd", "a\nb", "🔬", "__proto__", "CON"]
    write_tensors(tmp_path / "m.safetensors", "model", {n: np.zeros(2) for n in names}, {})
    assert set(read_tensors(tmp_path / "m.safetensors", "model")[0]) == set(names)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert not (tmp_path.parent.parent / "outside").exists()


def test_a_name_with_a_line_break_is_shown_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nerror: none 🔬.safetensors"
    path.write_bytes(b"x" * 20)
    with pytest.raises(ModelError) as caught:
        read_tensors(path, "model")
    assert "\n" not in caught.value.given
    assert "\\n" in caught.value.given


def test_devices_and_pipes_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to("/dev/zero")
    with pytest.raises(ModelError):
        read_tensors(tmp_path / "link.safetensors", "model")
