"""Sheets for a terminal, and as Markdown that also reads well as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table

from bench.core.console import Console, Text
from bench.core.plain_text import for_markdown, markdown_code, markdown_prose
from bench.report.format import Printed, Shown, has_best, parts, printed
from bench.report.sheet import Sheet

_SUPERSCRIPT = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
_BELOW = "  "
_GAP = 3
"""Blanks that rich puts between columns."""


def sheets_as_text(sheets: Sequence[Sheet], console: Console) -> None:
    """Print the sheets; if one is too wide for the console, its columns continue below, group by group."""
    for sheet in sheets:
        rows = printed(sheet)
        names = [f"{_BELOW * row.below}{row.name}" for row in rows]
        columns = [_aligned([row.places[place] for row in rows], ("", "*")) for place in range(len(sheet.headings))]
        heads = [_heading(sheet, place, column) for place, column in enumerate(columns)]
        sizes = [max(map(cell_len, head.splitlines())) + _GAP for head in heads]
        columns = [
            [_fill(text, size - _GAP, right=True) for text in column]
            for size, column in zip(sizes, columns, strict=True)
        ]
        console.print(Text(sheet.title, style="bold"))
        for part in parts(sheet, sizes, max(map(cell_len, [sheet.stub, *names])), console.width - _GAP):
            console.print(_table(sheet, rows, names, [(heads[place], columns[place]) for place in part]))
        said = [("! ", warning, "yellow") for warning in sheet.warnings]
        said += [("", "", "")] if said else []
        said += [(f"{_raised((number,))} ", note, "dim") for number, note in enumerate(sheet.notes, 1)]
        said += [("* ", "best of the methods", "dim")] * has_best(sheet)
        said += [("  ", fact, "dim") for fact in sheet.facts]
        for mark, text, style in said:
            console.print(Text(_hanging(mark, text, console.width), style=style))
        for text in sheet.missing:
            # A command in one piece can be copied, however long it is.
            console.print(Text(f"- {text}"), soft_wrap=True)
        console.print()


def sheets_as_markdown(sheets: Sequence[Sheet]) -> str:
    """Return the sheets as GitHub Markdown, the best in bold; columns line up in plain text too."""
    return "\n".join("\n".join(_markdown(sheet)) for sheet in sheets)


def _markdown(sheet: Sheet) -> list[str]:
    rows = printed(sheet)
    names = [f"↳ {row.name}" if row.below else row.name for row in rows]
    columns = [[for_markdown(name) for name in (sheet.stub, *names)]]
    for place, heading in enumerate(sheet.headings):
        title = " ".join(
            part for part in (heading.group, heading.name, f"({heading.unit})" * bool(heading.unit)) if part
        )
        columns.append([for_markdown(title), *_aligned([row.places[place] for row in rows], ("**", "**"))])
    widths = [max(3, *map(cell_len, column)) for column in columns]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [f"### {for_markdown(sheet.title)}", ""]
    cells = list(zip(*columns, strict=True))
    for row in [cells[0], rule, *cells[1:]]:
        padded = [
            _fill(text, width, right=place > 0) for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    lines.append("")
    for warning in sheet.warnings:
        lines += [f"> {markdown_prose(warning)}", ""]
    said = [f"{_raised((number,))} {note}" for number, note in enumerate(sheet.notes, 1)]
    said += ["**bold**: best of the methods"] * has_best(sheet)
    lines += [f"- {markdown_prose(text)}" for text in [*said, *sheet.facts]]
    lines += [_as_code(text) for text in sheet.missing]
    return [*lines, ""]


def _as_code(text: str) -> str:
    """Return a line about a missing number, its command as code."""
    reason, command, rest = text.partition(": python -m ")
    if not command:
        return f"- {markdown_prose(text)}"
    return f"- {markdown_prose(reason)}: {markdown_code(f'python -m {rest}')}"


def _table(sheet: Sheet, rows: Sequence[Printed], names: list[str], columns: list[tuple[str, list[str]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text(sheet.stub), vertical="bottom", no_wrap=True)
    for head, _ in columns:
        table.add_column(Text(head), no_wrap=True, vertical="bottom")
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        if not any(texts[place].strip() for _, texts in columns):
            continue  # the paper has nothing in these columns
        last = place + 1 == len(rows) or rows[place + 1].role != row.role
        style = "dim" if row.below else ""
        table.add_row(Text(name, style), *(Text(texts[place], style) for _, texts in columns), end_section=last)
    return table


def _heading(sheet: Sheet, place: int, column: list[str]) -> str:
    """Return group, name and unit on lines of their own, as wide as the column below."""
    heading = sheet.headings[place]
    # A group's name is above its first column.
    first = place == 0 or sheet.headings[place - 1].group != heading.group
    grouped = any(name for name, _ in sheet.groups)
    lines = [heading.group if first else ""] if grouped else []
    lines += [heading.name, *([heading.unit] if heading.unit else [])]
    width = max(map(cell_len, [*lines, *column]), default=0)
    return "\n".join(_fill(text, width, right=True) for text in lines)


def _aligned(places: Sequence[Shown], mark: tuple[str, str]) -> list[str]:
    """Align decimals below each other, with the text after a number behind; a word is at the right edge."""
    before, after = mark if any(place.best for place in places) else ("", "")
    parts = []
    for place in places:
        notes = f" {_raised(place.notes)}" if place.notes else ""
        if not place.number:
            parts.append((f"{place.text}{notes}", None))
            continue
        behind = after if place.best else " " * len(after) * bool(place.tail)
        parts.append((f"{before * place.best}{place.head}", f"{behind}{place.tail}{notes}"))
    widest = max((cell_len(tail) for _, tail in parts if tail is not None), default=0)
    texts = [head if tail is None else head + _fill(tail, widest) for head, tail in parts]
    width = max(map(cell_len, texts), default=0)
    return [_fill(text, width, right=True) for text in texts]


def _fill(text: str, width: int, right: bool = False) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def _raised(notes: tuple[int, ...]) -> str:
    return ",".join(map(str, notes)).translate(_SUPERSCRIPT)


def _hanging(mark: str, text: str, width: int) -> str:
    """Wrap a paragraph, its later lines beginning below the first word."""
    return textwrap.fill(text, width, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)
