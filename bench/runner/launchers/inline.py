"""Default launcher: one cell after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.config.spec import PlannedCell
from bench.core import registry
from bench.core.errors import storage_error
from bench.core.interrupts import contained
from bench.core.memory import OutOfMemory
from bench.results.store import Store, WorkDir
from bench.runner.cell import CellRunner, reason_of
from bench.runner.launchers.callbacks import RunCallback, Summary
from bench.runner.launchers.subprocess_job import Job, execute
from bench.runner.launchers.tasks import CellTask
from bench.runner.progress import ConsoleProgress
from bench.runner.queue import CellQueue, retry


def inline(
    cells: Sequence[PlannedCell],
    store: Store,
    home: Path,
    device: torch.device,
    progress: ConsoleProgress,
    events: RunCallback,
    *,
    rerun: bool = False,
    memory_limit: int | None = None,
    retries: int = 0,
    job: Callable[[CellTask], Job] | None = None,
) -> Summary:
    """Run the unfinished cells; a failure is recorded and does not stop the others.

    Args:
        cells: in order.
        store: results store of the cells.
        home: ``BENCH_HOME``.
        device: device of models and batches.
        progress: reporter of progress inside a cell.
        events: callback of the run.
        rerun: whether to discard earlier results of these cells.
        memory_limit: bytes for each cell.
        retries: number of retries of a cell after transient failures.
        job: describes the separate process of a cell with foreign code, which may end its process at any moment,
            without an error and with exit code 0; ``None``: such cells run in this process too.

    Returns:
        The outcome of each cell.

    Raises:
        StorageError: if the disk refuses writes; finished cells are safe.
    """
    summary = Summary()
    to_run = []
    for cell in cells:
        name = cell.spec.id
        if not cell.spec.metrics:
            events.skipped(CellTask(name, cell), "nothing to measure")
            summary.unmeasured.append(name)
        elif store.cell(name).done and not rerun:
            events.skipped(CellTask(name, cell), "done before")
            summary.before.append(name)
        else:
            to_run.append(cell)
    # Cells of concurrent runs come last: this run does not wait while it has other work.
    queue = CellQueue(to_run, store, progress)
    for cell in queue:
        name = cell.spec.id
        folder, task = store.cell(name), CellTask(name, cell)
        if rerun:
            with folder.claim():
                folder.renew()
        if folder.done:
            events.skipped(task, "done by another run")
            summary.before.append(name)
            continue
        failed = queue.failed_elsewhere(cell)
        if failed is not None:
            summary.failed[name] = failed["reason"]
            events.failed(task, f"in another run: {failed['reason']}", failed["status"] == "oom")
            continue
        events.started(task)
        began = time.perf_counter()
        try:
            # Foreign code may end its process: in its own, it ends only its cell.
            if job is not None and has_foreign_code(cell):
                _run_in_new_process(job(task), folder)
            else:
                with contained():
                    runner = CellRunner(store, name, home, device, progress, memory_limit=memory_limit)
                    retry(runner.run, retries, progress)
        except _Ended as error:
            summary.failed[name] = str(error)
            events.failed(task, str(error), error.out_of_memory)
        except Exception as error:
            refused = storage_error(error)
            if refused is not None:
                raise refused from error
            # An error of a method or a metric ends its own cell only; CellRunner has recorded it with a traceback.
            summary.failed[name] = reason_of(error)
            events.failed(task, summary.failed[name], isinstance(error, OutOfMemory))
        else:
            summary.done.append(name)
            events.finished(task, time.perf_counter() - began)
    return summary


class _Ended(Exception):
    """End of a cell's own process without a result; the message is the recorded reason."""

    def __init__(self, reason: str, out_of_memory: bool) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


def has_foreign_code(cell: PlannedCell) -> bool:
    """Return whether a cell uses code of a plugin or an official checkout that another process finds too."""
    names = {"methods": [cell.spec.method], "metrics": [*cell.spec.metrics], "datasets": [cell.where.reader]}
    names["backbones"] = [cell.spec.backbone] if cell.spec.backbone else []
    installed = any(registry.entry(kind, name).distribution for kind, those in names.items() for name in those)
    return bool(cell.where.code and (cell.where.plugins or installed)) or bool(cell.spec.settings.get("source"))


def _run_in_new_process(job: Job, folder: WorkDir) -> None:
    """Run a cell in a process of its own.

    Raises:
        _Ended: if the process ends without a result.
    """
    before = folder.failed_at  # a failure of an earlier attempt is none of this one
    ended = execute(job)
    if folder.done:
        return
    failure = folder.failure if folder.failed_at != before else None
    if failure is None:  # the process had no chance to record it
        folder.fail("failed", ended.summary, ended.output)
        failure = {"status": "failed", "reason": ended.summary}
    raise _Ended(failure["reason"], failure["status"] == "oom")
