"""A damaged file of a cell or of a call costs one row: every reader goes on with the others, and names the file."""

import json
import shutil

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.core.errors import RequestError
from bench.core.integrity import fingerprint
from bench.results.records import read_description, read_history, read_result
from bench.results.store import Store, write_json
from tests.support.stores import StoreMaker, epoch, reseal

SCORES = {"accuracy": 90.0, "consistency": 60.0, "stability": 70.0}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A whole cell and one to be damaged, in one run."""
    maker = StoreMaker(tmp_path / "home")
    cells = [maker.cell(name, SCORES, history=[epoch(0, "all", 0.5)]) for name in ("ours", "protopnet")]
    maker.invocation([*cells, maker.cell("tesnet", SCORES)])
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")
    return maker.store, *cells


def call(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def rows_of(store, name):
    return [(row.status, row.reason) for row in store.rows() if row.cell == name]


WRONG = ["{}", "[]", "null", "3", '"text"', "", "{", '{"spec": 1}', '{"scores": []}', "[" * 100_000, '{"value": NaN}']


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
@pytest.mark.parametrize("file", ["cell.json", "result/result.json", "result/digests.json"])
def test_a_file_of_the_wrong_shape_is_one_bad_row(home, file, text):
    store, good, bad = home
    (store.cell(bad).path / file).write_text(text)
    found = rows_of(store, bad)
    assert {status for status, _ in found} == {"failed"}
    assert all(f"{bad}/{file}" in reason or f"{bad}/result/result.json" in reason for _, reason in found)
    assert {status for status, _ in rows_of(store, good)} == {"ok"}


@pytest.mark.parametrize("file", ["cell.json", "result/result.json"])
def test_no_command_is_stopped_by_a_damaged_cell(home, tmp_path, file):
    store, good, bad = home
    (store.cell(bad).path / file).write_text("{}")
    place = f"{bad}/{file} " + ("cannot be read" if file == "cell.json" else "was changed after it was written")
    rows = json.loads(call("results").stdout)
    assert {row["status"] for row in rows if row["cell"] == bad} == {"failed"}
    assert {row["status"] for row in rows if row["cell"] == good} == {"ok"}
    for arguments in (["status"], ["show", bad], ["report"]):
        result = call(*arguments)
        assert result.exit_code == 0, result.output
        assert place in result.stdout, arguments
    compared = call("compare", "ours", "tesnet")
    assert "not tested" in compared.stdout  # these tables hold nothing to test
    assert place in compared.stdout or file != "cell.json"
    pages = ["report", "--format", "html", "-o", tmp_path / "pages"]
    taken = ["gather", store.root, "--out", tmp_path / "other"]
    for arguments in (["report", "--table", "2"], pages, ["export", tmp_path / "published"], taken):
        result = call(*arguments)
        assert result.exit_code == 0, result.output
    assert place in (tmp_path / "pages" / "index.html").read_text() or file != "cell.json"
    assert Store(tmp_path / "published").record(good).result == store.record(good).result
    assert bad not in Store(tmp_path / "other").cells()


def test_a_damaged_record_of_a_call_is_one_bad_row(home):
    store, good, bad = home
    damaged = store.root / "invocations" / "20260304-101500-124.json"
    said = f"{damaged} cannot be read (command: Field required): delete that file, the record of one call"
    write_json(damaged, {"suite": "s", "cells": [good]})
    (row,) = [row for row in store.rows() if not row.cell]
    assert (row.status, row.reason.startswith(said)) == ("failed", True)
    result = call("report")
    assert result.exit_code == 0, result.output
    assert "run: 20260304-101500-123" in result.stdout
    assert said in call("report", "--run", damaged.stem).stderr
    assert {status for status, _ in rows_of(store, bad)} == {"ok"}


@pytest.mark.parametrize("name", ["../../other", "a/b", "", "."])
def test_a_call_names_no_cell_outside_its_store(home, name):
    store, good, _ = home
    write_json(store.root / "invocations" / "1.json", {"suite": "s", "command": "", "cells": [good, name]})
    assert "1" not in store.invocations()


def test_what_was_written_anew_is_no_fault_any_more(home):
    store, _, bad = home
    file = store.cell(bad).path / "cell.json"
    whole = file.read_text()
    file.write_text("{}")
    assert store.record(bad).written is None
    file.write_text(whole)
    assert store.record(bad).result is not None
    assert store.faults == {}


@pytest.mark.parametrize(("part", "value"), [("seed", 7), ("dataset", "cub"), ("metrics", {})])
def test_a_cell_that_is_not_what_its_id_says_is_refused(home, part, value):
    store, _, bad = home
    file = store.cell(bad).path / "cell.json"
    written = json.loads(file.read_text())
    written["spec"][part] = value
    write_json(file, written)
    with pytest.raises(RequestError, match=f"{bad}/cell.json was changed after it was written: its content has the id"):
        read_description(file, bad)
    assert {status for status, _ in rows_of(store, bad)} == {"failed"}
    # Under the id of its content it would be a cell of that name.
    (file.parent.parent / fingerprint(written["spec"])).mkdir()
    moved = shutil.copy(file, file.parent.parent / fingerprint(written["spec"]))
    assert read_description(type(file)(moved), fingerprint(written["spec"])) == written


@pytest.mark.parametrize(
    ("place", "value"),
    [(("scores", "accuracy", "value"), "97.5"), (("scores", "accuracy", "n"), 1.5), (("scores", "accuracy"), None),
     (("seconds", "fit"), "long"), (("facts",), []), (("environment",), {}), (("images",), {"test": "24"})],
)  # fmt: skip
def test_a_result_with_a_value_of_another_type_is_damaged(home, place, value):
    store, _, bad = home
    result = store.cell(bad).result
    content = json.loads((result / "result.json").read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    write_json(result / "result.json", content)
    reseal(result)
    with pytest.raises(RequestError, match=rf"result\.json cannot be read \({'.'.join(place)}"):
        read_result(result)
    assert {status for status, _ in rows_of(store, bad)} == {"failed"}


def test_a_result_without_one_of_its_metrics_is_damaged(home):
    store, _, bad = home
    result = store.cell(bad).result
    content = json.loads((result / "result.json").read_text())
    del content["scores"]["stability"]
    write_json(result / "result.json", content)
    reseal(result)
    assert "it has no stability" in store.record(bad).failure["reason"]


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"epoch": "first"}]', '[{"epoch": 0, "loss": null}]', "[" * 100_000])
def test_a_history_of_the_wrong_shape_is_named(home, text):
    store, _, bad = home
    (store.cell(bad).result / "history.json").write_text(text)
    reseal(store.cell(bad).result)
    with pytest.raises(RequestError, match=r"history\.json cannot be read"):
        read_history(store.cell(bad).result)
    assert {status for status, _ in rows_of(store, bad)} == {"ok"}


@pytest.mark.parametrize("text", ["{}", "[]", '{"status": "ok", "reason": "", "details": ""}', '{"status": "failed"}'])
def test_a_damaged_failure_is_a_failure(home, text):
    store, *_ = home
    name = StoreMaker(store.root).cell("tesnet", seed=1, failure=("failed", "loss became nan"))
    (store.cell(name).path / "failure.json").write_text(text)
    assert all("failure.json cannot be read" in reason for _, reason in rows_of(store, name))


def test_a_state_of_work_that_makes_no_sense_is_none(home):
    store, *_ = home
    name = StoreMaker(store.root).cell("tesnet", seed=1)
    (store.cell(name).path / "activity.json").write_text('{"pid": 1}')
    result = call("status", "--all")
    assert result.exit_code == 0, result.output
    assert "3 of 4 cells done · 1 to run" in result.stdout


def test_cells_of_earlier_versions_are_read(home):
    """Without what was added since: digests, the choice of a split, what was given."""
    store, good, _ = home
    written = store.record(good).written
    for name in ("fit_id", "changed", "black_box_id"):
        written.pop(name, None)
    write_json(store.cell(good).path / "cell.json", written)
    (store.cell(good).result / "digests.json").unlink()
    assert {status for status, _ in rows_of(store, good)} == {"ok"}
