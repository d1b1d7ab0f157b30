"""What became of a run's cells, and the files from which each is a command of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.config.spec import PlannedCell, describe
from bench.results.store import Store, write_json


@dataclass
class Summary:
    """What became of a run's cells: their ids.

    Attributes:
        done: run now.
        before: done before, or by another run meanwhile.
        unmeasured: no metric applies to them: there is nothing to run.
        failed: with the reason.
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
    """Put each cell's ``cell.json`` in its folder: from then on it is a command of its own.

    The newest request wins: the same cell may be asked for from another place, under another label.
    """
    for cell in cells:
        content = describe(cell, command(cell))
        if store.written(cell.spec.id) != content:
            write_json(store.cell(cell.spec.id).path / "cell.json", content)
