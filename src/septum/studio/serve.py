"""Serve the page until the person ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from septum.errors import UsageError
from septum.studio.security import Access
from septum.studio.settings import LOOPBACK, StudioSettings


def serve(settings: StudioSettings, say: Callable[[str], None]) -> None:
    """Serve the page of a folder; returns after Ctrl-C.

    Parameters
    ----------
    settings
        Folder, address and options.
    say
        Takes the address of the page as soon as it can be opened.

    Raises
    ------
    UsageError
        If Starlette and uvicorn are not installed, the folder holds no image, or the port is taken.
    """
    try:
        from septum.studio.server import StudioServer
        from septum.studio.session import Session
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("uvicorn", "starlette"):
            raise
        raise UsageError(
            f"the studio needs {error.name}, which is not installed",
            "the libraries of the page",
            'run: pip install "septum[studio]"',
        ) from None
    session = Session(settings)
    try:
        listening = listen(settings)
    except BaseException:
        session.close()
        raise
    port = int(listening.getsockname()[1])
    access = Access((*LOOPBACK, settings.host, *settings.allow_host), port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"http://{host}:{port}/?token={access.token}")
    StudioServer(session, access).run(sockets=[listening])


def listen(settings: StudioSettings) -> socket.socket:
    """Take the address of the page, for this program alone.

    Raises
    ------
    UsageError
        If the address is not one of this computer, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    # On Windows SO_REUSEADDR lets two programs listen on one port; elsewhere it only spares the wait after an end.
    alone = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
    listening.setsockopt(socket.SOL_SOCKET, alone, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen()  # a browser that comes at once waits for the first answer
    except OSError as error:
        listening.close()
        raise UsageError(
            f"{settings.host}:{settings.port}: {error.strerror}", "a free port of this computer", "leave --port out"
        ) from None
    return listening
