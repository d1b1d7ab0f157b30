"""Hands tasks of work to workers and settles what comes back: the part that all launchers with processes share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bench.config.spec import PlannedCell
from bench.results.store import Status, Store
from bench.runner.launchers.callbacks import RunCallback
from bench.runner.launchers.subprocess_job import Job, ProcessExit
from bench.runner.launchers.summary import Summary
from bench.runner.launchers.tasks import CellTask, tasks_of

LOST = 3
"""How often a cell whose worker was lost is given to another one."""

_SECONDS = 1.0


class Workers(Protocol):
    """Places where cells run."""

    def check(self, gpus: float) -> None:
        """Refuse a cell of so many GPUs that no place here could ever give; raises :class:`RequestError`."""

    @property
    def free(self) -> int:
        """How many jobs could begin now."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin these."""

    def wait(self, seconds: float) -> Iterable[tuple[str, ProcessExit]]:
        """Name and end of those that have ended, at the latest after so many seconds."""

    def stop(self) -> None:
        """End all that run; nothing of them is left behind."""


class Scheduler:
    """One run of cells on workers.

    Args:
        cells: in order.
        store: where they live.
        home: ``BENCH_HOME``.
        workers: where they run.
        events: told what becomes of each task.
        job: what a worker is given for a task.
        rerun: forget earlier results of these cells.
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
    ) -> None:
        self.store, self.home, self.workers, self.events = store, home, workers, events
        self.job = job
        self.summary = Summary()
        self.fresh = {cell.spec.id for cell in cells} if rerun else set()
        self.waiting = tasks_of(self._to_run(cells), home)
        self.open = {task.name for task in self.waiting}
        self.running: dict[str, tuple[CellTask, float, int]] = {}
        self.lost: Counter[str] = Counter()
        self.before = {task.name: self._recorded(task) for task in self.waiting if task.stage is None}

    def run(self) -> Summary:
        """Work until every task has ended.

        Raises:
            KeyboardInterrupt: and whatever else ends the run, after all that ran was stopped.
        """
        try:
            while self.waiting or self.running:
                self._start()
                for name, found in self.workers.wait(_SECONDS):
                    self._settle(name, found)
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
            # What another run is at work on is left until last: a worker that waits for it does nothing else.
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

    def _elsewhere(self, task: CellTask) -> bool:
        """Whether another run has ended it meanwhile; one that failed there would only fail again."""
        done = task.done(self.store, self.home)
        recorded = self._recorded(task)
        # None any more: this run has forgotten it.
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

    def _settle(self, name: str, found: ProcessExit) -> None:
        task, began, recorded = self.running.pop(name)
        if task.done(self.store, self.home):
            self.open.discard(name)
            self.events.finished(task, time.perf_counter() - began)
            if task.stage is None:
                self.summary.done.append(name)
            return
        if found.lost and self.lost[name] < LOST:
            self.lost[name] += 1
            self.waiting.insert(0, task)
            self.events.requeued(task, f"lost ({found.summary})")
            return
        failure = self.store.cell(task.cell.spec.id).failure if self._recorded(task) != recorded else None
        status, reason = (failure["status"], failure["reason"]) if failure else ("failed", found.summary)
        details = failure["details"] if failure else found.output
        self.open.discard(name)
        self.events.failed(task, reason, status == "oom")
        if task.stage is not None:
            self._without(task, status, reason, details, recorded=failure is not None)
            return
        self.summary.failed[name] = reason
        if failure is None:  # the process had no chance to record it
            self.store.cell(name).fail(status, reason, details)

    def _without(self, stage: CellTask, status: Status, reason: str, details: str, recorded: bool) -> None:
        """What waits for a stage that failed would only fail in the same way, each after as long.

        Args:
            stage: that failed.
            status: of its failure.
            reason: a line for tables.
            details: a traceback, or what its process said.
            recorded: whether its process has recorded that for the stage's own cell, and says more there.
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
            if not (recorded and task.cell is stage.cell):
                self.store.cell(task.name).fail(status, reason, details)

    def _recorded(self, task: CellTask) -> int:
        """When the cell's failure was recorded: one of an earlier attempt says nothing of this one."""
        return self.store.cell(task.cell.spec.id).failed_at
