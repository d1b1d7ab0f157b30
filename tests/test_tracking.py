import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from stores import FINISHED, METRICS, SCHEDULE, STAMP, StoreMaker, epoch, example_store

from bench.contract import BenchError, RequestError
from bench.store import write_json
from bench.tracking import Counts, Follower, Mirror, address
from bench.tracking.cell import TrackedCell
from bench.usage import COLUMNS

SCORES = {"accuracy": 90.0, "consistency": 70.0, "stability": 80.0}


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh database. Making one takes MLflow seconds; a copy takes none."""
    pytest.importorskip("mlflow")
    home = tmp_path_factory.mktemp("template")
    Mirror(home)
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``BENCH_HOME`` with a fresh database; the working directory is another, empty one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    # Matplotlib has been told before, and makes a folder there only when it is imported.
    monkeypatch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(tmp_path / "fonts")))
    # A blank in the path, as people have them.
    home = tmp_path / "my home"
    home.mkdir()
    (home / "mlflow.db").write_bytes(template.read_bytes())
    return home


def runs(mirror: Mirror, suite: str = "default") -> dict[str, Any]:
    """Active runs by name; fails where two have the same."""
    experiment = mirror.client.get_experiment_by_name(f"partbench/{suite}")
    found = mirror.client.search_runs([experiment.experiment_id])
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), names
    return dict(zip(names, found, strict=True))


def experiments(mirror: Mirror) -> list[str]:
    return [one.experiment_id for one in mirror.client.search_experiments()]


def artifacts(mirror: Mirror, run: Any, folder: str | None = None) -> list[str]:
    files: list[str] = []
    for item in mirror.client.list_artifacts(run.info.run_id, folder):
        files += artifacts(mirror, run, item.path) if item.is_dir else [item.path]
    return files


def one(home: Path, scores: dict[str, float] | None = SCORES, **facts: Any) -> tuple[StoreMaker, str]:
    maker = StoreMaker(home)
    cell = maker.cell("ours", scores, **facts)
    maker.invocation([cell])
    return maker, cell


def test_every_finished_cell_is_a_run_under_its_invocation(home: Path) -> None:
    maker, cells = example_store(home)
    mirror = Mirror(home)
    assert mirror.sync(maker.store) == Counts(created=9, waiting=1)
    found = runs(mirror)
    parent = found.pop(STAMP)
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert {run.data.tags["bench.cell"] for run in found.values()} == set(cells.values()) - {cells["ours-late"]}
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["bench.cells"] == "6 of 9 cells done, 2 failed"
    assert "| **91.0** ± 1.4 |" in parent.data.tags["mlflow.note.content"]
    assert artifacts(mirror, parent) == ["figures/scores.png", "plan.yaml", "report.md"]


def test_a_run_holds_what_the_cell_is(home: Path) -> None:
    maker, cell = one(home, settings={"k": 3, "schedule": SCHEDULE, "long": "x" * 900}, backbone="resnet34", seed=7)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    run = runs(mirror)["ours·demo·resnet34·s7"]
    params, tags = run.data.params, run.data.tags
    assert (params["settings.k"], params["protocol.crop"], params["black_box"]) == ("3", "bbox", "none")
    assert params["metrics.consistency.threshold"] == "0.8"
    assert params["settings.schedule.phases.2 joint"] == (
        "epochs 2, action project, lr (add_on 0.003, backbone 0.0001), optimizer adam, weight_decay (backbone 0.001)"
    )
    assert len(params["settings.long"]) == 500
    expected = {
        "method": "ours",
        "dataset": "demo",
        "backbone": "resnet34",
        "row": "ours·demo·resnet34",
        "seed": "7",
        "device": "cpu",
        "status": "ok",
    }
    expected |= {"bench.cell": cell, "bench.suite": "default", "bench.version": "0.1.0", "bench.git": "abc123"}
    expected |= {"mlflow.source.git.commit": "abc123", "version.torch": "2.13.0", "version.python": "3.11.9"}
    assert expected.items() <= tags.items()
    assert run.data.metrics["consistency"] == 70.0
    assert run.data.metrics["fact/worst residual"] == 0.125
    assert run.data.metrics["seconds/fit"] == 90.0
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1000 * FINISHED)
    assert run.info.end_time - run.info.start_time == 100_000
    note = tags["mlflow.note.content"].splitlines()
    assert "| consistency | 70 | % | 24 | higher |" in note
    assert f"`python -m bench show {cell}`" in note[-1]


def test_a_metric_that_is_no_percentage_has_its_unit_in_its_name(home: Path) -> None:
    cost = {"unit": "ms", "higher_is_better": False, "version": "1", "parameters": {}}
    maker, _ = one(home, {"accuracy": 90.0, "cost": 4.5}, metrics={"accuracy": METRICS["accuracy"], "cost": cost})
    mirror = Mirror(home)
    mirror.sync(maker.store)
    run = runs(mirror)["ours·demo·tiny·s0"]
    assert (run.data.metrics["accuracy"], run.data.metrics["cost ms"]) == (90.0, 4.5)
    assert "| cost | 4.5 | ms | 24 | lower |" in run.data.tags["mlflow.note.content"]


def test_scores_hang_on_the_images_and_on_the_model(home: Path) -> None:
    maker, cell = one(home)
    other = maker.cell("ours", {**SCORES, "accuracy": 50.0}, digest="another tree")
    refused = dict.fromkeys(("accuracy", "stability"), "predicts no class")
    control = maker.cell("constant", {"consistency": 1.0}, role="control", backbone=None, not_applicable=refused)
    maker.invocation([cell, other, control])
    mirror = Mirror(home)
    mirror.sync(maker.store)
    found = {run.data.tags["bench.cell"]: run for run in mirror.client.search_runs(experiments(mirror))
             if "bench.cell" in run.data.tags}  # fmt: skip
    inputs = {
        name: {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs} for name, run in found.items()
    }
    assert {context: data.name for context, data in inputs[cell].items()} == {
        "training": "demo train",
        "evaluation": "demo test",
    }
    assert json.loads(inputs[cell]["evaluation"].profile) == {"images": 40}
    assert json.loads(inputs[cell]["evaluation"].source)["data_digest"] == "5d41402abc4b2a76"
    assert inputs[cell]["evaluation"].digest == inputs[control]["evaluation"].digest
    assert inputs[cell]["evaluation"].digest != inputs[other]["evaluation"].digest
    good = mirror.client.search_logged_models(experiments(mirror), "metrics.accuracy > 80")
    assert [(model.tags["bench.cell"], model.model_type, model.status.value) for model in good] == [
        (cell, "part-prototype", "READY")
    ]
    assert good[0].source_run_id == found[cell].info.run_id
    assert {metric.dataset_digest for metric in good[0].metrics} == {inputs[cell]["evaluation"].digest}
    # The model is where its weights are, not a copy of them; a control has none.
    assert good[0].tags["weights"] == str(maker.store.cell(cell).result / "model.safetensors")
    assert len(mirror.client.search_logged_models(experiments(mirror))) == 2


def test_a_cell_that_is_written_anew_leaves_no_second_model(home: Path) -> None:
    maker, cell = one(home)
    Mirror(home).sync(maker.store)
    maker.store.cell(cell).clear()
    maker.finish(cell, {**SCORES, "accuracy": 95.0})
    mirror = Mirror(home)
    mirror.sync(maker.store)
    (model,) = mirror.client.search_logged_models(experiments(mirror))
    assert {metric.key: metric.value for metric in model.metrics}["accuracy"] == 95.0


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


def test_curves_grow_while_a_cell_is_trained_and_stay_when_it_is_done(home: Path) -> None:
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


def test_a_follower_writes_what_has_changed_and_tells_trouble_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr("bench.tracking.follow.time.monotonic", lambda: clock[0])
    nowhere = Follower(home, maker.store, "sqlite:////proc/nowhere/mlflow.db", said=said.append)
    for _ in range(2):
        nowhere.look()
        clock[0] += 1000
    assert len(said) == 1


def test_a_second_call_for_the_same_cells_makes_no_second_bars(home: Path) -> None:
    maker, cell = one(home)
    other = maker.cell("ours", SCORES, seed=1)
    maker.invocation([cell, other], "20260305-000000-000")
    mirror = Mirror(home)
    assert mirror.sync(maker.store, ["20260305-000000-000"]) == Counts(created=4)
    found = runs(mirror)
    parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in found.items()}
    assert parents["ours·demo·tiny·s0"] == found[STAMP].info.run_id
    assert parents["ours·demo·tiny·s1"] == found["20260305-000000-000"].info.run_id
    assert found["20260305-000000-000"].data.tags["bench.cells"] == "2 of 2 cells done, 0 failed"
    assert mirror.sync(maker.store) == Counts(unchanged=4)


def test_the_page_of_a_suite_explains_itself(home: Path) -> None:
    maker, _ = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    tags = mirror.client.get_experiment_by_name("partbench/default").tags
    assert "| accuracy | top-1 accuracy on the test split |" in tags["mlflow.note.content"]
    view = json.loads(tags["mlflow.sharedViewState.methods"])
    assert view["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "row"}]
    assert view["compareRunSections"][0]["name"] == "scores in %, higher is better"
    assert view["compareRunCharts"][0]["metricSectionId"] == view["compareRunSections"][0]["uuid"]
    assert address("http://host:5000/", "3") == (
        "http://host:5000/#/experiments/3/runs?viewStateShareKey=methods&compareRunsMode=CHART"
    )


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "localhost:5000"])
def test_an_address_that_is_none_says_how_to_write_one(tmp_path: Path, uri: str) -> None:
    with pytest.raises(RequestError, match=rf"--tracking-uri {uri}: write http://HOST:PORT"):
        Mirror(tmp_path, uri)


def test_a_server_that_is_not_there_is_no_fault_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(BenchError, match=r"^MLflow: no answer from http://127.0.0.1:9 .*results are safe"):
        Mirror(tmp_path, "http://127.0.0.1:9")


def test_tables_per_prototype_are_copied_and_weights_are_not(home: Path) -> None:
    maker, _ = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    expected = ["cell.json", "history.json", "items/consistency.prototype.csv", "items/stability.prototype.csv"]
    expected += ["log.txt", "result.json"]
    assert sorted(artifacts(mirror, runs(mirror)["ours·demo·tiny·s0"])) == expected
    assert not list(home.glob("mlartifacts/**/*.safetensors"))
    assert len(list(home.glob("mlartifacts/default/**/cell.json"))) == 1


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


def test_what_is_not_applicable_or_failed_says_why(home: Path) -> None:
    maker = StoreMaker(home)
    control = {"role": "control", "backbone": None}
    refused = dict.fromkeys(("accuracy", "stability"), "predicts no class")
    constant = maker.cell("constant", {"consistency": 1.0}, not_applicable=refused, **control)
    maker.invocation([constant, maker.cell("ours", failure=("oom", "tried 40 GiB"))])
    mirror = Mirror(home)
    mirror.sync(maker.store)
    found = runs(mirror)
    assert found["constant·demo·s0"].data.tags["n/a.accuracy"] == "predicts no class"
    failed = found["ours·demo·tiny·s0"]
    assert (failed.info.status, failed.data.tags["status"]) == ("FAILED", "oom")
    assert failed.data.tags["bench.reason"] == "tried 40 GiB"
    assert failed.data.metrics == {}
    assert found[STAMP].info.status == "FAILED"


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
    begin = TrackedCell.__init__

    def noted(self: TrackedCell, store: Any, name: str, *rest: Any) -> None:
        read.append(name)
        begin(self, store, name, *rest)

    monkeypatch.setattr(TrackedCell, "__init__", noted)
    assert Mirror(home).sync(maker.store) == Counts(unchanged=4)
    assert read == []
    # One is newer than its mirror, of one the mirror was deleted: these two are written, and once only.
    maker.store.cell(cells[0]).clear()
    maker.finish(cells[0], {**SCORES, "accuracy": 91.0})
    mirror = Mirror(home)
    mirror.client.delete_run(runs(mirror)["ours·demo·tiny·s1"].info.run_id)
    assert mirror.sync(maker.store) == Counts(created=1, updated=2, unchanged=1)
    # Another time of the same content is no other content: it is read once more, and nothing is written but that time.
    os.utime(maker.store.cell(cells[2]).result / "result.json", (FINISHED, FINISHED))
    read.clear()
    for again in ([cells[2]], []):
        assert Mirror(home).sync(maker.store) == Counts(unchanged=4)
        assert read == again
        read.clear()


def test_a_mirror_that_was_killed_is_mended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = StoreMaker(home)
    maker.invocation([maker.cell("ours", SCORES, seed=seed, history=[epoch(0, "all", 0.5)]) for seed in range(3)])
    write, calls = Mirror.write, []

    def killed(self: Mirror, *content: Any) -> None:
        calls.append(content)
        write(self, *content)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Mirror, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        Mirror(home).sync(maker.store)
    monkeypatch.undo()
    mirror = Mirror(home)
    assert runs(mirror)["ours·demo·tiny·s1"].info.status == "RUNNING"
    # The second child and the parent were begun, the third child was not.
    assert mirror.sync(maker.store) == Counts(created=1, updated=2, unchanged=1)
    found = runs(mirror)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert len(mirror.client.get_metric_history(found["ours·demo·tiny·s1"].info.run_id, "train/loss")) == 1


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
    assert found["ours·demo·tiny·s0"].data.metrics["consistency"] == 71.0
    assert "71.0" in found[STAMP].data.tags["mlflow.note.content"]


def test_runs_that_someone_deleted_come_back(home: Path) -> None:
    maker, _ = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    mirror.client.delete_run(runs(mirror)[STAMP].info.run_id)
    # The child hung on the deleted parent: it is written anew under the new one.
    assert mirror.sync(maker.store) == Counts(created=1, updated=1)
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


def test_nothing_appears_in_the_working_directory(home: Path) -> None:
    maker, _ = one(home)
    before = {path.name for path in home.iterdir()}
    Mirror(home).sync(maker.store)
    assert list(Path.cwd().iterdir()) == []
    assert {path.name for path in home.iterdir()} - before == {"mlartifacts", ".mlflow.lock"}


def test_a_cell_takes_well_under_a_second(home: Path) -> None:
    maker = StoreMaker(home)
    history = [epoch(number, "all", 0.5) for number in range(100)]
    maker.invocation([maker.cell("ours", SCORES, seed=seed, history=history) for seed in range(5)])
    mirror = Mirror(home)
    began = time.process_time()
    mirror.sync(maker.store)
    # Processor time, not the clock's: other work on the machine is not our slowness.
    assert (time.process_time() - began) / 5 < 0.5


def test_a_broken_database_is_an_error_that_says_what_to_do(home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "mlflow.db") as connection:
        connection.execute("update alembic_version set version_num = 'older'")
    with pytest.raises(
        RequestError, match=r"the mirror is only a copy: delete it, and `python -m bench sync` makes it"
    ):
        Mirror(home)


def test_a_failure_of_mlflow_says_that_results_are_safe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def full(*_: Any) -> None:
        raise MlflowException("database or disk is full\nand a long story")

    monkeypatch.setattr(Mirror, "write", full)
    maker, _ = one(home)
    with pytest.raises(BenchError, match=r"^MLflow: database or disk is full; the results are safe"):
        Mirror(home).sync(maker.store)


def test_a_cell_without_result_or_failure_has_not_ended(tmp_path: Path) -> None:
    maker, cell = one(tmp_path, None)
    tracked = TrackedCell(maker.store, cell, tmp_path)
    assert (tracked.ended, tracked.scores(), tracked.facts()) == (None, [], [])
