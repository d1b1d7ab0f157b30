"""Recovery of cells: repair of damaged results, and retries after transient failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.contract import Progress
from bench.core.errors import is_transient
from bench.results.records import AGAIN
from bench.results.store import Store
from bench.runner.cell import reason_of
from bench.runner.fit_cache import copy_fit
from bench.runner.progress import ConsoleProgress


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
