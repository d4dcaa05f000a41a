"""The address of the page belongs to one program."""

from __future__ import annotations

import socket

import pytest

from septum.errors import UsageError
from septum.studio.serve import listen
from septum.studio.settings import StudioSettings


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    with listen(StudioSettings()) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}: "):
            listen(StudioSettings(port=port))
    listen(StudioSettings(port=port)).close()


def test_where_ports_can_be_shared_the_port_is_taken_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)  # as on Windows
    with listen(StudioSettings()) as listening:
        assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
