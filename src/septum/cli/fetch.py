"""The command that downloads a public data set."""

from __future__ import annotations

import typer

from septum.cli import options
from septum.cli.progress import stoppable
from septum.cli.text import json_text
from septum.events import Warned
from septum.progress import Display, Progress
from septum.reproduce.settings import FetchSettings


def fetch(settings: FetchSettings, display: Display) -> None:
    """Download a public data set.

    NAME is isbi2012, dic-hela or phc-u373. The archive is downloaded from its public address, its checksum is verified
    where one is known and shown where not, and the folder is laid out as the other commands take it. Terms and citation
    are printed. No other command downloads anything.

    Example: septum fetch isbi2012
    """
    from septum.reproduce import datasets as job
    from septum.reproduce.archive import Arrived

    said: dict[str, object] = {}
    with (
        stoppable(lambda: "nothing was kept; the same command begins again"),
        Progress("MB", display, waiting="reaching the server") as progress,
    ):
        for event in job.fetch(settings):
            match event:
                case job.Announced(what):
                    progress.say(f"{what.title}\nfrom {what.url}, described at {what.page}")
                    progress.say(f"terms: {what.terms}\ncite: {what.citation}")
                case Arrived(stage, done, total):
                    if total:
                        progress.show_stage(stage, done / 1e6, max(1, round(total / 1e6)), unit="MB")
                case Warned(text):
                    progress.warn(text)
                case job.Fetched(what, folder, training, sha256):
                    progress.detail(f"SHA-256 of the archive: {sha256 or 'not computed, the data are there already'}")
                    said = {"name": what.name, "url": what.url, "folder": folder, "training": training}
                    said |= {"sha256": sha256, "terms": what.terms, "citation": what.citation}
    if display.json:
        typer.echo(json_text({"command": "fetch", **said, "warnings": progress.warnings}))
        return
    there = "is there already: " if said["sha256"] is None else ""
    typer.echo(f"{there}{said['folder']}; check it with: septum check {said['training']}")


command = options.command(fetch, FetchSettings)
