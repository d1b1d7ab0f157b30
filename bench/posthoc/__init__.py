"""Part-prototypes for a classifier that is already trained: Tan, Zhou and Chen, ICML 2024.

``from bench.posthoc import decompose`` is for anyone's classifier, ``save`` and ``load`` keep the result, ``draw``
shows it. They are imported when first asked for, so that ``import bench.posthoc`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.posthoc.wrap.api import decompose
    from bench.posthoc.wrap.classifier import PartPrototypeClassifier
    from bench.posthoc.wrap.serialization import load, save

__all__ = ["PartPrototypeClassifier", "decompose", "draw", "load", "save"]

_HOMES = {
    "PartPrototypeClassifier": "bench.posthoc.wrap.classifier",
    "decompose": "bench.posthoc.wrap.api",
    "draw": "bench.report.prototypes.decomposition_gallery",
    "load": "bench.posthoc.wrap.serialization",
    "save": "bench.posthoc.wrap.serialization",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
