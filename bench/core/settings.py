"""Base class of all settings, of the harness and of plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Settings(BaseModel):
    """Base of every plugin's ``Config``: unknown names are errors, values are checked, nothing changes later.

    Numbers are finite, and ``true`` is none: pydantic itself would take it for 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        if type(value) in (str, int, float) or not _holds_truth(value):
            return value
        if not _takes_truth(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("expected something else than true or false")
        return value


def _holds_truth(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return any(map(_holds_truth, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


def _takes_truth(kind: Any) -> bool:
    """Return whether a type allows a truth value; a model inside checks its own fields."""
    if kind in (bool, True, False, Any, object) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return True
    return any(map(_takes_truth, get_args(kind)))
