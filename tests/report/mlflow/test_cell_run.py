"""What a run in MLflow holds."""

import json
from pathlib import Path

import pytest
from matplotlib.container import ErrorbarContainer

from bench.report.mlflow import Counts, Mirror, address
from bench.report.mlflow.cell_run import CellRun
from bench.report.mlflow.chart import chart
from bench.report.mlflow.fields import rounded
from bench.report.table import Column, Row, Table, Value
from bench.results.aggregate import Entry
from bench.results.stats.intervals import with_intervals
from tests.support.mlflow_runs import SCORES, artifacts, experiments, one, runs
from tests.support.stores import FINISHED, METRICS, SCHEDULE, STAMP, StoreMaker, example_store


def test_every_finished_cell_is_a_run_beside_a_summary(home: Path) -> None:
    maker, cells = example_store(home)
    mirror = Mirror(home)
    assert mirror.sync(maker.store) == Counts(created=9, waiting=1)
    found = runs(mirror)
    parent = found.pop(STAMP)
    # Nested runs would be hidden in MLflow's list, which has the latest start at the top.
    assert not any("mlflow.parentRunId" in run.data.tags for run in found.values())
    assert parent.info.start_time >= max(run.info.start_time for run in found.values())
    assert parent.info.run_name == "default: 9 cells"
    assert all(name.startswith(run.data.tags["method"]) for name, run in found.items())
    assert {run.data.tags["bench.cell"] for run in found.values()} == set(cells.values()) - {cells["ours-late"]}
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["bench.cells"] == "6 of 9 cells done, 2 failed"
    assert "| **91.0** ± 1.4" in parent.data.tags["mlflow.note.content"]
    assert artifacts(mirror, parent) == ["figures/scores.png", "plan.json", "report.html", "report.md"]
    ours = {tag for run in (parent, *found.values()) for tag in run.data.tags if tag.startswith("mlflow.")}
    assert ours <= {"mlflow.note.content", "mlflow.runName", "mlflow.user"}


def test_a_run_holds_what_the_cell_is(home: Path) -> None:
    maker, cell = one(home, settings={"k": 3, "schedule": SCHEDULE, "long": "x" * 900}, backbone="resnet34", seed=7)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    run = runs(mirror)["ours·demo·resnet34·s7"]
    params, tags = run.data.params, run.data.tags
    assert (params["settings.k"], params["protocol.crop"], params["black_box"]) == ("3", "bbox", "none")
    assert params["metrics.consistency"] == "consistency v2, region ±36 px of 224, threshold 0.8"
    assert params["settings.schedule.phases.2 joint"] == (
        "epochs 2, action project, lr (add_on 0.003, backbone 0.0001), optimizer adam, weight_decay (backbone 0.001)"
    )
    assert len(params["settings.long"]) == 500
    expected = {
        "method": "ours",
        "dataset": "demo",
        "backbone": "resnet34",
        "seed": "7",
        "device": "cpu",
        "status": "ok",
    }
    expected |= {"bench.cell": cell, "bench.version": "0.1.0", "bench.git": "abc123"}
    expected |= {"version.torch": "2.13.0", "version.python": "3.11.9"}
    assert expected.items() <= tags.items()
    assert tags["row"].startswith("ours·demo·resnet34·demo·")
    assert run.data.metrics["Scores/consistency"] == 70.0
    assert run.data.metrics["fact/worst residual"] == 0.125
    assert run.data.metrics["seconds/fit"] == 90.0
    assert (run.info.status, run.info.end_time) == ("FINISHED", 1000 * FINISHED)
    assert run.info.end_time - run.info.start_time == 100_000
    note = tags["mlflow.note.content"].splitlines()
    assert "| consistency | 70 | % | 24 | higher |" in note
    assert f"`python -m bench show {cell}`" in note[-1]


def test_metric_without_percent_has_its_unit_in_its_name(home: Path) -> None:
    cost = {"unit": "ms", "higher_is_better": False, "version": "1", "parameters": {}}
    maker, _ = one(home, {"accuracy": 90.0, "cost": 4.5}, metrics={"accuracy": METRICS["accuracy"], "cost": cost})
    mirror = Mirror(home)
    mirror.sync(maker.store)
    run = runs(mirror)["ours·demo·tiny·s0"]
    assert (run.data.metrics["Scores/accuracy"], run.data.metrics["Scores/cost ms"]) == (90.0, 4.5)
    assert "| cost | 4.5 | ms | 24 | lower |" in run.data.tags["mlflow.note.content"]


def test_runs_name_their_images_and_weights(home: Path) -> None:
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
    # The tag has the place of the weights, which are not copied; a control has none.
    assert found[cell].data.tags["weights"] == str(maker.store.cell(cell).result / "model.safetensors")
    assert "weights" not in found[control].data.tags


