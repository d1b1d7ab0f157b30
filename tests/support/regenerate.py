"""Writer of every text and number that tests compare with, as the code makes them now.

``python -m tests.support.regenerate [tables|pins|declarations|documents]...``; without a word all of them. For changes
that are meant: read the difference (``git diff``) before it is committed.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.config.schema import validate
from bench.core import registry
from bench.report import comparison, paper_table, write
from bench.report.renderers import as_markdown
from bench.results.stats.declarations import plain
from bench.results.store import Store
from tests.support import published_beside
from tests.support.documented import FINDINGS, RESULTS, ROOT, TEXTS, figures, rewrite
from tests.support.metric_table import HEADER, metric_table
from tests.support.paper_cells import paper_store
from tests.support.published_beside import beside
from tests.support.stores import example_store

DECLARED = ROOT / "bench" / "results" / "stats" / "declared.json"
GOLDEN = ROOT / "tests" / "report" / "renderers" / "golden"
GOLDEN_TABLES = ("table1.md", "table2.text", "table3.md", "table4.md", "table5.md", "table5.latex", "table5.html",
          "table5.csv", "table5.json", "table6.text")  # fmt: skip


def golden_table(store: Store, file: str) -> str:
    """Return the table of the paper that a golden file holds: ``table5.md`` is table 5 in Markdown."""
    name, _, fmt = file.partition(".")
    out = io.StringIO()
    number = int(name.removeprefix("table"))
    write(paper_table(store, number), fmt, Console(file=out, width=100), title=f"Table {number}")
    return out.getvalue()


def tables() -> None:
    """Write the tables of the paper and of a run, from stores that tests make."""
    with tempfile.TemporaryDirectory() as folder:
        store = paper_store(Path(folder) / "paper").store
        for file in GOLDEN_TABLES:
            (GOLDEN / file).write_text(golden_table(store, file))
        example = example_store(Path(folder) / "run")[0].store
        (GOLDEN / "run.md").write_text(as_markdown(comparison(example)))


def pins() -> None:
    """Write the names and numbers that renaming must not change."""
    from tests.test_pins import PINNED, PINS

    for name, pin in PINNED.items():
        (PINS / f"{name}.json").write_text(json.dumps(pin(), indent=1, sort_keys=True) + "\n")


def declared() -> dict[str, Any]:
    """Return how the numbers of each built-in metric follow from its tables, with its usual parameters."""
    found = {}
    for name, entry in registry.CATALOGUE["metrics"].items():
        kind = entry.load()
        config = validate(kind.Config, dict(entry.preset), name)
        numbers = {number: plain(one) for number, one in kind.aggregates(config).items()}
        found[name] = {"parameters": config.model_dump(mode="json"), "declared": numbers}
    return json.loads(json.dumps(found))


def declarations() -> None:
    """Write the declarations that are read instead of the metrics."""
    DECLARED.write_text(json.dumps(declared(), indent=1, sort_keys=True) + "\n")


def documents() -> None:
    """Write the tables of README and STUDY, from the published results, their figures, and the table of metrics."""
    from click.testing import CliRunner

    from bench.cli.main import main as bench

    for file in TEXTS:
        rewrite(file)
    written = {
        "reports/beside_published.md": (published_beside.HEADER, beside),
        "metrics/README.md": (HEADER, metric_table),
    }
    for name, (header, table) in written.items():
        block = re.escape("\n".join(header)) + r"(?:\n\|[^\n]*)*"
        file = ROOT / name
        file.write_text(re.sub(block, lambda _, table=table: table(), file.read_text()))
    drawn = [["figure", *figure, "--out", RESULTS, "--to", "reports/figures", "--format", "svg"]
             for figure in (["5"], ["interpretability", "--suite", "study_birds"])]  # fmt: skip
    for words in (*drawn, *figures(FINDINGS)):
        CliRunner().invoke(bench, words, catch_exceptions=False)


WRITERS = {writer.__name__: writer for writer in (tables, pins, declarations, documents)}

if __name__ == "__main__":
    os.chdir(ROOT)
    for word in sys.argv[1:] or WRITERS:
        WRITERS[word]()
