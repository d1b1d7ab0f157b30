"""Rows of ``results``: one cell, one metric, its value or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.results.cell_record import CellRecord, ScoreStatus, in_words

if TYPE_CHECKING:
    import pandas as pd


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
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    status: ScoreStatus = "ok"
    reason: str = ""


def rows_of(record: CellRecord, suite: str = "") -> list[Row]:
    """Return one row for each metric of a cell, and for each further number of a metric."""
    if record.written is None:
        assert record.failure is not None
        return [damaged_row(record.failure["reason"], suite, record.name)]
    common: dict[str, Any] = {
        "suite": suite,
        "cell": record.name,
        "method": record.spec["method"],
        "label": record.written["label"],
        "dataset": record.dataset,
        "backbone": record.backbone,
        "seed": record.seed,
    }
    rows = []
    for metric, facts in record.spec["metrics"].items():
        status, value, reason = record.score(metric)
        if value is None or record.result is None:
            reason = in_words(status) if status == "missing" else reason
            rows.append(Row(**common, metric=metric, unit=facts["unit"], status=status, reason=reason))
            continue
        score = record.result["scores"][metric]
        numbers = {metric: score["value"]}
        numbers |= {f"{metric}.{number}": value for number, value in score.get("also", {}).items()}
        rows += [Row(**common, metric=name, value=number, n=score["n"], unit=facts["unit"])
                 for name, number in numbers.items()]  # fmt: skip
    refused = record.written["not_applicable"].items()
    return rows + [Row(**common, metric=metric, unit=facts["unit"], status="n/a", reason=facts["reason"])
                   for metric, facts in refused]  # fmt: skip


def damaged_row(reason: str, suite: str = "", cell: str = "") -> Row:
    """Return the row of a file that cannot be read."""
    return Row(suite, cell, method="", label="", dataset="", backbone="", seed=None, metric="", status="failed",
               reason=reason)  # fmt: skip


def as_frame(rows: list[Row]) -> pd.DataFrame:
    """Return rows as a data frame with the columns of ``results --json``."""
    import pandas as pd

    return pd.DataFrame(as_dicts(rows), columns=list(Row.__dataclass_fields__))


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """Return rows as plain dictionaries."""
    return [dict(vars(row)) for row in rows]
