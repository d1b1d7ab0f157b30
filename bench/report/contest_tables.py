"""Tables of a contest: every two methods, their ranks, and how often each is ahead."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from bench.core.plain_text import for_csv
from bench.report.table import Column, Place, Row, Table, Value, Word
from bench.results.aggregate import Entry
from bench.results.stats.contest import Comparison, Contest, Tally

_P = ".2g"


def contest_tables(contest: Contest) -> list[Table]:
    """Return a table of every two methods and place, of incomparable methods, of ranks, and of wins.

    The remarks about the whole contest are under the last one.
    """
    pairs = dict.fromkeys((one.methods, one.place) for one in contest.comparisons if one.metric)
    tables = [_pair([one for one in contest.comparisons if (one.methods, one.place) == key]) for key in pairs]
    apart: dict[tuple[str, str], list[str]] = {}
    for one in contest.comparisons:
        if not one.metric:
            apart.setdefault((_place(one), one.reason), []).extend(one.methods)
    if apart:
        columns = (Column("reason", words=True), Column("methods", words=True))
        rows = [Row(place, {"reason": Word(reason), "methods": Word(", ".join(dict.fromkeys(own)))})
                for (place, reason), own in apart.items()]  # fmt: skip
        tables.append(Table("not compared", columns, tuple(rows), ("where",), foldable=False))
    several = [ranking for ranking in contest.rankings if ranking.places > 1]  # one place has the order of its values
    if several:
        columns = (*(Column(method, digits=".2f") for method in contest.methods), Column("places", digits=".0f"),
                   Column("Friedman p", digits=_P))  # fmt: skip
        rows = [Row(one.metric, _numbers(columns, (*one.ranks, one.places, one.p))) for one in several]
        note = "1 is best; a place is a data set with a backbone; Friedman's test from 5 places on"
        tables.append(Table("mean rank", columns, tuple(rows), ("metric",), facts=(note,)))
    if contest.tallies:
        counts = tuple(Column(name, digits=".0f") for name in ("first ahead", "second ahead", "places"))
        columns = (Column("metric", words=True), *counts, Column("Wilcoxon p", digits=_P))
        rows = [
            Row(_against(one), {"metric": Word(one.metric), **_numbers(columns[1:], (*one.ahead, one.places, one.p))})
            for one in contest.tallies
        ]
        note = "a place is a data set with a backbone (places of one data set are not independent); Wilcoxon from 6 on"
        tables.append(Table("over data sets and backbones", columns, tuple(rows), ("methods",), facts=(note,)))
    if tables:
        tables[-1] = replace(tables[-1], facts=(*tables[-1].facts, *contest.facts))
    return tables


def as_json(contest: Contest) -> str:
    """Return everything as JSON, for programs."""
    return json.dumps(asdict(contest), indent=1, allow_nan=False) + "\n"


def as_csv(contest: Contest) -> str:
    """Return one row per comparison; values of single seeds are in the rows of ``results``."""
    stream = io.StringIO()
    rows = [
        {name: " ".join(map(str, value)) if isinstance(value, tuple) else for_csv(value) for name, value in row.items()}
        for row in comparison_rows(contest)
    ]
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def comparison_rows(contest: Contest) -> list[dict[str, Any]]:
    """Return a record of each comparison; the first and the second method have entries of their own."""
    rows = []
    for comparison in contest.comparisons:
        row: dict[str, Any] = {}
        for name, value in asdict(comparison).items():
            if name in ("methods", "values", "spreads", "seeds"):
                row[f"{name[:-1]}_1"], row[f"{name[:-1]}_2"] = value
            elif name != "by_seed":
                row[name] = value
        rows.append(row)
    return rows


def _pair(own: Sequence[Comparison]) -> Table:
    first = own[0]
    notes = list(dict.fromkeys(one.reason for one in own if one.reason))
    over: dict[str, list[str]] = {}
    rows = []
    one, two = first.methods
    for each in own:
        digits = ".1f" if each.unit == "%" else ".4g"
        values: dict[str, Place] = {
            method: Value(None if value is None else Entry("ok", value, spread), digits=digits)
            for method, value, spread in zip(each.methods, each.values, each.spreads, strict=True)
        }
        if each.difference is not None:
            entry = Entry("ok", each.difference, low=each.low, high=each.high)
            values["difference [95 %]"] = Value(entry, digits=f"+{digits}")
        values |= {name: Entry("ok", p) for name, p in (("p", each.p), ("Holm", each.corrected)) if p is not None}
        values["verdict"] = Word(each.verdict, (notes.index(each.reason) + 1,) if each.reason else ())
        if each.units is not None:
            over.setdefault(f"{each.units} {each.kind}", []).append(each.metric)
        rows.append(Row(f"{each.metric} ({each.unit})" if each.unit else each.metric, values))
    columns = (Column(one), Column(two), Column("difference [95 %]"), Column("p", digits=_P),
               Column("Holm", digits=_P), Column("verdict", words=True))  # fmt: skip
    units = "; ".join(f"{count} ({', '.join(metrics)})" for count, metrics in over.items())
    # A verdict below its numbers would be read with another row's.
    return Table(f"{_against(first)}: {_place(first)}", columns, tuple(rows), ("metric",), tuple(notes),
                 facts=(f"over {units}",) if units else (), foldable=False)  # fmt: skip


def _numbers(columns: Sequence[Column], numbers: Sequence[float | None]) -> dict[str, Place]:
    return {column.key: Entry("ok", one) for column, one in zip(columns, numbers, strict=True) if one is not None}


def _against(one: Comparison | Tally) -> str:
    return " against ".join(one.methods)


def _place(one: Comparison) -> str:
    return ", ".join(part for part in (one.dataset, one.backbone) if part) + f" ({one.protocol})"
