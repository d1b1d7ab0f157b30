"""How a metric's numbers follow from its tables, kept beside the intervals: to ask the metric is to import torch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.errors import RequestError
from bench.core.files import read_json, write_json
from bench.core.paths import home
from bench.core.score import Aggregate

_OURS = "metrics."


def declaration(metric: str, parameters: Mapping[str, Any], number: str = "") -> Aggregate | str | None:
    """Return how a number follows from the tables of its metric, or the reason why it does not.

    Args:
        metric: its name.
        parameters: those it was measured with.
        number: empty for the metric's value, or the name of a further number.

    Returns:
        ``None`` if the metric does not say.

    Raises:
        UnknownName: if the metric is not known.
        ValueError: if it no longer has these parameters.
    """
    shipped = _shipped().get(metric, {})
    if shipped.get("parameters") == parameters and shipped["declared"].get(number, "") is not None:
        return _aggregates(shipped["declared"]).get(number)
    text = json.dumps([metric, parameters], sort_keys=True)
    if not is_ours(metric) or not home().is_dir():
        return _ask(text).get(number)
    key = hashlib.sha256(f"{code_of_intervals()}\n{text}".encode()).hexdigest()
    known = _declarations(text, home() / "intervals" / "declarations" / f"{key[:16]}.json")
    # Of one with functions it is only kept that there is one.
    return _ask(text).get(number) if known.get(number, "") is None else known.get(number)


def is_ours(metric: str) -> bool:
    """Return whether a metric, or the metric of ``METRIC.NUMBER``, is built in; that of a plugin may change unseen."""
    entry = registry.CATALOGUE["metrics"].get(metric) or registry.CATALOGUE["metrics"].get(metric.rsplit(".", 1)[0])
    return entry is not None and entry.target.startswith(_OURS)


@functools.cache
def code_of_intervals() -> str:
    """Return a digest of the code that makes intervals: ours, all metrics and the libraries by version."""
    root = Path(__file__).resolve().parents[3]
    ours = (
        "bench/results/stats/bootstrap.py",
        "bench/core/score.py",
        "bench/core/seeding.py",
        "bench/results/result_files.py",
        "bench/results/stats/units.py",
        "bench/results/stats/declared.json",
    )
    files = [*(root / name for name in ours), Path(__file__).with_name("intervals.py")]
    digest = hashlib.sha256()
    for file in [*files, *sorted((root / "metrics").glob("*.py"))]:
        digest.update(file.read_bytes())
    digest.update(" ".join(version(name) for name in ("numpy", "scipy", "pydantic")).encode())
    return digest.hexdigest()


@functools.cache
def _shipped() -> Mapping[str, Any]:
    """Return the declarations of built-in metrics with their usual parameters: a first reading then needs no torch.

    ``python -m tests.support.regenerate declarations`` writes the file anew; a test compares it with the metrics.
    """
    content: Mapping[str, Any] = read_json(Path(__file__).with_name("declared.json"))
    return content


def _aggregates(content: Mapping[str, Any]) -> Mapping[str, Aggregate | str | None]:
    return {name: Aggregate(**found) if isinstance(found, dict) else found for name, found in content.items()}


@functools.lru_cache(maxsize=256)
def _declarations(text: str, file: Path) -> Mapping[str, Aggregate | str | None]:
    with contextlib.suppress(RequestError, TypeError):  # it is not there, or damaged
        return _aggregates(read_json(file))
    declared = _ask(text)
    with contextlib.suppress(OSError):  # a home that is full or read-only: the metric is asked each time
        write_json(file, {name: plain(found) for name, found in declared.items()})
    return declared


def _ask(text: str) -> Mapping[str, Aggregate | str]:
    metric, parameters = json.loads(text)
    kind = registry.load("metrics", metric)
    declared: Mapping[str, Aggregate | str] = kind.aggregates(kind.Config.model_validate(parameters))
    return declared


def plain(found: Aggregate | str) -> Any:
    """Return a declaration as JSON content; ``None`` for one with a function."""
    if isinstance(found, str):
        return found
    fields = asdict(found)
    return None if any(map(callable, fields.values())) else fields
