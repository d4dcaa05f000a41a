"""Run an exported network by onnxruntime, and compare it with the network that was exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from septum import seeding
from septum.arrays.normalize import NormalizeSettings, normalize, statistics
from septum.errors import FileError
from septum.export.onnx_graph import IMAGE, PROBABILITIES, STATISTICS
from septum.io.formats import format_path
from septum.nn.ensemble import Network
from septum.words import reason_of

TOLERANCE = 1e-5
"""Largest difference of a probability that is rounding."""

# Output sides that no tile of a plan would have; a third, of another batch, is the test pair of the model file.
_ODD = {2: ((1, 37), (53, 20)), 3: ((1, 9, 21), (6, 17, 1))}


@dataclass(frozen=True)
class Comparison:
    """What an exported network was compared on.

    Attributes
    ----------
    difference : float
        Largest difference of a probability.
    sides : tuple of tuple of int
        Input sides of the tiles that were compared, that of the test pair first.
    runtime : str
        Version of onnxruntime.
    """

    difference: float
    sides: tuple[tuple[int, ...], ...]
    runtime: str


@dataclass(frozen=True)
class TestPair:
    """The test pair of a model file: ``(1, C, *tile)`` and the logits of each network, ``(members, K, *output)``."""

    __test__ = False

    image: NDArray[np.float32]
    logits: NDArray[np.float32]


def statistics_inputs(stats: NDArray[np.float32], settings: NormalizeSettings, rank: int) -> dict[str, NDArray[Any]]:
    """Return the inputs of the graph for the statistics of an image.

    Parameters
    ----------
    stats
        ``(C, 3)`` float32, finite but for the limit, from `septum.arrays.normalize.statistics`.
    settings
        The method.
    rank
        2 or 3 spatial axes.

    Returns
    -------
    dict
        ``(1, C, 1, ...)`` float32, finite intensities, by the name of the input; empty where the graph holds them.
    """
    offset, scale = (stats[:, k].reshape(1, -1, *(1,) * rank) for k in (0, 1))
    second = offset + scale if settings.method == "range" else scale
    return dict(zip(STATISTICS[settings.method], (offset, second), strict=False))


def compare(
    path: Path, network: Network, normalization: NormalizeSettings | None, pair: TestPair, *, named: Path | None = None
) -> Comparison:
    """Compare an ONNX file with its network on the model's stored test pair and on tiles of odd sides.

    Parameters
    ----------
    path
        The file.
    network
        What was exported, on the CPU.
    normalization
        That of the graph; None: its input is normalized.
    pair
        The test pair of the model file: normalized noise, and the logits of each network.
    named
        Name for messages, where the file does not have it yet; None: `path`.

    Raises
    ------
    FileError
        If a probability differs by more than `TOLERANCE`, or the file cannot be run.
    """
    import onnxruntime

    named = named or path
    with _running(named):
        session = open_session(path)
    rank, largest, sides = len(network.settings.depths), 0.0, []
    for feed, expected in _cases(network, normalization, pair):
        with _running(named):
            (found,) = session.run([PROBABILITIES], feed)
        sides.append(tuple(feed[IMAGE].shape[-rank:]))
        difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
        if not difference <= TOLERANCE:
            tile = " x ".join(map(str, sides[-1]))
            raise _wrong(named, f"its probabilities of a tile of {tile} differ by {difference:.2g} from the model's")
        largest = max(largest, difference)
    return Comparison(largest, tuple(sides), onnxruntime.__version__)


@contextmanager
def _running(path: Path) -> Iterator[None]:
    """Raise every error of onnxruntime as a `FileError`."""
    try:
        yield
    except Exception as error:  # onnxruntime has no common class of errors
        raise _wrong(path, f"onnxruntime cannot run it ({reason_of(error)})") from error


def open_session(path: Path) -> Any:
    """Open an ONNX file with onnxruntime, on the CPU with the threads of PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised as well
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def probabilities_of(network: Network, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities that PyTorch computes.

    Parameters
    ----------
    network
        On the CPU.
    image
        ``(B, C, *tile)`` float32, normalized intensities.

    Returns
    -------
    ndarray
        ``(B, K, *output)`` float32, 0 to 1.
    """
    with torch.inference_mode():
        out: NDArray[np.float32] = torch.softmax(network(torch.from_numpy(image)).float(), dim=1).numpy()
    return out


def _cases(
    network: Network, settings: NormalizeSettings | None, pair: TestPair
) -> Iterator[tuple[Mapping[str, NDArray[Any]], NDArray[np.float32]]]:
    """Yield the inputs of the graph and the probabilities that the model has for them."""
    rank = len(network.settings.depths)
    raw, stored = _stored(settings, pair, rank), _soft_max(pair.logits)
    limit = None if settings is None else settings.limit
    if limit is not None and float(np.abs(pair.image).max()) > limit:  # the stored output is that of unclipped noise
        stored = probabilities_of(network, np.clip(pair.image, -limit, limit))
    yield raw, stored
    for number, wanted in enumerate(_ODD[rank]):
        images = [_image(network, wanted, f"{number} {index}") for index in range(2 - number)]
        if settings is None:
            batch = normalize_all(images, NormalizeSettings())
            yield {IMAGE: batch}, probabilities_of(network, batch)
            continue
        stats = [statistics(image, settings) for image in images]
        inputs = [statistics_inputs(one, settings, rank) for one in stats]
        feed = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        batch = np.stack([normalize(image, one) for image, one in zip(images, stats, strict=True)])
        yield {IMAGE: np.stack(images), **feed}, probabilities_of(network, batch)


def normalize_all(images: Sequence[NDArray[np.float32]], settings: NormalizeSettings) -> NDArray[np.float32]:
    """Normalize each image by its own statistics.

    Parameters
    ----------
    images
        ``(C, *S)`` float32 each, of equal sides, any finite values.
    settings
        The method.

    Returns
    -------
    ndarray
        ``(B, C, *S)`` float32, normalized intensities.
    """
    return np.stack([normalize(image, statistics(image, settings)) for image in images])


def _stored(settings: NormalizeSettings | None, pair: TestPair, rank: int) -> dict[str, NDArray[Any]]:
    """Return the inputs by which the graph sees the stored test image."""
    channels = pair.image.shape[1]
    if settings is None:
        return {IMAGE: pair.image}
    if settings.method != "common":
        stats = np.tile(np.array([0, 1, np.inf], np.float32), (channels, 1))
        return {IMAGE: pair.image, **statistics_inputs(stats, settings, rank)}
    offset, scale = np.asarray(settings.common, np.float32).reshape(channels, 2, *(1,) * rank).swapaxes(0, 1)
    return {IMAGE: pair.image * scale + offset}


def _soft_max(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the soft-max of each network, ``(1, K, *output)``."""
    out: NDArray[np.float32] = torch.softmax(torch.from_numpy(logits), dim=1).mean(dim=0, keepdim=True).numpy()
    return out


def _image(network: Network, wanted: Sequence[int], name: str) -> NDArray[np.float32]:
    """Return a dim image of blobs with some noise, ``(C, *tile)``, as a camera of 12 bits would take it."""
    random = seeding.generator(0, f"onnx {name}")
    shape = (network.settings.channels, *network.geometry.input_for(wanted))
    places = np.indices(shape[1:]).astype(np.float32)
    waves = np.sum([np.sin(places[k] / (3 + 2 * k)) for k in range(len(wanted))], axis=0)
    image: NDArray[np.float32] = 400 + 150 * waves[None] + 40 * random.standard_normal(shape, dtype=np.float32)
    return np.rint(image, dtype=np.float32)


def _wrong(path: Path, why: str) -> FileError:
    return FileError(
        f"{format_path(path)}: {why}; no file was left",
        f"the probabilities of the model to {TOLERANCE:g}",
        "report it with the model, and the versions that `septum info --verbose` prints",
    )
