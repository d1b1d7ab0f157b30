"""MLflow mirror of the store: a copy to look at and to compare in, which can be deleted and rebuilt at any time.

One experiment per suite, one parent run per call of ``run``, one child run per cell, under the first call that asked
for it. Nothing is read back from it but the tags that record the copied state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contract import BenchError, Progress, RequestError
from bench.core import locks
from bench.report.html.output_dir import file_name
from bench.report.mlflow.cell import Point
from bench.report.mlflow.experiment_note import guide
from bench.report.mlflow.run import Counts, MirroredInvocation
from bench.report.mlflow.server import create_database, database, import_mlflow
from bench.results.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAIRS_AT_ONCE = 100
_METRICS_AT_ONCE = 1000 - 2 * _PAIRS_AT_ONCE
"""MLflow takes 1000 things in one call: metrics, parameters and tags together."""
_SERVERS = ("http://", "https://")
_FILE = "sqlite:///"
_DATABASES = (_FILE, "postgresql", "mysql", "mssql")


class Mirror:
    """MLflow copy of the content of a store.

    Args:
        home: ``BENCH_HOME``: database, artifacts and the black boxes' curves.
        uri: of a tracking server or of a database; by default SQLite in ``home``.

    Attributes:
        current: during :meth:`sync`, digests of the ended cells that are known to be mirrored.

    Raises:
        RequestError: if MLflow is not installed, the address is invalid, or the database is not of its version.
        BenchError: if the server does not answer.
    """

    def __init__(self, home: Path, uri: str | None = None) -> None:
        self.home = home.resolve()
        self.current: dict[str, str] = {}
        self.uri = uri or f"{_FILE}{database(self.home)}"
        if not self.uri.startswith((*_SERVERS, *_DATABASES)):
            raise RequestError(
                f"--tracking-uri {self.uri}: write http://HOST:PORT of an MLflow server, or a database such as "
                "sqlite:////DIR/mlflow.db or postgresql://USER@HOST/NAME"
            )
        self.server = self.uri.startswith(_SERVERS)
        import_mlflow()
        from mlflow import MlflowClient

        # In the lock: a database without tables is given them at the first call, and only one process may do that.
        with self._alone(), self._failing():
            if self.uri.startswith(_FILE):
                create_database(Path(self.uri.removeprefix(_FILE)), self._artifacts)
            self.client: MlflowClient = MlflowClient(self.uri, self.uri)
            self.client.search_experiments(max_results=1)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Raise errors of the first contact as one line."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except ImportError as error:
            raise RequestError(f"--tracking-uri {self.uri}: {error}; pip install it, or take an HTTP server") from error
        except (MlflowException, SQLAlchemyError) as error:
            reason = _first_line(error)
            if _LOCKED in reason:
                raise BenchError(f"MLflow: {self._held}; {_LATER}") from error
            if not self.uri.startswith(_FILE):
                raise BenchError(f"MLflow: no answer from {self.uri} ({reason}); {_LATER}") from error
            raise RequestError(
                f"{self.uri} cannot be used ({reason}); the mirror is only a copy: delete it, and "
                "`python -m bench sync` makes it anew"
            ) from error

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Raise later errors as one line."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            reason = _first_line(error)
            raise BenchError(f"MLflow: {self._held if _LOCKED in reason else reason}; {_LATER}") from error

    @property
    def _held(self) -> str:
        return f"another process has held {self.uri} for longer than we wait (database is locked)"

    @property
    def _artifacts(self) -> str:
        return (self.home / "mlartifacts").as_uri()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process write at a time: two that look for a run and find none would both create it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(self.home / ".mlflow.lock"):
            yield

    def sync(self, store: Store, stamps: Sequence[str] | None = None, progress: Progress | None = None) -> Counts:
        """Bring the copy up to date.

        Args:
            store: results.
            stamps: time stamps of the runs to mirror; by default all.
            progress: reporter of the progress.

        Raises:
            RequestError: for a stamp that the store does not know.
            BenchError: if MLflow fails; the store still has everything.
        """
        known = store.invocations()
        for stamp in set(stamps or ()) - known.keys():
            store.chosen_run(stamp)  # raises RequestError with the known stamps
        owned = first_calls(known)
        asked = {(known[stamp]["suite"], name) for stamp in stamps or () for name in known[stamp]["cells"]}
        counts = Counts()
        self.current.clear()
        for stamp, content in known.items():
            shown_here = {(content["suite"], name) for name in owned[stamp]}
            if stamps is None or stamp in stamps or asked & shown_here:
                with self._telling(), self._alone():
                    counts += MirroredInvocation(self, store, stamp, content, owned[stamp]).sync(progress)
        return counts

    def experiment(self, suite: str, progress: Progress | None = None) -> str:
        """Return the id of the suite's experiment, which is created if there is none.

        Args:
            suite: name of the suite.
            progress: gets a note if the experiment was in MLflow's trash and is taken out of it.

        Raises:
            BenchError: if MLflow fails.
        """
        name = f"partbench/{suite}"
        with self._telling():
            found = self.client.get_experiment_by_name(name)
            if found is None:
                # A tracking server has its own place for artifacts; for a database one has to be named.
                place = None if self.server else f"{self._artifacts}/{file_name(suite)}"
                return str(self.client.create_experiment(name, place, guide(suite)))
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
                if progress is not None:
                    progress.note(f"MLflow: experiment {name} had been deleted there; it is restored, with its runs")
            for tag, text in guide(suite).items():
                if found.tags.get(tag) != text:
                    self.client.set_experiment_tag(found.experiment_id, tag, text)
        return str(found.experiment_id)

    def write(
        self,
        run: str,
        params: Mapping[str, str],
        metrics: Sequence[Point],
        tags: Mapping[str, str],
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Write into a run in as few calls as MLflow takes.

        Args:
            run: id of the run.
            params: written once, never again.
            metrics: name, value, milliseconds, step.
            tags: overwritten if they exist.
            about: attributes of the metrics: ``model_id``, ``dataset_name``, ``dataset_digest``.
        """
        from mlflow.entities import Metric, Param, RunTag

        pairs = [Param(name, value) for name, value in params.items()]
        points = [Metric(*point, **(about or {})) for point in metrics]
        labels = [RunTag(name, value) for name, value in tags.items()]
        while pairs or points or labels:
            self.client.log_batch(run, points[:_METRICS_AT_ONCE], pairs[:_PAIRS_AT_ONCE], labels[:_PAIRS_AT_ONCE])
            del points[:_METRICS_AT_ONCE], pairs[:_PAIRS_AT_ONCE], labels[:_PAIRS_AT_ONCE]

    def delete(self, runs: Sequence[Run]) -> None:
        """Delete runs and the models that they made."""
        for run in runs:
            place, condition = [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
            for model in self.client.search_logged_models(place, condition):
                self.client.delete_logged_model(model.model_id)
            self.client.delete_run(run.info.run_id)


def first_calls(known: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return stamp -> the cells that have their run under it: in each suite, those that no earlier call asked for."""
    seen: set[tuple[str, str]] = set()
    found: dict[str, list[str]] = {}
    for stamp, content in known.items():
        found[stamp] = [name for name in content["cells"] if (content["suite"], name) not in seen]
        seen.update((content["suite"], name) for name in content["cells"])
    return found


_LOCKED = "database is locked"
_LATER = "the results are safe, `python -m bench sync` tries again"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
