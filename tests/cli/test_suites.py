"""Every suite can be planned: on small data where it is at hand, else it says in a line what data is missing."""

import json
import re

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.config import schema
from bench.core.paths import config_files
from tests.support.small_birds import few_birds

SMALL = [name for name in schema.suites() if name.endswith("_small")]
FULL = [name for name in schema.suites() if name not in SMALL and name != "demo"]
"""Full-size suites need data that is not downloaded by itself."""


def call(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("suite", FULL)
def test_without_data_a_suite_says_what_to_pass(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    result = call("run", "--suite", suite, "--dry-run")
    assert result.exit_code == 2, result.output
    missing = result.stderr.strip().splitlines()
    assert all("not found: " in line and "pass --data-root DIR" in line for line in missing)
    parts = schema.read_suites(suite)
    sets = {part.get("overrides", {}).get(f"{name}.folder", name) for part in parts for name in part["datasets"]}
    assert len(missing) == len(sets)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SMALL)
def test_small_suites_are_planned_on_the_shared_data(suite, cub50, request, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    if suite == "imagenet_small":
        weights = f"timm:tf_efficientnet_lite0={request.getfixturevalue('efficientnet_weights')}"
    else:
        weights = f"mobilenet_v2={request.getfixturevalue('mobilenet_weights')}"
    result = call("run", "--suite", suite, "--dry-run", "--data-root", str(cub50.parent), "--weights", weights)
    assert result.exit_code == 0, result.output
    assert "to run" in result.output


def test_weights_that_no_part_of_a_suite_uses_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    result = call("run", "--suite", "everything", "--dry-run", "--weights", "squeezenet1_1=x.pth")
    assert result.exit_code == 2
    assert "--weights squeezenet1_1=...: this run uses coc_tiny, densenet121" in result.output


def test_set_holds_in_every_part_of_a_suite(tmp_path, monkeypatch):
    configs = tmp_path / "configs"
    (configs / "suites").mkdir(parents=True)
    common = "methods: [ours]\ndatasets: [cub]\nbackbones: [tiny]\nrecipe: demo\ncontrols: false\n"
    (configs / "suites" / "three.yaml").write_text(common + "grid: {ours.k: [3, 5, 10]}\n")
    (configs / "suites" / "one.yaml").write_text(common + "overrides: {ours.k: 4}\n")
    (configs / "suites" / "both.yaml").write_text("includes: [three, one]\n")
    monkeypatch.setenv("BENCH_CONFIGS", str(configs))
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    birds = few_birds(tmp_path)

    def planned(suite, *pairs):
        words = [word for pair in pairs for word in ("--set", pair)]
        result = call("run", "--suite", suite, "--dry-run", "--data-root", str(birds), *words)
        assert result.exit_code == 0, result.output
        return sorted(set(map(int, re.findall(r"ours \(k=(\d+)\)", result.output))))

    assert planned("both") == [3, 4, 5, 10]
    assert planned("both", "ours.k=7") == [7]
    assert planned("both", "ours.k=2,6") == [2, 6]


def test_listing_says_what_each_suite_is():
    listed = {one["name"]: one["summary"] for one in json.loads(call("ls", "suites", "--json").output)["suites"]}
    assert set(listed) == set(schema.suites())
    assert all(len(summary) > 20 for summary in listed.values())


def test_a_suite_by_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "mine.yaml").write_text("methods: [ours]\ndatasets: [cub]\nbackbones: [tiny]\nrecipe: demo\n")
    birds = few_birds(tmp_path)
    result = call("run", "--suite", str(tmp_path / "mine.yaml"), "--dry-run", "--data-root", str(birds))
    assert result.exit_code == 0, result.output
    assert "ours" in result.output
    result = call("run", "--suite", str(tmp_path / "yours.yaml"), "--dry-run")
    assert (result.exit_code, "no such file" in result.output) == (2, True)


def test_own_configurations_go_before_the_packaged(tmp_path):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.yaml").write_text("# What this suite of mine is about\nmethods: [ours]\n")
    listed = json.loads(call("--config-dir", str(tmp_path), "ls", "suites", "--json").output)["suites"]
    assert {"name": "mine", "summary": "What this suite of mine is about"} in listed
    assert "demo" in {one["name"] for one in listed}
    result = call("--config-dir", str(tmp_path / "nowhere"), "ls", "suites")
    assert (result.exit_code, "no such folder" in result.output) == (2, True)


def test_suites_are_short():
    for file in config_files("suites").values():
        assert len(file.read_text().splitlines()) <= 20, file
