from __future__ import annotations

import json
import math
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from septum.errors import ModelError
from septum.io.tensors import read_model, write_model
from septum.training.checkpoint import save_checkpoint

TENSORS = {
    "weight": np.arange(24, dtype=np.float32).reshape(4, 3, 2).transpose(2, 0, 1) / 7,
    "steps": np.array(2**62 + 1, np.int64),
    "generator": np.arange(256, dtype=np.uint8),
    "none": np.zeros((0, 3), np.float64),
    "mask": np.array([[True, False]]),
    "big-endian": np.arange(3, dtype=">f4"),
}
HEADER = {
    "axes": "CYX",
    "threshold": 0.1 + 0.2,
    "sizes": (1, 2),
    "name": "Zelle 🔬 \ud800",
    "best": -math.inf,
    "nested": {"10": 1, "9": 2},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model.safetensors", TENSORS, HEADER)
    return tmp_path / "model.safetensors"


def test_models_are_restored_bit_for_bit(model: Path) -> None:
    tensors, header = read_model(model)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype.newbyteorder("=") and tensor.shape == TENSORS[name].shape
        np.testing.assert_array_equal(tensor, TENSORS[name])
        assert tensor.flags.writeable
    assert header == {**HEADER, "sizes": [1, 2]}


def test_the_same_content_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    backwards = dict(reversed(TENSORS.items()))
    write_model(tmp_path / "again.safetensors", backwards, dict(reversed(HEADER.items())))
    assert (tmp_path / "again.safetensors").read_bytes() == model.read_bytes()


def test_keys_that_json_turns_into_text_do_not_break_the_checksum(tmp_path: Path) -> None:
    write_model(tmp_path / "m.safetensors", {}, {"values": {2: "a", 10: "b"}})
    assert read_model(tmp_path / "m.safetensors") == ({}, {"values": {"2": "a", "10": "b"}})


def test_other_programs_can_read_the_tensors(model: Path) -> None:
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(model)["weight"], TENSORS["weight"])


def test_every_flipped_byte_and_every_truncation_is_noticed(model: Path) -> None:
    whole = model.read_bytes()
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        model.write_bytes(bytes(changed))
        with pytest.raises(ModelError):
            read_model(model)
    for length in range(0, len(whole), 7):
        model.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_model(model)
    model.write_bytes(whole + b"more")
    with pytest.raises(ModelError, match="damaged or changed"):
        read_model(model)


def test_tampering_is_named(model: Path) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole.replace(b"CYX", b"CXY"))
    with pytest.raises(ModelError, match="checksum does not fit"):
        read_model(model)
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="checksum does not fit"):
        read_model(model)
    model.write_bytes(whole[:-5])
    with pytest.raises(ModelError, match="bytes of tensors are there"):
        read_model(model)


def _claims(length: int) -> bytes:
    return struct.pack("<Q", length) + b"{}" + bytes(100)


def test_other_files_than_models_are_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match="does not exist"):
        read_model(path)
    for content, message in [
        (b"", "0 bytes"),
        (b"tiny", "damaged"),
        (b"name,score\n1,2\n" * 9, "not a safetensors file"),
        (pickle.dumps({"weight": list(range(50))}, protocol=4), "pickle"),
        (_claims(2**60), "not a safetensors file"),
        (_claims(2**24), "ends beyond"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 9000) + b"[" * 9000, "not JSON"),
        (struct.pack("<Q", 2) + b"{}", "another program"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ModelError, match=message) as raised:
            read_model(path)
        assert raised.value.expected and raised.value.todo
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    with pytest.raises(ModelError, match="pickle or zip"):
        read_model(path)
    with pytest.raises(ModelError, match="is a folder"):
        read_model(tmp_path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError):
        read_model(tmp_path / "model.pt")
    assert not (tmp_path / "sprung").exists()


def test_foreign_newer_and_checkpoint_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.ones(2, np.float32)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="another program"):
        read_model(path)
    newer = {"format": 2, "header": {}, "kind": "model", "sha256": "0"}
    save_file({}, path, metadata={"septum": json.dumps(newer, sort_keys=True, separators=(",", ":"))})
    with pytest.raises(ModelError, match="format 2 by a newer Septum") as raised:
        read_model(path)
    assert raised.value.todo == "update Septum"
    checkpoint = save_checkpoint(tmp_path, 3, {}, {})
    with pytest.raises(ModelError, match="a checkpoint, not a model"):
        read_model(checkpoint)


def test_a_header_too_long_to_be_read_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer than"):
        write_model(tmp_path / "m.safetensors", {}, {"text": "x" * (17 << 20)})
    assert list(tmp_path.iterdir()) == []


def test_reading_and_writing_import_no_torch(model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from septum.io.tensors import read_model, write_model\n"
        "from septum.training.checkpoint import save_checkpoint\n"
        "p = Path(sys.argv[1]); read_model(p); write_model(p, {}, {}); save_checkpoint(p.parent, 1, {}, {})\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(model)], check=True)
