"""What the digest of a plugin's code follows from, and which ids it enters."""

import os

import pytest

from bench.core import registry
from bench.core.source_code import Code, read_with_imports
from tests.support.small_birds import few_birds, planned

METRIC = """
from bench.contract import Metric, Score
from bench.core.registry import register
{more}

class Level(Metric):
    name, version, unit = "level", "1", ""

    def update(self, seen):
        pass

    def compute(self):
        return Score({value}, 1)

register("metrics", "level", Level)
"""
METHOD = """
from bench.core.registry import register
from metrics.controls import Center

class Corner(Center):
    name = "corner"
    {more}

register("methods", "corner", Corner)
"""


@pytest.fixture(autouse=True)
def own_catalogue(monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})


def digest(file):
    return Code.of(file, read_with_imports(file)).digest


def write(folder, more=None, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**files, **(more or {})}.items():
        place = folder / f"{name}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text(content)
    return folder / "plugin.py"


def test_the_place_and_name_of_a_plugin_do_not_count(tmp_path):
    one = write(tmp_path / "one", plugin="import helper", helper="")
    two = write(tmp_path / "two", other="import helper", helper="")
    assert digest(one) == digest(two.with_name("other.py"))


@pytest.mark.parametrize(
    ("imports", "changed", "counts"),
    [
        ("", "plugin", True),
        ("", "helper", False),
        ("import helper", "helper", True),
        ("from helper import x as y", "helper", True),
        ("def later():\n    import helper", "helper", True),
        ("import importlib\nimportlib.import_module('helper')", "helper", True),
        ("import through", "helper", True),
        ("from pack import deep", "pack/deep", True),
        ("import pack.deep", "pack/__init__", True),
        ("from pack import relative", "pack/deep", True),
        ("import pack", "pack/deep", False),
    ],
)
def test_a_digest_changes_with_what_is_imported(tmp_path, imports, changed, counts):
    files = {"helper": "", "through": "import helper", "pack/__init__": "", "pack/deep": "",
             "pack/relative": "from . import deep", "plugin": imports}  # fmt: skip
    before = digest(write(tmp_path, files))
    files[changed] += "\n# changed"
    assert (digest(write(tmp_path, files)) != before) == counts


def test_what_is_ours_has_versions_instead(tmp_path):
    assert registry.code("metrics", "accuracy") is None
    assert registry.code("methods", "protopnet") is None
    file = write(tmp_path, plugin="from bench.contract import Metric\nimport metrics.tables")
    assert list(read_with_imports(file)) == [file]


def test_a_file_of_the_same_size_and_second_runs_as_it_is(tmp_path):
    """Python's own bytecode files would count as current."""
    for value in (1.0, 2.0):
        file = write(tmp_path, plugin=METRIC.format(value=value, more="import own_helper"), own_helper=f"X = {value}")
        os.utime(file, (1, 1))
        os.utime(tmp_path / "own_helper.py", (1, 1))
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            registry.load_plugin(file)
        kind = registry.load("metrics", "level")
        assert kind(None, None, None).compute().value == value
        assert value == __import__("own_helper").X
        assert registry.code("metrics", "level").digest == digest(file)


def test_a_class_from_elsewhere_counts_with_its_own_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(write(tmp_path / "lib", far="class Far:\n    pass").parent)
    file = write(tmp_path / "own", plugin="import far\nfrom bench.core.registry import register\n"
                 "register('methods', 'far', far.Far)")  # fmt: skip
    registry.load_plugin(file)
    before = registry.code("methods", "far")
    write(tmp_path / "lib", far="class Far:\n    x = 1")
    registry.load_plugin(file)
    assert registry.code("methods", "far").digest != before.digest
    assert before.file == str(file)


def test_an_installed_plugin_counts_with_version_and_package(tmp_path, monkeypatch):
    found = []
    for version, content in (("1.0", "x = 1"), ("1.0", "x = 2"), ("1.1", "x = 2"), ("1.1", "x = 2")):
        write(tmp_path, {"installed/__init__": "class Far:\n    pass", "installed/deep": content})
        info = tmp_path / "installed.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: installed\nVersion: {version}\n")
        (info / "entry_points.txt").write_text("[bench.metrics]\nfar = installed:Far\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry._from_entry_points.cache_clear()
        found.append(registry.code("metrics", "far"))
    registry._from_entry_points.cache_clear()
    assert len({one.digest for one in found}) == 3
    assert found[2] == found[3]
    assert found[0].file == str(tmp_path / "installed" / "__init__.py")


@pytest.mark.parametrize("name", ["../../x", "", "a/b", ".hidden", "a b", "x" * 65, "[red]", "a\nb"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="a name has up to 64"):
        registry.register("metrics", name, type("X", (), {}))


def test_ids_change_with_the_code_that_a_cell_uses(tmp_path):
    data, home, plugins = few_birds(tmp_path), tmp_path / "home", tmp_path / "plugins"
    request = {"methods": ("corner", "blackbox"), "metrics": ("accuracy", "level"), "controls": False}

    def cells(value, more):
        registry.load_plugin(write(plugins / "metric", plugin=METRIC.format(value=value, more="")))
        registry.load_plugin(write(plugins / "method", plugin=METHOD.format(more=more)))
        return {cell.spec.method: cell.spec for cell in planned(data, home, **request)}

    first, metric, method = cells(1.0, ""), cells(2.0, ""), cells(1.0, "x = 1")
    for name in ("corner", "blackbox"):  # both are measured by the metric
        assert first[name].id != metric[name].id
        assert first[name].fit_id == metric[name].fit_id
    assert first["corner"].fit_id != method["corner"].fit_id
    assert first["blackbox"] == method["blackbox"]
    assert "code" not in first["blackbox"].content
    (plain,) = planned(data, home, methods=("blackbox",), metrics=("accuracy",), controls=False)
    assert plain.spec.black_box_id == first["blackbox"].black_box_id
    assert plain.where.code == {}


def test_the_code_of_a_reader_is_part_of_the_data(tmp_path):
    data, home = few_birds(tmp_path), tmp_path / "home"
    reader = "from bench.data.cub import Cub\nfrom bench.core.registry import register\nclass Own(Cub):\n    {}\n"
    reader += "register('datasets', 'own', Own)\n"
    found = []
    for content in ("pass", "x = 1"):
        registry.load_plugin(write(tmp_path / "plugins", plugin=reader.format(content)))
        overrides = {"cub.reader": "own"}
        found += planned(data, home, methods=("blackbox",), metrics=("accuracy",), controls=False, overrides=overrides)
    one, two = (cell.spec for cell in found)
    assert one.data_digest != two.data_digest
    assert one.black_box_id != two.black_box_id
    assert one.code.keys() == {"dataset"}
