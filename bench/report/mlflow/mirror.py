"""MLflow mirror of the store: a copy to look at and to compare in, which can be deleted and rebuilt at any time.

One experiment per suite; in it one run per cell, and one per call of ``run`` with the table of its cells. They are
side by side, not nested, because MLflow's list hides nested runs, and it is to open on methods. Nothing is read back
from MLflow but the tags that record the copied state.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import locks
from bench.core.errors import BenchError, RequestError
from bench.core.plain_text import for_markdown
from bench.core.registry import names
from bench.report.html.output_dir import file_name
from bench.report.mlflow.fields import SCORES
from bench.report.mlflow.run_writer import Counts, SuiteRuns
from bench.report.mlflow.server import create_database, database, import_mlflow
from bench.results.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from bench.contract import Progress

_EXPERIMENT_NOTE = """\
One run per cell: a **method** on a **data set**, with one **backbone** and one **seed**. Runs named by the suite and
a number of cells stand for calls of `python -m bench run`: each has the table of its cells (`report.html`, `report.md`)
and a picture of it with intervals.

Compare methods: **Runs**, then the chart icon; *Group by* the tag `row` averages seeds, and nothing but seeds: its
last part stands for all settings, images and weights. Tags to search by: `method`, `dataset`, `backbone`, `seed`,
`role` (`method`; `reference`, the plain classifier; `control`, content-free maps that a method has to beat; `summary`),
`status`.

| metric | what it is |
|---|---|
{metrics}
| details/... | facts about a metric besides its value; `.low` and `.high` are the ends of its 95 % interval |
| fact/... | facts of the fitted model |
| seconds/... | wall-clock seconds of the stages |
| usage/... | time, memory and energy of the whole cell; joules are of the whole device |
| train/..., blackbox/... | curves by epoch: of the method, of the classifier that it explains |

Values have four digits here and all of them in `result.json`. They are in % where the name has no other unit; higher is
better unless the run's description says otherwise. This is a copy of the store: it can be deleted, and
`python -m bench sync` makes it again."""
_SERVERS = ("http://", "https://")
_FILE = "sqlite:///"
_DATABASES = (_FILE, "postgresql", "mysql", "mssql")
_LOCKED = "database is locked"
_LATER = "the results are safe, `python -m bench sync` tries again"


class Mirror:
    """MLflow copy of the content of a store.

    Args:
        home: ``BENCH_HOME``: database, artifacts and the black boxes' curves.
        uri: of a tracking server or of a database; by default SQLite in ``home``.

    Raises:
        RequestError: if MLflow is not installed, the address is invalid, or the database is not of its version.
        BenchError: if the server does not answer.
    """

    def __init__(self, home: Path, uri: str | None = None) -> None:
        self.home = home.resolve()
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
        with self._alone(), self._failing(self._unusable):
            if self.uri.startswith(_FILE):
                create_database(Path(self.uri.removeprefix(_FILE)), self._artifacts)
            self.client: MlflowClient = MlflowClient(self.uri, self.uri)
            self.client.search_experiments(max_results=1)

    @contextlib.contextmanager
    def _failing(self, error_of: Callable[[str], BenchError]) -> Iterator[None]:
        """Raise MLflow's errors as one line."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except ImportError as error:
            raise RequestError(f"--tracking-uri {self.uri}: {error}; pip install it, or take an HTTP server") from error
        except (MlflowException, SQLAlchemyError) as error:
            reason = str(error).partition("\n")[0]
            if _LOCKED in reason:
                held = f"another process has held {self.uri} for longer than we wait ({_LOCKED})"
                raise BenchError(f"MLflow: {held}; {_LATER}") from error
            raise error_of(reason) from error

    def _unusable(self, reason: str) -> BenchError:
        """Return the error of a failed first contact."""
        if not self.uri.startswith(_FILE):
            return BenchError(f"MLflow: no answer from {self.uri} ({reason}); {_LATER}")
        return RequestError(
            f"{self.uri} cannot be used ({reason}); the mirror is only a copy: delete it, and `python -m bench sync` "
            "makes it anew"
        )

    @property
    def _artifacts(self) -> str:
        return (self.home / "mlartifacts").as_uri()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process write at a time: two that look for a run and find none would both create it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(self.home / ".mlflow.lock"):
            yield

    def sync(
        self,
        store: Store,
        stamps: Iterable[str] | None = None,
        progress: Progress | None = None,
        cell: str | None = None,
    ) -> Counts:
        """Bring the copy up to date.

        Args:
            store: results.
            stamps: time stamps of the calls of ``run`` to copy; by default all.
            progress: reporter of the progress, and of results that are damaged.
            cell: only this cell, and no summary; by default all cells of those calls.

        Raises:
            RequestError: for a stamp that the store does not know.
            BenchError: if MLflow fails; the store still has everything.
        """
        known = store.invocations()
        suites: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for stamp in known if stamps is None else stamps:
            stamp = store.chosen_run(stamp)  # raises for an unknown one, with the newest
            suites[known[stamp]["suite"]][stamp] = known[stamp]
        counts = Counts()
        for suite, calls in suites.items():
            with self._failing(lambda reason: BenchError(f"MLflow: {reason}; {_LATER}")), self._alone():
                experiment = self._experiment(suite, progress)
                runs = SuiteRuns(self.client, experiment, store, self.home, calls, cell)
                counts += runs.sync_cells(progress)
                if cell is None:
                    counts += runs.sync_summaries()
        return counts

    def experiment(self, suite: str) -> str:
        """Return the id of the suite's experiment, which is created if there is none.

        Raises:
            BenchError: if MLflow fails.
        """
        with self._failing(lambda reason: BenchError(f"MLflow: {reason}; {_LATER}")):
            return self._experiment(suite, None)

    def _experiment(self, suite: str, progress: Progress | None) -> str:
        name, tags = f"partbench/{suite}", {"bench.suite": suite, "mlflow.note.content": _experiment_note()}
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # A tracking server has its own place for artifacts; for a database one has to be named.
            place = None if self.server else f"{self._artifacts}/{file_name(suite)}"
            return str(self.client.create_experiment(name, place, tags))
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
            if progress is not None:
                progress.note(f"MLflow: experiment {name} had been deleted there; it is restored, with its runs")
        for tag, text in tags.items():
            if found.tags.get(tag) != text:
                self.client.set_experiment_tag(found.experiment_id, tag, text)
        return str(found.experiment_id)


def _experiment_note() -> str:
    """Return a suite's description for a first visit of MLflow's page, with the metrics measured by default."""
    rows = ((name, entry.summary) for name, entry in names("metrics").items() if entry.measured != "asked")
    return _EXPERIMENT_NOTE.format(
        metrics="\n".join(f"| {SCORES}/{for_markdown(name)} | {for_markdown(text)} |" for name, text in rows)
    )
