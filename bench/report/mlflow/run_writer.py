"""MLflow runs of one suite: which of them are current, and the writing of those that are not."""

from __future__ import annotations

import itertools
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bench.report.mlflow.cell_run import CellRun, Point, cell_state
from bench.report.mlflow.fields import LAYOUT, digest
from bench.report.mlflow.summary_run import SummaryRun
from bench.report.mlflow.transaction import one_transaction
from bench.results.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, RunInfo

    from bench.contract import Progress

# MLflow's limits for one call of `log_batch`: parameters; metrics, parameters and tags together.
_PARAMS_AT_ONCE, _ENTITIES_AT_ONCE = 100, 1000
# Cells in a transaction: a database is locked for others while it lasts, and what is killed in it is written again.
_CELLS_AT_ONCE = 20
# Tag with the digest of all that a run was made from; it holds once the run is complete.
_STATE = "bench.complete"


@dataclass(frozen=True)
class Counts:
    """Counts of a synchronisation, in MLflow runs (summaries included); ``waiting`` are cells without a result yet."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    waiting: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        return (
            f"MLflow runs: {self.created} created, {self.updated} updated, {self.unchanged} unchanged; "
            f"cells without a result yet: {self.waiting}"
        )


class SuiteRuns:
    """Runs of a suite's experiment.

    Args:
        client: of MLflow; the caller holds the mirror's lock.
        experiment: id of the experiment.
        store: results.
        home: ``BENCH_HOME``.
        calls: calls of ``run`` for this suite, by time stamp.
        cell: the only cell to look at; ``None``: all of those calls.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        store: Store,
        home: Path,
        calls: Mapping[str, Mapping[str, Any]],
        cell: str | None = None,
    ) -> None:
        self.client, self.experiment, self.store, self.home, self.calls = client, experiment, store, home, calls
        self._existing = self._search(cell)
        asked = [cell] if cell else dict.fromkeys(name for content in calls.values() for name in content["cells"])
        present = {*store.cells()}
        self._gone = [name for name in asked if name not in present]
        self._states = {name: cell_state(store, name) for name in asked if name in present}

    def sync_cells(self, progress: Progress | None) -> Counts:
        """Write the runs of ended cells that are missing or stale, and delete those of cells that are gone."""
        for name in self._gone:
            self._delete(self._existing.pop(name, []))
        counts, names = Counts(), list(self._states)
        tracked = iter(names if progress is None else progress.track(names, "cells mirrored", len(names)))
        while batch := list(itertools.islice(tracked, _CELLS_AT_ONCE)):
            with one_transaction(self.client):
                counts = sum((self._sync_cell(name, progress) for name in batch), counts)
        return counts

    def _sync_cell(self, name: str, progress: Progress | None) -> Counts:
        state = self._states[name]
        if self._is_current(name, state):
            return Counts(unchanged=1)
        record = self.store.record(name)
        if record.written is None:
            return Counts()  # the store warns of the damaged description, and a run that the cell had stays
        if record.failure is not None and self.store.cell(name).done:
            if progress is not None:
                progress.note(f"{name}: {record.failure['reason']}")
        elif state:
            return self._replace(name, lambda: self._log_cell(CellRun(self.store, record, self.home), state))
        # Not finished, or its result is damaged: until it is computed again it has no numbers to show.
        self._delete(self._existing.pop(name, []))
        return Counts(waiting=1)

    def sync_summaries(self) -> Counts:
        """Write the summaries of calls that are missing or stale; cells come first, since this shows all of them."""
        counts = Counts()
        for stamp, content in self.calls.items():
            state = digest([LAYOUT, content, [self._states.get(name) for name in content["cells"]]])
            if self._is_current(stamp, state):
                counts += Counts(unchanged=1)
                continue
            names = [name for name in content["cells"] if name in self._states]
            summary = SummaryRun(self.store, stamp, content, names, self.home)
            counts += self._replace(stamp, lambda summary=summary, state=state: self._log_summary(summary, state))  # type: ignore[misc]
        return counts

    def _search(self, cell: str | None) -> dict[str, list[Run]]:
        """Return the runs by cell, or by the time stamp of the call that they sum up."""
        runs: dict[str, list[Run]] = defaultdict(list)
        condition, token = f"tags.`bench.cell` = '{cell}'" if cell else "", None
        while True:
            page = self.client.search_runs([self.experiment], condition, max_results=1000, page_token=token)
            for run in page:
                tags = run.data.tags
                runs[tags.get("bench.cell") or tags.get("bench.invocation", "")].append(run)
            token = page.token
            if not token:
                return runs

    def _is_current(self, key: str, state: str) -> bool:
        """Return whether a run shows this state, and delete all others of that key."""
        current = [run for run in self._existing.get(key, []) if state and _shown_state(run) == state]
        if current:
            self._delete([run for run in self._existing[key] if run is not current[0]])
        return bool(current)

    def _replace(self, key: str, write: Callable[[], None]) -> Counts:
        # Always written in full, never mended: parameters cannot be overwritten, half-written curves would double.
        before = self._existing.pop(key, [])
        self._delete(before)
        write()
        return Counts(updated=1) if before else Counts(created=1)

    def _delete(self, runs: list[Run]) -> None:
        for run in runs:
            self.client.delete_run(run.info.run_id)

    def _log_cell(self, cell: CellRun, state: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # As few calls as MLflow takes: in a database each of them is several transactions, each flushed to the disk.
        # The files come first, since MLflow reads the whole run to find their folder.
        tags = {**cell.tags(), _STATE: state}
        created = self.client.create_run(self.experiment, cell.began, tags, cell.title).info
        run = created.run_id
        for file, folder in cell.artifacts():
            self._copy(created, file, folder)
        inputs = [
            DatasetInput(Dataset(**facts), [InputTag("mlflow.data.context", context)])
            for context, facts in cell.datasets().items()
        ]
        self.client.log_inputs(run, inputs)
        self.log(run, cell.params(), cell.metrics())
        self.client.set_terminated(run, "FINISHED" if cell.record.result else "FAILED", cell.ended)

    def _copy(self, run: RunInfo, file: Path, folder: str | None) -> None:
        """Copy a file into the folder of the run's files, or a folder in it."""
        place = urlsplit(run.artifact_uri)
        if place.scheme != "file" or place.netloc:
            self.client.log_artifact(run.run_id, str(file), folder)
            return
        # On this machine, for which MLflow takes three times as long: it reads the run and checks each path four times.
        target = Path(url2pathname(place.path), folder or "")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)

    def log(self, run: str, params: Mapping[str, str], metrics: list[Point]) -> None:
        """Log parameters and metrics in as few calls as MLflow takes."""
        from mlflow.entities import Metric, Param

        pairs = [Param(name, value) for name, value in params.items()]
        points = [Metric(*point) for point in metrics]
        while pairs or points:
            room = _ENTITIES_AT_ONCE - len(pairs[:_PARAMS_AT_ONCE])
            self.client.log_batch(run, points[:room], pairs[:_PARAMS_AT_ONCE])
            del points[:room], pairs[:_PARAMS_AT_ONCE]

    def _log_summary(self, summary: SummaryRun, state: str) -> None:
        run = self.client.create_run(self.experiment, summary.ended, summary.tags(), summary.title).info.run_id
        for file, text in summary.texts().items():
            self.client.log_text(run, text, file)
        for file, figure in summary.figures():
            self.client.log_figure(run, figure, file)
        if summary.status != "RUNNING":
            self.client.set_terminated(run, summary.status, summary.ended)
        self.client.set_tag(run, _STATE, state)


def _shown_state(run: Run) -> str | None:
    """Return the state that a complete run shows."""
    # Of a cell it is written first, to save a call, and holds once the run has ended. A summary is RUNNING as long as
    # cells are missing: its state is written last.
    half = run.info.status == "RUNNING" and "bench.cell" in run.data.tags
    return None if half else run.data.tags.get(_STATE)
