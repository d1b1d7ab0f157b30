"""All results of a store or of one run: a table for each group of comparable cells, with its cells."""

from __future__ import annotations

from dataclasses import dataclass

from bench.report.chance import chance_warnings
from bench.report.run_table import columns_of
from bench.report.table import Row, Table
from bench.report.table_remarks import describe_block, distinguish
from bench.results.aggregate import Bounds, SeedGroup, about_intervals
from bench.results.result_set import ComparableGroup, ResultSet

_ROLES = ("method", "reference", "control")


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

    Args:
        cells: of a store or run.
        intervals: whether values get their 95 % intervals.
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
    members = sorted(group.rows, key=lambda row: _ROLES.index(row.role) if row.role in _ROLES else len(_ROLES))
    cells = [cell for row in members for cell in row.cells]
    columns = columns_of(cells)
    notes: list[str] = []
    rows = [
        Row(row.label, {one.key: row.entry(one.name, notes) for one in columns}, row.role, row.backbone)
        for row in members
    ]
    facts = describe_block(
        [column.definition for column in columns if column.definition], [cell.spec for cell in cells], group.outcomes
    )
    facts += about_intervals(bounds.kinds) if bounds is not None else []
    if group.older:
        facts.append(f"left out: {group.older} cell{'s' * (group.older > 1)} of older runs: unfinished, or in settings "
                     "that a newer run replaced")  # fmt: skip
    table = Table(
        title, columns, tuple(rows), ("method", "backbone"), tuple(notes), tuple(chance_warnings(rows, columns)),
        facts=tuple(facts), competes=True,
    )  # fmt: skip
    return Result(table.marked(), tuple(members), group)
