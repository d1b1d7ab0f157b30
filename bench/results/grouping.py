"""Which cells may share a table or a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

C = TypeVar("C")
_CANONICAL = json.JSONEncoder(sort_keys=True)


def text_of(content: Any) -> str:
    """Canonical JSON: equal contents have equal texts."""
    return _CANONICAL.encode(content)


def together(
    cells: Iterable[tuple[C, Mapping[str, Any], Mapping[str, str]]],
) -> list[tuple[dict[str, str], list[C]]]:
    """Cells about the same data, looked at in the same way, with no metric in two definitions.

    Args:
        cells: each with its specification, and the definitions of those of its metrics that count here.

    Returns:
        Groups in the order of their first cells: the definitions that they share, and the cells in their order.
    """
    groups: list[tuple[str, dict[str, str], list[C]]] = []
    for cell, spec, own in cells:
        view = text_of(
            [spec["dataset"], spec["data_digest"], spec["protocol"], spec["on_bad_image"], spec.get("split")]
        )
        for other, definitions, members in groups:
            if other == view and all(definitions.get(metric, text) == text for metric, text in own.items()):
                definitions.update(own)
                members.append(cell)
                break
        else:
            groups.append((view, dict(own), [cell]))
    return [(definitions, members) for _, definitions, members in groups]
