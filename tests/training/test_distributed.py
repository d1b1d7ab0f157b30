"""Training by several processes: the same result as by one."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.config import schedule
from bench.contract import CellError, RequestError
from bench.training import distributed, feature_cache, trainer
from bench.training.distributed import ProcessGroup, backbones
from tests.support import torchrun_fits

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path, monkeypatch):
    """Learners with noise, mixtures, norms of a batch, projections, batch statistics and uneven last batches."""
    monkeypatch.setattr(trainer, "_FABRIC_PRECISION", trainer._FABRIC_PRECISION)
    (tmp_path / "two").mkdir()
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [*TORCHRUN, str(ROOT / "tests" / "support" / "torchrun_fits.py"), str(tmp_path / "two")],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    two, one = torch.load(tmp_path / "two" / "fits.pt"), torchrun_fits.fits(tmp_path / "one", ProcessGroup())
    assert list(two) == list(one) == ["classifier", *torchrun_fits.METHODS]
    # The gradient of an absolute value that is zero but for rounding has the sign of the rounding.
    absolute = ("tesnet", "evalprotopnet")
    for name in one:
        for single, shared in zip(one[name]["losses"], two[name]["losses"], strict=True):
            assert single == pytest.approx(shared, rel=1e-3 if name in absolute else 1e-6), name
        near = {"rtol": 1e-3, "atol": 1e-4} if name in absolute else {"rtol": 1e-7, "atol": 1e-8}
        torch.testing.assert_close(two[name]["weights"], one[name]["weights"], **near)


def test_group_of_one_without_torchrun(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # of Slurm or MPI: not ours
    group = ProcessGroup.of_torchrun()
    assert (group.rank, group.count) == (0, 1)
    group.join(torch.device("cpu"))
    with group.training():
        group.wait()
    group.check()
    group.leave()
    assert group.device("cuda:1") == "cuda:1"
    assert group.first_to_fail()


def test_device_of_each_rank(monkeypatch):
    group = ProcessGroup(rank=3, count=4, local=1, local_count=2)
    assert group.device("cpu") == "cpu"
    assert group.device("cuda") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert group.device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert group.device("auto") == "cuda:1"
    with pytest.raises(RequestError, match="each process has a GPU of its own; write cuda"):
        group.device("cuda:0")


class Store(dict):
    def set(self, name, value):
        self[name] = value

    def add(self, name, amount):
        self[name] = self.get(name, 0) + amount
        return self[name]


def group_of_two(rank=0):
    group = ProcessGroup(rank, 2, rank, 2)
    group._store = Store()
    return group


def test_unfinished_fit_refuses_a_retry():
    group = group_of_two()
    group.brief = lambda: {"most": None}
    with group.training():
        pass
    group.check()
    with pytest.raises(ValueError, match="mine"), group.training():
        raise ValueError("mine")
    with pytest.raises(CellError, match="cannot try again alone; run the same command again to resume"):
        group.check()
    assert group._store["order 0"] == group._store["order 1"] == '{"most": null}'
    assert group.first_to_fail()
    assert not group.first_to_fail()  # another rank was


def test_lost_rank_is_named():
    group, message = (
        group_of_two(),
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:2",
    )
    with (
        pytest.raises(CellError, match=r"another of the 2 processes was lost .*run the same command again to resume"),
        group.training(),
    ):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match=r"^sizes"), group_of_two().training():
        raise RuntimeError("sizes do not match")


def test_backbones_by_name():
    inner, outer = nn.Module(), nn.Module()
    inner.backbone = nn.Linear(1, 1)
    outer.model = inner
    assert backbones(outer) == [inner.backbone]
    whole = nn.Module()
    whole.backbone = inner  # the outer one counts
    assert backbones(whole) == [inner]
    assert backbones(nn.Linear(1, 1)) == []


@pytest.mark.parametrize("module", [distributed, feature_cache, schedule], ids=lambda module: module.__name__)
def test_examples_of_docstrings(module):
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
