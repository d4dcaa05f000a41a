"""The state behind the page: images, labels, the masks that are written after edits, the training and the jobs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from septum.errors import SeptumError, UsageError
from septum.io.formats import format_path
from septum.studio import masks
from septum.studio.edits import REQUEST, Accept, edit
from septum.studio.hub import Hub
from septum.studio.label_levels import LabelLevels
from septum.studio.label_store import Edit, LabelStore, Plane
from septum.studio.learning import Learning
from septum.studio.project import Entry, Project
from septum.studio.pyramid import SHOWN_FIRST, Pyramid, Shown
from septum.studio.settings import StudioSettings
from septum.studio.tile_grid import SIDE, levels_of
from septum.words import pluralize

_WRITE_AFTER_S = 1.5  # a mask is written after this pause of editing
_RETRY_S = 30.0  # what failed is tried again after this time


class Session:
    """One person's work on a folder, in any number of windows.

    Parameters
    ----------
    settings
        Folder and options.

    Raises
    ------
    UsageError
        If the folder holds no image, or another studio is open on it.
    """

    def __init__(self, settings: StudioSettings) -> None:
        self.settings = settings
        self.project = Project(settings.folder, settings.axes)
        self._folder_lock = _lock(self.project)
        self.store = LabelStore(self.project.labels)
        self.levels = LabelLevels(self.store)
        self.pyramid = Pyramid(self.project)
        self.hub = Hub()
        self.learning = Learning(settings, self.project, self.store, self.hub)
        self._edit_lock = threading.Lock()
        # Planes with a channel of those that are made together, and when to try again.
        self._building: dict[tuple[str, int, int, int], float] = {}
        self._writer = _MaskWriter(self)

    def close(self) -> None:
        """Write masks that are not written yet, and end everything."""
        self.hub.close()
        self.learning.close()
        self._writer.close()
        self.store.close()
        self._folder_lock.release()

    def plane(self, entry: Entry, t: int, z: int) -> Plane:
        """Return a plane of an image.

        Raises
        ------
        UsageError
            If the image has no such frame or section.
        """
        shown = self.pyramid.shown(entry)
        if not (0 <= t < shown.frames and 0 <= z < shown.sections):
            raise UsageError(
                f"frame {t}, section {z}: not in this image",
                f"one of {pluralize(shown.frames, 'frame')} and {pluralize(shown.sections, 'section')}, counted from 0",
                "reload the page",
            )
        return self.store.plane(entry.name, t, z, shown.sides)

    def overview(self) -> dict[str, Any]:
        """Return the images of the folder and the state, for the page."""
        counts = self.store.counts()
        self.project.renew()
        return {
            "folder": format_path(self.project.root),
            "images": [
                {"id": e.id, "name": e.name, "objects": counts.get(e.name, 0), "annotated": e.name in counts}
                for e in self.project.entries.values()
            ],
            "passed_over": self.project.passed_over,
            "side": SIDE,
            "models": self.learning.models(),
            "live": self.learning.live_state,
            "job": None if self.learning.job_state is None else self.learning.describe_job(),
        }

    def describe(self, entry: Entry) -> dict[str, Any]:
        """Return what the page must know of an image; its mask is read the first time.

        Raises
        ------
        SeptumError
            If the image or its mask cannot be read.
        """
        if self.pyramid.renew(entry):
            self._building = {key: at for key, at in self._building.items() if key[0] != entry.id}
        shown = self.pyramid.shown(entry)
        self.plane(entry, 0, 0)  # refuses labels of other sides
        with self._edit_lock:
            read = masks.read_existing(self.project, self.store, entry, shown)
            if read is not None:
                self._writer.mark_written(entry, self.store.latest_edit(entry.name))
        objects = self.store.counts().get(entry.name)
        if read is not None:
            self.hub.send("note", text=read)
            self.hub.send("labels", image=entry.id, t=0, z=0, tiles=[], objects=objects or 0)
            self.learning.follow_masks()
        height, width = shown.sides
        return {
            "id": entry.id,
            "name": entry.name,
            "height": height,
            "width": width,
            "channels": shown.channels,
            "frames": shown.frames,
            "sections": shown.sections,
            "bits": shown.bits,
            "windows": shown.windows,
            "levels": levels_of(shown.sides),
            "written": _is_written(shown),
            "objects": objects,
        }

    def edit(self, entry: Entry, t: int, z: int, request: Mapping[str, Any]) -> Edit:
        """Do one edit, tell all pages, and write the mask soon.

        Raises
        ------
        SeptumError
            If the request does not fit.
        """
        plane = self.plane(entry, t, z)
        asked = REQUEST.validate_python(request)
        self.project.note_folders()
        with self._edit_lock:
            prediction = self.learning.prediction(plane) if isinstance(asked, Accept) else None
            done = edit(self.store, plane, asked, prediction)
        self._changed(entry, done)
        return done

    def start_job(self, kind: str, options: Mapping[str, Any]) -> None:
        """Write all masks, and start a job; see `Learning.start_job`.

        Raises
        ------
        UsageError
            If it cannot be started.
        SeptumError
            If a mask cannot be written.
        """
        if kind == "train":
            for error in self._writer.flush():
                raise error  # a training would miss what was annotated
            for entry in self.project.entries.values():
                self._writer.write_large(entry)
        self.learning.start_job(kind, dict(options))

    def step(self, entry: Entry, *, undo: bool) -> Edit | None:
        """Undo or redo an edit of an image; None if there is none."""
        with self._edit_lock:
            done = self.store.undo(entry.name) if undo else self.store.redo(entry.name)
        if done is not None:
            self._changed(entry, done)
        return done

    def _changed(self, entry: Entry, done: Edit) -> None:
        if not done.versions:
            return
        objects = self.store.counts().get(entry.name, 0)
        for one in (done, *done.others):
            tiles = [[*place, version] for place, version in one.versions.items()]
            self.hub.send("labels", image=entry.id, t=one.plane.t, z=one.plane.z, tiles=tiles, objects=objects)
        self.learning.follow()
        self._writer.write_soon(entry)

    def build_levels(self, entry: Entry, t: int, z: int, channel: int) -> None:
        """Make the coarser levels of a large plane in the background, once; after a failure again, but not at once.

        Those of the first three channels, which the page shows first, are made together.
        """
        key = (entry.id, t, z, 0 if channel < SHOWN_FIRST else channel)
        if time.monotonic() < self._building.get(key, 0.0):
            return
        self._building[key] = math.inf
        threading.Thread(target=self._build, args=(entry, key), daemon=True, name="septum-levels").start()

    def _build(self, entry: Entry, key: tuple[str, int, int, int]) -> None:
        _, t, z, channel = key
        told = 0.0
        try:
            for share in self.pyramid.build(entry, t, z, channel):
                if share - told >= 0.05:
                    told = share
                    self.hub.send("levels", image=entry.id, t=t, z=z, share=share)
            self.hub.send("levels", image=entry.id, t=t, z=z, share=1.0)
        except (SeptumError, OSError, MemoryError) as error:
            self._building[key] = time.monotonic() + _RETRY_S
            self.hub.send("failure", text=f"{entry.name}: coarser levels are not made yet: {error}")

    def newest_mask(self, entry: Entry) -> Path | None:
        """Write the mask of an image as it is now; return its file, None if nothing is annotated.

        Raises
        ------
        SeptumError
            If it cannot be written.
        """
        for error in self._writer.flush():
            raise error
        self._writer.write_large(entry)
        return self.mask_file(entry)

    def mask_file(self, entry: Entry) -> Path | None:
        """Return the mask of an image that is on the disk: that of the studio, or one that was there before."""
        return masks.mask_file(self.project, entry)


class _MaskWriter:
    """Writes masks in the background, a pause after the last edit of an image; those that failed again and again.

    The store keeps which edit of an image was written last: what an earlier process did not write is written at the
    start. Masks of large images are written when they are asked for.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: dict[str, Entry] = {e.id: e for e in session.project.entries.values() if self._is_due(e)}
        self._failed: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        if self._waiting:
            self._wake.set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="septum-masks")
        self._thread.start()

    def _is_due(self, entry: Entry) -> bool:
        """Return True if an image was edited after its mask was written or read last."""
        store = self._session.store
        latest, written = store.latest_edit(entry.name), store.note(f"written {entry.name}")
        if written is None:  # no mask yet, or one of a version of Septum that did not keep this
            return latest > 0 and masks.may_lack_edits(self._session.project, store, entry)
        return str(latest) != written

    def mark_written(self, entry: Entry, edit: int) -> None:
        """Keep that the mask of an image holds an edit; see `LabelStore.latest_edit`."""
        self._session.store.note(f"written {entry.name}", str(edit))

    def write_soon(self, entry: Entry) -> None:
        with self._lock:
            self._waiting[entry.id] = entry
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(_RETRY_S if self._failed else None)
            self._wake.clear()
            if self._closed:
                return
            while not self._closed and self._wake.wait(_WRITE_AFTER_S):
                self._wake.clear()
            self.flush()

    def flush(self) -> list[SeptumError]:
        """Write all masks that wait, and those that failed before; return the errors of those that failed again.

        A mask that another thread writes at this moment is waited for.
        """
        errors: list[SeptumError] = []
        with self._writing:
            with self._lock:
                before, self._failed = self._failed, {}
                self._waiting = {**before, **self._waiting}
            while True:
                with self._lock:
                    if not self._waiting:
                        return errors
                    _, entry = self._waiting.popitem()
                try:
                    self._write(entry, large=False)
                except SeptumError as error:
                    errors.append(error)
                    with self._lock:
                        self._failed[entry.id] = entry
                    if entry.id not in before:
                        text = f"{error} (tried again every {_RETRY_S:.0f} seconds)"
                        self._session.hub.send("failure", text=text)

    def write_large(self, entry: Entry) -> None:
        """Write the mask of an image that is too large to be written after each edit, if it has changed.

        Raises
        ------
        SeptumError
            If it cannot be written.
        """
        missing = self._session.mask_file(entry) is None
        if self._session.store.planes(entry.name) and (missing or self._is_due(entry)):
            with self._writing:
                self._write(entry, large=True)

    def _write(self, entry: Entry, *, large: bool) -> None:
        session = self._session
        shown = session.pyramid.shown(entry)
        if large == _is_written(shown):
            return
        edit = session.store.latest_edit(entry.name)  # before the mask is written: later edits may be in it or not
        for note in masks.write_mask(session.project, session.store, entry, shown).notes:
            session.hub.send("note", text=note)  # which file of somebody else was moved for the mask
        self.mark_written(entry, edit)
        session.hub.send("written", image=entry.id)

    def close(self) -> None:
        self._closed = True
        self._wake.set()
        self._thread.join()
        self.flush()


def _is_written(shown: Shown) -> bool:
    """Return True if the mask of an image is written after each edit."""
    return shown.sides[0] * shown.sides[1] * shown.frames * shown.sections <= masks.MOST_PIXELS


def _lock(project: Project) -> Any:
    """Lock the folder for this process."""
    from filelock import FileLock, Timeout

    project.make_work()
    lock = FileLock(project.work / ".lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{format_path(project.root)}: another studio is open on this folder",
            "one studio for a folder; several windows may show it",
            "open its address, or close it",
        ) from None
    return lock
