"""Tables for LaTeX with booktabs, ready to be included in a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count, groupby

from bench.core.plain_text import for_latex, one_line
from bench.report.table import Column, Table
from bench.report.table_layout import Layout, Line, Shown, fold, layout

PREAMBLE = ("booktabs", "amssymb")
"""The packages that the tables need."""

# Letters of small print that fit into a column of a two-column page and across it, and between two of its columns.
_COLUMN, _PAGE, _GAP = 52, 120, 2


def as_latex(tables: Sequence[Table]) -> str:
    """Return one ``table`` environment for each table; ``table*``, and several of them, if it is too wide for one."""
    packages = " ".join(f"\\usepackage{{{name}}}" for name in PREAMBLE)
    return "\n".join([f"% needs {packages}", "", *map(_environments, tables, count())])


def _environments(table: Table, place: int) -> str:
    found = layout(table, typeset=True)
    names = [[heading, *(line.names[number] for line in found.lines)] for number, heading in enumerate(found.stub)]
    stub = sum(max(map(len, texts)) + _GAP for texts in names)
    sizes = [_size(found, column) for column in range(len(found.columns))]
    parts = fold(found.pieces, sizes, _PAGE - stub)
    environment = "table" if stub + sum(sizes) <= _COLUMN else "table*"
    label = (table.label or "tab:results") + (f"-{place}" if place else "")
    lines = []
    for number, columns in enumerate(parts, 1):
        which = f" (part {number} of {len(parts)})" if len(parts) > 1 else ""
        lines += [
            f"\\begin{{{environment}}}[t]",
            "\\centering\\small\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{for_latex((table.caption or table.title) + which)}}}",
            f"\\label{{{label}{chr(96 + number) if which else ''}}}",
            *_tabular(found, columns),
        ]
        if number == len(parts):
            lines += _remarks(table, found)
        lines += [f"\\end{{{environment}}}", ""]
    # Measurements that are still missing are for the author, not for the reader.
    lines += [f"% {one_line(text)}" for text in table.missing]
    return "\n".join([*lines, ""])


def _size(found: Layout, place: int) -> int:
    column = found.columns[place]
    texts = [line.places[place].text + " " * bool(line.places[place].notes) for line in found.lines]
    return max(map(len, [column.name + _unit(column), *texts])) + _GAP


def _tabular(found: Layout, columns: Sequence[int]) -> list[str]:
    sections = []
    for section in found.sections:
        lines = [_row(line, columns) for line in section if any(line.places[column].text for column in columns)]
        sections += ["\n".join(lines)] if lines else []
    sides = "".join("l" if found.columns[column].words else "r" for column in columns)
    return [
        f"\\begin{{tabular}}{{{'l' * len(found.stub)}{sides}}}",
        "\\toprule",
        *_head(found, columns),
        "\\midrule",
        "\n\\midrule\n".join(sections),
        "\\bottomrule",
        "\\end{tabular}",
    ]


def _row(line: Line, columns: Sequence[int]) -> str:
    first, *more = line.names
    names = [f"\\quad {for_latex(first)}" if line.below else _first(first), *map(for_latex, more)]
    return " & ".join([*names, *(_place(line.places[column]) for column in columns)]) + " \\\\"


def _remarks(table: Table, found: Layout) -> list[str]:
    remarks = [f"\\textsuperscript{{{number}}} {for_latex(note)}" for number, note in enumerate(found.notes, 1)]
    remarks += ["\\textbf{bold}: best of the methods"] * table.has_best
    remarks += [for_latex(text) for text in (*table.cautions, *table.facts)]
    if not remarks:
        return []
    return [
        "\\par\\smallskip",
        "\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright",
        *(f"{_breakable(text)}\\par" for text in remarks),
        "\\end{minipage}",
    ]


def _head(found: Layout, columns: Sequence[int]) -> list[str]:
    headings = [found.columns[column] for column in columns]
    lines = []
    if any(one.group for one in headings):
        cells, rules, place = [""] * len(found.stub), [], len(found.stub) + 1
        for name, members in groupby(headings, lambda one: one.group):
            width = len(list(members))
            cells.append(f"\\multicolumn{{{width}}}{{c}}{{{for_latex(name)}}}")
            rules += [f"\\cmidrule(lr){{{place}-{place + width - 1}}}"] if name else []
            place += width
        lines += [" & ".join(cells) + " \\\\", " ".join(rules)]
    first, *more = found.stub
    names = [_first(first), *map(for_latex, more), *(f"{for_latex(one.name)}{_unit(one)}" for one in headings)]
    return [*lines, " & ".join(names) + " \\\\"]


def _unit(column: Column) -> str:
    return f" ({for_latex(column.unit)})" if column.unit else ""


def _place(place: Shown) -> str:
    head = f"\\textbf{{{for_latex(place.head)}}}" if place.best else for_latex(place.head)
    notes = f"\\textsuperscript{{{','.join(map(str, place.notes))}}}" if place.notes else ""
    return f"{head}{for_latex(place.tail)}{notes}"


def _first(text: str) -> str:
    """Guard the beginning of a line: after the end of the line before, a bracket or star would be its option."""
    shown = for_latex(text)
    return f"{{{shown[0]}}}{shown[1:]}" if shown[:1] in ("[", "*") else shown


def _breakable(text: str) -> str:
    """Allow long digests and paths to be broken after a slash or hyphen."""
    return re.sub(r"([/-])(?=\w)", r"\1\\allowbreak{}", text)
