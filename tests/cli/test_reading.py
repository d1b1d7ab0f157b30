"""Commands that read a store: what they are asked that is not there is refused, with what there is."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from tests.support.stores import StoreMaker

ACCURACY = {"accuracy": {"version": "1", "parameters": {}, "unit": "%"}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    maker = StoreMaker(tmp_path)
    for stamp, suite in (("1", "first"), ("2", "second")):
        cell = maker.cell("ours", {"accuracy": 90.0}, seed=int(stamp), metrics=ACCURACY)
        maker.invocation([cell], stamp=stamp, suite=suite)
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "60")
    return maker.store


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


WRONG = {
    "results of no suite": (("results", "--suite", "third"), "there are results of: first, second"),
    "results of nothing": (("results", "--out", "nowhere"), "nothing has been run yet in nowhere"),
    "another suite's run": (("report", "--suite", "first", "--run", "2"), "run 2 is of suite 'second', not of 'first'"),
    "no run to mirror": (("sync", "--run", "3"), "no run '3'"),
    "maps of stored numbers": (("figure", "5", "--classes", "1"), "--classes means nothing for 5"),
    "no cell": (("cell", "zzz"), "no cell 'zzz'"),
    "short for several": (("show", ""), "is short for 2 cells"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_there_is_refused(home, name):
    arguments, said = WRONG[name]
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert said in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("report", "--out"), ("status", "--out"), ("scale", "--methods", "ours", "--out"), ("export",),
     ("report", "--format", "html", "-o"), ("figure", "5", "--to")],
)  # fmt: skip
def test_a_file_is_no_folder(home, tmp_path, arguments):
    file = tmp_path / "file"
    file.write_text("precious")
    result = call(*arguments, file)
    assert result.exit_code == 2
    assert "is a file" in result.stderr
    assert file.read_text() == "precious"


def test_a_cell_is_named_by_its_id_or_its_folder(home):
    name = home.cells()[0]
    for one in (name, name[:6], home.cell(name).path):
        result = call("show", one)
        assert result.exit_code == 0, result.output
        assert name in result.stdout


def test_names_in_a_listing_are_whole(home):
    result = call("ls", "metrics")
    for name in ("consistency_protopformer", "sensitivity_contribution", "completeness_contribution"):
        assert name in result.stdout


def test_a_wrong_name_needs_no_torch(home):
    code = (
        "import sys; from click.testing import CliRunner; from bench.cli.main import main; "
        "result = CliRunner().invoke(main, ['show', 'zzz']); "
        "assert result.exit_code == 2, result.output; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
