"""Settings of a training. Each field declares its option of ``septum train``; nothing heavy is imported here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from septum.errors import UsageError
from septum.prediction.memory import parse_bytes
from septum.settings import (
    AXES,
    BACKGROUND,
    CHANNEL,
    DEVICE,
    IGNORE_VALUES,
    LEVEL,
    MASK_KIND,
    PIXEL_SIZE,
    WIDTH,
    Level,
    MaskKind,
    Option,
    PixelSize,
    Settings,
    flag_of,
    options_of,
)

Preset = Literal["auto", "paper", "fiji"]
Precision = Literal["float32", "bfloat16"]

DEFAULT_BUDGET_S = 1800.0

MEMORY_ADVICE = (
    "give a smaller batch, tile or network (--batch, --tile and --width of septum train), or close other programs"
)
"""What to do if the memory is not enough for a training; several commands train."""

# Names of fields in settings.json of earlier versions.
_RENAMED = {"early_stop": "until_plateau", "ignore": "ignore_values"}
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration such as ``90s``, ``20m``, ``1.5h`` or ``1h30m``; None for ``none``.

    Raises
    ------
    ValueError
        If `text` is not a duration, or not longer than 0.
    """
    if text == "none":
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise ValueError("a duration with its unit, such as 90s, 20m or 1.5h, or none")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration as `parse_duration` reads it."""
    return f"{seconds:g}s"


def run_folder(data: Sequence[str | Path]) -> Path:
    """Return the folder of a training without a given one: ``runs/`` and the name of the data.

    It depends on the data only, so that the same command finds its own checkpoints again.
    """
    first = Path(data[0]).absolute()
    if len(data) > 1 or first.is_file():
        first = first.parent
    return Path("runs") / (first.name or "data")


class SplitSettings(Settings):
    """Images held out for validation, and images trained on (see `septum.training.split`).

    Parameters
    ----------
    fold
        ``(k, n)``: hold out fold `k` of `n`, counted from 1. None: hold out a fifth.
    names
        Names of the images to hold out, as `septum check` prints them; may be empty.
    seed
        Seed of the split; None: the seed of the run.
    limit
        Train on this many of the images that are not held out, evenly drawn; a smaller subset is part of a larger one.
    """

    fold: tuple[int, int] | None = None
    names: tuple[str, ...] | None = None
    group: Annotated[
        str | None,
        Option(
            help="Keep images together whose names match alike, such as 'patient(..)': all trained on or all held out.",
            heading="Data",
            metavar="REGEX",
        ),
    ] = None
    seed: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)

    @field_validator("fold")
    @classmethod
    def _check_fold(cls, fold: tuple[int, int] | None) -> tuple[int, int] | None:
        if fold is not None and not 1 <= fold[0] <= fold[1] > 1:
            raise ValueError(f"fold {fold[0]} of {fold[1]}: count from 1")
        return fold

    @field_validator("group")
    @classmethod
    def _check_pattern(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from None
        return group


class TrainSettings(Settings):
    """Data, duration and options of a training; `Option.help` describes each field.

    With neither `steps` nor `budget_s` the training ends at a plateau of the validation scores, as with `until_plateau`
    (see `septum.training.schedule.Schedule`). `width`, `depth`, `tile`, `batch`, `precision` and `set` override the
    plan (see `septum.training.plan.with_values`).
    """

    data: Annotated[
        tuple[Path, ...],
        Option(
            help="A folder with images/ and masks/, two folders, two stacks, or a Cell Tracking Challenge data set.",
            argument=True,
            metavar="DATA",
            free=True,
        ),
    ]
    out: Annotated[
        Path,
        Option(
            help="Run folder; the same command with the same folder resumes the training.",
            flags=("--out", "-o"),
            metavar="RUN",
            default="runs/NAME",
            free=True,
        ),
    ]
    budget_s: Annotated[
        float | None,
        Field(gt=0),
        Option(
            help="Time for the whole training: 90s, 20m, 1.5h; none: until the validation scores stop improving.",
            flags=("--budget",),
            metavar="TIME",
            default="30m",
            parse=parse_duration,
            write=format_duration,
        ),
    ] = DEFAULT_BUDGET_S
    preset: Annotated[
        Preset, Option(help="auto fits the plan to the data; paper is the U-Net of 2015, fiji its ImageJ plugin.")
    ] = "auto"
    seed: Annotated[int, Field(ge=0), Option(help="Random seed; the same seed gives the same model.", metavar="N")] = 0
    steps: Annotated[
        int | None, Field(ge=1), Option(help="Number of steps, in place of a time.", heading="Time", metavar="N")
    ] = None
    until_plateau: Annotated[
        bool, Option(help="End early when the validation scores stop improving.", heading="Time")
    ] = False
    kind: Annotated[MaskKind | None, MASK_KIND] = None
    ignore_values: Annotated[tuple[int, ...], IGNORE_VALUES] = ()
    background: Annotated[int | None, BACKGROUND] = None
    axes: Annotated[str | None, replace(AXES, heading="Data")] = None
    channel: Annotated[tuple[str, ...], replace(CHANNEL, heading="Data")] = ()
    level: Annotated[Level | None, replace(LEVEL, heading="Data")] = None
    pixel_size: Annotated[PixelSize | None, replace(PIXEL_SIZE, heading="Data")] = None
    split: SplitSettings = SplitSettings()
    from_model: Annotated[
        Path | Literal["none"] | None,
        Option(
            help="Start from the weights of this model, or from none.",
            heading="Network",
            flags=("--from",),
            metavar="MODEL|none",
            default="a start that fits the images",
            free=True,  # its path; the fingerprint of the file is compared
        ),
    ] = None
    width: Annotated[int | None, Field(ge=1), WIDTH] = None
    depth: Annotated[
        int | None,
        Field(ge=1, le=8),
        Option(
            help="Number of poolings of the network on each axis.", heading="Network", metavar="N", default="planned"
        ),
    ] = None
    tile: Annotated[
        int | None,
        Field(ge=1),
        Option(help="Side of a training tile in pixels.", heading="Network", metavar="N", default="planned"),
    ] = None
    batch: Annotated[
        int | None,
        Field(ge=1),
        Option(help="Number of tiles in a step.", heading="Network", metavar="N", default="planned"),
    ] = None
    precision: Annotated[
        Precision | None,
        Option(
            help="Number format of the convolutions; the plan takes the faster one.",
            heading="Hardware",
            default="planned",
        ),
    ] = None
    set: Annotated[
        tuple[str, ...],
        Option(
            help="Set any other value of the plan, such as weights.w0=5 (repeatable).",
            heading="Network",
            metavar="NAME=VALUE",
        ),
    ] = ()
    max_memory: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Option(
            help="Memory limit: 2G, 800M.",
            heading="Hardware",
            metavar="SIZE",
            default="most of the free memory",
            parse=parse_bytes,
            free=True,
        ),
    ] = None
    device: Annotated[str, DEVICE] = "auto"
    deterministic: Annotated[
        bool,
        Option(help="Use repeatable algorithms only; slower on GPUs.", heading="Hardware", free=True),
    ] = False
    compile: Annotated[
        bool, Option(help="Compile the network for the GPU with torch.compile.", heading="Hardware", free=True)
    ] = False

    @model_validator(mode="before")
    @classmethod
    def _name_the_run_after_the_data(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("out") is None and values.get("data"):
            return {**values, "out": run_folder(values["data"])}
        return values

    @model_validator(mode="before")
    @classmethod
    def _let_steps_replace_the_default_budget(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is not None:
            return {"budget_s": None, **values}
        return values

    @model_validator(mode="after")
    def _check_one_end(self) -> Self:
        if self.steps is not None and self.budget_s is not None:
            raise UsageError("both --steps and --budget", "one of them", "leave one of them out")
        return self

    @property
    def ends_at_plateau(self) -> bool:
        """Return True if the validation scores decide when the training ends."""
        return self.until_plateau or (self.steps is None and self.budget_s is None)


def command_line(settings: Settings) -> list[str]:
    """Return the words of the command that asks for these settings, after the name of the command.

    Options at their default, or whose value follows from other options, are left out.
    """
    given = settings.model_dump(exclude_defaults=True)
    for name in list(given):
        others = {key: value for key, value in given.items() if key != name}
        given = others if _makes(others, settings) else given
    words: list[str] = []
    for place, _, option in options_of(type(settings)):
        value: Any = given
        for name in place:
            value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
        if value is _MISSING:
            continue
        flag = flag_of(place, option)
        if value is True:
            words.append(flag)
            continue
        for one in value if isinstance(value, tuple) else (value,):
            text = "none" if one is None else (option.write or str)(one)
            words += [text] if option.argument else [flag, text]
    return words


_MISSING = object()


def _makes(values: Mapping[str, Any], settings: Settings) -> bool:
    """Return True if the values alone give the settings."""
    try:
        return type(settings).model_validate(values) == settings
    except (ValidationError, UsageError):
        return False


def fixed_settings(settings: TrainSettings) -> dict[str, Any]:
    """Return, ready for JSON, the settings that must stay the same when a run goes on."""
    free = {place[0] for place, _, option in options_of(type(settings)) if option.free and len(place) == 1}
    return settings.model_dump(mode="json", exclude=free)


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return what differs between two results of `fixed_settings`, by option or field: ``{"--seed": "0 -> 3"}``."""
    options = {place: option for place, _, option in options_of(TrainSettings)}
    old, new = dict(_by_place(before)), dict(_by_place(now))
    found = {}
    for place in new:
        if old[place] != new[place]:
            option = options.get(place)
            name = ".".join(place) if option is None else flag_of(place, option)
            found[name] = f"{_shown(old[place], option)} -> {_shown(new[place], option)}"
    return found


