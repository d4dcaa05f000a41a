"""A person paints in a real browser; what was shown as saved is there, whatever happens to the server."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np

from septum.io.files import read_mask, write_image
from septum.studio.label_store import LabelStore
from septum.studio.tile_grid import Rect

from .conftest import Hands, Studio


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return str(listening.getsockname()[1])


def labels(folder: Path, name: str = "a.tif", z: int = 0) -> np.ndarray:
    store = LabelStore(folder / ".studio" / "labels.sqlite")
    found = store.read(store.plane(name, 0, z, (128, 128)), Rect(0, 0, 128, 128))
    store.close()
    return found


def test_paint_undo_reload_and_a_server_that_was_killed(hands: Hands, folder: Path) -> None:
    studio = Studio(folder)
    hands.open(studio.address)
    hands.radius(8)
    hands.drag((24, 20), (24, 28))
    hands.saved()
    painted = labels(folder)
    ids = np.unique(painted[painted > 0])
    assert len(ids) == 1 and painted[24, 24] == ids[0] and painted[60, 60] == -1
    assert 200 < (painted > 0).sum() < 420
    hands.key("x")
    hands.drag((44, 4), (44, 120))
    hands.key("x")
    hands.saved()
    assert labels(folder)[44, 60] == 0
    hands.key("Control+z")
    hands.saved()
    assert np.array_equal(labels(folder), painted)
    hands.key("Control+Shift+z")
    hands.saved()
    both = labels(folder)
    assert both[44, 60] == 0
    hands.page.reload()
    assert "background" in hands.see((44, 60))
    studio.kill()
    again = Studio(folder)
    hands.open(again.address)
    assert "object" in hands.see((24, 24))
    assert np.array_equal(labels(folder), both)
    hands.key("Control+z")  # also after the restart
    hands.saved()
    assert np.array_equal(labels(folder), painted)
    again.end()
    assert np.array_equal(read_mask(folder / "masks" / "a.tif").array[0], painted)


def test_every_tool_of_a_correction(hands: Hands, studio: Studio, folder: Path) -> None:
    hands.open(studio.address)
    hands.key("3")  # an outline in one drag
    hands.drag(
        (10, 10), (10, 20), (10, 30), (10, 38), (20, 38), (30, 38), (38, 38), (38, 30), (38, 20), (38, 10), (20, 10)
    )
    hands.saved()
    first = labels(folder)
    assert (first > 0).sum() > 600
    hands.key("k")
    hands.drag((24, 2), (24, 20), (24, 46))
    hands.saved()
    assert len(np.unique(labels(folder)[labels(folder) > 0])) == 2
    hands.key("l")
    hands.page.mouse.click(*hands.at(15, 24))
    hands.key("j")
    hands.page.mouse.click(*hands.at(33, 24))
    hands.saved()
    assert np.array_equal(labels(folder) > 0, first > 0)
    assert len(np.unique(labels(folder)[labels(folder) > 0])) == 1
    hands.key("e")
    hands.radius(4)
    hands.drag((24, 24), (24, 25))
    hands.saved()
    assert labels(folder)[24, 24] == -1
    hands.key("f")
    hands.page.mouse.click(*hands.at(24, 24))
    hands.saved()
    assert labels(folder)[24, 24] > 0
    hands.page.mouse.click(*hands.at(100, 100))  # an open region is refused
    hands.told("open")
    hands.key("l")
    hands.page.mouse.click(*hands.at(15, 24))
    hands.key("Delete")
    hands.saved()
    assert (labels(folder) <= 0).all()
    hands.page.click("#complete")
    hands.saved()
    assert (labels(folder) == 0).all()


def test_a_pen_paints_by_pressure_and_erases_with_its_other_end(hands: Hands, studio: Studio, folder: Path) -> None:
    hands.open(studio.address)
    hands.radius(6)
    send = hands.page.context.new_cdp_session(hands.page).send

    def pen(y: float, x: float, force: float, button: str = "left") -> None:
        sx, sy = hands.at(y, x)
        for kind in ("mousePressed", "mouseReleased"):
            about = {"type": kind, "x": sx, "y": sy, "button": button, "clickCount": 1, "pointerType": "pen"}
            send("Input.dispatchMouseEvent", {**about, "force": force, "buttons": 1})

    pen(30, 30, 1.0)
    hands.saved()
    pen(30, 90, 0.1)
    hands.saved()
    found = labels(folder)
    strong, weak = (found[:, :60] > 0).sum(), (found[:, 60:] > 0).sum()
    assert strong > 3 * weak > 0


def test_two_windows_show_the_same_and_overwrite_nothing(
    hands: Hands, browser: Any, studio: Studio, folder: Path
) -> None:
    hands.open(studio.address)
    second = Hands(browser.new_page(viewport={"width": 800, "height": 480}))
    second.open(studio.address)
    hands.radius(6)
    second.radius(6)
    hands.drag((24, 24), (24, 26))
    hands.saved()
    second.page.mouse.move(*second.at(24, 24))
    second.told("object", "where")
    second.drag((64, 64), (64, 66))
    second.saved()
    hands.drag((104, 104), (104, 106))
    hands.saved()
    found = labels(folder)
    assert found[24, 24] > 0 and found[64, 64] > 0 and found[104, 104] > 0
    assert len({found[24, 24], found[64, 64], found[104, 104]}) == 3
    second.page.close()
    assert not second.errors


def test_strokes_that_the_server_did_not_take_are_sent_again(hands: Hands, studio: Studio, folder: Path) -> None:
    hands.open(studio.address)
    hands.radius(6)
    hands.page.route("**/api/edit/**", lambda route: route.abort())
    hands.drag((24, 24), (24, 26))
    hands.told("not saved", "saved")
    hands.drag((64, 64), (64, 66))
    hands.page.click("#download")
    hands.told("Some edits are not saved yet")
    hands.told("not saved", "saved")
    assert (labels(folder) == -1).all()
    hands.page.unroute("**/api/edit/**")
    hands.saved()
    found = labels(folder)
    assert found[24, 24] > 0 and found[64, 64] > 0 and found[24, 24] != found[64, 64]


def test_strokes_of_a_section_that_was_left_are_shown_again_and_saved(hands: Hands, folder: Path) -> None:
    write_image(folder / "images" / "a.tif", np.zeros((3, 128, 128), np.uint8), axes="ZYX")
    hands.open(Studio(folder).address)
    hands.radius(6)
    hands.page.route("**/api/edit/**", lambda route: route.abort())
    hands.drag((24, 24), (24, 26))
    hands.told("not saved", "saved")
    hands.key("ArrowRight")
    hands.page.wait_for_timeout(300)
    hands.key("ArrowLeft")
    assert "object" in hands.see((24, 24))
    hands.drag((64, 64), (64, 66))
    hands.key("ArrowRight")
    hands.page.unroute("**/api/edit/**")
    hands.saved()
    found = labels(folder, z=1)
    assert found[24, 24] > 0 and found[64, 64] > 0 and found[24, 24] != found[64, 64]
    assert (labels(folder, z=2) == -1).all()


def test_what_is_completed_of_a_stack_is_the_section_that_is_shown(hands: Hands, folder: Path) -> None:
    write_image(folder / "images" / "a.tif", np.zeros((3, 128, 128), np.uint8), axes="ZYX")
    hands.open(Studio(folder).address)
    hands.told("This section is complete", "complete")
    hands.page.click("#complete")
    hands.saved()
    assert (labels(folder, z=1) == 0).all() and (labels(folder, z=0) == -1).all()


def test_learn_until_an_outline_appears_accept_correct_and_predict_all(
    hands: Hands, studio: Studio, folder: Path
) -> None:
    hands.open(studio.address)
    hands.paint_some()
    hands.until("Number(document.body.dataset.predicted) >= 5", 400)
    hands.key("g")  # nothing is under the pointer: said, not done
    hands.page.mouse.move(*hands.at(64, 64))
    hands.key("g")
    hands.saved()
    assert labels(folder)[64, 64] > 0
    hands.page.click("#learn")
    hands.until("document.body.dataset.live === 'paused'")
    hands.page.wait_for_timeout(1500)
    hands.page.click("#accept-view")
    hands.saved()
    found = labels(folder)
    assert len(np.unique(found[found > 0])) >= 5
    assert (found == 0).mean() > 0.2  # the background around them too; a busy computer predicts the middle only
    hands.until("document.getElementById('model').value === 'runs/live'")
    hands.page.click("#predict")
    hands.until("document.body.dataset.job === 'done'", 400)
    assert "2 images predicted" in hands.page.inner_text("#job-text")
    assert sorted(p.name for p in (folder / "predictions").iterdir()) == ["a.tif", "b.tif"]
    assert len(np.unique(read_mask(folder / "predictions" / "b.tif").array)) >= 4
    with hands.page.expect_download() as download:
        hands.page.click("#download")
    assert download.value.suggested_filename == "a.tif"


def test_an_image_that_cannot_be_opened_is_named_and_the_next_one_is_opened(hands: Hands, folder: Path) -> None:
    for name in ("0.png", "aa.png"):
        (folder / "images" / name).write_text("no image")
    write_image(folder / "images" / "twin.png", np.zeros((8, 8), np.uint8), axes="YX")
    write_image(folder / "images" / "twin.tif", np.zeros((8, 8), np.uint8), axes="YX")
    hands.open(Studio(folder).address)
    assert "Passed over: " in hands.page.inner_text("#message") and "0.png" in hands.page.inner_text("#message")
    shown = "document.getElementById('images').selectedOptions[0].text"
    assert hands.page.evaluate(shown) == "a.tif"
    hands.key("d")  # over the second one that cannot be opened
    hands.until(f"{shown} === 'b.tif'")
    hands.told("aa.png")
    hands.key("a")
    hands.until(f"{shown} === 'a.tif'")
    hands.see((24, 24))
    hands.radius(6)
    hands.drag((24, 24), (24, 26))
    hands.saved()
    assert labels(folder)[24, 24] > 0


def test_the_tools_are_off_while_no_image_can_be_opened(hands: Hands, folder: Path) -> None:
    for name in ("a.tif", "b.tif"):
        (folder / "images" / name).write_text("no image")
    hands.page.goto(Studio(folder).address)
    hands.told("b.tif")
    assert hands.page.is_disabled("#tool-brush") and hands.page.is_disabled("#undo")
    for key in ("b", "g", "Control+z", "0", "+", "a", "d"):
        hands.key(key)
    hands.drag((24, 24), (24, 26))
    hands.page.mouse.wheel(0, 100)
    hands.page.click("#next")
    hands.page.wait_for_timeout(500)
    assert hands.page.inner_text("#saved") == "saved"
    write_image(folder / "images" / "b.tif", np.zeros((128, 128), np.uint8), axes="YX")
    hands.page.select_option("#images", label="b.tif")
    hands.until("!document.getElementById('tool-brush').disabled")


def test_a_message_does_not_move_the_image(hands: Hands, studio: Studio) -> None:
    hands.open(studio.address)
    size = "JSON.stringify(document.getElementById('canvas').getBoundingClientRect())"
    before = hands.page.evaluate(size)
    hands.page.evaluate("document.getElementById('message').textContent = 'one line\\n'.repeat(9)")
    hands.page.evaluate("document.getElementById('where').textContent = 'y 1000 '.repeat(99)")
    hands.page.evaluate("document.getElementById('saved').textContent = 'no connection'")
    assert hands.page.evaluate(size) == before
    assert hands.page.is_visible("#message")


def test_a_page_of_a_killed_server_says_to_open_the_new_address_and_then_sends_its_strokes(
    browser: Any, folder: Path
) -> None:
    context = browser.new_context(viewport={"width": 800, "height": 480})
    hands, second = Hands(context.new_page()), Hands(context.new_page())
    port = free_port()
    studio = Studio(folder, "--port", port)
    hands.open(studio.address)
    hands.radius(6)
    studio.kill()
    hands.drag((24, 24), (24, 26))
    hands.told("not saved", "saved")
    again = Studio(folder, "--port", port)
    hands.told("open its new address in this browser")
    second.open(again.address)
    hands.saved()
    assert labels(folder)[24, 24] > 0
    second.radius(6)
    second.drag((64, 64), (64, 66))
    second.saved()
    for _ in range(100):  # the first page hears of edits again, after some seconds
        if "object" in hands.see((64, 64)):
            break
        hands.page.wait_for_timeout(200)
    assert "object" in hands.see((64, 64))
    assert not hands.errors and not second.errors
    context.close()


def test_a_stroke_before_the_labels_are_loaded_is_refused_in_words(hands: Hands, studio: Studio, folder: Path) -> None:
    held: list[Any] = []
    hands.page.route("**/api/labels/**", lambda route: held.append(route))
    hands.page.goto(studio.address)
    hands.until("location.hash !== ''")
    hands.drag((24, 24), (24, 26))
    hands.told("not loaded yet")
    hands.page.mouse.move(*hands.at(64, 64))
    hands.told("not loaded yet", "where")
    while held:
        held.pop().continue_()
    hands.page.unroute("**/api/labels/**")
    hands.told("not annotated", "where")  # without a movement of the pointer
    hands.radius(6)
    hands.drag((24, 24), (24, 26))
    hands.saved()
    assert labels(folder)[24, 24] > 0 and len(np.unique(labels(folder))) == 2


def test_a_mask_that_is_read_while_its_image_is_open_shares_no_number_with_a_new_object(
    browser: Any, studio: Studio, folder: Path
) -> None:
    context = browser.new_context(viewport={"width": 800, "height": 480})
    hands, second = Hands(context.new_page()), Hands(context.new_page())
    hands.open(studio.address)
    mask = np.zeros((128, 128), np.uint8)
    mask[76:92, 76:92] = 1
    (folder / "masks").mkdir(exist_ok=True)
    write_image(folder / "masks" / "a.tif", mask, axes="YX")
    second.open(studio.address)  # the list is made again
    hands.page.mouse.move(*hands.at(85, 85))
    hands.told("object 1", "where")
    hands.page.wait_for_timeout(300)
    hands.radius(6)
    hands.drag((24, 24), (24, 26))
    hands.saved()
    found = labels(folder)
    assert found[85, 85] == 1 and found[24, 24] > 1
    assert not hands.errors and not second.errors
    context.close()


def test_the_page_shows_what_was_read_while_it_opened_its_first_image(hands: Hands, folder: Path) -> None:
    (folder / "masks").mkdir(exist_ok=True)
    for name in ("a.tif", "b.tif"):
        write_image(folder / "masks" / name, np.pad(np.ones((9, 9), np.uint8), (20, 99)), axes="YX")
    address = Studio(folder).address
    held: list[Any] = []
    hands.page.route("**/api/image/*", lambda route: held.append(route))
    hands.page.goto(address)
    hands.page.wait_for_timeout(4000)  # the masks are read meanwhile
    while held:
        held.pop().continue_()
    hands.page.unroute("**/api/image/*")
    hands.until("[...document.getElementById('images').options].every((one) => one.text.includes('(1)'))")
