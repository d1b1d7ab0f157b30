"""Shells complete names of the catalogue, suites, and cells of the store at hand."""

import pytest
from click.shell_completion import ShellComplete

from bench.cli.main import main
from tests.support.stores import example_store


def completed(*words):
    shell = ShellComplete(main, {}, "partbench", "_PARTBENCH_COMPLETE")
    return {item.value: item.help for item in shell.get_completions(list(words[:-1]), words[-1])}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("run", "--methods", "prototr"), {"prototree"}),
        (("run", "--methods", "ours,prototr"), {"ours,prototree"}),
        (("run", "--datasets", "cu"), {"cub"}),
        (("run", "--backbones", "squ"), {"squeezenet1_1"}),
        (("run", "--metrics", "consistency_c"), {"consistency_controlled"}),
        (("report", "--suite", "study_bi"), {"study_birds"}),
        (("compare", "ours", "tes"), {"tesnet"}),
        (("check", "accur"), {"accuracy"}),
        (("ls", "back"), {"backbones"}),
    ],
)
def test_names(words, found):
    assert set(completed(*words)) == found


def test_cells_are_those_of_the_store_with_their_titles(tmp_path):
    maker, cells = example_store(tmp_path)
    wanted = cells["ours-0"]
    assert completed("show", "--out", str(maker.store.root), wanted[:10]) == {wanted: "ours · demo · tiny · seed 0"}
    assert set(completed("figure", "8", "--out", str(maker.store.root), "--cell", "")) == set(cells.values())
    assert completed("show", "--out", str(tmp_path / "none"), "") == {}


def test_completion_runs_no_plugin(tmp_path, monkeypatch):
    plugin = tmp_path / "plugin.py"
    plugin.write_text("raise RuntimeError")
    monkeypatch.setenv("BENCH_PLUGINS", str(plugin))
    assert set(completed("run", "--methods", "prototr")) == {"prototree"}
