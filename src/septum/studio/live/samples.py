"""What was annotated, as training images: parts of planes around the tiles that hold labels.

Only what was annotated is learned. One thing follows from it: the pixels next to an object are not that object, and
where objects touch a border is learned between them; so the rim of one pixel around an object is background, unless
another object lies there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from septum.arrays.normalize import NormalizeSettings, statistics
from septum.arrays.resample import Resampled, scaled_sides
from septum.arrays.targets import UNANNOTATED
from septum.errors import SeptumError
from septum.io.image import Image
from septum.pairing.sample import Sample, evenly_chosen, on_grid
from septum.settings import MaskKind
from septum.studio.label_store import LabelStore, Plane
from septum.studio.project import Entry, Project
from septum.studio.settings import LEAST_OBJECTS
from septum.studio.tile_grid import Place, tile_box
from septum.training.plan import Plan
from septum.training.prepare import Prepared, prepare
from septum.words import pluralize

MOST_TILES = 48
"""Tiles that are learned from at once; each takes up to ten megabytes."""

LOOK_AGAIN_S = 5.0
"""Seconds until annotated images that were not in the folder are looked for again."""

_MARGIN = 192  # context around a tile in pixels
_WHOLE = 16_000_000  # planes of at most this many pixels are read whole for their statistics
_PARTS, _PART = 5, 512  # of larger ones regular parts are read

Key = tuple[int, Place]
"""A tile: the id of its plane and its place."""


class PlaneImage:
    """A section of a frame of an image, read by indexing ``[channels, rows, columns]``.

    Parameters
    ----------
    image
        The image.
    t, z
        Frame and section.
    """

    def __init__(self, image: Image, t: int, z: int) -> None:
        lengths = dict(zip(image.axes, image.shape, strict=True))
        self.shape = (lengths["C"], lengths["Y"], lengths["X"])
        self.dtype = image.dtype
        self._image, self._t, self._z = image, t, z

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Read a part: ``(C, Y, X)`` of the image's dtype, raw intensities."""
        at: dict[str, int | slice] = {"T": self._t, "Z": self._z, **dict(zip("CYX", index, strict=True))}
        return self._image[tuple(at[a] for a in self._image.axes)]

    def sampled(self) -> NDArray[Any]:
        """Return pixels for statistics, ``(C, Y, X)`` of the image's dtype, raw intensities: all, or regular parts."""
        channels, height, width = self.shape
        if height * width <= _WHOLE:
            return self[(slice(0, channels), slice(0, height), slice(0, width))]
        starts = [sorted({int(s) for s in np.linspace(0, n - _PART, _PARTS)}) for n in (height, width)]
        rows = [
            np.concatenate(
                [self[(slice(0, channels), slice(y, y + _PART), slice(x, x + _PART))] for x in starts[1]], axis=2
            )
            for y in starts[0]
        ]
        return np.concatenate(rows, axis=1)


@dataclass(frozen=True)
class _Held:
    """What a plane holds: its annotated tiles, whether one holds background, and objects, at these versions."""

    versions: dict[Place, int]
    places: list[Place]
    background: bool
    objects: set[int]


