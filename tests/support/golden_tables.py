"""Printed tables of a fixed store, kept as files to be looked at.

``python -m tests.support.golden_tables`` writes them as they are now; ``git diff`` shows the change.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rich.console import Console

from bench.report import paper_table, write
from bench.results.store import Store
from tests.support.paper_cells import paper_store

FOLDER = Path(__file__).resolve().parents[1] / "report" / "renderers" / "golden"
GOLDEN = ((1, "md"), (2, "text"), (3, "md"), (4, "md"), (5, "md"), (5, "latex"), (5, "html"), (5, "csv"), (5, "json"),
          (6, "text"))  # fmt: skip


def written(store: Store, number: int, fmt: str, width: int = 100, suite: str | None = None) -> str:
    """A table of the paper in a format."""
    out = io.StringIO()
    tables = paper_table(store, number, suite=suite)
    write(tables, fmt, Console(file=out, width=width), title=f"Table {number}")
    return out.getvalue()


def golden(number: int, fmt: str) -> Path:
    """The file of a table in a format."""
    return FOLDER / f"table{number}.{fmt}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for number, fmt in GOLDEN:
            golden(number, fmt).write_text(written(paper_store(Path(folder) / f"{number}{fmt}").store, number, fmt))
