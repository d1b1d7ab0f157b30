"""A run's results in a folder to publish: the same tables and pages, and nothing of this machine."""

import json

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.report.plots.scatter import cost
from bench.results.export import export
from bench.results.store import Store, write_json
from tests.support.samples import Silent
from tests.support.stores import example_store, reseal


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home whose cells name it, as those of real runs do."""
    root = tmp_path / "home of mine"
    maker, cells = example_store(root)
    for name in cells.values():
        written = maker.store.specification(name)
        written["where"] |= {"data_root": str(root / "birds"), "weights": f"{root}/net.pth"}
        write_json(maker.store.cell(name).path / "cell.json", written)
    result = maker.store.cell(cells["ours-0"]).result / "result.json"
    content = json.loads(result.read_text())
    content["environment"]["arguments"] = ["cell", "/scratch/me/cells/1f", "--out=/scratch/me"]
    write_json(result, content)
    reseal(result.parent)
    monkeypatch.setenv("BENCH_HOME", str(root))
    monkeypatch.setenv("COLUMNS", "120")
    return root, cells


def call(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_tables_are_the_same_and_nothing_names_the_machine(home, tmp_path):
    root, cells = home
    target = tmp_path / "published"
    result = call("export", target)
    assert result.exit_code == 0, result.output
    assert "8 cells (2 of them failed), 1 not finished and left out" in result.stdout
    for file in target.rglob("*.json"):
        assert str(tmp_path) not in file.read_text()
        assert "/scratch" not in file.read_text()
    assert not list(target.rglob("*.safetensors"))
    assert not list(target.rglob("log.txt"))
    arguments = Store(target).outcome(cells["ours-0"])["environment"]["arguments"]
    assert arguments == ["cell", "1f", "--out=me"]
    assert Store(target).rows() == [row for row in Store(root).rows() if row.cell != cells["ours-late"]]


def test_the_table_is_the_same(home, tmp_path):
    root, cells = home
    done = [name for name in cells.values() if name != cells["ours-late"]]
    Store(root).record_invocation("20260305-000000-000", {"suite": "default", "command": "", "cells": done})
    assert call("export", tmp_path / "published").exit_code == 0
    here, there = (call("report", "--intervals", "--out", place).stdout for place in (root, tmp_path / "published"))
    assert "protopnet" in here
    assert there == here


def test_pages_are_made_of_an_export(home, tmp_path):
    assert call("export", tmp_path / "published").exit_code == 0
    result = call("report", "--out", tmp_path / "published", "--format", "html", "-o", tmp_path / "pages")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "pages" / "index.html").is_file()


def test_what_the_black_box_took_is_known_without_it(home, tmp_path):
    """Black boxes are no part of an export; the plot of costs counts their training."""
    root, _ = home
    assert call("export", tmp_path / "published").exit_code == 0
    here, there = (cost(Store(place))[0] for place in (root, tmp_path / "published"))
    assert "ours on tiny: seconds to fit 94" in there.alt
    assert there.alt == here.alt


def test_a_later_export_of_the_suite_replaces_the_earlier_one(home, tmp_path):
    root, cells = home
    target, store = tmp_path / "published", Store(root)
    store.record_invocation("20260305-000000-000", {"suite": "other", "command": "", "cells": [cells["constant-0"]]})
    assert call("export", target, "--suite", "default").exit_code == 0
    assert call("export", target, "--suite", "other").exit_code == 0
    store.record_invocation("20260306-000000-000", {"suite": "default", "command": "", "cells": [cells["ours-0"]]})
    assert call("export", target, "--suite", "default").exit_code == 0
    assert Store(target).cells() == sorted([cells["constant-0"], cells["ours-0"]])
    assert list(Store(target).invocations()) == ["20260305-000000-000", "20260306-000000-000"]


def content_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_home_is_never_written_over(home, tmp_path):
    """With the arguments the wrong way round, the home of trained cells would be the target."""
    root, _ = home
    assert call("export", tmp_path / "published").exit_code == 0
    before = content_of(root)
    result = call("export", root, "--out", tmp_path / "published")
    assert result.exit_code == 2
    assert "is a home of runs, not an export" in result.stderr
    assert "name an empty folder, or that of an earlier export" in result.stderr
    assert content_of(root) == before


@pytest.mark.parametrize("computed", ["prepared", "features", "blackboxes", "cells"])
def test_export_with_new_results_is_left_alone(home, tmp_path, computed):
    target = tmp_path / "published"
    assert call("export", target).exit_code == 0
    (target / computed).mkdir()
    before = content_of(target)
    assert f"is a home of runs, not an export of this version: it has {computed}" in call("export", target).stderr
    assert content_of(target) == before


def test_an_interrupted_export_leaves_the_former_one(home, tmp_path):
    root, cells = home
    target = tmp_path / "published"
    assert call("export", target).exit_code == 0
    before = content_of(target)

    class Killed(Silent):
        def track(self, items, what):
            yield from items[:3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(Store(root), Store(root).chosen_run(), target, Killed())
    assert content_of(target) == before
    # Killed between the two files: the tables that no cells.json names yet are no harm, and the next export cleans up.
    (target / "default" / "items-0123456789ab.parquet").write_bytes(b"half")
    assert Store(target).rows() == [row for row in Store(root).rows() if row.cell != cells["ours-late"]]
    assert call("export", target).exit_code == 0
    assert content_of(target) == before


def test_what_is_refused(home, tmp_path):
    root, _ = home
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "letter.txt").write_text("dear")
    assert "holds something else" in call("export", tmp_path / "else").stderr
    assert "is the home itself" in call("export", root).stderr
    assert "suite 'x' has not been run yet" in call("export", tmp_path / "new", "--suite", "x").stderr
    assert "no run '2020'" in call("export", tmp_path / "new", "--run", "2020").stderr
    assert (tmp_path / "else" / "letter.txt").read_text() == "dear"
    assert not (tmp_path / "new").exists()


def test_an_altered_table_is_not_published(home, tmp_path):
    """Its copy would have a digest that says it was computed."""
    root, cells = home
    table = Store(root).cell(cells["ours-0"]).result / "items" / "consistency.image.csv"
    table.write_text("index,label\n0,1\n")
    result = call("export", tmp_path / "published")
    assert result.exit_code == 0, result.output
    assert f"{table.name} was changed after it was written: left out" in " ".join(result.stderr.split())
    files = Store(tmp_path / "published").files(cells["ours-0"])
    assert "items/stability.image.csv" in files.names("items/*.csv")
    assert f"items/{table.name}" not in files.names("items/*.csv")
