"""The commands around the decomposition: for one's own classifier, interventions, speed."""

import json
import re

import pytest
import torch
from click.testing import CliRunner
from torchvision import models

from bench.cli.main import main
from bench.posthoc.intervention import Effects
from bench.runner.intervene import Intervention
from tests.support.small_birds import PROTOPNET, QUICK, few_birds
from tests.support.stores import StoreMaker


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("posthoc"))


def test_decompose_ones_own_classifier(birds, tmp_path):
    torch.manual_seed(0)
    torch.save(models.shufflenet_v2_x0_5(num_classes=3).state_dict(), tmp_path / "mine.pth")
    arguments = ["decompose", "--model", "torchvision:shufflenet_v2_x0_5", "--weights", str(tmp_path / "mine.pth")]
    arguments += ["--data", str(birds / "images"), "--k", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(main, [*arguments, "--draw", "1", "--top", "2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "prototypes.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "prototypes.json").read_text())
    assert len(list((tmp_path / "out" / "gallery").glob("*.png"))) == 1
    assert "completeness_residual" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet18"], "timm:NAME or torchvision:NAME"),
        (["--model", "torchvision:shufflenet_v2_x0_5", "--weights", "nowhere.pth"], "nowhere.pth"),
        (["--model", "torchvision:shufflenet_v2_x0_5", "--set", "norm=l2,minmax"], "one value at a time"),
    ],
)
def test_wrong_requests(birds, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["decompose", *arguments, "--data", str(birds / "images"), "--out", "out"])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_interventions_of_a_cell(birds, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    run = ["run", "--methods", "ours,protopnet", "--no-controls", "--no-tracking", *QUICK, *PROTOPNET]
    run += ["--data-root", str(birds)]
    assert CliRunner().invoke(main, run).exit_code == 0
    rows = json.loads(CliRunner().invoke(main, ["results"]).stdout)
    cells = {row["method"]: row["cell"] for row in rows}
    result = CliRunner().invoke(main, ["intervene", cells["ours"]])
    assert result.exit_code == 0, result.output
    accuracy = next(row["value"] for row in rows if row["method"] == "ours" and row["metric"] == "accuracy")
    assert f"accuracy {accuracy:.2f} %" in result.output
    listed = "prototypes correct something" in result.output and "0 prototypes" not in result.output
    assert bool(list((tmp_path / "figures").glob("intervention-*.png"))) == listed
    if listed:
        figure = CliRunner().invoke(main, ["figure", "7", "--cell", cells["ours"], "--format", "png"])
        assert figure.exit_code == 0, figure.output
        (text,) = [file.read_text() for file in (tmp_path / "figures").glob("figure7*.txt")]
        (called,) = re.findall(r"prototype \d+ of [^:;,]*(?= contributes \S+ and is left out)", text)
        assert f"  {called} left out corrects" in result.output
    refused = CliRunner().invoke(main, ["intervene", cells["protopnet"]])
    assert refused.exit_code == 2
    assert "not an exact decomposition" in refused.stderr


def test_interventions_are_listed_under_the_pictures_names(tmp_path, monkeypatch):
    long = "002." + "_".join(["Very"] * 12) + "_[long]_Name"
    found = Effects(torch.tensor([0, 0, 0, 0, 0, 2]), torch.tensor([0, 1, 0, 0, 0, 1]), torch.tensor([[5, 0], [5, 2]]))
    result = Intervention(found, torch.eye(3)[:, :2], torch.tensor([0, 1, 0]), 3, ["001.Short", long],
                          ["a.jpg", "b.jpg", "c.jpg"], None, None)  # fmt: skip

    class Picture:
        def save(self, folder, formats):
            return [folder / "picture.png"]

    def drawn(_result, prototype, *_):
        assert prototype == 5
        return Picture()

    monkeypatch.setattr("bench.runner.cell.CellRunner", lambda *_, **__: None)
    monkeypatch.setattr("bench.runner.intervene.intervene", lambda _: result)
    monkeypatch.setattr("bench.visualization.intervention.draw_case", drawn)
    name = StoreMaker(tmp_path).cell("ours", {"accuracy": 50.0})
    told = CliRunner().invoke(main, ["intervene", name, "--out", str(tmp_path), "--device", "cpu"])
    assert told.exit_code == 0, told.output
    called = "Very " * 12 + "[long] Name"
    first, *further = told.output.split("without it (%)")[1].split("  prototype 3")[0].strip().splitlines()
    beside = re.fullmatch(r"3\s+(.*?)\s+2\s+1\s+133\.33\s*", first)[1]
    assert " ".join([beside, *map(str.strip, further)]) == called
    assert f"  prototype 3 of {called} left out corrects a.jpg\n" in told.output
    assert not set("…┃│━─") & set(told.output)


def test_speed_says_how_much_faster_and_how_good():
    arguments = ["speed", "decompose", "--classes", "3", "--images", "4", "--hw", "9", "--features", "24", "--k", "2"]
    result = CliRunner().invoke(main, [*arguments, "--sample", "2", "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"ratio", "objective_ratio", "nmf_error_ratio", "roofline_share", "peak_bytes"} <= set(found)
    assert found["ratio"] > 0


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("foo=3", "foo: unknown setting; known: "),
        ("nrom=l2", "nrom: unknown setting; did you mean 'norm'?"),
        ("k=x", "k: Input should be a valid integer"),
        ("k=5", "--set k=5: write --k 5"),
        ("norm=foo", "(got 'foo')"),
        ("norm=l2,zscore", "--set norm: one value at a time"),
    ],
)
def test_wrong_settings_of_speed_are_one_line(pair, message):
    result = CliRunner().invoke(main, ["speed", "decompose", "--set", pair, "--device", "cpu"])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
