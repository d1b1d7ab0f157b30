"""Hands units of work to workers and settles what comes back: the part that all launchers with processes share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bench.config.spec import PlannedCell
from bench.results.store import Status, Store
from bench.runner.launchers.callbacks import Events
from bench.runner.launchers.subprocess_job import Exit, Job
from bench.runner.launchers.summary import Summary
from bench.runner.launchers.tasks import Unit, units_of

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

    def wait(self, seconds: float) -> Iterable[tuple[str, Exit]]:
        """Name and end of those that have ended, at the latest after so many seconds."""

    def stop(self) -> None:
        """End all that run; nothing of them is left behind."""


class Grid:
    """One run of cells on workers.

    Args:
        cells: in order.
        store: where they live.
        home: ``BENCH_HOME``.
        workers: where they run.
        events: told what becomes of each unit.
        job: what a worker is given for a unit.
        rerun: forget earlier results of these cells.
    """

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        store: Store,
        home: Path,
        workers: Workers,
        events: Events,
        job: Callable[[Unit], Job],
        rerun: bool = False,
    ) -> None:
        self.store, self.home, self.workers, self.events = store, home, workers, events
        self.job = job
        self.summary = Summary()
        self.fresh = {cell.spec.id for cell in cells} if rerun else set()
        self.waiting = units_of(self._to_run(cells), home)
        self.open = {unit.name for unit in self.waiting}
        self.running: dict[str, tuple[Unit, float, int]] = {}
        self.lost: Counter[str] = Counter()
        self.before = {unit.name: self._recorded(unit) for unit in self.waiting if unit.stage is None}

    def run(self) -> Summary:
        """Work until every unit has ended.

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
            unit = Unit(cell.spec.id, cell)
            if not cell.spec.metrics:
                self.events.skipped(unit, "nothing to measure")
                self.summary.unmeasured.append(unit.name)
            elif unit.name not in self.fresh and unit.done(self.store, self.home):
                self.events.skipped(unit, "done before")
                self.summary.before.append(unit.name)
            else:
                chosen.append(cell)
        return chosen

    def _start(self) -> None:
        chosen: list[Unit] = []
        free = self.workers.free
        for unit in list(self.waiting):
            if len(chosen) >= free:
                break
            # What another run is at work on is left until last: a worker that waits for it does nothing else.
            if self.open.intersection(unit.needs) or unit.busy(self.store, self.home):
                continue
            self.waiting.remove(unit)
            if unit.name in self.fresh:
                self.fresh.remove(unit.name)
                with self.store.cell(unit.name).claim():
                    self.store.cell(unit.name).renew()
            if not self._elsewhere(unit):
                chosen.append(unit)
        for unit in chosen:
            self.running[unit.name] = (unit, time.perf_counter(), self._recorded(unit))
            self.events.started(unit)
        if chosen:
            self.workers.start([self.job(unit) for unit in chosen])

    def _elsewhere(self, unit: Unit) -> bool:
        """Whether another run has ended it meanwhile; one that failed there would only fail again."""
        done = unit.done(self.store, self.home)
        recorded = self._recorded(unit)
        # None any more: this run has forgotten it.
        failed = recorded not in (0, self.before.pop(unit.name, recorded))
        if not done and not failed:
            return False
        self.open.discard(unit.name)
        failure = self.store.cell(unit.name).failure if failed else None
        if failure is not None:
            self.summary.failed[unit.name] = failure["reason"]
            self.events.failed(unit, f"in another run: {failure['reason']}", failure["status"] == "oom")
        elif unit.stage is None:
            self.events.skipped(unit, "done by another run")
            self.summary.before.append(unit.name)
        return True

    def _settle(self, name: str, found: Exit) -> None:
        unit, began, recorded = self.running.pop(name)
        if unit.done(self.store, self.home):
            self.open.discard(name)
            self.events.finished(unit, time.perf_counter() - began)
            if unit.stage is None:
                self.summary.done.append(name)
            return
        if found.lost and self.lost[name] < LOST:
            self.lost[name] += 1
            self.waiting.insert(0, unit)
            self.events.again(unit, f"lost ({found.told})")
            return
        failure = self.store.cell(unit.cell.spec.id).failure if self._recorded(unit) != recorded else None
        status, reason = (failure["status"], failure["reason"]) if failure else ("failed", found.told)
        details = failure["details"] if failure else found.said
        self.open.discard(name)
        self.events.failed(unit, reason, status == "oom")
        if unit.stage is not None:
            self._without(unit, status, reason, details, recorded=failure is not None)
            return
        self.summary.failed[name] = reason
        if failure is None:  # the process had no chance to record it
            self.store.cell(name).fail(status, reason, details)

    def _without(self, stage: Unit, status: Status, reason: str, details: str, recorded: bool) -> None:
        """What waits for a stage that failed would only fail in the same way, each after as long.

        Args:
            stage: that failed.
            status: of its failure.
            reason: a line for tables.
            details: a traceback, or what its process said.
            recorded: whether its process has recorded that for the stage's own cell, and says more there.
        """
        lacking = {stage.name}
        while unit := next((unit for unit in self.waiting if lacking.intersection(unit.needs)), None):
            self.waiting.remove(unit)
            self.open.discard(unit.name)
            self.events.failed(unit, reason, status == "oom")
            if unit.stage is not None:
                lacking.add(unit.name)
                continue
            self.summary.failed[unit.name] = reason
            if not (recorded and unit.cell is stage.cell):
                self.store.cell(unit.name).fail(status, reason, details)

    def _recorded(self, unit: Unit) -> int:
        """When the cell's failure was recorded: one of an earlier attempt says nothing of this one."""
        return self.store.cell(unit.cell.spec.id).failed_at
