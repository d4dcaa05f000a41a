"""The page in the dark, under fingers, with a huge image, under foreign names; and the jobs that its buttons start."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from septum.io.zarr_write import create_zarr
from septum.studio.label_store import LabelStore
from septum.studio.tile_grid import Rect

from .conftest import CHROMIUM, Hands, Studio


def labels(folder: Path, name: str, sides: tuple[int, int], rect: Rect) -> np.ndarray:
    store = LabelStore(folder / ".studio" / "labels.sqlite")
    found = store.read(store.plane(name, 0, 0, sides), rect)
    store.close()
    return found


def whole(folder: Path) -> np.ndarray:
    return labels(folder, "a.tif", (128, 128), Rect(0, 0, 128, 128))


def seen(hands: Hands, y: float, x: float) -> tuple[float, float, float]:
    """Return row, column and magnification in percent, which the page states for a place on the screen."""
    hands.page.mouse.move(x - 1, y)
    hands.page.mouse.move(x, y)
    hands.page.wait_for_timeout(200)
    hands.until("document.getElementById('where').textContent.startsWith('y ')")
    words = hands.page.inner_text("#where").split()
    return float(words[1]), float(words[3]), float(words[-2])


@pytest.mark.parametrize(("scheme", "back"), [("light", "rgb(244, 245, 247)"), ("dark", "rgb(27, 29, 33)")])
def test_the_page_follows_the_colors_of_the_system(browser: Any, studio: Studio, scheme: str, back: str) -> None:
    page = browser.new_page(color_scheme=scheme)
    hands = Hands(page)
    hands.open(studio.address)
    body = "getComputedStyle(document.body)"
    assert page.evaluate(f"{body}.backgroundColor") == back
    for element in ("body", "#panel h2", "#train", "#where", "#message"):
        contrast = page.evaluate(
            """name => {
              const parse = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
              const light = text => {
                const linear = v => v <= 10.3 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4;
                const [r, g, b] = parse(text).map(linear);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
              };
              let under = document.querySelector(name);
              const text = getComputedStyle(under).color;
              const clear = () => /rgba.*, 0\\)|transparent/.test(getComputedStyle(under).backgroundColor);
              while (clear()) under = under.parentElement;
              const pair = [light(text), light(getComputedStyle(under).backgroundColor)];
              return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            }""",
            element,
        )
        assert contrast >= 4.5, element  # WCAG 2.2, level AA
    assert not hands.errors
    page.close()


def test_two_fingers_move_and_zoom_and_one_finger_paints(browser: Any, studio: Studio, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 800, "height": 480}, has_touch=True)
    hands = Hands(page)
    hands.open(studio.address)
    hands.radius(6)
    send = page.context.new_cdp_session(page).send
    y, x = 240.0, 300.0
    before = seen(hands, y, x)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"y": y, "x": x, "id": n} for n, (y, x) in enumerate(points)]
        send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (y, x - 30))
    touch("touchStart", (y, x - 30), (y, x + 30))
    for n in range(1, 7):
        touch("touchMove", (y, x - 30 - 5 * n), (y, x + 30 + 5 * n))
    touch("touchEnd")
    after = seen(hands, y, x)
    assert after[:2] == pytest.approx(before[:2], abs=3)  # what lies between the fingers stays there
    assert after[2] == pytest.approx(2 * before[2], rel=0.1)
    touch("touchStart", (y, x))
    touch("touchStart", (y, x), (y, x + 40))
    for n in range(1, 7):
        touch("touchMove", (y, x + 10 * n), (y, x + 40 + 10 * n))
    touch("touchEnd")
    moved = seen(hands, y, x)
    assert moved[2] == pytest.approx(after[2], rel=0.1) and moved[0] == pytest.approx(after[0], abs=2)
    assert moved[1] == pytest.approx(after[1] - 6000 / after[2], abs=3)
    assert (whole(folder) == -1).all()  # nothing was painted
    touch("touchStart", (y, x))
    touch("touchMove", (y, x + 4))
    touch("touchEnd")
    hands.until("document.getElementById('saved').textContent === 'saved'")
    page.wait_for_timeout(300)
    hands.saved()
    assert (whole(folder) > 0).sum() > 20
    assert not hands.errors
    page.close()


def test_an_image_of_20000_pixels_opens_in_its_middle_and_is_painted(hands: Hands, tmp_path: Path) -> None:
    side, root = 20_000, tmp_path / "large"
    root.mkdir()
    slide = create_zarr(root / "slide.ome.zarr", shape=(side, side), axes="YX", dtype=np.uint8)
    slide.write((slice(8192, 10240), slice(8192, 10240)), np.full((2048, 2048), 90, np.uint8))
    hands.open(Studio(root).address)
    box = hands.page.locator("#canvas").bounding_box()
    y, x = box["y"] + box["height"] / 2, box["x"] + box["width"] / 2
    assert all(abs(v - side / 2) < 5 for v in seen(hands, y, x)[:2])
    hands.radius(5)
    hands.page.mouse.down()
    hands.page.mouse.move(x + 20, y)
    hands.page.mouse.up()
    hands.saved()
    middle = Rect(side // 2 - 100, side // 2 - 100, side // 2 + 100, side // 2 + 100)
    found = labels(root, "slide.ome.zarr", (side, side), middle)
    assert 100 < (found > 0).sum() < 1000 and found[100, 100] > 0
    hands.page.click("#fit")
    assert seen(hands, y, x)[2] < 10
    assert not hands.errors


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[str]:
    """Return the address of a page of somebody else on this computer."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.html").write_text("<title>foreign</title>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "foreign")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


TRY = """async ([base, image]) => {
  const tried = [];
  const send = async (path, about) => {
    try {
      const answer = await fetch(base + path, { credentials: 'include', ...about });
      tried.push([path, answer.type, answer.status]);
    } catch (error) { tried.push([path, 'error', 0]); }
  };
  const fill = JSON.stringify({ kind: 'complete' });
  const json = { 'content-type': 'application/json' };
  await send('api/folder', {});
  await send('api/edit/' + image + '/0/0', { method: 'POST', body: fill, headers: json });
  await send('api/edit/' + image + '/0/0', { method: 'POST', body: fill, mode: 'no-cors' });
  await send('api/edit/' + image + '/0/0', { method: 'POST', body: new URLSearchParams({ a: '1' }), mode: 'no-cors' });
  return tried;
}"""


def test_a_foreign_page_in_the_same_browser_reads_and_changes_nothing(
    browser: Any, studio: Studio, folder: Path, foreign: str
) -> None:
    context = browser.new_context()
    hands = Hands(context.new_page())
    hands.open(studio.address)  # the cookie is there from now on
    image = hands.page.evaluate("location.hash.slice(1)")
    base = f"http://{urlsplit(studio.address).netloc}/"
    other = context.new_page()
    other.goto(foreign)
    tried = other.evaluate(TRY, [base, image])
    assert len(tried) == 4 and all(kind == "error" for _, kind, _ in tried)
    other.close()
    assert (whole(folder) == -1).all()
    own = hands.page.evaluate(TRY, [base, image])  # the page itself may, with the right kind of body
    assert own[0][2] == 200 and own[1][2] == 200
    assert (whole(folder) == 0).all()
    context.close()


def test_a_foreign_name_for_this_address_is_refused(browser: Any, studio: Studio) -> None:
    address = urlsplit(studio.address)
    rules = "--host-resolver-rules=MAP foreign.example 127.0.0.1"  # as a name server of somebody else could answer
    own = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", rules])
    page = own.new_page()
    for path in (f"?{address.query}", "api/folder", "static/app.js"):
        answer = page.goto(f"http://foreign.example:{address.port}/{path}")
        assert answer.status == 400 and "--allow-host" in page.inner_text("body")
    assert page.context.cookies() == []
    own.close()


@pytest.mark.slow
def test_suggest_ranks_the_images_without_annotations(hands: Hands, studio: Studio) -> None:
    hands.open(studio.address)
    hands.paint_some()
    hands.page.select_option("#model", "nuclei")
    hands.page.click("#suggest")
    hands.until("document.querySelectorAll('#suggested li').length === 1", 600)
    assert "b.tif" in hands.page.inner_text("#suggested")
    hands.page.click("#suggested li button")
    hands.until("document.getElementById('images').selectedOptions[0].textContent.startsWith('b.tif')")


@pytest.mark.slow
def test_train_properly_shows_progress_scores_and_a_report(hands: Hands, studio: Studio, folder: Path) -> None:
    hands.open(studio.address)
    hands.paint_some()
    hands.page.click("#complete")
    hands.saved()
    hands.page.select_option("#images", label="b.tif")
    hands.page.wait_for_timeout(500)
    hands.paint_some()
    hands.page.click("#complete")
    hands.saved()
    short = "const b = document.getElementById('budget'); b.append(new Option('short', '8')); b.value = '8';"
    hands.page.evaluate(f"() => {{ {short} }}")
    hands.page.click("#train")
    hands.until("document.body.dataset.job === 'running'")
    assert hands.page.is_disabled("#train") and hands.page.is_visible("#stop")
    hands.until("document.body.dataset.live === 'paused'")
    hands.until("document.body.dataset.job === 'done'", 900)
    assert "trained" in hands.page.inner_text("#job-text")
    assert (folder / "runs" / "studio-1" / "model.safetensors").is_file()
    hands.until("document.getElementById('model').value === 'runs/studio-1'")
    with hands.page.expect_popup() as opened:
        hands.page.click("#report")
    report = opened.value
    report.wait_for_load_state()
    assert urlsplit(report.url).path == "/api/report/" and report.locator("h1").count() >= 1
    assert report.evaluate("document.querySelectorAll('img').length") > 0
    # The report may not reach the server: it is of another origin.
    assert report.evaluate("fetch('/api/folder').then(() => 'read', () => 'refused')") == "refused"
    report.close()
