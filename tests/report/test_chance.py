import doctest

import pytest

import bench.report.chance
from bench.report import comparison
from bench.report.chance import beyond_chance, chance_corrected, finding
from bench.report.renderers import as_markdown
from tests.support.stores import StoreMaker, example_store


def table(maker, *controls):
    """The table of one method with 79 % consistency and 70 % stability, beside controls of the given scores."""
    own = {"accuracy": 80.0, "consistency": 79.0, "stability": 70.0}
    cells = [maker.cell("ours", own)]
    for number, (consistency, stability) in enumerate(controls):
        scores = {"consistency": consistency, "stability": stability}
        refused = {"accuracy": "predicts no class"}
        cells.append(maker.cell(f"c{number}", scores, role="control", backbone=None, not_applicable=refused))
    maker.invocation(cells)
    (block,) = comparison(maker.store)
    return beyond_chance(block)


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(bench.report.chance) == (0, 1)


def test_the_finding_is_one_sentence(tmp_path):
    def found(*controls):
        maker = StoreMaker(tmp_path / str(len(list(tmp_path.iterdir()))))
        table(maker, *controls)
        return finding(comparison(maker.store)[0])

    assert found() == ""
    first = "ours, the most accurate method (80.0 %), is"
    assert found((58.0, 100.0), (60.0, 20.0)) == (
        f"{first} better than every control in consistency (79.0 against 60.0 of c1) and no "
        "better than one in stability (70.0 against 100.0 of c0)."
    )
    assert found((90.0, 70.0)).startswith(f"{first} no better than one in consistency (79.0 against 90.0 of c0), stab")


def test_zero_is_chance_and_one_is_perfect():
    assert chance_corrected(58, 58) == 0
    assert chance_corrected(100, 58) == 1
    assert chance_corrected(16, 58) == -1


def test_what_controls_are_no_rivals_in_has_no_chance_level(maker):
    """Random peaks are far apart by chance; that is neither a chance level nor is there a perfect distance."""
    metrics = {"contrastivity": {"version": "1", "parameters": {}}}
    cells = [maker.cell("ours", {"contrastivity": 25.0}, metrics=metrics)]
    cells.append(maker.cell("random", {"contrastivity": 55.0}, metrics=metrics, role="control", backbone=None))
    maker.invocation(cells)
    (block,) = comparison(maker.store)
    assert block.chance == ()
    assert beyond_chance(block) is None


def test_the_best_control_is_chance(maker):
    found = table(maker, (20.0, 40.0), (58.0, 22.0))
    (line,) = found.rows
    assert line.label == "ours"
    assert list(line.values) == ["consistency", "stability"]  # no control has an accuracy
    assert line.values["consistency"].value == pytest.approx(21 / 42)
    assert line.values["stability"].value == pytest.approx(30 / 60)
    assert "consistency 58.0 (c1); stability 40.0 (c0)" in found.facts[0]
    # One seed: there is no ± to explain.
    assert found.facts[1] == "the test: python -m bench compare METHOD CONTROL"


def test_controls_with_a_backbone_are_not_content_free(maker):
    metrics = {"consistency": {"version": "1", "parameters": {}}}
    cells = [maker.cell("ours", {"consistency": 79.0}, metrics=metrics)]
    cells.append(maker.cell("untrained", {"consistency": 60.0}, metrics=metrics, role="control"))
    maker.invocation(cells)
    (block,) = comparison(maker.store)
    (fact, _) = beyond_chance(block).facts
    assert fact == "0: the best control, 1: perfect; chance: consistency 60.0 (untrained)"


def test_nothing_is_beyond_a_perfect_control(maker):
    found = table(maker, (20.0, 100.0), (58.0, 100.0))
    (line,) = found.rows
    assert (line.values["stability"].status, line.values["stability"].notes) == ("n/a", (1,))
    assert found.notes == ("n/a: c0 and c1 are perfect in stability: it shows no content by itself",)
    assert line.values["consistency"].value == pytest.approx(0.5)


def test_without_controls_there_is_no_such_table(maker):
    assert table(maker) is None


def test_seeds_and_failures_carry_over(tmp_path):
    store = example_store(tmp_path)[0].store
    (block,) = comparison(store)
    found = beyond_chance(block)
    lines = {line.label: line for line in found.rows}
    assert set(lines) == {"ours", "protopnet", "ours (k=9)", "ours (k=5)", "blackbox"}
    entry = lines["ours"].values["consistency"]  # 73.0 +- 4.2 beside a constant of 65.0
    assert entry.value == pytest.approx((73 - 65) / 35)
    assert entry.spread == pytest.approx(block.rows[0].values["consistency"].spread / 35)
    assert lines["ours (k=9)"].values["consistency"].status == "oom"
    text = as_markdown([found])
    assert "consistency (0 to 1)" in text
    assert found.facts[1] == "±: over the seeds of the method alone; the test: python -m bench compare METHOD CONTROL"
    assert "0.23" in text
