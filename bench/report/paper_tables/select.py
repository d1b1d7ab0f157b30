"""Selection of the store's cells that belong into a table of the paper."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bench.report.paper_tables.published import PaperTable
from bench.results.select import Bounds, Candidate, Comparable, Row, candidates, comparable
from bench.results.store import Store


@dataclass(frozen=True)
class Selection:
    """Cells of a store for one table.

    Attributes:
        groups: newest first.
        left_out: why cells of this data set are not in the table -> how many.
    """

    groups: list[Comparable]
    left_out: Counter[str]


def select(
    store: Store,
    table: PaperTable,
    stamp: str | None = None,
    suite: str | None = None,
    bounds: Bounds | None = None,
    row: Row | None = None,
) -> Selection:
    """Return the cells of a table: of one run, or the newest of the whole store.

    Over the whole store a cell belongs into a table if it is about the paper's data set, or was asked for by one of
    the table's suites. Methods with changed settings are left out there (table 4 is about such changes): they would be
    rows that nobody asked to see.

    Args:
        store: results.
        table: table of the paper.
        stamp: time stamp of one run.
        suite: name of the suite whose newest run is taken.
        bounds: source of intervals, if places are to have them.
        row: key that cells of one row share, by default role, name and backbone.

    Raises:
        RequestError: if that run is not known.
    """
    own_suites = {f"table{table.number}", f"table{table.number}_small"}
    one_run = bool(stamp or suite)
    left_out: Counter[str] = Counter()
    chosen = []
    for candidate in candidates(store, stamp, suite):
        own = one_run or bool(candidate.suites & own_suites)
        if not own and table.dataset and candidate.found.spec["dataset"] != table.dataset:
            continue
        reason = _unfit(candidate, table, one_run)
        if reason == "":
            chosen.append(candidate)
        elif reason:
            left_out[reason] += 1
    left_out.update(f"damaged ({reason})" for reason in store.faults.values())
    return Selection(comparable(chosen, table.metrics, bounds, row), left_out)


def _unfit(candidate: Candidate, table: PaperTable, one_run: bool) -> str | None:
    """Return why a cell has no place in the table; empty if it has one, ``None`` if nobody would expect it there."""
    spec = candidate.found.spec
    if not any(metric in spec["metrics"] or metric in candidate.found.written["not_applicable"]
               for metric in table.metrics):  # fmt: skip
        return None
    if spec.get("split", "test") != "test":
        return f"measured on {spec['split']}"
    if table.number == 4:
        fits = spec["method"] == "ours" and candidate.changed <= {"k", "refinement"}
        return "" if fits or candidate.found.written["role"] == "reference" else None
    return "" if candidate.plain or one_run else "with changed settings"
