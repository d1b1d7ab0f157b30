"""Servers, databases and folders that are not as they should be."""

from pathlib import Path
from typing import Any

import pytest

from bench.contract import BenchError, RequestError
from bench.report.mlflow import Mirror
from tests.support.mlflow_runs import one


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

    monkeypatch.setattr(Mirror, "write", full)
    maker, _ = one(home)
    with pytest.raises(BenchError, match=r"^MLflow: database or disk is full; the results are safe"):
        Mirror(home).sync(maker.store)


def test_nothing_appears_in_the_working_directory(home: Path) -> None:
    maker, _ = one(home)
    before = {path.name for path in home.iterdir()}
    Mirror(home).sync(maker.store)
    assert list(Path.cwd().iterdir()) == []
    assert {path.name for path in home.iterdir()} - before == {"mlartifacts", ".mlflow.lock"}
