"""Base of all configs; without torch, so that requests and stored results are read quickly."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every plugin's ``Config``: unknown names are errors, values are validated and do not change later."""

    model_config = ConfigDict(extra="forbid", frozen=True)
