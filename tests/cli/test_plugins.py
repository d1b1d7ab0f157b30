"""Plugins that change between calls, end the process, or break the contract."""

import json
import re

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core import registry
from tests.support.small_birds import QUICK, few_birds

METRIC = """
import os
from bench.contract import Metric, Score
from bench.core.registry import register


class Own(Metric):
    "A metric of the user's."
    name, version, unit = "own", "1", "ms"

    def update(self, seen):
        pass

    def compute(self):
        {body}
        return Score({value}, 1)


register("metrics", "own", Own)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def plugin(tmp_path):
    return tmp_path / "mine" / "plugin.py"


@pytest.fixture
def call(data, tmp_path, plugin, monkeypatch):
    """Any command, in this process, with a plugin of that text."""
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    plugin.parent.mkdir()

    def run(*arguments, text=None, body="pass", value=1.0):
        plugin.write_text(text or METRIC.format(body=body, value=value))
        if arguments[0] == "run":
            arguments = (*arguments, "--no-controls", *QUICK, "--data-root", str(data), "--no-tracking")
        if arguments[0] != "cell":
            arguments = (*arguments, "--plugin", str(plugin))
        return CliRunner().invoke(main, list(arguments))

    return run


def rows(call):
    return {(row["method"], row["seed"], row["cell"]): row for row in json.loads(call("results").stdout)}


def test_old_and_new_code_are_never_one_number(call):
    request = ("run", "--methods", "constant", "--metrics", "own")
    first = call(*request, value=1.0)
    assert "1 of 1 cells done (0 before)" in first.output
    again = call(*request, value=1.0)
    assert "1 of 1 cells done (1 before)" in again.output
    both = call(*request, "--seeds", "0,1", value=2.0)
    assert "2 of 2 cells done (0 before)" in both.output
    assert re.search(r"\b2(\.0+)? ± 0(\.0+)?\b", both.output)
    assert "own v1, plugin code " in both.output
    assert sorted((seed, row["value"]) for (_, seed, _), row in rows(call).items()) == [(0, 1.0), (0, 2.0), (1, 2.0)]


def test_a_cell_says_which_code_it_was_planned_with(call, plugin, tmp_path):
    call("run", "--methods", "constant", "--metrics", "own,consistency", body="raise ValueError('later')")
    (cell,) = (tmp_path / "home" / "cells").iterdir()
    written = json.loads((cell / "cell.json").read_text())
    planned = registry.code("metrics", "own")
    assert written["spec"]["metrics"]["own"]["code"] == planned.digest
    assert written["where"]["code"] == {"metrics.own": str(plugin)}
    assert "code" not in written["spec"]["metrics"]["consistency"]
    assert "code" not in written["spec"]
    changed = call("cell", str(cell), "--device", "cpu", value=2.0)
    assert changed.exit_code == 1
    assert f"the code of own, {plugin}, has digest" in changed.stderr
    assert "call `run` again" in changed.stderr


@pytest.mark.parametrize("jobs", [(), pytest.param(("--jobs", "2"), marks=pytest.mark.slow)])
def test_what_ends_the_process_fails_its_cell_alone(call, tmp_path, jobs):
    body = """import bench.runner.cell, gc
        method = next(one.spec.method for one in gc.get_objects() if isinstance(one, bench.runner.cell.CellRunner))
        if method == "constant": os._exit(0)
        if method == "random": raise KeyboardInterrupt
        """
    result = call("run", "--methods", "constant,random,center", "--metrics", "own", *jobs, body=body)
    assert result.exit_code == 1, result.output
    assert "1 of 3 cells done (0 before), 2 failed" in result.output
    told = {key[0]: row for key, row in rows(call).items()}
    assert told["constant"]["reason"].startswith("ended without a result (exit code 0)")
    assert told["random"]["reason"].startswith("KeyboardInterrupt() was raised by ")
    assert told["center"]["status"] == "ok"


@pytest.mark.parametrize("ends", ["SystemExit(0)", "KeyboardInterrupt()", "GeneratorExit()"])
def test_a_plugin_that_ends_when_it_is_loaded(call, ends):
    for command in (("ls", "metrics"), ("run", "--methods", "constant"), ("results",)):
        result = call(*command, text=f"raise {ends}")
        assert result.exit_code == 2, result.output
        assert ends.strip("()") in result.stderr


def test_a_reader_that_ends_the_plan(call):
    text = "from bench.data.cub import Cub\nfrom bench.core.registry import register\nclass Bad(Cub):\n"
    text += "    def __init__(self, *_, **__): raise SystemExit(0)\nregister('datasets', 'bad', Bad)\n"
    result = call("run", "--methods", "constant", "--set", "cub.reader=bad", text=text)
    assert result.exit_code == 1
    assert "SystemExit(0) was raised by" in result.stderr


def test_check_says_what_a_plugin_must_not_do(call):
    ends = call("check", "own", body="raise SystemExit(0)")
    assert ends.exit_code == 1
    assert "SystemExit(0) was raised by" in ends.output
    writes = call("check", "own", body="self.samples.labels.zero_()")
    assert writes.exit_code == 1
    assert "measuring changes nothing: WRONG: own changes labels of the test split" in writes.output
    draws = call("check", "own", value="__import__('torch').rand(1).item()")
    assert "no global generator: WRONG: it draws from torch's global generator" in draws.output
    assert call("check", "own").exit_code == 0


def test_a_table_beyond_the_result_is_refused(call, tmp_path):
    result = call(
        "run", "--methods", "constant", "--metrics", "own", value="1.0, 1, {'../../x': {'a': [1]}}) or Score(1.0"
    )
    assert result.exit_code == 1
    assert "own: table '../../x': names are up to 64 letters" in result.output
    assert {file.name for file in tmp_path.rglob("*.csv")} == {"usage.csv"}
