"""Run a command and write its wall time and peak of memory as JSON.

    python benchmarks/measured.py NOTE COMMAND...

The peak that the system keeps of a process begins with that of the process which started it. This one is small.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main(note: str, command: list[str]) -> int:
    """Do it; return the exit status of the command."""
    begin = time.monotonic()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    told = {"seconds": round(time.monotonic() - begin, 1), "peak_mb": round(used.ru_maxrss / 1024)}
    Path(note).write_text(json.dumps(told))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
