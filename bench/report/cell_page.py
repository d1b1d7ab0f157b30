"""Page of one cell, read from the store: its content, and its form in a terminal."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.core.console import Console, Text
from bench.core.content_digest import state_of
from bench.core.errors import RequestError
from bench.report.cell_facts import (
    SCORES,
    about_the_fit,
    computed_with,
    deviations,
    flatten,
    plain,
    prototype_tables,
    repeating,
    score_rows,
    settings_of,
    short,
)
from bench.results.cell_record import CellRecord
from bench.results.labels import cell_title
from bench.results.records import read_history
from bench.results.result_files import FolderFiles, ResultFiles
from bench.results.rows import rows_of
from bench.results.stats.intervals import with_intervals
from bench.results.store import Store

Pairs = list[tuple[str, str]]
# Characters of the end of a log, and rows of a per-prototype table.
_LONGEST_LOG = 4000
_MOST_ROWS = 8


class CellPage:
    """Content of the page about one cell.

    Args:
        store: results.
        record: the cell, whose ``cell.json`` is whole.
        stamps: time stamps of the runs that asked for it.
        intervals: whether its values get their 95 % intervals.
        most: largest number of rows of a per-prototype table.
        log_lines: largest number of lines of an unfinished cell's log.
    """

    def __init__(
        self,
        store: Store,
        record: CellRecord,
        stamps: Sequence[str] = (),
        intervals: bool = True,
        most: int = _MOST_ROWS,
        log_lines: int = 30,
    ) -> None:
        self._store, self._record, self._outcome, self._most = store, record, record.result, most
        self.stamps, self.intervals = stamps, intervals
        self.name, self.spec, self.failure = record.name, record.spec, record.failure
        self.written: dict[str, Any] = record.written or {}
        self.folder = store.cell(record.name)
        self.log = "" if self._outcome else "\n".join(self.folder.log_tail(log_lines))[-_LONGEST_LOG:]

    @property
    def title(self) -> str:
        """Method, data set, backbone and seed."""
        return cell_title(self.written["label"], self.spec)

    @property
    def state(self) -> str:
        """Failure in one line, for a cell without a result."""
        return f"{self.failure['status']}: {self.failure['reason']}" if self.failure else "not finished"

    @functools.cached_property
    def scores(self) -> list[tuple[str, ...]]:
        """Return the rows under ``cell_facts.SCORES``."""
        if self._outcome is None:
            return []
        rows = with_intervals(self._store, rows_of(self._record, "")) if self.intervals else []
        return score_rows(self.written, self._outcome, rows)

    @property
    def settings(self) -> Pairs:
        """Return the settings under the names that ``--set`` takes."""
        return _texts(settings_of(self.spec))

    @property
    def departures(self) -> list[str]:
        """Return the differences of the recipe from the original of its method."""
        return deviations(self.written)

    @property
    def facts(self) -> Pairs:
        """Return the facts about the fit."""
        return _texts(about_the_fit(self._outcome)) if self._outcome else []

    @property
    def environment(self) -> Pairs:
        """Return the environment and seeds of the computation."""
        return _texts(computed_with(self._outcome)) if self._outcome else []

    @property
    def short_environment(self) -> Pairs:
        """Return the environment without what pages have elsewhere (the command) or follows: seeds of parts, flags."""
        left_out = ("arguments", "determinism")
        return [pair for pair in self.environment if pair[0] not in left_out and not pair[0].startswith("seed of ")]

    @property
    def usage(self) -> Pairs:
        """Return the resources that all attempts took together."""
        return _texts(flatten((self._outcome or {}).get("usage", {})))

    @property
    def repeat(self) -> str:
        """Return the command that computes the cell again, from nothing."""
        return repeating(self.folder.path.resolve(), self._outcome) if self._outcome else ""

    @property
    def histories(self) -> list[tuple[str, list[dict[str, Any]], str]]:
        """Return the recorded trainings: title, rows of epochs, and the problem with the file, if any.

        They are the method's own, and that of the black box that it started from.
        """
        # The first of them is shown: that of the result, or else of the attempt in progress.
        first = (
            (title, next((files for files in places if files.names("history.json")), None))
            for title, places in self._trainings().items()
        )
        return [(title, *_history(files)) for title, files in first if files is not None]

    def _trainings(self) -> dict[str, list[ResultFiles]]:
        """Return the places where the history of a training may be, by its title."""
        trainings: dict[str, list[ResultFiles]] = {
            "Training": [self._store.files(self.name), *map(FolderFiles, (self.folder.work, self.folder.resume))]
        }
        box = str(self.written.get("black_box_id") or "")
        if box and Path(box).name == box:
            trainings["Training of its black box"] = [FolderFiles(self._store.root / "blackboxes" / box / "result")]
        return trainings

    def sources(self) -> list[str]:
        """Return texts of which one changes whenever the page does, unless the code that makes it is another."""
        content = [self.name, self.written, self._outcome, self.failure, self.log, self.stamps, self.intervals]
        histories = (
            state_of(files.path("history.json"))
            for places in self._trainings().values()
            for files in places
            if files.names("history.json") and files.path("history.json").exists()
        )
        files = self._store.files(self.name).state()
        return [str(self.folder.path.resolve()), json.dumps(content, sort_keys=True), *files, *map(str, histories)]

    @property
    def prototypes(self) -> list[tuple[str, list[str], list[list[str]], int]]:
        """Return the per-prototype tables: metric, header, rows that are shown, and their total number."""
        return [
            (metric, list(rows[0]), [[short(value) for value in row.values()] for row in rows], count)
            for metric, (rows, count) in prototype_tables(self._store.files(self.name), self._most).items()
            if rows
        ]


def _history(files: ResultFiles) -> tuple[list[dict[str, Any]], str]:
    """Read the epochs of a file, or why there are none; one broken file must not cost the whole report."""
    try:
        return read_history(files), ""
    except RequestError as error:
        return [], str(error)


def _texts(facts: Mapping[str, Any]) -> Pairs:
    return [(name, plain(value)) for name, value in facts.items() if value is not None and value != ""]


def show_cell(store: Store, name: str, console: Console) -> None:
    """Print command, settings, environment, scores and the per-prototype tables of a cell."""
    record = store.record(name)
    page = CellPage(store, record, log_lines=10)
    if record.written is None:
        console.print(f"{name}: {page.state}", style="red")
        return
    console.print(Text.assemble((page.title, "bold"), f"  {name}"))
    console.print(f"folder   {page.folder.path}", soft_wrap=True)
    console.print(f"command  {page.written['command']}", soft_wrap=True)
    for stamp, content in store.invocations().items():
        if name in content["cells"]:
            console.print(f"part of  {content['command']}  ({stamp})", soft_wrap=True)
    if page.repeat:
        console.print(f"repeat   {page.repeat}", soft_wrap=True)
    console.print()
    console.print(_pairs("settings, under the names that --set takes", page.settings))
    if page.departures:
        console.print("the recipe departs from the original:")
        console.print("\n".join(f"- {text}" for text in page.departures), highlight=False)
    if record.result is None:
        console.print(page.state, style="red")
        if page.failure and page.failure["details"]:
            console.print(page.failure["details"])
        if page.log:
            console.print("last lines of its log:")
            console.print(page.log)
        return
    console.print(_table("scores", SCORES, page.scores))
    console.print(_pairs("about the fit", page.facts))
    console.print(_pairs("resources of all attempts", page.usage))
    console.print(_pairs("environment", page.environment))
    files = store.files(name)
    if files.names("packages.txt"):
        console.print(Text(f"all installed packages: {files.path('packages.txt')}", style="dim"), soft_wrap=True)
    for metric, header, rows, count in page.prototypes:
        shown = f", first {len(rows)} of {count}" if count > len(rows) else ""
        console.print(_table(f"{metric} per prototype{shown}", header, rows))
        table = files.path(f"items/{metric}.prototype.csv")
        console.print(Text(f"all of them: {table}", style="dim"), soft_wrap=True)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table


def _pairs(title: str, rows: Pairs) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    return table
