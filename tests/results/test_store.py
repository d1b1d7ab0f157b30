"""Results appear in one step, are found again, and are held against other processes."""

import json
import subprocess
import sys

import pytest

from bench.contract import RequestError
from bench.results.store import Store, WorkDir, write_json
from tests.support.stores import StoreMaker


def test_a_result_appears_in_one_step(tmp_path):
    folder = Store(tmp_path).cell("x")
    for place in (folder.work, folder.resume):
        place.mkdir(parents=True)
    (folder.resume / "training.pt").write_text("checkpoint")
    (folder.work / "result.json").write_text("{}")
    (folder.work / ".history.json.123").write_text("half a fi")
    folder.fail("failed", "earlier")
    assert not folder.done
    assert folder.failure == {"status": "failed", "reason": "earlier", "details": ""}
    folder.finish()
    assert folder.done
    assert "scores: Field required" in folder.failure["reason"]  # "{}" is no result
    assert sorted(file.name for file in folder.result.iterdir()) == ["digests.json", "result.json"]
    assert [file.name for file in folder.path.iterdir()] == ["result"]
    assert WorkDir(folder.path).failure is None  # without a check of its content a result is taken as it is


def test_clear_forgets_everything(tmp_path):
    folder = WorkDir(tmp_path / "x")
    for place in (folder.work, folder.result):
        place.mkdir(parents=True)
        (place / "file").write_text("")
    folder.clear()
    assert not folder.done
    assert not folder.work.exists()


def begun(folder):
    folder.resume.mkdir(parents=True)
    (folder.resume / "training.pt").write_text("epoch 90 of 100")
    return folder.resume / "training.pt"


def test_renewing_a_second_time_keeps_what_was_begun_since(tmp_path):
    folder = WorkDir(tmp_path / "x")
    folder.result.mkdir(parents=True)
    old = begun(folder)
    folder.renew()
    assert not folder.done
    assert not old.exists()
    checkpoint = begun(folder)
    folder.renew()
    assert checkpoint.exists()


def test_what_has_ended_since_it_was_renewed_is_renewed_again(tmp_path):
    finished, failed = WorkDir(tmp_path / "x"), WorkDir(tmp_path / "y")
    for folder in (finished, failed):
        folder.renew()
    finished.work.mkdir()
    finished.finish()
    checkpoint = begun(failed)
    failed.fail("failed", "a mistake that is mended now")
    for folder in (finished, failed):
        folder.renew()
        assert not folder.done
    assert not checkpoint.exists()


def test_a_clearing_that_was_killed_is_done_again(tmp_path):
    folder = WorkDir(tmp_path / "x")
    checkpoint = begun(folder)
    write_json(folder.path / "anew", {})
    folder.renew()
    assert not checkpoint.exists()


def test_write_json_leaves_no_half_file(tmp_path):
    file = tmp_path / "a" / "b.json"
    write_json(file, {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(file, {"x": float("nan")})
    assert json.loads(file.read_text()) == {"x": 1}


def test_stamps_only_grow(tmp_path):
    store = Store(tmp_path)
    content = {"suite": "s", "command": "", "cells": []}
    stamps = [store.new_invocation(content) for _ in range(3)]
    assert stamps == sorted(set(stamps))
    store.record_invocation("29991231-235959-999", content)
    assert store.new_invocation(content) == "30000101-000000-000"
    assert store.chosen_run() == "30000101-000000-000"


def test_a_claim_keeps_others_out_and_ends_with_its_process(tmp_path):
    code = (
        "import sys, pathlib\nfrom bench.results.store import WorkDir\n"
        "with WorkDir(pathlib.Path(sys.argv[1])).claim():\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "x")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    import fcntl

    with (tmp_path / "x" / ".lock").open("w") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert WorkDir(tmp_path / "x").busy
        holder.kill()
        holder.wait()
        assert not WorkDir(tmp_path / "x").busy
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    holder.stdin.close()
    holder.stdout.close()


ACCURACY = {"accuracy": {"version": "1", "parameters": {}, "unit": "%"}}


def cell(maker, seed, scores=None, **more):
    return maker.cell("m", scores, seed=seed, metrics=ACCURACY, not_applicable={"consistency": "no key-points"}, **more)


def test_rows_tell_done_failed_unfinished_and_not_applicable(tmp_path):
    maker = StoreMaker(tmp_path)
    done, failed = cell(maker, 0, {"accuracy": 50.0}), cell(maker, 1, failure=("oom", "out of memory"))
    unfinished = cell(maker, 2)
    maker.invocation([done, failed], "1", "s")
    rows = maker.store.rows()
    found = {(row.cell, row.suite, row.metric): (row.value, row.status, row.reason) for row in rows}
    refused = (None, "n/a", "no key-points")
    assert found == {
        (done, "s", "accuracy"): (50.0, "ok", ""),
        (done, "s", "consistency"): refused,
        (failed, "s", "accuracy"): (None, "oom", "out of memory"),
        (failed, "s", "consistency"): refused,
        (unfinished, "", "accuracy"): (None, "missing", "not finished"),
        (unfinished, "", "consistency"): refused,
    }
    assert {row.cell for row in maker.store.rows(suite="s")} == {done, failed}


def test_cells_are_found_by_the_beginning_of_their_id(tmp_path):
    maker = StoreMaker(tmp_path)
    store, names = maker.store, [cell(maker, seed) for seed in range(2)]
    assert [store.find(name[:6]) for name in names] == names
    with pytest.raises(RequestError, match="'' is short for 2 cells"):
        store.find("")
    with pytest.raises(RequestError, match="no cell 'x'"):
        store.find("x")


def test_the_run_that_is_meant(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RequestError, match=r"nothing has been run yet in .*: python -m bench run --methods ours,"):
        store.chosen_run()
    for stamp, suite in (("1", "a"), ("2", "b"), ("3", "a")):
        store.record_invocation(stamp, {"suite": suite, "command": "", "cells": []})
    assert (store.chosen_run(), store.chosen_run(suite="b"), store.chosen_run("1", "a")) == ("3", "2", "1")
    with pytest.raises(RequestError, match="run 1 is of suite 'a', not of 'b'"):
        store.chosen_run("1", "b")
    with pytest.raises(RequestError, match=r"suite 'c' has not been run yet; there are results of: a, b$"):
        store.chosen_run(suite="c")
    with pytest.raises(RequestError, match=r"no run '4' in .*; the newest is '3'"):
        store.chosen_run("4")
