"""The learning curve: scores over numbers of training images."""

from __future__ import annotations

from dataclasses import dataclass

from septum.events import Event


@dataclass(frozen=True)
class Curve(Event):
    """How a score grows with the number of training images, and what more of them would bring.

    Attributes
    ----------
    score : str
        Name of the score.
    images, values : tuple
        Numbers of training images, rising, and the score of the model of each on the same held-out images.
    intervals : tuple
        (low, high) of each, 95 % over held-out images.
    fit : tuple of float
        a, b and c of a - b n^-c.
    more : int
        So many more images are spoken of in `words`.
    ahead : tuple
        Numbers of images beyond those there are, the score expected with them, and its interval: (n, value, low, high).
    clear : bool
        Whether the curve says what more images would bring.
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
