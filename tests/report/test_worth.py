"""What each metric is worth, from cells with scores worked by hand."""

import pytest

from bench.report import comparison, worth
from bench.report.renderers import as_markdown

LESS = {"misalignment": {"version": "1", "parameters": {}, "higher_is_better": False}}
PARTS = {"coverage": {"version": "1", "parameters": {}, "unit": "parts"}}


def rows_of(maker, own, *controls, metrics=None):
    cells = [maker.cell("ours", own, metrics=metrics)]
    for name, scores in controls:
        cells.append(maker.cell(name, scores, role="control", backbone=None, metrics=metrics))
    maker.invocation(cells)
    (table,) = comparison(maker.store)
    return worth(table)


def test_metrics_are_sorted_by_how_far_the_best_method_is(maker):
    found = rows_of(
        maker,
        {"accuracy": 80.0, "consistency": 79.0, "stability": 70.0},
        ("center", {"accuracy": 20.0, "consistency": 58.0, "stability": 100.0}),
        ("untrained", {"accuracy": 60.0, "consistency": 10.0, "stability": 50.0}),
    )
    far = found.columns[-1]
    assert [(row.label, row.number(far)) for row in found.rows] == [
        ("accuracy", pytest.approx(0.5)), ("consistency", pytest.approx(0.5)), ("stability", None),
    ]  # fmt: skip
    assert [row.values["best control"].text for row in found.rows] == ["untrained", "center", "center"]
    assert "a control is perfect" in as_markdown([found])


def test_less_is_better_from_the_control_to_zero(maker):
    found = rows_of(maker, {"misalignment": 10.0}, ("center", {"misalignment": 40.0}), metrics=LESS)
    assert found.rows[0].number(found.columns[-1]) == pytest.approx(0.75)


def test_a_residual_of_rounding_is_none(maker):
    axiom = {"linearity": {"version": "1", "parameters": {"tolerance": 1e-4}, "higher_is_better": False}}
    found = rows_of(maker, {"linearity": 2e-16}, ("untrained", {"linearity": 3e-16}), metrics=axiom)
    assert found.rows[0].number(found.columns[-1]) is None


def test_a_control_above_the_tolerance_is_not_perfect(maker):
    axiom = {"linearity": {"version": "1", "parameters": {"tolerance": 1e-4}, "higher_is_better": False}}
    found = rows_of(maker, {"linearity": 5e-16}, ("untrained", {"linearity": 0.2}), metrics=axiom)
    assert found.rows[0].number(found.columns[-1]) == 1.0


def test_no_perfect_value(maker):
    found = rows_of(maker, {"coverage": 3.0}, ("center", {"coverage": 1.0}), metrics=PARTS)
    assert found.rows[0].number(found.columns[-1]) is None
    assert "no perfect value" in found.notes[0]


def test_a_metric_that_no_control_has(maker):
    found = rows_of(maker, {"accuracy": 80.0}, metrics={"accuracy": {"version": "1", "parameters": {}}})
    assert found.notes == ("n/a: no control has it",)
