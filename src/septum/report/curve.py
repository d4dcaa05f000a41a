"""The learning curve: a score over the number of training images."""

from __future__ import annotations

from dataclasses import dataclass

from septum.events import Event


@dataclass(frozen=True)
class Curve(Event):
    """A score over the number of training images, and its extrapolation to more images.

    Attributes
    ----------
    score : str
        Name of the score.
    images, values : tuple
        Numbers of training images, rising, and the score of each model on the same held-out images.
    intervals : tuple
        95 % interval (low, high) of each score over held-out images.
    fit : tuple of float
        a, b and c of the fitted law a - b n^-c.
    more : int
        Number of additional images in the sentence `words`.
    ahead : tuple
        Extrapolation: larger numbers of images, the expected score, and its interval, (n, value, low, high).
    clear : bool
        True if the curve shows the gain of more images.
    words : str
        The result in one sentence.
    """

    score: str
    images: tuple[int, ...]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    fit: tuple[float, float, float]
    more: int
    ahead: tuple[tuple[int, float, float, float], ...]
    clear: bool
    words: str
