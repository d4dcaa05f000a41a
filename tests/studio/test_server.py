"""The server answers the page and nobody else."""

from __future__ import annotations

import json
import zlib
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from septum.errors import DataError, FileError, UsageError
from septum.io.files import read_image, read_mask, write_image
from septum.studio.security import MOST_BODY_BYTES
from septum.studio.session import Session
from septum.studio.settings import StudioSettings
from septum.studio.tile_grid import SIDE


def image_id(served: Any, name: str = "a.tif") -> str:
    images = served.json("GET", "/api/folder")["images"]
    return str(next(one["id"] for one in images if one["name"] == name))


def stroke(*runs: int, version: int = 0) -> dict[str, Any]:
    return {"kind": "paint", "tiles": [{"ty": 0, "tx": 0, "version": version, "runs": list(runs)}]}


# ---- who may ask


def test_the_token_becomes_a_cookie_of_this_port(served: Any) -> None:
    status, headers, _ = served.request("GET", f"/?token={served.token}", key=False)
    cookie = headers["set-cookie"]
    assert status == 303 and headers["location"] == "./"
    assert cookie.startswith(f"septum-{served.port}={served.token}")
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    status, headers, page = served.request("GET", "/", key=False, headers={"Cookie": cookie.partition(";")[0]})
    assert status == 200 and b"Septum Studio" in page
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", "/api/folder", "/api/events", "/static/app.js", "/api/image/x", "/nothing"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Cookie": "septum=x"}])
def test_without_the_token_there_is_nothing(served: Any, path: str, headers: dict[str, str]) -> None:
    status, _, body = served.request("GET", path, key=False, headers=headers)
    assert status == 403 and b"cells" not in body


