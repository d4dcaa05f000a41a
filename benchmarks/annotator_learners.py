"""What a simulated person annotates with: the studio through its server, or pixel features and a random forest."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from annotator_person import Labels
from numpy.typing import NDArray

SIDE = 512  # of the tiles in which labels travel
BEGIN_S = 5.0  # seconds of the person between the second object and the first step
SILENT_S = 600.0  # a server from which nothing comes for so long has failed
DRAWN = 2  # objects with which learning begins


class RefusedError(RuntimeError):
    """The server does not do what was asked for, and says why."""


class Studio:
    """The studio on a folder, in a process of its own, through the interface that the page uses.

    Parameters
    ----------
    folder
        With ``images/``.
    start
        ``"nothing"``, ``"a model that fits"``, or the path of a model.
    steps_per_s
        Steps of learning in a second of the person. A busy computer needs longer for them; the person waits, and the
        seconds of waiting do not count.
    """

    def __init__(self, folder: Path, start: str, steps_per_s: float) -> None:
        options = ["--from", start] if Path(start).is_file() else []
        command = [sys.executable, "-m", "septum", "studio", str(folder), "--no-browser", "--json", *options]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        address = urlsplit(_document(self._server.stdout)["address"])
        self._host, self._key = address.netloc, parse_qs(address.query)["token"][0]
        self._model_file = folder / "runs" / "live" / "model.safetensors"
        self._rate, self._earned, self._drawn = steps_per_s, -BEGIN_S * steps_per_s, 0
        self._news = threading.Condition()
        self._step, self._failed, self._written, self._predicted = 0, "", False, ""
        self._paused = False
        self.started = ""
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        self._ids = {one["name"]: one["id"] for one in self._json("GET", "/api/folder")["images"]}
        self._sides: dict[str, tuple[int, int]] = {}
        if not options:
            self._json("POST", "/api/live", {"command": "restart", "start": start})

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        self._server.wait(60)
        self._reader.join()
        assert self._server.stdout is not None
        self._server.stdout.close()

    # ---- what a person does

    def spend(self, seconds: float) -> None:
        """Learn for as long as the person is busy."""
        if self._drawn < DRAWN:
            return
        self._earned += seconds * self._rate
        if self._step < self._earned:
            if self._paused:
                self._paused = False
                self._json("POST", "/api/live", {"command": "resume"})
            self._until(lambda: self._step >= self._earned)

    def labels(self, name: str) -> Labels:
        """Return what is annotated."""
        out = np.full(self._open(name), -1, np.int32)
        for ty, tx in self._tiles(name):
            part = out[ty * SIDE : (ty + 1) * SIDE, tx * SIDE : (tx + 1) * SIDE]
            part[...] = self._tile(name, ty, tx)[0][: part.shape[0], : part.shape[1]]
        return out

    def show(self, name: str) -> Labels | None:
        """Return a prediction that is made now."""
        if self._drawn < DRAWN:
            return None
        self._predicted = ""
        height, width = self._open(name)
        self._json("POST", "/api/view", {"image": self._ids[name], "t": 0, "z": 0, "rect": [0, 0, height, width]})
        self._until(lambda: self._predicted == self._ids[name])
        headers, body = self._ask("GET", f"/api/prediction/{self._ids[name]}/0/0")
        y0, x0, y1, x1 = (int(v) for v in headers["x-rect"].split())
        shown = np.full((height, width), -1, np.int32)
        values = np.frombuffer(zlib.decompress(body), "<i4", (y1 - y0) * (x1 - x0))
        shown[y0:y1, x0:x1] = values.reshape(y1 - y0, x1 - x0)
        return shown

    def outline(self, name: str, points: NDArray[np.float64]) -> None:
        """Draw an object."""
        number = self._json("POST", f"/api/reserve/{self._ids[name]}", {})["ids"][0]
        self._edit(name, {"kind": "polygon", "points": points.tolist(), "value": number})
        self._drawn += 1

    def stroke(self, name: str, pixels: NDArray[np.bool_]) -> None:
        """Paint background."""
        tiles = []
        for ty, tx in self._tiles(name):
            given = pixels[ty * SIDE : (ty + 1) * SIDE, tx * SIDE : (tx + 1) * SIDE]
            part = np.zeros((SIDE, SIDE), np.int8)
            part[: given.shape[0], : given.shape[1]] = given
            labels, version = self._tile(name, ty, tx)
            edges = np.flatnonzero(np.diff((part * (labels <= 0)).ravel(), prepend=0, append=0)).tolist()
            runs = [n for a, b in zip(edges[::2], edges[1::2], strict=True) for n in (a, b - a, 0)]
            if runs:
                tiles.append({"ty": ty, "tx": tx, "version": version, "runs": runs})
        self._edit(name, {"kind": "paint", "tiles": tiles})

    def accept(self, name: str, at: tuple[int, int] | None) -> None:
        """Accept an object of the prediction, or everything that is shown."""
        where = {"rect": [0, 0, *self._open(name)]} if at is None else {"at": at}
        with suppress(RefusedError):  # the newest prediction may show another part, or another object
            self._edit(name, {"kind": "accept", **where})

    def complete(self, name: str) -> None:
        """Make the rest background."""
        self._edit(name, {"kind": "complete"})

    def model(self) -> Callable[[Path], Labels] | None:
        """Pause learning, and return the model of the moment; None before the first step."""
        if self._step == 0:
            return None
        from septum import open_model, predict

        if not self._paused:
            self._written, self._paused = False, True
            self._json("POST", "/api/live", {"command": "pause"})
            self._until(lambda: self._written)
        model = open_model(self._model_file, "cpu")
        return lambda file: np.asarray(predict(model, file, scale=1.0), np.int32)

    @property
    def steps(self) -> int:
        """Return the number of steps that are done."""
        return self._step

    @property
    def process(self) -> int:
        """Return the number of the server's process."""
        return self._server.pid

    def pixels(self, name: str, ty: int, tx: int) -> int:
        """Return the bytes of a tile of an image, which the page would draw."""
        self._open(name)
        return len(self._ask("GET", f"/api/pixels/{self._ids[name]}/0/0/0/0/{ty}/{tx}")[1])

    def labels_of(self, name: str, ty: int, tx: int) -> Labels:
        """Return the labels of a tile."""
        self._open(name)
        return self._tile(name, ty, tx)[0]

    # ---- the server

    def _open(self, name: str) -> tuple[int, int]:
        if name not in self._sides:
            found = self._json("GET", f"/api/image/{self._ids[name]}")
            self._sides[name] = found["height"], found["width"]
        return self._sides[name]

    def _tiles(self, name: str) -> Iterator[tuple[int, int]]:
        height, width = self._open(name)
        yield from ((ty, tx) for ty in range(-(-height // SIDE)) for tx in range(-(-width // SIDE)))

    def _tile(self, name: str, ty: int, tx: int) -> tuple[Labels, int]:
        headers, body = self._ask("GET", f"/api/labels/{self._ids[name]}/0/0/0/{ty}/{tx}")
        return np.frombuffer(zlib.decompress(body), "<i4").reshape(SIDE, SIDE), int(headers["x-version"])

    def _edit(self, name: str, body: dict[str, Any]) -> None:
        self._json("POST", f"/api/edit/{self._ids[name]}/0/0", body)

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask(method, path, body)[1])
        return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self._host, timeout=SILENT_S)
        about = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), about)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status != 200:
            text = f"{method} {path}: {answer.status} {data.decode('utf-8', 'replace')}"
            raise RefusedError(text) if answer.status == 400 else RuntimeError(text)
        return {key.lower(): value for key, value in answer.getheaders()}, data

    def _listen(self) -> None:
        """Follow what the server tells its pages."""
        connection = http.client.HTTPConnection(self._host, timeout=SILENT_S)
        connection.request("GET", "/api/events", headers={"Authorization": f"Bearer {self._key}"})
        topic = ""
        for line in connection.getresponse():
            words = line.decode().rstrip("\n")
            if words.startswith("event: "):
                topic = words.removeprefix("event: ")
            elif words.startswith("data: "):
                with self._news:
                    self._take(topic, json.loads(words.removeprefix("data: ")))
                    self._news.notify_all()
        connection.close()

    def _take(self, topic: str, values: dict[str, Any]) -> None:
        if topic == "live":
            self._step = int(values["step"] or 0)
            self.started = values["start"] or self.started
            if values["state"] == "failed":
                self._failed = values["text"]
        elif topic == "prediction":
            self._step, self._predicted = max(self._step, int(values["step"])), values["image"]
        elif topic == "models":
            self._written = True
        elif topic == "failure":
            self._failed = values["text"]

    def _until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + SILENT_S
        with self._news:
            while not true():
                if self._failed or not self._news.wait(end - time.monotonic()):
                    raise RuntimeError(self._failed or "the studio is silent")


