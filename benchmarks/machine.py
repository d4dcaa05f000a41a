"""The processor that a figure was measured on."""

from __future__ import annotations

import platform
from pathlib import Path

_SHOWN = ("avx2", "avx512f", "amx_tile")


def processor() -> str:
    """Return the name of the processor with its family, and which of AVX2, AVX-512 and AMX it has."""
    table = Path("/proc/cpuinfo")
    if not table.exists():
        return platform.processor() or platform.machine()
    lines = table.read_text(encoding="utf-8").splitlines()
    facts = dict(tuple(part.strip() for part in line.split(":", 1)) for line in lines if ":" in line)
    vectors = [v for v in _SHOWN if v in facts.get("flags", "").split()]
    named = facts.get("model name", platform.machine())
    return ", ".join([named, *([f"family {facts['cpu family']}"] if "cpu family" in facts else []), " ".join(vectors)])
