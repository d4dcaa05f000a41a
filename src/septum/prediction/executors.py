"""The workers of a Dask cluster, which share the blocks of large images and the files of many small ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from septum.errors import SeptumError, UsageError
from septum.io.files import open_image
from septum.io.selection import Selection
from septum.prediction.block_stages import Blocks
from septum.prediction.block_store import BlockTask, digest, open_work
from septum.prediction.memory import peak_bytes
from septum.prediction.model import open_model
from septum.words import pluralize


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
        for number, _ in enumerate(self.map(compute_block, values), start=1):
            yield float(number)

    def map(self, function: Callable[[Any], Any], values: Sequence[Any]) -> Iterator[Any]:
        """Call a function with each value on any worker; yield the results in the order of completion."""
        from distributed import KilledWorker, as_completed

        futures = self.client.map(function, values, pure=False)
        try:
            for future in as_completed(futures):
                yield future.result()
        except KilledWorker as error:
            raise SeptumError(
                f"a part of the work ended {pluralize(error.allowed_failures + 1, 'worker')}, one after the other",
                "workers with enough memory",
                "start workers with more memory, or allow less with --max-memory; the same command goes on, "
                "finished blocks are kept",
            ) from None
        finally:
            self.client.cancel(futures)

    def peak_bytes(self) -> int:
        """Return the largest memory that any of the processes has held."""
        peaks: dict[str, int] = self.client.run(peak_bytes)
        return max(peak_bytes(), *peaks.values())


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
