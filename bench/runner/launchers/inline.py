"""The default: one cell after the other in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.config.spec import PlannedCell
from bench.core.faults import storage_error
from bench.core.memory import OutOfMemory
from bench.results.store import Store
from bench.runner.cell import Cell, reason_of
from bench.runner.launchers.callbacks import Events
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
            persistently(Cell(store, name, home, device, progress, memory_limit=memory_limit).run, retries, progress)
        except Exception as error:
            refused = storage_error(error)
            if refused is not None:
                raise refused from error
            # Whatever a method or a metric does wrong ends its own cell only; Cell has recorded it with a traceback.
            summary.failed[name] = reason_of(error)
            events.failed(unit, summary.failed[name], isinstance(error, OutOfMemory))
        else:
            summary.done.append(name)
            events.finished(unit, time.perf_counter() - began)
    return summary
