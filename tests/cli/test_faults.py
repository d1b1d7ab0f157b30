"""What the machine does wrong: one line that says what to do, the right exit code, and nothing is lost."""

import ctypes
import json
import os
import resource
import signal
import sqlite3

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from tests.support.small_birds import PROTOPNET, QUICK, bench, called, few_birds, quick, scores

METHODS = ("--methods", "protopnet", "--no-controls")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """``run`` in this process, in a home of the test's own."""
    monkeypatch.setenv("BENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments, tracking="--no-tracking"):
        whole = ["run", *(arguments or METHODS), *quick(arguments or METHODS), "--data-root", str(data), tracking]
        return CliRunner().invoke(main, whole)

    return call


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def results():
    rows = json.loads(CliRunner().invoke(main, ["results"]).stdout)
    return {row["metric"]: row["value"] if row["status"] == "ok" else row["reason"] for row in rows}


@pytest.fixture
def done(run):
    """The scores of a finished run."""
    first = run()
    assert first.exit_code == 0, first.output
    return results()


def only(home):
    (cell,) = (home / "cells").iterdir()
    return cell


def cut(file):
    """Lose the second half, as a power cut may."""
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def full(file):
    """Let the disk be full where that file is to be written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to("/dev/full")


def like_anybody():
    """Root may write anywhere, as long as it has this capability (linux/capability.h, CAP_DAC_OVERRIDE)."""
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")  # noqa: PTH110
@pytest.mark.parametrize("name", ["resume/.training.pt.unfinished", "work/items/accuracy.image.csv", "work/log.txt"])
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(run, home, done, name):
    cell = only(home)
    (cell / "result").rename(home / "before")
    full(cell / name)
    result = run()
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line]
    assert line.endswith(": make room there, then the same command resumes")
    assert not (cell / "failure.json").exists()
    (cell / name).unlink(missing_ok=True)
    assert run().exit_code == 0
    assert results() == done


def test_a_limit_on_file_size_is_told_like_a_full_disk(data, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))

    arguments = ["run", *METHODS, *QUICK, *PROTOPNET, "--data-root", str(data), "--no-tracking"]
    assert called(tmp_path, *arguments, "--set", "protopnet.schedule.phases.0.epochs=1").returncode == 0
    ended = bench(tmp_path, *arguments, preexec_fn=limit)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.endswith(": make room there, then the same command resumes")
    assert called(tmp_path, *arguments).returncode == 0


def test_a_home_that_cannot_be_written_is_a_wrong_request(data, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    arguments = ["run", *METHODS, *QUICK, *PROTOPNET, "--data-root", str(data)]
    ended = bench(home, *arguments, preexec_fn=like_anybody)
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {home} cannot be written (Permission denied); make room and write access there")


def test_a_damaged_result_is_kept_aside_and_made_anew(run, home, done):
    cut(only(home) / "result" / "result.json")
    assert "result.json was changed after it was written" in results()["accuracy"]
    again = run()
    assert again.exit_code == 0, again.output
    assert "is damaged: kept as" in again.output
    assert "fit found, not repeated" in again.output
    assert results() == done
    assert (only(home) / "damaged-1" / "result.json").is_file()


def test_a_damaged_description_of_a_cell_is_written_anew(run, home, done):
    cut(only(home) / "cell.json")
    again = run()
    assert again.exit_code == 0, again.output
    assert "1 of 1 cells done (1 before)" in again.output
    assert results() == done


@pytest.mark.parametrize("file", ["work/model.safetensors", "work/fit.json"])
def test_a_damaged_fit_is_fitted_anew(run, home, done, file):
    cell = only(home)
    (cell / "result").rename(cell / "work")
    cut(cell / file)
    again = run()
    assert again.exit_code == 0, again.output
    assert "is damaged" in again.output
    assert results() == done


def test_a_damaged_checkpoint_starts_the_training_over(run, home, done):
    cell = only(home)
    (cell / "result").rename(home / "before")
    (cell / "resume").mkdir()
    (cell / "resume" / "training.pt").write_bytes(b"PK\x03\x04 half a checkpoint")
    again = run()
    assert again.exit_code == 0, again.output
    assert "training.pt is damaged" in again.output
    assert results() == done


def test_a_damaged_black_box_is_named(run, home):
    methods = ("--methods", "ours", "--no-controls")
    assert run(*methods).exit_code == 0
    (box,) = (home / "blackboxes").iterdir()
    cut(box / "result" / "model.safetensors")
    result = run(*methods, "--set", "ours.k=2")
    assert result.exit_code == 1
    assert f"the black box in {box} is damaged" in result.output
    assert "delete that folder and run again to retrain it" in result.output


def test_a_damaged_database_stops_no_cell(run, home, done):
    (home / "mlflow.db").write_bytes(b"no database at all" * 1000)
    again = run(tracking="--tracking")
    assert again.exit_code == 0, again.output
    assert "MLflow:" in again.output
    assert results() == done
    synced = CliRunner().invoke(main, ["sync"])
    assert synced.exit_code == 2
    assert "the mirror is only a copy: delete it" in synced.stderr
    (home / "mlflow.db").unlink()
    assert bench(home, "sync").returncode == 0  # MLflow remembers within a process that it could not open the file
    with sqlite3.connect(home / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone()[0] > 0


def test_a_clock_that_was_set_back_changes_nothing(run, home, done):
    """What was run last is the newest, whatever the stamps of earlier runs say."""
    (first,) = (home / "invocations").glob("2*.json")
    first.rename(first.with_name("20990101-000000-000.json"))
    file = only(home) / "result" / "result.json"
    os.utime(file, (4e9, 4e9))
    again = run()
    assert again.exit_code == 0, again.output
    assert "run: 20990101-000000-001" in again.output
    assert "1 of 1 cells done (1 before)" in again.output


FLAKY = """
from pathlib import Path
from bench.core import registry
from bench.contract import Metric, Score


class Flaky(Metric):
    "Fails a few times."
    name, version, unit = "flaky", "1", ""
    needs = frozenset({needs})

    def update(self, seen):
        pass

    def compute(self):
        times = Path({count!r})
        times.write_text(times.read_text() + "x")
        if len(times.read_text()) <= {often}:
            raise {error}
        return Score(1.0, 1)


registry.register("metrics", "flaky", Flaky)
"""


@pytest.fixture
def flaky(run, tmp_path, monkeypatch):
    """A run with a metric that fails so often with that error, and how often it was tried."""
    from bench.core import registry

    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})

    def call(error, often, *arguments, tried="", method="constant", needs=""):
        count, plugin = tmp_path / "count", tmp_path / "plugin.py"
        count.write_text(tried)
        plugin.write_text(FLAKY.format(count=str(count), often=often, error=error, needs=needs))
        result = run("--methods", method, "--no-controls", "--plugin", str(plugin), "--metrics", "flaky", *arguments)
        return result, len(count.read_text())

    return call


@pytest.mark.parametrize(
    ("error", "often", "arguments", "code", "tried"),
    [
        ("OSError(5, 'Input/output error')", 1, (), 0, 2),
        ("RuntimeError('CUDA error: unspecified launch failure')", 2, (), 1, 2),
        ("RuntimeError('CUDA error: unspecified launch failure')", 2, ("--retries", "2"), 0, 3),
        ("OSError(5, 'Input/output error')", 1, ("--retries", "0"), 1, 1),
        ("ValueError('a mistake')", 1, (), 1, 1),
        ("MemoryError()", 9, (), 1, 2),  # its own second attempt, with one image at a time
    ],
)
def test_what_may_pass_is_tried_again(flaky, error, often, arguments, code, tried):
    result, count = flaky(error, often, *arguments)
    assert (result.exit_code, count) == (code, tried), result.output


def test_interrupted_rerun_resumes_in_its_cell(flaky):
    """The metric sends Ctrl-C to the run, whose cells with plugins are processes of their own."""
    ctrl_c = "(__import__('os').kill(__import__('os').getppid(), 2), __import__('time').sleep(60))"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background ignores it
    try:
        stopped, _ = flaky(ctrl_c, 1, "--existing", "rerun")
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.exit_code == 130, stopped.output
    assert "interrupted; the same command goes on in the cell where it stopped, and makes finished" in stopped.stderr
    again, _ = flaky(ctrl_c, 1, "--existing", "rerun", tried="x")
    assert again.exit_code == 0, again.output
    assert "0 failed" in again.output


def test_memory_error_in_a_metric_is_not_the_black_boxs(flaky, home):
    """Another stage would be: what does not fit there is not tried with one image at a time."""
    flaky("MemoryError()", 9, method="blackbox", needs="['black_box']")
    (failure,) = home.glob("cells/*/failure.json")
    stages = [one["stage"] for one in json.loads(failure.read_text())["memory"]]
    assert stages == ["evaluation", "evaluation"]


def test_a_failed_cell_is_told_with_the_end_of_its_log(flaky):
    result, _ = flaky("ValueError('a mistake')", 1)
    assert result.exit_code == 1
    end = result.output[result.output.index("again: ") :]
    assert "log: " in end
    assert "test batches: 1 in" in end


def test_results_are_the_same_after_leftovers_of_a_kill(run, home, done):
    """What a process that was killed after the appearance of the result has left is removed by the next run."""
    cell = only(home)
    (cell / "resume").mkdir()
    (cell / "resume" / "training.pt").write_bytes(b"x")
    for name in ("failure.json", "activity.json"):
        (cell / name).write_text("{}")
    (cell / ".lock").unlink()
    assert run().exit_code == 0
    assert sorted(file.name for file in cell.iterdir()) == [".lock", "cell.json", "result"]
    assert results() == done == {metric: value for (_, metric), value in scores(home).items()}
