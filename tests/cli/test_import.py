"""Official models from file to table, through the command line."""

import csv
import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from baselines import official_files
from bench.cli.main import main
from bench.results.store import Store
from bench.runner.cell import CellRunner
from tests.support import official_checkouts as stand_ins
from tests.support.samples import Silent
from tests.support.small_birds import few_birds

SMALL = ["--datasets", "cub", "--recipe", "demo", "--device", "cpu", "--set", "cub.protocol.size=64"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, an official file whose repository is gone, and the network it was saved from."""
    folder = tmp_path_factory.mktemp("import")
    with stand_ins.imported(stand_ins.checkout("protopnet", folder / "checkout", tiny=False)) as module:
        network = stand_ins.build("protopnet", module)
        torch.save(network, folder / "10push0.7512.pth")
    shutil.rmtree(folder / "checkout")
    return few_birds(folder), folder, network


@pytest.fixture
def call(place, monkeypatch):
    data, folder, _ = place
    monkeypatch.setenv("BENCH_HOME", str(folder / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(folder)

    def run(*arguments):
        if arguments[0] == "run":
            arguments = (*arguments, *SMALL, "--data-root", str(data), "--no-tracking", "--no-controls")
        return CliRunner().invoke(main, list(arguments))

    return run


@pytest.fixture
def imported(call):
    result = call("import", "protopnet", "10push0.7512.pth", "official")
    assert result.exit_code == 0, result.output
    return result


CHECKPOINT = ["--methods", "protopnet", "--backbones", "resnet18", "--set"]


def cells(call):
    return {row["cell"] for row in json.loads(call("results").stdout)}


def refused(result, expected):
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.lower().startswith("error")]
    assert expected in line


def test_importing_says_what_it_found(imported):
    for expected in (
        "class PPNet", "classes 3", "prototypes 6", "per_class 2", "depth 5", "architecture resnet18",
        "named by the file, not run: model.PPNet", "written: official.safetensors",
        "run --methods protopnet --datasets cub --backbones resnet18 --set protopnet.checkpoint=official.safetensors",
    ):  # fmt: skip
        assert expected in imported.output


def test_wrong_files_are_requests_that_are_wrong(call, place, tmp_path):
    refused(call("import", "protopnett", "10push0.7512.pth", "x"), "did you mean 'protopnet'?")
    refused(call("import", "ours", "10push0.7512.pth", "x"), "unknown checkpoint 'ours'")
    refused(call("import", "tesnet", "10push0.7512.pth", "x"), "written by protopnet, not by tesnet")
    refused(call("import", "protopnet", "nowhere.pth", "x"), "no file nowhere.pth")
    (tmp_path / "hostile.pth").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    refused(call("import", "protopnet", str(tmp_path / "hostile.pth"), "x"), "is no file of torch.save")
    (tmp_path / "hostile.pth").write_bytes(b"\x80\x02cposix\nsystem\n(S'touch ran'\ntR.")
    refused(call("import", "protopnet", str(tmp_path / "hostile.pth"), "x"), "names posix.system")
    assert not (place[1] / "ran").exists()
    assert not list(place[1].glob("x*"))


def test_what_can_be_imported_is_listed(call):
    listed = json.loads(call("ls", "checkpoints", "--json").stdout)["checkpoints"]
    assert {entry["name"] for entry in listed} == set(official_files.SHAPES)


def test_an_official_model_is_measured_as_it_is(call, imported, place):
    _, folder, network = place
    result = call("run", *CHECKPOINT, "protopnet.checkpoint=official.safetensors")
    assert result.exit_code == 0, result.output
    assert "protopnet (checkpoint=official.safetensors)" in result.output
    (name,) = cells(call)
    store = Store(folder / "home")
    cell = CellRunner(store, name, folder / "home", torch.device("cpu"), Silent())
    splits = cell.inputs.data()
    (batch,) = splits["test"].batches(64)
    with torch.no_grad():
        expected = network(batch.images)[0]
        torch.testing.assert_close(cell.load(splits["train"])(batch.images), expected, rtol=1e-3, atol=1e-3)
    items = store.cell(name).result / "items" / "accuracy.image.csv"
    assert [int(row["prediction"]) for row in csv.DictReader(items.open())] == expected.argmax(1).tolist()
    outcome = store.outcome(name)
    assert outcome["given"]["checkpoint"]["path"] == str(folder / "official.safetensors")
    assert cell.spec.settings["checkpoint"] == outcome["given"]["checkpoint"]["digest"]
    shown = call("show", name).output
    assert "checkpoint digest" in shown
    # Neither starting weights nor training are part of what it is.
    assert cell.spec.weights_digest == ""
    assert json.loads((store.cell(name).result / "history.json").read_text()) == []
    # The same content elsewhere is the same cell.
    shutil.copy(folder / "official.safetensors", folder / "elsewhere.safetensors")
    again = call("run", *CHECKPOINT, "protopnet.checkpoint=elsewhere.safetensors")
    assert "1 of 1 cells done (1 before)" in again.output


def test_what_does_not_fit_is_said_before_anything_runs(call, imported, place):
    before = cells(call)
    given = "protopnet.checkpoint=official.safetensors"
    refused(call("run", "--methods", "protopnet", "--backbones", "resnet34", "--set", given), "--backbones resnet18")
    refused(call("run", *CHECKPOINT, "protopnet.checkpoint=nowhere"), "no such file (got 'nowhere')")
    refused(call("run", *CHECKPOINT, "protopnet.checkpoint=10push0.7512.pth"), "not a .safetensors file: make one")
    refused(call("run", *CHECKPOINT, "protopnet.checkpoint=3"), "expected a path")
    refused(call("run", *CHECKPOINT, "protopnet.source=10push0.7512.pth"), "no such folder")
    refused(call("run", *CHECKPOINT, f"protopnet.source={place[1]}"), "has no model.py")
    assert cells(call) == before


def test_the_official_code_itself(call, imported, place):
    _, folder, network = place
    stand_ins.checkout("protopnet", folder / "again", tiny=False)
    source = ["protopnet.source=again", "--set", "protopnet.checkpoint=official.safetensors"]
    result = call("run", *CHECKPOINT, *source)
    assert result.exit_code == 0, result.output
    rows = [row for row in json.loads(call("results").stdout) if "source=again" in row["label"]]
    name = rows[0]["cell"]
    store = Store(folder / "home")
    cell = CellRunner(store, name, folder / "home", torch.device("cpu"), Silent())
    splits = cell.inputs.data()
    (batch,) = splits["test"].batches(64)
    with torch.no_grad():
        found, expected = cell.load(splits["train"])(batch.images), network(batch.images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert set(store.outcome(name)["given"]) == {"checkpoint", "source"}
    # Another line of code is another cell; the old one is not run on it.
    planned = call("run", *CHECKPOINT, *source, "--dry-run")
    assert name in planned.output
    (folder / "again" / "model.py").write_text((folder / "again" / "model.py").read_text() + "\n")
    assert name not in call("run", *CHECKPOINT, *source, "--dry-run").output
    shutil.rmtree(store.cell(name).result)
    stale = call("cell", str(store.cell(name).path))
    assert stale.exit_code == 1
    assert "again is gone or has other content" in stale.stderr


def test_random_weights_of_the_official_code(call, place):
    _, folder, _ = place
    stand_ins.checkout("protopnet", folder / "random", tiny=False)
    result = call("run", *CHECKPOINT, "protopnet.source=random", "--seeds", "0,1", "--metrics", "accuracy")
    assert result.exit_code == 0, result.output
    assert "2 of 2 cells done" in result.output
