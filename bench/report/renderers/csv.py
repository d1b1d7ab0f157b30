"""Sheets for programs: one line for each place of the table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from bench.core.plain_text import for_csv
from bench.report.sheet import Sheet

COLUMNS = (
    "table", "sheet", "row", "role", "group", "column", "unit", "status", "value", "spread", "low", "high", "seeds",
    "best", "holds", "published", "published_status", "difference", "notes",
)  # fmt: skip


def sheets_as_csv(sheets: Sequence[Sheet]) -> str:
    """Return numbers in full precision; missing values have empty ``value`` or ``published``, and a ``status``.

    A text that a spreadsheet would calculate has an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for sheet in sheets:
        for row in sheet.rows:
            for heading, field in zip(sheet.headings, row.fields, strict=True):
                entry, said = field.entry, field.published
                if entry is None and said is None:
                    continue
                line: dict[str, Any] = {"table": sheet.number, "sheet": sheet.title, "row": row.name, "role": row.role}
                line |= {"group": heading.group, "column": heading.name, "unit": heading.unit}
                line |= {"difference": field.difference, "holds": field.holds}
                if entry is not None:
                    notes = "; ".join(sheet.notes[number - 1] for number in entry.notes)
                    line |= {"status": entry.status, "value": entry.value, "spread": entry.spread, "notes": notes}
                    line |= {"low": entry.low, "high": entry.high}
                    line |= {"seeds": " ".join(map(str, entry.seeds)), "best": entry.best}
                if said is not None:
                    line |= {"published": said.value, "published_status": said.status}
                writer.writerow({name: for_csv(value) for name, value in line.items()})
    return text.getvalue()
