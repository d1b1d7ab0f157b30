"""Outcome of a run's cells, and the files from which each cell can be run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.config.spec import PlannedCell, describe
from bench.results.store import Store, write_json


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


def write_down(cells: Sequence[PlannedCell], store: Store, command: Callable[[PlannedCell], str]) -> None:
    """Write each cell's ``cell.json``: from then on ``bench cell`` can run it alone.

    The newest request replaces an older one: a cell may be requested with other paths or under another label.

    Args:
        cells: the plan.
        store: results store of the cells.
        command: returns the command that runs a cell.
    """
    for cell in cells:
        content = describe(cell, command(cell))
        if store.written(cell.spec.id) != content:
            write_json(store.cell(cell.spec.id).path / "cell.json", content)
