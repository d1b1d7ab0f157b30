"""Conformance checks of methods and metrics on a few synthetic images, for ``bench check`` and the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.contract import RequestError
from bench.core import registry
from bench.diagnostics.conformance import methods, metrics
from bench.diagnostics.conformance.outcome import Outcome, attempt

_KINDS: dict[str, Any] = {"method": methods, "metric": metrics}


def check(name: str, settings: Mapping[str, Any] | None = None) -> Iterator[Outcome]:
    """Run all checks of the method and of the metric of a name, in these settings, and yield their outcomes.

    Raises:
        RequestError: if there is neither, with the nearest names.
    """
    kinds = [kind for kind in _KINDS if name in registry.names(f"{kind}s")]
    if not kinds:
        known = {*registry.names("methods"), *registry.names("metrics")}
        raise RequestError(f"no method or metric {registry.quoted(name)}{registry.nearest(name, known)}")
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder:
        for kind in kinds:
            module = _KINDS[kind]
            first, subject = attempt(kind, module.FIRST, module.prepare, name, Path(folder), settings)
            yield first
            if first.problem is None:
                for title, run in module.CHECKS.items():
                    yield attempt(kind, title, run, subject)[0]
                if kind == "method" and subject.method.predicts and registry.entry("methods", name).role == "method":
                    outcome, warning = attempt(kind, methods.LAST, methods.at_chance, subject)
                    yield replace(outcome, warning=warning or "")
