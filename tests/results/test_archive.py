"""Compact results: every table and every JSON as they were, both forms read by every command, damage named."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core.score import table_text
from bench.results.archive import Archive, write_archive
from bench.results.merge import gather
from bench.results.store import Store
from tests.support.documented import RESULTS, ROOT
from tests.support.samples import Silent
from tests.support.stores import StoreMaker

EXTREME = {
    "int.image": {"index": [0, -1, 2**63 - 1], "class": [1, 1, 1]},
    "float.image": {"index": [0, 1, 2], "value": [0.1, float("nan"), 5e-324]},
    "signs.image": {"value": [-0.0, float("-inf"), 1.7976931348623157e308]},
    "empty.draw": {"draw": [], "value": []},
    "order.image": {"z": [1], "a": [2.5], "cell": [3]},
    "huge.image": {"value": [2**70, 1, 2]},
    "flags.image": {"value": [True, False]},
}


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Two suites of the published study in a home, the form of earlier exports, and in an export."""
    home, target = tmp_path / "home", tmp_path / "export"
    for suite in ("study_cars", "study_related"):
        shutil.copytree(ROOT / RESULTS / suite, target / suite)
    monkeypatch.setenv("BENCH_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "160")
    gather(target, Store(home), home, Silent())
    for stamp, run in Store(target).invocations().items():
        Store(home).record_invocation(stamp, run)
    return home, target


def call(*words):
    return CliRunner().invoke(main, list(map(str, words)))


def test_every_file_and_number_is_read_back(tmp_path):
    maker = StoreMaker(tmp_path / "home")
    history = [{"epoch": 0, "phase": "warm", "seconds": 0.1, "loss": 1.5}]
    names = [
        maker.cell("ours", {"accuracy": 0.1 + 0.2, "consistency": 1.0, "stability": 2.0}, seed=seed, history=history,
                   items=items)
        for seed, items in enumerate([EXTREME, {"int.image": {"index": [0.0, 1.0], "class": [1, 1]}}, {}] * 25)
    ]  # fmt: skip
    names.append(maker.cell("protopnet", failure=("oom", "no memory")))
    stamp = maker.store.new_invocation({"suite": "s", "command": "c", "cells": names})
    assert call("export", tmp_path / "export", "--out", tmp_path / "home", "--run", stamp).exit_code == 0
    before, after = maker.store, Store(tmp_path / "export")
    assert after.rows() == before.rows()
    assert after.invocations() == before.invocations()
    for name in names:
        old, new = before.record(name), after.record(name)
        assert (new.spec, new.result) == (old.spec, old.result)
        assert new.written == {**old.written, "exported": True, "command": new.written["command"]}
        assert (new.failure or {}).get("reason") == (old.failure or {}).get("reason")
        files, mine = before.files(name), after.files(name)
        listed = [*files.names("history.json"), *files.names("items/*.csv")]
        assert listed == [*mine.names("history.json"), *mine.names("items/*.csv")]
        for file in listed:
            assert mine.read(file) == files.read(file)
            if file.startswith("items") and "huge" not in file:
                assert_equal(mine.table(file), files.table(file))


def assert_equal(columns, others):
    assert list(columns) == list(others)
    for name, values in columns.items():
        if len(values):
            assert values.dtype == others[name].dtype
            assert values.tobytes() == others[name].tobytes() or np.isnan(values).any()
            np.testing.assert_array_equal(values, others[name])


def test_text_of_a_plugin_is_kept_as_it_is(tmp_path):
    odd = {"items/x.image.csv": b"name,value\nred,1\n", "items/y.image.csv": b"value\n1.50\n",
           "items/z.image.csv": table_text({"value": [1.5]}).encode()}  # fmt: skip
    facts = {"description": {}, "result": None, "failure": None}
    write_archive(tmp_path / "s", "1", {"suite": "s", "command": ""}, [("a", facts, odd)])
    content = json.loads((tmp_path / "s" / "cells.json").read_text())
    assert content["cells"]["a"]["files"] == {
        "items/x.image.csv": "items:x.image.csv", "items/y.image.csv": "items:y.image.csv",
        "items/z.image.csv": "z.image",
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    ["results --csv", "results --json", "report --suite study_related", "report --table 5 --suite study_cars",
     "report --suite study_related --intervals --format md",
     'compare ours "tesnet (schedule.repeat=5)" --suite study_cars', "show {}"],
)  # fmt: skip
def test_commands_print_the_same_from_both_forms(both, words):
    words = shlex.split(words.format(Store(both[0]).cells()[0]))
    printed = [call(*words, "--out", place) for place in both]
    assert [result.exit_code for result in printed] == [0, 0], printed
    # The places of files are others.
    here, there = (
        [line for line in result.stdout.splitlines() if not re.match(r"(folder|repeat|all of them)", line)]
        for result in printed
    )
    assert len(there) > 1
    assert there == here


def test_pages_have_curves_and_prototypes(both, tmp_path):
    _, target = both
    result = call("report", "--out", target, "--format", "html", "-o", tmp_path / "pages")
    assert result.exit_code == 0, result.output
    text = "".join(file.read_text() for file in (tmp_path / "pages").rglob("*.html"))
    assert "Training" in text
    assert "The results have a row for each prototype" in text


@pytest.mark.slow
def test_mirror_of_an_export_has_its_files(both, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    home, target = both
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "mirror"))
    result = call("sync", "--out", target)
    assert result.exit_code == 0, result.output
    files = {}
    for file in (tmp_path / "mirror" / "mlartifacts").rglob("*"):
        files.setdefault(file.name, []).append(file)
    cells = len(list(home.glob("cells/*/cell.json")))
    assert len(files["cell.json"]) == len(files["result.json"]) == cells > 7
    assert len(files["history.json"]) == len(list(home.glob("cells/*/result/history.json"))) > 0
    tables = {file.read_bytes() for file in files["consistency.prototype.csv"]}
    assert tables == {file.read_bytes() for file in home.glob("cells/*/result/items/consistency.prototype.csv")}
    assert "0 created, 0 updated" in call("sync", "--out", target).output


