"""The models that panels offer: those that come with Septum, and those trained or opened in this session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psygnal import Signal
from septum.models.named import NAMES


class Models:
    """The list of models, the newest first; `changed` tells of a new one."""

    changed = Signal()

    def __init__(self) -> None:
        self._files: list[Path] = []

    def add(self, file: Path) -> None:
        """Add a model file or run folder."""
        self._files = [file, *(known for known in self._files if known != file)]
        self.changed.emit()

    def choices(self, _: Any = None) -> list[tuple[str, str]]:
        """Return a name for a person and the place of each model."""
        own = [(_title(file), str(file)) for file in self._files]
        return [*own, *((f"{name} (comes with Septum)", name) for name in NAMES)]


def _title(file: Path) -> str:
    """Return a short name: ``runs/napari-1`` of ``.../cells/runs/napari-1/model.safetensors`` after its data set."""
    run = file.parent if file.name == "model.safetensors" else file
    data = run.parent.parent.name if run.parent.name == "runs" else ""
    return f"{data}: {run.name}" if data else run.name


MODELS = Models()
"""Those of this session, for all panels."""
