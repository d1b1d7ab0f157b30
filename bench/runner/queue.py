"""Several runs of the same cells at once, and cells that are tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.config.spec import PlannedCell
from bench.contract import Progress
from bench.core.faults import may_pass
from bench.results.records import AGAIN
from bench.results.store import Store
from bench.runner.cell import reason_of
from bench.runner.fit_cache import copy_fit
from bench.runner.progress import ConsoleProgress

_POLL = 0.5


class CellQueue:
    """Hands out cells in their order; those that another run works on come last, when it has let go of them.

    Args:
        cells: in order.
        store: where they live.
        progress: where it is told that all that is left is being worked on.
    """

    def __init__(self, cells: Sequence[PlannedCell], store: Store, progress: Progress) -> None:
        self._cells, self._store, self._progress = list(cells), store, progress
        self._failures = {cell.spec.id: store.cell(cell.spec.id).failed_at for cell in cells}

    def __iter__(self) -> CellQueue:
        return self

    def __next__(self) -> PlannedCell:
        if not self._cells:
            raise StopIteration
        told = False
        while True:
            for place, cell in enumerate(self._cells):
                if not self._store.cell(cell.spec.id).busy:
                    return self._cells.pop(place)
            if not told:
                self._progress.note(f"another run works on the {len(self._cells)} cells that are left: waiting for it")
                told = True
            time.sleep(_POLL)

    def failed_elsewhere(self, cell: PlannedCell) -> dict[str, Any] | None:
        """What is recorded, where the cell has failed in another run since this one began: it would only fail again."""
        folder = self._store.cell(cell.spec.id)
        return None if folder.failed_at == self._failures[cell.spec.id] else folder.failure


def repair(names: Sequence[str], store: Store, progress: ConsoleProgress) -> None:
    """Before a run: damaged results count for nothing, and are kept beside; leftovers of killed processes go."""
    for name in names:
        folder = store.cell(name)
        if not folder.untidy and not (folder.done and store.record(name).failure):
            continue
        with folder.claim():
            failure = store.record(name).failure if folder.done else None
            if failure is not None:
                place = folder.set_aside()
                why = failure["reason"].removesuffix(AGAIN)
                progress.note(f"the result of {name} is damaged: kept as {place}, and made anew ({why})")
                copy_fit(place, folder.work, progress, {})
            else:
                folder.tidy()


def retry(work: Callable[[], Any], retries: int, progress: Progress) -> Any:
    """Do the work, and again where what went wrong may pass; it goes on from what is finished.

    Raises:
        Exception: what went wrong at last.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not retries or not may_pass(error):
                raise
            retries -= 1
            progress.note(f"{reason_of(error)}: once more")
