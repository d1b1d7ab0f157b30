"""Servers, databases and folders that are not as they should be."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.contract import BenchError, RequestError
from bench.report.mlflow import Mirror
from bench.report.mlflow.run_writer import SuiteRuns
from tests.support.mlflow_runs import SCORES, experiments, one, runs
from tests.support.samples import Silent
from tests.support.stores import STAMP, reseal


@pytest.mark.parametrize("uri", ["mlruns", "file:///mlruns", "localhost:5000"])
def test_an_address_that_is_none_says_how_to_write_one(tmp_path: Path, uri: str) -> None:
    with pytest.raises(RequestError, match=rf"--tracking-uri {uri}: write http://HOST:PORT"):
        Mirror(tmp_path, uri)


def test_a_server_that_is_not_there_is_no_fault_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(BenchError, match=r"^MLflow: no answer from http://127.0.0.1:9 .*results are safe"):
        Mirror(tmp_path, "http://127.0.0.1:9")


def test_a_broken_database_is_an_error_that_says_what_to_do(home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as connection:
        connection.execute("update alembic_version set version_num = 'older'")
    with pytest.raises(
        RequestError, match=r"the mirror is only a copy: delete it, and `python -m bench sync` makes it"
    ):
        Mirror(home)


def test_a_failure_of_mlflow_says_that_results_are_safe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def full(*_: Any) -> None:
        raise MlflowException("database or disk is full\nand a long story")

    monkeypatch.setattr(SuiteRuns, "log", full)
    maker, _ = one(home)
    with pytest.raises(BenchError, match=r"^MLflow: database or disk is full; the results are safe"):
        Mirror(home).sync(maker.store)


def test_nothing_appears_in_the_working_directory(home: Path) -> None:
    maker, _ = one(home)
    before = {path.name for path in home.iterdir()}
    Mirror(home).sync(maker.store)
    assert list(Path.cwd().iterdir()) == []
    assert {path.name for path in home.iterdir()} - before == {"mlartifacts", ".mlflow.lock"}


def test_a_deleted_experiment_is_restored_and_said(home: Path) -> None:
    maker, cell = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    (number,) = [found for found in experiments(mirror) if found != "0"]
    mirror.client.delete_experiment(number)
    told = Silent()
    counts = Mirror(home).sync(maker.store, progress=told)
    assert told.notes == ["MLflow: experiment partbench/default had been deleted there; it is restored, with its runs"]
    assert counts.unchanged == 2
    assert {run.data.tags.get("bench.cell") for run in runs(mirror).values()} == {cell, None}
    assert Mirror(home).sync(maker.store, progress=told).unchanged == 2
    assert len(told.notes) == 1


def test_a_deleted_run_is_made_again(home: Path) -> None:
    maker, _ = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    mirror.client.delete_run(runs(mirror)["ours·demo·tiny·s0"].info.run_id)
    assert mirror.sync(maker.store).created == 1
    assert runs(mirror)["ours·demo·tiny·s0"].data.metrics["Scores/accuracy"] == 90.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_result_with_no_number_is_damaged_and_stops_nothing(home: Path, value: float) -> None:
    maker, cell = one(home)
    file = maker.store.cell(cell).result / "result.json"
    content = json.loads(file.read_text())
    content["scores"]["accuracy"]["value"] = value
    file.write_text(json.dumps(content))
    reseal(file.parent)
    maker.invocation([cell, maker.cell("ours", SCORES, seed=1)])
    mirror, told = Mirror(home), Silent()
    counts = mirror.sync(maker.store, progress=told)
    assert (counts.created, counts.waiting) == (2, 1)  # the call itself, and the cell that is whole
    assert set(runs(mirror)) == {"ours·demo·tiny·s1", STAMP}
    (note,) = told.notes
    assert note.startswith(f"{cell}: ")
    assert "cannot be read" in note


@pytest.fixture
def impatient() -> Iterator[None]:
    """A lock is waited for 0.1 seconds, not the 20 that MLflow asks of SQLite."""
    pytest.importorskip("mlflow")
    from sqlalchemy import Engine, event

    def shorter(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), parameters

    event.listen(Engine, "before_cursor_execute", shorter, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorter)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("early", [True, False], ids=["at the first contact", "in between"])
def test_a_locked_database_is_one_line_and_loses_nothing(
    home: Path, capfd: pytest.CaptureFixture[str], early: bool
) -> None:
    import sqlite3

    maker, cell = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    shutil.rmtree(maker.store.cell(cell).result)
    maker.finish(cell, {**SCORES, "accuracy": 91.0})
    with contextlib.closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(BenchError, match=r"^MLflow: another process has held .* is locked\); the results are safe"):
            (Mirror(home) if early else mirror).sync(maker.store)
        other.execute("rollback")
    assert capfd.readouterr().err == ""
    assert mirror.sync(maker.store).updated == 2
    assert runs(mirror)["ours·demo·tiny·s0"].data.metrics["Scores/accuracy"] == 91.0
