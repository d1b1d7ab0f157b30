"""Sheets as LaTeX tables with booktabs, ready to be included in a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count, groupby

from bench.core.plain_text import for_latex, one_line
from bench.report.format import Printed, Shown, has_best, parts, printed, sections
from bench.report.sheet import Sheet

PREAMBLE = ("booktabs", "amssymb")
"""The packages that the tables need."""

_COLUMN, _PAGE, _GAP = 52, 120, 2
"""Letters of small print that fit into a column of a two-column page and across it, and between two of its columns."""


def sheets_as_latex(sheets: Sequence[Sheet]) -> str:
    """Return one ``table`` environment for each sheet; ``table*``, and several of them, if it is too wide for one."""
    packages = " ".join(f"\\usepackage{{{name}}}" for name in PREAMBLE)
    return "\n".join([f"% needs {packages}", "", *map(_tables, sheets, count())])


def _tables(sheet: Sheet, place: int) -> str:
    rows = printed(sheet)
    sizes = [_size(sheet, rows, column) for column in range(len(sheet.headings))]
    stub = max(len(text) for text in (sheet.stub, *(row.name for row in rows))) + _GAP
    pieces = parts(sheet, sizes, stub, _PAGE)
    environment = "table" if stub + sum(sizes) <= _COLUMN else "table*"
    label = f"{f'tab:paper-{sheet.number}' if sheet.number else 'tab:results'}{f'-{place}' if place else ''}"
    # LaTeX numbers tables itself.
    caption = sheet.title.replace(f"Table {sheet.number}:", f"Table {sheet.number} of Tan et al. (2024):", 1)
    lines = []
    for number, columns in enumerate(pieces, 1):
        which = f" (part {number} of {len(pieces)})" if len(pieces) > 1 else ""
        lines += [
            f"\\begin{{{environment}}}[t]",
            "\\centering\\small\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{for_latex(caption + which)}}}",
            f"\\label{{{label}{chr(96 + number) if which else ''}}}",
            *_tabular(sheet, rows, columns),
        ]
        if number == len(pieces):
            lines += _said(sheet)
        lines += [f"\\end{{{environment}}}", ""]
    # Measurements that are still missing are for the author, not for the reader.
    lines += [f"% {one_line(text)}" for text in sheet.missing]
    return "\n".join([*lines, ""])


def _size(sheet: Sheet, rows: Sequence[Printed], column: int) -> int:
    heading = sheet.headings[column]
    texts = [row.places[column].text + " " * bool(row.places[column].notes) for row in rows]
    return max(map(len, [heading.name + _unit(heading.unit), *texts])) + _GAP


def _tabular(sheet: Sheet, rows: Sequence[Printed], columns: Sequence[int]) -> list[str]:
    bodies = []
    for section in sections(rows):
        lines = []
        for row in section:
            if not any(row.places[column].text for column in columns):
                continue  # the paper has nothing in these columns
            name = f"\\quad {for_latex(row.name)}" if row.below else _first(row.name)
            lines.append(" & ".join([name, *(_place(row.places[column]) for column in columns)]) + " \\\\")
        bodies += ["\n".join(lines)] if lines else []
    return [
        f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "\\toprule",
        *_head(sheet, columns),
        "\\midrule",
        "\n\\midrule\n".join(bodies),
        "\\bottomrule",
        "\\end{tabular}",
    ]


def _said(sheet: Sheet) -> list[str]:
    said = [f"\\textsuperscript{{{number}}} {for_latex(note)}" for number, note in enumerate(sheet.notes, 1)]
    said += ["\\textbf{bold}: best of the methods"] * has_best(sheet)
    said += [for_latex(text) for text in (*sheet.warnings, *sheet.facts)]
    return [
        "\\par\\smallskip",
        "\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright",
        *(f"{_breakable(text)}\\par" for text in said),
        "\\end{minipage}",
    ]


def _head(sheet: Sheet, columns: Sequence[int]) -> list[str]:
    headings = [sheet.headings[column] for column in columns]
    lines = []
    if any(one.group for one in headings):
        cells, rules, place = [""], [], 2
        for name, members in groupby(headings, lambda one: one.group):
            width = len(list(members))
            cells.append(f"\\multicolumn{{{width}}}{{c}}{{{for_latex(name)}}}")
            if name:
                rules.append(f"\\cmidrule(lr){{{place}-{place + width - 1}}}")
            place += width
        lines += [" & ".join(cells) + " \\\\", " ".join(rules)]
    names = [_first(sheet.stub), *(f"{for_latex(one.name)}{_unit(one.unit)}" for one in headings)]
    return [*lines, " & ".join(names) + " \\\\"]


def _unit(unit: str) -> str:
    return f" ({for_latex(unit)})" if unit else ""


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
