"""The server of the studio: some twenty addresses, all of them for one person."""

from __future__ import annotations

import json
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from septum.errors import FileError, SeptumError
from septum.export.settings import Form
from septum.settings import MaskKind, Settings, expectation
from septum.studio.label_store import Edit, EditConflictError
from septum.studio.project import Entry
from septum.studio.security import Access, Guard
from septum.studio.session import Session
from septum.studio.settings import FIELDS
from septum.studio.tile_grid import Rect
from septum.words import name_fields

STATIC = Path(__file__).parent / "static"
"""The built page."""

_RESERVED = 16  # ids that a page gets at once for new objects

Answer = Callable[[Request], Any]


def make_app(session: Session, access: Access) -> ASGIApp:
    """Make the application.

    Parameters
    ----------
    session
        What it shows; closed at the end.
    access
        Who may ask.
    """
    api = _Api(session)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await run_in_threadpool(session.begin)
        yield
        await run_in_threadpool(session.close)

    place = "{image}/{t:int}/{z:int}"
    routes = [
        Route("/", api.page),
        Route("/api/folder", _guarded(api.folder)),
        Route("/api/image/{image}", _guarded(api.image)),
        Route("/api/pixels/" + place + "/{channel:int}/{level:int}/{ty:int}/{tx:int}", _guarded(api.pixels)),
        Route("/api/labels/" + place + "/{level:int}/{ty:int}/{tx:int}", _guarded(api.labels)),
        Route("/api/edit/" + place, _guarded(api.edit), methods=["POST"]),
        Route("/api/step/{image}/{way}", _guarded(api.step), methods=["POST"]),
        Route("/api/reserve/{image}", _guarded(api.reserve), methods=["POST"]),
        Route("/api/mask/{image}", _guarded(api.mask)),
        Route("/api/prediction/" + place, _guarded(api.prediction)),
        Route("/api/view", _guarded(api.view), methods=["POST"]),
        Route("/api/live", _guarded(api.live), methods=["POST"]),
        Route("/api/kind", _guarded(api.kind), methods=["POST"]),
        Route("/api/job/{kind}", _guarded(api.job), methods=["POST"]),
        Route("/api/report/", _guarded(api.report)),
        Route("/api/events", api.events),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), access)


