"""What all panels have: buttons to run and to stop, progress, a line of text, and work in a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from magicgui.widgets import ComboBox, Container, FileEdit, Label, LineEdit, ProgressBar, PushButton, Widget
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_warning
from septum.errors import SeptumError
from septum.training.interrupt import StopRequest

from napari_septum.jobs import Update, Work
from napari_septum.models import MODELS

if TYPE_CHECKING:
    from napari import Viewer

R = TypeVar("R")
AXES_HELP = "One letter of T C Z Y X for each dimension of the layer, such as TYX or ZYX. Empty: as the layer says."


class Panel(Container):  # type: ignore[misc]
    """A panel that does one kind of work.

    Parameters
    ----------
    viewer
        The viewer that the panel belongs to.
    widgets
        Its fields, above the button.
    action
        Text of the button.
    """

    def __init__(self, viewer: Viewer, widgets: Sequence[Widget], action: str) -> None:
        self.viewer = viewer
        self.run_button = PushButton(text=action)
        self.stop_button = PushButton(text="Stop", enabled=False)
        self.progress = ProgressBar(min=0, max=1000, value=0, label="")
        self.said = Label(value="", label="")
        buttons = Container(widgets=[self.run_button, self.stop_button], layout="horizontal", labels=False, label="")
        foot = Container(widgets=[buttons, self.progress, self.said], labels=False, label="")
        super().__init__(widgets=[*widgets, foot])
        self.said.native.setWordWrap(True)
        self._stop: StopRequest | None = None
        self.run_button.changed.connect(self._pressed)
        self.stop_button.changed.connect(self.stop)
        self.native.destroyed.connect(self.stop)

    def begin(self) -> None:
        """Start the work that the fields describe; a panel defines it."""
        raise NotImplementedError

    def _pressed(self) -> None:
        try:
            self.begin()
        except SeptumError as error:
            self._failed(error)

    def stop(self, *_: object) -> None:
        """Ask the work to stop; it ends after the step or tile that is computed."""
        if self._stop is not None:
            self._stop.request()

    @property
    def running(self) -> bool:
        """Return True while work runs."""
        return self._stop is not None

    def start(self, work: Callable[..., Any], *arguments: Any, done: Callable[[Any], None], **keywords: Any) -> None:
        """Run a generator of `Update` in a thread.

        Parameters
        ----------
        work
            The generator function; it gets the arguments and, as `stop`, the request to stop.
        *arguments, **keywords
            For it.
        done
            Takes what the generator returns, in the thread of the window.
        """
        self._stop = StopRequest()
        self.run_button.enabled, self.stop_button.enabled, self.progress.value = False, True, 0
        worker = create_worker(_told, work, *arguments, stop=self._stop, _ignore_errors=True, **keywords)
        worker.yielded.connect(self.take)
        worker.returned.connect(done)
        worker.errored.connect(self._failed)
        worker.finished.connect(self._ended)
        worker.start()

    def take(self, update: Update) -> None:
        """Show news of the work."""
        if update.text:
            self.say(update.text)
        if update.share is not None:
            self.progress.value = round(1000 * update.share)
        if update.warning:
            show_warning(update.warning)

    def say(self, text: str) -> None:
        """Show a sentence."""
        self.said.value = text

    def _failed(self, error: Exception) -> None:
        self.say(str(error))
        if not isinstance(error, SeptumError):
            raise error  # napari shows where it happened
        show_error(str(error))

    def _ended(self) -> None:
        self._stop = None
        self.run_button.enabled, self.stop_button.enabled = True, False

    def named(self, value: Any, what: str) -> Any:
        """Return the value of a field.

        Raises
        ------
        SeptumError
            If nothing is chosen.
        """
        if value is None or value == "":
            raise SeptumError(f"no {what} is chosen", "one in the list", "add one to the viewer, or choose it")
        return value


class UnexpectedError(Exception):
    """An error that no sentence was written for; its cause is the error itself."""


def _told(work: Callable[..., Work[R]], *arguments: Any, **keywords: Any) -> Work[R]:
    """Run work; a RuntimeError becomes another error, since the thread takes it for a closed window and is silent."""
    try:
        return (yield from work(*arguments, **keywords))
    except RuntimeError as error:
        raise UnexpectedError(f"{type(error).__name__}: {error}") from error


def axes_field() -> LineEdit:
    """Return the field for the axes of a layer."""
    return LineEdit(label="Axes", value="", tooltip=AXES_HELP)


def model_fields() -> tuple[ComboBox, FileEdit]:
    """Return the list of models, and the field that adds one to it."""
    choice = ComboBox(label="Model", choices=MODELS.choices)
    file = FileEdit(
        label="Open a model", mode="r", filter="Septum models (*.safetensors)", tooltip="A file to add to the list"
    )

    def add(path: Path) -> None:
        if path.is_file():
            MODELS.add(path)
            choice.value = str(path)

    file.changed.connect(add)
    MODELS.changed.connect(choice.reset_choices)
    return choice, file
