"""Random generators: each draw is named by seed, purpose, step and index, and there is no global random state.

Sample *i* of step *s* is therefore the same on any device, with any number of processes, and after any resume.
"""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """Create the generator of one named draw.

    Parameters
    ----------
    seed
        The seed of the run, 0 or more.
    purpose
        Name of the draws, for example ``"augment"``; draws for different purposes are independent.
    place
        Position of the draw, for example ``(step, index)``; integers of 0 or more. Draws of one purpose need places of
        one length: numpy pads short ones with zeros, so that ``(1,)`` and ``(1, 0)`` are the same draw.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *place])))


def number(seed: int, purpose: str, *place: int) -> int:
    """Return a 63-bit seed for a named draw, for generators of other libraries (``torch.Generator``)."""
    return int(generator(seed, purpose, *place).integers(0, 2**63 - 1))
