"""All results of a store or of one run: a table for each group of comparable cells, with its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.chance import chance_warnings
from bench.report.run_table import columns_of
from bench.report.table import Row, Table
from bench.report.table_remarks import describe_block, distinguish
from bench.results.aggregate import about_intervals
from bench.results.select import Bounds, Candidate, Comparable, Fit, comparable
from bench.results.store import Store

_ROLES = ("method", "reference", "control")


@dataclass(frozen=True)
class Result:
    """One table with its cells.

    Attributes:
        table: the displayed table.
        fits: the cells behind each of its rows, in the same order.
        group: all cells that it was chosen from.
    """

    table: Table
    fits: tuple[Fit, ...]
    group: Comparable

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.group.spec["dataset"])

    @property
    def rows(self) -> list[tuple[Row, Fit]]:
        """Rows with their cells."""
        return list(zip(self.table.rows, self.fits, strict=True))


def results(store: Store, cells: Sequence[Candidate], intervals: bool = False) -> list[Result]:
    """Return the tables, of the newest cells first.

    If several fits are one row (a method was run in other settings later), the one with most metrics finished
    represents it, then the newest.

    Args:
        store: store with the cells' tables.
        cells: newest first, as ``selection.candidates`` returns them.
        intervals: whether values get their 95 % intervals.
    """
    bounds = Bounds(store) if intervals else None
    groups = comparable(cells, bounds=bounds)
    titles = distinguish([group.spec for group in groups], [group.definitions for group in groups])
    return [_result(title, group, bounds) for title, group in zip(titles, groups, strict=True)]


def _result(title: str, group: Comparable, bounds: Bounds | None) -> Result:
    fits = sorted(group.fits, key=lambda fit: _ROLES.index(fit.role) if fit.role in _ROLES else len(_ROLES))
    cells = [one.found for fit in fits for one in fit.candidates]
    columns = columns_of(cells)
    notes: list[str] = []
    rows = [
        Row(fit.label, {one.key: fit.entry(one.name, notes) for one in columns}, fit.role, fit.backbone) for fit in fits
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
    return Result(table.marked(), tuple(fits), group)
