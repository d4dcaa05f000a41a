"""The child processes of the studio end when their server does."""

from __future__ import annotations

import queue
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from septum.studio.processes.child import Child
from septum.studio.project import Project


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows cannot be sent a Ctrl-C alone")
def test_ctrl_c_in_the_terminal_does_not_end_a_training_before_its_state_is_saved(folder: Path) -> None:
    Project(folder).work.mkdir()
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    plain = {"folder": str(folder), "axes": None, "device": "cpu", "kind": "objects", "start": None, "paused": False}
    before = set(psutil.Process().children())
    child = Child(
        {"task": "live", **plain}, lambda message, _: told.put(message), lambda reason: told.put({"end": reason})
    )
    (process,) = set(psutil.Process().children()) - before
    assert told.get(timeout=120)["state"] == "waiting"
    process.send_signal(signal.SIGINT)  # the terminal sends it to the server and to all its children
    child.send({"command": "pause"})
    assert told.get(timeout=120).get("state") == "paused"
    child.close()
    assert told.empty()
