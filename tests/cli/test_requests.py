"""Wrong requests: exit code 2 and one line that says what to write instead."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core import registry
from tests.support.small_birds import QUICK, few_birds, planned


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("requests"))


WRONG = {
    "unknown method": (["--methods", "our"], "unknown method 'our'; did you mean 'ours'?"),
    "unknown dataset": (["--methods", "ours", "--datasets", "cubb"], "unknown dataset 'cubb'; did you mean 'cub'?"),
    "unknown backbone": (["--methods", "ours", "--backbones", "resnet35"], "did you mean 'resnet"),
    "unknown metric": (["--methods", "ours", "--metrics", "consistancy"], "did you mean 'consistency'?"),
    "no method": ([], "no methods given: --methods"),
    "negative k": (["--methods", "ours", "--set", "ours.k=-1"], "ours.k: Input should be greater than 0 (got -1)"),
    "k above the rank": (["--methods", "ours", "--set", "ours.k=5000"], "ours.k=5000 exceeds the rank"),
    "unknown setting": (["--methods", "ours", "--set", "ours.kk=3"], "ours.kk: unknown setting; did you mean 'k'?"),
    "unknown section": (["--methods", "ours", "--set", "hours.k=3"], "unknown section; did you mean 'ours'?"),
    "grid of a metric": (
        ["--methods", "ours", "--set", "stability.size=64,128"],
        "only methods' and data sets' settings",
    ),
    "no section": (["--methods", "ours", "--set", "ours=5"], "write SECTION.NAME=VALUE"),
    "unused weights": (
        ["--methods", "ours", "--weights", "resnet18=x.pth"],
        "this run uses tiny; add --backbones resnet18",
    ),
    "weights of an unknown backbone": (["--methods", "ours", "--weights", "tyni=x.pth"], "did you mean 'tiny'?"),
    "unknown group": (
        ["--methods", "protopnet", "--set", "protopnet.schedule.phases.0.lr.prototype=1"],
        "has a rate for 'prototype'; groups: backbone, add_on, prototypes, last_layer",
    ),
    "unknown action": (
        ["--methods", "protopnet", "--set", "protopnet.schedule.phases.0.action=push"],
        "no action 'push'; actions: project",
    ),
    "idle weight decay": (
        ["--methods", "ours", "--set", "classifier.schedule.phases.0.weight_decay.heads=1"],
        "weight_decay names heads, which has no learning rate",
    ),
    "wrong threshold": (
        ["--methods", "ours", "--set", "consistency.threshold=2"],
        "consistency.threshold: Input should be less than or equal to 1 (got 2)",
    ),
    "too small": (
        ["--methods", "ours", "--set", "cub.protocol.size=1", "--backbones", "vgg19", "--set", "pretrained=false"],
        "vgg19 cannot take images of 1 pixels",
    ),
    "other device": (["--methods", "ours", "--device", "mps"], "only cpu and cuda are supported"),
    "no pair": (["--methods", "ours", "--set", "ours.k"], "write NAME=VALUE"),
    "missing data": (["--methods", "ours", "--data-root", "nowhere"], "--data-root"),
    "missing weights": (
        ["--methods", "ours", "--weights", "tiny=nowhere.pth"],
        "--weights tiny=nowhere.pth: no such file",
    ),
    "weights without a name": (["--methods", "ours", "--weights", "nowhere.pth"], "write BACKBONE=PATH"),
    "unknown suite": (["--suite", "demmo"], "unknown suite 'demmo'; did you mean 'demo'?"),
    "no seed": (["--methods", "ours", "--seeds", "one"], "write whole numbers with commas"),
    "negative seed": (["--methods", "ours", "--seeds", "-1"], "run.seeds"),
    "no device": (["--methods", "ours", "--device", "gpu"], "write auto, cpu, cuda or cuda:1"),
    "no size": (["--methods", "ours", "--memory-limit", "12"], "write a size such as 24GiB"),
    "no plugin": (["--methods", "ours", "--plugin", "nowhere.py"], "no plugin file"),
    "unknown option": (["--method", "ours"], "No such option"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    arguments, expected = WRONG[name]
    rest = [*QUICK] if "--datasets" not in arguments else QUICK[2:]
    if "--backbones" in arguments:
        rest = [part for part in rest if part not in ("--backbones", "tiny")]
    if "--suite" in arguments:
        rest = []
    if "--device" in arguments:
        rest = [part for part in rest if part not in ("--device", "cpu")]
    if "--data-root" not in arguments and "--suite" not in arguments:
        rest = [*rest, "--data-root", str(data)]
    result = CliRunner().invoke(main, ["run", *rest, *arguments])
    assert result.exit_code == 2, result.output
    message = [line for line in result.stderr.splitlines() if line.lower().startswith("error")]
    assert len(message) == 1, result.output
    assert expected in message[0]
    assert not list((tmp_path / "home").glob("cells/*/result"))


def test_all_methods_are_those_that_compete(data, tmp_path):
    cells = planned(data, tmp_path, methods=("center", "all", "ours"), controls=False)
    own = [name for name in registry.names("methods") if registry.entry("methods", name).role == "method"]
    assert {"ours", "protopnet", "prototree"} < set(own)
    assert sorted(cell.spec.method for cell in cells) == sorted(["center", *own])


def test_unknown_commands_suggest_the_nearest():
    result = CliRunner().invoke(main, ["rnu"])
    assert result.exit_code == 2
    assert "did you mean 'run'" in result.stderr


def test_a_plugin_that_does_not_load_says_why(tmp_path):
    file = tmp_path / "plugin.py"
    file.write_text("def broken(:\n")
    result = CliRunner().invoke(main, ["ls", "--plugin", str(file)])
    assert result.exit_code == 2
    assert "plugin.py: SyntaxError" in result.stderr


def test_a_broken_annotation_names_file_and_line(data, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    broken = shutil.copytree(data, tmp_path / "broken")
    file = broken / "image_class_labels.txt"
    lines = file.read_text().splitlines()
    lines[3] = "4 nine"
    file.write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(main, ["run", "--methods", "ours", *QUICK, "--data-root", str(broken)])
    assert result.exit_code == 2
    assert "image_class_labels.txt:4" in result.stderr


def test_a_broken_image_fails_its_cells_or_is_left_out(data, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    broken = shutil.copytree(data, tmp_path / "broken")
    victim = sorted(broken.glob("images/*/*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:400])
    arguments = ["run", "--methods", "center", "--no-controls", *QUICK, "--data-root", str(broken), "--no-tracking"]
    failed = CliRunner().invoke(main, arguments)
    assert failed.exit_code == 1
    assert victim.name in failed.output
    skipped = CliRunner().invoke(main, [*arguments, "--set", "cub.on_bad_image=skip"])
    assert skipped.exit_code == 0, skipped.output
    rows = json.loads(CliRunner().invoke(main, ["results"]).stdout)
    assert [row["status"] for row in rows if row["metric"] == "consistency"].count("ok") == 1


def test_listing_brings_neither_torch_nor_mlflow():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom bench.cli.main import main\n"
        "result = CliRunner().invoke(main, ['ls', '--json'])\nassert result.exit_code == 0\n"
        "print(result.output)\nassert not {'torch', 'mlflow', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"ours", "protopnet", "blackbox", "constant"} <= {
        entry["name"] for entry in json.loads(found.stdout)["methods"]
    }
