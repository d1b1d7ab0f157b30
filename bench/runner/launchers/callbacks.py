"""What a launcher tells while cells run, and the plain lines that a console shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.config.spec import PlannedCell
from bench.core.console import Console, Text
from bench.core.plain_text import one_line
from bench.runner.launchers.tasks import CellTask, title_of


class RunCallback:
    """Told about every task of work; what a subclass leaves out does nothing."""

    def skipped(self, task: CellTask, why: str) -> None:
        """It is not run: it was done before, or there is nothing to measure."""

    def started(self, task: CellTask) -> None:
        """A worker was given it, or this process begins it."""

    def finished(self, task: CellTask, seconds: float) -> None:
        """It is done."""

    def failed(self, task: CellTask, reason: str, out_of_memory: bool) -> None:
        """It went wrong, and what went wrong is recorded."""

    def requeued(self, task: CellTask, reason: str) -> None:
        """Its worker was lost, and another one is given it."""


class ConsoleCallback(RunCallback):
    """A line for each event.

    Args:
        console: where they go.
        cells: all of the run: what ``[3/24]`` counts.
        several: whether cells run at the same time: then each line names its cell.
    """

    def __init__(self, console: Console, cells: Sequence[PlannedCell], several: bool) -> None:
        self.console, self.several, self.total = console, several, len(cells)
        self._skipped: Counter[str] = Counter()
        self.position = {cell.spec.id: position for position, cell in enumerate(cells, 1)}

    def skipped(self, task: CellTask, why: str) -> None:
        """The reason, dimmed; what was settled before the run is only counted."""
        if why == "done by another run":
            self._print(self._title(task), "  ", (why, "dim"))
        else:
            self._skipped[why] += 1

    def started(self, task: CellTask) -> None:
        """The cell in bold."""
        self._print((self._title(task), "bold"), "  started" if self.several else "")

    def finished(self, task: CellTask, seconds: float) -> None:
        """How long it took."""
        self._print(self._begin(task), f"done in {seconds:.1f} s")

    def failed(self, task: CellTask, reason: str, out_of_memory: bool) -> None:
        """The reason."""
        word = "out of memory:" if out_of_memory else "failed:"
        self._print(self._begin(task), (word, "red"), f" {one_line(reason)}")

    def requeued(self, task: CellTask, reason: str) -> None:
        """Why it goes back into the queue."""
        self._print(self._begin(task), ("once more:", "yellow"), f" {one_line(reason)}")

    def _begin(self, task: CellTask) -> str:
        return f"{self._title(task)}  " if self.several else "  "

    def _title(self, task: CellTask) -> str:
        if task.stage == "data":
            return f"for several cells: images of {task.cell.spec.dataset}"
        if task.stage == "black-box":
            own = task.cell.spec
            return f"for several cells: black box · {own.dataset} · {own.backbone} · seed {own.seed}"
        return f"[{self.position[task.name]}/{self.total}] {title_of(task.cell)}"

    def _print(self, *parts: str | tuple[str, str]) -> None:
        for why, count in self._skipped.items():
            self.console.print(Text(f"{why}: {count} of {self.total} cells", style="dim"))
        self._skipped.clear()
        self.console.print(Text.assemble(*parts), soft_wrap=True)
