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

import pytest
from click.testing import CliRunner

from bench.cli.main import main
from tests.support.small_birds import (
    PROTOPNET,
    QUICK,
    bench,
    cell_processes,
    environment,
    few_birds,
    interruptible,
    stored,
)

pytestmark = pytest.mark.xdist_group("launchers")  # one worker: what they compare with is made once
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
    """Two cells that train for long enough to be met in the middle."""
    methods = ["run", "--methods", "protopnet", "--no-controls", "--seeds", "0,1", "--no-tracking"]
    slow = ["--set", "protopnet.schedule.phases.0.epochs=40"]
    return [*methods, *QUICK, *PROTOPNET, *slow, "--data-root", str(data)]


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    return stored(inline(tmp_path_factory.mktemp("undisturbed"), arguments))


@pytest.fixture(scope="module")
def quick_cells(data):
    """A cell that decomposes a black box, and one that trains a network."""
    return ["run", "--methods", "ours,protopnet", "--no-controls", "--no-tracking", *QUICK, *PROTOPNET,
            "--data-root", str(data)]  # fmt: skip


@pytest.fixture(scope="module")
def quick_store(quick_cells, tmp_path_factory):
    return inline(tmp_path_factory.mktemp("quick"), quick_cells)


def inline(home, arguments):
    """The home, with these cells run in this process."""
    result = CliRunner().invoke(main, arguments, env={"BENCH_HOME": str(home)})
    assert result.exit_code == 0, result.output
    return home


def begin(home, arguments, launcher):
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "bench", *arguments, *LAUNCHERS.get(launcher, [])],
        env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=interruptible,
    )  # fmt: skip


