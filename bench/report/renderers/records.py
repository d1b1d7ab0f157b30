"""Tables for programs, in full precision: CSV with one line for each place, and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.core.plain_text import for_csv
from bench.report.table import Column, Row, Table, Word

COLUMNS = (
    "table", "sheet", "row", "role", "group", "column", "unit", "status", "value", "spread", "low", "high", "seeds",
    "best", "holds", "published", "published_status", "difference", "notes", "backbone",
)  # fmt: skip


def as_csv(tables: Sequence[Table]) -> str:
    """Return numbers in full precision; missing values have empty ``value`` or ``published``, and a ``status``.

    A text that a spreadsheet would calculate has an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for record in _records(table):
            texts = {"notes": "; ".join(record["notes"]), "seeds": " ".join(map(str, record["seeds"]))}
            writer.writerow({name: for_csv(value) for name, value in {**record, **texts}.items()})
    return text.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """Return titles, remarks and all places of the tables."""
    listing = [
        {
            "title": table.title, "table": table.number, "warnings": table.cautions, "facts": table.facts,
            "missing": table.missing, "values": list(_records(table)),
        } for table in tables
    ]  # fmt: skip
    return json.dumps(listing, indent=1) + "\n"


def _records(table: Table) -> Iterator[dict[str, Any]]:
    """Yield a record of each place that holds something, under the names of :data:`COLUMNS`."""
    for row in table.rows:
        for column in table.columns:
            facts = _facts(table, row, column)
            if facts:
                shared = {"table": table.number, "sheet": table.title, "row": row.label, "role": row.role}
                shared |= {"group": column.group, "column": column.name, "unit": column.unit, "backbone": row.backbone}
                empty = dict.fromkeys(name for name in COLUMNS if name not in shared)
                yield {**shared, **empty, "notes": [], "seeds": [], **facts}


def _facts(table: Table, row: Row, column: Column) -> Mapping[str, Any]:
    place, value = row.values.get(column.key), row.value(column)
    if isinstance(place, Word):
        return {"status": "ok", "value": place.text, "notes": [table.notes[number - 1] for number in place.notes]}
    entry, printed = value.entry, value.published
    facts: dict[str, Any] = {}
    if entry is not None:
        facts = {name: getattr(entry, name) for name in ("status", "value", "spread", "low", "high", "seeds", "best")}
        facts["notes"] = [table.notes[number - 1] for number in entry.notes]
    if printed is not None:
        facts |= {"published": printed.value, "published_status": printed.status}
    return {**facts, "difference": value.difference, "holds": value.holds} if facts else facts
