"""Intervals for rows of results, computed when they are first read: from stored tables, for cells of any age."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bench.results.result_files import ResultFiles
from bench.results.stats.bootstrap import Interval, NoInterval, interval
from bench.results.stats.interval_cache import IntervalCache
from bench.results.stats.units import Items
from bench.results.store import Row, Store


def with_intervals(store: Store, rows: Iterable[Row]) -> list[Row]:
    """Return the rows with ``low`` and ``high`` filled, or with the reason why there is no interval.

    The interval is about the test images or classes of this one cell; several seeds are put together by reports.

    Args:
        store: contains the cells.
        rows: from ``store.rows``; those of a cell beside each other.
    """
    specs: dict[str, dict[str, Any]] = {}
    tables: dict[tuple[str, str], Items] = {}

    def filled(row: Row) -> Row:
        if row.cell not in specs:
            # One cell at a time: the content of its tables is not needed for the next one.
            specs.clear()
            tables.clear()
            specs[row.cell] = store.specification(row.cell)["spec"]["metrics"]
        metrics = specs[row.cell]
        metric, number = (row.metric, "") if row.metric in metrics else row.metric.rsplit(".", 1)
        key = (row.cell, metric)
        if key not in tables:
            tables[key] = Items(store.files(row.cell), metric, metrics[metric])
        try:
            assert row.value is not None
            ends = interval([tables[key].sample(row.value, number)])
        except NoInterval as error:
            return replace(row, reason=f"no interval: {error}")
        return replace(row, low=ends.low, high=ends.high)

    cache, found = IntervalCache(store), []
    for _, cell in itertools.groupby(rows, lambda row: row.cell):
        measured = list(cell)
        asked = [row for row in measured if row.status == "ok" and row.value is not None]
        kept = cache.read(asked) if asked else []
        if kept is None:
            kept = [filled(row) for row in asked]
            cache.write(kept)
        by_metric = {row.metric: row for row in kept}
        found += [by_metric.get(row.metric, row) for row in measured]
    return found


def over_seeds(metric: str, facts: Mapping[str, Any], values: Iterable[tuple[ResultFiles, float]]) -> Interval:
    """Return the interval of a metric's mean over seeds, from files and stored value of each seed's cell.

    Raises:
        NoInterval: if there is none.
    """
    return interval([Items(files, metric, facts).sample(value) for files, value in values])
