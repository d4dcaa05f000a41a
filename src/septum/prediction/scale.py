"""The scale of an image: the factor by which the network must see it resized, so that objects look as in training.

The factor is the one the user asks for; or the ratio of pixel sizes, where those of the image and of the training
images are known; or it is measured, for images (not volumes) and models that know the width of their training objects.

Measured: a part of the image is predicted at several factors. The *seen width* is the width of the objects found, on
the grid of the network: the diameter of a disk of equal area, the median by area, so that fragments count little. The
*sureness* is the mean of ``|2 p - 1|`` over all pixels whose probability p of the foreground is above 0.1: a network
is unsure of objects at a scale that it has not learned. Of the factors at which the seen width is near that of the
training objects the one with the highest sureness is taken (times ``1 - 1 / n`` for n objects). From its seen width
follow the width of the objects in the image, and the factor: 1 if the width is that of the training within a factor of
`TOLERANCE`, or nearly, if the network is as sure at 1: a weak model joins objects, and their width says little.

The first image of a prediction with objects gives the factor for all. Each image is predicted at it and keeps it if the
seen width and the sureness fit; otherwise its own factor is measured. So the factor of an image depends on that image
and on the first ones, not on the order or the processes in which images are predicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from septum.arrays.instances import label_each, label_objects
from septum.arrays.normalize import statistics
from septum.arrays.targets import width_by_area
from septum.arrays.tiles import Readable, busiest_window
from septum.errors import UsageError
from septum.io.image import Image
from septum.prediction.frames import FoundScale, ImageJob, SeenFrame, scale_by_pixel_size, split_frames, working_frame
from septum.prediction.in_memory import image_tiler
from septum.prediction.model import Model, ModelHeader
from septum.prediction.tiled import Region, TiledPredictor, region_probabilities

TOLERANCE = 1.5
"""Largest ratio of widths that counts as equal: on either side the objects found were as good as at ratio 1."""

# Chosen on training images of two sets (fluorescence nuclei, PhC-U373) that were resized by 1/4, 1/2, 1, 2 and 4.
_NEAR, _NEAR_AS_IT_IS = 1.7, 1.9  # largest ratios of the seen width and the training objects: any factor; 1 if surest
_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # small ones cost little
_LAST_FACTOR = 4.0  # tried if none of them is good, or the last one is best
_LEAST_AP50 = 0.3  # of the model on its held-out images; below, what it finds has no width of objects
_LEAST_SURE = 0.5  # below, the network knows no objects of this kind at any scale
_LESS_SURE = 0.15  # the first image may be surer by this than one that keeps its factor
_LEAST_OBJECTS = 3  # an image of fewer objects keeps the factor of the first image
_MOST_LOOKS = 2  # factors that an image is looked at before it is searched
_MOST_FIRST = 3  # images that are searched until one holds objects

_POSSIBLE = 0.1  # probability from which a pixel counts for the sureness
_WHOLE_PX = 1 << 20  # frames of at most this many pixels on the grid of the network are looked at as a whole
_LEAST_SIDE, _SIDE_OBJECTS = 256, 6  # sides of a part that is looked at: pixels, widths of training objects
_VIEW_PX = 2048  # sides of the part of a larger frame that parts are taken from


@dataclass(frozen=True)
class Evidence:
    """Objects that were found in an image at a factor.

    Attributes
    ----------
    factor : float
        The factor.
    objects : int
        Number of objects.
    seen_px : float
        Their width in pixels of the training images; 0 without objects.
    sureness : float
        0..1; 0 if no pixel is possibly an object.
    """

    factor: float
    objects: int
    seen_px: float
    sureness: float

    @property
    def width_px(self) -> float:
        """Width of the objects in pixels of the image."""
        return self.seen_px / self.factor

    @property
    def weight(self) -> float:
        """Sureness of many objects; less for few, which can be clusters of objects that are seen too small."""
        return self.sureness * (1 - 1 / max(1, self.objects))


@dataclass(frozen=True)
class Measured:
    """The factor of an image, the width of its objects in its own pixels, and the sureness of the network."""

    factor: float
    width_px: float
    sureness: float


def asked_factor(scale: float | Literal["auto"], object_size: float | None, header: ModelHeader) -> float | None:
    """Return the factor that the user asks for; None: it is to be found.

    Raises
    ------
    UsageError
        If the width of objects is given for a model that does not know that of its training objects.
    """
    if object_size is None:
        return None if scale == "auto" else scale
    width = None if header.domain is None else header.domain.object_px
    if width is None:
        given = f"--object-size {object_size:g} with a model that does not know how wide its training objects are"
        raise UsageError(given, "a model of objects", "give the factor itself with --scale")
    return width / object_size


def _training_width(header: ModelHeader) -> float:
    """Return the width of the training objects in pixels, as it is seen in images; 0 if it is unknown."""
    domain = header.domain
    return 0.0 if domain is None else domain.width_by_area_px or domain.object_px or 0.0


class ScaleState(NamedTuple):
    """What earlier images tell: the first one that holds objects, and how many were searched for it."""

    first: Measured | None = None
    searched: int = 0


class ScaleFinder:
    """Measures the factors of images; the first ones with objects decide for the others.

    Parameters
    ----------
    model
        The model.
    state
        What earlier images tell; None: there are none.
    """

    def __init__(self, model: Model, state: ScaleState | None = None) -> None:
        self.model, (self.first, self.searched) = model, state or ScaleState()
        self._target_px = _training_width(model.header)

    @property
    def state(self) -> ScaleState:
        """What the images so far tell."""
        return ScaleState(self.first, self.searched)

    @property
    def measures(self) -> bool:
        """Return True if factors can be measured: images, and a model that finds objects of known width."""
        finds = self.model.header.kind == "objects" and self.model.header.scores.get("AP50", 1.0) >= _LEAST_AP50
        return self.model.rank == 2 and finds and self._target_px > 0

    @property
    def factor(self) -> float:
        """Factor of an image without objects."""
        return self.first.factor if self.first is not None else 1.0

    @property
    def start(self) -> float:
        """Factor at which an image is looked at first: a small one costs little."""
        return min(1.0, self.factor)

    @property
    def decided(self) -> bool:
        """Return True if the first images were searched."""
        return self.first is not None or self.searched >= _MOST_FIRST

    def fits(self, evidence: Evidence) -> bool:
        """Return True if an image keeps the factor at which it was looked at."""
        if not self.decided:
            return False
        if evidence.factor != self.factor and self.following(evidence) == self.factor:
            return False  # the factor of the first image comes before others
        if evidence.objects < _LEAST_OBJECTS:
            return True
        least = 0.0 if self.first is None else self.first.sureness - _LESS_SURE
        return self._near(evidence, TOLERANCE) and evidence.sureness >= least

    def following(self, evidence: Evidence) -> float:
        """Return the factor to look at next: by the width of the objects; that of the first image or 1 if near."""
        if not self.decided or evidence.objects < _LEAST_OBJECTS:
            return self.factor
        factor = self._target_px / evidence.width_px
        if not _FACTORS[0] / _NEAR <= factor <= _LAST_FACTOR * _NEAR:  # specks, or all objects in one
            return self.factor
        near = (known for known in (self.factor, 1.0) if 1 / TOLERANCE <= factor / known <= TOLERANCE)
        return next(near, factor)

    def search(self, tiler: TiledPredictor, frame: Readable, known: Sequence[Evidence]) -> Measured | None:
        """Measure the factor of an image, and remember it if it is the first.

        Parameters
        ----------
        tiler
            The network.
        frame
            ``(C, *S)``, raw intensities of any range, on its own grid.
        known
            Evidence that is known already.

        Returns
        -------
        measured
            None if no objects are found at any factor.
        """
        view = _view(frame)
        looked = {one.factor: one for one in known}
        best = None
        for factor in (*_FACTORS, _LAST_FACTOR):
            if factor == _LAST_FACTOR and best is not None and best.factor < _FACTORS[-1]:
                break
            if factor not in looked:
                looked[factor] = _look_at_part(tiler, view, self.model, factor)
            good = [e for e in looked.values() if self._counts(e) and self._near(e, _NEAR)]
            best = max(good, key=lambda e: (e.weight, -e.factor), default=None)
        found, own = None, looked[1.0]
        if best is not None and self._near(own, _NEAR_AS_IT_IS) and self._counts(own) and own.weight >= best.weight:
            found = Measured(1.0, own.width_px, own.sureness)
        elif best is not None:
            factor = self._target_px / best.width_px
            factor = 1.0 if 1 / TOLERANCE <= factor <= TOLERANCE else factor
            found = Measured(factor, best.width_px, best.sureness)
        if not self.decided:
            self.first, self.searched = found, self.searched + 1
        return found

    def text(self, factor: float, width_px: float) -> str:
        """Return the sentence for an image whose objects are `width_px` wide; nothing for a factor of 1."""
        if factor == 1:
            return ""
        if width_px == 0:
            return f"predicted at scale {factor:.2g}, as the first images (--scale 1 keeps its size)"
        return (
            f"objects are about {width_px:.2g} px wide, {width_px / self._target_px:.2g} times those of the training: "
            f"predicted at scale {factor:.2g} (--scale 1 keeps its size)"
        )

    def _counts(self, evidence: Evidence) -> bool:
        return evidence.objects >= _LEAST_OBJECTS and evidence.sureness >= _LEAST_SURE

    def _near(self, evidence: Evidence, ratio: float) -> bool:
        return evidence.objects > 0 and 1 / ratio <= evidence.seen_px / self._target_px <= ratio


def settle(job: ImageJob, finder: ScaleFinder, plan: Callable[[FoundScale], ImageJob]) -> ImageJob:
    """Find the scale of an image, and plan the image at it.

    Parameters
    ----------
    job
        The image, planned at `ScaleFinder.start`.
    finder
        Finds the scale.
    plan
        Plans the image at a scale.
    """
    begin, jobs = time.monotonic(), {job.found.factors: job}

    def tiler_at(found: FoundScale) -> TiledPredictor:
        if found.factors not in jobs:
            jobs[found.factors] = plan(found)
        at = jobs[found.factors]
        return TiledPredictor(job.model.computed_by(at.plan.engine), job.model.device, at.plan.tile)

    found = _find(job.model, job.frames, finder, tiler_at)
    found = replace(found, seconds=time.monotonic() - begin)
    if job.settings.tta or job.region is not None:  # the mean of several predictions, or a part of one
        found = replace(found, seen=None)
    return replace(jobs[found.factors], found=found) if found.factors in jobs else plan(found)


def find_scale(
    model: Model, image: Image, *, scale: float | Literal["auto"] = "auto", object_size: float | None = None
) -> FoundScale:
    """Find the scale of one image, as ``septum predict`` does for an image alone.

    Parameters
    ----------
    model
        The model.
    image
        In canonical axes.
    scale, object_size
        As in `septum.prediction.settings.PredictSettings`.

    Raises
    ------
    UsageError
        If the width of objects is given for a model that does not know that of its training objects.
    """
    asked, finder = asked_factor(scale, object_size, model.header), ScaleFinder(model)
    if asked is not None:
        return FoundScale.at((asked,) * model.rank, model)
    known = scale_by_pixel_size(image.pixel_size_um, model)
    if known is not None or not finder.measures:
        return known or FoundScale.at((1.0,) * model.rank, model)
    frames = split_frames(image, model)
    return _find(model, frames, finder, lambda found: image_tiler(model, frames, found.grid))


def _find(
    model: Model, frames: Sequence[Readable], finder: ScaleFinder, tiler_at: Callable[[FoundScale], TiledPredictor]
) -> FoundScale:
    """Measure the scale of an image: look at its middle frame at one factor or two, then search where these fail."""
    frame, looked = frames[len(frames) // 2], list[Evidence]()
    factor = finder.start
    while True:
        found = FoundScale.at((factor,) * model.rank, model)
        tiler = tiler_at(found)
        evidence, seen = look(tiler, frame, model, factor)
        looked.append(evidence)
        found = replace(found, text=finder.text(factor, evidence.width_px), seen=seen if len(frames) == 1 else None)
        if finder.fits(evidence):
            return found
        following = finder.following(evidence)
        if following == factor or len(looked) == _MOST_LOOKS:
            break
        factor = following
    measured = finder.search(tiler, frame, looked) or Measured(finder.factor, 0, 0)
    if measured.factor == factor:
        return found
    return FoundScale.at((measured.factor,) * model.rank, model, finder.text(measured.factor, measured.width_px))


def look(tiler: TiledPredictor, frame: Readable, model: Model, factor: float) -> tuple[Evidence, SeenFrame | None]:
    """Look for objects in a frame at a factor.

    Parameters
    ----------
    tiler
        The network.
    frame
        ``(C, *S)``, raw intensities of any range, on its own grid.
    model
        The model.
    factor
        The factor.

    Returns
    -------
    evidence
        The objects; of large frames, those of a part.
    seen
        The prediction of the frame; None if only a part was predicted.
    """
    working = working_frame(frame, FoundScale.at((factor,) * model.rank, model).grid)
    if prod(working.shape[1:]) > _WHOLE_PX:
        return _look_at_part(tiler, _view(frame), model, factor), None
    whole = tuple(slice(0, n) for n in working.shape[1:])
    image = working[(slice(None), *whole)]
    *_, (probabilities, _) = region_probabilities(tiler, image, statistics(image, model.header.normalization), whole)
    ((_, labels, confidence),) = label_each(probabilities[1], [model.header.objects])
    return _evidence(probabilities, labels, model, factor), SeenFrame(probabilities, (labels, confidence))


def _look_at_part(tiler: TiledPredictor, view: NDArray[Any], model: Model, factor: float) -> Evidence:
    """Look for objects in the part of a view that varies most; statistics are those of the view."""
    scale = FoundScale.at((factor,) * model.rank, model).grid
    working = working_frame(view, scale)
    # Enlarging adds no contrast: statistics of the view itself are those of the enlarged view, at less cost.
    seen = working if scale is None or max(scale) < 1 else view
    pixels = seen[(slice(None),) * view.ndim]
    step = max(1, round((prod(pixels.shape[1:]) / _WHOLE_PX) ** (1 / model.rank)))
    thinned = pixels[(slice(None), *(slice(None, None, step) for _ in range(model.rank)))]
    stats = statistics(np.ascontiguousarray(thinned), model.header.normalization)
    side = max(_LEAST_SIDE, round(_SIDE_OBJECTS * _training_width(model.header) * model.header.scale))
    region = _part(view, working.shape[1:], side)
    *_, (probabilities, _) = region_probabilities(tiler, working, stats, region)
    return _evidence(probabilities, label_objects(probabilities[1], model.header.objects), model, factor)


def _evidence(probabilities: NDArray[np.float32], labels: NDArray[np.int32], model: Model, factor: float) -> Evidence:
    possible = probabilities[1][probabilities[1] > _POSSIBLE]
    sureness = float(np.abs(2 * possible - 1).mean()) if possible.size else 0.0
    objects, width = width_by_area(labels)
    return Evidence(factor, objects, width / model.header.scale, sureness)


def _view(frame: Readable) -> NDArray[Any]:
    """Return a frame in memory; of a large one, the part around the window that varies most, of nine."""
    sides = frame.shape[1:]
    if max(sides) <= _VIEW_PX:
        return frame[(slice(None), *(slice(0, n) for n in sides))]
    best = busiest_window(frame, [min(n, _LEAST_SIDE) for n in sides], places=3)
    first = [max(0, min(n - _VIEW_PX, (s.start + s.stop - _VIEW_PX) // 2)) for n, s in zip(sides, best, strict=True)]
    return frame[(slice(None), *(slice(a, min(n, a + _VIEW_PX)) for a, n in zip(first, sides, strict=True)))]


def _part(view: NDArray[Any], sides: Sequence[int], most: int) -> Region:
    """Return the window of a grid of these sides, at most `most` pixels wide, in which the view varies most."""
    window = [min(n, most) for n in sides]
    own = [max(1, round(w * m / n)) for w, m, n in zip(window, view.shape[1:], sides, strict=True)]
    best = busiest_window(view, own, places=5)
    first = [min(n - w, round(s.start * n / m)) for s, w, m, n in zip(best, window, view.shape[1:], sides, strict=True)]
    return tuple(slice(a, a + w) for a, w in zip(first, window, strict=True))
