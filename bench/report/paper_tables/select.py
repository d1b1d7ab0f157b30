"""Cells of a store that belong into a table of the paper."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from bench.report.paper_tables.published import PaperTable
from bench.results.select import Bounds, Candidate, Comparable, Row, candidates, comparable
from bench.results.store import Store


@dataclass(frozen=True)
class Selection:
    """What a store has for one table.

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
    """The cells of a table: of one run, or the newest of the whole store.

    Over the whole store a cell belongs into a table where it is about the paper's data set, or was asked for by one of
    the table's suites. Methods with changed settings are left out there (table 4 is about such changes): they would be
    rows that nobody asked to see.

    Args:
        store: where the results lie.
        table: of the paper.
        stamp: of one run.
        suite: of which the newest run is taken.
        bounds: given where places are to have intervals.
        row: what cells of one row have in common, by default role, name and backbone.

    Raises:
        RequestError: where that run is not known.
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
    """Why a cell has no place in the table; empty where it has one, ``None`` where nobody would expect it there."""
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
