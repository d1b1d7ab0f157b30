"""Rows of ``results``: one cell, one metric, its value or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.core.work_dir import failed
from bench.results.records import CellRecord, ScoreStatus


@dataclass(frozen=True)
class Row:
    """Row of ``results --json``: one cell, one metric; ``low`` and ``high``: :mod:`bench.results.stats.intervals`.

    A cell whose description is damaged, or a record of a call that is, has one row: its name, ``failed``, and why.
    """

    suite: str
    cell: str
    method: str
    label: str
    dataset: str
    backbone: str
    seed: int | None
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    unit: str
    status: ScoreStatus
    reason: str


def rows_of(found: CellRecord, suite: str = "") -> list[Row]:
    """Return one row for each metric of a cell, and for each further number of a metric."""
    written, outcome = found.written, found.result
    if written is None:
        assert found.failure is not None
        return [damaged_row(found.failure["reason"], suite, found.name)]
    spec = written["spec"]
    common = {
        "suite": suite,
        "cell": found.name,
        "method": spec["method"],
        "label": written["label"],
        "dataset": spec["dataset"],
        "backbone": spec["backbone"] or "",
        "seed": spec["seed"],
    }
    failure = found.failure or {**failed("not finished"), "status": "missing"}
    rows = []
    for metric, facts in spec["metrics"].items():
        if outcome is None:
            rows.append(_row(common, metric, facts["unit"], failure["status"], failure["reason"]))
        elif metric in outcome.get("not_applicable", {}):
            rows.append(_row(common, metric, facts["unit"], "n/a", outcome["not_applicable"][metric]))
        else:
            score = outcome["scores"][metric]
            numbers = {metric: score["value"]}
            numbers |= {f"{metric}.{number}": value for number, value in score.get("also", {}).items()}
            for number, value in numbers.items():
                rows.append(_row(common, number, facts["unit"], "ok", "", value, score["n"]))
    for metric, facts in written["not_applicable"].items():
        rows.append(_row(common, metric, facts["unit"], "n/a", facts["reason"]))
    return rows


def damaged_row(reason: str, suite: str = "", cell: str = "") -> Row:
    """Return the row of a file that cannot be read."""
    unknown = dict.fromkeys(("method", "label", "dataset", "backbone"), "")
    return _row({**unknown, "suite": suite, "cell": cell, "seed": None}, "", "", "failed", reason)


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """Return rows as plain dictionaries."""
    return [dict(vars(row)) for row in rows]


def _row(
    common: dict[str, Any],
    metric: str,
    unit: str,
    status: ScoreStatus,
    reason: str,
    value: float | None = None,
    n: int | None = None,
) -> Row:
    return Row(**common, metric=metric, value=value, low=None, high=None, n=n, unit=unit, status=status, reason=reason)
