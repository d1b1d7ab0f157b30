"""Tables 2, 5 and 6: methods are rows, backbones are columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.core import registry
from bench.report.chance import chance_warnings
from bench.report.paper_tables.published import PaperTable, Published, published
from bench.report.table import Column, Row, Value
from bench.results.aggregate import Entry, SeedGroup
from bench.results.labels import position
from bench.results.result_set import ComparableGroup

OURS = "ours"
"""Methods of this name, or that begin with it, are not prior work."""


def is_prior(method: str) -> bool:
    """Return whether a method counts for 'best prior': it is another part-prototype network."""
    entry = registry.names("methods").get(method)
    return not method.startswith(OURS) and not (entry and entry.explains)


def by_backbone(
    table: PaperTable, group: ComparableGroup | None, comparable: bool, notes: list[str]
) -> tuple[tuple[Column, ...], list[Row], list[str]]:
    """Return columns, rows and controls that reach methods of tables 2, 5 and 6.

    Args:
        table: one of the three.
        group: measured cells; ``None``: the paper's numbers alone.
        comparable: whether the paper's numbers are about the same images.
        notes: footnotes so far; new ones are added.
    """
    members = group.rows if group else []
    printed = published(table.number)
    backbones = _backbones(members, printed, comparable)
    grouped = len(table.metrics) > 1
    columns = {
        (backbone, metric): Column(metric, "%", backbone) if grouped else Column(backbone, "%")
        for backbone in backbones
        for metric in table.metrics
    }
    said = {(one.method, one.backbone, one.metric): one for one in printed}

    def values(method: str, entries: dict[tuple[str, str], Entry | None]) -> dict[str, Value]:
        return {
            column.key: Value(entries.get(place), said.get((method, *place)) if method else None, comparable)
            for place, column in columns.items()
        }

    rows: dict[str, list[Row]] = {"method": [], "reference": [], "control": []}
    methods: dict[str, str] = {}
    by_label: dict[tuple[str, str], list[SeedGroup]] = {}
    for member in members:
        by_label.setdefault((member.role, member.label), []).append(member)
    # The paper's own rows first, from top to bottom, including those that were not measured.
    order = list(dict.fromkeys(one.method for one in printed))
    names = [("method", name) for name in order]
    names += [key for key in by_label if key not in names]
    for key in sorted(names, key=lambda key: position(_method(by_label, key), order)):
        role, label = key
        own = by_label.get(key, [])
        entries: dict[tuple[str, str], Entry | None] = {}
        for member in own:
            for backbone in [member.backbone] if member.backbone else backbones:
                entries |= {(backbone, metric): member.entry(metric, notes) for metric in table.metrics}
        method = _method(by_label, key)
        stands_for_it = role == "method" and (not own or own[0].first.plain)
        row = Row(label, values(method if stands_for_it else "", entries), role)
        if _empty(row):
            continue
        methods[label] = method
        rows[role].append(row)
    summary = _best_prior(rows["method"], methods, tuple(columns.values()))
    by_metric = [
        Row(
            member.label,
            {metric: member.entry(metric, notes) for metric in table.metrics},
            member.role,
            member.backbone,
        )
        for member in members
    ]
    chance = chance_warnings(by_metric, [Column(metric, "%") for metric in table.metrics])
    return tuple(columns.values()), [*rows["method"], *summary, *rows["reference"], *rows["control"]], chance


def _method(by_label: dict[tuple[str, str], list[SeedGroup]], key: tuple[str, str]) -> str:
    own = by_label.get(key)
    return own[0].spec["method"] if own else key[1]


def _backbones(members: Sequence[SeedGroup], printed: Sequence[Published], comparable: bool) -> list[str]:
    """Return the paper's backbones and the measured ones; only the latter if the paper's images are others."""
    measured = list(dict.fromkeys(member.backbone for member in members if member.backbone))
    theirs = list(dict.fromkeys(one.backbone for one in printed))
    if comparable or not members:
        return [*theirs, *(name for name in measured if name not in theirs)]
    return sorted(measured, key=lambda name: position(name, theirs))


def _empty(row: Row) -> bool:
    """Return whether a row has nothing but reasons why it cannot be measured, and nothing in the paper."""
    values = [value for value in row.values.values() if isinstance(value, Value)]
    return all((one.entry is None or one.entry.status == "n/a") and one.published is None for one in values)


def _best_prior(rows: list[Row], methods: dict[str, str], columns: tuple[Column, ...]) -> list[Row]:
    """Return the best row that is not ours, recomputed from measured and from published numbers, and our margin.

    The paper's text compares with different rows in different columns.
    """
    prior = [row for row in rows if is_prior(methods[row.label])]
    own = next((row for row in rows if methods[row.label] == OURS), None)
    if not prior or own is None:
        return []
    best = {column.key: _best([row.value(column) for row in prior]) for column in columns}
    margin = {column.key: _margin(own.value(column), best[column.key]) for column in columns}
    return [Row("best prior", best, "summary"), Row(f"{OURS} − best prior", margin, "summary")]


def _best(values: Sequence[Value]) -> Value:
    entries = [one.entry for one in values if one.entry is not None and one.entry.value is not None]
    printed = [one.published for one in values if one.published is not None and one.published.value is not None]
    entry = max(entries, key=lambda one: one.value or 0.0, default=None)
    published = max(printed, key=lambda one: one.value or 0.0, default=None)
    plain = None if entry is None else Entry("ok", entry.value, entry.spread, entry.seeds)
    # The two are the best of different rows if not all were measured.
    return Value(plain, published, comparable=False)


def _margin(own: Value, best: Value) -> Value:
    entry = published = None
    if own.entry and best.entry and own.entry.value is not None and best.entry.value is not None:
        entry = Entry("ok", own.entry.value - best.entry.value)
    if own.published and best.published and own.published.value is not None and best.published.value is not None:
        published = replace(own.published, value=own.published.value - best.published.value)
    return Value(entry, published, comparable=False, digits="+.1f")
