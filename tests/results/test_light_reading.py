"""Reading what is stored loads neither torch nor pandas once intervals and comparisons are kept."""

import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.results.store import Store
from tests.support.documented import RESULTS, ROOT

PROGRAM = """
import re, sys
from click.testing import CliRunner
from bench.cli.main import main
result = CliRunner().invoke(main, sys.argv[1:])
heavy = sorted({"torch", "pandas", "scipy", "mlflow", "timm"} & set(sys.modules))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # ru_maxrss has the parent's too
print(result.exit_code, heavy, peak < 150 * 1024, result.stdout)
"""
COMMANDS = {
    "results": ["results", "--csv"],
    "report": ["report", "--suite", "study_cars"],
    "compare": ["compare", "ours", "tesnet (schedule.repeat=5)", "--suite", "study_cars"],
    "show": ["show", "{cell}"],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("light")
    (folder / "home").mkdir()
    shutil.copytree(ROOT / RESULTS / "study_cars", folder / "export" / "study_cars")
    settings = {"BENCH_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    cell = Store(folder / "export").cells()[0]

    def run(words):
        """The output in this process, which may load anything, and then in one of its own."""
        words = [*(word.format(cell=cell) for word in words), "--out", str(folder / "export")]
        first = CliRunner().invoke(main, words, env=settings)
        command = [sys.executable, "-c", PROGRAM, *words]
        again = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, check=True)
        return first.stdout, again.stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_torch_is_not_loaded_for_kept_numbers(ran, command):
    first, again = ran(COMMANDS[command])
    assert again.startswith("0 [] True "), again[:200]
    assert again.partition("True ")[2] == f"{first}\n"
