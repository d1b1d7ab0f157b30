"""How comparisons are printed."""

import csv
import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.report.contest_tables import contest_tables
from bench.report.renderers import as_markdown
from bench.results.stats.compare import compare
from tests.support.comparisons import ACCURACY, accuracy, drawn, shown


@pytest.fixture
def small(maker):
    """A store with a difference, none, and something that cannot be compared."""
    both = {**ACCURACY, "consistency_controlled": {"version": "1", "parameters": {}}}
    cells = []
    for name, share in (("ours", 0.9), ("protopnet", 0.5), ("tesnet", 0.5)):
        hits = drawn(share, len(name)).astype(int)
        table = {"prototype": range(60), "class": [place // 3 for place in range(60)], "counted": hits[:60].tolist()}
        items = {
            "accuracy.image": {"index": range(200), "correct": hits.tolist()},
            "consistency_controlled.prototype": table,
        }
        scores = {"accuracy": 100 * hits.mean(), "consistency_controlled": 100 * hits[:60].mean()}
        cells.append(maker.cell(name, scores, metrics=both, items=items))
    cells.append(
        maker.cell("constant", {"consistency_controlled": 10.0}, backbone=None, role="control", metrics=both,
                   not_applicable={"accuracy": "constant predicts no class"})
    )  # fmt: skip
    maker.invocation(cells)
    return maker


@pytest.mark.parametrize("width", [100, 140])
def test_text_fits_and_keeps_numbers_whole(small, width):
    found = compare(small.store, ("ours", "protopnet", "constant"))
    text = shown(found, width)
    assert max(map(len, text.splitlines())) <= width
    for said in (
        "ours against protopnet: demo, tiny (bbox-224-truncated)",
        "ours better",
        "cannot compare",
        "¹ n/a for constant: predicts no class",
        "no column 'counted'",
        "Holm: p corrected for the 2 tests",
    ):
        assert said.replace(" ", "") in text.replace("\n", "").replace(" ", "")  # fmt: skip
    one = found.comparisons[0]
    assert f"{one.difference:+.1f} [{one.low:+.1f}, {one.high:+.1f}]" in text


def test_markdown_columns_line_up(small):
    text = as_markdown(contest_tables(compare(small.store, ("ours", "protopnet"))))
    table = [row for row in text.splitlines() if row.startswith("|")]
    assert len(table) == 4
    assert len({tuple(place for place, letter in enumerate(row) if letter == "|") for row in table}) == 1


def test_json_and_csv_hold_everything(small, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(small.store.root))
    result = CliRunner().invoke(main, ["compare", "ours", "protopnet", "--format", "json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    first = found["comparisons"][0]
    assert (first["methods"], first["metric"], first["verdict"]) == (["ours", "protopnet"], "accuracy", "ours better")
    assert first["low"] < first["difference"] < first["high"]
    result = CliRunner().invoke(main, ["compare", "ours", "protopnet", "--metrics", "accuracy", "--format", "csv"])
    (row,) = csv.DictReader(result.stdout.splitlines())
    assert float(row["value_1"]) == first["values"][0]
    assert (row["method_1"], row["method_2"], row["seed_1"], row["verdict"]) == (
        "ours",
        "protopnet",
        "0",
        "ours better",
    )


def test_incomparable_places_are_in_one_table(maker):
    cells = [accuracy(maker, name, drawn(0.8, seed)) for seed, name in enumerate(("ours", "tesnet", "protopnet"))]
    maker.invocation([*cells, accuracy(maker, "tesnet", drawn(0.7, 3), dataset="cars")])
    found = contest_tables(compare(maker.store, ("ours", "tesnet", "protopnet"), first_only=True))
    *pairs, apart = [grid for grid in found if grid.title != "over data sets and backbones"]
    assert [len(grid.rows) for grid in pairs] == [1, 1]
    assert apart.title == "not compared"
    (row,) = apart.rows
    assert row.label.startswith("cars")
    assert {key: word.text for key, word in row.values.items()} == {
        "reason": "no result of ours here", "methods": "ours, tesnet"
    }  # fmt: skip


def test_exit_codes_and_help(small, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(small.store.root))

    def call(*arguments):
        return CliRunner().invoke(main, ["compare", *arguments])

    assert call("ours", "tesnet").exit_code == 0
    assert call("ours", "constant").exit_code == 1  # nothing of it could be tested
    wrong = call("ours")
    assert wrong.exit_code == 2
    assert "two or more different methods" in wrong.stderr
    assert call("ours", "tesnett").exit_code == 2
    assert "python -m bench compare ours protopnet" in call("--help").stdout
    assert "accuracy" not in call("ours", "tesnet", "--metrics", "keypoints").stdout
