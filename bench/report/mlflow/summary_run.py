"""Content of the MLflow run for one call of ``run``: the table of its cells, as page, picture and description."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.plain_text import markdown_code, one_line
from bench.report.mlflow.cell_run import end_files
from bench.report.mlflow.chart import chart
from bench.report.mlflow.fields import cut
from bench.report.renderers.html import as_html
from bench.report.renderers.markdown import as_markdown
from bench.report.run_table import comparison
from bench.report.table_style import styled
from bench.results.labels import FIRST_METRICS
from bench.results.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OUTCOMES = ("result", "failure")
_LONGEST_TAG = 7500


class SummaryRun:
    """Summary of a call of ``run``.

    Args:
        store: results.
        stamp: time stamp of the call.
        content: the store's record of the call.
        cells: those of its cells that are on disk.
        home: ``BENCH_HOME``.

    Attributes:
        status: in MLflow's words; ``RUNNING`` until every cell has ended.
        ended: end of the last cell that has ended, in milliseconds since 1970; ``None`` if there is none.
    """

    def __init__(self, store: Store, stamp: str, content: Mapping[str, Any], cells: Sequence[str], home: Path) -> None:
        self.stamp, self.content, self.records = stamp, content, store.records(cells)
        done, failed = (sum(getattr(record, part) is not None for record in self.records) for part in _OUTCOMES)
        ends = [file.stat().st_mtime for name in cells for file in end_files(store, name) if file.is_file()]
        # MLflow lists the latest start first: a summary starts when its last cell ends, and stands above its cells.
        self.ended = round(1000 * max(ends)) if ends else None
        self.status = "RUNNING" if done + failed < len(content["cells"]) else "FAILED" if failed else "FINISHED"
        self.counts = f"{done} of {len(content['cells'])} cells done, {failed} failed"
        self._tables = comparison(store, stamp, intervals=True) if self.records else []
        # A wide table or a long command would push everything else out of the page: the files have them.
        first = [one.name for table in self._tables for one in table.columns if one.name in FIRST_METRICS]
        short = styled(self._tables, first) if first else self._tables
        self._note = f"{self.counts}; all columns: Artifacts, report.html\n\n{as_markdown(short) if short else ''}"
        # Matplotlib writes a cache of fonts: into the same home as everything else.
        os.environ.setdefault("MPLCONFIGDIR", str(home / ".matplotlib"))

    @property
    def title(self) -> str:
        """Title, for example ``table2: 12 cells``."""
        count = len(self.content["cells"])
        return one_line(f"{self.content['suite']}: {count} cell{'s' * (count != 1)}")

    def tags(self) -> dict[str, str]:
        """Return the tags, and the table as the description."""
        return {
            "bench.invocation": self.stamp,
            "bench.cells": self.counts,
            "role": "summary",
            "command": cut(str(self.content["command"]), _LONGEST_TAG),
            "device": str(self.content.get("device", "")),
            "mlflow.note.content": cut(self._note, _LONGEST_TAG),
        }

    def texts(self) -> dict[str, str]:
        """Return the files: the table with intervals as a page and as text, and the specification of each cell."""
        cells = {record.name: {"label": record.written["label"], **record.spec} for record in self.records}  # type: ignore[index]
        plan = {"invocation": self.stamp, **self.content, "cells": cells}
        page = as_html(self._tables, self.title)
        command = markdown_code(str(self.content["command"]))
        text = f"{command}\n\n{self.counts}\n\n{as_markdown(self._tables) if self.records else ''}"
        return {"report.html": page, "report.md": text, "plan.json": json.dumps(plan, indent=1)}

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Yield the files of the pictures."""
        return ((f"figures/{name}.png", figure) for name, figure in chart(self._tables))
