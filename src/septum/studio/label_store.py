"""Labels that a person paints: tiles and a journal of edits in one SQLite file, each edit one transaction.

What the page shows as saved is on the disk: an edit, its inverse and the new versions of its tiles are committed
together, so that a process that is killed leaves the state before or after an edit. Undo and redo read the journal, and
work after a restart too.
"""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from septum.errors import DataError, SeptumError
from septum.settings import MaskKind
from septum.studio.database import Database
from septum.studio.tile_change import TileChange, compare_tile, held_in
from septum.studio.tile_grid import SIDE, Place, Rect, clip_tile, empty_tile, pack, tile_box, unpack

_SCHEMA = """
CREATE TABLE IF NOT EXISTS plane(id INTEGER PRIMARY KEY, image TEXT, t INT, z INT, h INT, w INT, UNIQUE(image, t, z));
CREATE TABLE IF NOT EXISTS tile(plane INT, ty INT, tx INT, version INT, data BLOB, PRIMARY KEY(plane, ty, tx));
CREATE TABLE IF NOT EXISTS held(plane INT, object INT, ty INT, tx INT, PRIMARY KEY(plane, object, ty, tx))
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS held_in ON held(plane, ty, tx);
CREATE TABLE IF NOT EXISTS edit(id INTEGER PRIMARY KEY AUTOINCREMENT, plane INT, name TEXT, at REAL, undone INT);
CREATE INDEX IF NOT EXISTS edit_of ON edit(plane);
CREATE TABLE IF NOT EXISTS change(edit INT, ty INT, tx INT, y0 INT, x0 INT, y1 INT, x1 INT, before BLOB, after BLOB,
    PRIMARY KEY(edit, ty, tx));
CREATE TABLE IF NOT EXISTS joined(edit INTEGER PRIMARY KEY, first INT);
CREATE TABLE IF NOT EXISTS image(name TEXT PRIMARY KEY, reserved INT);
"""
_CACHED_TILES = 64
_EMPTY = empty_tile()
_EMPTY.flags.writeable = False
READ = "read mask"
"""The name of the edit by which a mask that exists is read."""


class EditConflictError(SeptumError):
    """An edit of a tile that another window has changed since."""


@dataclass(frozen=True)
class Plane:
    """A section of a frame of an image, on which labels are painted; `id` is its number in the store.

    `sides` are height and width in pixels.
    """

    id: int
    image: str
    t: int
    z: int
    sides: tuple[int, int]

    @property
    def box(self) -> Rect:
        """Return all pixels of the plane."""
        return Rect(0, 0, *self.sides)


@dataclass(frozen=True)
class Edit:
    """An edit that is on the disk: its name, a plane and the new versions of the tiles that it changed there.

    `others` holds what it changed in other planes of the image.
    """

    name: str
    plane: Plane
    versions: dict[Place, int]
    others: tuple[Edit, ...] = ()


@dataclass(frozen=True, eq=False)
class Changes:
    """Changes of planes of an image, ready to be written; see `LabelStore.compare`.

    `latest` is the latest edit that they were made on.
    """

    image: str
    latest: int
    planes: tuple[tuple[Plane, tuple[TileChange, ...]], ...]