def test_a_wrong_token_in_the_address_opens_nothing(served: Any) -> None:
    assert served.request("GET", "/?token=wrong", key=False)[0] == 403
    assert served.request("GET", f"/api/folder?token={served.token}", key=False)[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_is_refused_even_with_the_token(served: Any, host: str) -> None:
    assert served.request("GET", "/api/folder", headers={"Host": host})[0] == 400


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:8888", "[::1]:5"])
def test_names_of_this_computer_are_known_with_any_port(served: Any, host: str) -> None:
    assert served.request("GET", "/api/folder", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_page_changes_nothing(served: Any, headers: dict[str, str]) -> None:
    path = f"/api/edit/{image_id(served)}/0/0"
    assert served.request("POST", path, body=stroke(0, 5, 1), headers=headers)[0] == 403
    assert served.session.store.counts() == {}


def test_the_own_page_may_change(served: Any) -> None:
    headers = {"Origin": f"http://127.0.0.1:{served.port}", "Sec-Fetch-Site": "same-origin"}
    path = f"/api/edit/{image_id(served)}/0/0"
    assert served.request("POST", path, body=stroke(0, 5, 1), headers=headers)[0] == 200


def test_a_form_of_another_page_is_refused(served: Any) -> None:
    headers = {"Content-Type": "text/plain"}
    assert served.request("POST", "/api/job/train", body=b"{}", headers=headers)[0] == 415


def test_reading_has_no_effect_and_writing_needs_post(served: Any) -> None:
    assert served.request("GET", f"/api/edit/{image_id(served)}/0/0")[0] == 405
    assert served.request("GET", f"/api/step/{image_id(served)}/undo")[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/api/image/..%2f..%2fetc%2fpasswd",
        "/api/image/%2fetc%2fpasswd",
        "/api/mask/..",
        "/api/pixels/..%2f..%2fa/0/0/0/0/0/0",
    ],
)
def test_a_path_never_comes_from_the_page(served: Any, path: str) -> None:
    status, _, body = served.request("GET", path)
    assert status in (400, 404)
    assert b"root:" not in body and b"starlette" not in body


def test_a_huge_body_is_refused_before_it_is_read(served: Any) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.putrequest("POST", f"/api/edit/{image_id(served)}/0/0")
    for name, value in (
        ("Authorization", f"Bearer {served.token}"),
        ("Content-Type", "application/json"),
        ("Content-Length", str(MOST_BODY_BYTES + 1)),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"kind": "paint"}', b'{"kind": "rm"}', b"\xff\xfe"])
def test_a_body_that_does_not_fit_is_answered_with_words(served: Any, body: bytes) -> None:
    status, _, answer = served.request("POST", f"/api/edit/{image_id(served)}/0/0", body=body)
    assert status == 400 and json.loads(answer)["error"]


@pytest.mark.parametrize("place", ["0/5", "7/0"])
def test_a_plane_that_is_not_there_is_refused(served: Any, place: str) -> None:
    assert served.request("POST", f"/api/edit/{image_id(served)}/{place}", body=stroke(0, 5, 1))[0] == 400
    assert served.request("GET", f"/api/labels/{image_id(served)}/{place}/0/0/0")[0] == 400


def test_a_link_out_of_the_folder_is_passed_over_and_named(folder: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "secret.png", np.zeros((8, 8), np.uint8), axes="YX")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    session = Session(StudioSettings(folder=folder))
    seen = session.overview()
    session.close()
    assert [one["name"] for one in seen["images"]] == ["a.tif", "b.png"]
    assert "link.png" in seen["passed_over"][0]


def test_one_studio_for_a_folder(served: Any, folder: Path) -> None:
    from septum.errors import UsageError

    with pytest.raises(UsageError, match="another studio is open"):
        Session(StudioSettings(folder=folder))


# ---- what it answers


def test_pixels_arrive_as_they_are_in_the_file(served: Any, folder: Path) -> None:
    about = served.json("GET", f"/api/image/{image_id(served)}")
    assert (about["height"], about["width"], about["channels"], about["bits"], about["levels"]) == (96, 128, 1, 16, 1)
    status, headers, data = served.request("GET", f"/api/pixels/{about['id']}/0/0/0/0/0/0")
    assert status == 200 and headers["content-encoding"] == "deflate"
    pixels = np.frombuffer(zlib.decompress(data), "<u2").reshape(96, 128)
    assert np.array_equal(pixels, read_image(folder / "images" / "a.tif").array[0])


def test_a_stroke_becomes_a_mask_that_all_commands_read(served: Any, folder: Path) -> None:
    image = image_id(served)
    done = served.json("POST", f"/api/edit/{image}/0/0", stroke(0, 5, 7, SIDE, 3, 0))
    assert done == {"name": "brush", "t": 0, "z": 0, "tiles": [[0, 0, 1]]}
    _, headers, data = served.request("GET", f"/api/labels/{image}/0/0/0/0/0")
    labels = np.frombuffer(zlib.decompress(data), "<i4").reshape(SIDE, SIDE)
    assert headers["x-version"] == "1" and labels[0, :6].tolist() == [7] * 5 + [-1]
    status, _, file = served.request("GET", f"/api/mask/{image}")
    written = folder / "masks" / "a.tif"
    assert status == 200 and file == written.read_bytes()
    mask = read_mask(written).array[0]
    assert mask.shape == (96, 128)
    assert (mask == 7).sum() == 5 and (mask == 0).sum() == 3 and (mask == -1).sum() == 96 * 128 - 8


def test_the_mask_of_a_large_image_is_written_for_a_download(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("septum.studio.masks.MOST_PIXELS", 96 * 128 - 1)
    image = image_id(served)
    assert served.request("GET", f"/api/mask/{image}")[0] == 404
    served.json("POST", f"/api/edit/{image}/0/0", stroke(0, 5, 7))
    status, _, file = served.request("GET", f"/api/mask/{image}")
    written = served.session.project.masks / "a.tif"
    assert status == 200 and file == written.read_bytes() and (read_mask(written).array == 7).sum() == 5


def test_an_image_that_was_replaced_by_one_of_another_size_is_refused(folder: Path) -> None:
    session = Session(StudioSettings(folder=folder))
    entry = next(iter(session.project.entries.values()))
    session.edit(entry, 0, 0, stroke(0, 5, 7))
    session.close()
    before = (folder / "masks" / "a.tif").read_bytes()
    write_image(folder / "images" / "a.tif", np.zeros((50, 60), np.uint8), axes="YX")
    session = Session(StudioSettings(folder=folder))
    with pytest.raises(DataError, match=r"a\.tif: an image of 50 x 60 pixels with labels of 96 x 128"):
        session.describe(entry)
    session.close()
    assert (folder / "masks" / "a.tif").read_bytes() == before


def test_undo_over_the_server(served: Any) -> None:
    image = image_id(served)
    served.json("POST", f"/api/edit/{image}/0/0", stroke(0, 5, 7))
    assert served.json("POST", f"/api/step/{image}/undo", {})["name"] == "brush"
    assert served.json("POST", f"/api/step/{image}/undo", {})["name"] is None
    assert served.json("POST", f"/api/step/{image}/redo", {})["tiles"] == [[0, 0, 3]]


def test_an_edit_for_which_the_disk_is_full_is_to_be_sent_again_and_a_refused_one_is_not(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_id(served)
    assert served.request("POST", f"/api/edit/{image}/0/0", body={"kind": "delete", "object": 5})[0] == 400

    def full(*_: Any) -> None:
        raise FileError("labels.sqlite: database or disk is full", "free space")

    monkeypatch.setattr(served.session.store, "write", full)
    status, _, answer = served.request("POST", f"/api/edit/{image}/0/0", body=stroke(0, 5, 7))
    assert status == 503 and "disk is full" in json.loads(answer)["error"]
    monkeypatch.undo()
    served.json("POST", f"/api/edit/{image}/0/0", stroke(0, 5, 7))


def test_two_windows_do_not_overwrite_each_other(served: Any) -> None:
    image = image_id(served)
    served.json("POST", f"/api/edit/{image}/0/0", stroke(0, 5, 7))
    status, _, answer = served.request("POST", f"/api/edit/{image}/0/0", body=stroke(0, 5, 8))
    assert status == 409 and "another window" in json.loads(answer)["error"]
    served.json("POST", f"/api/edit/{image}/0/0", stroke(9, 5, 8, version=1))


def test_ids_are_given_to_one_window_only(served: Any) -> None:
    image = image_id(served)
    first, second = (served.json("POST", f"/api/reserve/{image}", {})["ids"] for _ in range(2))
    assert not set(first) & set(second)


def test_a_mask_that_exists_is_shown_and_kept_aside(folder: Path) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[10:20, 10:20] = 3
    (folder / "masks").mkdir()
    write_image(folder / "masks" / "b.png", mask, axes="YX")
    before = (folder / "masks" / "b.png").read_bytes()
    session = Session(StudioSettings(folder=folder))
    entry = next(e for e in session.project.entries.values() if e.name == "b.png")
    session.describe(entry)
    plane = session.plane(entry, 0, 0)
    assert np.array_equal(session.store.read(plane, plane.box), mask.astype(np.int32))
    session.edit(entry, 0, 0, {"kind": "delete", "object": 3})
    session.close()
    assert (folder / ".studio" / "originals" / "b.png").read_bytes() == before
    assert [p.name for p in (folder / "masks").iterdir()] == ["b.tif"]
    assert read_mask(folder / "masks" / "b.tif").array.max() == 0


def test_a_mask_that_another_program_has_changed_is_read_again_and_can_be_undone(folder: Path) -> None:
    session = Session(StudioSettings(folder=folder))
    entry = next(iter(session.project.entries.values()))
    session.describe(entry)
    session.edit(entry, 0, 0, stroke(0, 5, 7))
    session.close()
    mask = np.zeros((96, 128), np.uint16)
    mask[50:60, 50:60] = 2
    write_image(folder / "masks" / "a.tif", mask, axes="YX", labels=True)
    session = Session(StudioSettings(folder=folder))
    session.describe(entry)
    plane = session.plane(entry, 0, 0)
    assert session.store.objects(plane) == {2}
    session.step(entry, undo=True)
    assert session.store.objects(plane) == {7}
    session.close()


def test_an_error_names_the_fields_of_the_page(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("--budget 1s", "more", "give --budget 5m, or --device cpu")

    monkeypatch.setattr(served.session, "start_job", refuse)
    status, _, body = served.request("POST", "/api/job/train", body={})
    assert status == 400
    assert json.loads(body)["error"].splitlines() == [
        '"Train properly, for" 1s',
        "expected: more",
        'to do: give "Train properly, for" 5m, or --device cpu',
        "(--device: only on the command line)",
    ]


def test_a_mask_of_another_size_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "masks").mkdir()
    write_image(folder / "masks" / "a.png", np.zeros((5, 5), np.uint8), axes="YX")
    session = Session(StudioSettings(folder=folder))
    entry = next(iter(session.project.entries.values()))
    with pytest.raises(Exception, match=r"a\.png: a mask of"):
        session.describe(entry)
    session.close()
