"""Masks in the background: those that exist are read into the labels, and those of edited images are written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from septum.errors import SeptumError
from septum.io.files import open_image
from septum.studio import masks
from septum.studio.hub import Hub
from septum.studio.label_store import READ, Edit, EditConflictError, LabelStore
from septum.studio.project import Entry, Project
from septum.studio.pyramid import Pyramid
from septum.words import pluralize

RETRY_S = 30.0
"""What failed is tried again after this time."""

MOST_READ = 50_000_000
"""Masks of more pixels are not read in the background, but when their image is opened."""

_WRITE_AFTER_S = 1.5  # a mask is written after this pause of editing
_TELL_S = 1.0  # the pages are told how many masks are left


def tell_labels(hub: Hub, store: LabelStore, entry: Entry, done: Edit | None) -> None:
    """Tell all pages which tiles of an image an edit has changed, and how many objects it has now.

    A mask that was read may hold the numbers that a page has reserved for new objects: the page must ask for others.
    """
    objects = store.counts(entry.name).get(entry.name, 0)
    for one in () if done is None else (done, *done.others):
        tiles = [[*place, version] for place, version in one.versions.items()]
        read = one.name == READ
        hub.send("labels", image=entry.id, t=one.plane.t, z=one.plane.z, tiles=tiles, objects=objects, read=read)


@dataclass(frozen=True)
class UnreadMasks:
    """Masks that exist, but whose labels are not known.

    Attributes
    ----------
    waiting
        Number of those that will be read in the background.
    large
        Number of those that are read when their image is opened.
    failed
        For each one that cannot be read, the reason.
    """

    waiting: int = 0
    large: int = 0
    failed: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return sentences on the first two, each with a space before it."""
        text = ""
        if self.waiting:
            are = "is" if self.waiting == 1 else "are"
            text = f" {pluralize(self.waiting, 'mask')} of the folder {are} being read."
        if self.large:
            are, each = ("is", "it") if self.large == 1 else ("are", "each")
            text += f" {pluralize(self.large, 'image')} with a large mask {are} not learned from yet: open {each} once."
        return text