def test_numbers_are_rounded_and_intervals_are_metrics(home: Path) -> None:
    metrics = {"accuracy": METRICS["accuracy"]}
    items = {"accuracy.image": {"index": range(40), "correct": [1, 1, 0, 1] * 10}}
    maker, cell = one(home, {"accuracy": 100 * 30 / 40 + 1e-9}, metrics=metrics, items=items)
    (row,) = with_intervals(maker.store, maker.store.rows([cell]))
    mirror = Mirror(home)
    mirror.sync(maker.store)
    found = runs(mirror)["ours·demo·tiny·s0"].data.metrics
    assert found["Scores/accuracy"] == 75.0
    assert row.low < 75 < row.high
    assert [found[f"details/accuracy.{side}"] for side in ("low", "high")] == [
        float(f"{bound:.4g}") for bound in (row.low, row.high)
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(71.42857, 71.43), (0.00123456, 0.001235), (21284672, 21284672.0), (-0.5, -0.5), (1e-30, 1e-30)],
)
def test_rounded_keeps_four_digits_and_counts(value: float, shown: float) -> None:
    assert rounded(value) == shown


def test_a_whisker_is_the_interval() -> None:
    column = Column("accuracy", "%")
    entries = [Entry("ok", 75.0, low=62.5, high=85.0), Entry("ok", 80.0), Entry("oom")]
    rows = tuple(Row(f"m{place}", {column.key: Value(entry)}) for place, entry in enumerate(entries))
    ((name, figure),) = chart([Table("demo", (column,), rows)])
    assert name == "scores"
    (bars,) = [one for one in figure.axes[0].containers if isinstance(one, ErrorbarContainer)]
    ends = [[x for x, _ in segment] for segment in bars.lines[2][0].get_segments() if len(segment)]
    assert ends == [[62.5, 85.0], [80.0, 80.0]]


def test_panels_go_on_below() -> None:
    columns = tuple(Column(f"metric {place}") for place in range(6))
    rows = (Row("m", {column.key: Value(Entry("ok", 1.0)) for column in columns}),)
    ((_, figure),) = chart([Table("demo", columns, rows)])
    seen = [one for one in figure.axes if one.get_visible()]
    assert [one.get_title() for one in seen] == [f"metric {place} ↑" for place in range(6)]
    assert {one.get_subplotspec().rowspan.start for one in seen} == {0, 1}


def test_runs_of_a_row_differ_in_seed_name_and_scores_only(tmp_path: Path) -> None:
    """The page averages over a row, and the tables never average over anything but seeds."""
    maker = StoreMaker(tmp_path)

    def row(**more: object) -> str:
        given = {"settings": {"k": 3}, "changed": [], **more}
        record = maker.store.record(maker.cell("ours", SCORES, **given))
        return CellRun(maker.store, record, tmp_path).row

    accuracy = {"accuracy": METRICS["accuracy"]}
    first = row()
    assert first == row(seed=1) == row(seed=2, label="ours (k=3)") == row(seed=3, metrics=accuracy)
    others = [
        row(protocol={"crop": "full", "size": 224}),
        row(digest="0ther"),
        row(recipe="published", settings={"k": 3, "schedule": SCHEDULE}),
        row(black_box_id="feed00000001"),
        row(backbone="resnet34"),
    ]
    assert len({first, *others}) == 6


def test_the_page_of_a_suite_explains_itself(home: Path) -> None:
    maker, _ = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    tags = mirror.client.get_experiment_by_name("partbench/default").tags
    assert "| Scores/accuracy | top-1 accuracy on the test split |" in tags["mlflow.note.content"]
    assert {tag for tag in tags if tag.startswith("mlflow.")} <= {"mlflow.note.content"}
    page, _, order = address("http://host:5000/", "3").partition("&")
    assert page == "http://host:5000/#/experiments/3/runs?compareRunsMode=CHART"
    assert order == "orderByKey=metrics.%60Scores%2Faccuracy%60&orderByAsc=false&workflowType=machine_learning"


def test_tables_per_prototype_are_copied_and_weights_are_not(home: Path) -> None:
    maker, _ = one(home)
    mirror = Mirror(home)
    mirror.sync(maker.store)
    expected = ["cell.json", "history.json", "items/consistency.prototype.csv", "items/stability.prototype.csv"]
    expected += ["log.txt", "result.json"]
    assert sorted(artifacts(mirror, runs(mirror)["ours·demo·tiny·s0"])) == expected
    assert not list(home.glob("mlartifacts/**/*.safetensors"))
    assert len(list(home.glob("mlartifacts/default/**/cell.json"))) == 1


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
