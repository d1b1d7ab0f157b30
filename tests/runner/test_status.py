"""Who works on what, from the files of the store."""

import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench.cli.main import main
from bench.core.files import write_json
from bench.core.work_dir import WorkDir
from bench.runner.eta import Timings, format_duration
from bench.runner.heartbeat import Heartbeat, activity_of
from bench.runner.status import Board, Overview
from tests.support.stores import METRICS, StoreMaker, example_store

WORKER = """
import pathlib, sys, time
from bench.runner.heartbeat import Heartbeat
from bench.core.work_dir import WorkDir
folder = WorkDir(pathlib.Path(sys.argv[1]))
with folder.claim(), Heartbeat(folder, lambda: "fit") as activity:
    activity.counted("epochs", 5, 30)
    activity.noted("joint 5/30  loss 0.250")
    while "loss" not in (folder.path / "activity.json").read_text():
        time.sleep(0.05)
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def worker():
    """Start a process that works on a folder; it ends with the test."""
    begun = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        begun.append(process)
        assert process.stdout.readline() == "at work\n"
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def grid(tmp_path):
    return example_store(tmp_path)


def states(maker, cells, **options):
    names = {name: key for key, name in cells.items()}
    return {names[one.name]: one for one in Overview(maker.store, list(cells.values()), **options).look()}


def drawn(maker, cells, **options):
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(Board(Overview(maker.store, list(cells.values())), "run x", **options)())
        return console.export_text()


def test_done_failed_and_to_run(grid):
    maker, cells = grid
    found = states(maker, cells)
    assert {key: one.state for key, one in found.items()} == {
        "ours-0": "done", "protopnet-0": "done", "blackbox-0": "done", "constant-0": "done", "random-0": "done",
        "ours-1": "done", "protopnet-1": "failed", "ours-big": "oom", "ours-late": "to run",
    }  # fmt: skip
    assert found["protopnet-1"].reason == "loss became nan in phase 'joint'"


def test_a_failure_of_an_earlier_run_is_a_cell_to_run(grid):
    maker, cells = grid
    overview = Overview(maker.store, list(cells.values()), from_now=True)
    assert overview.summary() == "6 of 9 cells done, 3 to run"
    maker.store.cell(cells["ours-big"]).fail("failed", "again")
    assert overview.summary() == "6 of 9 cells done, 1 failed, 2 to run"


def test_a_living_process_is_told_from_a_killed_one(grid, worker):
    maker, cells = grid
    folder = maker.store.cell(cells["ours-late"])
    process = worker(folder)
    one = states(maker, cells)["ours-late"]
    assert one.state == "running"
    assert (one.activity["stage"], one.activity["what"]) == ("fit", "epochs")
    assert (one.activity["done"], one.activity["total"], one.activity["pid"]) == (5, 30, process.pid)
    text = drawn(maker, cells)
    assert "6 of 9 cells done · 1 running · 1 failed · 1 out of memory" in text
    assert "epochs 5/30" in text
    assert "joint 5/30  loss 0.250" in text
    process.kill()
    process.wait()
    assert states(maker, cells)["ours-late"].state == "killed"
    text = drawn(maker, cells, failures=True)
    assert "1 killed" in text
    assert "killed in: fit" in text
    assert "loss became nan in phase 'joint'" in text


def test_what_ends_by_itself_leaves_nothing(tmp_path):
    folder = WorkDir(tmp_path / "x")

    def wrong():
        assert activity_of(folder)["stage"] == "fit"
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"), folder.claim(), Heartbeat(folder, lambda: "fit"):
        wrong()
    assert activity_of(folder) is None


@pytest.mark.parametrize("same_boot", [True, False])
def test_a_clock_that_jumps_gives_no_negative_times(tmp_path, same_boot):
    folder = WorkDir(tmp_path / "x")
    with folder.claim(), Heartbeat(folder, lambda: "fit"):
        file = folder.path / "activity.json"
        written = json.loads(file.read_text())
        written["began"] = time.time() + 1e6
        if not same_boot:
            written["boot"] = "another"
        file.write_text(json.dumps(written))
        assert 0 <= activity_of(folder)["seconds"] < 60


def test_time_left_from_cells_of_the_same_kind(tmp_path):
    maker = StoreMaker(tmp_path)
    names = [maker.cell("ours", dict.fromkeys(METRICS, 90.0)), *(maker.cell("ours", seed=seed) for seed in (1, 2))]
    names.append(maker.cell("protopnet"))
    overview = Overview(maker.store, names)
    # A finished cell took 90 s to fit and 10 s to measure; of protopnet nothing is known.
    assert overview.seconds_left(overview.look()) == (200.0, 1)
    maker.finish(names[1], dict.fromkeys(METRICS, 90.0))
    assert overview.seconds_left(overview.look()) == (100.0, 1)
    timings = Timings.of_store(maker.store)
    spec = maker.store.specification(names[2])["spec"]
    assert timings.of(spec, "demo", "f1") == 100.0
    assert timings.of(spec, "published", "f1") is None
    assert timings.of({**spec, "backbone": "resnet34"}, "demo", "f1") is None


def test_what_is_fitted_is_only_measured(tmp_path):
    maker = StoreMaker(tmp_path)
    name = maker.cell("ours", dict.fromkeys(METRICS, 90.0))
    spec, fit = maker.store.specification(name)["spec"], maker.store.record(name).fit_id
    assert Timings.of_store(maker.store).of(spec, "demo", fit) == 100.0  # the fit is not kept
    write_json(maker.store.cell(name).result / "fit.json", {})
    assert Timings.of_store(maker.store).of(spec, "demo", fit) == 10.0
    assert Timings.of_store(maker.store).of(spec, "demo", "f2") == 100.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8, "8 s"), (59.7, "60 s"), (95, "2 min"), (5400, "1 h 30 min"), (86399, "1 d 0 h"), (200000, "2 d 7 h")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_the_command(grid, tmp_path, monkeypatch, worker):
    maker, cells = grid
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "140")
    other = maker.cell("ours", seed=7)
    worker(maker.store.cell(other))
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 0, result.output
    assert "6 of 10 cells done · 1 running · 1 failed · 1 out of memory · 1 to run" in result.output
    assert "ours · demo · tiny · seed 7" in result.output
    found = {one["name"]: one for one in json.loads(CliRunner().invoke(main, ["status", "--json"]).stdout)}
    assert found[other]["activity"]["alive"] is True
    assert found[cells["ours-0"]]["state"] == "done"


def test_the_command_where_nothing_was_run(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert "nothing has been run" in result.stderr
