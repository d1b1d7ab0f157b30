"""Cells of a run on disk: their files, their queue among concurrent runs, repair of damaged results, and retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.config.spec import PlannedCell, describe
from bench.contract import Progress
from bench.core.errors import is_transient
from bench.results.records import AGAIN
from bench.results.store import Store, write_json
from bench.runner.cell import reason_of
from bench.runner.fit_cache import copy_fit
from bench.runner.progress import ConsoleProgress

_POLL = 0.5


class CellQueue:
    """Iterator over cells in order; those that another run works on come last, when it has released them.

    Args:
        cells: in order.
        store: results store of the cells.
        progress: reporter of waiting.
    """

    def __init__(self, cells: Sequence[PlannedCell], store: Store, progress: Progress) -> None:
        self._cells, self._store, self._progress = list(cells), store, progress
        self._failures = {cell.spec.id: store.cell(cell.spec.id).failed_at for cell in cells}

    def __iter__(self) -> CellQueue:
        return self

    def __next__(self) -> PlannedCell:
        if not self._cells:
            raise StopIteration
        noted = False
        while True:
            for position, cell in enumerate(self._cells):
                if not self._store.cell(cell.spec.id).busy:
                    return self._cells.pop(position)
            if not noted:
                self._progress.note(f"another run works on the {len(self._cells)} cells that are left: waiting for it")
                noted = True
            time.sleep(_POLL)

    def failed_elsewhere(self, cell: PlannedCell) -> dict[str, Any] | None:
        """Return the failure of a cell in another run since this one began, if any: it would only fail again."""
        folder = self._store.cell(cell.spec.id)
        return None if folder.failed_at == self._failures[cell.spec.id] else folder.failure


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


def repair(names: Sequence[str], store: Store, progress: ConsoleProgress) -> None:
    """Set damaged results of cells aside, keeping their fits, and remove leftovers of killed processes.

    Args:
        names: ids of the cells.
        store: results store of the cells.
        progress: reporter of damaged results.
    """
    for name in names:
        folder = store.cell(name)
        if not folder.untidy and not (folder.done and store.record(name).failure):
            continue
        with folder.claim():
            failure = store.record(name).failure if folder.done else None
            if failure is not None:
                # The numbers are computed again, but the fit, if undamaged, is not: training is most of the cost.
                place = folder.set_aside()
                why = failure["reason"].removesuffix(AGAIN)
                progress.note(f"the result of {name} is damaged: kept as {place}, and computed again ({why})")
                copy_fit(place, folder.work, progress, {})
            else:
                folder.tidy()


def retry(work: Callable[[], Any], retries: int, progress: Progress) -> Any:
    """Run the work, and again after transient failures such as a lost device; it resumes from its checkpoint.

    Args:
        work: the work.
        retries: largest number of retries.
        progress: reporter of retries.

    Raises:
        Exception: the last failure.
    """
    while True:
        try:
            return work()
        except Exception as error:
            # Any other failure would only repeat itself.
            if not retries or not is_transient(error):
                raise
            retries -= 1
            progress.note(f"{reason_of(error)}: trying again")
