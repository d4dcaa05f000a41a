"""The command that serves the page in which a person paints and a model learns."""

from __future__ import annotations

import typer

from septum.cli import options
from septum.cli.text import json_text
from septum.progress import Display
from septum.studio.settings import StudioSettings


def studio(settings: StudioSettings, display: Display) -> None:
    """Paint a few cells in the browser while a model learns.

    FOLDER holds images, or images/ and masks/; without it, the folder you are in. The page runs on this computer alone:
    nothing is sent elsewhere. Labels are saved as you paint; masks are written to masks/, trainings to runs/, results
    to predictions/, for all other commands. Ctrl-C ends it.

    Example: septum studio cells
    """
    import webbrowser

    from septum.studio.serve import serve

    def say(address: str) -> None:
        if not settings.is_local:
            typer.echo(f"warning: computers of the network can reach this page at {settings.host}", err=True)
        typer.echo(json_text({"command": "studio", "address": address}) if display.json else f"open {address}")
        if not settings.no_browser:
            webbrowser.open(address)

    serve(settings, say)


command = options.command(studio, StudioSettings)
