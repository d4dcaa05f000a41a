"""A live curve of the loss."""

from __future__ import annotations

from qtpy.QtCore import QPointF, QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

_SMOOTH = 0.95
_MOST_POINTS = 400
_MARGIN = 6


class LossCurve(QWidget):  # type: ignore[misc]
    """The loss against the step, each point faint and their running mean as a line."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []
        self.setMinimumHeight(120)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setToolTip("Loss of each step, and its running mean")

    def sizeHint(self) -> QSize:  # noqa: N802 -- the name that Qt calls
        """Return the size that Qt gives if there is room."""
        return QSize(240, 140)

    def clear(self) -> None:
        """Begin anew."""
        self.points = []
        self.update()

    def add(self, step: int, loss: float) -> None:
        """Add a point; of many, every second is left out again and again, so that drawing stays fast."""
        self.points.append((step, loss))
        if len(self.points) > _MOST_POINTS:
            self.points = self.points[::2]
        self.update()

    def smoothed(self) -> list[float]:
        """Return the running mean of the losses, without the bias of its start."""
        mean, weight, found = 0.0, 0.0, []
        for _, loss in self.points:
            mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
            weight = _SMOOTH * weight + (1 - _SMOOTH)
            found.append(mean / weight)
        return found

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 -- the name that Qt calls
        """Draw the curve."""
        del event
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        color = self.palette().text().color()
        painter.setPen(color)
        inside = self.rect().adjusted(_MARGIN, _MARGIN, -_MARGIN, -_MARGIN)
        if not self.points:
            painter.drawText(inside, Qt.AlignmentFlag.AlignCenter, "the loss appears here")
            return
        line = self.smoothed()
        last, top = max(1, self.points[-1][0]), max(max(loss for _, loss in self.points), 1e-9)

        # The curve stays below the line of text.
        room = inside.adjusted(0, painter.fontMetrics().height(), 0, 0)

        def place(step: int, loss: float) -> QPointF:
            return QPointF(room.left() + room.width() * step / last, room.bottom() - room.height() * loss / top)

        faint = QPen(color)
        color.setAlphaF(0.4)
        faint.setColor(color)
        faint.setWidthF(2.0)
        painter.setPen(faint)
        painter.drawPoints(QPolygonF([place(*point) for point in self.points]))
        pen = QPen(self.palette().highlight().color())
        pen.setWidthF(2.0)
        painter.setPen(pen)
        painter.drawPolyline(QPolygonF([place(step, mean) for (step, _), mean in zip(self.points, line, strict=True)]))
        painter.setPen(self.palette().text().color())
        painter.drawText(
            inside, Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignRight, f"loss {line[-1]:.3f}, step {last}"
        )
