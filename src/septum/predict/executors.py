"""Who does the blocks of an image: this process alone, or the workers of a Dask cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from septum.errors import SeptumError, UsageError
from septum.io.open import open_image
from septum.predict.block_store import BlockTask, digest, open_work
from septum.predict.in_blocks import Blocks
from septum.predict.memory import peak_bytes
from septum.predict.model import open_model


class Executor(Protocol):
    """Processes that do blocks.

    Attributes
    ----------
    processes
        How many there are.
    shared
        Whether others than this process do the work; then every image that can be is cut into blocks.
    """

    processes: int
    shared: bool

    def run(self, blocks: Blocks, tasks: Sequence[BlockTask]) -> Iterator[float]:
        """Do blocks of one stage in any order; yield after each step how many are done, parts as fractions."""

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterator[Any]:
        """Call a function with each value, wherever there is room; yield what it returns, first come first served."""

    def peak_bytes(self) -> int:
        """Return the most memory that any of the processes has held."""


class SerialExecutor:
    """One process, the calling one, does everything."""

    processes = 1
    shared = False

    def run(self, blocks: Blocks, tasks: Sequence[BlockTask]) -> Iterator[float]:
        """See `Crew.run`."""
        for number, task in enumerate(tasks):
            for share in blocks.steps(task):
                yield number + share

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterator[Any]:
        """See `Crew.map`."""
        return map(function, values)

    def peak_bytes(self) -> int:
        """See `Crew.peak_bytes`."""
        return peak_bytes()


class DaskExecutor:
    """The workers of a Dask cluster. Each needs the same files under the same names, and Septum.

    Parameters
    ----------
    client
        Connected to the scheduler.
    device
        What each worker computes on; see `septum.nn.device.find_device`.
    """

    shared = True

    def __init__(self, client: Any, device: str) -> None:
        self.client = client
        self.device = device
        self.processes = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))

    def run(self, blocks: Blocks, tasks: Sequence[BlockTask]) -> Iterator[float]:
        """See `Crew.run`. A block whose worker dies goes to another; what is done is on the disk."""
        folder = str(blocks.work.folder.resolve())
        for number, _ in enumerate(self.map(_do, [(folder, self.device, task) for task in tasks]), start=1):
            yield float(number)

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterator[Any]:
        """See `Crew.map`."""
        from distributed import KilledWorker, as_completed

        futures = self.client.map(function, values, pure=False)
        try:
            for future in as_completed(futures):
                yield future.result()
        except KilledWorker as error:
            raise SeptumError(
                f"a part of the work killed {error.allowed_failures + 1} workers, one after the other",
                "workers with enough memory",
                "start workers with more memory, or give less with --max-memory; what is done is kept",
            ) from None
        finally:
            self.client.cancel(futures)

    def peak_bytes(self) -> int:
        """See `Crew.peak_bytes`."""
        found: dict[str, int] = self.client.run(peak_bytes)
        return max(peak_bytes(), *found.values())


@contextmanager
def open_executor(workers: int | None, address: str | None, device: str) -> Iterator[Executor]:
    """Find who does the work.

    Parameters
    ----------
    workers
        Processes to start on this machine.
    address
        A Dask scheduler; this process alone where both are None.
    device
        What each worker computes on.

    Raises
    ------
    UsageError
        If Dask is not installed, or nobody answers at the address.
    """
    if workers is None and address is None:
        yield SerialExecutor()
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise UsageError(
            "--workers and --dask without Dask", "Dask, which shares the work", "pip install 'septum[cluster]'"
        ) from None
    if address is not None:
        try:
            client = Client(address, timeout=20)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--dask {address}: nobody answers ({type(error).__name__})",
                "the address of a running scheduler, such as tcp://host:8786",
                "start one with: dask scheduler",
            ) from None
        with client:
            if not client.scheduler_info()["workers"]:
                raise UsageError(
                    f"--dask {address}: no worker", "one worker or more", "start some: dask worker ADDRESS"
                )
            yield DaskExecutor(client, device)
        return
    import logging
    import os

    assert workers is not None
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    # No memory limit of Dask's own: it would kill workers for memory that the plan has allowed them.
    options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, "dashboard_address": None}
    with (
        LocalCluster(**options, silence_logs=logging.CRITICAL, env={"OMP_NUM_THREADS": threads}) as cluster,
        Client(cluster) as client,
    ):
        yield DaskExecutor(client, device)


_one_at_a_time = threading.Lock()  # memory is planned for one block a process, however many threads a worker has


def _do(work: tuple[str, str, BlockTask]) -> None:
    """Do one block on a worker."""
    folder, device, task = work
    with _one_at_a_time:
        for _ in _opened(folder, device).steps(BlockTask(*task)):
            pass


@lru_cache(maxsize=1)
def _opened(folder: str, device: str) -> Blocks:
    """Open what a work folder needs, once a worker."""
    work = open_work(Path(folder))
    path = Path(work.plan.model)
    if digest(path) != work.plan.model_sha256:
        raise UsageError(f"{path}: another model than the one that was begun with", "the same file", "copy it again")
    return Blocks(work, open_model(path, device), open_image(work.plan.source, axes=work.plan.named_axes))
