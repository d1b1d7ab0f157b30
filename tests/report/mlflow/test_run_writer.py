"""Mirrored once more: nothing twice, nothing stale, nothing lost."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.contract import BenchError, RequestError
from bench.report.mlflow import Counts, Mirror
from bench.report.mlflow.cell_run import CellRun
from bench.report.mlflow.run_writer import SuiteRuns
from bench.results.store import Store
from tests.support.mlflow_runs import SCORES, one, runs
from tests.support.stores import FINISHED, STAMP, StoreMaker, epoch, example_store


def test_a_second_call_for_the_same_cells_makes_no_second_bars(home: Path) -> None:
    maker, cell = one(home)
    other = maker.cell("ours", SCORES, seed=1)
    maker.invocation([cell, other], "20260305-000000-000")
    mirror = Mirror(home)
    assert mirror.sync(maker.store, ["20260305-000000-000"]) == Counts(created=3)
    assert mirror.sync(maker.store) == Counts(created=1, unchanged=3)
    found = runs(mirror)
    assert set(found) == {"ours·demo·tiny·s0", "ours·demo·tiny·s1", STAMP, "20260305-000000-000"}
    assert found["20260305-000000-000"].data.tags["bench.cells"] == "2 of 2 cells done, 0 failed"
    assert mirror.sync(maker.store) == Counts(unchanged=4)


def test_a_second_time_nothing_is_written(home: Path) -> None:
    maker, _ = example_store(home)
    Mirror(home).sync(maker.store)
    before = (home / "mlflow.db").read_bytes()
    assert Mirror(home).sync(maker.store) == Counts(unchanged=9, waiting=1)
    assert (home / "mlflow.db").read_bytes() == before


def test_what_is_mirrored_is_not_even_read_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = StoreMaker(home)
    cells = [maker.cell("ours", SCORES, seed=seed) for seed in range(3)]
    maker.invocation(cells)
    Mirror(home).sync(maker.store)
    read: list[str] = []
    begin = CellRun.__init__

    def noted(self: CellRun, store: Any, record: Any, *rest: Any) -> None:
        read.append(record.name)
        begin(self, store, record, *rest)

    monkeypatch.setattr(CellRun, "__init__", noted)
    assert Mirror(home).sync(maker.store) == Counts(unchanged=4)
    assert read == []
    # One is newer than its mirror, of one the mirror was deleted: these two are written, and once only.
    maker.store.cell(cells[0]).clear()
    maker.finish(cells[0], {**SCORES, "accuracy": 91.0})
    mirror = Mirror(home)
    mirror.client.delete_run(runs(mirror)["ours·demo·tiny·s1"].info.run_id)
    assert mirror.sync(maker.store) == Counts(created=1, updated=2, unchanged=1)
    assert read == cells[:2]
    # Another time of the same content is no other content.
    os.utime(maker.store.cell(cells[2]).result / "result.json", (FINISHED + 1, FINISHED + 1))
    assert Mirror(home).sync(maker.store) == Counts(unchanged=4)
    assert read == cells[:2]


def test_a_mirror_that_was_killed_is_mended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = StoreMaker(home)
    maker.invocation([maker.cell("ours", SCORES, seed=seed, history=[epoch(0, "all", 0.5)]) for seed in range(3)])
    write, calls = SuiteRuns.log, []

    def killed(self: SuiteRuns, *content: Any) -> None:
        calls.append(content)
        write(self, *content)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SuiteRuns, "log", killed)
    with pytest.raises(KeyboardInterrupt):
        Mirror(home).sync(maker.store)
    monkeypatch.undo()
    mirror = Mirror(home)
    assert runs(mirror)["ours·demo·tiny·s1"].info.status == "RUNNING"
    # The second cell was begun, the third and the summary were not.
    assert mirror.sync(maker.store) == Counts(created=2, updated=1, unchanged=1)
    found = runs(mirror)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert len(mirror.client.get_metric_history(found["ours·demo·tiny·s1"].info.run_id, "train/loss")) == 1


def test_cells_share_a_transaction(home: Path) -> None:
    from sqlalchemy import Engine, event

    maker, commits, counts = StoreMaker(home), [], []

    def committed(connection: Any) -> None:
        commits.append(connection)

    for call, seeds in enumerate((range(1), range(1, 2), range(2, 7))):
        maker.invocation([maker.cell("ours", SCORES, seed=seed) for seed in seeds], f"20260305-00000{call}-000")
        mirror = Mirror(home)
        commits.clear()
        event.listen(Engine, "commit", committed)
        mirror.sync(maker.store)
        event.remove(Engine, "commit", committed)
        counts.append(len(commits))
    assert 0 < counts[1] == counts[2]  # the first makes the experiment


def test_of_a_transaction_that_failed_nothing_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = StoreMaker(home)
    maker.invocation([maker.cell("ours", SCORES, seed=seed) for seed in range(2)])
    mirror = Mirror(home)
    params = CellRun.params
    # No name for MLflow.
    monkeypatch.setattr(CellRun, "params", lambda cell: {**params(cell), "?" if "s1" in cell.title else "x": ""})
    with pytest.raises(BenchError, match="the results are safe"):
        mirror.sync(maker.store)
    assert runs(mirror) == {}
    monkeypatch.undo()
    assert mirror.sync(maker.store) == Counts(created=3)


def test_a_cell_that_failed_and_then_succeeded_is_replaced(home: Path) -> None:
    maker, cell = one(home, None, failure=("failed", "loss became nan"))
    mirror = Mirror(home)
    mirror.sync(maker.store)
    maker.finish(cell, SCORES)
    assert mirror.sync(maker.store) == Counts(updated=2)
    found = runs(mirror)
    assert set(found) == {STAMP, "ours·demo·tiny·s0"}
    assert found["ours·demo·tiny·s0"].info.status == found[STAMP].info.status == "FINISHED"
    assert "bench.reason" not in found["ours·demo·tiny·s0"].data.tags


def test_a_result_that_was_run_again_is_replaced(home: Path) -> None:
    maker, cell = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    maker.store.cell(cell).clear()
    maker.finish(cell, {**SCORES, "consistency": 71.0})
    assert mirror.sync(maker.store) == Counts(updated=2)
    found = runs(mirror)
    assert found["ours·demo·tiny·s0"].data.metrics["Scores/consistency"] == 71.0
    assert "71.0" in found[STAMP].data.tags["mlflow.note.content"]


def test_runs_that_someone_deleted_come_back(home: Path) -> None:
    maker, _ = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    mirror.client.delete_run(runs(mirror)[STAMP].info.run_id)
    assert mirror.sync(maker.store) == Counts(created=1, unchanged=1)
    mirror.client.delete_experiment(mirror.experiment("default"))
    assert mirror.sync(maker.store) == Counts(unchanged=2)


def test_invocations_share_cells_but_not_runs(home: Path) -> None:
    maker, cell = one(home)
    maker.invocation([cell], "20260305-000000-000", "table2")
    mirror = Mirror(home)
    assert mirror.sync(maker.store, [STAMP]) == Counts(created=2)
    assert mirror.sync(maker.store) == Counts(created=2, unchanged=2)
    assert set(runs(mirror, "table2")) == {"20260305-000000-000", "ours·demo·tiny·s0"}
    with pytest.raises(RequestError, match=r"no run 'x' in .*; the newest is '20260305-000000-000'"):
        mirror.sync(maker.store, ["x"])


def test_runs_of_the_former_layout_are_replaced(home: Path) -> None:
    """Earlier versions nested the cells in a run of the call, and both had the tag ``bench.invocation``."""
    maker, cell = one(home)
    mirror = Mirror(home)
    experiment = mirror.experiment("default")
    tags = {"bench.invocation": STAMP, "bench.complete": "0123456789abcdef"}
    parent = mirror.client.create_run(experiment, 0, tags, STAMP).info.run_id
    tags |= {"bench.cell": cell, "mlflow.parentRunId": parent}
    child = mirror.client.create_run(experiment, 0, tags, "ours·demo·tiny·s0").info.run_id
    live = mirror.client.create_run(experiment, 0, {**tags, "bench.shown": "{}"}, "ours·demo·tiny·s0")
    for run in (parent, child):
        mirror.client.set_terminated(run)
    assert live.info.status == "RUNNING"
    assert mirror.sync(maker.store) == Counts(updated=2)
    found = runs(mirror)
    assert set(found) == {"ours·demo·tiny·s0", STAMP}
    assert not {parent, child, live.info.run_id} & {run.info.run_id for run in found.values()}
    assert not any("mlflow.parentRunId" in run.data.tags for run in found.values())
    assert mirror.sync(maker.store) == Counts(unchanged=2)


def test_a_cell_that_was_deleted_or_begun_again_has_no_run(home: Path) -> None:
    maker, cell = one(home)
    other = maker.cell("ours", SCORES, seed=1)
    maker.invocation([cell, other])
    mirror = Mirror(home)
    assert mirror.sync(maker.store) == Counts(created=3)
    shutil.rmtree(maker.store.cell(cell).path)
    maker.store.cell(other).clear()
    assert mirror.sync(Store(home)) == Counts(updated=1, waiting=1)
    assert set(runs(mirror)) == {STAMP}


def test_one_cell_is_synchronised_alone(home: Path) -> None:
    maker, cell = one(home)
    other = maker.cell("ours", SCORES, seed=1)
    maker.invocation([cell, other])
    mirror = Mirror(home)
    assert mirror.sync(maker.store, [STAMP], cell=other) == Counts(created=1)
    assert mirror.sync(maker.store, [STAMP], cell=other) == Counts(unchanged=1)
    assert set(runs(mirror)) == {"ours·demo·tiny·s1"}
    assert mirror.sync(maker.store) == Counts(created=2, unchanged=1)


def test_folders_that_share_a_home_keep_their_runs(home: Path) -> None:
    for number, folder in enumerate(("first", "second")):
        maker = StoreMaker(home / folder)
        maker.invocation([maker.cell("ours", SCORES, seed=number)], f"20260305-000000-00{number}")
        assert Mirror(home).sync(maker.store) == Counts(created=2)
    assert len(runs(Mirror(home))) == 4
