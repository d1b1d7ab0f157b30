"""Progress of long work: bars and one updating line on a terminal, plain lines elsewhere and in a cell's log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from bench.core.console import Console, Text
from bench.core.plain_text import one_line
from bench.runner.heartbeat import Heartbeat

T = TypeVar("T")


class _Bars(Progress):
    """Progress bars with a status panel above them, or the newest line of a cell's log."""

    above: Callable[[], RenderableType] | None = None
    newest = ""
    of_cell = False

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.above is not None:
            yield self.above()
            if self.of_cell:
                return  # the panel has a line for the cell, which says how far it is
        if self.newest:
            yield Text(f"  {self.newest}", style="dim", no_wrap=True, overflow="ellipsis")
        yield self.make_tasks_table(self.tasks)


class ConsoleProgress:
    """Reporter of bars and notes on a console, and of notes in a log file while one is set.

    Use it as a context manager, so that the terminal is left clean in any case. If ``quiet``, nothing is printed; a log
    is written nevertheless.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self._log: Path | None = None
        self._heartbeat: Heartbeat | None = None
        self._bars = _Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", style="progress.description", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bars.stop()

    @contextlib.contextmanager
    def above(self, panel: Callable[[], RenderableType]) -> Iterator[None]:
        """Show a panel above the bars of a terminal while the context is active; it is drawn several times a second."""
        self._bars.above = panel
        try:
            yield
        finally:
            self._bars.above = None

    @contextlib.contextmanager
    def logging_to(self, log: Path, heartbeat: Heartbeat) -> Iterator[None]:
        """Write notes to a log file too, and progress to a heartbeat, while the context is active.

        A terminal shows the newest note alone, in a line that is overwritten; the log keeps all.
        """
        with heartbeat:
            self._log, self._heartbeat, self._bars.of_cell = log, heartbeat, True
            try:
                yield
            finally:
                self._log = self._heartbeat = None
                self._bars.of_cell, self._bars.newest = False, ""

    def track(self, items: Iterator[T] | Sequence[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield the items and show how many of ``total`` are done."""
        if total is None and isinstance(items, Sequence):
            total = len(items)
        task = self._bars.add_task(what, total=total)
        began = time.perf_counter()
        count = 0
        try:
            for item in items:
                if self._heartbeat is not None:
                    self._heartbeat.counted(what, count, total)
                yield item
                count += 1
                self._bars.advance(task)
        finally:
            self._bars.remove_task(task)
        self.note(f"{what}: {count} in {time.perf_counter() - began:.1f} s")

    def note(self, message: str) -> None:
        """Write one line on the console and in the log."""
        message = one_line(message)
        if self._log is not None and not self._bars.disable:
            self._bars.newest = message
        elif not self.quiet:
            self._bars.console.print(Text(f"  {message}", style="dim"), soft_wrap=True)
        if self._heartbeat is not None:
            self._heartbeat.noted(message)
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(f"{time.strftime('%H:%M:%S')} {message}\n")
