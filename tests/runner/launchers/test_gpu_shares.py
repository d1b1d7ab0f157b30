"""GPUs for a cell: from the command line, else from the method's configuration, else one or none."""

import pytest

from bench.contract import RequestError
from bench.runner.launchers import subprocess_job
from bench.runner.launchers.launcher import Launcher


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