def _document(lines: Iterable[str]) -> dict[str, Any]:
    """Return the first JSON document of some lines."""
    text = ""
    for line in lines:
        text += line
        try:
            found: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError:
            continue
        return found
    raise RuntimeError(f"the studio did not start: {text}")


class Forest:
    """Features of pixels, a random forest of 100 trees, and a watershed, which learns anew before it shows something.

    The features are those of scikit-image: gray values, edges and texture at five widths, 1 to 16 pixels. Objects are
    made of the pixels that are more probable than 0.5 by the watershed of the distance to the background; the seeds are
    maxima that stand at least 1 pixel out, after smoothing over a tenth of the width of the annotated objects. The time
    that the computer needs does not count.

    Parameters
    ----------
    files
        The image of each name.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        from sklearn.ensemble import RandomForestClassifier

        self._files = files
        self._forest = RandomForestClassifier(100, min_samples_leaf=2, n_jobs=1, random_state=0)
        self._features: dict[Path, NDArray[np.float32]] = {}
        self._labels: dict[str, Labels] = {}
        self._shown: Labels = np.zeros((0, 0), np.int32)
        self._width = 0.0
        self.steps = 0

    def spend(self, seconds: float) -> None:
        """Do nothing: learning takes no time."""

    def labels(self, name: str) -> Labels:
        """Return what is annotated."""
        if name not in self._labels:
            self._labels[name] = np.full(self._read(self._files[name]).shape[:2], -1, np.int32)
        return self._labels[name]

    def show(self, name: str) -> Labels | None:
        """Return a prediction that is made now."""
        found = self.model()
        self._shown = np.zeros((0, 0), np.int32) if found is None else found(self._files[name])
        return None if found is None else self._shown

    def outline(self, name: str, points: NDArray[np.float64]) -> None:
        """Draw an object."""
        from skimage.draw import polygon2mask

        labels = self.labels(name)
        labels[polygon2mask(labels.shape, points - 0.5) & (labels <= 0)] = labels.max() + 1

    def stroke(self, name: str, pixels: NDArray[np.bool_]) -> None:
        """Paint background."""
        labels = self.labels(name)
        labels[pixels & (labels <= 0)] = 0

    def accept(self, name: str, at: tuple[int, int] | None) -> None:
        """Accept an object of the prediction, or everything that is shown."""
        labels, shown = self.labels(name), self._shown
        for number in np.unique(shown[shown > 0] if at is None else shown[at]):
            region = shown == number
            annotated = labels > (-1 if at is None else 0)
            if number > 0 and annotated[region].mean() <= 0.5:
                labels[region & ~annotated] = labels.max() + 1
        if at is None:
            labels[(shown == 0) & (labels == -1)] = 0

    def complete(self, name: str) -> None:
        """Make the rest background."""
        self.labels(name)[self.labels(name) == -1] = 0

    def model(self) -> Callable[[Path], Labels] | None:
        """Learn what is annotated, and return what was learned; None before the second object."""
        from septum.studio.live.samples import with_rim

        if sum(labels.max() > 0 for labels in self._labels.values()) == 0:
            return None
        features, targets, sizes = [], [], []
        for name, labels in self._labels.items():
            rim = with_rim(labels)
            features.append(self._read(self._files[name])[rim >= 0])
            targets.append((rim[rim >= 0] > 0).astype(int))
            sizes.append(np.bincount(labels[labels > 0])[1:])
        areas = np.concatenate(sizes)
        self._width = 2 * float(np.sqrt(np.median(areas[areas > 0]) / np.pi))
        all_features, all_targets = np.concatenate(features), np.concatenate(targets)
        chosen = np.random.default_rng(0).permutation(len(all_targets))[:40_000]
        self._forest.fit(all_features[chosen], all_targets[chosen])
        return self._segment

    def _segment(self, file: Path) -> Labels:
        from scipy import ndimage
        from skimage.morphology import h_maxima, remove_small_objects
        from skimage.segmentation import watershed

        features = self._read(file)
        inside = self._forest.predict_proba(features.reshape(-1, features.shape[-1]))[:, 1] > 0.5
        mask = remove_small_objects(inside.reshape(features.shape[:2]), max_size=int(0.15 * self._width**2))
        distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 0.1 * self._width)
        seeds, _ = ndimage.label(h_maxima(distance, 1.0), np.ones((3, 3)))
        return np.asarray(watershed(-distance, seeds, mask=mask), np.int32)

    def _read(self, file: Path) -> NDArray[np.float32]:
        from skimage.feature import multiscale_basic_features

        from septum.io.files import read_image

        if file not in self._features:
            image = np.moveaxis(read_image(file).array.astype(np.float32), 0, -1)
            image = (image - image.mean((0, 1))) / np.maximum(image.std((0, 1)), 1e-6)
            found = multiscale_basic_features(image, sigma_min=1, sigma_max=16, channel_axis=-1)
            self._features[file] = found.astype(np.float32)
        return self._features[file]
