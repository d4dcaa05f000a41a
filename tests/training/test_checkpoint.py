from __future__ import annotations

import math
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from septum.errors import FileError
from septum.training.checkpoint import newest_checkpoint, save_checkpoint


def steps(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_tensors_and_numbers_are_restored_exactly(tmp_path: Path) -> None:
    tensors = {
        "weight": np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32),
        "moment": np.array([np.nan, np.inf, -0.0, 5e-324]),
        "counter": np.array([2**63 - 1, -(2**63)], np.int64),
        "generator": np.frombuffer(random.Random(0).randbytes(5056), np.uint8),
        "step": np.array(7, np.int64),
    }
    floats = [random.Random(1).random() * 10.0**e for e in range(-300, 300, 7)]
    state = {"rates": floats, "best": -math.inf, "loss": math.nan, "seed": 2**80 + 1, "name": "ü", "done": False}
    path = save_checkpoint(tmp_path / "run" / "checkpoints", 123, tensors, state)
    assert path.name == "step-00000123.safetensors"
    found, skipped = newest_checkpoint(path.parent)
    assert found is not None and skipped == []
    assert (found.step, found.path) == (123, path)
    assert {n: (t.tobytes(), t.dtype, t.shape) for n, t in found.tensors.items()} == {
        n: (t.tobytes(), t.dtype, t.shape) for n, t in tensors.items()
    }
    assert math.isnan(found.state.pop("loss"))  # type: ignore[arg-type]
    state.pop("loss")
    assert found.state == state


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 9, 10, 100, 20):
        save_checkpoint(tmp_path, step, {}, {"step": step})
        if step == 100:
            assert steps(tmp_path) == ["step-00000010.safetensors", "step-00000100.safetensors"]
    # Step 20 after step 100 means that 100 was found damaged and the run went on from 10.
    assert steps(tmp_path) == ["step-00000010.safetensors", "step-00000020.safetensors"]
    save_checkpoint(tmp_path, 30, {}, {}, keep=1)
    assert steps(tmp_path) == ["step-00000030.safetensors"]


def test_an_empty_folder_holds_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, [])
    assert newest_checkpoint(tmp_path / "none") == (None, [])
    (tmp_path / "step-1.safetensors").write_text("not ours")
    (tmp_path / ".septum-part-ab.safetensors").write_text("half")
    assert newest_checkpoint(tmp_path) == (None, [])
    save_checkpoint(tmp_path, 1, {}, {})
    assert steps(tmp_path) == ["step-00000001.safetensors", "step-1.safetensors"]


def test_the_older_checkpoint_is_loaded_if_the_newest_is_damaged(tmp_path: Path) -> None:
    tensors = {"w": np.arange(200, dtype=np.float32)}
    save_checkpoint(tmp_path, 1, tensors, {"best": 0.25})
    newest = save_checkpoint(tmp_path, 2, tensors, {"best": 0.5})
    whole = newest.read_bytes()
    damages = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    for place in range(0, len(whole), len(whole) // 40):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        damages.append(bytes(changed))
    for content in damages:
        newest.write_bytes(content)
        found, skipped = newest_checkpoint(tmp_path)
        assert found is not None
        assert (found.step, found.state, len(skipped)) == (1, {"best": 0.25}, 1)
        assert "step 2" in skipped[0] and "skipped" in skipped[0] and str(newest) in skipped[0]
    newest.write_bytes(whole)
    assert newest_checkpoint(tmp_path)[1] == []


def test_without_an_intact_checkpoint_none_is_loaded(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {}, {}).write_bytes(b"")
    found, skipped = newest_checkpoint(tmp_path)
    assert found is None
    assert ["step 2" in skipped[0], "step 1" in skipped[1]] == [True, True]


def test_a_renamed_checkpoint_is_skipped(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {}, {})
    path.rename(tmp_path / "step-00000009.safetensors")
    found, skipped = newest_checkpoint(tmp_path)
    assert found is None
    assert "it is of step 1" in skipped[0]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(FileError, match="cannot be created"):
        save_checkpoint(tmp_path / "checkpoints", 1, {}, {})


def test_a_kill_while_saving_leaves_an_intact_checkpoint(tmp_path: Path) -> None:
    code = (
        "import sys, itertools; from pathlib import Path; import numpy as np\n"
        "from septum.training.checkpoint import save_checkpoint\n"
        "weights = np.arange(300_000, dtype=np.float32)\n"
        "for step in itertools.count(int(sys.argv[2])):\n"
        "    save_checkpoint(Path(sys.argv[1]), step, {'w': weights + step}, {'step': step})\n"
    )
    last = 0
    for wait in (0.05, 0.011, 0.023):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(last + 1)])
        while not (tmp_path / f"step-{last + 2:08d}.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(wait)
        process.kill()
        process.wait()
        found, skipped = newest_checkpoint(tmp_path)
        assert found is not None and skipped == []
        assert found.step > last and found.state == {"step": found.step}
        np.testing.assert_array_equal(found.tensors["w"], np.arange(300_000, dtype=np.float32) + np.float32(found.step))
        last = found.step
    save_checkpoint(tmp_path, last + 1, {}, {})
    assert all(name.startswith("step-") for name in steps(tmp_path)) and len(steps(tmp_path)) == 2