def test_gathered_results_are_the_published_files(both, tmp_path):
    home, target = both
    published, taken = Store(target), Store(home)
    assert taken.rows() == published.rows()
    for name in published.cells():
        assert taken.record(name) == published.record(name)
        for file in published.files(name).names("items/*.csv"):
            assert taken.files(name).read(file) == published.files(name).read(file)
    assert "is a home of runs" in call("export", home, "--out", target).stderr
    for stamp in taken.invocations():
        assert call("export", tmp_path / "again", "--out", home, "--run", stamp).exit_code == 0
    for file in target.rglob("*.*"):
        assert (tmp_path / "again" / file.relative_to(target)).read_bytes() == file.read_bytes()


def test_an_export_is_only_read(both):
    _, target = both
    refused = call("run", "--methods", "center", "--datasets", "demo", "--out", target)
    assert refused.exit_code == 2
    assert f"{target} is an export, which is only read: `python -m bench gather {target}`" in refused.stderr
    gathered = call("gather", target.parent / "home", "--out", target)
    assert "is an export, which is only read" in gathered.stderr
    assert not (target / "cells").exists()


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_tables_are_named_and_numbers_stay(both, damage):
    _, target = both
    (tables,) = target.glob("study_related/*.parquet")
    if damage == "changed":
        tables.write_bytes(tables.read_bytes()[:-9] + b"x" + tables.read_bytes()[-8:])
    else:
        tables.unlink()
    result = call("results", "--csv", "--out", target)
    assert result.exit_code == 0
    assert tables.name in result.stdout
    assert "export` the suite anew" in result.stdout
    assert Store(target).rows() == Store(both[0]).rows()
    progress = Silent()
    counts = gather(target, Store(target.parent / "fresh"), target.parent / "fresh", progress)
    assert counts.taken == len(list((target.parent / "fresh").glob("cells/*"))) > 0
    assert counts.taken + counts.damaged == len(Store(target).cells()) > counts.taken
    assert all(tables.name in note for note in progress.notes)


@pytest.mark.parametrize("edit", [lambda text: text.replace('"seed": 0', '"seed": 1', 1), lambda text: text[:-20],
                                  lambda text: "{}", lambda text: '{"format": 1, "sha256": "0"}'])  # fmt: skip
def test_damaged_cells_are_named(both, caplog, edit):
    _, target = both
    file = target / "study_related" / "cells.json"
    file.write_text(edit(file.read_text()))
    result = call("report", "--out", target, "--suite", "study_cars")
    assert result.exit_code == 0
    assert f"{file} " in caplog.text
    assert "take that folder from its source again" in caplog.text
    row = Store(target).rows()[-1]
    assert (row.status, str(file) in row.reason) == ("failed", True)
    shutil.rmtree(target / "study_cars")
    assert call("report", "--out", target).exit_code == 2
    gathered = call("gather", target)
    assert f"is no home of results: {file}" in gathered.stderr


def test_published_study_is_small():
    files = [file for file in (ROOT / RESULTS).rglob("*") if file.is_file()]
    # Two files a suite: a clone must stay small.
    assert len(files) <= 40
    assert sum(file.stat().st_size for file in files) < 16e6
    assert all(Archive(file).tables.is_file() for file in files if file.name == "cells.json")
