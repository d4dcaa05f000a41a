"""TensorBoard and MLflow, where they are installed: each logs a training as its users expect to find it.

Neither is imported before a training that is to be logged there does its first step, or goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from septum.errors import UsageError
from septum.experiments.tracking import Outcome, Tracker, Value
from septum.io.atomic import whole_file

# Seconds that figures may wait before they are sent to MLflow: each sending costs a round trip.
_WAIT_S = 5.0
# The most that MLflow takes in one request, and letters of a description and of a value.
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST_TEXT, _LONGEST_VALUE = 1000, 100, 4000, 500
# What a person has set wins. By itself MLflow tells its makers about its use, speaks of its tables between our lines,
# and waits four minutes for a server that is gone, out of the time of the training.
_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def trackers_of(run: Path, *, tensorboard: bool, mlflow: bool) -> list[Tracker]:
    """Return the trackers that were asked for.

    Parameters
    ----------
    run
        The run folder; nothing is written yet.
    tensorboard, mlflow
        Which.

    Raises
    ------
    UsageError
        If one is not installed.
    """
    found: list[Tracker] = []
    for asked, package, tracker in ((tensorboard, "tensorboard", TensorBoard), (mlflow, "mlflow", MLflow)):
        if not asked:
            continue
        if find_spec(package) is None:
            raise UsageError(
                f"--{package} without {tracker.name}",
                f"{tracker.name}, which is not installed with Septum by itself",
                f"pip install 'septum[{package}]', or leave --{package} out",
            )
        found.append(tracker(run))
    return found


class TensorBoard:
    """Event files in ``RUN/tensorboard``; each of several trainings is a folder there, and so a line of its own.

    Parameters
    ----------
    run
        The run folder.
    """

    name = "TensorBoard"

    def __init__(self, run: Path) -> None:
        self._folder = run / "tensorboard"
        self._place = self._folder
        self._writer: Any = None
        self._last: dict[str, int] = {}

    def ended(self, part: str) -> bool:
        """Say whether there are events: a training that has steps left is never asked about."""
        return any((self._folder / part).glob("events.out.tfevents.*"))

    def begin(self, part: str, *, after: int, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        """Go on in the folder of a training, without what was logged of later steps; tell the plan where it is new."""
        self.finish(())
        self._place, known = self._folder / part, self.ended(part)
        self._open(after + 1 if known else None)
        if not known:
            self._writer.add_text("plan", "\n".join(f"- {line}" for line in lines), 0)
            self._writer.add_text("values", "\n".join(f"    {name} = {value}" for name, value in values.items()), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log figures; what was logged of this step and later ones is taken back where a training went back."""
        if any(step <= self._last.get(name, -1) for name in values):
            self._writer.close()
            self._open(step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
            self._last[name] = step

    def sync(self) -> None:
        """Write what waits."""
        self._writer.flush()

    def finish(self, files: Sequence[Path]) -> None:
        """Close the events of this training; files stay where they are."""
        del files
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self, outcome: Outcome) -> None:
        """Close the events."""
        del outcome
        self.finish(())

    def _open(self, purged: int | None) -> None:
        """Open a new file of events, which takes back those of steps from `purged`."""
        from torch.utils.tensorboard import SummaryWriter

        self._last = {}
        self._writer = SummaryWriter(str(self._place), purge_step=purged, flush_secs=10)


