"""Tests compute with one thread: networks here are too small for more, and two test runs do not slow each other."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
