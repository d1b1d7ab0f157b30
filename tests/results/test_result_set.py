"""Which cells are selected, which share a table, and which of several cells speaks for a seed."""

import pytest

from bench.contract import RequestError
from bench.results.aggregate import SeedGroup
from bench.results.cell_record import CellRecord
from bench.results.result_set import ResultSet, comparable
from tests.support.comparisons import ACCURACY, accuracy, drawn


def test_select_by_field_and_property(maker):
    cells = {(name, seed): accuracy(maker, name, drawn(0.5, seed), seed=seed)
             for name in ("ours", "tesnet") for seed in (0, 1)}  # fmt: skip
    failed = maker.cell("ours", metrics=ACCURACY, seed=2, failure=("oom", "tried 40 GiB"))
    maker.invocation([*cells.values(), failed])
    every = ResultSet.of(maker.store)
    assert [cell.name for cell in every.select(method="ours", seed=1)] == [cells["ours", 1]]
    assert [cell.name for cell in every.select(status="oom")] == [failed]
    assert len(every.select(label="tesnet", role="method")) == 2
    assert set(every.select(status="done").to_pandas()["cell"]) == set(cells.values())
    with pytest.raises(RequestError, match=r"cells have no 'colour'; they have .*label, role and status"):
        every.select(colour="red")


def test_comparison_of_selected_cells_alone(maker):
    cells = [accuracy(maker, name, drawn(share, seed), seed=seed)
             for name, share in (("ours", 0.9), ("tesnet", 0.5)) for seed in (0, 1)]  # fmt: skip
    maker.invocation(cells)
    contest = ResultSet.of(maker.store).select(seed=1).compare("ours", "tesnet")
    assert [one.seeds for one in contest.comparisons] == [((1,), (1,))]
    assert contest.facts[-1] == "cells: 2 chosen"
    with pytest.raises(RequestError, match="two or more different methods"):
        ResultSet.of(maker.store).compare("ours", "ours")


def record(name, seed=0, value=None, failure=None, referenced=False, **spec):
    """Return a cell with one metric, as `Store.record` reads it."""
    spec = {"dataset": "demo", "data_digest": "d", "protocol": {}, "on_bad_image": "raise", "method": "ours",
            "seed": seed, "metrics": {"accuracy": {"version": "1", "parameters": {}}}, **spec}  # fmt: skip
    result = None if value is None else {"scores": {"accuracy": {"value": value, "n": 1}}, "facts": {}}
    return CellRecord(name, {"spec": spec, "not_applicable": {}}, result, failure, referenced=referenced)


@pytest.mark.parametrize(
    ("cells", "speaks"),
    [
        ([record("new"), record("old", value=1.0)], "old"),
        ([record("new", value=1.0), record("old", value=2.0)], "new"),
        ([record("new", value=1.0), record("beside", value=2.0, referenced=True)], "beside"),
        ([record("new"), record("old", failure={"status": "failed", "reason": "NaN"})], "old"),
        ([record("other", value=1.0, metrics={}), record("asked")], "asked"),
    ],
    ids=["value", "newest", "black box in the same run", "reason", "requested"],
)
def test_cell_that_speaks_for_a_seed(cells, speaks):
    assert SeedGroup(tuple(cells), "ours").speaking("accuracy")[0].name == speaks


def test_cells_apart_in_data_view_or_definition():
    plain, split = record("a"), record("b", split="test")
    apart = [record("c", split="train"), record("d", data_digest="e"), record("e", on_bad_image="skip"),
             record("f", protocol={"size": 224}),
             record("g", metrics={"accuracy": {"version": "2", "parameters": {}}})]  # fmt: skip
    groups = comparable([plain, *apart, split])
    assert [[cell.name for cell in members] for _, members in groups] == [["a", "b"], *[[cell.name] for cell in apart]]
    assert len(comparable([plain, apart[-1]], metrics=["consistency"])) == 1


@pytest.mark.parametrize(
    ("cell", "status", "state"),
    [
        (record("a", value=1.0), "done", "done"),
        (record("b"), "missing", "not finished"),
        (record("c", failure={"status": "oom", "reason": "40 GiB"}), "oom", "out of memory: 40 GiB"),
        (record("d", failure={"status": "failed", "reason": "NaN"}), "failed", "failed: NaN"),
    ],
)
def test_status_of_a_cell(cell, status, state):
    assert (cell.status, cell.state) == (status, state)
    assert cell.score("accuracy")[0] == ("ok" if status == "done" else status)
