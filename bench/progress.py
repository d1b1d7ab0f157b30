"""How far long work is: bars on a terminal, plain lines elsewhere, and the same lines in a cell's log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")


class ConsoleProgress:
    """Shows bars and notes on a console, and writes the notes to a log file while one is set.

    Use it as a context manager, so that the terminal is left clean whatever happens.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self.log: Path | None = None
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("[progress.description]{task.description}"),
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

    def track(self, items: Iterator[T] | Sequence[T], what: str, total: int | None = None) -> Iterator[T]:
        """Pass the items through and show how many of ``total`` have gone by."""
        if total is None and isinstance(items, Sequence):
            total = len(items)
        task = self._bars.add_task(what, total=total)
        began = time.perf_counter()
        count = 0
        try:
            for item in items:
                yield item
                count += 1
                self._bars.advance(task)
        finally:
            self._bars.remove_task(task)
        self.note(f"{what}: {count} in {time.perf_counter() - began:.1f} s")

    def note(self, message: str) -> None:
        """One line on the console and in the log."""
        if not self.quiet:
            self._bars.console.print(f"  [dim]{message}[/dim]", highlight=False, soft_wrap=True)
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a") as stream:
                stream.write(f"{time.strftime('%H:%M:%S')} {message}\n")
