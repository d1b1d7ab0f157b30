"""Content of the page about one cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.core.errors import RequestError
from bench.report.cell_facts import (
    about_the_fit,
    computed_with,
    flatten,
    plain,
    prototype_tables,
    repeating,
    score_rows,
    settings_of,
    short,
)
from bench.report.html.sparklines import Panel, panels
from bench.results.records import read_history
from bench.results.result_files import FolderFiles, ResultFiles
from bench.results.select import Candidate
from bench.results.stats.intervals import with_intervals
from bench.results.store import Store

_MOST_ROWS = 50
_LAST_LINES = 30
_LONGEST = 4000


class CellPage:
    """One cell, read from the store when the page is written.

    Args:
        store: results.
        cell: candidate cell.
        stamps: time stamps of the runs that asked for it.
        intervals: whether its values get their 95 % intervals.
    """

    def __init__(self, store: Store, cell: Candidate, stamps: list[str], intervals: bool) -> None:
        self._store, self._intervals = store, intervals
        self.cell, self.stamps = cell, stamps
        self.name, self.spec, self.written = cell.found.name, cell.found.spec, cell.found.written
        self._folder = store.cell(self.name)

    @property
    def title(self) -> str:
        """Method, data set, backbone and seed."""
        parts = (self.written["label"], self.spec["dataset"], self.spec["backbone"] or "", f"seed {self.spec['seed']}")
        return " · ".join(part for part in parts if part)

    @property
    def failure(self) -> dict[str, Any] | None:
        """Reason for the failure of the last attempt, if it failed."""
        return self.cell.found.failure

    @property
    def scores(self) -> list[tuple[str, ...]]:
        """Return the rows under ``cell_facts.SCORES``."""
        if self.cell.found.result is None:
            return []
        rows = with_intervals(self._store, self._store.rows([self.name])) if self._intervals else []
        return score_rows(self.written, self.cell.found.result, rows)

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Return the settings under the names that ``--set`` takes, without a mark on the changed ones."""
        return [(name, plain(value)) for name, value in settings_of(self.spec).items()]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return the facts about the fit."""
        outcome = self.cell.found.result
        return [(name, plain(value)) for name, value in about_the_fit(outcome).items()] if outcome else []

    @property
    def environment(self) -> list[tuple[str, str]]:
        """Return the environment and seeds of the computation."""
        outcome = self.cell.found.result
        return [(name, plain(value)) for name, value in computed_with(outcome).items()] if outcome else []

    @property
    def usage(self) -> list[tuple[str, str]]:
        """Return the resources that all attempts took together."""
        outcome = self.cell.found.result or {}
        return [(name, plain(value)) for name, value in flatten(outcome.get("usage", {})).items()]

    @property
    def repeat(self) -> str:
        """Return the command that computes the cell again, from nothing."""
        outcome = self.cell.found.result
        return repeating(self._folder.path.resolve(), outcome) if outcome else ""

    @property
    def curves(self) -> list[tuple[str, list[Panel], str]]:
        """Return the recorded trainings: title, panels, and the problem with the file, if any.

        They are the method's own, and that of the black box that it started from.
        """
        folders = (self._folder.work, self._folder.resume)
        trainings = {"Training": [self._store.files(self.name), *map(FolderFiles, folders)]}
        box = str(self.written.get("black_box_id") or "")
        if box and Path(box).name == box:
            trainings["Training of its black box"] = [FolderFiles(self._store.root / "blackboxes" / box / "result")]
        # The first of them is shown: that of the result, or else of the attempt in progress.
        first = ((title, next((files for files in places if files.names("history.json")), None))
                 for title, places in trainings.items())  # fmt: skip
        return [(title, *_history(files)) for title, files in first if files is not None]

    @property
    def prototypes(self) -> list[tuple[str, list[str], list[list[str]], int]]:
        """Return the per-prototype tables: metric, header, rows that are shown, and their total number."""
        return [
            (metric, list(rows[0]), [[short(value) for value in row.values()] for row in rows], count)
            for metric, (rows, count) in prototype_tables(self._store.files(self.name), _MOST_ROWS).items()
            if rows
        ]

    @property
    def log(self) -> str:
        """Return the last lines of an unfinished cell's log."""
        file = self._folder.work / "log.txt"
        if self.cell.found.result is not None or not file.is_file():
            return ""
        lines = file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LAST_LINES:])[-_LONGEST:]


def _history(files: ResultFiles) -> tuple[list[Panel], str]:
    """Read the curves of a file, or why there are none; one broken file must not cost the whole report."""
    try:
        return panels(read_history(files)), ""
    except RequestError as error:
        return [], str(error)
