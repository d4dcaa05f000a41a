"""What can be asked of a check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from septum.settings import Option, Settings


class CheckSettings(Settings):
    """Which data to check, and where to write a repaired copy."""

    data: Annotated[tuple[Path, ...], Option(help="Images and masks.", argument=True, metavar="DATA")]
    fix: Annotated[Path | None, Option(help="Write a repaired copy into this new folder.", metavar="OUT")] = None
    kind: Annotated[
        Literal["objects", "classes"] | None,
        Option(help="What the masks hold: numbered objects, or classes.", default="read from the masks"),
    ] = None
    ignore_values: Annotated[
        tuple[int, ...],
        Option(
            help="Mask value to treat as not annotated; use 0 for scribbles. May be repeated.",
            flags=("--ignore-value",),
            metavar="VALUE",
        ),
    ] = ()
    axes: Annotated[
        str | None,
        Option(
            help="Axes of the image files: ZYX, TYX, YXC; masks likewise, without C where they have none.",
            metavar="AXES",
            default="as the files say",
        ),
    ] = None
