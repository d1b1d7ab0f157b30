"""Contest as text for a terminal, as Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table

from bench.core.console import Console, Text
from bench.core.plain_text import for_csv, for_markdown, markdown_prose
from bench.results.stats.contest import Comparison, Contest, Tally

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_DIGITS = {"%": ".1f"}


@dataclass(frozen=True)
class Grid:
    """Table of words: ``words`` are the columns that are aligned to the left."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...]
    notes: tuple[str, ...] = ()


def grids(contest: Contest) -> list[Grid]:
    """Return the tables: every two methods and place, incomparable methods, ranks, and how often each is ahead."""
    pairs = dict.fromkeys((one.methods, one.place) for one in contest.comparisons if one.metric)
    found = [_pair([one for one in contest.comparisons if (one.methods, one.place) == key]) for key in pairs]
    apart: dict[tuple[str, str], list[str]] = {}
    for one in contest.comparisons:
        if not one.metric:
            apart.setdefault((_where(one), one.reason), []).extend(one.methods)
    if apart:
        rows = tuple((where, reason, ", ".join(dict.fromkeys(own))) for (where, reason), own in apart.items())
        found.append(Grid("not compared", ("where", "reason", "methods"), rows, (0, 1, 2)))
    several = [ranking for ranking in contest.rankings if ranking.places > 1]  # one place has the order of its values
    if several:
        rows = tuple(
            (ranking.metric, *(f"{rank:.2f}" for rank in ranking.ranks), str(ranking.places), _p(ranking.p))
            for ranking in several
        )
        header = ("metric", *contest.methods, "places", "Friedman p")
        note = "1 is best; a place is a data set with a backbone; Friedman's test from 5 places on"
        found.append(Grid("mean rank", header, rows, (0,), (note,)))
    if contest.tallies:
        rows = tuple(
            (_against(one), one.metric, *map(str, one.ahead), str(one.places), _p(one.p)) for one in contest.tallies
        )
        header = ("methods", "metric", "first ahead", "second ahead", "places", "Wilcoxon p")
        note = "a place is a data set with a backbone (places of one data set are not independent); Wilcoxon from 6 on"
        found.append(Grid("over data sets and backbones", header, rows, (0, 1), (note,)))
    return found


def _pair(own: Sequence[Comparison]) -> Grid:
    first = own[0]
    notes: list[str] = []
    over: dict[str, list[str]] = {}
    rows = []
    for one in own:
        if one.reason and one.reason not in notes:
            notes.append(one.reason)
        mark = f" {str(notes.index(one.reason) + 1).translate(_SUPERSCRIPT)}" if one.reason else ""
        digits = _DIGITS.get(one.unit, ".4g")
        difference = "-" if one.difference is None else f"{one.difference:+{digits}}"
        if one.low is not None and one.high is not None:
            difference += f" [{one.low:+{digits}}, {one.high:+{digits}}]"
        values = (
            "-" if value is None else f"{value:{digits}}" + (f" ± {spread:{digits}}" if spread is not None else "")
            for value, spread in zip(one.values, one.spreads, strict=True)
        )
        unit = f" ({one.unit})" if one.unit else ""
        if one.units is not None:
            over.setdefault(f"{one.units} {one.kind}", []).append(one.metric)
        rows.append(
            (
                f"{one.metric}{unit}",
                *values,
                difference,
                _p(one.p),
                _p(one.corrected),
                one.verdict + mark,
            )
        )
    title = f"{_against(first)}: {_where(first)}"
    header = ("metric", *first.methods, "difference [95 %]", "p", "Holm", "verdict")
    numbered = tuple(f"{str(number).translate(_SUPERSCRIPT)} {note}" for number, note in enumerate(notes, 1))
    units = "; ".join(f"{count} ({', '.join(metrics)})" for count, metrics in over.items())
    return Grid(title, header, tuple(rows), (0, 6), (*([f"over {units}"] if units else []), *numbered))


def _against(one: Comparison | Tally) -> str:
    return " against ".join(one.methods)


def _where(one: Comparison) -> str:
    return ", ".join(part for part in (one.dataset, one.backbone) if part) + f" ({one.protocol})"


def as_text(contest: Contest, console: Console) -> None:
    """Print the tables and the remarks under them."""
    for grid in grids(contest):
        console.print(Text(grid.title, style="bold"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        columns = list(zip(grid.header, *grid.rows, strict=True))
        widths = [max(map(cell_len, texts)) for texts in columns]
        narrow = sum(widths) + 2 * len(widths) > console.width
        for place, texts in enumerate(columns):
            # Numbers stay whole; if the terminal is narrow, words are broken at blanks and underscores.
            left = place in grid.words
            if left and narrow:
                texts = tuple(re.sub(r"_(?=.)", "_\n", text) for text in texts)
                widths[place] = max(cell_len(word) for text in texts for word in text.split())
            columns[place] = texts
            side = "left" if left else "right"
            table.add_column(Text(texts[0]), justify=side, no_wrap=not left, vertical="bottom", min_width=widths[place])
        for row in list(zip(*columns, strict=True))[1:]:
            table.add_row(*(Text(text, style=_style(text)) for text in row))
        # A terminal that is narrower than the numbers wraps lines itself: nothing is cut off.
        table.width = None if (least := sum(widths) + 2 * len(widths)) <= console.width else least
        console.print(table, soft_wrap=table.width is not None)
        for note in grid.notes:
            console.print(Text(_hanging(note, console.width), style="dim"))
        if grid.notes:
            console.print()
    for fact in contest.facts:
        console.print(Text(_hanging(fact, console.width), style="dim"))


def as_markdown(contest: Contest) -> str:
    """Return the tables as GitHub Markdown; columns line up in plain text too."""
    lines: list[str] = []
    for grid in grids(contest):
        rows = [[for_markdown(text) for text in row] for row in (grid.header, *grid.rows)]
        widths = [max(3, *map(len, texts)) for texts in zip(*rows, strict=True)]
        rule = ["-" * width if place in grid.words else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
        lines += [f"### {for_markdown(grid.title)}", ""]
        for row in (rows[0], rule, *rows[1:]):
            padded = [
                text.ljust(width) if place in grid.words else text.rjust(width)
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append(f"| {' | '.join(padded)} |")
        lines += ["", *(f"- {markdown_prose(note)}" for note in grid.notes), *([""] if grid.notes else [])]
    return "\n".join([*lines, *(f"- {markdown_prose(fact)}" for fact in contest.facts), ""])


def as_json(contest: Contest) -> str:
    """Return everything as JSON, for programs."""
    return json.dumps(asdict(contest), indent=1, allow_nan=False) + "\n"


def as_csv(contest: Contest) -> str:
    """Return one row per comparison; the values of the first and the second method have columns of their own.

    Values of single seeds are in the rows of ``results``.
    """
    doubled = ("methods", "values", "spreads", "seeds")
    header: list[str] = []
    named = [field for field in fields(Comparison) if field.name != "by_seed"]
    for field in named:
        header += [f"{field.name[:-1]}_1", f"{field.name[:-1]}_2"] if field.name in doubled else [field.name]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for one in contest.comparisons:
        row: list[Any] = []
        for field in named:
            value = getattr(one, field.name)
            if field.name == "seeds":
                row += [" ".join(map(str, seeds)) for seeds in value]
            else:
                row += value if field.name in doubled else [value]
        writer.writerow(map(for_csv, row))
    return stream.getvalue()


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _style(text: str) -> str:
    if text.split(" ")[-1] == "better":
        return "bold"
    return "dim" if text.startswith(("cannot compare", "not tested")) else ""


def _hanging(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_on_hyphens=False)
