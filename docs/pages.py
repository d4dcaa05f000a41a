"""Run the commands that a page shows, and compare what they print with what the page says they print.

A block that begins with ``$`` is a session: commands, each followed by its output. ``...`` stands for lines left out.
Blocks of Python run between the sessions, in the order of the page. Numbers may differ from one run to the next (times,
rates, scores of another processor), words may not: so a page is out of date where a line of it was not printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(python)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARK = "=== step {} ==="


@dataclass
class Step:
    """A command or block of Python of a page, the lines shown below it, and the lines that it printed."""

    text: str
    python: bool
    shown: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)


def steps_of(page: str) -> list[Step]:
    """Return the steps of a page, in order."""
    steps: list[Step] = []
    for language, body in _BLOCK.findall(page):
        if language:
            steps.append(Step(body, python=True))
        elif body.startswith("$ "):
            for line in body.splitlines():
                if line.startswith("$ "):
                    steps.append(Step(line[2:], python=False))
                elif steps[-1].text.endswith("\\"):
                    steps[-1].text += f"\n{line}"
                else:
                    steps[-1].shown.append(line)
    return steps


def run(steps: list[Step], folder: Path, *, most_s: float = 3600) -> None:
    """Run steps in a folder, in one shell, whose background processes end with it.

    Raises
    ------
    RuntimeError
        If a step fails: its text, and the end of what was printed.
    """
    lines = ["set -e", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for number, step in enumerate(steps):
        lines.append(f"echo '{_MARK.format(number)}'")
        lines.append(f"python - <<'SEPTUM_BLOCK'\n{step.text}SEPTUM_BLOCK" if step.python else step.text)
    (folder / "examples").symlink_to(ROOT / "examples")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    env["PYTHONPATH"] = str(ROOT / "src")
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=most_s,
    )
    at = -1
    for line in done.stdout.replace("\r", "\n").splitlines():
        if at + 1 < len(steps) and line == _MARK.format(at + 1):
            at += 1
        elif at >= 0:
            steps[at].printed.append(line.rstrip())
    if done.returncode:
        raise RuntimeError(f"{steps[max(at, 0)].text}\n" + "\n".join(steps[max(at, 0)].printed[-30:]))


def words(line: str) -> str:
    """Return a line without its numbers, and without units and plurals that change with them; numbers in names stay."""
    line = re.sub(r"\d+ (?:h|min|s)\b(?: \d+ (?:min|s)\b)?|\d+(?:\.\d+)? (?:m?s|kB|MB|GB)\b", "TIME", line)
    line = re.sub(r"(?<!\w)(?<!\w-)\d+(?:\.\d+)?", "0", line)
    return " ".join(re.sub(r"\b0 ([a-z]+?)s?\b", r"0 \1", line).split())


def renewed(step: Step) -> tuple[list[str], list[str]]:
    """Return the lines to show below a step, as printed now, and the shown lines that were not printed.

    Shown lines are found in order among the printed ones by their words; ``...`` is kept where lines are left out.
    """
    lines: list[str] = []
    missing: list[str] = []
    at = 0
    for shown in step.shown:
        if shown.strip() == "...":
            lines.append(shown)
            continue
        found = next((i for i in range(at, len(step.printed)) if words(step.printed[i]) == words(shown)), None)
        if found is None:
            missing.append(shown)
            lines.append(shown)
        else:
            lines.append(step.printed[found])
            at = found + 1
    return lines, missing


def rewritten(page: str, steps: list[Step]) -> str:
    """Return the page with the lines of `renewed` below its commands."""
    commands = iter([step for step in steps if not step.python])

    def session(block: re.Match[str]) -> str:
        if block[1] or not block[2].startswith("$ "):
            return block[0]
        lines: list[str] = []
        for _ in re.findall(r"^\$ ", block[2], re.MULTILINE):
            step = next(commands)
            lines += [f"$ {step.text}", *renewed(step)[0]]
        return "```\n" + "\n".join(lines) + "\n```"

    return _BLOCK.sub(session, page)
