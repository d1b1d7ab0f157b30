"""Does a method or a metric keep the contract? Run on a few drawn images, for ``bench check`` and for our own tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.contract import RequestError
from bench.core import registry
from bench.diagnostics.conformance import methods, metrics
from bench.diagnostics.conformance.outcome import Outcome, attempt

_KINDS: tuple[tuple[str, Any], ...] = (("method", methods), ("metric", metrics))


def check(name: str) -> Iterator[Outcome]:
    """All checks of the method of that name, and of the metric of that name, one after the other.

    Raises:
        RequestError: where there is neither, with the nearest names.
    """
    found = [kind for kind in ("methods", "metrics") if name in registry.names(kind)]
    if not found:
        known = {*registry.names("methods"), *registry.names("metrics")}
        raise RequestError(f"no method or metric {registry.quoted(name)}{registry.nearest(name, known)}")
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder:
        for kind, module in _KINDS:
            if f"{kind}s" not in found:
                continue
            begun, subject = attempt(kind, module.FIRST, module.prepare, name, Path(folder))
            yield begun
            if begun.problem is None:
                for title, one in module.CHECKS.items():
                    yield attempt(kind, title, one, subject)[0]