class LabelStore(Database):
    """The labels of all images of a folder.

    Parameters
    ----------
    path
        The file; made if missing. Several processes may read it; one writes.

    Raises
    ------
    FileError
        If the file cannot be read or written, here and in all methods: it is damaged, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)
        self._cache: OrderedDict[tuple[int, Place], tuple[int, NDArray[np.int32]]] = OrderedDict()

    def _undone(self) -> None:
        self._cache.clear()

    def plane(self, image: str, t: int, z: int, sides: tuple[int, int]) -> Plane:
        """Return a plane of an image of these sides; it is entered if it is new.

        Raises
        ------
        DataError
            If it was painted when the image had other sides.
        """
        found = self._all("SELECT id, h, w FROM plane WHERE image=? AND t=? AND z=?", image, t, z)
        if not found:
            with self.transaction() as db:
                db.execute("INSERT INTO plane(image, t, z, h, w) VALUES(?, ?, ?, ?, ?)", (image, t, z, *sides))
            return self.plane(image, t, z, sides)
        number, *before = found[0]
        plane = Plane(int(number), image, t, z, sides)
        if tuple(before) != sides:
            if self.versions(plane):
                raise DataError(
                    f"{image}: an image of {sides[0]} x {sides[1]} pixels with labels of {before[0]} x {before[1]}",
                    "the image that was painted on",
                    "put that image back, or give the new one another name",
                )
            with self.transaction() as db:
                db.execute("UPDATE plane SET h=?, w=? WHERE id=?", (*sides, plane.id))
        return plane

    def planes(self, image: str | None = None) -> list[Plane]:
        """Return the planes that hold labels, of one image or of all."""
        rows = self._all(
            "SELECT id, image, t, z, h, w FROM plane WHERE (?1 IS NULL OR image=?1) "
            "AND id IN (SELECT plane FROM tile) ORDER BY image, t, z",
            image,
        )
        return [Plane(r[0], r[1], r[2], r[3], (r[4], r[5])) for r in rows]

    def versions(self, plane: Plane) -> dict[Place, int]:
        """Return the version of each tile of a plane that was ever painted."""
        return {(ty, tx): v for ty, tx, v in self._all("SELECT ty, tx, version FROM tile WHERE plane=?", plane.id)}

    def all_versions(self) -> dict[int, dict[Place, int]]:
        """Return the same for all planes, by their ids."""
        found: dict[int, dict[Place, int]] = {}
        for plane, ty, tx, version in self._all("SELECT plane, ty, tx, version FROM tile"):
            found.setdefault(plane, {})[(ty, tx)] = version
        return found

    def edited(self) -> set[int]:
        """Return the ids of the planes that a person has edited; those of which only a mask was read are left out."""
        return {row[0] for row in self._all("SELECT DISTINCT plane FROM edit WHERE name!=?", READ)}

    def is_edited(self, image: str) -> bool:
        """Return True if a person has edited an image; reading its mask is no such edit."""
        ask = "SELECT 1 FROM plane JOIN edit ON edit.plane=plane.id WHERE image=? AND name!=? LIMIT 1"
        return bool(self._all(ask, image, READ))

    def version(self, plane: Plane, place: Place) -> int:
        """Return the version of a tile: the number of its changes."""
        found = self._all("SELECT version FROM tile WHERE plane=? AND ty=? AND tx=?", plane.id, *place)
        return int(found[0][0]) if found else 0

    def tile(self, plane: Plane, place: Place) -> NDArray[np.int32]:
        """Return a tile.

        Returns
        -------
        ndarray
            ``(SIDE, SIDE)`` int32 labels, read-only: ids of 1 and more, 0 background, -1 not annotated.
        """
        with self._lock:
            version = self.version(plane, place)
            cached = self._cache.get((plane.id, place))
            if cached is not None and cached[0] == version:
                self._cache.move_to_end((plane.id, place))
                return cached[1]
            found = self._all("SELECT data FROM tile WHERE plane=? AND ty=? AND tx=?", plane.id, *place)
            if not found:
                return _EMPTY
            array = unpack(found[0][0], (SIDE, SIDE))
            array.flags.writeable = False
            self._cache[(plane.id, place)] = (version, array)
            while len(self._cache) > _CACHED_TILES:
                self._cache.popitem(last=False)
            return array

    def read(self, plane: Plane, box: Rect) -> NDArray[np.int32]:
        """Return the labels of a box inside the plane.

        Returns
        -------
        ndarray
            ``(Y, X)`` int32 labels, writable.
        """
        out = np.full(box.sides, -1, np.int32)
        for place in box.places():
            whole = tile_box(place)
            part = whole.clip(box)
            out[part.within(box)] = self.tile(plane, place)[part.within(whole)]
        return out

    def objects(self, plane: Plane) -> set[int]:
        """Return the ids in a plane."""
        return {row[0] for row in self._all("SELECT DISTINCT object FROM held WHERE plane=? AND object>0", plane.id)}

    def places_of(self, plane: Plane, label: int | None = None) -> list[Place]:
        """Return the tiles that hold a label, or any label; 0 is background."""
        held = "FROM held WHERE plane=?1 AND (?2 IS NULL OR object=?2)"
        rows = self._all(f"SELECT DISTINCT ty, tx {held} ORDER BY ty, tx", plane.id, label)
        return [(ty, tx) for ty, tx in rows]

    def reserve(self, image: str, count: int = 1) -> int:
        """Return the first of `count` ids that no object of an image has or had; no later call returns them."""
        with self.transaction() as db:
            highest = db.execute(
                "SELECT max(object) FROM held JOIN plane ON plane.id=held.plane WHERE image=?", (image,)
            ).fetchone()[0]
            row = db.execute("SELECT reserved FROM image WHERE name=?", (image,)).fetchone()
            first = max(highest or 0, row[0] if row else 0) + 1
            db.execute("INSERT OR REPLACE INTO image(name, reserved) VALUES(?, ?)", (image, first + count - 1))
        return first

    def counts(self, image: str | None = None) -> dict[str, int]:
        """Return the number of objects of each image that has labels, or of one image."""
        rows = self._all(
            "SELECT image, count(DISTINCT CASE WHEN object>0 THEN plane * 4294967296 + object END) FROM plane "
            "JOIN held ON plane.id=held.plane WHERE ?1 IS NULL OR image=?1 GROUP BY image",
            image,
        )
        return {name: int(count) for name, count in rows}

    @property
    def kind(self) -> MaskKind:
        """Return whether the labels are objects or classes."""
        return "classes" if self.note("kind") == "classes" else "objects"

    def latest_edit(self, image: str) -> int:
        """Return a number that changes with each edit, undo and redo of an image; 0 without labels."""
        rows = self._all("SELECT sum(version) FROM tile JOIN plane ON plane.id=tile.plane WHERE image=?", image)
        return int(rows[0][0] or 0)

    def write(
        self,
        plane: Plane,
        name: str,
        changes: Mapping[Place, NDArray[np.int32]],
        expected: Mapping[Place, int] | None = None,
    ) -> Edit:
        """Replace tiles, and enter the edit in the journal.

        Parameters
        ----------
        plane
            Where.
        name
            What was done, for the person: ``"brush"``.
        changes
            ``(SIDE, SIDE)`` int32 labels by tile; pixels beyond the border of the plane are not annotated.
        expected
            The versions that the edit was made on; None: the present ones.

        Raises
        ------
        EditConflictError
            If a tile has another version: nothing is changed.
        """
        with self.transaction() as db:
            for place, version in (expected or {}).items():
                if self.version(plane, place) != version:
                    raise EditConflictError(
                        f"tile {place} was changed in another window", f"version {version}", "paint on the new state"
                    )
            return self._enter(db, plane, name, self._compare(plane, changes))[1]

    def compare(
        self, image: str, changes: Iterable[tuple[Plane, Mapping[Place, NDArray[np.int32]]]], latest: int
    ) -> Changes:
        """Make changes of planes of one image ready; others may read and write meanwhile.

        `changes` are planes, each with ``(SIDE, SIDE)`` int32 labels by tile as in `write`, `latest` the edit that
        they were made on (`latest_edit`).
        """
        return Changes(image, latest, tuple((plane, self._compare(plane, tiles)) for plane, tiles in changes))

    def write_planes(self, name: str, changes: Changes) -> Edit | None:
        """Do the changes of `compare` as one edit, with a name as in `write`; None if nothing changes.

        Raises
        ------
        EditConflictError
            If the image was edited since: nothing is changed.
        """
        with self.transaction() as db:
            if self.latest_edit(changes.image) != changes.latest:
                raise EditConflictError(f"{changes.image}: edited meanwhile", "no edit", "do it again")
            entered = [self._enter(db, plane, name, differing) for plane, differing in changes.planes]
            numbers = [number for number, _ in entered if number is not None]
            db.executemany("INSERT INTO joined VALUES(?, ?)", [(number, numbers[0]) for number in numbers])
            return _join([edit for number, edit in entered if number is not None])

    def _compare(self, plane: Plane, tiles: Mapping[Place, NDArray[np.int32]]) -> tuple[TileChange, ...]:
        compared = (
            compare_tile(place, self.tile(plane, place), clip_tile(tile, place, plane.sides))
            for place, tile in tiles.items()
        )
        return tuple(change for change in compared if change is not None)

    def _enter(
        self, db: sqlite3.Connection, plane: Plane, name: str, changes: Sequence[TileChange]
    ) -> tuple[int | None, Edit]:
        """Replace tiles of a plane and enter the edit; return its number, None without a change."""
        if not changes:
            return None, Edit(name, plane, {})
        _forget_undone(db, plane.image)
        row = db.execute("INSERT INTO edit(plane, name, at, undone) VALUES(?, ?, ?, 0)", (plane.id, name, time.time()))
        versions = {}
        for one in changes:
            corners = (one.box.y0, one.box.x0, one.box.y1, one.box.x1)
            db.execute(
                "INSERT INTO change VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.lastrowid, *one.place, *corners, one.before, one.after),
            )
            versions[one.place] = self._replace(db, plane, one.place, one.whole, one.held)
        return row.lastrowid, Edit(name, plane, versions)

    def undo(self, image: str) -> Edit | None:
        """Undo the last edit of an image; None if there is none."""
        return self._step(image, undo=True)

    def redo(self, image: str) -> Edit | None:
        """Do the edit again that was undone last; None if there is none."""
        return self._step(image, undo=False)

    def _step(self, image: str, *, undo: bool) -> Edit | None:
        with self.transaction() as db:
            rows = db.execute(
                "SELECT edit.id, edit.name, plane.id, t, z, h, w, coalesce(first, edit.id) FROM edit "
                "JOIN plane ON plane.id=edit.plane LEFT JOIN joined ON joined.edit=edit.id "
                f"WHERE image=? AND undone=? ORDER BY 8 {'DESC' if undo else 'ASC'}, edit.id",
                (image, 0 if undo else 1),
            )
            done: list[Edit] = []
            step = None
            for number, name, plane, t, z, h, w, first in rows.fetchall():
                if step not in (None, first):
                    break
                step = first
                done.append(self._turn(db, number, Edit(name, Plane(plane, image, t, z, (h, w)), {}), undo=undo))
            return _join(done)

    def _turn(self, db: sqlite3.Connection, number: int, edit: Edit, *, undo: bool) -> Edit:
        """Undo or redo an edit of one plane."""
        changes = db.execute(
            f"SELECT ty, tx, y0, x0, y1, x1, {'before' if undo else 'after'} FROM change WHERE edit=?", (number,)
        ).fetchall()
        for ty, tx, *corners, data in changes:
            box = Rect(*corners)
            array = self.tile(edit.plane, (ty, tx)).copy()
            array[box.within(Rect(0, 0, SIDE, SIDE))] = unpack(data, box.sides)
            edit.versions[(ty, tx)] = self._replace(db, edit.plane, (ty, tx), pack(array), held_in(array))
        db.execute("UPDATE edit SET undone=? WHERE id=?", (int(undo), number))
        return edit

    def _replace(self, db: sqlite3.Connection, plane: Plane, place: Place, whole: bytes, held: list[int]) -> int:
        version = self.version(plane, place) + 1
        db.execute("INSERT OR REPLACE INTO tile VALUES(?, ?, ?, ?, ?)", (plane.id, *place, version, whole))
        db.execute("DELETE FROM held WHERE plane=? AND ty=? AND tx=?", (plane.id, *place))
        db.executemany("INSERT INTO held VALUES(?, ?, ?, ?)", [(plane.id, label, *place) for label in held])
        self._cache.pop((plane.id, place), None)
        return version


def _forget_undone(db: sqlite3.Connection, image: str) -> None:
    """Drop the edits that were undone: after a new edit they cannot be done again."""
    undone = "SELECT edit.id FROM edit JOIN plane ON plane.id=edit.plane WHERE image=? AND undone=1"
    for table in ("change", "joined"):
        db.execute(f"DELETE FROM {table} WHERE edit IN ({undone})", (image,))
    db.execute(f"DELETE FROM edit WHERE id IN ({undone})", (image,))


def _join(edits: list[Edit]) -> Edit | None:
    """Return edits of several planes as one; None without any."""
    return replace(edits[0], others=tuple(edits[1:])) if edits else None
