"""Cells that may share a table or a plot, and the measurement that counts for a row of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from bench.results.labels import shared_protocol, text_of

C = TypeVar("C")


def comparability_key(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the data and the way it is looked at: cells that differ in it never share a table.

    Cells written before the split could be chosen were measured on ``test``.
    """
    return (
        spec["dataset"], spec["data_digest"], shared_protocol(spec["protocol"]), spec["on_bad_image"],
        spec.get("split", "test"),
    )  # fmt: skip


def together(
    cells: Iterable[tuple[C, Mapping[str, Any], Mapping[str, str]]],
) -> list[tuple[dict[str, str], list[C]]]:
    """Group cells about the same data, seen in the same way, with no metric in two definitions.

    Args:
        cells: each with its specification, and the definitions of those of its metrics that count here.

    Returns:
        Groups in the order of their first cells: the definitions that they share, and the cells in their order.
    """
    groups: list[tuple[str, dict[str, str], list[C]]] = []
    for cell, spec, own in cells:
        view = text_of(comparability_key(spec))
        for other, definitions, members in groups:
            if other == view and all(definitions.get(metric, text) == text for metric, text in own.items()):
                definitions.update(own)
                members.append(cell)
                break
        else:
            groups.append((view, dict(own), [cell]))
    return [(definitions, members) for _, definitions, members in groups]


def precedence(runs: Mapping[str, Mapping[str, Any]], references: Collection[str]) -> dict[str, tuple[bool, str]]:
    """Return for each requested cell whether one of its runs has the black box too, and its newest run.

    The larger one counts: on another machine the same seed may have trained another black box, and a method is to be
    compared with its own.

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
