"""What is kept of a metric's declaration is what the metric declares, for as long as its code is the same."""

import json
import subprocess
import sys

import pytest

from bench.core import registry
from bench.core.score import Aggregate
from bench.results.stats import declarations
from bench.results.stats.declarations import declaration
from tests.support import regenerate
from tests.support.comparisons import accuracy
from tests.support.stores import StoreMaker


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    return tmp_path


def files(home):
    return sorted((home / "intervals").rglob("*.json"))


@pytest.fixture
def unknown(monkeypatch):
    """No declaration is shipped."""
    monkeypatch.setattr(declarations, "_shipped", dict)


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("metric", registry.CATALOGUE["metrics"])
def test_a_declaration_is_the_same_when_read_again(home, metric):
    kind = registry.load("metrics", metric)
    declared = kind.aggregates(kind.Config())
    for _ in range(2):
        declarations._declarations.cache_clear()
        for number, expected in declared.items():
            found = declaration(metric, {}, number)
            if isinstance(expected, Aggregate) and any(map(callable, vars(expected).values())):
                # A function of its own at each call.
                assert (found.table, found.by, found.scale) == (expected.table, expected.by, expected.scale)
            elif isinstance(expected, str):
                assert found == expected
            else:
                assert found.limits is None or tuple(found.limits) == expected.limits
                assert vars(found) | {"limits": None} == vars(expected) | {"limits": None}
        assert declaration(metric, {}, "no such number") is None
        assert len(files(home)) == 1


def test_what_is_shipped_is_what_the_metrics_declare():
    assert json.loads(regenerate.DECLARED.read_text()) == regenerate.declared(), (
        "python -m tests.support.regenerate declarations"
    )


def test_a_shipped_declaration_is_that_of_the_same_parameters(home):
    shipped = json.loads(regenerate.DECLARED.read_text())["consistency"]["parameters"]
    assert declaration("consistency", shipped).by == "class"
    assert files(home) == []
    assert declaration("consistency", {**shipped, "pooled": True}).by == "prototype"
    assert len(files(home)) == 1


@pytest.mark.usefixtures("unknown")
def test_other_code_and_damage_ask_the_metric_again(home, monkeypatch):
    expected = declaration("accuracy", {})
    for text in ("", "[]", '{"": {"table": "image"}}'):
        files(home)[0].write_text(text)
        declarations._declarations.cache_clear()
        assert declaration("accuracy", {}) == expected
    monkeypatch.setattr(declarations, "code_of_intervals", lambda: "other")
    assert declaration("accuracy", {}) == expected
    assert len(files(home)) == 2


def test_a_first_comparison_needs_no_torch(home):
    maker = StoreMaker(home)
    accuracy(maker, "ours", [1, 0] * 20)
    accuracy(maker, "protopnet", [1, 1] * 20)
    code = "import sys; from bench.cli.main import main; main(sys.argv[1:], standalone_mode=False)\n"
    code = f"try:\n  {code}finally:\n  assert not {{'torch', 'pandas', 'scipy'}} & set(sys.modules)"
    words = ["compare", "ours", "protopnet", "--format", "json"]
    ended = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    assert '"p": ' in ended.stdout
