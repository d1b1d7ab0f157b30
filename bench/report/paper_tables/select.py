"""Selection of the store's cells that belong into a table of the paper."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bench.core import registry
from bench.report.paper_tables.published import PaperTable
from bench.results.aggregate import Bounds
from bench.results.cell_record import CellRecord
from bench.results.result_set import ComparableGroup, Key, ResultSet
from bench.results.store import Store


@dataclass(frozen=True)
class Selection:
    """Cells of a store for one table.

    Attributes:
        groups: newest first.
        left_out: why cells of this data set are not in the table -> how many.
    """

    groups: list[ComparableGroup]
    left_out: Counter[str]


def select(
    store: Store,
    table: PaperTable,
    stamp: str | None = None,
    suite: str | None = None,
    bounds: Bounds | None = None,
    key: Key | None = None,
) -> Selection:
    """Return the cells of a table: of one run, or the newest of the whole store.

    Over the whole store a cell belongs into a table if it is about the paper's data set, or was asked for by one of
    the table's suites. Methods with changed settings are left out there (table 4 is about such changes): they would be
    rows that nobody asked to see. ``key`` is of cells of one row, by default role, name and backbone.

    Raises:
        RequestError: if that run is not known.
    """
    own_suites = {f"table{table.number}", f"table{table.number}_small"}
    one_run = bool(stamp or suite)
    left_out: Counter[str] = Counter()
    chosen = []
    for cell in ResultSet.of(store, stamp, suite):
        own = one_run or bool(cell.suites & own_suites)
        if not own and table.dataset and cell.dataset != table.dataset:
            continue
        reason = _unfit(cell, table, one_run)
        if reason == "":
            chosen.append(cell)
        elif reason:
            left_out[reason] += 1
    left_out.update(f"damaged ({reason})" for reason in store.faults.values())
    return Selection(ResultSet(store, tuple(chosen)).groups(table.metrics, bounds, key), left_out)


def _unfit(cell: CellRecord, table: PaperTable, one_run: bool) -> str | None:
    """Return why a cell has no place in the table; empty if it has one, ``None`` if nobody would expect it there."""
    spec = cell.spec
    if not any(map(cell.asked, table.metrics)):
        return None
    if spec.get("split", "test") != "test":
        return f"measured on {spec['split']}"
    entry = registry.names("methods").get(spec["method"])
    if entry and entry.explains and not one_run:
        return None
    if table.number == 4:
        fits = spec["method"] == "ours" and cell.changed <= {"k", "refinement"}
        return "" if fits or cell.role == "reference" else None
    return "" if cell.plain or one_run else "with changed settings"
