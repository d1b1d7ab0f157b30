"""Tables of a report as files: CSV in full precision, LaTeX, and BibTeX of the methods and data in them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.core.plain_text import for_csv
from bench.report.contest_tables import as_csv as contest_csv
from bench.report.contest_tables import contest_tables
from bench.report.html.output_dir import file_name
from bench.report.references import bibtex
from bench.report.renderers.latex import as_latex
from bench.report.renderers.records import as_csv
from bench.report.table import Row, Table, Word
from bench.results.aggregate import Entry
from bench.results.stats.contest import Comparison, Contest

# Of two or more parts, and not behind a word, < or -: in prose and HTML "images/s" and "</td>" are no paths. An export
# (bench/results/export.py) also replaces "/data", since its texts are commands and folders.
_PATH = re.compile(r"(?<![\w./<-])(?:/[\w.@+-]+){2,}/?")


@dataclass(frozen=True)
class Files:
    """Addresses of one table's files in the report's folder."""

    csv: str
    latex: str
    bibtex: str


class Downloads:
    """Writer of these files; ``write`` takes the path in the folder and the text."""

    def __init__(self, write: Callable[[str, str], None]) -> None:
        self._write = write

    def of(self, name: str, tables: Sequence[Table], cited: Iterable[str] = ()) -> Files:
        """Write tables under a name.

        Args:
            name: any text; different texts are different files.
            tables: at least one.
            cited: names of methods and data sets in the catalogue, besides the rows' own.
        """
        clean = [without_paths(table) for table in tables]
        rows = [row.label.partition(" (")[0] for table in clean for row in table.rows]
        return self._files(name, as_csv(list(map(_asked_for, clean))), as_latex(clean), [*rows, *cited])

    def by_class(self, name: str, table: Table, cited: Iterable[str]) -> Files:
        """Write a table of numbers alone under a name, a line of the CSV for each of its rows."""
        lines = [["class", *(f"{column.group} {column.name}" for column in table.columns)]]
        lines += [[row.label, *(_text(row.number(column)) for column in table.columns)] for row in table.rows]
        return self._files(name, "".join(f"{','.join(line)}\n" for line in lines), as_latex([table]), cited)

    def listed(self, name: str, table: Table) -> Files:
        """Write a table of words under a name, a line of the CSV for each of its rows."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow([*table.stub, *(column.name for column in table.columns)])
        for row in table.rows:
            words = (place.text for place in row.values.values() if isinstance(place, Word))
            lines.writerow(map(for_csv, (row.label, *words)))
        return self._files(name, pathless(text.getvalue()), as_latex([without_paths(table)]), [])

    def compared(self, name: str, found: Sequence[Comparison]) -> Files:
        """Write comparisons under a name."""
        contest = Contest((), tuple(found), (), (), ())
        cited = [text for one in found for text in (*(label.partition(" (")[0] for label in one.methods), one.dataset)]
        tables = list(map(without_paths, contest_tables(contest)))
        return self._files(name, pathless(contest_csv(contest)), as_latex(tables), cited)

    def _files(self, name: str, csv: str, latex: str, cited: Iterable[str]) -> Files:
        stem = f"downloads/{file_name(name)}"
        files = Files(f"{stem}.csv", f"{stem}.tex", f"{stem}.bib")
        for file, text in ((files.csv, csv), (files.latex, latex), (files.bibtex, bibtex(cited))):
            self._write(file, text)
        return files


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"


def pathless(text: str) -> str:
    """Return a text with file names instead of the absolute paths of the machine that made it.

    Example:
        >>> pathless("--data-root /scratch/x/data, 5 images/s, </td>, cells/1f")
        '--data-root data, 5 images/s, </td>, cells/1f'
    """
    return _PATH.sub(lambda path: Path(path[0]).name, text)


def _asked_for(table: Table) -> Table:
    """Return the table without the places that nobody asked for: in a table of many suites they are half of them."""

    def asked(row: Row) -> Row:
        kept = {key: own for key, own in row.values.items() if not (isinstance(own, Entry) and own.status == "missing")}
        return replace(row, values=kept)

    return replace(table, rows=tuple(map(asked, table.rows)))


def without_paths(table: Table) -> Table:
    """Return the table with file names instead of the paths of the machine that made it."""
    texts: dict[str, Any] = {
        name: tuple(map(pathless, getattr(table, name))) for name in ("notes", "chance", "warnings", "facts", "missing")
    }
    return replace(table, **texts)
