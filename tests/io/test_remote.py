"""Images by URL: only the parts that are needed travel."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import numpy as np
import pytest
import tifffile

from septum.errors import FileError
from septum.io.files import list_images, open_image, read_image, write_image

IMAGE = np.random.default_rng(0).integers(0, 60000, (512, 700), np.uint16)


class Files(BaseHTTPRequestHandler):
    """Serves parts of files, and counts the bytes."""

    folder: Path
    sent = 0
    parts = True

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = type(self).folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        length = len(content)
        asked = self.headers.get("Range") if type(self).parts else None
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{length}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes" if type(self).parts else "none")
        self.end_headers()
        if body:
            type(self).sent += len(content)
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    Files.folder, Files.sent, Files.parts = tmp_path, 0, True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "options", [{"tile": (64, 64), "compression": "zlib"}, {"rowsperstrip": 16, "compression": "lzw"}, {}]
)
def test_a_region_of_a_tiff_by_url(tmp_path: Path, site: str, options: dict[str, object]) -> None:
    large = np.tile(IMAGE, (8, 3))
    tifffile.imwrite(tmp_path / "a.tif", large, **options)
    with open_image(f"{site}/a.tif") as image:
        np.testing.assert_array_equal(image[0, 600:640, 100:150], large[600:640, 100:150])
        assert Files.sent < (tmp_path / "a.tif").stat().st_size / 4
        np.testing.assert_array_equal(image[...], large[None])
    np.testing.assert_array_equal(read_image(f"{site}/a.tif").array[0], large)


def test_an_ome_zarr_by_url(tmp_path: Path, site: str) -> None:
    write_image(tmp_path / "a.ome.zarr", IMAGE, axes="YX", pixel_size_um={"Y": 0.5, "X": 0.5})
    image = read_image(f"{site}/a.ome.zarr")
    np.testing.assert_array_equal(image.array[0], IMAGE)
    assert image.pixel_size_um == {"Y": 0.5, "X": 0.5}


def test_errors_of_urls(tmp_path: Path, site: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    for name, message in [("none.tif", "does not exist"), ("a.png", "only files on this machine")]:
        with pytest.raises(FileError, match=message):
            open_image(f"{site}/{name}")
    Files.parts = False
    with pytest.raises(FileError, match="does not hand out parts"):
        open_image(f"{site}/a.tif")


def test_folders_of_a_remote_file_system_are_listed() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("t10.tif", "t2.tif", "notes.txt", ".hidden.tif"):
        memory.pipe(f"/cells/{name}", b"x")
    assert [p.name for p in list_images(["memory://cells"])] == ["t2.tif", "t10.tif"]
    assert [p.name for p in list_images(["memory://cells/t1*.tif"])] == ["t10.tif"]
