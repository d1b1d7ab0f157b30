"""Intervals that were made before are found, and never outlive what they were made from."""

import json
import subprocess
import sys

import pytest

from bench.results.stats import declarations, interval_cache
from bench.results.stats.compare import compare
from bench.results.stats.intervals import with_intervals
from tests.support.stores import StoreMaker, reseal

FACTS = {"version": "1", "parameters": {}}


def images(right, count=100):
    return {"accuracy.image": {"index": list(range(count)), "correct": [int(i < right) for i in range(count)]}}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store with one cell, and a home beside it."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    maker = StoreMaker(tmp_path / "store")
    maker.cell("ours", {"accuracy": 70.0}, items=images(70), metrics={"accuracy": FACTS})
    return maker.store


def kept(tmp_path):
    """Rows with intervals, without the declarations of metrics."""
    return sorted((tmp_path / "home" / "intervals").glob("??/*.json"))


def test_a_second_reading_gives_the_same_and_makes_nothing(store, tmp_path, monkeypatch):
    first = with_intervals(store, store.rows())
    assert first[0].low < 70 < first[0].high
    assert len(kept(tmp_path)) == 1
    monkeypatch.setattr("bench.results.stats.intervals.interval", None)
    assert with_intervals(store, store.rows()) == first


def test_a_reason_is_kept_too(tmp_path, store, monkeypatch):
    StoreMaker(store.root).cell("ours", {"accuracy": 71.0}, seed=1, items=images(70), metrics={"accuracy": FACTS})
    first = with_intervals(store, store.rows())
    assert [row.reason for row in first if row.reason] == ["no interval: its table gives 70, stored is 71"]
    monkeypatch.setattr("bench.results.stats.intervals.interval", None)
    monkeypatch.setattr("bench.results.stats.units.sample", None)
    assert with_intervals(store, store.rows()) == first


def changed_table(store, file):
    file.write_text(file.read_text().replace("99,0", "99,1"))


def changed_value(store, _):
    folder = store.cell(store.cells()[0]).result
    file = folder / "result.json"
    file.write_text(file.read_text().replace("70.0", "60.0"))
    reseal(folder)


def lost_table(store, file):
    file.unlink()


@pytest.mark.parametrize("change", [changed_table, changed_value, lost_table])
def test_what_has_changed_is_worked_out_again(store, change):
    before = with_intervals(store, store.rows())[0]
    change(store, store.cell(store.cells()[0]).result / "items" / "accuracy.image.csv")
    after = with_intervals(store, store.rows())[0]
    assert before.low is not None
    assert (after.low, after.high) == (None, None)
    assert after.reason.startswith("no interval")


def test_a_repaired_digest_is_seen(store):
    folder = store.cell(store.cells()[0]).result
    sealed = (folder / "digests.json").read_text()
    altered = {**json.loads(sealed), "items/accuracy.image.csv": "0" * 64}
    (folder / "digests.json").write_text(json.dumps(altered))
    assert "was changed" in with_intervals(store, store.rows())[0].reason
    (folder / "digests.json").write_text(sealed)
    assert with_intervals(store, store.rows())[0].low is not None


def test_other_code_makes_them_again(store, monkeypatch):
    with_intervals(store, store.rows())
    monkeypatch.setattr(interval_cache, "code_of_intervals", lambda: "other")
    monkeypatch.setattr("bench.results.stats.intervals.interval", None)
    with pytest.raises(TypeError):
        with_intervals(store, store.rows())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1, "rows": []}'])
def test_a_damaged_entry_is_made_again(store, tmp_path, text):
    first = with_intervals(store, store.rows())
    kept(tmp_path)[0].write_text(text)
    assert with_intervals(store, store.rows()) == first
    assert "rows" in json.loads(kept(tmp_path)[0].read_text())


def test_without_a_home_nothing_is_written(store, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "nowhere"))
    assert with_intervals(store, store.rows())[0].low is not None
    assert not (tmp_path / "nowhere").exists()


def test_metrics_of_plugins_are_not_kept(store, tmp_path, monkeypatch):
    monkeypatch.setattr(declarations, "_OURS", "elsewhere.")
    with_intervals(store, store.rows())
    assert not kept(tmp_path)


def test_reading_again_needs_no_torch(store):
    with_intervals(store, store.rows())
    code = "import sys; from bench.cli.main import main; main(sys.argv[1:], standalone_mode=False); "
    code += "assert not {'torch', 'pandas', 'scipy'} & set(sys.modules)"
    for command in (["show", store.cells()[0]], ["results"], ["results", "--no-intervals"]):
        subprocess.run(
            [sys.executable, "-c", code, *command, "--out", str(store.root)], check=True, stdout=subprocess.DEVNULL
        )


def test_a_comparison_is_kept_until_a_cell_changes(store, tmp_path, monkeypatch):
    maker = StoreMaker(store.root)
    maker.cell("protopnet", {"accuracy": 40.0}, items=images(40), metrics={"accuracy": FACTS})
    first = compare(store, ["ours", "protopnet"])
    assert first.comparisons[0].p < 0.05
    with monkeypatch.context() as patch:
        patch.setattr("bench.results.stats.compare.Judge", None)
        assert compare(store, ["ours", "protopnet"]) == first
        with pytest.raises(TypeError):
            compare(store, ["protopnet", "ours"])
    # The value is another one now, and its table does not give it.
    folder = next(path for path in (store.root / "cells").iterdir() if "protopnet" in (path / "cell.json").read_text())
    file = folder / "result" / "result.json"
    file.write_text(file.read_text().replace("40.0", "41.0"))
    reseal(file.parent)
    again = compare(store, ["ours", "protopnet"])
    assert again.comparisons[0].values == (70.0, 41.0)
    assert again.comparisons[0].verdict == "not tested"
