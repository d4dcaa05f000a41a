"""Issues of a data set: their kinds, single observations, and their text.

Each topic file of this room declares its own kinds (``KINDS``); `septum.check.check.ISSUE_KINDS` holds all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from septum.words import pluralize

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
        Repair only in the copy of ``septum check DATA --fix OUT``, as "undoes the shift"; ``""``: none.
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
        # Image and mask often have the same name, so a plain "file" is named with its folder.
        shown = distinct_names(self.files, least=2 if self.kind.noun == "file" else 1)[:_NAMED_FILES]
        parts = [f"{name} ({detail})" if detail else name for name, detail in zip(shown, self.details, strict=False)]
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


def distinct_names(paths: Sequence[Path], *, least: int = 1) -> list[str]:
    """Return the names of files, with as many folders before them as tell them apart: ``"a.png"``, ``"p1/a.png"``.

    Parameters
    ----------
    paths
        The files.
    least
        Number of parts of the path that each name has at least.
    """
    names: list[str] = []
    for parts in range(least, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def format_shape(sides: Iterable[float]) -> str:
    """Return ``"512 x 512"``."""
    return " x ".join(f"{s:g}" for s in sides)