class StudioServer(uvicorn.Server):
    """A server that ends the streams of open pages when it ends.

    Parameters
    ----------
    session
        What it shows.
    access
        Who may ask.
    """

    def __init__(self, session: Session, access: Access) -> None:
        self._session = session
        app = make_app(session, access)
        super().__init__(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then everything else."""
        self._session.hub.close()
        await super().shutdown(sockets)


def _guarded(answer: Answer) -> Callable[[Request], Any]:
    """Turn errors that a person can cause into answers with their words."""

    async def handle(request: Request) -> Response:
        try:
            answered: Response = await answer(request)
            return answered
        except SeptumError as error:
            # The page sends an edit again later if the disk was full (503), not if the edit was refused.
            code = 409 if isinstance(error, EditConflictError) else 503 if isinstance(error, FileError) else 400
            return JSONResponse({"error": name_fields(str(error), FIELDS)}, status_code=code)
        except ValidationError as error:
            return JSONResponse({"error": f"a request that does not fit: {expectation(error)}"}, status_code=400)
        except (json.JSONDecodeError, UnicodeDecodeError):
            return JSONResponse({"error": "a body that is no JSON"}, status_code=400)

    return handle


class View(Settings):
    """What a page shows: a part of a plane, as first row and column and one after the last."""

    image: str
    t: int
    z: int
    rect: tuple[int, int, int, int]


class LiveCommand(Settings):
    """A command for the training that goes on while a person paints."""

    command: str
    start: str | None = None


class KindChoice(Settings):
    """Whether labels are objects or classes."""

    kind: MaskKind


class JobOptions(Settings):
    """Options of a job."""

    budget_s: float | None = Field(default=None, gt=0, le=7 * 86400)
    model: str | None = None
    also: tuple[Form, ...] = ()


class _Api:
    """The answers."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def _entry(self, request: Request) -> Entry:
        return self._session.project.entry(request.path_params["image"])

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def folder(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._session.overview))

    async def image(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self._session.describe, self._entry(request)))

    async def pixels(self, request: Request) -> Response:
        at, session, entry = request.path_params, self._session, self._entry(request)
        place = (at["ty"], at["tx"])
        await run_in_threadpool(session.plane, entry, at["t"], at["z"])  # refuses what is not there

        def make() -> Response:
            shown = session.pyramid.shown(entry)
            if not (0 <= at["channel"] < shown.channels and 0 <= at["level"] < 32):
                return Response(status_code=404)
            tile = session.pyramid.tile(entry, place, t=at["t"], z=at["z"], channel=at["channel"], level=at["level"])
            if tile is None:
                session.build_levels(entry, at["t"], at["z"], at["channel"])
                return Response(status_code=202)
            return _array(tile)

        return await run_in_threadpool(make)

    async def labels(self, request: Request) -> Response:
        at, session, entry = request.path_params, self._session, self._entry(request)

        def make() -> Response:
            plane = session.plane(entry, at["t"], at["z"])
            tile, version = session.levels.tile(plane, min(at["level"], 31), (at["ty"], at["tx"]))
            return _array(tile, {"x-version": str(version)})

        return await run_in_threadpool(make)

    async def edit(self, request: Request) -> Response:
        at, body = request.path_params, await request.json()
        entry = self._entry(request)
        return _done(await run_in_threadpool(self._session.edit, entry, at["t"], at["z"], body))

    async def step(self, request: Request) -> Response:
        undo = request.path_params["way"] == "undo"
        entry = self._entry(request)
        return _done(await run_in_threadpool(lambda: self._session.step(entry, undo=undo)))

    async def reserve(self, request: Request) -> Response:
        entry = self._entry(request)
        first = await run_in_threadpool(self._session.store.reserve, entry.name, _RESERVED)
        return JSONResponse({"ids": list(range(first, first + _RESERVED))})

    async def mask(self, request: Request) -> Response:
        session, entry = self._session, self._entry(request)
        file = await run_in_threadpool(session.newest_mask, entry)
        if file is None:
            return JSONResponse({"error": "nothing is annotated in this image"}, status_code=404)
        return FileResponse(file, filename=file.name)

    async def prediction(self, request: Request) -> Response:
        at, session, entry = request.path_params, self._session, self._entry(request)

        def make() -> Response:
            found = session.learning.prediction(session.plane(entry, at["t"], at["z"]))
            if found is None:
                return Response(status_code=204)
            data = np.ascontiguousarray(found.labels, "<i4").tobytes() + found.foreground.tobytes()
            rect = " ".join(str(v) for v in vars(found.box).values())
            about = {"content-encoding": "deflate", "x-rect": rect}
            return Response(zlib.compress(data, 1), media_type="application/octet-stream", headers=about)

        return await run_in_threadpool(make)

    async def view(self, request: Request) -> Response:
        asked = View.model_validate(await request.json())
        session = self._session
        entry = session.project.entry(asked.image)
        plane = await run_in_threadpool(session.plane, entry, asked.t, asked.z)
        session.learning.look(plane, Rect(*asked.rect).clip(plane.box))
        return JSONResponse({})

    async def live(self, request: Request) -> Response:
        asked = LiveCommand.model_validate(await request.json())
        await run_in_threadpool(self._session.learning.command, asked.command, asked.start)
        return JSONResponse({})

    async def kind(self, request: Request) -> Response:
        asked = KindChoice.model_validate(await request.json())
        await run_in_threadpool(self._session.set_kind, asked.kind)
        return JSONResponse({})

    async def job(self, request: Request) -> Response:
        kind, options = request.path_params["kind"], JobOptions.model_validate(await request.json())
        if kind == "stop":
            self._session.learning.stop_job()
        else:
            asked = options.model_dump(exclude_none=True)
            await run_in_threadpool(self._session.start_job, kind, asked)
        return JSONResponse({})

    async def report(self, request: Request) -> Response:
        file = self._session.learning.report()
        if file is None:
            return JSONResponse({"error": "there is no report yet"}, status_code=404)
        # The page of a report holds its own styles and pictures; it may read nothing of this server.
        rules = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        return FileResponse(file, headers={"content-security-policy": rules + "img-src data:"})

    async def events(self, request: Request) -> Response:
        first = "retry: 1000\nevent: hello\ndata: {}\n\n"
        return StreamingResponse(self._session.hub.stream(first), media_type="text/event-stream")


def _done(done: Edit | None) -> Response:
    if done is None:
        return JSONResponse({"name": None, "tiles": []})
    tiles = [[*place, version] for place, version in done.versions.items()]
    return JSONResponse({"name": done.name, "t": done.plane.t, "z": done.plane.z, "tiles": tiles})


def _array(array: NDArray[Any], headers: dict[str, str] | None = None) -> Response:
    """Answer with an array: little-endian bytes, deflated, sides and type in headers."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    about = {"content-encoding": "deflate", "x-sides": "x".join(map(str, array.shape)), "x-type": array.dtype.name}
    body = zlib.compress(little.tobytes(), 1)
    return Response(body, media_type="application/octet-stream", headers={**about, **(headers or {})})
