"""Status of the cells of a run, from the files of the store: the same for the run itself and for another shell."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from bench.core.console import Text
from bench.results.cell_record import in_words
from bench.results.labels import cell_title, short_label
from bench.results.store import Store
from bench.runner.eta import Timings, format_duration
from bench.runner.heartbeat import activity_of

State = Literal["done", "running", "killed", "failed", "oom", "to run"]
_STYLES = {"done": "green", "running": "bold", "killed": "yellow", "failed": "red", "oom": "red", "to run": ""}
_OTHERS: tuple[State, ...] = ("running", "killed", "failed", "oom", "to run")
# Largest number of rows of running cells, and of failed ones.
_MOST = 12


@dataclass(frozen=True)
class CellState:
    """Present state of one cell.

    Attributes:
        name: id of the cell.
        title: readable title.
        state: state; ``killed``: its process ended without a result, and the next run resumes from its checkpoint.
        reason: reason of a failure.
        activity: last heartbeat; see :func:`bench.runner.heartbeat.activity_of`.
    """

    name: str
    title: str
    state: State
    reason: str = ""
    activity: dict[str, Any] | None = None


class Overview:
    """States of the cells of a run.

    With ``from_now`` only failures after this call count; cells that failed before are to run.
    """

    def __init__(self, store: Store, names: Sequence[str], from_now: bool = False) -> None:
        self._store, self._names = store, list(names)
        self._written: dict[str, dict[str, Any] | None] = {}
        self._final: dict[str, CellState] = {}
        self._old = {name: store.cell(name).failed_at for name in names} if from_now else {}
        self._timings: Timings | None = None

    def look(self) -> list[CellState]:
        """Return the state of each cell with a metric; finished cells are read once."""
        for name in self._names:
            if name not in self._written:
                self._written[name] = self._store.written(name)
        return [
            self._final.get(name) or self._look(name)
            for name, written in self._written.items()
            if written is None or written["spec"]["metrics"]
        ]

    def summary(self) -> str:
        """Return the counts by state in one line."""
        states = self.look()
        counts = Counter(cell.state for cell in states)
        parts = [f"{counts['done']} of {len(states)} cells done"]
        return ", ".join([*parts, *(f"{counts[state]} {in_words(state)}" for state in _OTHERS if counts[state])])

    def seconds_left(self, states: Sequence[CellState]) -> tuple[float, int]:
        """Estimate the seconds until all cells are done with the present workers; count those of unknown duration."""
        if self._timings is None:
            self._timings = Timings.of_store(self._store)
        left, unknown, workers = 0.0, 0, 0
        for cell in states:
            if cell.state not in ("running", "to run", "killed"):
                continue
            written = self._written[cell.name]
            known = (written["spec"], written.get("recipe"), written.get("fit_id")) if written else None
            expected = self._timings.of(*known) if known else None
            workers += cell.state == "running"
            if expected is None:
                unknown += 1
            else:
                passed = cell.activity["seconds"] if cell.activity and cell.state == "running" else 0.0
                left += max(0.0, expected - passed)
        # The running cells count the workers; queued cells start as these become free.
        return left / max(1, workers), unknown

    def _look(self, name: str) -> CellState:
        written, folder = self._written[name], self._store.cell(name)
        title = cell_title(written["label"], written["spec"]) if written else "cell.json is missing or damaged"
        if written is None and name in self._store.faults:
            return CellState(name, title, "failed", self._store.faults[name])
        activity = None if folder.done else activity_of(folder)
        failure = self._store.record(name).failure if folder.done and written else folder.failure
        if folder.done and failure is None:
            self._final[name] = CellState(name, title, "done")
            if self._timings is not None:
                self._timings.add(self._store, name)
            return self._final[name]
        if activity is not None:
            return CellState(name, title, "running" if activity["alive"] else "killed", activity=activity)
        if failure is not None and self._old.get(name) != folder.failed_at:
            return CellState(name, title, "oom" if failure["status"] == "oom" else "failed", failure["reason"])
        return CellState(name, title, "to run")


class Board:
    """Status panel of an overview, refreshed at most once a second however often it is drawn.

    Args:
        overview: the cells.
        title: of the panel.
        failures: whether failed cells are listed, and of each cell at work process and newest line of the log: for
            another shell. The run itself has one line for each cell at work, which ends with that of the log.
    """

    def __init__(self, overview: Overview, title: str, failures: bool = False) -> None:
        self._overview, self._title, self._failures = overview, title, failures
        self._seen: RenderableType = ""
        self._next = 0.0

    def __call__(self) -> RenderableType:
        """Return the panel."""
        if time.monotonic() >= self._next:
            self._seen = self._draw()
            self._next = time.monotonic() + 1.0
        return self._seen

    def _draw(self) -> RenderableType:
        states = self._overview.look()
        parts: list[RenderableType] = [self._headline(states)]
        at_work = [cell for cell in states if cell.state in ("running", "killed")]
        if at_work:
            parts.append(_at_work(at_work[:_MOST], self._failures))
            parts += [Text(f"  and {len(at_work) - _MOST} more", style="dim")] if len(at_work) > _MOST else []
        failed = [cell for cell in states if cell.state in ("failed", "oom")] if self._failures else []
        for cell in failed[:_MOST]:
            parts.append(Text.assemble((f"{cell.name[:6]} ", "red"), f"{cell.title}: {cell.reason}"))
        if len(failed) > _MOST:
            parts.append(Text(f"and {len(failed) - _MOST} more failed", style="dim"))
        return Group(*parts)

    def _headline(self, states: Sequence[CellState]) -> Text:
        counts = Counter(cell.state for cell in states)
        line = Text(f"{self._title}: ", style="bold")
        line.append(f"{counts['done']} of {len(states)} cells done", style="green")
        for state in _OTHERS:
            if counts[state]:
                line.append(" · ", style="dim").append(f"{counts[state]} {in_words(state)}", _STYLES[state])
        left, unknown = self._overview.seconds_left(states)
        if left and unknown:
            line.append(f" · more than {format_duration(left)} left ({unknown} of unknown length)", style="dim")
        elif left:
            line.append(f" · about {format_duration(left)} left", style="dim")
        return line


def _at_work(states: Sequence[CellState], processes: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=processes)
    for place, column in enumerate(("cell", "", "stage", "", "for", "process" if processes else "log")):
        table.add_column(column, no_wrap=bool(column and column != "log") or (place == 3 and not processes))
    for cell in states:
        now = cell.activity or {}
        alive = cell.state == "running"
        stage = Text(now.get("stage", "")) if alive else Text(f"killed in: {now.get('stage', '')}", style="yellow")
        note = Text(str(now.get("note", "") if alive else ""), style="dim", no_wrap=True, overflow="ellipsis")
        # In one line, of which title and newest line of the log give way to the rest.
        title = Text(short_label(cell.title), no_wrap=not processes, overflow="ellipsis")
        clock = _clock(now.get("seconds", 0.0))
        last: RenderableType = f"{now.get('host', '')}:{now.get('pid', '')}" if processes else note
        table.add_row(cell.name[:6], title, stage, _counted(now, bar=processes), clock, last)
        if processes and note:
            table.add_row("", note)
    return table


def _counted(now: dict[str, Any], bar: bool) -> RenderableType:
    if not now.get("what"):
        return ""
    label = Text(f"{now['what']} {now['done']}" + (f"/{now['total']}" if now.get("total") else ""))
    if not now.get("total") or not bar:
        return label
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=now["total"], completed=now["done"], width=16), label)
    return grid


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
