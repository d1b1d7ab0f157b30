"""Whatever runs the cells, the same command does it and the same numbers come out."""

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from bench.config.schema import parse_overrides
from bench.results.store import Store
from bench.runner.launchers.tasks import write_down
from tests.support.small_birds import (
    PROTOPNET,
    QUICK,
    bench,
    cell_processes,
    environment,
    few_birds,
    interruptible,
    planned,
    stored,
)

SLOW = "protopnet.schedule.phases.0.epochs=40"
LAUNCHERS = {
    "processes": ["--jobs", "2"],
    "ray": ["--launcher", "ray", "--jobs", "2"],
    "slurm": ["--launcher", "slurm", "--slurm", "cluster=local"],
}


def has(launcher):
    return importlib.util.find_spec({"ray": "ray", "slurm": "submitit"}.get(launcher, "sys")) is not None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("launchers"))


@pytest.fixture(scope="module")
def arguments(data):
    """A cell that decomposes a black box, and one that trains for long enough to be met in the middle."""
    return [*slow_cells("ours,protopnet", data), "--set", "classifier.schedule.phases.0.epochs=20"]


def slow_cells(methods, data):
    chosen = ["run", "--methods", methods, "--no-controls", "--no-tracking", *QUICK, *PROTOPNET, "--set", SLOW]
    return [*chosen, "--data-root", str(data)]


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    return stored(inline(tmp_path_factory.mktemp("undisturbed"), arguments))


@pytest.fixture(scope="module")
def one_network(data):
    """A cell that trains a network for a second."""
    return ["run", "--methods", "protopnet", "--no-controls", "--no-tracking", *QUICK, *PROTOPNET,
            "--data-root", str(data)]  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of one machine, which has one CPU, and two GPUs in name: its address."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder = tempfile.mkdtemp(prefix="ray-")
    own = ["--head", "--port", address.partition(":")[2], "--temp-dir", folder, "--include-dashboard", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with ray_machine(*own, "--num-gpus", "2"):
            yield address
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ray_machine(*options):
    """A Ray node of one CPU, as `ray start` makes it on a machine of its own; its process, killed at the end."""
    words = ["start", *options, "--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--block"]
    program = "from ray.scripts.scripts import main; main()"
    started = subprocess.Popen(
        [sys.executable, "-c", program, *words, "--object-store-memory", str(100 * 2**20)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        read_until("Ray runtime started", started)
        yield started
    finally:
        kill_group(started)
        started.wait()


def kill_group(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def read_until(text, process):
    """The output of a process as far as the line with that text."""
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            return "".join(said)
    raise AssertionError("".join(said))


def inline(home, arguments):
    """The home, with these cells run in this process."""
    result = CliRunner().invoke(main, arguments, env={"BENCH_HOME": str(home)})
    assert result.exit_code == 0, result.output
    return home


def begin(home, arguments, *more):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "bench", *arguments, *more],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=interruptible,
    )  # fmt: skip


def in_the_middle(home, process, above=0):
    """Waits until a cell, one below that process, finishes an epoch of its own: its process and the parent of that."""
    now, deadline = time.time(), time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        begun = {file.parent.parent.name for file in home.glob("cells/*/*/training.pt") if newer(file, now)}
        for cell, own, parent in cell_processes(home) if begun else ():
            if cell in begun and (not above or above in ancestors(own)):
                return own, parent
        time.sleep(0.005)
    kill_group(process)
    raise AssertionError(process.communicate()[0])


def ancestors(number):
    """The processes above one, as far as the first."""
    found = []
    while number > 1:
        try:
            number = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:  # it has just ended
            break
        found.append(number)
    return found


def newer(file, moment):
    try:
        return file.stat().st_mtime > moment
    except FileNotFoundError:  # its cell has just ended
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "codes"),
    [
        ("processes", {signal.SIGINT: 130}),
        ("ray", {signal.SIGINT: 130, signal.SIGTERM: 143}),  # Ray would take the second for itself
        ("slurm", {signal.SIGINT: 130}),
    ],
)
def test_an_ended_run_leaves_nothing_and_resumes_as_inline(launcher, codes, arguments, undisturbed, tmp_path):
    if not has(launcher):
        pytest.skip(f"{launcher} is not installed")
    for number, code in codes.items():
        process = begin(tmp_path, arguments, *LAUNCHERS[launcher])
        in_the_middle(tmp_path, process)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == code, output
        assert "the same command resumes" in output
        assert not cell_processes(tmp_path)
    again = bench(tmp_path, *arguments, *LAUNCHERS[launcher])
    assert again.returncode == 0, again.stdout + again.stderr
    assert stored(tmp_path) == undisturbed
    # The cell of `ours` may have ended before the signal.
    (before,) = re.findall(r"2 of 2 cells done \(([01]) before\), 0 failed", again.stdout)
    for event in ("started", "done in"):
        assert len(re.findall(rf"\[\d/2\].*  {event}", again.stdout)) == 2 - int(before), again.stdout
    assert not re.findall(r"black box · cub · tiny · seed \d  started", again.stdout)  # one cell alone wants it
    assert not cell_processes(tmp_path)


