"""The Python interface as a notebook uses it, on very few birds."""

import json
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

import bench
from bench.contract import Explanation, Metric, NotApplicable, PartPrototypeModel, PrototypeTable, Score
from bench.core import registry
from bench.core.errors import RequestError
from bench.core.registry import UnknownName
from tests.support.samples import TensorSamples, stripes
from tests.support.small_birds import few_birds

COLUMNS = [
    "suite", "cell", "method", "label", "dataset", "backbone", "seed", "metric", "value", "low", "high", "n", "unit",
    "status", "reason",
]  # fmt: skip
SETTINGS = {"backbones": "tiny", "recipe": "demo", "device": "cpu", "set": {"classifier.schedule.phases.0.epochs": 2}}
HERE = {"device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    return few_birds(folder), folder / "home"


@pytest.fixture(autouse=True)
def at_home(place, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(place[1]))


@pytest.fixture
def results(place):
    """Two methods; the second test that asks finds them done."""
    return bench.run(["ours"], ["cub"], controls=True, data_root=place[0], **SETTINGS, quiet=True)


def test_importing_bench_loads_no_torch_or_pandas():
    heavy = "('torch', 'pandas', 'numpy', 'mlflow', 'cvxpy', 'ray', 'submitit')"
    code = f"import bench, sys; dir(bench); assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_results_loads_no_torch(results, place):
    code = (
        f"import bench, sys; r = bench.load_results({str(place[1])!r}); r._repr_html_(); r.to_pandas();"
        "r.table('accuracy').to_latex(); r.cell(r.cells[0]).scores; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    assert {name: getattr(bench, name).__doc__.split()[0] for name in bench.__all__}
    assert set(bench.__all__) <= set(dir(bench))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bench.nothing


def test_run_and_load_give_the_same_frame(results, place):
    assert not results.failed
    frame = results.to_pandas()
    assert list(frame.columns) == COLUMNS
    assert set(frame["method"]) >= {"ours", "blackbox", "center"}
    loaded = bench.load_results(place[1], run=results.stamp).to_pandas()
    assert loaded.equals(frame)
    bounded = results.to_pandas(intervals=True)
    assert bounded["low"].notna().any()
    assert frame["low"].isna().all()


def test_frame_has_the_rows_of_the_command(results, place):
    stated = subprocess.run(
        [sys.executable, "-m", "bench", "results", "--no-intervals"], capture_output=True, check=True, text=True
    )
    rows = {(row["cell"], row["metric"]): row["value"] for row in json.loads(stated.stdout)}
    frame = results.to_pandas().astype(object)
    assert {(row.cell, row.metric) for row in frame.itertuples()} <= set(rows)
    for row in frame[frame["status"] == "ok"].itertuples():
        assert rows[row.cell, row.metric] == row.value


@pytest.mark.slow
def test_recorded_command_asks_for_the_same_cells(results, place):
    command = results.store.invocations()[results.stamp]["command"]
    words = [*command.split()[3:], "--dry-run"]
    printed = subprocess.run(
        [sys.executable, "-m", "bench", *words], capture_output=True, check=True, text=True
    ).stdout  # fmt: skip
    assert all(name in printed for name in results.cells)
    assert f"{len(results.cells)} cells" in printed


def test_tables_are_rendered_in_every_form(results):
    table = results.table("accuracy,consistency")
    assert "| ours" in table.to_markdown()
    assert "stability" not in table.to_markdown()
    assert "\\begin{tabular}{llrr}" in table.to_latex()
    assert '<th scope="row">ours</th>' in table._repr_html_()
    assert "Ours" in table.styled(rename={"ours": "Ours"}, columns=["accuracy"]).to_latex()
    frame = table.to_pandas()
    ours = frame[(frame["method"] == "ours") & (frame["metric"] == "accuracy")]["value"].item()
    stored = results.to_pandas().query("method == 'ours' and metric == 'accuracy'")["value"].item()
    assert ours == stored


def test_names_of_others_are_escaped_in_html(results):
    name = results.cells[0]
    file = results.store.cell(name).path / "cell.json"
    before = file.read_text()
    content = json.loads(before)
    content["label"] = "<script>alert(1)</script>"
    file.write_text(json.dumps(content))
    try:
        assert "<script" not in bench.load_results()._repr_html_()
        assert "&lt;script" in bench.load_results()._repr_html_()
    finally:
        file.write_text(before)


def test_compare_gives_a_row_per_metric(results):
    frame = results.compare("ours", "blackbox").to_pandas()
    row = frame[frame["metric"] == "accuracy"].iloc[0]
    assert row["difference"] == row["value_1"] - row["value_2"] == 0
    differences = results.compare("ours", "blackbox", metrics="accuracy")
    assert "ours against blackbox" in differences.to_markdown()
    assert "ours against blackbox" in differences.to_latex()
    assert "ours against blackbox" in differences._repr_html_()


def test_cell_is_measured_again_without_the_store(results):
    name = next(name for name in results.cells if results.cell(name).spec["method"] == "ours")
    cell = results.cell(name[:8])
    assert (cell.id, cell.failure) == (name, None)
    model, test = cell.load_model("cpu"), cell.load_samples()
    scores = bench.evaluate(model, test, ["accuracy", "consistency"])
    assert {name: score.value for name, score in scores.items()} == {
        name: cell.scores[name].value for name in ("accuracy", "consistency")
    }
    explained = model.explain(next(test.batches(4)).images, test.labels[:4])
    assert explained.maps.shape[0] == 4


def test_failed_cells_are_data(place, monkeypatch):
    def fit(self, task):
        raise ValueError("no fit today")

    monkeypatch.setattr(registry.load("methods", "ours"), "fit", fit)
    found = bench.run("ours", "cub", seeds=7, controls=False, data_root=place[0], **SETTINGS, quiet=True)
    assert list(found.failed.values()) == ["ValueError: no fit today"]
    assert set(found.to_pandas()["status"]) == {"failed"}
    assert found.cell(found.cells[0]).failure["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": "ours"}, "no datasets given"),
        ({"methods": "ours", "datasets": "cub", "set": ["ours.k=3"]}, "set: write a mapping"),
        ({"methods": "ours", "datasets": "cub", "set": {"ours.kk": 3}}, "ours.kk"),
        ({"methods": "ours", "datasets": "cub", "seeds": -1}, "seeds"),
        ({"methods": "ours", "datasets": "cub", "plugins": ["nowhere.py"]}, "nowhere.py"),
    ],
)
def test_wrong_requests_write_nothing(arguments, message, place, tmp_path):
    with pytest.raises(RequestError, match=message):
        bench.run(**arguments, data_root=place[0], out=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out" / "cells").exists()


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="'ours'"):
        bench.run("oours", "cub", quiet=True)
    with pytest.raises(RequestError, match="no such folder"):
        bench.load_results("nowhere")


