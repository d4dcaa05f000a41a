"""Public data sets, downloaded from a server on this machine: no test uses another network."""

import dataclasses
import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tifffile

from septum.errors import DataError, FileError, UsageError
from septum.events import Warned
from septum.io.files import read_image
from septum.pairing.find import find_pairs
from septum.reproduce import archive, datasets
from septum.reproduce.archive import Arrived
from septum.reproduce.datasets import SETS, Announced, Fetched, fetch
from septum.reproduce.settings import FetchSettings


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content, cut = self.server.files.get(self.path, (None, 0))
        self.server.asked.append(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.asked = {}, []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def tiff(array):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack")
    return file.getvalue()


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return file.getvalue()


def sections(*, labels=True, test_labels=False):
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 256, (4, 6, 7), dtype=np.uint8)
    files = {"top/train-volume.tif": tiff(volume), "top/test-volume.tif": tiff(255 - volume)}
    if labels:
        files["top/train-labels.tif"] = tiff(np.where(volume > 99, 255, 0).astype(np.uint8))
    if test_labels:
        files["top/test-labels.tif"] = tiff(np.where(volume > 9, 255, 0).astype(np.uint8))
    return volume, zipped(files)


def sequences():
    frame, mask = np.arange(30, dtype=np.uint8).reshape(5, 6), np.eye(5, 6, dtype=np.uint16)
    return zipped(
        {f"DIC-C2DH-HeLa/{s}/t000.tif": tiff(frame) for s in ("01", "02")}
        | {f"DIC-C2DH-HeLa/{s}_GT/SEG/man_seg000.tif": tiff(mask) for s in ("01", "02")}
    )


@pytest.fixture
def offered(server, monkeypatch):
    """Let the server offer an archive as a data set."""

    def offer(name, content, *, sha256=None, cut=0):
        server.files[f"/{name}.zip"] = (content, cut)
        url = f"http://127.0.0.1:{server.server_port}/{name}.zip"
        made = dataclasses.replace(SETS[name], url=url, sha256=sha256)
        monkeypatch.setitem(datasets.SETS, name, made)
        return made

    return offer


def run(name, out):
    return list(fetch(FetchSettings(name=name, out=out)))


def left_of(folder):
    return sorted(p.name for p in folder.iterdir())


def test_sections_are_laid_out_for_training(offered, tmp_path):
    volume, content = sections()
    data_set = offered("isbi2012", content)
    events = run("isbi2012", tmp_path / "deep" / "isbi")
    assert events[0] == Announced(data_set)
    assert any(isinstance(r, Arrived) and r.stage == "unpacking" for r in events)
    last = events[-1]
    assert isinstance(last, Fetched)
    assert last.folder == tmp_path / "deep" / "isbi"
    pairing = find_pairs([last.training])
    assert [p.name for p in pairing.pairs] == ["00", "01", "02", "03"]
    for number, pair in enumerate(pairing.pairs):
        assert np.array_equal(read_image(pair.image).array[0], volume[number])
        assert np.array_equal(read_image(pair.mask).array[0], np.where(volume[number] > 99, 255, 0))
    assert np.array_equal(read_image(last.folder / "test" / "images" / "03.png").array[0], 255 - volume[3])
    assert not (last.folder / "test" / "masks").exists()
    assert left_of(tmp_path / "deep") == ["isbi", "isbi.download.json"]


def test_truth_of_the_test_sections_is_kept_if_included(offered, tmp_path):
    volume, content = sections(test_labels=True)
    offered("isbi2012", content)
    run("isbi2012", tmp_path / "isbi")
    truth = read_image(tmp_path / "isbi" / "test" / "masks" / "02.png").array[0]
    assert np.array_equal(truth, np.where(volume[2] > 9, 255, 0))


