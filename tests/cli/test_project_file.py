"""Defaults of a project: partbench.toml in the working directory, below variables and options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.core.errors import RequestError
from bench.core.paths import all_plugins, data_root, home
from bench.core.project_file import ProjectFile, project_file

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = """
import bench
from baselines.cosine_head import CosineHead

@bench.register_method("mine")
class Mine(CosineHead):
    "A method of this project."
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("BENCH_HOME", "BENCH_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def written(folder, text):
    (folder / "partbench.toml").write_text(text)


def test_without_the_file_nothing_changes(project):
    assert project_file() is None
    assert (home(), data_root(), all_plugins()) == (Path(".bench"), None, ())


def test_variables_and_arguments_win(project, monkeypatch):
    written(project, 'home = "results"\ndata-root = "~/birds"\nplugins = ["a.py", "b.py"]\n')
    assert project_file() == ProjectFile((Path("a.py"), Path("b.py")), Path("results"), Path.home() / "birds")
    assert (home(), data_root()) == (Path("results"), Path.home() / "birds")
    monkeypatch.setenv("BENCH_HOME", "elsewhere")
    monkeypatch.setenv("BENCH_PLUGINS", os.pathsep.join(["b.py", "c.py"]))
    assert home() == Path("elsewhere")
    assert all_plugins([Path("d.py")]) == tuple(map(Path, ("a.py", "b.py", "c.py", "d.py")))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('plugin = ["a.py"]', "no key 'plugin'; did you mean 'plugins'"),
        ('data_root = "x"', "no key 'data_root'; did you mean 'data-root'"),
        ("seeds = [0]", "no key 'seeds'; known: data-root, home, plugins"),
        ('plugins = "a.py"', r'plugins: write a list of files, plugins = \["mine.py"\]'),
        ("home = 3", "home: '3' is no path in quotes"),
        ('data-root = ""', "data-root: '' is no path"),
        ("home = ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(project, text, told):
    written(project, text)
    with pytest.raises(RequestError, match=f"partbench.toml: {told}"):
        project_file()


@pytest.mark.slow
def test_commands_take_what_the_file_names(project):
    (project / "mine.py").write_text(PLUGIN)
    written(project, 'home = "results"\ndata-root = "nowhere"\nplugins = ["mine.py"]\n')

    def call(*words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "bench", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=project, env=environment)

    assert "mine" in {one["name"] for one in json.loads(call("ls", "methods", "--json").stdout)["methods"]}
    status = call("status").stderr
    assert "partbench.toml: home results, data-root nowhere, plugins mine.py" in status
    assert "nothing has been run yet in results" in status
    refused = call("data", "verify", "cub")
    assert (refused.returncode, "nowhere" in refused.stderr) == (2, True), refused.stderr
    assert "elsewhere" in call("data", "verify", "cub", "--data-root", "elsewhere").stderr