@dataclass
class LiveSamples:
    """The annotated tiles of a folder, prepared again only where labels have changed.

    Parameters
    ----------
    project, store
        Images and labels.
    kind
        Whether labels are objects or classes.

    Attributes
    ----------
    passed_over
        Why annotated images are not learned from, by name: gone, not readable, or of other channels than most.
    channels
        Of the images that are learned from.
    tiles
        The number of their annotated tiles, of which at most `MOST_TILES` are learned from.
    labels
        All labels of these images: objects or classes, and 0 for background.
    objects
        The number of their objects, or of objects and classes in all planes.
    area_px
        Usual area of an object, on the working grid; 0 if it is not known.
    scale
        Pixels of the working grid for each pixel of an image.
    """

    project: Project
    store: LabelStore
    kind: MaskKind

    def __post_init__(self) -> None:
        self._entries: dict[str, Entry] = {e.name: e for e in self.project.entries.values()}
        self._gone: set[str] = set()
        self._looked_at = 0.0
        self._versions: dict[Key, int] = {}
        self._held: dict[int, _Held] = {}
        self._chosen: list[Key] = []
        self._samples: dict[Key, tuple[int, Sample]] = {}
        self._prepared: dict[Key, tuple[int, Prepared]] = {}
        self._stats: dict[int, NDArray[np.float32]] = {}
        self._channels: dict[int, int] = {}
        self.passed_over: dict[str, str] = {}
        self.channels = 0
        self.tiles = 0
        self.labels: set[int] = set()
        self.objects = 0
        self.area_px = 0.0
        self.scale = 1.0

    def use_scale(self, scale: float) -> None:
        """Bring everything to the working grid of a scale (`septum.training.plan.Plan.scale`)."""
        if scale != self.scale:
            self.scale = scale
            self._samples.clear()
            self.forget_prepared()
            self.refresh()

    def refresh(self) -> bool:
        """Read the labels that have changed; return True if the parts to learn from are others than before."""
        before, passed_over = self._samples, self.passed_over
        self.passed_over = {}
        learned, edited = self._alike_planes(), self.store.edited()
        versions = self.store.all_versions()
        self._held = {plane.id: self._read_held(plane, versions.get(plane.id, {})) for _, plane in learned}
        tiles = {(plane.id, place): (e, plane) for e, plane in learned for place in self._held[plane.id].places}
        # A tile that came between the two readings has no version yet: the next reading finds it changed.
        present = {(plane, place): self._held[plane].versions.get(place, 0) for plane, place in tiles}
        # Tiles that came with a mask do not take the place of those that a person paints.
        came = {key: present[key] for key in present.keys() - self._versions.keys() if key[0] not in edited}
        self._chosen = choose_tiles(present, self._versions | (came if self._versions else {}), self._chosen)
        self._versions, self.tiles = present, len(tiles)
        self._samples = self._read_changed([(*tiles[key], key[1]) for key in self._chosen], versions)
        self.labels, self.objects = set(), 0
        for entry, plane in learned:
            if entry.name not in self.passed_over:
                held = self._held[plane.id]
                self.objects += len(held.objects)
                self.labels |= held.objects | ({0} if held.background else set())
        self.area_px = self._usual_area()
        near = [{key: version for key, (version, _) in samples.items()} for samples in (before, self._samples)]
        return near[0] != near[1] or passed_over != self.passed_over

    def choose_anew(self) -> None:
        """Choose the tiles anew at the next refresh, but keep those of planes that a person has edited."""
        edited = self.store.edited()
        self._chosen = [key for key in self._chosen if key[0] in edited]

    def _read_held(self, plane: Plane, versions: dict[Place, int]) -> _Held:
        """Return what a plane holds; it is read if its tiles have changed."""
        before = self._held.get(plane.id)
        if before is not None and before.versions == versions:
            return before
        background = bool(self.store.places_of(plane, 0))
        return _Held(versions, self.store.places_of(plane), background, self.store.objects(plane))

    def _usual_area(self) -> float:
        areas: list[int] = []
        for _, sample in list(self._samples.values())[:8]:
            sizes = np.bincount(sample.mask[sample.mask > 0]) if self.kind == "objects" else np.zeros(0, int)
            areas += sizes[sizes > 0].tolist()
        return float(np.median(areas)) if areas else 0.0

    @property
    def enough(self) -> bool:
        """Return True if there is enough to learn from: two objects, or two classes, one of which may be background."""
        known = self.objects if self.kind == "objects" else len(self.labels)
        return known >= LEAST_OBJECTS and bool(self._samples)

    def _alike_planes(self) -> list[tuple[Entry, Plane]]:
        """Return the annotated planes of images that can be opened and have as many channels as most of them."""
        opened: list[tuple[Entry, Plane, int]] = []
        planes = self.store.planes()
        self._find_new({plane.image for plane in planes})
        for plane in planes:
            entry = self._entries.get(plane.image)
            if entry is None:
                self.passed_over[plane.image] = f"{plane.image}: not in the folder any more"
                continue
            try:
                opened.append((entry, plane, self._channels_of(entry, plane)))
            except SeptumError as error:
                self.passed_over[entry.name] = error.given
        counts = Counter(channels for *_, channels in opened)
        self.channels = counts.most_common(1)[0][0] if counts else 0
        for entry, _, channels in opened:
            if channels != self.channels:
                others = f"those learned from have {self.channels}"
                self.passed_over[entry.name] = f"{entry.name}: {pluralize(channels, 'channel')}, {others}"
        return [(entry, plane) for entry, plane, channels in opened if channels == self.channels]

    def _find_new(self, annotated: set[str]) -> None:
        """List the images of the folder again where an annotated one is not known: it may have come since."""
        unknown = annotated - self._entries.keys()
        if unknown - self._gone or (unknown and time.monotonic() - self._looked_at >= LOOK_AGAIN_S):
            self.project.renew()
            self._looked_at = time.monotonic()
            self._entries = {e.name: e for e in self.project.entries.values()}
            self._gone = annotated - self._entries.keys()

    def _channels_of(self, entry: Entry, plane: Plane) -> int:
        if plane.id not in self._channels:
            image = PlaneImage(self.project.open(entry), plane.t, plane.z)
            self.store.plane(entry.name, plane.t, plane.z, image.shape[1:])  # refuses labels of other sides
            self._channels[plane.id] = image.shape[0]
        return self._channels[plane.id]

    def _read_changed(
        self, tiles: list[tuple[Entry, Plane, Place]], versions: dict[int, dict[Place, int]]
    ) -> dict[Key, tuple[int, Sample]]:
        """Return the samples of tiles, each with the sum of the versions around it; read those of another sum."""
        read: dict[Key, tuple[int, Sample]] = {}
        for entry, plane, place in tiles:
            around = [(place[0] + dy, place[1] + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            near = sum(versions[plane.id].get(one, 0) for one in around)
            before = self._samples.get((plane.id, place))
            if before is None or before[0] != near:
                try:
                    before = near, self._read(entry, plane, place)
                except SeptumError as error:
                    self.passed_over[entry.name] = error.given
                    continue
            read[(plane.id, place)] = before
        return read

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Return the annotated parts, on the working grid."""
        return tuple(sample for _, sample in self._samples.values())

    def stats(self, plane: Plane, image: PlaneImage, settings: NormalizeSettings) -> NDArray[np.float32]:
        """Return the statistics of a plane on the working grid: ``(C, 3) float32``, any values; see `statistics`."""
        if plane.id not in self._stats:
            pixels = image.sampled()
            if self.scale != 1:
                grid = scaled_sides(pixels.shape[1:], (self.scale, self.scale))
                pixels = Resampled(pixels, grid)[(slice(None), slice(None), slice(None))]
            self._stats[plane.id] = statistics(pixels, settings)
        return self._stats[plane.id]

    def image(self, plane: Plane) -> PlaneImage | None:
        """Return the image of a plane; None if it is not in the folder any more."""
        entry = self._entries.get(plane.image)
        return None if entry is None else PlaneImage(self.project.open(entry), plane.t, plane.z)

    def prepared(self, plan: Plan) -> tuple[Prepared, ...]:
        """Return the annotated parts ready for training, each normalized as its whole plane."""
        planes = {plane.id: plane for plane in self.store.planes()}
        made: dict[Key, tuple[int, Prepared]] = {}
        for key, (version, sample) in self._samples.items():
            before = self._prepared.get(key)
            if before is None or before[0] != version:
                plane = planes[key[0]]
                image = self.image(plane)
                assert image is not None
                try:
                    common = [(float(o), float(s)) for o, s, _ in self.stats(plane, image, plan.normalization)]
                except SeptumError as error:
                    self.passed_over[plane.image] = error.given
                    continue
                fixed = NormalizeSettings(method="common", common=tuple(common), limit=plan.normalization.limit)
                own = plan.model_copy(update={"normalization": fixed})
                before = version, next(iter(prepare([sample], own, kind=self.kind)))
            made[key] = before
        self._prepared = made
        return tuple(prepared for _, prepared in made.values())

    def forget_prepared(self) -> None:
        """Prepare all parts anew, for another plan."""
        self._prepared.clear()
        self._stats.clear()

    def _read(self, entry: Entry, plane: Plane, place: Place) -> Sample:
        """Return a tile with context, in which only the tile itself is annotated."""
        image = PlaneImage(self.project.open(entry), plane.t, plane.z)
        core = tile_box(place).clip(plane.box)
        around = core.grow(int(_MARGIN / min(self.scale, 1.0))).clip(plane.box)
        labels = self.store.read(plane, around)
        known = np.zeros(labels.shape, bool)
        known[core.within(around)] = True
        part = image[(slice(0, image.shape[0]), slice(around.y0, around.y1), slice(around.x0, around.x1))]
        name = f"{plane.image} t{plane.t} z{plane.z} {place[0]} {place[1]}"
        mask = np.where(known | (labels > 0), labels, UNANNOTATED).astype(np.int32)
        pixels = np.nan_to_num(part.astype(np.float32))
        sample = on_grid(Sample(name, "", 0, pixels, mask, None, None), self.scale)
        return replace(sample, mask=with_rim(sample.mask)) if self.kind == "objects" else sample


def choose_tiles(present: Mapping[Key, int], before: Mapping[Key, int], chosen: Sequence[Key]) -> list[Key]:
    """Choose the tiles to learn from: those that have changed, and those chosen before as far as there is room.

    Parameters
    ----------
    present
        The version of each annotated tile.
    before
        The same when tiles were last chosen; empty at first.
    chosen
        The tiles that were chosen then, those changed longest ago first.

    Returns
    -------
    list
        All tiles, or `MOST_TILES` of them: evenly chosen ones where more have changed. Where a tile has to leave, it
        is of the plane with most chosen tiles, the one changed longest ago.
    """
    changed = [key for key, version in present.items() if before.get(key) != version]
    changed = [changed[i] for i in evenly_chosen(len(changed), MOST_TILES)]
    new = set(changed)
    kept = [key for key in chosen if key in present and key not in new]
    while len(kept) + len(changed) > MOST_TILES:
        tiles_of = Counter(plane for plane, _ in kept)
        kept.remove(next(key for key in kept if tiles_of[key[0]] == max(tiles_of.values())))
    others = [key for key in present if key not in new.union(kept)]
    filled = [others[i] for i in evenly_chosen(len(others), MOST_TILES - len(kept) - len(changed))]
    return [*filled, *kept, *changed]


def with_rim(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return labels in which unannotated pixels next to an object, also diagonally, are background.

    Parameters
    ----------
    labels
        ``(Y, X)`` int32: object ids, 0 background, -1 not annotated.

    Returns
    -------
    ndarray
        ``(Y, X)`` int32, the same labels otherwise.
    """
    from scipy.ndimage import maximum_filter

    near = maximum_filter(labels > 0, size=3, mode="constant")
    return np.where((labels == UNANNOTATED) & near, np.int32(0), labels)
