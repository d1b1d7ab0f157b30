"""Footnotes and stars of tables whose numbers say little."""

import json

import pytest

from bench.report import comparison
from bench.report.cell_facts import deviations
from bench.report.renderers import as_markdown
from tests.support.stores import StoreMaker, reseal, scores


def with_empty(maker, name, share):
    """Record the percent of regions without a part beside a cell's stability."""
    result = maker.store.cell(name).result
    content = json.loads((result / "result.json").read_text())
    content["scores"]["stability"]["also"] = {"empty": share}
    (result / "result.json").write_text(json.dumps(content))
    reseal(result)


@pytest.fixture
def maker(tmp_path):
    return StoreMaker(tmp_path)


def rows_of(maker, cells):
    maker.invocation(cells)
    (table,) = comparison(maker.store)
    return {row.label: row for row in table.rows}, table


def test_collapsed_stability_has_a_note_and_no_star(maker):
    cells = [maker.cell("ours", scores(50, stability=60.0)), maker.cell("protopool", scores(2, stability=81.0))]
    with_empty(maker, cells[1], 79.0)
    rows, table = rows_of(maker, cells)
    assert rows["ours"].values["stability"].best is False  # a single rival is no comparison
    collapsed = rows["protopool"].values["stability"]
    assert not collapsed.best
    assert [table.notes[number - 1][:30] for number in collapsed.notes] == ["79 % of its regions contain no"]


def test_star_goes_to_the_best_that_is_not_collapsed(maker):
    names = {"ours": 60.0, "protopnet": 50.0, "protopool": 81.0}
    cells = [maker.cell(name, scores(50, stability=value)) for name, value in names.items()]
    with_empty(maker, cells[2], 79.0)
    rows, _ = rows_of(maker, cells)
    assert [name for name in names if rows[name].values["stability"].best] == ["ours"]


@pytest.mark.parametrize(("share", "winner"), [(30.0, "protopnet"), (20.0, "ours")])
def test_a_quarter_of_empty_regions_costs_the_star(maker, share, winner):
    values = {"ours": 60.0, "protopnet": 50.0, "protopool": 40.0}
    cells = [maker.cell(name, scores(50, stability=value)) for name, value in values.items()]
    with_empty(maker, cells[0], share)
    rows, _ = rows_of(maker, cells)
    assert [name for name in values if rows[name].values["stability"].best] == [winner]
    assert bool(rows["ours"].values["stability"].notes) is (share > 25)


def test_method_far_behind_its_black_box_is_noted(maker):
    cells = [
        maker.cell("ours", scores(50, accuracy=92.0)),
        maker.cell("protopnet", scores(50, accuracy=63.9)),
        maker.cell("protopnet", scores(50, accuracy=60.0), backbone="vgg19"),
        maker.cell("blackbox", scores(50, accuracy=92.4), role="reference"),
        maker.cell("blackbox", scores(50, accuracy=65.0), role="reference", backbone="vgg19"),
    ]
    maker.invocation(cells)
    (table,) = comparison(maker.store)
    noted = [(row.label, row.backbone) for row in table.rows if row.values["accuracy"].notes]
    assert noted == [("protopnet", "tiny")]
    assert "28.5 points behind the black box" in as_markdown([table])


def test_what_trains_nothing_is_not_undertrained(maker):
    schedule, box = {"schedule": {"batch_size": 32}}, {"black_box_id": "b0b0b0b0b0b0"}
    cells = [
        maker.cell("ours", scores(50, accuracy=81.0), settings={"refinement": "none"}, **box),
        maker.cell("protopnet", scores(50, accuracy=81.0), settings=schedule, **box),  # started from the black box
        maker.cell("blackbox", scores(50, accuracy=94.0), role="reference", **box),
    ]
    rows, _ = rows_of(maker, cells)
    assert [name for name in rows if rows[name].values["accuracy"].notes] == ["protopnet"]


def test_published_recipes_state_their_departures():
    for method in ("protopnet", "tesnet", "protopool", "deformable"):
        assert deviations({"spec": {"method": method}, "recipe": "published"})
        assert deviations({"spec": {"method": method}, "recipe": "small"}) == []
    assert deviations({"spec": {"method": "constant"}, "recipe": "published"}) == []
