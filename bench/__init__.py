"""PartBench: methods with part-prototypes, measured under one protocol.

The Python interface, imported when first used, so that ``import bench`` loads no torch::

    import bench

    results = bench.run(methods=["ours", "protopnet"], datasets=["demo"], seeds=[0, 1])
    results.to_pandas()
    results.table("accuracy,consistency").to_markdown()
    results.compare("ours", "protopnet").to_pandas()

These names and :mod:`bench.contract` are public; everything else may change.
"""

from __future__ import annotations

import importlib
from typing import Any

from bench.core import __version__ as __version__

_HOMES = {
    "Results": "bench.api.results",
    "decompose": "bench.posthoc.wrap.api",
    "evaluate": "bench.api.evaluate",
    "load_results": "bench.api.results",
    "register_dataset": "bench.api.plugins",
    "register_method": "bench.api.plugins",
    "register_metric": "bench.api.plugins",
    "run": "bench.api.run",
}
__all__ = ["Results", "decompose", "evaluate", "load_results", "register_dataset", "register_method", "register_metric", "run"]  # noqa: E501  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
