"""SIGKILL at any moment, the same command again: the store of an undisturbed run, bit for bit, and its mirror."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bench.report.mlflow import Mirror
from bench.results.store import Store
from tests.support.kill_at_moment import STAGES
from tests.support.small_birds import PROTOPNET, QUICK, called, environment, few_birds, interruptible

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = 30
WHOLE = ("", 0, 0.0)
"""The moment of a run that is not killed."""


def moments():
    """Stage, which of its events (0: the first, 1: the last) and seconds after it: at the event itself every other."""
    draw = random.Random(20261125)
    for number in range(MOMENTS):
        delay = 0.0 if number // len(STAGES) % 2 else round(draw.uniform(0.01, 0.4), 2)
        yield STAGES[number % len(STAGES)], round(draw.random(), 3), delay


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    data = few_birds(tmp_path_factory.mktemp("killed"))
    return ["run", "--methods", "ours,protopnet", "--no-controls", *QUICK, *PROTOPNET, "--data-root", str(data)]


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    """Content, mirror, and how many events each stage has."""
    home = tmp_path_factory.mktemp("undisturbed")
    assert killed(home, arguments, WHOLE) == [0]
    events = json.loads((home / "events.json").read_text())
    return content(home), mirrored(home), events


def killed(home, arguments, *moments):
    """Exit codes of the same command line again and again, killed as :mod:`tests.support.kill_at_moment` says."""
    command = [sys.executable, "-m", "tests.support.kill_at_moment", str(home), json.dumps(moments), *arguments]
    place = {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, env={**environment(home), **place}, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    codes = json.loads(ended.stdout.splitlines()[-1])
    assert set(codes) <= {0, -signal.SIGKILL}, ended.stdout + ended.stderr
    return codes


def content(home):
    """Every file of the cells and black boxes; without what differs from run to run: times, peaks, the home's name."""
    found = {}
    for file in sorted(file for kind in ("cells", "blackboxes") for file in (home / kind).rglob("*") if file.is_file()):
        name = str(file.relative_to(home))
        if file.name in ("log.txt", "usage.csv", "digests.json"):  # the last: of files that hold times
            found[name] = "written by the clock"
        elif file.suffix == ".json":
            found[name] = timeless(json.loads(file.read_text().replace(str(home), "HOME")))
        elif file.parent.parent.name in ("cells", "blackboxes") and file.name.startswith("."):
            continue  # locks, and half a cell.json: beside the result, not in it
        else:
            found[name] = file.read_bytes()
    return found


def timeless(value):
    timed = ("seconds", "usage", "peak_bytes", "arguments")
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in timed}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def mirrored(home):
    """What MLflow has of every cell, after a sync; every cell is there once."""
    store, mirror = Store(home), Mirror(home)
    mirror.sync(store)
    found, count = {}, Counter()
    for experiment in mirror.client.search_experiments():
        for run in mirror.client.search_runs([experiment.experiment_id]):
            cell = run.data.tags.get("bench.cell")
            if cell is None:
                continue
            count[cell] += 1
            assert run.info.status == "FINISHED"
            timed = ("seconds", "usage/", "system/")
            numbers = {name: value for name, value in run.data.metrics.items() if not any(one in name for one in timed)}
            found.setdefault(cell, []).append((run.data.params, numbers))
    assert count == Counter({name for content in store.invocations().values() for name in content["cells"]})
    assert all(one == runs[0] for runs in found.values() for one in runs)
    return {cell: runs[0] for cell, runs in found.items()}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("stage", "place", "delay"), list(moments()))
def test_killed_and_resumed(tmp_path, arguments, undisturbed, stage, place, delay):
    expected, mirror, events = undisturbed
    code, again = killed(tmp_path, arguments, (stage, int(place * events[stage]), delay), WHOLE)
    # After the last event the run may be over before the delay is.
    assert code == -signal.SIGKILL or (stage == "mirroring" and delay)
    assert again == 0
    assert content(tmp_path) == expected
    assert mirrored(tmp_path) == mirror


@pytest.mark.slow
def test_killed_in_every_stage_one_after_the_other(tmp_path, arguments, undisturbed):
    expected, mirror, _ = undisturbed
    moments = [(stage, number % 2, 0.0) for number, stage in enumerate(STAGES)]
    assert killed(tmp_path, arguments, *moments, WHOLE) == [-signal.SIGKILL] * len(STAGES) + [0]
    assert content(tmp_path) == expected
    assert mirrored(tmp_path) == mirror


@pytest.mark.slow
def test_two_runs_at_once_share_the_work(tmp_path, arguments, undisturbed):
    command = [sys.executable, "-m", "bench", *arguments]
    both = [
        subprocess.Popen(
            command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert content(tmp_path) == undisturbed[0]
    assert mirrored(tmp_path) == undisturbed[1]
    # A log tells of one attempt only: nothing was done twice.
    for log in tmp_path.glob("cells/*/result/log.txt"):
        assert log.read_text().count("test batches") == 1
    assert sum(output.count("training the black box") for output in outputs) == 1


@pytest.mark.slow
def test_ctrl_c_ends_with_a_summary_and_goes_on(tmp_path, arguments, undisturbed):
    command = [sys.executable, "-u", "-m", "bench", *arguments, "--no-tracking"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment(tmp_path), preexec_fn=interruptible, **pipes)
    for line in process.stdout:
        if "warm 1/2" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "1 of 2 cells done, 1 to run" in errors
    assert "interrupted; the same command resumes" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("cells/*/failure.json"))
    assert not list(tmp_path.glob("cells/*/activity.json"))
    assert called(tmp_path, *arguments, "--no-tracking").returncode == 0
    assert content(tmp_path) == undisturbed[0]
