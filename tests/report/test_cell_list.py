"""Cells behind a row of a table, listed by the name of the row or of its method."""

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core.errors import RequestError
from bench.report.cell_list import cells_of_row
from tests.support.stores import scores


@pytest.fixture
def stored(maker):
    maker.cell("ours", scores(70.0, accuracy=90.0), seed=1)
    maker.cell("ours", scores(60.0, accuracy=91.0))
    maker.cell("ours", scores(50.0), settings={"k": 5}, label="ours (k=5)")
    maker.cell("tesnet", failure=("failed", "loss became nan"))
    return maker.store


def values(table, name):
    (column,) = [column for column in table.columns if column.name == name]
    return [row.number(column) for row in table.rows]


def test_a_method_has_all_of_its_settings_and_a_label_its_own(stored):
    table = cells_of_row(stored, "ours")
    assert values(table, "consistency") == [60, 70, 50]
    assert [row.values["seed"].text for row in table.rows] == ["0", "1", "0"]
    table = cells_of_row(stored, "ours (k=5)", ["consistency"])
    assert (values(table, "consistency"), len(table.columns)) == ([50], 6)
    assert table.rows[0].label.split(" ", 1)[1] == "ours (k=5)"
    assert stored.find(table.rows[0].label.split()[0])


def test_a_failure_is_said(stored):
    table = cells_of_row(stored, "tesnet")
    assert table.rows[0].values["code"].text == "failed"
    assert any("loss became nan" in note for note in table.notes)


def test_unknown_names_are_refused_with_the_nearest(stored):
    with pytest.raises(RequestError, match=r"no cell and no method 'tessnet' .*; did you mean 'tesnet'\?"):
        cells_of_row(stored, "tessnet")


def test_the_command_lists_a_method_and_shows_a_cell(stored):
    def show(*words):
        return CliRunner().invoke(main, ["show", *words, "--out", str(stored.root)])

    listed = show("ours", "--metrics", "accuracy")
    assert listed.exit_code == 0, listed.output
    name = listed.output.split("ours")[1].split()[-1]
    assert stored.find(name)
    assert "settings, under the names" in show(name).output
    refused = show(name, "--metrics", "accuracy")
    assert refused.exit_code != 0
    assert "for the list of a method" in str(refused.exception) + refused.output
