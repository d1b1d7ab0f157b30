"""Which of several measurements of one method in the same settings speaks for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def precedence(runs: Mapping[str, Mapping[str, Any]], references: Collection[str]) -> dict[str, tuple[bool, str]]:
    """For each cell that a run asked for: whether one of its runs has the black box too, and its newest run.

    The larger speaks: on another machine the same seed may have trained another black box, and a method is to stand
    beside its own.

    Args:
        runs: by their stamps.
        references: ids of finished cells of black boxes.
    """
    found: dict[str, tuple[bool, str]] = {}
    for stamp, run in sorted(runs.items()):
        beside = any(name in references for name in run["cells"])
        for name in run["cells"]:
            found[name] = (beside or (name in found and found[name][0]), stamp)
    return found
