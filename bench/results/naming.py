"""What a cell's row is called in tables and plots, and whether it is a method as it comes; from its ``cell.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changed(written: Mapping[str, Any]) -> set[str]:
    """Names of the settings that are not those of the recipe; in older stores what the label says."""
    known = written.get("changed")
    return varied(written["label"]) if known is None else set(known)


def is_plain(written: Mapping[str, Any]) -> bool:
    """Whether it is the method as it comes, or a given network of that method."""
    return not changed(written) or bool(written["where"].get("given"))


def name_of(written: Mapping[str, Any]) -> str:
    """Name of the row. A cell's label is what the newest request called it; without changes it is the method."""
    return str(written["label"] if changed(written) else written["spec"]["method"])


def varied(label: str) -> set[str]:
    """Names of the settings that a label says were changed.

    >>> sorted(varied("ours (k=3, refinement=none)"))
    ['k', 'refinement']
    """
    inner = label.partition(" (")[2].removesuffix(")")
    return {part.partition("=")[0] for part in inner.split(", ") if part}
