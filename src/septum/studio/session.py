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
from septum.settings import MaskKind
from septum.studio import masks
from septum.studio.background import RETRY_S, MaskReader, MaskWriter, tell_labels
from septum.studio.edits import REQUEST, Accept, edit
from septum.studio.hub import Hub
from septum.studio.label_levels import LabelLevels
from septum.studio.label_store import Edit, EditConflictError, LabelStore, Plane
from septum.studio.learning import Learning
from septum.studio.project import Entry, Project
from septum.studio.pyramid import SHOWN_FIRST, Pyramid
from septum.studio.settings import StudioSettings
from septum.studio.tile_grid import SIDE, levels_of
from septum.words import pluralize


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
        self._writer = MaskWriter(self.project, self.store, self.pyramid, self.hub)
        tell = self.learning.show_unread
        self._reader = MaskReader(self.project, self.store, self.hub, self._edit_lock, tell, self._masks_read)

    def begin(self) -> None:
        """Go on learning, and read the masks that exist in the background."""
        self.learning.follow()
        self._reader.begin()

    def close(self) -> None:
        """Write masks that are not written yet, and end everything."""
        self.hub.close()
        self._reader.close()  # first, as masks that were read begin learning
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
        self._reader.look()
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
        self._read_mask(entry)
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
            "written": masks.is_written(shown),
            "objects": self.store.counts(entry.name).get(entry.name),
        }

    def _read_mask(self, entry: Entry) -> None:
        """Read the mask of an image, unless the labels hold it."""
        image = self.project.open(entry)
        with self._edit_lock:
            found = masks.find_existing(self.project, self.store, entry, image)
            if found is None:
                return
            try:
                done = masks.enter_existing(self.store, found)
            except EditConflictError:  # it has just been read in the background
                return
        self.hub.send("note", text=f"read {format_path(found.file)}")
        tell_labels(self.hub, self.store, entry, done)
        self._masks_read()
        self._reader.look()  # one mask less is not read yet

    def _masks_read(self) -> None:
        """Learn from masks that were read, and write those that state another kind than labels are."""
        self.learning.learn_masks()
        self._writer.write_due()

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

    def set_kind(self, kind: MaskKind) -> None:
        """Say whether labels are objects or classes; soon masks are written and drawn objects are read again."""
        self.learning.set_kind(kind)
        self._writer.write_due()
        self._reader.look()

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
        tell_labels(self.hub, self.store, entry, done)
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
            self._building[key] = time.monotonic() + RETRY_S
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
