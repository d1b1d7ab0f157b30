"""The MLflow mirror of the store: a copy to look at and to compare in, which can be deleted and rebuilt at will.

One experiment per suite, one parent run per call of ``run``, one child run per cell of that call. Nothing is read
back from it but the tags that tell what has been copied.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contract import BenchError, Progress, RequestError
from bench.report.comparison import comparison
from bench.report.render import as_markdown
from bench.store import Store
from bench.tracking.cell import TrackedCell, digest
from bench.tracking.local import create_database, database, import_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_LONGEST_TAG = 7500
_PAIRS_AT_ONCE = 100
_METRICS_AT_ONCE = 1000 - 2 * _PAIRS_AT_ONCE
"""MLflow takes 1000 things in one call: metrics, parameters and tags together."""


@dataclass(frozen=True)
class Counts:
    """What a synchronisation did, in MLflow runs (parents included); ``waiting`` are cells without a result yet."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    waiting: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.created + other.created,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.waiting + other.waiting,
        )

    def __str__(self) -> str:
        return (
            f"MLflow runs: {self.created} created, {self.updated} updated, {self.unchanged} unchanged; "
            f"cells without a result yet: {self.waiting}"
        )


class Mirror:
    """The MLflow copy of what lies in a store.

    Args:
        home: ``BENCH_HOME``: database, artifacts and the black boxes' curves.
        uri: of the database or tracking server; by default SQLite in ``home``.

    Raises:
        RequestError: where MLflow is not installed, or the database is not of its version.
    """

    def __init__(self, home: Path, uri: str | None = None) -> None:
        self.home = home.resolve()
        self.uri = uri or f"sqlite:///{database(self.home)}"
        self.local = self.uri.startswith("sqlite:///")
        import_mlflow()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self.local:
                with self._alone():
                    create_database(Path(self.uri.removeprefix("sqlite:///")), self._artifacts)
            self.client: MlflowClient = MlflowClient(self.uri, self.uri)
        except (MlflowException, SQLAlchemyError) as error:
            raise RequestError(
                f"{self.uri} cannot be used ({str(error).splitlines()[0]}); the mirror is only a copy: delete it, and "
                "`python -m bench sync` makes it anew"
            ) from error

    @property
    def _artifacts(self) -> str:
        return (self.home / "mlartifacts").as_uri()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process writes at a time: two that look for a run and find none would both create it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / ".mlflow.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def sync(self, store: Store, stamps: Sequence[str] | None = None, progress: Progress | None = None) -> Counts:
        """Bring the copy up to date.

        Args:
            store: the results.
            stamps: of the invocations to mirror; by default all.
            progress: where it is told.

        Raises:
            RequestError: for a stamp that the store does not know.
            BenchError: where MLflow fails; the store has everything still.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        known = store.invocations()
        unknown = [stamp for stamp in stamps or () if stamp not in known]
        if unknown:
            raise RequestError(f"no invocation {unknown[0]!r}{f'; the latest is {list(known)[-1]!r}' if known else ''}")
        counts = Counts()
        try:
            for stamp in known if stamps is None else stamps:
                with self._alone():
                    counts += _Invocation(self, store, stamp, known[stamp]).sync(progress)
        except (MlflowException, SQLAlchemyError) as error:
            reason = str(error).splitlines()[0]
            raise BenchError(f"MLflow: {reason}; the results are safe, `python -m bench sync` tries again") from error
        return counts

    def experiment(self, suite: str) -> str:
        """Id of the suite's experiment, which is created where there is none."""
        name = f"partbench/{suite}"
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # A tracking server has its own place for artifacts; for a database one has to be named.
            place = f"{self._artifacts}/{suite}" if self.local else None
            return str(self.client.create_experiment(name, place))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def write(
        self,
        run: str,
        params: Mapping[str, str],
        metrics: Sequence[tuple[str, float, int, int]],
        tags: Mapping[str, str],
    ) -> None:
        """Write into a run in as few calls as MLflow takes; metrics are (name, value, milliseconds, step)."""
        from mlflow.entities import Metric, Param, RunTag

        pairs = [Param(name, value) for name, value in params.items()]
        points = [Metric(*point) for point in metrics]
        labels = [RunTag(name, value) for name, value in tags.items()]
        while pairs or points or labels:
            self.client.log_batch(run, points[:_METRICS_AT_ONCE], pairs[:_PAIRS_AT_ONCE], labels[:_PAIRS_AT_ONCE])
            del points[:_METRICS_AT_ONCE], pairs[:_PAIRS_AT_ONCE], labels[:_PAIRS_AT_ONCE]


