"""`speed grid` through the command line, on cells that take no time. No times are judged."""

import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.data.synthetic import VERSION, draw


@pytest.mark.slow
def test_speed_grid_runs_the_same_cells_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    # Fewer birds than the demo's, found in its place: drawing all of them takes half a minute.
    draw(tmp_path / "data" / f"demo-{VERSION}", classes=3, train=5, test=3)
    chosen = ["--methods", "center", "--seeds", "2", "--launcher", "inline", "--jobs", "2", "--json"]
    result = CliRunner().invoke(main, ["speed", "grid", *chosen])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["cells"], found["same_numbers"]) == (2, True)
    assert all(len(seconds) == 1 for seconds in found["seconds"].values())


def test_a_run_that_fails_says_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["speed", "grid", "--methods", "centre", "--seeds", "1"])
    assert result.exit_code == 1
    assert "did you mean 'center'" in result.output
