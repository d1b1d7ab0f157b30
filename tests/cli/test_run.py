"""The main job through the command line, in this process, on very few birds."""

import csv
import io
import json
import re

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core import registry
from tests.support.small_birds import few_birds, quick


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data and a home that the tests of this module share: what one ran, the next finds."""
    folder = tmp_path_factory.mktemp("run")
    return few_birds(folder), folder / "home"


@pytest.fixture
def call(place, monkeypatch):
    data, home = place
    monkeypatch.setenv("BENCH_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments):
        if arguments[0] == "run":
            arguments = (*arguments, *quick(arguments), "--data-root", str(data), "--no-tracking")
        return CliRunner().invoke(main, list(arguments))

    return run


@pytest.fixture
def whole(call):
    """The finished run."""
    result = call("run", "--methods", "ours,protopnet")
    assert result.exit_code == 0, result.output
    return result


def rows(call):
    return {(row["method"], row["metric"]): row for row in seed_0(call)}


def seed_0(call):
    """Other seeds are cells of tests of their own; ids, and so the order of rows, change with every setting."""
    return [row for row in json.loads(call("results").stdout) if row["seed"] == 0]


def test_everything_is_measured_and_ours_is_the_black_box(call, whole):
    assert "7 of 7 cells done" in whole.output
    found = rows(call)
    assert set(found["ours", "accuracy"]) == {
        "suite", "cell", "method", "label", "dataset", "backbone", "seed", "metric", "value", "low", "high", "n",
        "unit", "status", "reason",
    }  # fmt: skip
    assert found["ours", "accuracy"]["value"] == found["blackbox", "accuracy"]["value"]
    assert found["ours", "accuracy"]["n"] == 9
    assert found["ours", "consistency"]["n"] == 9
    assert found["protopnet", "stability"]["n"] == 15
    assert found["center", "stability"]["value"] == 100
    assert found["constant", "accuracy"]["status"] == "n/a"
    assert found["constant", "accuracy"]["reason"] == "constant predicts no class"


def test_every_metric_runs_on_every_method_or_says_why_not(call, place):
    result = call("run", "--methods", "ours,protopnet", "--metrics", "all", "--seeds", "5")
    assert result.exit_code == 0, result.output
    found = [row for row in json.loads(call("results").stdout) if row["seed"] == 5]
    methods = {row["method"] for row in found}
    assert len(methods) == 7
    for name in registry.names("metrics"):
        own = {row["method"]: row for row in found if row["metric"] == name}
        assert set(own) == methods, name
        assert {row["status"] for row in own.values()} <= {"ok", "n/a"}
        assert all(row["reason"] for row in own.values() if row["status"] == "n/a")
        # What prototypes do is measured on every method with prototypes, unless the definition needs something else.
        elsewhere = ("_pooled", "_protopformer", "_pixpnet", "fidelity", "_box")
        assert name.endswith(elsewhere) or own["ours"]["status"] == own["protopnet"]["status"] == "ok", own
    found = {(row["method"], row["metric"]): row for row in found}
    assert found["ours", "completeness"]["value"] < 1e-6 < found["protopnet", "completeness"]["value"]
    assert found["ours", "sensitivity.false"]["value"] == 0
    assert (found["ours", "fidelity"]["value"], found["ours", "fidelity.accuracy_gain"]["value"]) == (100, 0)
    assert found["protopnet", "fidelity"]["reason"] == "protopnet does not start from a black box"
    assert found["ours", "cost.fit"]["value"] > 0
    assert found["ours", "stability_pixpnet"]["reason"].startswith("pixpnet is defined on whole images")


def test_predictions_are_the_black_boxes_on_every_image(call, whole, place):
    found = rows(call)

    def predictions(method):
        file = place[1] / "cells" / found[method, "accuracy"]["cell"] / "result" / "items" / "accuracy.image.csv"
        return [line["prediction"] for line in csv.DictReader(file.open())]

    assert len(predictions("ours")) == 9
    assert predictions("ours") == predictions("blackbox")


def test_finished_cells_are_skipped_and_rerun_gives_the_same(call, whole):
    before = rows(call)
    again = call("run", "--methods", "ours,protopnet")
    assert "7 of 7 cells done (7 before)" in again.output
    call("run", "--methods", "ours", "--no-controls", "--existing", "rerun")
    assert rows(call) == before


def test_other_setting_is_other_cell_with_same_black_box(call, whole, place):
    boxes = list((place[1] / "blackboxes").iterdir())
    result = call("run", "--methods", "ours", "--set", "ours.k=2", "--no-controls")
    assert "black box found, not trained again" in result.output
    assert list((place[1] / "blackboxes").iterdir()) == boxes
    labels = {row["label"] for row in json.loads(call("results").stdout)}
    assert {"ours", "ours (k=2)"} <= labels


def test_a_metric_more_is_measured_on_the_same_fit(call, place):
    def run(metrics, *more):
        """Output, and the scores and weights of the cell with those metrics."""
        one = ("run", "--methods", "protopnet", "--no-controls", "--seeds", "6", "--metrics", metrics)
        result = call(*one, *more)
        assert result.exit_code == 0, result.output
        table = [row for row in json.loads(call("results").stdout) if row["seed"] == 6]
        names = {row["cell"]: {other["metric"] for other in table if other["cell"] == row["cell"]} for row in table}
        (name,) = [name for name, measured in names.items() if set(metrics.split(",")) <= measured]
        scores = {row["metric"]: row["value"] for row in table if row["cell"] == name}
        return result.output, name, scores, (place[1] / "cells" / name / "result" / "model.safetensors").read_bytes()

    _, first, _, weights = run("accuracy")
    output, _, scores, same = run("accuracy,calibration")
    assert f"fitted before by cell {first}, which differs only in metrics, split or stage" in output
    assert "warm 1/2" not in output
    assert same == weights
    again = run("accuracy,calibration", "--existing", "rerun")
    assert "warm 1/2" in again[0]
    assert again[2:] == (scores, weights)


def test_several_values_are_several_cells(call, whole):
    result = call("run", "--methods", "ours", "--set", "ours.k=2,3", "--set", "ours.norm=l2,minmax", "--dry-run")
    labels = [f"ours (k={k}, norm={norm})" for k in (2, 3) for norm in ("l2", "minmax")]
    assert all(label in result.output for label in labels)


def test_the_training_split_is_never_mixed_with_the_test_split(call, whole):
    result = call("run", "--methods", "center", "--no-controls", "--split", "train")
    assert "MEASURED ON TRAIN" in result.output
    found = [row for row in seed_0(call) if row["method"] == "center" and row["status"] == "ok"]
    assert len({row["cell"] for row in found}) == 2


def test_dry_run_runs_nothing(call, whole, place):
    before = sorted((place[1] / "cells").iterdir())
    result = call("run", "--methods", "ours,protopnet", "--seeds", "0,7", "--dry-run")
    assert len(re.findall(r"\bto run  ", result.output)) == 7
    assert result.output.count(" done  ") == 7
    assert "14 cells: 7 done, 7 to run; black boxes to train first: 1; about " in result.output
    assert "constant predicts no class" in result.output
    assert sorted((place[1] / "cells").iterdir()) == before


def test_show_tells_what_is_behind_a_number(call, whole):
    name = rows(call)["ours", "consistency"]["cell"]
    shown = call("show", name[:6]).output
    for part in (
        "python -m bench cell",
        "ours.k",
        "classifier.schedule.phases.0.epochs",
        "cub.protocol.crop",
        "consistency per prototype",
        "cancellation",
        "half_size 36",
    ):
        assert part in shown


def test_report_and_results_in_other_forms(call, whole):
    call("run", "--methods", "ours,protopnet")
    markdown = call("report", "--format", "md").output
    assert "| method" in markdown
    assert "constant (control)" in markdown
    dogs = call("report", "--table", "6", "--format", "md").output
    assert "nothing is measured yet: `python -m bench run --suite table6 --data-root DIR`" in dogs
    assert call("report", "--table", "7").exit_code == 2
    assert "\\begin{table" in call("report", "--format", "latex").output
    table = list(csv.DictReader(io.StringIO(call("results", "--csv").stdout)))
    controls = {"constant", "center", "random", "random_fixed"}
    assert {"ours", "protopnet", "blackbox", *controls} == {row["method"] for row in table}


def test_a_cell_is_a_command_of_its_own(call, whole, place):
    before = rows(call)
    folder = place[1] / "cells" / before["protopnet", "accuracy"]["cell"]
    (folder / "result").rename(folder / "old")
    assert call("cell", str(folder)).exit_code == 0
    assert rows(call) == before
    assert "done before" in call("cell", str(folder)).output
    assert "done before" in call("cell", folder.name[:8]).output


def test_a_failing_cell_is_recorded_and_the_others_go_on(call):
    result = call(
        "run", "--methods", "ours,protopnet", "--set", "protopnet.schedule.phases.0.lr.add_on=1e30", "--seeds", "3"
    )
    assert result.exit_code == 1
    assert "6 of 7 cells done" in result.output
    assert "lower its learning rates" in result.output
    failed = [row for row in json.loads(call("results").stdout) if row["status"] == "failed"]
    assert {row["metric"] for row in failed} == {"accuracy", "consistency", "consistency_controlled", "stability"}
    assert "became nan in phase" in failed[0]["reason"]
    assert "became nan" in call("show", failed[0]["cell"]).output


def test_result_is_not_stored_under_another_specs_id(call, whole, place, monkeypatch):
    before = rows(call)
    folder = place[1] / "cells" / before["protopnet", "accuracy"]["cell"]
    (folder / "result").rename(folder / "kept")
    monkeypatch.setattr(registry.load("metrics", "accuracy"), "version", "2")
    result = call("cell", str(folder))
    assert result.exit_code == 1
    assert "planned for something else (accuracy is version 2 now): call `run` again" in result.output
    (folder / "kept").rename(folder / "result")
    assert rows(call) == before


PLUGIN = """
import torch
from bench.core import registry
from bench.contract import Metric, Score
from bench.data.cub import Cub
from metrics.controls import Center


class Corner(Center):
    name = "corner"


class Brightness(Metric):
    "Mean of the normalised test images."
    name, version, unit = "brightness", "1", ""
    total = count = 0.0

    def update(self, seen):
        self.total += float(seen.images.double().sum())
        self.count += seen.images.numel()

    def compute(self):
        return Score(self.total / self.count, int(self.count))


class Bare(Cub):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.provides = frozenset({"image", "label", "bbox"})


registry.register("methods", "corner", Corner)
registry.register("metrics", "brightness", Brightness)
registry.register("datasets", "bare", Bare)
"""


def test_a_plugin_is_treated_like_our_own(call, place, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})
    file = tmp_path / "plugin.py"
    file.write_text(PLUGIN)
    arguments = ["run", "--plugin", str(file), "--methods", "corner", "--set", "cub.reader=bare", "--no-controls"]
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    found = {row["metric"]: row for row in json.loads(call("results").stdout) if row["method"] == "corner"}
    assert found["brightness"]["status"] == "ok"
    assert found["consistency"]["reason"] == "cub has no part key-points"
    listing = call("ls", "--plugin", str(file)).output
    assert "Mean of the normalised test images." in listing
