"""A fresh database of MLflow for every test."""

import os
from pathlib import Path

import pytest

from bench.report.mlflow import Mirror


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database. Making one takes MLflow seconds; a copy takes none."""
    pytest.importorskip("mlflow")
    home = tmp_path_factory.mktemp("template")
    Mirror(home)
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``BENCH_HOME`` with a fresh database; the working directory is another, empty one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    # Matplotlib has been told before, and makes a folder there only when it is imported.
    monkeypatch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(tmp_path / "fonts")))
    # A blank in the path, as people have them.
    home = tmp_path / "my home"
    home.mkdir()
    (home / "mlflow.db").write_bytes(template.read_bytes())
    return home
