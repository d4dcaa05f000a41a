"""Issues of a data set: their kinds, single observations, and their text.

Each topic file of this room declares its own kinds (``KINDS``); `septum.check.check.ISSUE_KINDS` holds all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "mended"]

_NAMED_FILES = 5  # files named in a line; `Issue.as_dict` holds all of them
_SEVERITIES = ("error", "warning", "mended")


@dataclass(frozen=True)
class IssueKind:
    """One kind of issue.

    Attributes
    ----------
    code
        Unique name, lower case.
    severity
        ``"error"``: training is refused. ``"warning"``: training continues; to look at. ``"mended"``:
        repaired in memory by training and in the copy by `septum.check.repair.fix`; nothing to do.
    noun
        The counted thing, such as ``"mask"``; ``""`` if the issue concerns the whole data set.
    text
        The finding; follows ``"3 masks"``, or stands alone.
    mend
        What happens to the file in training and in the copy; ``""``: nothing.
    fix
        Repair only in the copy of ``septum check DATA --fix OUT``, as "moves them back"; ``""``: none.
    todo
        Advice to the user; ``""`` where none is needed, or where `fix` repairs it.
    leaves_out
        Training does not use the pair. Without `fix` the copy does not hold it either.
    """

    code: str
    severity: Severity
    noun: str = ""
    text: str = ""
    mend: str = ""
    fix: str = ""
    todo: str = ""
    leaves_out: bool = False


@dataclass(frozen=True)
class Observation:
    """One occurrence of an issue: about one file or, without a path, about the data set.

    Attributes
    ----------
    kind
        The kind of issue.
    path
        The file concerned.
    detail
        Figures of this occurrence, such as ``"image 512 x 512, mask 256 x 256"``.
    text
        Replaces the text of the kind.
    pair
        Index of the pair concerned.
    """

    kind: IssueKind
    path: Path | None = None
    detail: str = ""
    text: str = ""
    pair: int | None = None


@dataclass(frozen=True)
class Issue:
    """All observations of one kind.

    Attributes
    ----------
    kind
        The kind of issue.
    files
        Files concerned, in the order of the pairs; empty if the issue concerns the whole data set.
    message
        The finding, as a phrase: ``"2 masks saved as floating-point numbers"``.
    details
        One per file, ``""`` where there is none.
    """

    kind: IssueKind
    files: tuple[Path, ...]
    message: str
    details: tuple[str, ...]

    @property
    def code(self) -> str:
        """Code of the kind."""
        return self.kind.code

    @property
    def severity(self) -> Severity:
        """Severity of the kind."""
        return self.kind.severity

    @property
    def remedy(self) -> str:
        """Repair in training and in the copy, repair in the copy only, and advice to the user."""
        fix = f"`septum check DATA --fix OUT` {self.kind.fix} in a copy" if self.kind.fix else ""
        return "; ".join(phrase for phrase in (self.kind.mend, fix, self.kind.todo) if phrase)

    def line(self) -> str:
        """Return the issue as one line that names up to five files."""
        parts = []
        for path, detail in zip(self.files[:_NAMED_FILES], self.details, strict=False):
            # Image and mask often have the same name, so a plain "file" is named with its folder.
            name = path.name if self.kind.noun != "file" else f"{path.parent.name}/{path.name}"
            parts.append(f"{name} ({detail})" if detail else name)
        more = len(self.files) - len(parts)
        names = ", ".join(parts) + (f" and {more} more" if more > 0 else "")
        text = self.message + (f": {names}" if names else "")
        return f"{text}; {self.remedy}" if self.remedy else text

    def as_dict(self) -> dict[str, object]:
        """Return the issue with all files, ready for JSON."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "mend": self.kind.mend,
            "fix": self.kind.fix,
            "todo": self.kind.todo,
            "files": [str(path) for path in self.files],
            "details": list(self.details),
        }


def gather(observations: Iterable[Observation]) -> tuple[Issue, ...]:
    """Group observations by kind into issues: errors first, then warnings, then mended ones."""
    by_kind: dict[IssueKind, list[Observation]] = {}
    for observation in observations:
        by_kind.setdefault(observation.kind, []).append(observation)
    issues = [_issue(kind, same) for kind, same in by_kind.items()]
    return tuple(sorted(issues, key=lambda issue: _SEVERITIES.index(issue.severity)))


def _issue(kind: IssueKind, observations: list[Observation]) -> Issue:
    files = tuple(o.path for o in observations if o.path is not None)
    text = next((o.text for o in observations if o.text), kind.text)
    message = f"{pluralize(len(files), kind.noun)} {text}" if kind.noun else text
    details = tuple(o.detail for o in observations if o.path is not None)
    return Issue(kind, files, message, details)


def pluralize(number: int, noun: str) -> str:
    """Return ``"1 image"`` or ``"3 images"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_shape(sides: Iterable[float]) -> str:
    """Return ``"512 x 512"``."""
    return " x ".join(f"{s:g}" for s in sides)


def list_some(values: Iterable[object], most: int) -> str:
    """Return ``"1, 2, 3 ..."``: up to `most` values, and dots if there are more."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:most]) + (" ..." if len(listed) > most else "")
