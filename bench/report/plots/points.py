"""Stored scores as points to plot: one per method, settings and backbone, with mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.report.table_remarks import distinguish
from bench.results.aggregate import SeedGroup
from bench.results.result_set import ComparableGroup, ResultSet
from bench.results.store import Store


@dataclass(frozen=True)
class Value:
    """Mean over seeds; ``spread`` is their standard deviation (n - 1), 0 for one seed."""

    mean: float
    spread: float
    seeds: int


@dataclass(frozen=True)
class Point:
    """Cells that differ only in seed or in the measured metrics.

    Attributes:
        label: label of the row in tables.
        method: name in the catalogue.
        role: ``method``, ``reference`` or ``control``.
        backbone: empty if the method uses none.
        settings: settings of the method.
        varied: whether settings were changed from those of the recipe.
        values: value of each measured metric.
        by_seed: those values with each seed that they are means over.
        seconds: seconds to fit it, including the black box if it starts from one, over the seeds with a record
            of that; ``None`` without any.
        prototypes: number of prototypes.
        cells: all of them.
    """

    label: str
    method: str
    role: str
    backbone: str
    settings: Mapping[str, Any]
    varied: bool
    values: Mapping[str, Value]
    by_seed: Mapping[int, Mapping[str, float]]
    seconds: Value | None
    prototypes: int
    cells: tuple[str, ...]

    def over(self, seeds: Sequence[int]) -> Point:
        """Return the point with means over these seeds, which it must have."""
        found = {metric: _value([self.by_seed[seed][metric] for seed in seeds]) for metric in self.values}
        return replace(self, values=found)


@dataclass(frozen=True)
class Group:
    """Points that may share one plot: the same data, seen in the same way, and one definition of each metric.

    Attributes:
        title: the data set, and its differences from others in the store.
        dataset: its name.
        units: unit of each metric.
        older: number of finished cells left out because a newer run has a row of the same name.
        hardware: hardware of the fits.
    """

    title: str
    dataset: str
    units: Mapping[str, str]
    points: tuple[Point, ...]
    older: int
    hardware: tuple[str, ...]


def groups(cells: ResultSet, metrics: Sequence[str]) -> list[Group]:
    """Return the finished cells that have one of the metrics as points; the group with most points first.

    Rows, and the cell that counts for each seed of a row, are those of the tables
    (:meth:`bench.results.result_set.ResultSet.groups`): a plot never shows another number than the table beside it.
    """
    tables = [table for table in cells.groups() if any(_shown(row, metrics) for row in table.rows)]
    own = [{name: text for name, text in table.definitions.items() if name in metrics} for table in tables]
    titles = distinguish([(table.cells[0], texts) for table, texts in zip(tables, own, strict=True)])
    made = [_group(cells.store, title, table, metrics) for title, table in zip(titles, tables, strict=True)]
    return sorted(made, key=lambda group: -len(group.points))


def _shown(row: SeedGroup, metrics: Sequence[str]) -> bool:
    return any(map(row.has, metrics))


def _group(store: Store, title: str, table: ComparableGroup, metrics: Sequence[str]) -> Group:
    units = {
        metric: facts["unit"]
        for cell in table.cells
        for metric, facts in cell.spec["metrics"].items()
        if metric in metrics
    }
    hardware = dict.fromkeys(result["environment"]["hardware"] for result in table.outcomes)
    points = tuple(_point(store, row, metrics) for row in table.rows if _shown(row, metrics))
    return Group(title, table.spec["dataset"], units, points, table.older, tuple(hardware))


def _point(store: Store, row: SeedGroup, metrics: Sequence[str]) -> Point:
    values: dict[int, dict[str, float]] = defaultdict(dict)
    seconds: dict[int, float] = {}
    for metric in metrics:
        for seed, cell in row.speaking(metric).items():
            if (value := cell.score(metric)[1]) is not None:
                values[seed][metric] = value
    for cell in row.preferred:
        # A post-hoc method is paid for twice: its black box had to be trained first.
        before = store.black_box_seconds(cell.written)
        if before is not None and cell.result is not None and "fit" in cell.result["seconds"]:
            seconds.setdefault(cell.seed, cell.result["seconds"]["fit"] + before)
    # Coordinates of one point are means over the same seeds: those with most of the metrics.
    most = max(map(len, values.values()), default=0)
    seeds = [seed for seed in sorted(values) if len(values[seed]) == most]
    measured = [metric for metric in metrics if all(metric in values[seed] for seed in seeds)] if seeds else []
    first = row.first
    assert first.result is not None
    return Point(
        first.label,
        first.spec["method"],
        first.role,
        first.backbone,
        first.spec["settings"],
        not first.plain,
        {metric: _value([values[seed][metric] for seed in seeds]) for metric in measured},
        {seed: values[seed] for seed in seeds},
        _value(known) if (known := [seconds[seed] for seed in seeds if seed in seconds]) else None,
        first.result["prototypes"],
        tuple(cell.name for cell in row.cells),
    )


def _value(numbers: Sequence[float]) -> Value:
    spread = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return Value(statistics.fmean(numbers), spread, len(numbers))
