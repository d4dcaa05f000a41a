"""How much memory this process has, may take, and took."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

from septum.errors import UsageError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# What is taken of free memory where no limit is given: other programs go on working.
_SHARE = 0.7


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as ``2G``, ``800M``, ``1.5 GB`` or ``2GiB``; K, M, G, T are powers of 1024.

    Raises
    ------
    UsageError
        If `text` is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"memory of {text!r}", "a size such as 2G or 800M", "write --max-memory 2G")
    return int(float(match[1]) * _UNITS[match[2]])


def format_bytes(count: float) -> str:
    """Return a size for people: ``"1.3 GB"``, ``"640 MB"``, as powers of 1024."""
    return f"{count / (1 << 30):.1f} GB" if count >= 0.95 * (1 << 30) else f"{max(1, round(count / (1 << 20)))} MB"


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """Return the most memory that this process has held since its start."""
    import psutil

    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # what getrusage says there can be of the program that started this one
        with suppress(OSError, IndexError):
            return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)


def usual_limit() -> int:
    """Return how much this process should hold at most where nobody says: what it has and most of what is free.

    Free is what the machine, the container or job (control group) and the process limit leave, whichever is least.
    """
    import psutil

    free = min([int(psutil.virtual_memory().available), *_group_free(), *_process_free()])
    return resident_bytes() + int(_SHARE * max(0, free))


def total_bytes() -> int:
    """Return the memory of the machine, or of the container or job (control group) if that has less."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _groups())])


def _group_free() -> list[int]:
    """Return what the control groups of this process leave free: one number for each that has a limit."""
    return [limit - used for limit, used in _groups()]


def _groups() -> list[tuple[int, int]]:
    """Return limit and use, in bytes, of each control group of this process that has a limit."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, inside = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            base = Path("/sys/fs/cgroup/memory" if kinds else "/sys/fs/cgroup")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
            own = base / inside.lstrip("/")
            for folder in [own, *own.parents]:
                if not folder.is_relative_to(base):
                    break
                with suppress(OSError, ValueError):  # "max" is no number: no limit
                    limit, used = (int((folder / name).read_text()) for name in names)
                    if limit < 1 << 60:
                        found.append((limit, used))
    return found


def _process_free() -> list[int]:
    """Return what the limit of this process's address space leaves free, if there is one."""
    if sys.platform == "win32":
        return []
    import resource

    import psutil

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if soft == resource.RLIM_INFINITY else [soft - int(psutil.Process().memory_info().vms)]
