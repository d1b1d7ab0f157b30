"""`tune` compares settings on parts of the training split, without training and without test images."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from bench.config.black_box import BlackBoxConfig
from bench.contract import RequestError
from bench.report.measurement_tables import tune_table
from bench.report.renderers import as_markdown
from bench.report.table_style import styled
from bench.results.store import Store
from bench.runner.cell import CellRunner
from bench.runner.progress import ConsoleProgress
from bench.runner.tune import MemoizedBackbone, check_columns, within_class
from tests.support.small_birds import PROTOPNET, QUICK, called, few_birds


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A home with a cell of `ours`, and its id."""
    home = tmp_path_factory.mktemp("tune")
    root = few_birds(home)
    ran = called(
        home, "run", "--methods", "ours", "--data-root", str(root), "--no-controls", "--no-tracking", *QUICK[:8],
        "--set", "classifier.schedule.phases.0.epochs=2",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return home, json.loads(called(home, "results").stdout)[0]["cell"]


def test_every_choice_is_fitted_on_every_part(planned):
    home, cell = planned
    arguments = ("tune", cell, "--set", "ours.k=1,2", "--set", "ours.refinement=naive,contrast", "--format", "json")
    ran = called(home, *arguments)
    assert ran.returncode == 0, ran.stderr
    trials = json.loads(ran.stdout)
    assert [(trial["fold"], trial["choice"]["k"], trial["choice"]["refinement"]) for trial in trials] == [
        (fold, k, refinement) for fold in (0, 1) for k in (1, 2) for refinement in ("naive", "contrast")
    ]
    for trial in trials:
        assert {"accuracy", "consistency", "stability", "cancellation"} <= set(trial["values"])
    # One prototype per class is the class map, however it was refined.
    one = [t["values"] for t in trials if t["choice"]["k"] == 1]
    for a, b in (one[:2], one[2:]):
        assert all(a[name] == b[name] for name in ("accuracy", "consistency", "stability"))
    assert called(home, *arguments).stdout == ran.stdout


def test_a_black_box_is_trained_without_the_images_that_judge_it(planned, tmp_path):
    home, cell = planned
    tuned = (
        "tune",
        cell,
        "--set",
        "ours.k=1,2",
        "--set",
        "classifier.schedule.phases.0.epochs=0,3",
        "--format",
        "json",
    )
    ran = called(home, *tuned)
    assert ran.returncode == 0, ran.stderr
    progress = ConsoleProgress(Console(quiet=True), quiet=True)
    runner = CellRunner(Store(home), cell, home, torch.device("cpu"), progress)
    train = runner.inputs.data()["train"]
    expected = []
    for fold in (0, 1):
        left_out = within_class(train.labels) % 2 == fold
        rest, own = (train.subset(mask.nonzero().flatten()) for mask in (~left_out, left_out))
        for epochs in (0, 3):
            schedule = runner.spec.black_box["schedule"]
            phases = [{**schedule["phases"][0], "epochs": epochs}]
            config = BlackBoxConfig.model_validate({"schedule": {**schedule, "phases": phases}})
            box = runner.black_box(rest, tmp_path / f"{fold}-{epochs}", config)
            batch = next(iter(own.batches(len(own), torch.device("cpu"))))
            accuracy = 100 * float((box(batch.images).argmax(1) == batch.labels).double().mean())
            # All prototypes of a class add up to the classifier's row, so k changes no answer.
            expected += [(fold, epochs, k, pytest.approx(accuracy)) for k in (1, 2)]
    name = "classifier.schedule.phases.0.epochs"
    trials = json.loads(ran.stdout)
    found = [(t["fold"], t["choice"][name], t["choice"]["k"], t["values"]["accuracy"]) for t in trials]
    assert found == expected
    assert json.loads(called(home, *tuned, "--limit-folds", "1").stdout) == trials[:4]


def test_tune_refuses_an_impossible_setting_before_any_fit(planned):
    home, cell = planned
    ran = called(home, "tune", cell, "--set", "ours.k=1,100000")
    assert ran.returncode == 2
    assert "ours.k=100000 exceeds the rank of a class's features" in ran.stderr


def test_the_table_has_the_columns_that_are_asked_for():
    trials = [
        {"cell": "a", "fold": fold, "choice": {"k": k}, "values": {"accuracy": k + fold, "other": 1.0}}
        for k in (1, 2) for fold in (0, 1)
    ]  # fmt: skip
    table = tune_table(trials)
    assert (
        as_markdown(styled([table], ["accuracy"])).splitlines()[2:]
        == [
            "| settings |     accuracy |",
            "| -------- | -----------: |",
            "| k=1      | 1.5 ± 0.7071 |",
            "| k=2      | 2.5 ± 0.7071 |",
            "",
            "- mean ± standard deviation over 2 fits; training split only",
            "",
        ][:-1]
    )
    assert "other" in as_markdown([table])
    with pytest.raises(RequestError, match="did you mean 'accuracy'"):
        styled([table], ["acuracy"])


def test_on_the_test_split_it_gives_what_a_cell_gives(planned):
    home, cell = planned
    ran = called(home, "tune", cell, "--set", "ours.k=3,2", "--split", "test", "--format", "json")
    assert ran.returncode == 0, ran.stderr
    trials = json.loads(ran.stdout)
    assert [trial["fold"] for trial in trials] == [-1, -1]
    rows = {row["metric"]: row["value"] for row in json.loads(called(home, "results").stdout) if row["cell"] == cell}
    for metric in ("accuracy", "consistency", "stability"):
        assert trials[0]["values"][metric] == rows[metric]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "protopnet.depth=3"), "--set protopnet.depth: only settings of ours, such as"),
        (("--set", "classifier.head=pretrained"), "--set classifier.head: only settings of ours, such as"),
        (("--set", "classifier.schedule.phases.1.epochs=3"), "'1' is none of its items"),
        (
            ("--set", "classifier.schedule.phases.0.lr.head=-1,1"),
            "classifier.schedule.phases.0.lr.head: Input should be",
        ),
        (("--set", "ours.kk=3"), "did you mean 'k'?"),
        (("--set", "ours.k=2", "--folds", "9"), "fewer than 9 training images"),
        (("--set", "ours.k=2", "--columns", "acuracy"), "--columns acuracy: not measured; did you mean 'accuracy'?"),
        (("--set", "ours.k=2", "--columns", "accuracy,stability.foo"), "--columns stability.foo: not measured"),
        (("--set", "ours.k=2", "--columns", "foo", "--format", "json"), "--columns foo: not measured; known: "),
    ],
)
def test_wrong_requests(planned, arguments, message):
    home, cell = planned
    ran = called(home, "tune", cell, *arguments)
    assert ran.returncode == 2
    assert message in ran.stderr


