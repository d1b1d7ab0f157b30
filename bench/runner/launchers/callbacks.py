"""Outcome of a run's cells, callbacks of a launcher while they run, and the plain lines that a console shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.config.spec import PlannedCell
from bench.core.console import Console, Text
from bench.core.plain_text import one_line
from bench.results.labels import cell_title
from bench.runner.launchers.tasks import CellTask


@dataclass
class Summary:
    """Ids of a run's cells by outcome.

    Attributes:
        done: finished in this run.
        before: finished before, or by another run meanwhile.
        unmeasured: cells to which no metric applies, so that there is nothing to run.
        failed: failed cells with the reason.
    """

    done: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        done = len(self.done) + len(self.before)
        total = done + len(self.failed)
        line = f"{done} of {total} cells done ({len(self.before)} before), {len(self.failed)} failed"
        return line + (f"; nothing to measure in {len(self.unmeasured)} more" if self.unmeasured else "")


class RunCallback:
    """Observer of the tasks of a run; methods that a subclass leaves out do nothing."""

    def skipped(self, task: CellTask, why: str) -> None:
        """Handle a task that is not run: it was done before, or there is nothing to measure."""

    def started(self, task: CellTask) -> None:
        """Handle a task that a worker, or this process, begins."""

    def finished(self, task: CellTask, seconds: float) -> None:
        """Handle a finished task."""

    def failed(self, task: CellTask, reason: str, out_of_memory: bool) -> None:
        """Handle a failed task, whose failure is recorded."""

    def requeued(self, task: CellTask, reason: str) -> None:
        """Handle a task whose worker was lost, and which goes to another one."""

    def waiting(self, count: int) -> None:
        """Handle that other runs work on all ``count`` tasks that are left."""


class ConsoleCallback(RunCallback):
    """Callback that prints a line for each event; on a terminal a panel shows what began, and lines say how it ended.

    Where ``several`` cells run at a time each line has the cell's title. ``ended`` is called with the id of each cell
    that this run has finished, or that has failed.
    """

    def __init__(
        self,
        console: Console,
        cells: Sequence[PlannedCell],
        several: bool,
        ended: Callable[[str], None] | None = None,
    ) -> None:
        self.console, self.total, self._ended, self._live = console, len(cells), ended, console.is_terminal
        self.several = several or self._live
        self._skipped: Counter[str] = Counter()
        self.position = {cell.spec.id: position for position, cell in enumerate(cells, 1)}

    def skipped(self, task: CellTask, why: str) -> None:
        """Print the reason, dimmed; cells that were settled before the run are only counted."""
        if why == "done by another run":
            self._print(self._title(task), "  ", (why, "dim"))
        else:
            self._skipped[why] += 1

    def started(self, task: CellTask) -> None:
        """Print the cell in bold."""
        if self._live:
            return
        self._print((self._title(task), "bold"), "  started" if self.several else "")

    def finished(self, task: CellTask, seconds: float) -> None:
        """Print the duration."""
        self._print(self._begin(task), f"done in {seconds:.1f} s")
        self._settle(task)

    def failed(self, task: CellTask, reason: str, out_of_memory: bool) -> None:
        """Print the reason."""
        word = "out of memory:" if out_of_memory else "failed:"
        self._print(self._begin(task), (word, "red"), f" {one_line(reason)}")
        self._settle(task)

    def requeued(self, task: CellTask, reason: str) -> None:
        """Print why it goes back into the queue."""
        self._print(self._begin(task), ("trying again:", "yellow"), f" {one_line(reason)}")

    def waiting(self, count: int) -> None:
        """Print how many cells are left."""
        self._print(f"another run works on the {count} cells that are left: waiting for it")

    def _settle(self, task: CellTask) -> None:
        if self._ended is not None and task.stage is None:
            self._ended(task.name)

    def _begin(self, task: CellTask) -> str:
        return f"{self._title(task)}  " if self.several else "  "

    def _title(self, task: CellTask) -> str:
        if task.stage == "data":
            return f"for several cells: images of {task.cell.spec.dataset}"
        if task.stage == "black-box":
            spec = task.cell.spec
            return f"for several cells: black box · {spec.dataset} · {spec.backbone} · seed {spec.seed}"
        return f"[{self.position[task.name]}/{self.total}] {cell_title(task.cell.label, vars(task.cell.spec))}"

    def _print(self, *parts: str | tuple[str, str]) -> None:
        for why, count in self._skipped.items():
            self.console.print(Text(f"{why}: {count} of {self.total} cells", style="dim"))
        self._skipped.clear()
        self.console.print(Text.assemble(*parts), soft_wrap=True)