class Half(Metric):
    """Half of everything, if there is enough of it."""

    name, version = "half", "1"
    count = 0

    def update(self, seen):
        self.count += len(seen.labels)

    def compute(self):
        if self.count < 3:
            raise NotApplicable("two images are too few")
        return Score(50.0, self.count)


class Learning(Half):
    """Looks at the training split first."""

    def prepare(self, train):
        self.count += len(train)


class Bright(PartPrototypeModel):
    """Predicts the brightest band of :func:`stripes`; it has a prototype for each class."""

    def __init__(self):
        super().__init__()
        self.backbone, self.prototypes = nn.AvgPool2d(8), PrototypeTable(torch.eye(3, dtype=torch.bool))

    def head(self, features, classes=None):
        maps = features[:, :3]
        indices = None if classes is None else self.prototypes.of(classes)
        shown = maps if indices is None else self.pick(maps, indices)
        return Explanation(maps.amax((2, 3)), shown, shown.amax((2, 3)), indices)

    def attribute(self, features, classes):
        return self.head(features, classes).maps.sum(1)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(known) for kind, known in registry.CATALOGUE.items()})
    assert bench.register_metric("half")(Half) is Half
    bench.register_metric("learning", "learns", chance=False)(Learning)


def test_evaluate_measures_a_model_in_memory(registered):
    model, samples = Bright().train(), stripes()
    scores = bench.evaluate(model, samples, "accuracy, half")
    assert scores["accuracy"].value > 90
    assert scores["half"] == Score(50.0, 36)
    assert model.training
    assert scores.not_applicable == {}


def test_evaluate_gives_reasons(registered):
    samples = stripes()
    scores = bench.evaluate(Bright(), samples, ["consistency", "learning", "half", "accuracy"], batch_size=5)
    assert set(scores) == {"half", "accuracy"}
    assert scores.not_applicable == {
        "consistency": "the samples have no visible key-points",
        "learning": "it chooses on the training split: pass train=",
    }
    few = TensorSamples(samples.images[:2], samples.labels[:2], 3)
    assert bench.evaluate(Bright(), few, ["half"]).not_applicable == {"half": "two images are too few"}
    assert bench.evaluate(Bright(), samples, ["learning"], train=samples)["learning"].n == 72


def test_evaluate_refuses_wrong_arguments():
    with pytest.raises(RequestError, match="model is a Conv2d"):
        bench.evaluate(nn.Conv2d(3, 3, 1), stripes())
    with pytest.raises(UnknownName, match="'accuracy'"):
        bench.evaluate(Bright(), stripes(), ["acuracy"])
    with pytest.raises(RequestError, match=r"write METRIC\.NAME"):
        bench.evaluate(Bright(), stripes(), ["accuracy"], set={"consistency.half": 3})


def test_registered_metric_runs_in_this_process(registered, place):
    found = bench.run("center", "cub", seeds=3, metrics=["half"], controls=False, data_root=place[0], **HERE)
    assert found.to_pandas()["value"].tolist() == [50.0]


def test_class_without_a_file_is_refused(registered, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "notebook", types.ModuleType("notebook"))
    shown = type("Shown", (Half,), {"__module__": "notebook"})
    sys.modules["notebook"].Shown = shown
    bench.register_metric("shown")(shown)
    with pytest.raises(RequestError, match="'shown' is defined in no file"):
        bench.run("center", "cub", metrics="shown", controls=False, data_root=place[0], **HERE)
    assert bench.evaluate(Bright(), stripes(), "shown")["shown"].value == 50
    with pytest.raises(RequestError, match="'half' is registered in this process only"):
        bench.run("center", "cub", metrics="half", controls=False, jobs=2, data_root=place[0], **HERE)


@pytest.mark.slow
def test_plugin_file_is_loaded_by_run(registered, place, tmp_path):
    file = tmp_path / "third.py"
    file.write_text(
        "import bench\nfrom bench.contract import Metric, Score\n\n"
        '@bench.register_metric("third")\nclass Third(Metric):\n    """A third."""\n\n'
        '    name, version = "third", "1"\n\n    def update(self, seen):\n        pass\n\n'
        "    def compute(self):\n        return Score(100 / 3, 1)\n"
    )
    found = bench.run("center", "cub", metrics="third", controls=False, data_root=place[0], plugins=[file], **HERE)
    assert round(found.to_pandas()["value"].item(), 3) == 33.333
