"""Intervals of stored cells: from their tables, or the reason why there is none."""

import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from scipy import stats

from bench.cli.main import main
from bench.contract import Aggregate
from bench.report import comparison
from bench.report.renderers import as_markdown, as_text
from bench.results.stats.bootstrap import NoInterval, interval, sample
from bench.results.stats.intervals import with_intervals
from bench.results.stats.units import Items, sample_of
from tests.support.stores import METRICS, example_store, reseal

FACTS = METRICS["accuracy"]
REGION = {"version": "1", "parameters": {"half_size": 36, "size": 224, "threshold": 0.8}}


def images(right, count=100):
    """An accuracy table in which the first images are right."""
    hit = [int(i < right) for i in range(count)]
    return {"accuracy.image": {"index": range(count), "label": [0] * count, "prediction": hit, "correct": hit}}


def prototypes(passed):
    """A consistency table of classes with some prototypes each: ``passed[class]`` of them are consistent."""
    rows = [(place, label, hit) for label, hits in enumerate(passed) for place, hit in enumerate(hits)]
    return {
        "consistency.prototype": dict(zip(("prototype", "class", "consistent"), zip(*rows, strict=True), strict=True))
    }


def by_metric(store):
    return {row.metric: row for row in with_intervals(store, store.rows())}


def test_the_interval_of_a_stored_accuracy(maker):
    maker.cell("ours", {"accuracy": 70.0}, items=images(70), metrics={"accuracy": FACTS})
    row = by_metric(maker.store)["accuracy"]
    wilson = stats.binomtest(70, 100).proportion_ci(method="wilson")
    assert (row.low, row.high) == pytest.approx((100 * wilson.low, 100 * wilson.high), abs=2)
    assert row.low < row.value == 70 < row.high
    assert row.reason == ""


def test_consistency_is_resampled_by_class(maker):
    """Prototypes of a class share its images: all of them pass or none, so there are 20 units and not 60."""
    passed = [[1, 1, 1] if label < 8 else [0, 0, 0] for label in range(20)]
    maker.cell("ours", {"consistency": 40.0}, items=prototypes(passed), metrics={"consistency": REGION})
    row = by_metric(maker.store)["consistency"]
    wilson = stats.binomtest(8, 20).proportion_ci(method="wilson")
    assert (row.low, row.high) == pytest.approx((100 * wilson.low, 100 * wilson.high), abs=4)


def test_a_table_that_gives_another_value_has_no_interval(maker):
    maker.cell("ours", {"accuracy": 71.0}, items=images(70), metrics={"accuracy": FACTS})
    row = by_metric(maker.store)["accuracy"]
    assert (row.low, row.high, row.value, row.status) == (None, None, 71.0, "ok")
    assert row.reason == "no interval: its table gives 70, stored is 71"


@pytest.mark.parametrize(
    ("metric", "facts", "items", "reason"),
    [
        ("cost", {"version": "1", "parameters": {}}, {}, "it is measured once, not per image"),
        ("elsewhere", FACTS, {}, "the metric is not known here: name its file with --plugin"),
        ("consistency", {"version": "1", "parameters": {"radius": 3}}, {}, "no longer has the parameters"),
        ("stability", {"version": "1", "parameters": {}}, {"stability.prototype": {"class": [0, 1]}},
         "has no column 'stable': it was written by an earlier version"),
        ("accuracy", FACTS, {"accuracy.image": {"index": [0], "correct": ["yes"]}}, "something else than numbers"),
        ("accuracy", FACTS, {"accuracy.image": {"index": [], "correct": []}}, "no row that counts"),
        ("accuracy", FACTS, {"accuracy.image": {"index": [0, 1], "correct": [1, "nan"]}}, "not finite"),
        ("accuracy", FACTS, {"accuracy.image": {"index": [0], "correct": [1]}}, "one of its images"),
    ],
)  # fmt: skip
def test_why_there_is_no_interval(maker, metric, facts, items, reason):
    maker.cell("ours", {metric: 100.0}, items=items, metrics={metric: facts})
    row = by_metric(maker.store)[metric]
    assert (row.low, row.high) == (None, None)
    assert reason in row.reason


def test_a_lost_table_is_named(maker):
    cell = maker.cell("ours", {"accuracy": 70.0}, metrics={"accuracy": FACTS})
    file = maker.store.cell(cell).result / "items" / "accuracy.image.csv"
    file.unlink()
    assert "accuracy.image.csv is not on disk" in by_metric(maker.store)["accuracy"].reason
    file.write_bytes(b'index,correct\n0,1,2\n0\n"')
    assert "accuracy.image.csv was changed after it was written" in by_metric(maker.store)["accuracy"].reason
    reseal(file.parent.parent)
    assert "accuracy.image.csv cannot be read" in by_metric(maker.store)["accuracy"].reason


