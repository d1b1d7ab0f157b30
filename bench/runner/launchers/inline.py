"""Worker of the default launcher: one cell after the other, in this process or each in a process of its own."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.config.spec import PlannedCell
from bench.core import registry
from bench.core.errors import storage_error
from bench.core.interrupts import contained
from bench.results.store import Store
from bench.runner.cell import CellRunner
from bench.runner.launchers.scheduler import Workers
from bench.runner.launchers.subprocess_job import Job, ProcessExit, execute
from bench.runner.progress import ConsoleProgress
from bench.runner.retries import reason_of, retry


class ThisProcess(Workers):
    """Single worker: this process, or a process of its own for a cell on a GPU or with foreign code.

    The cell uses the device of the command line, and an exception that ends the run has ended its cell too.
    """

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        store: Store,
        home: Path,
        device: torch.device,
        progress: ConsoleProgress,
        memory_limit: int | None = None,
        retries: int = 0,
    ) -> None:
        self._cells = {cell.spec.id: cell for cell in cells}
        self._store, self._home, self._device, self._progress = store, home, device, progress
        self._memory_limit, self._retries = memory_limit, retries
        self._job: Job | None = None

    @property
    def free(self) -> int:
        """Number of jobs that could begin now."""
        return int(self._job is None)

    def start(self, jobs: Sequence[Job]) -> None:
        """Take the job, which :meth:`wait` runs."""
        (self._job,) = jobs

    def wait(self, seconds: float) -> Iterator[tuple[str, ProcessExit]]:
        """Run the job and yield its name and end."""
        if self._job is None:
            time.sleep(seconds)  # other runs work on all cells that are left
            return
        job, self._job = self._job, None
        yield job.name, self._run(job)

    def _run(self, job: Job) -> ProcessExit:
        """Run a cell; an error of a method or a metric is recorded and ends only its own cell.

        Raises:
            StorageError: if the disk refuses writes; finished cells are safe.
        """
        if runs_apart(self._cells[job.name], self._device):
            return execute(job)
        folder = self._store.cell(job.name)
        before = folder.failed_at
        try:
            with contained():
                runner = CellRunner(
                    self._store, job.name, self._home, self._device, self._progress, memory_limit=self._memory_limit
                )
                retry(runner.run, self._retries, self._progress, self._device)
        except Exception as error:
            refused = storage_error(error)
            if refused is not None:
                raise refused from error
            if folder.failed_at == before:  # raised before the cell could record it
                folder.fail("failed", reason_of(error), traceback.format_exc())
            return ProcessExit(1, "", reason_of(error))
        return ProcessExit(0)


def runs_apart(cell: PlannedCell, device: torch.device) -> bool:
    """Return whether a cell runs in a process of its own, in which an error ends that cell alone."""
    names = {"methods": [cell.spec.method], "metrics": [*cell.spec.metrics], "datasets": [cell.where.reader]}
    names["backbones"] = [cell.spec.backbone] if cell.spec.backbone else []
    installed = any(registry.entry(kind, name).distribution for kind, those in names.items() for name in those)
    if cell.where.code and not (cell.where.plugins or installed):
        return False  # a class that is registered in this process only: no other would find it
    # An error in a kernel ends all use of CUDA by its process, whose memory on the GPU is free only when it ends: this
    # one never takes any. Foreign code may end its process, even with exit code 0.
    return device.type == "cuda" or bool(cell.where.code) or bool(cell.spec.settings.get("source"))
