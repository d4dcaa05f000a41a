"""Small folders of images for the studio."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.io.files import write_image
from septum.studio.label_store import LabelStore
from septum.studio.security import Access
from septum.studio.server import StudioServer
from septum.studio.session import Session
from septum.studio.settings import StudioSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with images/a.tif and images/b.png of 96 x 128 pixels: bright disks on a dark ground."""
    root = tmp_path / "cells"
    (root / "images").mkdir(parents=True)
    y, x = np.mgrid[:96, :128]
    disks = np.zeros((96, 128), bool)
    for cy in (20, 60):
        for cx in (20, 60, 100):
            disks |= (y - cy) ** 2 + (x - cx) ** 2 <= 100
    noise = np.random.default_rng(0).normal(0, 300, disks.shape)
    image = (2000 + 9000 * disks + noise).clip(0).astype(np.uint16)
    write_image(root / "images" / "a.tif", image, axes="YX")
    write_image(root / "images" / "b.png", (image // 64).astype(np.uint8), axes="YX")
    return root


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.sqlite")


@dataclass
class Served:
    """A server in a thread, and requests to it."""

    session: Session
    port: int
    token: str

    def request(
        self, method: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None, key: bool = True
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers by small letters, and the body as it was sent."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {"Authorization": f"Bearer {self.token}"} if key else {}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if data is not None:
            given["Content-Type"] = "application/json"
        connection.request(method, path, data, {**given, **(headers or {})})
        answer = connection.getresponse()
        got = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        connection.close()
        return got

    def json(self, method: str, path: str, body: Any = None) -> Any:
        status, _, data = self.request(method, path, body=body)
        assert status == 200, data
        return json.loads(data)


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    session = Session(StudioSettings(folder=folder))
    listening = socket.create_server(("127.0.0.1", 0))
    access = Access(port=listening.getsockname()[1])
    server = StudioServer(session, access)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield Served(session, access.port, access.token)
    server.should_exit = True
    thread.join()
    listening.close()
