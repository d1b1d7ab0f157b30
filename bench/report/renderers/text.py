"""Comparison as text for a terminal and as Markdown that also reads well as plain text."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table

from bench.core.console import Console, Text
from bench.core.errors import RequestError
from bench.core.plain_text import for_markdown, markdown_prose
from bench.report.chance import beyond_chance
from bench.report.fold import fold
from bench.report.paper_tables.build import paper_table
from bench.report.renderers.csv import sheets_as_csv
from bench.report.renderers.html import sheets_as_html
from bench.report.renderers.latex import sheets_as_latex
from bench.report.renderers.sheet_text import sheets_as_markdown, sheets_as_text
from bench.report.run_table import comparison
from bench.report.table import Block
from bench.results.aggregate import Column, Entry
from bench.results.store import Store

_SUPERSCRIPT = str.maketrans("0123456789,", "⁰¹²³⁴⁵⁶⁷⁸⁹˒")
_STATUS_STYLE = {"n/a": "dim", "missing": "dim", "failed": "red", "oom": "red"}
_NAMES, _PADDING = (15, 10), 3
"""Characters that the names of methods and of backbones get at least, if they need them; blanks around a column."""


def report(
    store: Store,
    suite: str | None = None,
    fmt: str = "text",
    console: Console | None = None,
    stamp: str | None = None,
    intervals: bool = False,
    metrics: Sequence[str] = (),
) -> None:
    """Print the comparison of one run.

    Args:
        store: results.
        suite: name of the suite whose latest run is taken; by default the latest of all.
        fmt: ``text`` or ``md``.
        console: output.
        stamp: time stamp of the run, instead of the latest.
        intervals: whether values get their 95 % intervals.
        metrics: names and groups of the columns; by default all that were measured.

    Raises:
        RequestError: for another format, or if there is nothing to report.
    """
    if fmt not in ("text", "md"):
        raise RequestError(f"--format {fmt!r}: write text, md or html; with --table N also latex or csv")
    tables = [(block, beyond_chance(block)) for block in comparison(store, stamp, suite, intervals, metrics)]
    blocks = [block for pair in tables for block in pair if block is not None]
    console = console or Console()
    if fmt == "text":
        as_text(blocks, console)
    else:
        # Untouched by the console: no wrapping, no colours, no markup.
        console.out(as_markdown(blocks), end="")


def report_table(
    store: Store,
    number: int,
    fmt: str = "text",
    console: Console | None = None,
    stamp: str | None = None,
    suite: str | None = None,
    intervals: bool = False,
) -> None:
    """Print one of the paper's tables.

    Args:
        store: results.
        number: number of the table, 1 to 6.
        fmt: ``text``, ``md``, ``latex``, ``html`` or ``csv``.
        console: output.
        stamp: time stamp of one run; by default the newest cells of the whole store.
        suite: name of the suite whose newest run is taken.
        intervals: whether measured values get their 95 % intervals.

    Raises:
        RequestError: for another table or format, or if the run is not known.
    """
    sheets = paper_table(store, number, stamp, suite, intervals)
    console = console or Console()
    if fmt == "text":
        sheets_as_text(sheets, console)
        return
    forms = {
        "md": sheets_as_markdown,
        "latex": sheets_as_latex,
        "html": functools.partial(sheets_as_html, title=f"Table {number}"),
        "csv": sheets_as_csv,
    }
    if fmt not in forms:
        raise RequestError(f"--format {fmt!r}: write text, {', '.join(forms)}")
    console.out(forms[fmt](sheets), end="")


def as_text(blocks: Sequence[Block], console: Console) -> None:
    """Print the tables, the best method of a column in bold with a star; columns that find no room continue below."""
    for block in blocks:
        console.print(Text(block.title, style="bold"))
        for table in _tables(block, console.width):
            console.print(table)
        said = [("! ", f"Chance level, {warning}", "yellow") for warning in block.warnings]
        said += [("", "", "")] if block.warnings else []
        said += [(f"{_raised((number,))} ", note, "dim") for number, note in enumerate(block.notes, 1)]
        said += [("* ", "best of the methods", "dim")] if _has_best(block) else []
        said += [("  ", fact, "dim") for fact in block.facts]
        for mark, text, style in said:
            console.print(Text(_hanging(mark, text, console.width), style=style))
        console.print()


def _tables(block: Block, width: int) -> Iterator[Table]:
    """Split the block into as many tables as leave room for the names of its rows."""
    below = _is_wide(block, width)
    titles, places, sizes = [], [], []
    for column in block.columns:
        # Padded here: rich drops the blanks at the end of right-aligned text, and with them the alignment.
        title, numbers = [*column.metric.split("_"), column.unit], _texts(block, column, ("", "*"), not below)
        bounds = _bounds(block, column) if below else [""] * len(numbers)
        size = max(map(cell_len, [*title, *numbers, *bounds]))
        title, numbers, bounds = (
            [_fill(text, size, right=True) for text in texts] for texts in (title, numbers, bounds)
        )
        # A long name is one word per line; units are on one line below them all.
        titles.append(Text("\n".join(title)))
        places.append(["\n".join(pair) if below else pair[0] for pair in zip(numbers, bounds, strict=True)])
        sizes.append(size + _PADDING)
    for part in fold([[place] for place in range(len(sizes))], sizes, width - _names_room(block)):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", vertical="bottom")
        table.add_column("backbone", vertical="bottom")
        for column in part:
            table.add_column(titles[column], no_wrap=True, vertical="bottom")
        for row, line in enumerate(block.lines):
            last = row + 1 == len(block.lines) or block.lines[row + 1].role != line.role
            shown = [Text(places[at][row], style=_style(line.entries[block.columns[at].metric])) for at in part]
            names = (Text(name + "\n" * below) for name in (line.name, line.backbone or "-"))
            table.add_row(*names, *shown, end_section=last)
        yield table


def _names_room(block: Block) -> int:
    """Return the characters for the names of rows: as long as they are, but long ones may be broken."""
    rows = [["method", *(line.name for line in block.lines)], ["backbone", *(line.backbone for line in block.lines)]]
    longest = [max(map(cell_len, names)) for names in rows]
    return sum(min(one, most) + _PADDING for one, most in zip(longest, _NAMES, strict=True))


def as_markdown(blocks: Sequence[Block]) -> str:
    """Return the tables as GitHub Markdown, a column's best method in bold; columns line up in plain text too."""
    return "\n".join("\n".join(_markdown(block)) for block in blocks)