class NeverFitted:
    """A cell that has been planned, or has the result given here."""

    def __init__(self, outcome=None):
        metrics = {"accuracy": {}, "stability": {}}
        self.spec, self.method = SimpleNamespace(metrics=metrics), SimpleNamespace(tells={"objective"})
        self.folder = SimpleNamespace(path=Path("cell"))
        self.store = SimpleNamespace(outcome=lambda name: outcome)


def test_columns_are_checked_before_anything_is_fitted():
    outcome = {
        "scores": {"accuracy": {"also": {}}, "stability": {"also": {"empty": 1.0}}},
        "facts": {"cancellation": 1.0},
    }
    check_columns([NeverFitted(outcome)], ["accuracy", "stability", "stability.empty", "cancellation", "objective"])
    # Before it has a result nobody knows which further numbers a metric has.
    check_columns([NeverFitted()], ["accuracy", "stability.empty", "objective"])
    for cell, name in ((outcome, "stability.full"), (outcome, "foo"), (None, "foo"), (None, "foo.empty")):
        with pytest.raises(RequestError, match=f"--columns {name}: not measured"):
            check_columns([NeverFitted(cell)], ["accuracy", name])


def test_features_are_computed_once_per_image():
    calls = []

    class Doubled(torch.nn.Module):
        def forward(self, images):
            calls.append(len(images))
            return 2 * images

    x = torch.rand(5, 3, 4, 4)
    remembered = MemoizedBackbone(Doubled())
    assert torch.equal(remembered(x[:3]), 2 * x[:3])
    assert torch.equal(remembered(x), 2 * x)
    assert torch.equal(remembered(x.flip(0)), 2 * x.flip(0))
    assert torch.equal(remembered(x[:1] + 1e-6), 2 * (x[:1] + 1e-6))
    assert calls == [3, 2, 1]


def test_places_within_classes():
    assert within_class(torch.tensor([2, 0, 2, 2, 0, 1])).tolist() == [0, 0, 1, 2, 1, 0]


def test_networks_are_trained_and_measured_in_each_state(tmp_path):
    root = few_birds(tmp_path)
    ran = called(
        tmp_path, "run", "--methods", "protopnet", "--data-root", str(root), "--no-controls", "--no-tracking",
        *QUICK[:-2], *PROTOPNET, "--metrics", "accuracy", "--set", "protopnet.start.backbone=imagenet",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    cell = json.loads(called(tmp_path, "results").stdout)[0]["cell"]
    tuned = ("tune", cell, "--set", "protopnet.start.prototypes=uniform,kmeans", "--format", "json")
    ran = called(tmp_path, *tuned, "--columns", "accuracy.projected,fit_seconds")
    assert ran.returncode == 0, ran.stderr
    trials = json.loads(ran.stdout)
    assert [trial["choice"] for trial in trials[:2]] == [{"start.prototypes": name} for name in ("uniform", "kmeans")]
    for trial in trials:
        assert {f"accuracy.{stage}" for stage in ("unprojected", "projected", "final")} <= set(trial["values"])
        assert trial["values"]["accuracy"] == trial["values"]["accuracy.final"]
    without = called(tmp_path, "tune", cell, "--set", "protopnet.start.backbone=blackbox,imagenet")
    assert without.returncode == 2
    assert "has no black box" in without.stderr
    without = called(tmp_path, "tune", cell, "--set", "classifier.schedule.batch_size=8")
    assert without.returncode == 2
    assert "trains no black box" in without.stderr
