"""Scheduler of tasks on workers, shared by all launchers with several processes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bench.config.spec import PlannedCell
from bench.results.store import Status, Store
from bench.runner.launchers.callbacks import RunCallback, Summary
from bench.runner.launchers.subprocess_job import Job, ProcessExit
from bench.runner.launchers.tasks import CellTask, tasks_of

# Number of times that a task whose worker was lost is given to another one.
LOST = 3

# Longest wait for the end of a job before tasks are started again.
_SECONDS = 1.0


class Workers(Protocol):
    """Pool of workers that run jobs; methods that a pool leaves out do nothing."""

    default_gpus: float = 0.0

    def check(self, gpus: float) -> None:
        """Refuse a number of GPUs that no worker could ever give; raises :class:`RequestError`."""

    @property
    def free(self) -> int:
        """Number of jobs that could begin now."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Start the jobs."""

    def wait(self, seconds: float) -> Iterable[tuple[str, ProcessExit]]:
        """Yield name and end of jobs that have ended, at the latest after ``seconds``."""

    def stop(self) -> None:
        """Stop all running jobs."""

    def close(self) -> None:
        """Release what the pool holds, after all jobs have ended or were stopped."""


class Scheduler:
    """Scheduler of one run of cells on workers.

    A task starts when the tasks that it needs have ended. Plain bookkeeping serves instead of a DAG library: the graph
    has three levels (images, black boxes, cells). With ``stages``, images and black boxes that several cells share are
    tasks of their own, so that other cells run meanwhile; a single worker gains nothing by it. ``rerun`` discards
    earlier results of these cells.
    """

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        store: Store,
        home: Path,
        workers: Workers,
        events: RunCallback,
        job: Callable[[CellTask], Job],
        rerun: bool = False,
        stages: bool = True,
    ) -> None:
        self.store, self.home, self.workers, self.events = store, home, workers, events
        self.job = job
        self.summary = Summary()
        self.fresh = {cell.spec.id for cell in cells} if rerun else set()
        to_run = self._to_run(cells)
        self.waiting = tasks_of(to_run, home) if stages else [CellTask(cell.spec.id, cell) for cell in to_run]
        self.noted = False
        self.open = {task.name for task in self.waiting}
        self.running: dict[str, tuple[CellTask, float, int]] = {}
        self.lost: Counter[str] = Counter()
        self.before = {task.name: self._recorded(task) for task in self.waiting if task.stage is None}

    def run(self) -> Summary:
        """Run until every task has ended.

        Returns:
            The outcome of each cell.

        Raises:
            KeyboardInterrupt: and any other end of the run, after all running jobs were stopped.
        """
        try:
            while self.waiting or self.running:
                self._start()
                for name, ended in self.workers.wait(_SECONDS):
                    self._settle(name, ended)
        except BaseException:
            self.workers.stop()
            raise
        return self.summary

    def _to_run(self, cells: Sequence[PlannedCell]) -> list[PlannedCell]:
        chosen = []
        for cell in cells:
            task = CellTask(cell.spec.id, cell)
            if not cell.spec.metrics:
                self.events.skipped(task, "nothing to measure")
                self.summary.unmeasured.append(task.name)
            elif task.name not in self.fresh and task.done(self.store, self.home):
                self.events.skipped(task, "done before")
                self.summary.before.append(task.name)
            else:
                chosen.append(cell)
        return chosen

    def _start(self) -> None:
        chosen: list[CellTask] = []
        free = self.workers.free
        for task in list(self.waiting):
            if len(chosen) >= free:
                break
            # Tasks that another run works on come last: a worker that waits for one does nothing else.
            if self.open.intersection(task.needs) or task.busy(self.store, self.home):
                continue
            self.waiting.remove(task)
            if task.name in self.fresh:
                self.fresh.remove(task.name)
                with self.store.cell(task.name).claim():
                    self.store.cell(task.name).renew()
            if not self._elsewhere(task):
                chosen.append(task)
        for task in chosen:
            self.running[task.name] = (task, time.perf_counter(), self._recorded(task))
            self.events.started(task)
        if chosen:
            self.workers.start([self.job(task) for task in chosen])
        elif self.waiting and not self.running and not self.noted:
            self.noted = True
            self.events.waiting(len(self.waiting))

    def _elsewhere(self, task: CellTask) -> bool:
        """Settle a task that another run has ended meanwhile; one that failed there would only fail again."""
        done = task.done(self.store, self.home)
        recorded = self._recorded(task)
        # Absent if this run has discarded the failure.
        failed = recorded not in (0, self.before.pop(task.name, recorded))
        if not done and not failed:
            return False
        self.open.discard(task.name)
        failure = self.store.cell(task.name).failure if failed else None
        if failure is not None:
            self.summary.failed[task.name] = failure["reason"]
            self.events.failed(task, f"in another run: {failure['reason']}", failure["status"] == "oom")
        elif task.stage is None:
            self.events.skipped(task, "done by another run")
            self.summary.before.append(task.name)
        return True

    def _settle(self, name: str, ended: ProcessExit) -> None:
        task, began, recorded = self.running.pop(name)
        if task.done(self.store, self.home):
            self.open.discard(name)
            self.events.finished(task, time.perf_counter() - began)
            if task.stage is None:
                self.summary.done.append(name)
            return
        # The end of a worker is no failure of the cell, whose checkpoint the next worker continues.
        if ended.lost and self.lost[name] < LOST:
            self.lost[name] += 1
            self.waiting.insert(0, task)
            self.events.requeued(task, f"lost ({ended.summary})")
            return
        failure = self.store.cell(task.cell.spec.id).failure if self._recorded(task) != recorded else None
        status, reason = (failure["status"], failure["reason"]) if failure else ("failed", ended.summary)
        details = failure["details"] if failure else ended.output
        self.open.discard(name)
        self.events.failed(task, reason, status == "oom")
        if task.stage is not None:
            self._without(task, status, reason, details, recorded=failure is not None)
            return
        self.summary.failed[name] = reason
        if failure is None:  # the process had no chance to record it
            self.store.cell(name).fail(status, reason, details)

    def _without(self, stage: CellTask, status: Status, reason: str, details: str, recorded: bool) -> None:
        """Fail the tasks that wait for a failed stage: each would only fail in the same way, after as long.

        ``recorded``: the process has recorded the failure for the stage's own cell, in more detail.
        """
        lacking = {stage.name}
        while task := next((task for task in self.waiting if lacking.intersection(task.needs)), None):
            self.waiting.remove(task)
            self.open.discard(task.name)
            self.events.failed(task, reason, status == "oom")
            if task.stage is not None:
                lacking.add(task.name)
                continue
            self.summary.failed[task.name] = reason
            # The process has recorded the failure of this cell itself, with a traceback.
            if not (recorded and task.cell is stage.cell):
                self.store.cell(task.name).fail(status, reason, details)

    def _recorded(self, task: CellTask) -> int:
        """Return the time of the cell's recorded failure, which tells one of this attempt from an earlier one."""
        return self.store.cell(task.cell.spec.id).failed_at
