"""Tables 2, 5 and 6: methods are rows, backbones are columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.report.chance import chance_warnings
from bench.report.paper_tables.published import PaperTable, Published, published
from bench.report.sheet import Field, Heading, Row, marked
from bench.report.table import Line
from bench.results.aggregate import Column, Entry
from bench.results.select import Comparable, Fit

OURS = "ours"
"""Methods of this name, or that begin with it, are not prior work."""


def is_prior(method: str) -> bool:
    """Return whether a method counts for 'best prior'."""
    return not method.startswith(OURS)


def by_backbone(
    table: PaperTable, group: Comparable | None, comparable: bool, notes: list[str]
) -> tuple[tuple[Heading, ...], list[Row], list[str]]:
    """Return columns, rows and warnings of tables 2, 5 and 6.

    Args:
        table: one of the three.
        group: measured cells; ``None``: the paper's numbers alone.
        comparable: whether the paper's numbers are about the same images.
        notes: footnotes so far; new ones are added.
    """
    fits = group.fits if group else []
    printed = published(table.number)
    backbones = _backbones(fits, printed, comparable)
    columns = [(backbone, metric) for backbone in backbones for metric in table.metrics]
    said = {(one.method, one.backbone, one.metric): one for one in printed}

    def fields(method: str, entries: dict[tuple[str, str], Entry | None]) -> tuple[Field, ...]:
        return tuple(
            Field(entries.get(column), said.get((method, *column)) if method else None, comparable)
            for column in columns
        )

    rows: dict[str, list[Row]] = {"method": [], "reference": [], "control": []}
    methods: dict[str, str] = {}
    by_label: dict[tuple[str, str], list[Fit]] = {}
    for fit in fits:
        by_label.setdefault((fit.role, fit.label), []).append(fit)
    # The paper's own rows first, from top to bottom, including those that were not measured.
    order = list(dict.fromkeys(one.method for one in printed))
    names = [("method", name) for name in order]
    names += [key for key in by_label if key not in names]
    places = {key: order.index(_method(by_label, key)) if _method(by_label, key) in order else len(order)
              for key in names}  # fmt: skip
    for key in sorted(names, key=lambda key: places[key]):
        role, label = key
        own = by_label.get(key, [])
        entries: dict[tuple[str, str], Entry | None] = {}
        for fit in own:
            for backbone in [fit.backbone] if fit.backbone else backbones:
                entries |= {(backbone, metric): fit.entry(metric, notes) for metric in table.metrics}
        method = _method(by_label, key)
        stands_for_it = role == "method" and (not own or own[0].first.plain)
        row = Row(label, role, fields(method if stands_for_it else "", entries))  # type: ignore[arg-type]
        if _empty(row):
            continue
        methods[label] = method
        rows[role].append(row)
    rows["method"] = _with_best(rows["method"])
    summary = _best_prior(rows["method"], methods)
    lines = _lines(fits, table, notes)
    units = [Column(metric, "%", True, "") for metric in table.metrics]
    warnings = [f"Chance level, {text}" for text in chance_warnings(lines, units)]
    grouped = len(table.metrics) > 1
    headings = tuple(
        Heading(metric, "%", backbone) if grouped else Heading(backbone, "%") for backbone, metric in columns
    )
    return headings, [*rows["method"], *summary, *rows["reference"], *rows["control"]], warnings


def _method(by_label: dict[tuple[str, str], list[Fit]], key: tuple[str, str]) -> str:
    own = by_label.get(key)
    return own[0].spec["method"] if own else key[1]


def _backbones(fits: Sequence[Fit], printed: Sequence[Published], comparable: bool) -> list[str]:
    """Return the paper's backbones and the measured ones; only the latter if the paper's images are others."""
    measured = list(dict.fromkeys(fit.backbone for fit in fits if fit.backbone))
    theirs = list(dict.fromkeys(one.backbone for one in printed))
    if comparable or not fits:
        return [*theirs, *(name for name in measured if name not in theirs)]
    return sorted(measured, key=lambda name: theirs.index(name) if name in theirs else len(theirs))


def _empty(row: Row) -> bool:
    """Return whether a row has nothing but reasons why it cannot be measured, and nothing in the paper."""
    return all((f.entry is None or f.entry.status == "n/a") and f.published is None for f in row.fields)


def _with_best(rows: list[Row]) -> list[Row]:
    """Return the rows with the best method of each column marked."""
    columns = [marked(column) for column in zip(*(row.fields for row in rows), strict=True)]
    return [replace(row, fields=fields) for row, fields in zip(rows, zip(*columns, strict=True), strict=True)]


def _best_prior(rows: list[Row], methods: dict[str, str]) -> list[Row]:
    """Return the best row that is not ours, recomputed from measured and from published numbers, and our margin.

    The paper's text compares with different rows in different columns.
    """
    prior = [row for row in rows if is_prior(methods[row.name])]
    own = next((row for row in rows if methods[row.name] == OURS), None)
    if not prior or own is None:
        return []
    best = tuple(_best(fields) for fields in zip(*(row.fields for row in prior), strict=True))
    margin = tuple(_margin(field, other) for field, other in zip(own.fields, best, strict=True))
    return [Row("best prior", "summary", best), Row(f"{OURS} − best prior", "summary", margin)]


def _best(fields: Sequence[Field]) -> Field:
    entries = [f.entry for f in fields if f.entry is not None and f.entry.value is not None]
    theirs = [f.published for f in fields if f.published is not None and f.published.value is not None]
    entry = max(entries, key=lambda one: one.value or 0.0) if entries else None
    said = max(theirs, key=lambda one: one.value or 0.0) if theirs else None
    plain = None if entry is None else Entry("ok", entry.value, entry.spread, entry.seeds)
    # The two are the best of different rows if not all were measured.
    return Field(plain, said, comparable=False)


def _margin(own: Field, best: Field) -> Field:
    entry = said = None
    if own.entry and best.entry and own.entry.value is not None and best.entry.value is not None:
        entry = Entry("ok", own.entry.value - best.entry.value)
    if own.published and best.published and own.published.value is not None and best.published.value is not None:
        said = replace(own.published, value=own.published.value - best.published.value)
    return Field(entry, said, comparable=False, digits="+.1f")


def _lines(fits: Sequence[Fit], table: PaperTable, notes: list[str]) -> list[Line]:
    return [
        Line(fit.label, fit.role, fit.backbone, {metric: fit.entry(metric, notes) for metric in table.metrics})
        for fit in fits
    ]