def test_further_numbers_have_intervals_too(maker):
    facts = {"stability": {"version": "1", "parameters": {}}}
    classes = [0, 0, 1, 1, 2, 2]
    stable, hit = [1, 0, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1]
    tables = {
        "stability.prototype": {"prototype": range(3), "class": range(3), "stable": [0.5, 1.0, 0.0], "images": [2] * 3},
        "stability.image": {"index": range(6), "prototype": classes, "class": classes, "stable": stable, "hit": hit},
    }
    cell = maker.cell("ours", {"stability": 50.0}, items=tables, metrics=facts)
    file = maker.store.cell(cell).result / "result.json"
    content = json.loads(file.read_text())
    content["scores"]["stability"]["also"] = {"empty": 100 / 6, "where_hit": 40.0, "soft": 3.0, "new": 1.0}
    file.write_text(json.dumps(content))
    reseal(file.parent)
    found = by_metric(maker.store)
    for name in ("stability", "stability.empty", "stability.where_hit"):
        assert found[name].low < found[name].value < found[name].high
    assert found["stability.soft"].reason == "no interval: which parts are shared is not in its table"
    assert "does not say how it follows" in found["stability.new"].reason


def test_failed_and_unfinished_cells_are_left_as_they_are(tmp_path):
    store = example_store(tmp_path)[0].store
    before = store.rows()
    after = with_intervals(store, before)
    assert [row.status for row in after] == [row.status for row in before]
    # The tables of that store are not those of its scores.
    assert all(row.low is None and row.reason for row in after)


def test_the_unit_the_weight_and_the_direction_are_as_declared():
    table = {"index": np.array([0, 0, 1]), "a": np.array([1.0, 3.0, 5.0]), "w": np.array([1.0, 1.0, 2.0])}
    declared = Aggregate("image", lambda columns: 2 * columns["a"], "index", weight="w", scale=10.0)
    found = sample_of(declared, table, 70.0)
    assert found.value == 70
    assert found.kind == "images"
    assert found.weight.tolist() == [2, 2]
    with pytest.raises(NoInterval, match="gives 70, stored is 69"):
        sample_of(declared, table, 69.0)


def test_pooled_prototypes_are_units_of_their_own(tmp_path):
    pooled = {"version": "1", "parameters": {"pooled": True}}
    assert Items(tmp_path, "consistency", pooled).aggregate().by == "prototype"
    assert Items(tmp_path, "consistency", REGION).aggregate().by == "class"


def test_results_on_the_command_line_have_low_and_high(maker, monkeypatch):
    maker.cell("ours", {"accuracy": 70.0}, items=images(70), metrics={"accuracy": FACTS})
    monkeypatch.setenv("BENCH_HOME", str(maker.store.root))
    (row,) = json.loads(CliRunner().invoke(main, ["results"]).stdout)
    assert row["low"] < 70 < row["high"]
    table = CliRunner().invoke(main, ["results", "--csv"]).stdout.splitlines()
    assert f"{row['low']},{row['high']}" in table[1]


def test_reports_show_intervals_beside_values_when_asked(maker):
    metrics = {"accuracy": FACTS, "cost": {"version": "1", "parameters": {}, "unit": "ms"}}
    cells = [
        maker.cell("ours", {"accuracy": value, "cost": 2.0}, seed=seed, items=images(int(value)), metrics=metrics)
        for seed, value in enumerate((70.0, 80.0))
    ]
    cells.append(maker.cell("tesnet", {"accuracy": 60.0, "cost": 2.0}, items=images(60), metrics=metrics))
    maker.invocation(cells)
    (plain,) = comparison(maker.store)
    assert all(entry.low is None for row in plain.rows for entry in row.values.values())
    (block,) = comparison(maker.store, intervals=True)
    ours, tesnet = (row.values["accuracy"] for row in block.rows)
    samples = [sample(range(100), [100.0 * (i < right) for i in range(100)]) for right in (70, 80)]
    expected = interval(samples)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))
    assert tesnet.low < 60 < tesnet.high
    markdown = as_markdown([block])
    assert f"**75.0** ± 7.1 [{ours.low:.1f}, {ours.high:.1f}]" in markdown
    assert "no interval: it is measured once, not per image" in markdown
    assert "bootstrap over images (accuracy)" in markdown
    for width in (100, 52):
        stream = io.StringIO()
        as_text([block], Console(file=stream, width=width))
        lines = stream.getvalue().splitlines()
        (own,) = [place for place, line in enumerate(lines) if line.startswith(" tesnet")]
        # Where there is no room beside the value, the interval stands below it.
        assert f"[{tesnet.low:.1f}, {tesnet.high:.1f}]" in lines[own + (width == 52)]
        assert "60.0" in lines[own]


def test_the_report_command_has_the_option(maker, monkeypatch):
    maker.invocation([maker.cell("ours", {"accuracy": 70.0}, items=images(70), metrics={"accuracy": FACTS})])
    monkeypatch.setenv("BENCH_HOME", str(maker.store.root))
    assert "70.0 [" in CliRunner().invoke(main, ["report", "--intervals"]).stdout
    assert "70.0 [" not in CliRunner().invoke(main, ["report"]).stdout