def _by_place(values: Mapping[str, Any], outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield place and value of each setting, also of those in settings of settings."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _by_place(value, (*outer, name))
        else:
            yield (*outer, name), value


def _shown(value: Any, option: Option | None) -> str:
    if value is None or value == []:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    write = str if option is None or option.write is None else option.write
    return ", ".join(write(one) for one in (value if isinstance(value, list) else [value]))


def read_fixed_settings(stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `fixed_settings` of this or another version returned.

    Parameters
    ----------
    stored
        Values by the name of their field; a field that did not exist yet has its default.

    Returns
    -------
    settings, others
        As `fixed_settings` returns them today, and the values whose names are not fields of the settings today.

    Raises
    ------
    pydantic.ValidationError
        If a value is out of range.
    """
    renamed = {_RENAMED.get(name, name): value for name, value in stored.items()}
    known, others = _known_fields(TrainSettings, renamed)
    return fixed_settings(TrainSettings.model_validate({**known, "data": (), "out": Path()})), others


def _known_fields(cls: type[Settings], stored: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values of the fields of a settings class, and those of other names, ``group.name`` within a group."""
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, value in stored.items():
        kind = cls.model_fields[name].annotation if name in cls.model_fields else None
        if kind is None:
            others[name] = value
        elif isinstance(kind, type) and issubclass(kind, Settings) and isinstance(value, Mapping):
            known[name], unknown = _known_fields(kind, value)
            others |= {f"{name}.{inner}": one for inner, one in unknown.items()}
        else:
            known[name] = value
    return known, others
