"""Everything random is drawn from explicit generators.

A draw is named by what it is for and where it stands: (seed, purpose, step, index). Sample *i* of step *s* is therefore
the same on any device, with any number of processes, and after any resume. There is no global random state.
"""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """Return the generator for one named draw.

    Parameters
    ----------
    seed
        The run's seed, 0 or more.
    purpose
        What is drawn, for example ``"augment"``; draws for different purposes are independent.
    place
        Where the draw stands, for example ``(step, index)``; integers of 0 or more.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *place])))


def number(seed: int, purpose: str, *place: int) -> int:
    """Return the 63-bit seed of a named draw, for generators of other libraries (``torch.Generator``)."""
    return int(generator(seed, purpose, *place).integers(0, 2**63 - 1))
