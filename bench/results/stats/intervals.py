"""Intervals for rows of results, worked out when they are read: from stored tables, for cells of any age."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.results.stats.bootstrap import Interval, NoInterval, interval
from bench.results.stats.units import Items
from bench.results.store import Row, Store


def with_intervals(store: Store, rows: Iterable[Row]) -> list[Row]:
    """The rows with ``low`` and ``high`` filled, or with the reason why there is no interval.

    The interval is about the test images or classes of this one cell; several seeds are put together by reports.

    Args:
        store: where the cells lie.
        rows: from ``store.rows``; those of a cell beside each other.
    """
    specs: dict[str, dict[str, Any]] = {}
    tables: dict[tuple[str, str], Items] = {}

    def filled(row: Row) -> Row:
        if row.status != "ok" or row.value is None:
            return row
        if row.cell not in specs:
            # One cell at a time: what its tables hold is not needed for the next one.
            specs.clear()
            tables.clear()
            specs[row.cell] = store.specification(row.cell)["spec"]["metrics"]
        metrics = specs[row.cell]
        metric, number = (row.metric, "") if row.metric in metrics else row.metric.rsplit(".", 1)
        key = (row.cell, metric)
        if key not in tables:
            tables[key] = Items(store.cell(row.cell).result, metric, metrics[metric])
        try:
            found = interval([tables[key].sample(row.value, number)])
        except NoInterval as error:
            return replace(row, reason=f"no interval: {error}")
        return replace(row, low=found.low, high=found.high)

    return [filled(row) for row in rows]


def over_seeds(metric: str, facts: Mapping[str, Any], values: Iterable[tuple[Path, float]]) -> Interval:
    """The interval of a metric's mean over seeds.

    Args:
        metric: its name.
        facts: its version and parameters.
        values: of each seed, the cell's ``result`` folder and the stored value.

    Raises:
        NoInterval: where there is none.
    """
    return interval([Items(result, metric, facts).sample(value) for result, value in values])
