"""Settings of ``septum studio``; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from septum.settings import AXES, DEVICE, Option, Settings

ADDRESS, LEARNING = "Address", "Learning"


class StudioSettings(Settings):
    """The folder that the page shows, and where the page is served; `Option.help` describes each field."""

    folder: Annotated[
        Path, Option(help="A folder of images, or a data set with images/ and masks/.", argument=True, metavar="FOLDER")
    ] = Path()
    axes: Annotated[str | None, replace(AXES, heading="")] = None
    no_browser: Annotated[bool, Option(help="Print the address only; open no browser.")] = False
    host: Annotated[
        str,
        Option(
            help="Address to listen on; other than 127.0.0.1, computers of the network can reach the page.",
            heading=ADDRESS,
            metavar="NAME",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Field(ge=0, le=65535),
        Option(help="Port to listen on.", heading=ADDRESS, metavar="N", default="a free one"),
    ] = 0
    allow_host: Annotated[
        tuple[str, ...],
        Option(
            help="Another name under which browsers may ask for the page, behind a proxy (repeatable).",
            heading=ADDRESS,
            metavar="NAME",
        ),
    ] = ()
    from_model: Annotated[
        Path | None,
        Option(
            help="Model to start learning from.",
            heading=LEARNING,
            flags=("--from",),
            metavar="MODEL",
            default="one that comes with Septum, if it fits",
        ),
    ] = None
    device: Annotated[str, replace(DEVICE, heading=LEARNING)] = "auto"

    @property
    def is_local(self) -> bool:
        """Return True if only this computer can reach the page."""
        return self.host in LOOPBACK


FITTING, NOTHING = "a model that fits", "nothing"
"""What the page calls the two starts that are no model."""

FIELDS = {
    "--kind": "labels are",
    "--from": "start from",
    "--budget": "Train properly, for",
    "--also": "and write",
}
"""What the page calls options of the command line."""

LEAST_OBJECTS = 2
"""Learning begins with this many objects, or classes; background is one of the classes."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
