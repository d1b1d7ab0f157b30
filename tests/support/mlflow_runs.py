"""What the tests of the mirror in MLflow look at: runs, experiments, files."""

from pathlib import Path
from typing import Any

from bench.report.mlflow import Mirror
from tests.support.stores import StoreMaker

SCORES = {"accuracy": 90.0, "consistency": 70.0, "stability": 80.0}


def runs(mirror: Mirror, suite: str = "default") -> dict[str, Any]:
    """Active runs by name, summaries by their stamp; fails where two have the same."""
    experiment = mirror.client.get_experiment_by_name(f"partbench/{suite}")
    found = mirror.client.search_runs([experiment.experiment_id])
    names = [run.data.tags.get("bench.invocation", run.info.run_name) for run in found]
    assert len(set(names)) == len(names), names
    return dict(zip(names, found, strict=True))


def experiments(mirror: Mirror) -> list[str]:
    return [one.experiment_id for one in mirror.client.search_experiments()]


def artifacts(mirror: Mirror, run: Any, folder: str | None = None) -> list[str]:
    files: list[str] = []
    for item in mirror.client.list_artifacts(run.info.run_id, folder):
        files += artifacts(mirror, run, item.path) if item.is_dir else [item.path]
    return files


def one(home: Path, scores: dict[str, float] | None = SCORES, **facts: Any) -> tuple[StoreMaker, str]:
    maker = StoreMaker(home)
    cell = maker.cell("ours", scores, **facts)
    maker.invocation([cell])
    return maker, cell