def in_the_middle(home, process):
    """Waits until a cell has finished an epoch of its own: its process and the parent of that."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        begun = {file.parent.parent.name for file in home.glob("cells/*/*/training.pt")}
        for cell, own, parent in cell_processes(home) if begun else ():
            if cell in begun:
                return own, parent
        time.sleep(0.005)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_gives_the_same_store(launcher, quick_cells, quick_store, tmp_path):
    if not has(launcher):
        pytest.skip(f"{launcher} is not installed")
    found = bench(tmp_path, *quick_cells, *LAUNCHERS[launcher])
    assert found.returncode == 0, found.stdout + found.stderr
    assert stored(tmp_path) == stored(quick_store)
    assert "2 of 2 cells done (0 before), 0 failed" in found.stdout
    assert len(re.findall(r"\[\d/2\].*  started", found.stdout)) == 2
    assert len(re.findall(r"\[\d/2\].*  done in", found.stdout)) == 2
    assert len(re.findall(r"black box · cub · tiny · seed \d  started", found.stdout)) == 0  # one cell each wants it
    again = bench(tmp_path, *quick_cells, *LAUNCHERS[launcher])
    assert "2 of 2 cells done (2 before), 0 failed" in again.stdout
    assert not cell_processes(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["worker", "cell"])
def test_ray_goes_on_when_one_of_two_workers_is_killed(whom, arguments, undisturbed, tmp_path):
    pytest.importorskip("ray")
    process = begin(tmp_path, arguments, "ray")
    cell, worker = in_the_middle(tmp_path, process)
    signalled = worker if whom == "worker" else cell
    subprocess.run(["kill", "-KILL", str(signalled)], check=True)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "trying again: lost" in output
    assert "2 of 2 cells done (0 before), 0 failed" in output
    assert stored(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [
        ("processes", signal.SIGINT, 130),
        ("ray", signal.SIGINT, 130),
        ("slurm", signal.SIGINT, 130),
        ("ray", signal.SIGTERM, 143),
    ],
)
def test_ctrl_c_leaves_nothing_behind(launcher, number, code, arguments, undisturbed, tmp_path):
    if not has(launcher):
        pytest.skip(f"{launcher} is not installed")
    process = begin(tmp_path, arguments, launcher)
    in_the_middle(tmp_path, process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "the same command resumes" in output
    assert not cell_processes(tmp_path)
    again = bench(tmp_path, *arguments, *LAUNCHERS[launcher])
    assert again.returncode == 0, again.stdout + again.stderr
    assert stored(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_cell_that_is_asked_to_end_ends_and_has_not_failed(arguments, tmp_path):
    process = begin(tmp_path, arguments, "processes")
    in_the_middle(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    # The same by itself: what a batch system does to it.
    begun = list(tmp_path.glob("cells/*/*/training.pt"))
    folder = begun[0].parent.parent
    for file in begun:
        file.unlink()
    command = [sys.executable, "-m", "bench", "cell", str(folder)]
    alone = subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    in_the_middle(tmp_path, alone)
    alone.send_signal(signal.SIGTERM)
    said = alone.communicate(timeout=60)[1]
    assert alone.returncode == 143, said
    assert "the same command resumes" in said
    assert not (folder / "failure.json").exists()


@pytest.mark.slow
def test_ray_goes_on_when_one_of_two_machines_is_lost(arguments, undisturbed, tmp_path, monkeypatch):
    with ray_cluster(monkeypatch, machines=2) as (address, machines):
        command = [*arguments, "--launcher", "ray", "--ray-address", address, "--cpus-per-cell", "1"]
        process = begin(tmp_path, command, None)
        deadline = time.monotonic() + 200
        while len(cell_processes(tmp_path)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        in_the_middle(tmp_path, process)
        os.killpg(machines[1].pid, signal.SIGKILL)
        output = process.communicate(timeout=400)[0]
        assert process.returncode == 0, output
        assert "trying again: lost" in output
        assert stored(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "ray", "slurm"])
def test_a_cell_of_two_gpus_is_trained_by_two_processes(launcher, data, quick_store, tmp_path, monkeypatch):
    """GPUs in name only: the cell computes on the CPU, as it is told."""
    if not has(launcher):
        pytest.skip(f"{launcher} is not installed")
    request = ["run", "--methods", "protopnet", "--no-controls", "--no-tracking", *QUICK, *PROTOPNET]
    request += ["--data-root", str(data)]
    with contextlib.ExitStack() as stack:
        chosen = ["--gpus-per-cell", "2"]
        if launcher == "ray":
            address, _ = stack.enter_context(ray_cluster(monkeypatch, "--num-gpus", "2"))
            chosen += ["--launcher", "ray", "--ray-address", address]
        elif launcher == "slurm":
            chosen += LAUNCHERS["slurm"]
        two = bench(tmp_path, *request, *chosen)
    assert two.returncode == 0, two.stdout + two.stderr
    (together,) = tmp_path.glob("cells/*/result")
    alone = quick_store / "cells" / together.parent.name / "result"
    assert json.loads((together / "result.json").read_text())["facts"]["ranks"] == 2
    losses = [[row["loss"] for row in json.loads((own / "history.json").read_text())] for own in (alone, together)]
    # Sums have another order, which the projection onto the nearest patch amplifies; test_ranks.py is strict.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_more_than_a_ray_cluster_has_is_refused(data, tmp_path):
    """Ray would wait for it, forever."""
    pytest.importorskip("ray")
    request = ["run", "--methods", "ours", *QUICK, "--data-root", str(data), "--launcher", "ray"]
    found = bench(tmp_path, *request, "--gpus-per-cell", "64")
    assert found.returncode == 2, found.stdout + found.stderr
    assert "64 GPUs, which no machine of the Ray cluster has" in " ".join(found.stderr.split())


@contextlib.contextmanager
def ray_cluster(monkeypatch, *options, machines=1):
    """The address of a cluster of machines with one CPU and these options each, and their processes."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    own = ["--head", "--port", address.partition(":")[2], "--temp-dir", tempfile.mkdtemp(prefix="ray-")]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    started = []
    try:
        started.append(ray_machine(*own, "--include-dashboard", "false", *options))
        for _ in range(machines - 1):
            started.append(ray_machine("--address", address, *options))
        yield address, started
    finally:
        for machine in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
        shutil.rmtree(own[-1], ignore_errors=True)


def ray_machine(*options):
    """A Ray node of one CPU, as `ray start` makes it on a machine of its own."""
    words = ["start", *options, "--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--block"]
    program = "from ray.scripts.scripts import main; main()"
    started = subprocess.Popen(
        [sys.executable, "-c", program, *words, "--object-store-memory", str(100 * 2**20)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    said = []
    for line in started.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            return started
    raise AssertionError("".join(said))


@pytest.mark.slow
def test_a_failing_cell_ends_as_inline(quick_cells, tmp_path, monkeypatch):
    wrong = ["--set", "protopnet.schedule.phases.0.lr.add_on=1e30"]
    results = {}
    for name, chosen in {"inline": [], "processes": LAUNCHERS["processes"]}.items():
        monkeypatch.setenv("BENCH_HOME", str(tmp_path / name))
        found = CliRunner().invoke(main, [*quick_cells, *wrong, *chosen])
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
