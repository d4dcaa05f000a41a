"""Settings of ``septum convert``; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from septum.settings import AXES, LEVEL, MASK_KIND, PIXEL_SIZE, Level, MaskKind, Option, PixelSize, Settings


class ConvertSettings(Settings):
    """What to convert, and where to write it."""

    data: Annotated[tuple[Path, ...], Option(help="Masks, with their images.", argument=True, metavar="DATA")]
    out: Annotated[Path, Option(help="Folder for the files.", flags=("--out", "-o"), metavar="OUT")]
    kind: Annotated[MaskKind | None, replace(MASK_KIND, heading="")] = None
    axes: Annotated[str | None, replace(AXES, heading="")] = None
    level: Annotated[Level | None, replace(LEVEL, heading="")] = None
    pixel_size: Annotated[PixelSize | None, replace(PIXEL_SIZE, heading="")] = None
