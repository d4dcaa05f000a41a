"""The workers of a Dask cluster, which share the blocks of large images and the files of many small ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from septum.errors import SeptumError, UsageError
from septum.events import Event, Warned
from septum.io.files import open_image
from septum.io.selection import Selection
from septum.prediction.block_stages import Blocks
from septum.prediction.block_store import BlockTask, absolute, digest, open_work
from septum.prediction.in_memory import PredictionFailure
from septum.prediction.memory import peak_bytes
from septum.prediction.model import open_model
from septum.prediction.scale import ScaleState
from septum.prediction.settings import PredictSettings
from septum.words import pluralize

ImageWork = tuple[PredictSettings, tuple[Path, Path], ScaleState, int]
"""The settings; an image and its result; what earlier images tell about the scale; the number of images to come."""


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class WorkersEnded:
    """In place of a result: each of `count` workers ended while it computed it, one after the other."""

    count: int

    def error(self, work: str, todo: str) -> SeptumError:
        """Return the error that says that the workers ended at this work, and what to do besides giving memory."""
        return SeptumError(
            f"{work} ended {pluralize(self.count, 'worker')}, one after the other",
            "workers with enough memory",
            f"start workers with more memory, or allow less with --max-memory; {todo}",
        )


class DaskExecutor:
    """The workers of a Dask cluster. Each needs Septum, and the same files under the same names.

    Parameters
    ----------
    client
        Connected to the scheduler.
    device
        Device of each worker; see `septum.nn.device.find_device`.

    Attributes
    ----------
    processes
        Number of workers.
    """

    def __init__(self, client: Any, device: str) -> None:
        self.client = client
        self.device = device
        self.processes = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))

    def compute(self, blocks: Blocks, tasks: Sequence[BlockTask]) -> Iterator[float]:
        """Compute blocks of one stage in any order; yield the number of blocks done after each.

        The block of a worker that dies is computed by another one; finished blocks are on disk.
        """
        folder = str(blocks.work.folder.resolve())
        values = [(folder, self.device, task) for task in tasks]
        for number, (_, done) in enumerate(self.map(compute_block, values), start=1):
            if isinstance(done, WorkersEnded):
                raise done.error("a block", "the same command goes on, finished blocks are kept")
            yield float(number)

    def predict_images(
        self,
        function: Callable[[ImageWork], Sequence[Event | PredictionFailure]],
        settings: PredictSettings,
        images: Sequence[tuple[tuple[Path, Path], ScaleState]],
    ) -> Iterator[Event | PredictionFailure]:
        """Predict whole images, each on one worker; an image that ends its workers does not stop the others.

        Workers may run in other folders: they get absolute paths, and events have the paths that the user typed.

        Parameters
        ----------
        function
            Predicts an image on a worker, and returns its events.
        settings
            Settings of the prediction.
        images
            Each image and its result, and what earlier images tell about the scale.
        """
        paths = {name: absolute(path) for name in ("model", "region") if (path := getattr(settings, name)) is not None}
        settings = settings.model_copy(update=paths)
        later = max(0, len(images) // self.processes - 1)
        typed = {absolute(path): path for files, _ in images for path in files}
        work = [(settings, (absolute(image), absolute(target)), state, later) for (image, target), state in images]
        for (_, files, *_), events in self.map(function, work):
            if isinstance(events, WorkersEnded):
                image = typed[files[0]]
                todo = "the same command with --skip-existing, and without --also, predicts only what has no result"
                yield PredictionFailure(image, events.error(f"{image}: the image", todo))
                continue
            for event in events:
                yield _as_typed(event, {path: typed[path] for path in files})

    def map(self, function: Callable[[T], R], values: Sequence[T]) -> Iterator[tuple[T, R | WorkersEnded]]:
        """Call a function with each value on any worker; yield values and results in the order of completion."""
        from distributed import KilledWorker, as_completed

        calls = dict(zip(self.client.map(function, values, pure=False), values, strict=True))
        try:
            for future in as_completed(calls):
                try:
                    result = future.result()
                except KilledWorker as error:
                    result = WorkersEnded(error.allowed_failures + 1)
                yield calls[future], result
        finally:
            self.client.cancel(list(calls))

    def peak_bytes(self) -> int:
        """Return the largest memory that any of the processes has held."""
        peaks: dict[str, int] = self.client.run(peak_bytes)
        return max(peak_bytes(), *peaks.values())


def _as_typed(event: Event | PredictionFailure, typed: Mapping[Path, Path]) -> Event | PredictionFailure:
    """Return an event of a worker with the paths that the user typed, by the paths that were sent."""

    def words(text: str) -> str:
        for path, name in typed.items():
            text = text.replace(str(path), str(name))
        return text

    fields = ("path", "output")
    changes: dict[str, Any] = {f: typed[getattr(event, f)] for f in fields if getattr(event, f, None) in typed}
    if isinstance(event, Warned):
        changes["text"] = words(event.text)
    if isinstance(event, PredictionFailure):
        error = event.error
        changes["error"] = type(error)(words(error.given), words(error.expected), words(error.todo))
    return replace(event, **changes)


@contextmanager
def open_executor(workers: int | str, device: str) -> Iterator[DaskExecutor]:
    """Start local workers, or connect to a cluster.

    Parameters
    ----------
    workers
        Number of processes to start on this machine, or the address of a Dask scheduler.
    device
        Device of each worker.

    Raises
    ------
    UsageError
        If Dask is not installed, or no scheduler answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise UsageError(
            "--workers: Dask is not installed",
            "Dask, which shares the work",
            "install it: pip install 'septum[cluster]'",
        ) from None
    if isinstance(workers, str):
        with _connect(Client, workers) as client:
            yield DaskExecutor(client, device)
        return
    import logging
    import os

    threads = str(max(1, (os.cpu_count() or 1) // workers))
    # Without a memory limit of Dask, which would kill workers for memory that the tile plan has allowed them.
    options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "env": {"OMP_NUM_THREADS": threads}}
    # Without a dashboard Dask still opens its port: any free one, as 8787 may be that of another cluster.
    no_dashboard = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with (
        LocalCluster(**options, **no_dashboard, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        yield DaskExecutor(client, device)


@contextmanager
def _connect(client_type: Callable[..., Any], address: str) -> Iterator[Any]:
    """Connect to the scheduler of a cluster that has a worker."""
    try:
        client = client_type(address, timeout=20)
    except (OSError, ValueError):
        raise UsageError(
            f"--workers {address}: no scheduler answers",
            "a number of processes, or the address of a running scheduler, such as tcp://host:8786",
            "start a scheduler with: dask scheduler",
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise UsageError(
                f"--workers {address}: the scheduler has no worker",
                "at least one worker",
                f"start one with: dask worker {address}",
            )
        yield client


_one_at_a_time = threading.Lock()  # memory is planned for one block a process, however many threads a worker has


def compute_block(work: tuple[str, str, BlockTask]) -> None:
    """Compute one block on a worker; `work` is the work folder, the device and the block."""
    folder, device, task = work
    with _one_at_a_time:
        for _ in _opened(folder, device).steps(BlockTask(*task)):
            pass


@lru_cache(maxsize=1)
def _opened(folder: str, device: str) -> Blocks:
    """Open the model and the image of a work folder, once for each worker."""
    work = open_work(Path(folder))
    path = Path(work.plan.model)
    if digest(path) != work.plan.model_sha256:
        raise UsageError(
            f"{path}: another model than at the start of this prediction", "the same file", "copy it again"
        )
    plan = work.plan
    source = open_image(plan.source, axes=plan.named_axes, selection=Selection(plan.channels, plan.level))
    return Blocks(work, open_model(path, device), source)
