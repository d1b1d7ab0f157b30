"""Texts and numbers in MLflow's limits: names, cut texts, nested settings on one level, rounded values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.plain_text import printable

LAYOUT = 6
"""Version of the content of runs: when it is raised, the next ``sync`` replaces the runs of earlier versions."""


SCORES = "Scores"
"""Prefix of the scores: charts have a section for each prefix in the order of their letters, capitals first."""


def digest(content: Any) -> str:
    """Return sixteen hexadecimal digits of the digest of the canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def rounded(value: float) -> float:
    """Return the value with four significant digits, as MLflow prints all that it is given; counts stay exact.

    >>> rounded(71.42857), rounded(0.00123456), rounded(21284672)
    (71.43, 0.001235, 21284672.0)
    """
    return float(value) if float(value).is_integer() else float(f"{value:.4g}")


def flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield dotted names and texts; the phases of a schedule become one readable line each, in their order."""
    start = f"{prefix}." if prefix else ""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(f"{start}{name}", inner)
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        for number, item in enumerate(value, 1):
            rest = {name: inner for name, inner in item.items() if name != "name"}
            yield f"{start}{number} {item['name']}", _line(rest)
    else:
        yield prefix, _plain(value)


def _line(content: Mapping[str, Any]) -> str:
    """Return a phase as a line, for example ``epochs 5, lr (add_on 0.003)``; empty values are left out."""
    # The length comes first; the rest in the order of the file.
    ordered = {name: content[name] for name in ("epochs", *content) if name in content}
    return ", ".join(
        f"{name} ({_line(value)})" if isinstance(value, Mapping) else f"{name} {_plain(value)}"
        for name, value in ordered.items()
        if value not in (None, {})
    )


def _plain(value: Any) -> str:
    if value in (None, ""):
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def named(text: str) -> str:
    """Return a text as an MLflow name, which has letters, digits and ``_ - . : / `` and blanks only."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", text)[:250]


def cut(text: str, limit: int) -> str:
    """Return the printable text, or its beginning and an ellipsis; of several lines, whole ones that fit."""
    text = printable(text)
    if len(text) <= limit:
        return text
    lines, _, _ = text[: limit - 1].rpartition("\n")
    return f"{lines}\n…" if lines else f"{text[: limit - 1]}…"
