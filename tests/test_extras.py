"""The core without optional packages: blocked imports stand for packages that are not installed."""

import os
import subprocess
import sys

import pytest

from tests.support.small_birds import few_birds, quick

BLOCKED = ("mlflow", "cvxpy", "ray", "submitit", "sklearn")
PROGRAM = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED})); from bench.cli.main import main; main()"


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    folder = tmp_path_factory.mktemp("core")
    birds = few_birds(folder)

    def run(*words):
        words = [*words, *(quick(words) if words[0] == "run" else [])]
        words += ["--data-root", str(birds)] if words[0] == "run" else []
        settings = {**os.environ, "BENCH_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, "-c", PROGRAM, *words]
        return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300, check=False)

    return run


def test_run_needs_no_optional_package(call):
    result = call("run", "--methods", "ours", "--no-controls", "--no-tracking")
    assert result.returncode == 0, result.stderr
    assert "1 of 1 cells done" in result.stdout
    assert "MLflow" not in result.stdout
    again = call("run", "--methods", "ours", "--no-controls")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("MLflow is not installed: pip install 'mlflow>=3.13'; results are in the store") == 1
    assert "Traceback" not in again.stdout + again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--methods", "ours", "--set", "ours.scaling=cvxpy"), "cvxpy is not installed: pip install"),
        (("run", "--methods", "ours", "--launcher", "ray"), "Ray is not installed here"),
        (("run", "--methods", "ours", "--launcher", "slurm"), "submitit is not installed here"),
        (("sync",), "MLflow is not installed"),
    ],
)
@pytest.mark.slow
def test_missing_package_is_one_line(call, words, message):
    if words == ("sync",):  # there is something to mirror
        call("run", "--methods", "center", "--no-controls", "--no-tracking")
    result = call(*words)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert result.stderr.startswith("error: ")


def test_optional_packages_are_imported_when_used():
    modules = (
        "bench.cli.main",
        "bench.api.run",
        "bench.runner.launchers.launcher",
        "bench.report.mlflow",
        "bench.posthoc.method",
        "bench.diagnostics.speed_decompose",
    )
    code = "import importlib, sys\n"
    code += f"for module in {modules}:\n    importlib.import_module(module)\n"
    code += f"    assert not set({BLOCKED}) & set(sys.modules), module\n"
    subprocess.run([sys.executable, "-c", code], check=True)