class _Invocation:
    """Mirrors one call of ``run``."""

    def __init__(self, mirror: Mirror, store: Store, stamp: str, content: Mapping[str, Any]) -> None:
        self.mirror, self.client, self.store = mirror, mirror.client, store
        self.stamp, self.content = stamp, content
        there = set(store.cells())
        self.cells = [TrackedCell(store, name, mirror.home) for name in content["cells"] if name in there]

    def sync(self, progress: Progress | None) -> Counts:
        """Write what is missing or stale."""
        self.experiment = self.mirror.experiment(self.content["suite"])
        parents, children = self._there()
        parent = parents[0] if parents else None
        self._delete(parents[1:])
        if parent is None:
            began = min((cell.began for cell in self.cells if cell.ended), default=None)
            tags = {"bench.invocation": self.stamp, "bench.suite": self.content["suite"]}
            run = self.client.create_run(self.experiment, began, tags, self.stamp).info.run_id
        else:
            run = parent.info.run_id
        counts = Counts()
        cells = self.cells if progress is None else progress.track(self.cells, "cells mirrored", len(self.cells))
        for cell in cells:
            counts += self._child(cell, run, children.get(cell.name, []))
        return counts + self._parent(run, parent)

    def _there(self) -> tuple[list[Run], dict[str, list[Run]]]:
        """What the mirror has of this invocation: parent runs, and child runs by cell."""
        parents: list[Run] = []
        children: dict[str, list[Run]] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], f"tags.`bench.invocation` = '{self.stamp}'", max_results=1000, page_token=token
            )
            for run in page:
                cell = run.data.tags.get("bench.cell")
                if cell is None:
                    parents.append(run)
                else:
                    children.setdefault(cell, []).append(run)
            token = page.token
            if not token:
                return parents, children

    def _child(self, cell: TrackedCell, parent: str, there: list[Run]) -> Counts:
        if not cell.ended:
            self._delete(there)
            return Counts(waiting=1)
        current = [run for run in there if _whole(run, cell.digest) and run.data.tags["mlflow.parentRunId"] == parent]
        self._delete([run for run in there if run not in current[:1]])
        if current:
            return Counts(unchanged=1)
        # Written anew and never mended: parameters cannot be overwritten, and half-written curves would double.
        tags = {"bench.cell": cell.name, "bench.invocation": self.stamp, "mlflow.parentRunId": parent}
        run = self.client.create_run(self.experiment, cell.began, tags, cell.title).info.run_id
        self.mirror.write(run, cell.params(), cell.metrics(), {**cell.tags(), "bench.suite": self.content["suite"]})
        for file, folder in cell.artifacts():
            self.client.log_artifact(run, str(file), folder)
        self.client.set_terminated(run, "FINISHED" if cell.outcome else "FAILED", cell.ended)
        self.client.set_tag(run, "bench.complete", cell.digest)
        return Counts(updated=1) if there else Counts(created=1)

    def _parent(self, run: str, there: Run | None) -> Counts:
        states = [cell.digest for cell in self.cells]
        state = digest([self.content, states])
        if there is not None and there.data.tags.get("bench.complete") == state:
            return Counts(unchanged=1)
        ended = [cell.ended for cell in self.cells if cell.ended]
        failed = sum(cell.outcome is None for cell in self.cells if cell.ended)
        table = as_markdown(comparison(self.store, self.stamp)) if self.cells else ""
        done = f"{len(ended) - failed} of {len(self.content['cells'])} cells done, {failed} failed"
        note = f"`{self.content.get('command', '')}`\n\n{done}\n\n{table}"
        tags = {
            "bench.cells": done,
            "command": _cut(self.content.get("command", ""), _LONGEST_TAG),
            "device": str(self.content.get("device", "")),
            "mlflow.note.content": _cut(note, _LONGEST_TAG),
        }
        self.mirror.write(run, {}, [], tags)
        self.client.log_text(run, self._plan(), "plan.yaml")
        self.client.log_text(run, note, "report.md")
        if len(ended) < len(self.content["cells"]):
            self.client.update_run(run, "RUNNING")
        else:
            self.client.set_terminated(run, "FAILED" if failed else "FINISHED", max(ended, default=None))
        self.client.set_tag(run, "bench.complete", state)
        return Counts(updated=1) if there is not None else Counts(created=1)

    def _plan(self) -> str:
        import yaml

        cells = {cell.name: {"label": cell.written["label"], **cell.spec} for cell in self.cells}
        plan = {"invocation": self.stamp, **self.content, "cells": cells}
        # The C writer is ten times as fast; it is not in every build of PyYAML.
        return str(yaml.dump(plan, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False))

    def _delete(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.client.delete_run(run.info.run_id)


def _whole(run: Run, state: str) -> bool:
    return run.info.status != "RUNNING" and run.data.tags.get("bench.complete") == state


def _cut(text: str, limit: int) -> str:
    """The text, or its beginning up to the last whole line that fits."""
    if len(text) <= limit:
        return text
    return f"{text[:limit].rpartition(chr(10))[0] or text[:limit]}\n…"