@pytest.mark.slow
def test_a_cell_that_is_asked_to_end_ends_and_has_not_failed(data, tmp_path):
    """What a batch system does to it."""
    overrides, _ = parse_overrides([*(word for word in PROTOPNET if "=" in word), SLOW])
    (cell,) = planned(data, tmp_path, methods=("protopnet",), controls=False, overrides=overrides)
    write_down([cell], Store(tmp_path), lambda cell: "again")
    folder = Store(tmp_path).cell(cell.spec.id).path
    process = begin(tmp_path, ["cell", str(folder), "--device", "cpu"])
    in_the_middle(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 143, said
    assert "the same command resumes" in said
    assert not (folder / "failure.json").exists()


@pytest.mark.slow
def test_ray_goes_on_when_one_of_two_machines_is_lost(cluster, data, tmp_path):
    two = [*slow_cells("protopnet", data), "--seeds", "0,1"]
    home = tmp_path / "ray"
    with ray_machine("--address", cluster) as machine:
        process = begin(home, two, "--launcher", "ray", "--ray-address", cluster, "--cpus-per-cell", "1")
        cell, _ = in_the_middle(home, process, above=machine.pid)
        kill_group(machine)
        with contextlib.suppress(ProcessLookupError):
            os.kill(cell, signal.SIGKILL)  # with a machine all its processes end; else this one might still finish
        output = process.stdout.read()
    assert process.wait() == 0, output
    assert "trying again: lost" in output
    assert "2 of 2 cells done (0 before), 0 failed" in output
    assert stored(home) == stored(inline(tmp_path / "inline", two))


@pytest.mark.slow
def test_ray_goes_on_when_a_cell_and_then_its_worker_are_killed(cluster, data, tmp_path):
    one, home = slow_cells("protopnet", data), tmp_path / "ray"
    process = begin(home, one, "--launcher", "ray", "--ray-address", cluster, "--cpus-per-cell", "1")
    cell, _ = in_the_middle(home, process)
    os.kill(cell, signal.SIGKILL)
    output = read_until("trying again: lost", process)
    _, worker = in_the_middle(home, process)
    os.kill(worker, signal.SIGKILL)
    output += read_until("trying again: lost", process)
    output += process.stdout.read()
    assert process.wait() == 0, output
    assert "1 of 1 cells done (0 before), 0 failed" in output
    assert stored(home) == stored(inline(tmp_path / "inline", one))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ray", "slurm"])
def test_a_cell_of_two_gpus_is_trained_by_two_processes(launcher, one_network, tmp_path, request):
    """GPUs in name only: the cell computes on the CPU, as requested. Without a launcher: cli/test_torchrun.py."""
    if not has(launcher):
        pytest.skip(f"{launcher} is not installed")
    chosen = LAUNCHERS["slurm"]
    if launcher == "ray":
        chosen = ["--launcher", "ray", "--ray-address", request.getfixturevalue("cluster")]
    two = bench(tmp_path / "two", *one_network, "--gpus-per-cell", "2", *chosen)
    assert two.returncode == 0, two.stdout + two.stderr
    (together,) = (tmp_path / "two").glob("cells/*/result")
    alone = inline(tmp_path / "one", one_network) / "cells" / together.parent.name / "result"
    assert json.loads((together / "result.json").read_text())["facts"]["ranks"] == 2
    losses = [[row["loss"] for row in json.loads((own / "history.json").read_text())] for own in (alone, together)]
    # Sums have another order, which the projection onto the nearest patch amplifies; test_distributed.py is strict.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_more_than_a_ray_cluster_has_is_refused(cluster, one_network, tmp_path):
    """Ray would wait for it, forever."""
    words = ["--launcher", "ray", "--ray-address", cluster, "--gpus-per-cell", "64"]
    found = bench(tmp_path, *one_network, *words)
    assert found.returncode == 2, found.stdout + found.stderr
    assert "64 GPUs, which no machine of the Ray cluster has" in " ".join(found.stderr.split())


@pytest.mark.slow
def test_a_failing_cell_ends_as_inline(one_network, tmp_path, monkeypatch):
    wrong = ["--set", "protopnet.schedule.phases.0.lr.add_on=1e30"]
    both = [word.replace("protopnet", "center,protopnet") if word == "protopnet" else word for word in one_network]
    results = {}
    for name, chosen in {"inline": [], "processes": LAUNCHERS["processes"]}.items():
        monkeypatch.setenv("BENCH_HOME", str(tmp_path / name))
        found = CliRunner().invoke(main, [*both, *wrong, *chosen])
        assert found.exit_code == 1
        assert "1 of 2 cells done (0 before), 1 failed" in found.output
        assert "lower its learning rates" in " ".join(found.output.split())
        results[name] = CliRunner().invoke(main, ["results"]).stdout
    assert results["inline"] == results["processes"]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["--ray-address", "auto"], "--ray-address belongs to --launcher ray; this is inline"),
        (["--slurm", "partition=gpu"], "--slurm belongs to --launcher slurm; this is inline"),
        (["--launcher", "slurm", "--slurm", "partition"], "write KEY=VALUE"),
        (["--gpus-per-cell", "1"], "--gpus-per-cell belongs to --launcher ray or slurm"),
        (["--launcher", "ray", "--gpus-per-cell", "our=1"], "did you mean 'ours'"),
        (["--launcher", "ray", "--gpus-per-cell", "half"], "write a number such as 1 or 0.5"),
        (["--launcher", "ray", "--device", "cuda:1"], "ray chooses the GPU of each cell; write cuda"),
        (["--launcher", "ray", "--device", "gpu"], "write auto, cpu, cuda or cuda:1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(chosen, said, data, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["run", "--methods", "ours", *QUICK, "--data-root", str(data), *chosen])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not (tmp_path / "cells").exists()
