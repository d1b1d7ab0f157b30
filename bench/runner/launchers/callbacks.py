"""What a launcher tells while cells run, and the plain lines that a console shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.config.spec import PlannedCell
from bench.core.console import Console, Text
from bench.core.plain_text import one_line
from bench.runner.launchers.tasks import Unit, title_of


class Events:
    """Told about every unit of work; what a subclass leaves out does nothing."""

    def skipped(self, unit: Unit, why: str) -> None:
        """It is not run: it was done before, or there is nothing to measure."""

    def started(self, unit: Unit) -> None:
        """A worker was given it, or this process begins it."""

    def finished(self, unit: Unit, seconds: float) -> None:
        """It is done."""

    def failed(self, unit: Unit, reason: str, out_of_memory: bool) -> None:
        """It went wrong, and what went wrong is recorded."""

    def again(self, unit: Unit, reason: str) -> None:
        """Its worker was lost, and another one is given it."""


class Lines(Events):
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

    def skipped(self, unit: Unit, why: str) -> None:
        """The reason, dimmed; what was settled before the run is only counted."""
        if why == "done by another run":
            self._print(self._title(unit), "  ", (why, "dim"))
        else:
            self._skipped[why] += 1

    def started(self, unit: Unit) -> None:
        """The cell in bold."""
        self._print((self._title(unit), "bold"), "  started" if self.several else "")

    def finished(self, unit: Unit, seconds: float) -> None:
        """How long it took."""
        self._print(self._begin(unit), f"done in {seconds:.1f} s")

    def failed(self, unit: Unit, reason: str, out_of_memory: bool) -> None:
        """The reason."""
        word = "out of memory:" if out_of_memory else "failed:"
        self._print(self._begin(unit), (word, "red"), f" {one_line(reason)}")

    def again(self, unit: Unit, reason: str) -> None:
        """Why it goes back into the queue."""
        self._print(self._begin(unit), ("once more:", "yellow"), f" {one_line(reason)}")

    def _begin(self, unit: Unit) -> str:
        return f"{self._title(unit)}  " if self.several else "  "

    def _title(self, unit: Unit) -> str:
        if unit.stage == "data":
            return f"for several cells: images of {unit.cell.spec.dataset}"
        if unit.stage == "black-box":
            own = unit.cell.spec
            return f"for several cells: black box · {own.dataset} · {own.backbone} · seed {own.seed}"
        return f"[{self.position[unit.name]}/{self.total}] {title_of(unit.cell)}"

    def _print(self, *parts: str | tuple[str, str]) -> None:
        for why, count in self._skipped.items():
            self.console.print(Text(f"{why}: {count} of {self.total} cells", style="dim"))
        self._skipped.clear()
        self.console.print(Text.assemble(*parts), soft_wrap=True)
