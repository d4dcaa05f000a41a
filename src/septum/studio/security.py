"""Who may ask: a browser that was given the token, for one of the names of this server, from its own page.

A token of 32 random bytes stands in the printed address once and becomes a cookie. The name that was asked for (Host)
must be known, or a foreign page could point its own name at this address; requests that change something must come from
the page itself (Origin).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

from septum.studio.settings import LOOPBACK

MOST_BODY_BYTES = 16_000_000
"""Largest body of a request."""

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """What a request must know.

    Parameters
    ----------
    hosts
        Names under which browsers may ask.
    port
        Port of the server; part of the cookie's name, as cookies are shared by all ports of a name.
    token
        The secret.
    """

    hosts: tuple[str, ...] = LOOPBACK
    port: int = 0
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """Return the name of the cookie."""
        return f"septum-{self.port}"

    def knows(self, given: str | None) -> bool:
        """Return True if a token is right."""
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())


class Guard:
    """Middleware that refuses what `Access` does not allow, caps bodies, and adds headers.

    Parameters
    ----------
    app
        The application behind it.
    access
        Names, port and token.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        from starlette.requests import Request

        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refuse(request)
        if refusal is not None:
            await _answer(scope, receive, send, *refusal)
            return
        token = request.query_params.get("token")
        if token is not None and request.method == "GET" and request.url.path == "/":
            await self._give_cookie(scope, receive, send)
            return
        await self._app(scope, _capped(receive), _with_headers(send))

    def _refuse(self, request: Request) -> tuple[int, str] | None:
        """Return status and reason of a refusal; None if the request may pass."""
        access, headers = self._access, request.headers
        if not _is_host(headers.get("host", ""), access.hosts):
            return 400, "this name is not one of this server; give it with --allow-host"
        if request.method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                return 403, "the request comes from another page"
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return 403, "the request comes from another page"
            kind = headers.get("content-type", "").partition(";")[0]
            if kind not in ("application/json", "application/octet-stream"):
                return 415, "the body must be JSON"
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > MOST_BODY_BYTES:
                return 413, f"a body may have {MOST_BODY_BYTES} bytes"
        given = [request.cookies.get(access.cookie), _bearer(headers.get("authorization"))]
        if request.url.path == "/" and request.method == "GET":
            given.append(request.query_params.get("token"))
        if not any(access.knows(one) for one in given):
            return 403, "open the address that `septum studio` printed: it holds the key to this page"
        return None

    async def _give_cookie(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import RedirectResponse

        answer = RedirectResponse("./", status_code=303, headers=HEADERS)
        answer.set_cookie(self._access.cookie, self._access.token, httponly=True, samesite="strict", path="/")
        await answer(scope, receive, send)


def _is_host(given: str, hosts: Iterable[str]) -> bool:
    """Return True if a Host header names one of the hosts, with any port."""
    name = given.rpartition("]")[0].removeprefix("[") if given.startswith("[") else given.partition(":")[0]
    return name.lower() in {host.lower() for host in hosts}


def _bearer(header: str | None) -> str | None:
    kind, _, token = (header or "").partition(" ")
    return token if kind.lower() == "bearer" else None


async def _answer(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    from starlette.responses import PlainTextResponse

    await PlainTextResponse(text + "\n", status_code=status, headers=HEADERS)(scope, receive, send)


def _capped(receive: Receive) -> Receive:
    """Return a receiver that ends a body that is longer than it said."""
    taken = 0

    async def read() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_BODY_BYTES:
            return {"type": "http.disconnect"}
        return message

    return read


def _with_headers(send: Send) -> Send:
    """Return a sender that adds the headers; those that an answer sets itself stay."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return add
