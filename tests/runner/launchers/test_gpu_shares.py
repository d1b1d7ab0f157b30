"""GPUs for a cell: from the command line, else from the method's configuration, else one or none."""

from dataclasses import replace

import pytest
import torch

from bench.contract import RequestError
from bench.runner.launchers import launcher, subprocess_job
from bench.runner.launchers.inline import runs_apart
from bench.runner.launchers.launcher import Launcher
from bench.runner.launchers.processes import Processes
from bench.runner.launchers.subprocess_job import Job
from tests.support.small_birds import few_birds, planned


@pytest.fixture
def configs(tmp_path, monkeypatch):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "ours.yaml").write_text("gpus: 0.25\n")
    (tmp_path / "methods" / "protopnet.yaml").write_text("gpus: lots\n")
    monkeypatch.setenv("BENCH_CONFIGS", str(tmp_path))


def test_shares(configs):
    assert Launcher().share("ours", 1.0) == 0.25
    assert Launcher().share("tesnet", 1.0) == 1.0
    assert Launcher().share("ours", 0.0) == 0.0
    said = Launcher(gpus={"": 0.5, "ours": 2.0})
    assert (said.share("ours", 1.0), said.share("protopnet", 1.0)) == (2.0, 0.5)
    with pytest.raises(RequestError, match="write a number such as 1"):
        Launcher().share("protopnet", 1.0)


def test_several_gpus_are_several_processes():
    Launcher(gpus={"": 2.0}, device="cpu").check()
    assert Launcher(gpus={"": 2.0}).several
    with pytest.raises(RequestError, match="belongs to --launcher ray or slurm"):
        Launcher(gpus={"": 2.0, "ours": 1.0}).check()
    with pytest.raises(RequestError, match="a share of one GPU, or whole ones; write 2"):
        Launcher("ray", gpus={"": 2.5}).check()
    with pytest.raises(RequestError, match="chooses the GPU of each cell; write cuda"):
        Launcher(gpus={"": 2.0}, device="cuda:1").check()


def test_the_command_of_a_cell_in_several_processes(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(subprocess_job.subprocess, "Popen", lambda words, **_: begun.append(words))
    for ranks in (1, 2):
        subprocess_job.start(subprocess_job.Job("a", str(tmp_path), ("--device", "cpu"), {}, ranks=ranks), {})
    assert begun[0][1:] == ["-m", "bench", "cell", str(tmp_path), "--device", "cpu"]
    assert begun[1][1:] == ["-m", "bench.runner.launchers.subprocess_job", "2", str(tmp_path), "--device", "cpu"]


class Begun:
    """A process of which only the environment matters, and that ends when it is told to."""

    returncode = None

    def __init__(self, words, env=None, **_):
        self.gpus = env.get("CUDA_VISIBLE_DEVICES")

    def poll(self):
        return self.returncode


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(subprocess_job.subprocess, "Popen", Begun)
    monkeypatch.setattr(launcher.environment.torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_jobs_get_the_gpus_one_after_the_other(tmp_path, four_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,2,3,5")
    with Launcher(jobs=5).workers(tmp_path) as pool:

        def start(name, ranks=1):
            pool.start([Job(name, str(tmp_path), (), {}, ranks=ranks)])
            return pool.running[name][1].gpus

        assert [start(name) for name in "abcde"] == ["6", "2", "3", "5", "6"]
        pool.running["c"][1].returncode = pool.running["b"][1].returncode = 0
        assert sorted(name for name, _ in pool.wait(1.0)) == ["b", "c"]
        assert start("f", ranks=2) == "2,3"
        assert start("g") == "2"
        assert start("h", ranks=5) == "6,2,3,5"  # as many as there are: the fifth process names the GPU that it lacks


def test_one_cell_for_each_gpu(tmp_path, four_gpus):
    def at_once(**options):
        with Launcher(**options).workers(tmp_path) as pool:
            pool.start([Job("a", str(tmp_path), (), {})])
            return pool.jobs, pool.running["a"][1].gpus

    assert at_once() == (4, "0")
    assert at_once(device="cuda", gpus={"": 2.0}) == (2, "0")
    assert at_once(jobs=3, device="cuda:1") == (3, None)  # all of them on that one
    assert at_once(device="cpu") == (1, None)
    assert Launcher().several
    assert not Launcher(device="cuda:1").several


def test_a_machine_without_gpus_runs_one_cell_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher.environment.torch.cuda, "device_count", lambda: 0)
    assert not Launcher().several
    assert Processes(2, 1).free == 2


def test_cells_on_a_gpu_run_apart_unless_only_this_process_has_their_code(tmp_path):
    (cell,) = planned(few_birds(tmp_path), tmp_path, methods=("constant",), controls=False)
    own = replace(cell, where=replace(cell.where, code={"method": "here.py"}))
    plugin = replace(cell, where=replace(own.where, plugins=("here.py",)))
    found = [[runs_apart(one, torch.device(device)) for one in (cell, own, plugin)] for device in ("cpu", "cuda")]
    assert found == [[False, False, True], [True, False, True]]
