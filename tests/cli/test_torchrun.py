"""One cell in two processes: the command line under torchrun, a rank that is killed, one that fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.results.store import Store
from bench.runner.launchers.tasks import write_down
from tests.support.small_birds import PROTOPNET, QUICK, bench, environment, few_birds, planned, stored

pytestmark = pytest.mark.slow
FAILING = """
import os
from baselines.protopnet import ProtoPNet, ProtoPNetLearner
from bench.core.registry import register
from bench.config.schedule import Phase, Schedule

class Breaks(ProtoPNetLearner):
    def before_epoch(self, epoch):
        if epoch == 1 and os.environ.get("RANK") == "1":
            raise ValueError("the second rank does not like this epoch")

class BreaksNet(ProtoPNet):
    name = "breaks"
    class Config(ProtoPNet.Config):
        schedule: Schedule = Schedule(phases=[Phase(name="joint", epochs=3, lr={"prototypes": 0.01})])
    def learner(self, model, task):
        return Breaks(model, task.config, task.progress)

register("methods", "breaks", BreaksNet)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return few_birds(tmp_path_factory.mktemp("torchrun"))


def folder_in(home, data):
    (cell,) = planned(data, home, methods=("protopnet",), controls=False)
    write_down([cell], Store(home), lambda cell: "again")
    return Store(home).cell(cell.spec.id).path


def torchrun(home, folder, **how):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    surroundings = {**environment(home), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(
        [*command, "-m", "bench", "cell", str(folder), "--device", "cpu"],
        env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    process = torchrun(home, folder_in(home, data))
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    assert output.count("test batches") == 1  # the other rank is silent and measures nothing
    return home


def test_two_processes_give_the_numbers_of_one(data, undisturbed, tmp_path):
    folder = folder_in(tmp_path, data)
    alone = bench(tmp_path, "cell", str(folder), "--device", "cpu")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    one, two = (home / "cells" / folder.name / "result" for home in (tmp_path, undisturbed))
    results = [json.loads((place / "result.json").read_text()) for place in (one, two)]
    assert [result["facts"].pop("ranks", 1) for result in results] == [1, 2]
    losses = [json.loads((place / "history.json").read_text()) for place in (one, two)]
    for mine, theirs in zip(*losses, strict=True):
        # Single precision, and Adam, whose first steps are as large where a gradient is only rounding.
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=5e-3)
    weights = [load_file(place / "model.safetensors") for place in (one, two)]
    assert list(weights[0]) == list(weights[1])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0.02, atol=0.02)


def second_rank(home, process):
    """Waits until an epoch is finished; the process that is rank 1."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if list(home.glob("cells/*/resume/training.pt")):
            for other in Path("/proc").glob("[0-9]*"):
                try:
                    words = (other / "environ").read_text().split("\0")
                    cell = "cell" in (other / "cmdline").read_text().split("\0")
                except OSError:
                    continue
                if cell and f"BENCH_HOME={home}" in words and "RANK=1" in words:
                    return int(other.name)
        time.sleep(0.005)
    raise AssertionError(process.communicate()[0])


def test_a_killed_rank_ends_all_and_the_same_command_goes_on(data, undisturbed, tmp_path):
    folder = folder_in(tmp_path, data)
    process = torchrun(tmp_path, folder)
    os.kill(second_rank(tmp_path, process), signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    cell = Store(tmp_path).cell(folder.name)
    assert not cell.done
    assert not cell.busy
    # The other rank notices the loss, unless torchrun asks it to end before that.
    assert cell.failure is None or "another of the 2 processes was lost" in cell.failure["reason"], output
    # Goes on by way of the launcher, from the epoch that was finished, to the same bits.
    arguments = ["run", "--methods", "protopnet", "--no-controls", *QUICK, *PROTOPNET, "--no-tracking"]
    arguments += ["--data-root", str(data)]
    again = bench(tmp_path, *arguments, "--gpus-per-cell", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "training resumes after" in (folder / "result" / "log.txt").read_text()
    assert stored(tmp_path) == stored(undisturbed)


def test_a_rank_that_fails_says_why_and_ends_all(data, tmp_path):
    plugin = tmp_path / "breaks.py"
    plugin.write_text(FAILING)
    arguments = ["run", "--plugin", str(plugin), "--methods", "breaks", "--no-controls", "--data-root", str(data)]
    home = tmp_path / "home"
    found = bench(
        home, *arguments, *QUICK[:8], "--no-tracking", "--gpus-per-cell", "2"
    )  # fmt: skip
    assert found.returncode == 1, found.stdout + found.stderr
    assert "ValueError: the second rank does not like this epoch" in found.stdout
    (failure,) = home.glob("cells/*/failure.json")
    assert json.loads(failure.read_text())["reason"] == "ValueError: the second rank does not like this epoch"