class MLflow:
    """A run of MLflow; those of several trainings lie within it.

    Where it is kept and under which experiment is what MLflow's own variables say: ``MLFLOW_TRACKING_URI``,
    ``MLFLOW_EXPERIMENT_NAME`` or ``MLFLOW_EXPERIMENT_ID``; the experiment is ``septum`` where they say nothing.

    Parameters
    ----------
    run
        The run folder. ``mlflow.json`` in it holds the id of each training, so that a second start goes on in the same.
    """

    name = "MLflow"

    def __init__(self, run: Path) -> None:
        self._run = run
        self._connected: Any = None
        self._part = ""
        self._open: dict[str, str] = {}  # ids of the trainings that have not ended, by name
        self._earlier: set[str] = set()  # those that an earlier start began
        self._last: dict[str, int] = {}  # the last step of each figure of this training
        self._waiting: list[Any] = []
        self._sent = 0.0

    def ended(self, part: str) -> bool:
        """Say whether MLflow holds this training as finished."""
        found = self._find(part)
        return found is not None and found.info.status == _STATUS["finished"]

    def begin(self, part: str, *, after: int, lines: Sequence[str], values: Mapping[str, Value]) -> None:
        """Go on with the run of a training, or make it; the values are its parameters."""
        del after  # MLflow takes nothing back: what is done again is not logged again
        if part:
            self._enter("")
        self._enter(part)
        self._part, self._last = part, {}
        from mlflow.entities import Param

        number, parameters = self._open[part], [Param(n, str(v)[:_LONGEST_VALUE]) for n, v in values.items()]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(number, params=parameters[start : start + _MOST_PARAMETERS])
        self._client.set_tag(number, "mlflow.note.content", "\n\n".join(lines)[:_LONGEST_TEXT])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log figures but those of steps that MLflow has already; they are sent together every few seconds."""
        from mlflow.entities import Metric

        now = time.time()
        self._waiting += [Metric(n, v, int(1000 * now), step) for n, v in values.items() if self._is_new(n, step)]
        if now - self._sent > _WAIT_S or len(self._waiting) >= _MOST_METRICS:
            self.sync()

    def sync(self) -> None:
        """Send what waits."""
        waiting, self._waiting, self._sent = self._waiting, [], time.time()
        for start in range(0, len(waiting), _MOST_METRICS):
            self._client.log_batch(self._open[self._part], metrics=waiting[start : start + _MOST_METRICS])

    def finish(self, files: Sequence[Path]) -> None:
        """Add the files to this training and mark it as finished."""
        self.sync()
        for path in files:
            self._client.log_artifact(self._open[self._part], str(path))
        self._client.set_terminated(self._open.pop(self._part), _STATUS["finished"])

    def close(self, outcome: Outcome) -> None:
        """Send what waits and mark all that is open with how it ended."""
        if self._part in self._open:
            self.sync()
        for number in self._open.values():
            self._client.set_terminated(number, _STATUS[outcome])
        self._open = {}

    @property
    def _client(self) -> Any:
        if self._connected is None:
            for name, value in _MLFLOW.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            self._connected = MlflowClient()
        return self._connected

    def _is_new(self, name: str, step: int) -> bool:
        """Say whether a figure of a step is not in MLflow yet, and note that it will be."""
        if name not in self._last:
            number = self._open[self._part]
            history = self._client.get_metric_history(number, name) if self._part in self._earlier else []
            self._last[name] = max((metric.step for metric in history), default=-1)
        new = step > self._last[name]
        self._last[name] = max(step, self._last[name])
        return new

    def _enter(self, part: str) -> None:
        """Open the run of a training, the one that an earlier start made or a new one."""
        if part in self._open:
            return
        if (found := self._find(part)) is not None:
            self._client.update_run(found.info.run_id, status="RUNNING")
            self._earlier.add(part)
            self._open[part] = found.info.run_id
            return
        name = "/".join(filter(None, (self._run.absolute().name, part)))
        tags = {"mlflow.source.name": "septum train"} | ({"mlflow.parentRunId": self._open[""]} if part else {})
        made = self._client.create_run(self._experiment(), run_name=name, tags=tags)
        self._open[part] = made.info.run_id
        with whole_file(self._run / "mlflow.json") as file:
            file.write_text(json.dumps({**self._ids(), part or "run": made.info.run_id}, indent=2) + "\n")

    def _experiment(self) -> str:
        """Return the id of the experiment, which is made if there is none of its name."""
        if number := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return number
        import mlflow

        return str(mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "septum").experiment_id)

    def _find(self, part: str) -> Any:
        """Return the run of a training that an earlier start made; None where there is none, or none any more."""
        number = self._ids().get(part or "run")
        if number is None:
            return None
        client = self._client
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_run(number)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # another address than at the earlier start
                return None
            raise
        return found if found.info.lifecycle_stage == "active" else None

    def _ids(self) -> dict[str, str]:
        """Return the ids that earlier starts have noted; none where the file is missing or damaged."""
        try:
            said = json.loads((self._run / "mlflow.json").read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return {str(k): v for k, v in said.items() if isinstance(v, str)} if isinstance(said, dict) else {}
