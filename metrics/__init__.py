"""Metrics and content-free controls, and the published metrics as plain functions on tensors."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["consistency_score", "gaussian_noise", "part_hits", "stability_score"]

_HOMES = dict.fromkeys(__all__, "metrics.functional") | {"gaussian_noise": "metrics.noise"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
