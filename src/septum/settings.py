"""Base class of all settings: frozen, closed, validated.

Each settings class stands beside the code that it configures (``nn/unet.py`` holds those of the network). A value out
of range, a wrong type or an unknown name is refused on construction, so that code that receives settings need not check
them again.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, closed settings; ``model_dump_json`` and ``model_validate_json`` write and read them."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