def _markdown(block: Block) -> list[str]:
    columns = [_texts(block, column, ("**", "**")) for column in block.columns]
    rows = [["method", "backbone", *(for_markdown(_title(column)) for column in block.columns)]]
    for line, *numbers in zip(block.lines, *columns, strict=True):
        rows.append([for_markdown(line.name), for_markdown(line.backbone or "-"), *numbers])
    widths = [max(3, *map(cell_len, texts)) for texts in zip(*rows, strict=True)]
    rule = ["-" * widths[0], "-" * widths[1], *("-" * (width - 1) + ":" for width in widths[2:])]
    lines = [f"### {for_markdown(block.title)}", ""]
    for row in [rows[0], rule, *rows[1:]]:
        padded = [_fill(row[place], width, right=place > 1) for place, width in enumerate(widths)]
        lines.append(f"| {' | '.join(padded)} |")
    lines.append("")
    for warning in block.warnings:
        lines += [f"> **Chance level,** {markdown_prose(warning)}", ""]
    said = [f"{_raised((number,))} {note}" for number, note in enumerate(block.notes, 1)]
    said += ["**bold**: best of the methods"] if _has_best(block) else []
    lines += [f"- {markdown_prose(text)}" for text in [*said, *block.facts]]
    return [*lines, ""]


def _title(column: Column) -> str:
    return f"{column.metric} ({column.unit})" if column.unit else column.metric


def _is_wide(block: Block, width: int) -> bool:
    """Return whether intervals beside the values would leave no room for names: then they are below the values."""
    if not any(entry.low is not None for line in block.lines for entry in line.entries.values()):
        return False
    names = max(cell_len(line.name) + cell_len(line.backbone) for line in block.lines)
    numbers = [max(map(cell_len, _texts(block, column, ("", "*")))) for column in block.columns]
    return names + sum(numbers) + 3 * (2 + len(numbers)) > width


def _bounds(block: Block, column: Column) -> list[str]:
    """Return the intervals of a column, each a text of its own."""
    digits = column.digits
    entries = [line.entries[column.metric] for line in block.lines]
    return ["" if one.low is None else f"[{one.low:{digits}}, {one.high:{digits}}]" for one in entries]


def _texts(block: Block, column: Column, mark: tuple[str, str], bounds: bool = True) -> list[str]:
    """Return a column's texts: the means' decimals below each other, deviations and footnotes behind; best marked."""
    digits = column.digits
    entries = [line.entries[column.metric] for line in block.lines]
    before, after = mark if any(entry.best for entry in entries) else ("", "")
    parts = []
    for entry, bound in zip(entries, _bounds(block, column), strict=True):
        notes = f" {_raised(entry.notes)}" if entry.notes else ""
        if entry.value is None:
            parts.append((f"{entry.status}{notes}", ""))
            continue
        spread = f" ± {entry.spread:{digits}}" if entry.spread is not None else ""
        spread += f" {bound}" if bounds and bound else ""
        # A mean that is not the best leaves room for the mark before its deviation.
        behind = after if entry.best else " " * len(after) * bool(spread)
        parts.append((f"{before * entry.best}{entry.value:{digits}}", f"{behind}{spread}{notes}"))
    widest = max((cell_len(tail) for entry, (_, tail) in zip(entries, parts, strict=True)), default=0)
    # A word instead of a number is at the right edge: it has no decimals to line up.
    return [
        number if entry.value is None else number + _fill(tail, widest)
        for entry, (number, tail) in zip(entries, parts, strict=True)
    ]


def _fill(text: str, width: int, right: bool = False) -> str:
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def _raised(notes: tuple[int, ...]) -> str:
    return ",".join(map(str, notes)).translate(_SUPERSCRIPT)


def _has_best(block: Block) -> bool:
    return any(entry.best for line in block.lines for entry in line.entries.values())


def _style(entry: Entry) -> str:
    return "bold" if entry.best else _STATUS_STYLE.get(entry.status, "")


def _hanging(mark: str, text: str, width: int) -> str:
    """Wrap a paragraph, its later lines beginning below the first word."""
    return textwrap.fill(text, width, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False)