class MaskReader:
    """Reads the masks that exist into the labels, one after the other in the order of the list.

    Masks that cannot be read, and large ones, are not tried again until they have changed.

    Parameters
    ----------
    project, store, hub
        Of the session.
    edits
        The lock under which the session edits labels.
    tell
        Called with the masks that are not read yet: at most once a second, and at the end.
    done
        Called after masks were read.
    """

    def __init__(
        self,
        project: Project,
        store: LabelStore,
        hub: Hub,
        edits: threading.Lock,
        tell: Callable[[UnreadMasks], None],
        done: Callable[[], None],
    ) -> None:
        self._project, self._store, self._hub, self._edits = project, store, hub, edits
        self._tell, self._done = tell, done
        # By name the signature of a mask that is not tried again, and the reason why it cannot be read; "" if large.
        self._skipped: dict[str, tuple[str, str]] = {}
        self._told_at = 0.0
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="septum-mask-reader")

    def begin(self) -> None:
        """Read in a thread of its own until `close`."""
        self._wake.set()
        self._thread.start()

    def look(self) -> None:
        """Look for new masks, if reading has begun."""
        self._wake.set()

    def close(self) -> None:
        """End after the mask that is being read."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            self.read_all()

    def read_all(self) -> None:
        """Read all masks that are not read yet."""
        entries = list(self._project.entries.values())
        skipped = {entry.name: self._skipped.get(entry.name) for entry in entries}
        self._skipped = {name: one for name, one in skipped.items() if one is not None}
        waiting = [(entry, now) for entry in entries if (now := self._new(entry)) is not None]
        read = 0
        for number, (entry, now) in enumerate(waiting):
            if self._closed:
                return
            if time.monotonic() - self._told_at >= _TELL_S:
                self._told_at = time.monotonic()
                self._tell(self._unread(len(waiting) - number))
            read += self._read(entry, now)
        if self._closed:
            return
        self._tell(self._unread(0))
        if read:
            self._done()

    def _new(self, entry: Entry) -> str | None:
        """Return the signature of a mask that is to be read; None if there is none, or if it is skipped."""
        try:
            now = masks.unread(self._project, self._store, entry)
        except SeptumError:
            now = None  # the file has gone since
        if now is not None and self._skipped.get(entry.name, ("", ""))[0] == now:
            return None
        self._skipped.pop(entry.name, None)
        return now

    def _unread(self, waiting: int) -> UnreadMasks:
        reasons = [reason for _, reason in self._skipped.values()]
        return UnreadMasks(waiting, reasons.count(""), tuple(reason for reason in reasons if reason))

    def _read(self, entry: Entry, now: str) -> bool:
        try:
            # Not by the project, which keeps the images open that the pages show.
            image = open_image(entry.path, axes=self._project.axes)
            if masks.count_pixels(image) > MOST_READ:
                self._skipped[entry.name] = now, ""
                return False
            found = masks.find_existing(self._project, self._store, entry, image)
            if found is None:
                return False
            with self._edits:
                done = masks.enter_existing(self._store, found)
        except EditConflictError:
            return False  # a person has opened or edited the image meanwhile
        except SeptumError as error:
            self._skipped[entry.name] = now, error.given
            return False
        except (OSError, MemoryError) as error:
            self._skipped[entry.name] = now, f"{entry.name}: its mask cannot be read ({error!r})"
            return False
        tell_labels(self._hub, self._store, entry, done)
        return True


class MaskWriter:
    """Writes masks in the background, a pause after the last edit of an image; tries again those that failed.

    The store keeps which edit of an image was written last: what an earlier process did not write is written at the
    start. Masks of large images are written when they are asked for.

    Parameters
    ----------
    project, store, pyramid, hub
        Of the session.
    """

    def __init__(self, project: Project, store: LabelStore, pyramid: Pyramid, hub: Hub) -> None:
        self._project, self._store, self._pyramid, self._hub = project, store, pyramid, hub
        self._waiting: dict[str, Entry] = {}
        self._failed: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self.write_due()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="septum-masks")
        self._thread.start()

    def write_due(self) -> None:
        """Write all masks soon that lack an edit, or state another kind than labels are now."""
        for entry in self._project.entries.values():
            if masks.is_due(self._project, self._store, entry):
                self.write_soon(entry)

    def write_soon(self, entry: Entry) -> None:
        """Write the mask of an image after a pause of editing."""
        with self._lock:
            self._waiting[entry.id] = entry
        self._wake.set()

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(RETRY_S if self._failed else None)
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
                        text = f"{error} (tried again every {RETRY_S:.0f} seconds)"
                        self._hub.send("failure", text=text)

    def write_large(self, entry: Entry) -> None:
        """Write the mask of an image that is too large to be written after each edit, if it has changed.

        Raises
        ------
        SeptumError
            If it cannot be written.
        """
        missing = masks.mask_file(self._project, entry) is None
        if self._store.planes(entry.name) and (missing or masks.is_due(self._project, self._store, entry)):
            with self._writing:
                self._write(entry, large=True)

    def _write(self, entry: Entry, *, large: bool) -> None:
        shown = self._pyramid.shown(entry)
        if large == masks.is_written(shown):
            return
        edit = self._store.latest_edit(entry.name)  # before the mask is written: later edits may be in it or not
        written = masks.write_mask(self._project, self._store, entry, shown)
        for note in written.notes:
            self._hub.send("note", text=note)  # which file of somebody else was moved for the mask
        masks.mark_written(self._store, entry, edit, written.kind)
        self._hub.send("written", image=entry.id)

    def close(self) -> None:
        """Write what waits, and end."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        self.flush()
