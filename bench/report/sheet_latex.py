"""Sheets as LaTeX tables with booktabs, ready to be included in a paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count

from bench.report.sheet import Sheet
from bench.report.shown import Shown, has_best, printed, sections

PREAMBLE = ("booktabs", "amssymb")
"""The packages that the tables need."""

_ESCAPED = {
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "✓": r"$\checkmark$",
    "–": "--",
    "…": r"\ldots{}",
}
_LATIN = 0x17F
"""The last letter that LaTeX's usual fonts have."""
_WIDE = 6
"""Tables of more columns go across the page."""


def sheets_as_latex(sheets: Sequence[Sheet]) -> str:
    """One ``table`` environment for each sheet; tables of many columns span both columns of a page."""
    packages = " ".join(f"\\usepackage{{{name}}}" for name in PREAMBLE)
    return "\n".join([f"% needs {packages}", "", *map(_table, sheets, count())])


def escape(text: str) -> str:
    r"""Plain text as LaTeX; what LaTeX's fonts do not have becomes a question mark.

    >>> escape("ours (k=3) & 50 % of _x_")
    'ours (k=3) \\& 50 \\% of \\_x\\_'
    """
    return "".join(_ESCAPED.get(letter) or (letter if ord(letter) <= _LATIN else "?") for letter in text)


def _table(sheet: Sheet, place: int) -> str:
    columns = len(sheet.headings)
    environment = "table*" if columns > _WIDE else "table"
    lines = [
        f"\\begin{{{environment}}}[t]",
        "\\centering",
        f"\\caption{{{escape(sheet.title)}}}",
        f"\\label{{tab:paper-{sheet.number}{f'-{place}' if place else ''}}}",
        *(["\\small", "\\setlength{\\tabcolsep}{3pt}"] if columns > _WIDE else []),
        f"\\begin{{tabular}}{{l{'r' * columns}}}",
        "\\toprule",
        *_head(sheet),
        "\\midrule",
    ]
    parts = []
    for section in sections(printed(sheet)):
        rows = []
        for row in section:
            name = f"\\quad {escape(row.name)}" if row.below else escape(row.name)
            rows.append(" & ".join([name, *map(_place, row.places)]) + " \\\\")
        parts.append("\n".join(rows))
    lines += ["\n\\midrule\n".join(parts), "\\bottomrule", "\\end{tabular}", "\\par\\smallskip"]
    said = [f"\\textsuperscript{{{number}}} {escape(note)}" for number, note in enumerate(sheet.notes, 1)]
    said += ["\\textbf{bold}: best of the methods"] * has_best(sheet)
    said += [escape(text) for text in (*sheet.warnings, *sheet.facts)]
    lines += [
        "\\begin{minipage}{\\linewidth}\\footnotesize\\raggedright",
        *(f"{_breakable(text)}\\par" for text in said),
    ]
    lines += ["\\end{minipage}", f"\\end{{{environment}}}"]
    # What has yet to be run is for the author, not for the reader.
    lines += [f"% {line}" for text in sheet.missing for line in text.splitlines()]
    return "\n".join([*lines, ""])


def _head(sheet: Sheet) -> list[str]:
    lines = []
    if any(name for name, _ in sheet.groups):
        cells, rules, place = [""], [], 2
        for name, width in sheet.groups:
            cells.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(name)}}}")
            if name:
                rules.append(f"\\cmidrule(lr){{{place}-{place + width - 1}}}")
            place += width
        lines += [" & ".join(cells) + " \\\\", " ".join(rules)]
    names = [escape(sheet.stub), *(f"{escape(one.name)}{_unit(one.unit)}" for one in sheet.headings)]
    return [*lines, " & ".join(names) + " \\\\"]


def _unit(unit: str) -> str:
    return f" ({escape(unit)})" if unit else ""


def _place(place: Shown) -> str:
    head = f"\\textbf{{{escape(place.head)}}}" if place.best else escape(place.head)
    notes = f"\\textsuperscript{{{','.join(map(str, place.notes))}}}" if place.notes else ""
    return f"{head}{escape(place.tail)}{notes}"


def _breakable(text: str) -> str:
    """Long digests and paths may be broken after a slash or hyphen."""
    return re.sub(r"([/-])(?=\w)", r"\1\\allowbreak{}", text)
