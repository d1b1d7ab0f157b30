"""What a result records, and that the command which `show` prints makes the same numbers again."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from tests.support.small_birds import PROTOPNET, QUICK, called, few_birds
from tests.support.stores import reseal

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """The folder of a finished cell, trained on few birds."""
    folder = tmp_path_factory.mktemp("repeat")
    home = folder / "my home"
    words = ["run", "--methods", "protopnet", "--no-controls", "--no-tracking", *QUICK, *PROTOPNET]
    words += ["--data-root", str(few_birds(folder))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *words])
        done = called(home, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (home / "cells").iterdir()
    return found


def result(folder):
    return json.loads((folder / "result" / "result.json").read_text())


def repeated(command, place):
    """Run what `show` printed, elsewhere."""
    command = command.replace(" python -m ", f" {sys.executable} -m ")
    kept = {name: value for name, value in os.environ.items() if name not in ("BENCH_HOME", "OMP_NUM_THREADS")}
    return subprocess.run(
        command, shell=True, cwd=place, env={**kept, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_a_result_says_all_that_is_needed_to_have_it_again(cell):
    outcome, written = result(cell), json.loads((cell / "cell.json").read_text())
    environment = outcome["environment"]
    assert written["spec"]["settings"]["schedule"]["phases"][0]["epochs"] == 2
    assert (written["spec"]["seed"], written["spec"]["precision"]) == (0, "fp32")
    assert environment["arguments"][:3] == ["run", "--methods", "protopnet"]
    assert environment["git"] is None or re.fullmatch(r"\S+", environment["git"])
    assert environment["determinism"]["algorithms"] == "warn"
    assert (environment["device"], environment["threads"]) == ("cpu", 1)
    assert set(outcome["seeds"]) == {"cell", "method", "backbone", "black box", "training"}
    usage = outcome["usage"]
    assert usage["wall_seconds"] > usage["cpu_seconds"] / 2 > 0
    # What the machine does not tell is null, with the reason.
    for part in ("cpu", "gpu"):
        assert (usage[f"{part}_joules"] is None) == (part in usage["not_measured"])
    versions = (cell / "result" / "packages.txt").read_text().splitlines()
    assert f"torch=={environment['packages']['torch']}" in versions


def test_the_command_that_show_prints_makes_the_same_numbers(cell, tmp_path):
    shown = called(cell.parent.parent, "show", cell.name)
    (command,) = re.findall(r"^repeat +(.*)$", shown.stdout, re.MULTILINE)
    again = repeated(command, tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.search(r"^the same \d+ numbers$", again.stdout, re.MULTILINE)
    copy = tmp_path / f"repeat-{cell.name}" / "cells" / cell.name
    assert result(copy)["scores"] == result(cell)["scores"]
    for table in sorted((cell / "result" / "items").iterdir()):
        assert (copy / "result" / "items" / table.name).read_bytes() == table.read_bytes(), table.name
    # Had other numbers come out, they would be named.
    changed = result(copy)
    changed["scores"]["accuracy"]["value"] += 1
    changed["environment"]["threads"] = 7
    (copy / "result" / "result.json").write_text(json.dumps(changed))
    reseal(copy / "result")
    again = repeated(command, tmp_path)
    assert again.returncode == 1
    assert re.search(r"1 of \d+ numbers differ:\n  accuracy: \S+ before, \S+ now\n", again.stdout)
    assert "threads: 1 before, 7 now" in again.stdout


def test_repeat_needs_another_home_and_a_finished_cell(cell, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(cell.parent.parent))
    for folder, reason in ((cell, "is in this BENCH_HOME: name a fresh one"), (tmp_path, "is not a finished cell")):
        done = CliRunner().invoke(main, ["repeat", str(folder), "--device", "cpu"])
        assert done.exit_code == 2
        assert reason in done.stderr
