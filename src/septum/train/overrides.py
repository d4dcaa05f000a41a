"""Values of a plan that a person sets by name: ``weights.w0=5``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from septum.errors import UsageError
from septum.nn.unet import UNetSettings
from septum.settings import Settings
from septum.train.plan import Plan

_DATA_SAYS = ("network.channels", "network.classes")


def with_values(plan: Plan, values: Sequence[str]) -> Plan:
    """Return a plan with some values set.

    Parameters
    ----------
    plan
        The plan as it was chosen.
    values
        ``"name=value"`` each; the name as in ``plan.json`` (``weights.w0``, ``batch``), the value as JSON or a word.

    Raises
    ------
    UsageError
        If a name is unknown or a value is out of range; it lists the names.
    """
    said = plan.model_dump(mode="json")
    for name, value in _parsed(plan, values).items():
        *group, last = name.split(".")
        (said[group[0]] if group else said)[last] = value
    with _named(values):
        return Plan.model_validate(said)


def network_with_values(network: UNetSettings, values: Sequence[str]) -> UNetSettings:
    """Return the network of a plan with those of `values` that are its own; see `with_values`."""
    own = [v for v in values if v.startswith("network.")]
    said = network.model_dump(mode="json")
    for text in own:
        name, _, value = text.removeprefix("network.").partition("=")
        if name.strip() in said and f"network.{name.strip()}" not in _DATA_SAYS:  # others are named by `with_values`
            said[name.strip()] = _value(value.strip())
    with _named(own):
        made = UNetSettings.model_validate(said)
    if len(made.depths) != len(network.depths):
        asked = next(v for v in own if "depths" in v)
        raise UsageError(f"--set {asked}", f"{len(network.depths)} numbers, one for each axis of the images")
    return made


def _parsed(plan: Plan, values: Sequence[str]) -> dict[str, Any]:
    names = value_names(plan)
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or name.strip() not in names:
            raise UsageError(f"--set {text}", "NAME=VALUE with one of the names " + ", ".join(names))
        found[name.strip()] = _value(value.strip())
    return found


@contextmanager
def _named(values: Sequence[str]) -> Iterator[None]:
    """Say which of the values is out of its range."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        last = str(next((part for part in reversed(first["loc"]) if isinstance(part, str)), ""))
        asked = [v for v in values if v.partition("=")[0].strip().rsplit(".", 1)[-1] == last] or list(values)
        raise UsageError("--set " + " --set ".join(asked), str(first["msg"]).removeprefix("Value error, ")) from None


def value_names(plan: Plan) -> tuple[str, ...]:
    """Return the names that `with_values` knows, in the order of the plan: all but what the data decide."""
    names: list[str] = []
    for name in type(plan).model_fields:
        part = getattr(plan, name)
        names += [f"{name}.{inner}" for inner in type(part).model_fields] if isinstance(part, Settings) else [name]
    return tuple(name for name in names if name not in _DATA_SAYS)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
