"""Curves and load, of cells that are done and of cells that are being computed."""

from pathlib import Path

import pytest

from bench.core.resource_usage import COLUMNS
from bench.report.mlflow import Counts, Follower, Mirror
from bench.results.store import write_json
from tests.support.mlflow_runs import SCORES, one, runs
from tests.support.stores import FINISHED, StoreMaker, epoch


def usage(folder: Path, rows: int) -> None:
    """A table of usage: a row every five seconds, two cores busy, 100 MB, a GPU at 50 % and 200 W."""
    text = [f"{FINISHED - 100 + 5 * row},5.0,10.0,100000000,,2.5,300000000,1000.0" for row in range(1, rows + 1)]
    (folder / "usage.csv").write_text("\n".join([",".join(COLUMNS), *text, ""]))


def test_the_load_of_the_machine_is_on_the_page_for_it(home: Path) -> None:
    maker, cell = one(home)
    usage(maker.store.cell(cell).result, 3)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    run = runs(mirror)["ours·demo·tiny·s0"]
    loads = {name: value for name, value in run.data.metrics.items() if name.startswith("system/")}
    assert loads == {
        "system/process_memory_megabytes": 100.0,
        "system/processor_cores_busy": 2.0,
        "system/gpu_0_memory_usage_megabytes": 300.0,
        "system/gpu_0_utilization_percentage": 50.0,
        "system/gpu_0_power_usage_watts": 200.0,
    }
    points = mirror.client.get_metric_history(run.info.run_id, "system/processor_cores_busy")
    assert [(point.step, point.timestamp) for point in points] == [
        (step, round(1000 * (FINISHED - 95 + 5 * step))) for step in range(3)
    ]
    assert run.info.start_time == 1000 * (FINISHED - 100)


def test_curves_grow_in_training_and_stay_afterwards(home: Path) -> None:
    maker, cell = one(home, None)
    work, rows = maker.store.cell(cell).work, [epoch(number, "all", 0.5**number) for number in range(4)]
    work.mkdir()
    mirror = Mirror(home)

    def losses() -> list[tuple[int, float]]:
        run = runs(mirror)["ours·demo·tiny·s0"]
        points = mirror.client.get_metric_history(run.info.run_id, "train/loss")
        return [(point.step, point.value) for point in points]

    write_json(work / "history.json", rows[:2])
    usage(work, 1)
    assert mirror.sync(maker.store) == Counts(created=1, waiting=1)
    live = runs(mirror)["ours·demo·tiny·s0"]
    assert (live.info.status, live.data.tags["status"], live.data.params["label"]) == ("RUNNING", "running", "ours")
    write_json(work / "history.json", rows[:3])
    Mirror(home).sync(maker.store)  # another process goes on with the same run
    assert runs(mirror)["ours·demo·tiny·s0"].info.run_id == live.info.run_id
    assert losses() == [(0, 1.0), (1, 0.5), (2, 0.25)]
    # Begun from nothing once more: what was seen before is no part of it.
    write_json(work / "history.json", [epoch(0, "all", 7.0)])
    mirror.sync(maker.store)
    assert losses() == [(0, 7.0)]
    maker.finish(cell, SCORES, rows)
    mirror.sync(maker.store)
    assert losses() == [(number, 0.5**number) for number in range(4)]
    assert runs(mirror)["ours·demo·tiny·s0"].info.status == "FINISHED"


def test_follower_writes_changes_and_reports_trouble_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    maker, cell = one(home, None)
    follower = Follower(home, maker.store, None, said=said.append)
    assert follower.finish().waiting == 1
    monkeypatch.setattr(Mirror, "sync", lambda *_: pytest.fail("nothing has changed"))
    follower.finish()
    monkeypatch.undo()
    maker.finish(cell, SCORES)
    assert follower.finish() == Counts(created=2, updated=1)
    clock = [1000.0]
    monkeypatch.setattr("bench.report.mlflow.live.time.monotonic", lambda: clock[0])
    nowhere = Follower(home, maker.store, "sqlite:////proc/nowhere/mlflow.db", said=said.append)
    for _ in range(2):
        nowhere.look()
        clock[0] += 1000
    assert len(said) == 1


def test_curves_have_steps(home: Path) -> None:
    maker, _ = one(home, history=[epoch(0, "warm", 0.9), epoch(1, "joint", 0.5)], black_box_id="feed")
    maker.black_box("feed", [epoch(number, "all", 0.1 * number) for number in range(400)])
    mirror = Mirror(home)
    mirror.sync(maker.store)
    run = runs(mirror)["ours·demo·tiny·s0"].info.run_id
    points = mirror.client.get_metric_history(run, "train/loss")
    assert [(point.step, point.value) for point in points] == [(0, 0.9), (1, 0.5)]
    assert points[1].timestamp - points[0].timestamp == 2000
    # 400 epochs of three curves are more than MLflow takes in one call.
    assert len(mirror.client.get_metric_history(run, "blackbox/loss")) == 400


def test_a_history_costs_as_many_calls_however_long_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, calls = Mirror(home), []
    log_batch = mirror.client.log_batch
    monkeypatch.setattr(mirror.client, "log_batch", lambda *given: (calls.append(len(given[1])), log_batch(*given)))
    counts = []
    for seed, epochs in enumerate((1, 100)):
        maker = StoreMaker(home)
        history = [epoch(number, "all", 0.5) for number in range(epochs)]
        maker.invocation([maker.cell("ours", SCORES, seed=seed, history=history)], f"20260305-00000{seed}-000")
        calls.clear()
        mirror.sync(maker.store)
        counts.append(len(calls))
    assert sum(calls) >= 100
    assert counts[0] == counts[1]
