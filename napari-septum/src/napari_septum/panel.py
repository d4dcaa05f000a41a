"""What all panels have: fields, words that are read and copied, and for long work a thread, progress and a stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from magicgui.widgets import ComboBox, Container, FileEdit, LineEdit, ProgressBar, PushButton, TextEdit, Widget
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QLabel, QWidget
from septum.errors import SeptumError
from septum.training.interrupt import StopRequest
from septum.words import name_fields

from napari_septum.jobs import Update, Work
from napari_septum.models import MODELS

if TYPE_CHECKING:
    from napari import Viewer

R = TypeVar("R")
_SAID_HEIGHT = (72, 120)  # pixels; more is scrolled
AXES_HELP = "One letter of T C Z Y X for each dimension of the layer, such as TYX or ZYX. Empty: as the layer says."


class Fields(Container):  # type: ignore[misc]
    """Fields below one another, which begin at one place, and below them what the panel says.

    Parameters
    ----------
    viewer
        The viewer that the panel belongs to.
    widgets
        The fields, with their labels.
    options
        Fields that are options of the command line, by their flags: messages of Septum name the field instead.
    foot
        What stands below them over the whole width: in the list, magicgui would begin it where the fields begin.
    """

    def __init__(
        self, viewer: Viewer, widgets: Sequence[Widget], options: Mapping[str, Widget], foot: Sequence[Widget] = ()
    ) -> None:
        self.viewer = viewer
        self.field_names = {flag: field.label for flag, field in options.items()}
        self.said = TextEdit(value="", label="")  # breaks long paths, scrolls, and can be copied, unlike a label
        self.said.read_only = True
        self.said.min_height, self.said.max_height = _SAID_HEIGHT
        super().__init__(widgets=widgets)
        self._foot = (*foot, self.said)
        for widget in self._foot:
            self.native.layout().addWidget(widget.native)
        self.native.layout().addStretch(1)  # in a high window the fields stay together
        self._aligner = _Aligner(self.native)

    def say(self, text: str) -> None:
        """Show a sentence, in which options of the command line have the names of the fields."""
        self.said.value = name_fields(text, self.field_names)

    def refuse(self, error: SeptumError) -> None:
        """Show what cannot be done, here and as a message of napari."""
        self.say(str(error))
        show_error(self.said.value)


class _Aligner(QObject):  # type: ignore[misc]
    """Makes the labels of the fields as wide as the widest, when the style of the window has chosen their font."""

    def __init__(self, panel: QWidget) -> None:
        super().__init__(panel)
        panel.installEventFilter(self)

    def eventFilter(self, panel: QWidget, event: QEvent) -> bool:  # noqa: N802 -- the name that Qt calls
        """Set the widths when the panel is shown."""
        if event.type() == QEvent.Type.Show:
            rows = (panel.layout().itemAt(number).widget() for number in range(panel.layout().count()))
            labels = [label for row in rows if row is not None for label in row.findChildren(QLabel)[:1]]
            for label in labels:
                label.ensurePolished()
            widest = max((label.sizeHint().width() for label in labels), default=0)
            for label in labels:
                label.setMinimumWidth(widest)
        return False


class Panel(Fields):
    """A panel that does one kind of work.

    Parameters
    ----------
    viewer
        The viewer that the panel belongs to.
    widgets
        Its fields, above the button.
    options
        See `Fields`.
    action
        Text of the button.
    """

    def __init__(self, viewer: Viewer, widgets: Sequence[Widget], options: Mapping[str, Widget], action: str) -> None:
        self.run_button = PushButton(text=action)
        self.stop_button = PushButton(text="Stop", enabled=False)
        self.progress = ProgressBar(min=0, max=1000, value=0, label="")
        buttons = Container(widgets=[self.run_button, self.stop_button], layout="horizontal", labels=False)
        super().__init__(viewer, widgets, options, [buttons, self.progress])
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
            show_warning(name_fields(update.warning, self.field_names))

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, SeptumError):
            self.say(str(error))
            raise error  # napari shows where it happened
        self.refuse(error)

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
