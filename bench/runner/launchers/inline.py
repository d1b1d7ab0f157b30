"""The default: one cell after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.config.spec import PlannedCell
from bench.core import registry
from bench.core.faults import storage_error
from bench.core.interrupts import contained
from bench.core.memory import OutOfMemory
from bench.results.store import Folder, Store
from bench.runner.cell import CellRunner, reason_of
from bench.runner.launchers.callbacks import Events
from bench.runner.launchers.subprocess_job import Job, execute
from bench.runner.launchers.summary import Summary
from bench.runner.launchers.tasks import Unit
from bench.runner.progress import ConsoleProgress
from bench.runner.queue import Turns, persistently


def inline(
    cells: Sequence[PlannedCell],
    store: Store,
    home: Path,
    device: torch.device,
    progress: ConsoleProgress,
    events: Events,
    *,
    rerun: bool = False,
    memory_limit: int | None = None,
    retries: int = 0,
    job: Callable[[Unit], Job] | None = None,
) -> Summary:
    """Run the cells that are not finished; one that fails is recorded and the others go on.

    Args:
        cells: in order.
        store: where they live.
        home: ``BENCH_HOME``.
        device: where tensors go.
        progress: where what happens inside a cell is told.
        events: told what becomes of each cell.
        rerun: forget earlier results of these cells.
        memory_limit: bytes for each cell.
        retries: how often a cell is tried again where what went wrong may pass.
        job: makes the process of its own in which a cell with foreign code runs, which may end its process at any
            moment, without an error and with exit code 0; ``None``: such cells, too, run in this process.

    Raises:
        StorageError: where the disk takes nothing more; what has been done is safe.
    """
    summary = Summary()
    to_run = []
    for cell in cells:
        name = cell.spec.id
        if not cell.spec.metrics:
            events.skipped(Unit(name, cell), "nothing to measure")
            summary.unmeasured.append(name)
        elif store.cell(name).done and not rerun:
            events.skipped(Unit(name, cell), "done before")
            summary.before.append(name)
        else:
            to_run.append(cell)
    turns = Turns(to_run, store, progress)
    for cell in turns:
        name = cell.spec.id
        folder, unit = store.cell(name), Unit(name, cell)
        if rerun:
            with folder.claim():
                folder.renew()
        if folder.done:
            events.skipped(unit, "done by another run")
            summary.before.append(name)
            continue
        failed = turns.failed_elsewhere(cell)
        if failed is not None:
            summary.failed[name] = failed["reason"]
            events.failed(unit, f"in another run: {failed['reason']}", failed["status"] == "oom")
            continue
        events.started(unit)
        began = time.perf_counter()
        try:
            if job is not None and has_foreign_code(cell):
                _apart(job(unit), folder)
            else:
                with contained():
                    made = CellRunner(store, name, home, device, progress, memory_limit=memory_limit)
                    persistently(made.run, retries, progress)
        except _Ended as error:
            summary.failed[name] = str(error)
            events.failed(unit, str(error), error.out_of_memory)
        except Exception as error:
            refused = storage_error(error)
            if refused is not None:
                raise refused from error
            # Whatever a method or a metric does wrong ends its own cell only; CellRunner has recorded it with a traceback.
            summary.failed[name] = reason_of(error)
            events.failed(unit, summary.failed[name], isinstance(error, OutOfMemory))
        else:
            summary.done.append(name)
            events.finished(unit, time.perf_counter() - began)
    return summary


class _Ended(Exception):
    """A cell's own process ended without a result; the message is the reason, which is recorded."""

    def __init__(self, reason: str, out_of_memory: bool) -> None:
        super().__init__(reason)
        self.out_of_memory = out_of_memory


def has_foreign_code(cell: PlannedCell) -> bool:
    """Whether a cell uses code of a plugin or an official checkout that another process finds, too."""
    names = {"methods": [cell.spec.method], "metrics": [*cell.spec.metrics], "datasets": [cell.where.reader]}
    names["backbones"] = [cell.spec.backbone] if cell.spec.backbone else []
    installed = any(registry.entry(kind, name).distribution for kind, those in names.items() for name in those)
    return bool(cell.where.code and (cell.where.plugins or installed)) or bool(cell.spec.settings.get("source"))


def _apart(job: Job, folder: Folder) -> None:
    """Run a cell in a process of its own.

    Raises:
        _Ended: where there is no result at its end.
    """
    before = folder.failed_at
    found = execute(job)
    if folder.done:
        return
    failure = folder.failure if folder.failed_at != before else None
    if failure is None:  # the process had no chance to record it
        folder.fail("failed", found.told, found.said)
        failure = {"status": "failed", "reason": found.told}
    raise _Ended(failure["reason"], failure["status"] == "oom")
