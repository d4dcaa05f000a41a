"""The command that shows everything on made images of cells."""

from __future__ import annotations

import typer

from septum.cli import options
from septum.cli.progress import orderly
from septum.cli.text import json_text
from septum.demo.settings import DemoSettings
from septum.progress import Display, Progress, show_training


def demo(settings: DemoSettings, display: Display) -> None:
    """Train, predict and evaluate on made images of cells.

    Makes images, trains on some of them, finds the cells in the others, and compares with a threshold method. Takes
    about three minutes. The same command continues where it was stopped.

    Example: septum demo -o septum-demo
    """
    from septum.demo import demo as job

    if settings.studio:
        from septum.cli.studio import studio
        from septum.studio.settings import StudioSettings

        studio(StudioSettings(folder=job.write_studio_images(settings), device=settings.device), display)
        return
    from septum.report.numbers import format_seconds, format_table
    from septum.report.pictures import Compared, draw_demo

    done: job.DemoDone | None = None
    with (
        orderly(settings.out / "run") as stop,
        Progress("steps", display, waiting="making images") as progress,
    ):
        for event in job.demo(settings, stop):
            match event:
                case Compared():
                    progress.say(f"picture: {draw_demo(event, settings.out / 'pictures')}")
                case job.DemoDone():
                    done = event
                case _:
                    show_training(event, progress)
    if done is None:  # stopped: `orderly` has said so and left
        return
    if display.json:
        typer.echo(json_text({"command": "demo", **vars(done), "warnings": progress.warnings}))
        return
    typer.echo("\n".join(format_table([["on images never seen", "SEG", "AP50"], *done.rows])))
    typer.echo(f"done in {format_seconds(done.seconds)}; everything lies in {settings.out}")


command = options.command(demo, DemoSettings)