def test_sequences_are_laid_out_for_training(offered, tmp_path):
    content = sequences()
    offered("dic-hela", content, sha256=hashlib.sha256(content).hexdigest())
    events = run("dic-hela", tmp_path / "hela")
    assert not [r for r in events if isinstance(r, Warned)]
    assert [p.name for p in find_pairs([events[-1].training]).pairs] == ["01_t000", "02_t000"]
    assert left_of(tmp_path / "hela") == ["01", "01_GT", "02", "02_GT"]


def test_an_unpublished_checksum_is_noted_and_compared_at_the_next_download(offered, tmp_path):
    _, content = sections()
    offered("isbi2012", content)
    checksum = hashlib.sha256(content).hexdigest()
    events = run("isbi2012", tmp_path / "isbi")
    (warned,) = [r.text for r in events if isinstance(r, Warned)]
    assert checksum in warned
    assert events[-1].sha256 == checksum
    note = json.loads((tmp_path / "isbi.download.json").read_text())
    assert (note["sha256"], note["bytes"], note["checksum_known_before"]) == (checksum, len(content), False)
    (tmp_path / "isbi").rename(tmp_path / "away")
    assert not [r for r in run("isbi2012", tmp_path / "isbi") if isinstance(r, Warned)]
    (tmp_path / "isbi").rename(tmp_path / "away, too")
    offered("isbi2012", sections(test_labels=True)[1])
    with pytest.raises(FileError) as refused:
        run("isbi2012", tmp_path / "isbi")
    assert "as at the first download" in refused.value.expected
    assert not (tmp_path / "isbi").exists()


def test_a_wrong_checksum_is_refused_and_leaves_no_file(offered, tmp_path):
    offered("dic-hela", sequences(), sha256="0" * 64)
    with pytest.raises(FileError, match="is not the expected file"):
        run("dic-hela", tmp_path / "hela")
    assert left_of(tmp_path) == []


@pytest.mark.parametrize(("content", "message"), [(b"<html></html>", "damaged"), (zipped({"../x": b"1"}), "outside")])
def test_a_refused_archive_leaves_no_file(offered, tmp_path, content, message):
    offered("isbi2012", content)
    with pytest.raises(FileError, match=message):
        run("isbi2012", tmp_path / "isbi")
    assert left_of(tmp_path) == []


def test_an_interrupted_download_leaves_no_file(offered, tmp_path):
    offered("isbi2012", sections()[1], cut=100)
    with pytest.raises(FileError, match="cannot be downloaded"):
        run("isbi2012", tmp_path / "isbi")
    assert left_of(tmp_path) == []


def test_a_cancelled_download_leaves_no_file(offered, tmp_path):
    offered("isbi2012", sections()[1])
    job = fetch(FetchSettings(name="isbi2012", out=tmp_path / "isbi"))
    while not isinstance(next(job), Arrived):
        pass
    job.close()
    assert left_of(tmp_path) == []


def test_an_archive_that_is_too_large_is_refused(offered, tmp_path, monkeypatch):
    offered("isbi2012", sections()[1])
    monkeypatch.setattr(archive, "MOST_ARCHIVE", 1000)
    with pytest.raises(FileError, match="larger than"):
        run("isbi2012", tmp_path / "isbi")
    assert left_of(tmp_path) == []


def test_missing_files_and_servers_are_reported(offered, server, tmp_path):
    offered("isbi2012", sections(labels=False)[1])
    with pytest.raises(DataError, match=r"no train-labels\.tif"):
        run("isbi2012", tmp_path / "isbi")
    server.files.clear()
    with pytest.raises(FileError, match="404"):
        run("isbi2012", tmp_path / "isbi")
    assert left_of(tmp_path) == []


def test_an_existing_data_set_is_not_downloaded_again_and_other_folders_are_not_changed(offered, server, tmp_path):
    offered("isbi2012", sections()[1])
    run("isbi2012", tmp_path / "isbi")
    asked = len(server.asked)
    assert run("isbi2012", tmp_path / "isbi")[-1].sha256 is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="does not hold isbi2012"):
        run("isbi2012", tmp_path / "mine")
    assert len(server.asked) == asked
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"
