"""Tables of one run: its rows side by side, and the remarks under them.

A table is one data set under one protocol. Its rows are methods, then references, then content-free controls; its
columns are metrics of one definition each. A metric of another definition becomes another table.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bench.core.errors import RequestError
from bench.report.cautions import with_cautions
from bench.report.chance import beside_protocols, beyond_chance, chance_warnings
from bench.report.table import Column, Row, Table
from bench.report.table_remarks import describe_block, distinguish, fewer_seeds
from bench.report.twins import without_twins
from bench.results.aggregate import Bounds, SeedGroup, about_intervals, with_interval
from bench.results.cell_record import CellRecord
from bench.results.labels import ROLES, metric_order, position, text_of
from bench.results.result_set import comparable, wanted_metrics
from bench.results.store import Store


def comparison(
    store: Store,
    stamp: str | None = None,
    suite: str | None = None,
    intervals: bool = False,
    metrics: Sequence[str] = (),
) -> list[Table]:
    """Return the tables of one run, without those of scores beyond chance.

    Args:
        store: results.
        stamp: time stamp of the run; by default the latest one.
        suite: name of the suite whose latest run is taken.
        intervals: whether to compute the 95 % intervals.
        metrics: names and groups of the columns; by default all that were measured.

    Raises:
        RequestError: if there is nothing to compare, or for a metric that was not measured in this run.
    """
    known, stamp = store.invocations(), store.chosen_run(stamp, suite)
    there = set(store.cells())
    names = [name for name in known[stamp]["cells"] if name in there]
    cells = store.records(names)
    damaged = [store.faults[name] for name in names if name in store.faults]
    if not cells:
        if damaged:
            raise RequestError(f"no cell of {stamp} can be read, of {len(damaged)}; the first: {damaged[0]}")
        raise RequestError(f"no cell of {stamp} is on disk any more; call `run` again")
    lost = len(known[stamp]["cells"]) - len(names)
    found = comparable(cells)
    groups = [members for _, members in found]
    titles = distinguish([(members[0], definitions) for definitions, members in found])
    origin = [f"run: {stamp}, suite {known[stamp]['suite']}"]
    if lost:
        origin.append(f"{lost} cell{'s' * (lost > 1)} of this run {'are' if lost > 1 else 'is'} no longer on disk")
    origin += [f"failed: {reason}" for reason in damaged]
    where = store if intervals else None
    wanted = wanted_metrics(cells, metrics, f"run {stamp}") if metrics else None
    columns = [_chosen(columns_of(group), wanted) for group in groups]
    found_tables = zip(titles, groups, columns, strict=True)
    tables = [(_table(title, group, own, origin, where), group[0].view) for title, group, own in found_tables if own]
    views = [(view["dataset"], view["protocol"].removeprefix("protocol ")) for _, view in tables]
    return beside_protocols([table for table, _ in tables], views)


def with_beyond_chance(tables: Sequence[Table]) -> list[Table]:
    """Return each table, followed by that of its scores beyond chance if a content-free control was measured."""
    return [each for table in tables for each in (table, beyond_chance(table)) if each is not None]


def _chosen(columns: tuple[Column, ...], wanted: Sequence[str] | None) -> tuple[Column, ...]:
    return tuple(column for column in columns if wanted is None or column.name in wanted)


def _table(
    title: str, group: list[CellRecord], columns: tuple[Column, ...], origin: list[str], store: Store | None
) -> Table:
    notes: list[str] = []
    members = _by_row(group)
    rows, members, twins = without_twins(mean_rows(members, columns, notes), members, columns)
    rows = with_cautions(rows, members, notes)
    if store is not None:
        bounds = Bounds(store)
        rows = [_bounded(row, one.cells, bounds, notes) for row, one in zip(rows, members, strict=True)]
        origin = [*about_intervals(bounds.kinds), *origin]
    rows = _distinct(rows, members)
    fewer = fewer_seeds([(row.label, row.backbone, [cell.seed for cell in one.cells])
                         for row, one in zip(rows, members, strict=True)])  # fmt: skip
    return table_of(title, columns, rows, notes, group, [*twins, *_black_boxes(group), *origin], fewer)


def mean_rows(members: Iterable[SeedGroup], columns: Sequence[Column], notes: list[str]) -> list[Row]:
    """Return a row for each group of cells, with means over its seeds; footnotes are added to ``notes``."""
    return [
        Row(one.label, {column.key: one.entry(column.name, notes) for column in columns}, one.role, one.backbone)
        for one in members
    ]


def table_of(
    title: str,
    columns: tuple[Column, ...],
    rows: Sequence[Row],
    notes: Sequence[str],
    cells: Sequence[CellRecord],
    facts: Sequence[str],
    fewer: str = "",
) -> Table:
    """Return the table of some rows, with the facts that all cells share above ``facts``, and the best ones marked."""
    definitions = [column.definition for column in columns if column.definition]
    return Table(
        title, columns, tuple(rows), ("method", "backbone"), tuple(notes), tuple(chance_warnings(rows, columns)),
        facts=(*describe_block(definitions, cells, fewer=fewer), *facts), competes=True,
    ).marked()  # fmt: skip


def _black_boxes(group: Iterable[CellRecord]) -> list[str]:
    """Return lines about cells that should have decomposed one classifier and did not, since it was trained again."""
    labels: dict[tuple[int, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in group:
        digest = (cell.result or {}).get("black_box")
        if digest:
            labels[cell.spec["seed"], cell.written["black_box_id"]][digest].append(cell.written["label"])
    return [
        f"seed {seed}: the black box was trained again in between, and came out with other weights: "
        + " | ".join(", ".join(own) for own in digests.values())
        for (seed, _), digests in labels.items()
        if len(digests) > 1
    ]


def columns_of(group: Sequence[CellRecord]) -> tuple[Column, ...]:
    """Return the metrics that were asked for in some cell, the usual ones first."""
    refused = {metric: facts for cell in group for metric, facts in cell.written["not_applicable"].items()}
    measured = {metric: facts for cell in group for metric, facts in cell.spec["metrics"].items()}
    facts = {**refused, **measured}
    texts = {metric: text for cell in group for metric, text in cell.definitions.items()}
    return tuple(Column.of(name, facts[name], texts.get(name, "")) for name in sorted(facts, key=metric_order))


def _by_row(group: list[CellRecord]) -> list[SeedGroup]:
    """Group cells that differ in nothing but the seed, in the order of the plan within each role."""
    rows: dict[str, list[CellRecord]] = defaultdict(list)
    for cell in group:
        # The label too: two requests may name the same settings differently, and each is a row of its own.
        rows[text_of([{**cell.spec, "seed": None}, cell.written["label"]])].append(cell)
    ordered = sorted(rows.values(), key=lambda row: position(row[0].role, ROLES))
    return [SeedGroup(tuple(sorted(row, key=lambda cell: cell.seed)), row[0].written["label"]) for row in ordered]


def _bounded(row: Row, cells: Sequence[CellRecord], bounds: Bounds, notes: list[str]) -> Row:
    """Return the row with intervals; ``bounds`` collects the units of each metric's intervals."""
    entries = {metric: with_interval(entry, cells, metric, bounds, notes) for metric, entry in row.values.items()}
    return replace(row, values=entries)


def _distinct(rows: list[Row], members: list[SeedGroup]) -> list[Row]:
    """Add the id of their first cell to rows of the same name, so that a table never shows two of one name."""
    count = Counter((row.label, row.backbone) for row in rows)
    return [
        replace(row, label=f"{row.label} #{one.first.name[:6]}") if count[row.label, row.backbone] > 1 else row
        for row, one in zip(rows, members, strict=True)
    ]
