"""Part-prototypes for a trained classifier: Tan, Zhou and Chen, Post-hoc Part-prototype Networks, ICML 2024.

``from bench.posthoc import decompose`` takes any classifier with an average pooling and a linear head; ``save`` and
``load`` store the result, ``draw`` shows it. They are imported on first use, so that ``import bench.posthoc`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.posthoc.wrap.api import decompose
    from bench.posthoc.wrap.classifier import PartPrototypeClassifier
    from bench.posthoc.wrap.serialization import load, save

__all__ = ["PartPrototypeClassifier", "decompose", "draw", "load", "save"]

_MODULES = {
    "PartPrototypeClassifier": "bench.posthoc.wrap.classifier",
    "decompose": "bench.posthoc.wrap.api",
    "draw": "bench.visualization.decomposition_gallery",
    "load": "bench.posthoc.wrap.serialization",
    "save": "bench.posthoc.wrap.serialization",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
