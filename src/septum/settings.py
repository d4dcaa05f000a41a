"""The base of all settings: frozen, closed, checked.

Each settings class stands beside the thing it sets (``nn/unet.py`` has the network's). A value out of range, a wrong
type or an unknown name is refused when the object is made, so code that receives settings need not check them again.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, closed settings; ``model_dump_json`` and ``model_validate_json`` carry them through files."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
