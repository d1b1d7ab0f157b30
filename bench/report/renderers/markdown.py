"""Tables as GitHub Markdown that also reads well as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from bench.core.plain_text import for_markdown, markdown_code, markdown_prose
from bench.report.renderers.text import aligned, fill, raised
from bench.report.table import Table
from bench.report.table_layout import layout


def as_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as GitHub Markdown, the best of a column in bold; columns line up in plain text too."""
    return "\n".join("\n".join(_lines(table)) for table in tables)


def _lines(table: Table) -> list[str]:
    found = layout(table, beside=True)
    names = [[("↳ " if line.below and not place else "") + line.names[place] for line in found.lines]
             for place in range(len(found.stub))]  # fmt: skip
    columns = [list(map(for_markdown, (heading, *own))) for heading, own in zip(found.stub, names, strict=True)]
    right = [False] * len(columns) + [not one.words for one in found.columns]
    for place, one in enumerate(found.columns):
        title = " ".join(filter(None, (one.group, one.name, f"({one.unit})" * bool(one.unit))))
        places = [line.places[place] for line in found.lines]
        texts = aligned(places, ("**", "**"))
        columns.append([for_markdown(title), *(map(for_markdown, map(str.strip, texts)) if one.words else texts)])
    widths = [max(3, *map(cell_len, column)) for column in columns]
    rule = ["-" * (width - 1) + ":" if side else "-" * width for width, side in zip(widths, right, strict=True)]
    heading, *cells = zip(*columns, strict=True)
    rows = (" | ".join(map(fill, row, widths, right)) for row in (heading, rule, *cells))
    remarks = [f"{raised((number,))} {note}" for number, note in enumerate(found.notes, 1)]
    remarks += ["**bold**: best of the methods"] * table.has_best
    remarks = [f"- {markdown_prose(text)}" for text in (*remarks, *table.facts)]
    cautions = [text for caution in table.cautions for text in (f"> {markdown_prose(caution)}", "")]
    missing = map(_as_code, table.missing)
    title = [f"### {for_markdown(table.title)}", ""] if table.title else []
    return [*title, *(f"| {row} |" for row in rows), "", *cautions, *remarks, *missing, ""]


def _as_code(text: str) -> str:
    """Return a line about a missing number, its command as code."""
    reason, command, rest = text.partition(": python -m ")
    if not command:
        return f"- {markdown_prose(text)}"
    return f"- {markdown_prose(reason)}: {markdown_code(f'python -m {rest}')}"
