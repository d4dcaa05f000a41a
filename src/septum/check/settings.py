"""Settings of ``septum check``; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from septum.settings import (
    AXES,
    BACKGROUND,
    CHANNEL,
    IGNORE_VALUES,
    LEVEL,
    MASK_KIND,
    PIXEL_SIZE,
    Level,
    MaskKind,
    Option,
    PixelSize,
    Settings,
)


class CheckSettings(Settings):
    """Which data to check, and where to write a repaired copy."""

    data: Annotated[tuple[Path, ...], Option(help="Images and masks.", argument=True, metavar="DATA")]
    fix: Annotated[Path | None, Option(help="Write a repaired copy into this new folder.", metavar="OUT")] = None
    kind: Annotated[MaskKind | None, replace(MASK_KIND, heading="")] = None
    ignore_values: Annotated[tuple[int, ...], replace(IGNORE_VALUES, heading="")] = ()
    background: Annotated[int | None, replace(BACKGROUND, heading="")] = None
    axes: Annotated[str | None, replace(AXES, heading="")] = None
    channel: Annotated[tuple[str, ...], replace(CHANNEL, heading="")] = ()
    level: Annotated[Level | None, replace(LEVEL, heading="")] = None
    pixel_size: Annotated[PixelSize | None, replace(PIXEL_SIZE, heading="")] = None
