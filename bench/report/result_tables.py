"""All results of a store or of one run: a table for each group of comparable cells, with its cells."""

from __future__ import annotations

from dataclasses import dataclass

from bench.report.run_table import columns_of, mean_rows, table_of
from bench.report.table import Row, Table
from bench.report.table_remarks import distinguish, left_out
from bench.results.aggregate import Bounds, SeedGroup, about_intervals
from bench.results.labels import ROLES, position
from bench.results.result_set import ComparableGroup, ResultSet


@dataclass(frozen=True)
class Result:
    """One table with its cells.

    Attributes:
        table: the displayed table.
        members: the cells behind each of its rows, in the same order.
        group: all cells that it was chosen from.
    """

    table: Table
    members: tuple[SeedGroup, ...]
    group: ComparableGroup

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.group.spec["dataset"])

    @property
    def rows(self) -> list[tuple[Row, SeedGroup]]:
        """Rows with their cells."""
        return list(zip(self.table.rows, self.members, strict=True))


def results(cells: ResultSet, intervals: bool = False) -> list[Result]:
    """Return the tables, the one with most measured values first, then of the newest cells.

    If several settings are one row (a method was run in other settings later), the one with most metrics finished
    represents it, then the newest.
    """
    bounds = Bounds(cells.store) if intervals else None
    groups = cells.groups(bounds=bounds)
    titles = distinguish([(group.cells[0], group.definitions) for group in groups])
    found = [_result(title, group, bounds) for title, group in zip(titles, groups, strict=True)]
    return sorted(found, key=_measured, reverse=True)


def _measured(result: Result) -> int:
    """Return the number of values of single seeds in a table."""
    places = [row.entry(column) for row in result.table.rows for column in result.table.columns]
    return sum(len(entry.seeds) for entry in places if entry is not None)


def _result(title: str, group: ComparableGroup, bounds: Bounds | None) -> Result:
    members = sorted(group.rows, key=lambda row: position(row.role, ROLES))
    columns = columns_of(group.shown)
    notes: list[str] = []
    rows = mean_rows(members, columns, notes)
    facts = [*(about_intervals(bounds.kinds) if bounds is not None else ()), *left_out(group.older)]
    table = table_of(title, columns, rows, notes, group.shown, facts)
    return Result(table, tuple(members), group)
