"""A browser, and a studio in a process of its own; tests are skipped where there is no Chromium."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from septum.io.files import write_image

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DISKS = [(y, x) for y in (24, 64, 104) for x in (24, 64, 104)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no Chromium on this computer: apt-get install chromium"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two images of 128 x 128 pixels with nine bright disks each."""
    root = tmp_path / "cells"
    (root / "images").mkdir(parents=True)
    y, x = np.mgrid[:128, :128]
    for number, name in enumerate(("a.tif", "b.tif")):
        disks = np.zeros((128, 128), bool)
        for cy, cx in DISKS:
            disks |= (y - cy) ** 2 + (x - cx - 2 * number) ** 2 <= 144
        noise = np.random.default_rng(number).normal(0, 300, disks.shape)
        image = (2000 + 9000 * disks + noise).clip(0).astype(np.uint16)
        write_image(root / "images" / name, image, axes="YX")
    return root


class Studio:
    """The command ``septum studio`` in a process of its own."""

    started: ClassVar[list[Studio]] = []

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "septum", "studio", str(folder), "--no-browser", "--json", *options]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self.started.append(self)
        self.address = json.loads(self._document())["address"]

    def _document(self) -> str:
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            try:
                json.loads(text)
            except json.JSONDecodeError:
                continue
            return text
        raise AssertionError(f"the studio did not start: {text}")

    def kill(self) -> None:
        self.process.kill()
        self._wait()

    def end(self) -> None:
        self.process.terminate()
        self._wait()

    def _wait(self) -> None:
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(autouse=True)
def no_server_stays() -> Iterator[None]:
    """End the servers that a test has started, also where it fails."""
    yield
    while Studio.started:
        studio = Studio.started.pop()
        if studio.process.poll() is None:
            studio.end()


@pytest.fixture
def studio(folder: Path) -> Iterator[Studio]:
    yield Studio(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Hands:
    """What a person does on the page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_selector("#images option", state="attached")
        self.until("document.getElementById('images').value !== '' && location.hash !== ''")
        self.page.wait_for_load_state("load")
        self.see((2, 2))

    def see(self, point: tuple[float, float], seconds: float = 60) -> str:
        """Move the pointer at a place until the page tells what is there; return that."""
        end = time.monotonic() + seconds
        for turn in itertools.count():
            self.page.mouse.move(*self.at(point[0], point[1] + turn % 2 / 4))
            told = str(self.page.text_content("#where"))
            if told and "not loaded" not in told:
                return told
            assert time.monotonic() < end, f"the page tells nothing about {point}"
            self.page.wait_for_timeout(100)
        raise AssertionError

    def at(self, y: float, x: float, sides: tuple[int, int] = (128, 128)) -> tuple[float, float]:
        """Return the place on the screen of a point of an image that is shown whole."""
        box = self.page.locator("#canvas").bounding_box()
        scale = min(8, 0.96 * min(box["height"] / sides[0], box["width"] / sides[1]))
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        return middle[0] + (x - sides[1] / 2) * scale, middle[1] + (y - sides[0] / 2) * scale

    def radius(self, px: float) -> None:
        self.page.evaluate("v => { const r = document.getElementById('radius'); r.value = v; r.oninput(); }", px)

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point))
        self.page.mouse.up()

    def paint_some(self) -> None:
        """Paint three objects and some background of the first image."""
        self.radius(10)
        for y, x in DISKS[:3]:
            self.drag((y, x), (y, x + 1))
        self.key("x")
        self.radius(4)
        self.drag((44, 4), (44, 120))
        self.key("x")
        self.saved()

    def saved(self) -> None:
        self.until("document.getElementById('saved').textContent === 'saved'")

    def until(self, true: str, seconds: float = 60) -> None:
        """Wait until an expression is true; the page's own rules forbid what `wait_for_function` does."""
        end = time.monotonic() + seconds
        while not self._now(true):
            assert time.monotonic() < end, true
            self.page.wait_for_timeout(100)

    def _now(self, true: str) -> bool:
        try:
            return bool(self.page.evaluate(true))
        except Exception as error:  # the page loads itself again, for example after its server was started again
            if "Execution context was destroyed" not in str(error):
                raise
            return False

    def told(self, text: str, where: str = "message") -> None:
        """Wait until the page shows a text."""
        self.until(f"document.getElementById({where!r}).textContent.includes({text!r})")

    def key(self, name: str) -> None:
        self.page.keyboard.press(name)


@pytest.fixture
def hands(browser: Any) -> Iterator[Hands]:
    page = browser.new_page(viewport={"width": 800, "height": 480})
    hands = Hands(page)
    yield hands
    page.close()
    assert not hands.errors
