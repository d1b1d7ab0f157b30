"""Authors of plugins: what `new` writes works, recipes and BENCH_PLUGINS are found, `check` sees who guesses."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from baselines.cosine_head import CosineHead
from bench.cli.main import main
from bench.core import registry
from bench.core.paths import PACKAGED_CONFIGS, config_file
from bench.diagnostics.conformance import check, methods
from tests.support.small_birds import QUICK, few_birds

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_catalogue(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})
    monkeypatch.setattr(registry, "_contents", {})
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def written(folder, kind="method", name="my-own"):
    done = call("new", kind, name, "--to", folder)
    assert done.exit_code == 0, done.output
    return folder / f"{name.replace('-', '_')}.py"


@pytest.mark.slow
def test_what_is_written_passes_its_own_tests(tmp_path):
    for kind in ("method", "metric", "dataset"):
        written(tmp_path / kind, kind, f"an_{kind}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert "6 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_new_method_runs_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_PLUGINS", os.pathsep.join([str(written(tmp_path / "mine"))]))
    recipe = tmp_path / "mine" / "configs" / "methods" / "my-own.yaml"
    recipe.write_text(recipe.read_text().replace("demo:\n    scale: 10.0", "demo:\n    scale: 4.0"))
    data = few_birds(tmp_path)
    done = call("run", "--methods", "my-own", *QUICK, "--data-root", data, "--no-controls", "--no-tracking")
    assert done.exit_code == 0, done.output
    (cell,) = (json.loads(file.read_text()) for file in (tmp_path / "home" / "cells").glob("*/cell.json"))
    assert cell["spec"]["settings"] == {"scale": 4.0}
    (run,) = (json.loads(file.read_text()) for file in (tmp_path / "home" / "invocations").glob("*.json"))
    assert run["command"].endswith(f"--plugin {tmp_path}/mine/my_own.py")


@pytest.mark.slow
def test_a_row_is_verified_from_its_export(tmp_path, monkeypatch):
    """As CONTRIBUTING says: in the folder of the plugin, where the data are found under the last name of their path."""
    untouched = {kind: dict(names) for kind, names in registry.CATALOGUE.items()}
    plugin, data = written(tmp_path / "author" / "mine"), few_birds(tmp_path / "author")
    asked = ["--methods", "my-own", *QUICK, "--data-root", data, "--no-controls", "--no-tracking"]
    assert call("run", *asked, "--plugin", plugin).exit_code == 0
    assert call("export", tmp_path / "row").exit_code == 0
    assert str(tmp_path) not in (tmp_path / "row" / "default" / "cells.json").read_text()

    shutil.copytree(plugin.parent, tmp_path / "reviewer")
    shutil.move(data, tmp_path / "reviewer" / data.name)
    shutil.rmtree(tmp_path / "author")
    monkeypatch.setattr(registry, "CATALOGUE", untouched)
    monkeypatch.chdir(tmp_path / "reviewer")
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "checked"))
    assert call("gather", "../row").exit_code == 0
    (cell,) = (tmp_path / "checked" / "cells").iterdir()
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "again"))
    done = call("repeat", cell, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert re.search(r"the same \d+ numbers", done.output)


def test_recipes_beside_a_plugin_replace_none_of_the_package(tmp_path):
    registry.load_plugin(written(tmp_path / "mine"))
    own = tmp_path / "mine" / "configs" / "methods" / "my-own.yaml"
    own.with_name("protopnet.yaml").write_text("recipes: {}\n")
    assert config_file("methods", "my-own") == own
    assert config_file("methods", "protopnet") == PACKAGED_CONFIGS / "methods" / "protopnet.yaml"


def test_a_package_of_plugins_ships_its_recipes(tmp_path, monkeypatch):
    package, info = tmp_path / "shipped", tmp_path / "shipped.dist-info"
    (package / "configs" / "methods").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('looking for recipes imports nothing')")
    (package / "configs" / "methods" / "afar.yaml").write_text("recipes: {demo: {scale: 3.0}}\n")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shipped\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bench.methods]\nafar = shipped.deep:Afar\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._from_entry_points.cache_clear()
    try:
        assert config_file("methods", "afar") == package / "configs" / "methods" / "afar.yaml"
    finally:
        registry._from_entry_points.cache_clear()


def test_plugins_of_the_environment_and_of_the_command_are_both_known(tmp_path, monkeypatch):
    first, second = written(tmp_path / "a", name="first"), written(tmp_path / "b", "metric", "second")
    monkeypatch.setenv("BENCH_PLUGINS", str(first))
    listed = json.loads(call("ls", "--json", "--plugin", second).output)
    assert {"first", "second"} <= {one["name"] for kind in ("methods", "metrics") for one in listed[kind]}
    monkeypatch.setenv("BENCH_PLUGINS", os.pathsep.join([str(first), str(tmp_path / "gone.py")]))
    refused = call("ls")
    assert refused.exit_code == 2
    assert f"BENCH_PLUGINS: {tmp_path}/gone.py: FileNotFoundError" in refused.stderr


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ours", "method 'ours' exists already"),
        ("json", "cannot name a Python module of your own"),
        ("class", "cannot name a Python module of your own"),
        ("a/b", "a name has up to 64 letters"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path, name, told):
    done = call("new", "method", name, "--to", tmp_path / "x")
    assert done.exit_code == 2
    assert told in done.stderr
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten(tmp_path):
    file = written(tmp_path / "mine")
    file.write_text("mine")
    assert call("new", "method", "other", "--to", tmp_path / "mine").exit_code == 2
    assert file.read_text() == "mine"


def test_a_method_that_guesses_is_warned_about(tmp_path):
    class Guess(CosineHead):
        name = "guess"

        def fit(self, task):
            model = super().fit(task)
            model.register_forward_hook(lambda model, _, logits: torch.zeros_like(logits))
            return model

    def warning(kind):
        prepared = methods.prepare("cosine-head", tmp_path)
        prepared.method = kind
        return methods.at_chance(prepared)

    assert warning(CosineHead) == ""
    assert warning(Guess).startswith("20 of 60 new images are predicted, where guessing predicts 20")


def test_check_ends_with_what_a_model_predicts():
    *_, last = check("cosine-head")
    assert (last.check, last.problem, last.warning) == (methods.LAST, None, "")
