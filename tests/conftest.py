"""Tests compute with one thread: networks here are too small for more, and two test runs do not slow each other.

What is measured of this machine is neither read nor left behind.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_cache = tempfile.mkdtemp(prefix="septum-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)

os.environ["XDG_CACHE_HOME"] = _cache
os.environ.setdefault("OMP_NUM_THREADS", "1")
