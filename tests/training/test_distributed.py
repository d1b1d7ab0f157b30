"""Two processes train what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.contract import CellError, RequestError
from bench.training import trainer
from bench.training.distributed import ProcessGroup
from bench.training.sharding import backbones
from tests.support import torchrun_fits as ranked

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_ranks_train_what_one_does(tmp_path, monkeypatch):
    """All learners, with noise, mixtures, norms of a batch, projections, batch statistics and uneven last batches."""
    monkeypatch.setattr(trainer, "_FABRIC_PRECISION", trainer._FABRIC_PRECISION)
    (tmp_path / "two").mkdir()
    place = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*TORCHRUN, str(ROOT / "tests" / "support" / "torchrun_fits.py"), str(tmp_path / "two")],
        env={**os.environ, **place}, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    two, one = torch.load(tmp_path / "two" / "found.pt"), ranked.fits(tmp_path / "one", ProcessGroup())
    assert list(two) == list(one) == ["classifier", *ranked.METHODS]
    for name in one:
        for mine, theirs in zip(one[name]["losses"], two[name]["losses"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3 if name == "tesnet" else 1e-6), name
        # TesNet: absolute values of what is zero but for rounding have the sign of the rounding as their gradient.
        near = {"rtol": 1e-3, "atol": 1e-4} if name == "tesnet" else {"rtol": 1e-7, "atol": 1e-8}
        torch.testing.assert_close(two[name]["weights"], one[name]["weights"], **near)


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # of Slurm or MPI: not ours
    ranks = ProcessGroup.of_torchrun()
    assert (ranks.rank, ranks.count) == (0, 1)
    ranks.join(torch.device("cpu"))
    with ranks.training():
        ranks.wait()
    ranks.check()
    ranks.leave()
    assert ranks.device("cuda:1") == "cuda:1"
    assert ranks.first_to_fail()


def test_each_rank_has_its_own_gpu(monkeypatch):
    ranks = ProcessGroup(rank=3, count=4, local=1, local_count=2)
    assert ranks.device("cpu") == "cpu"
    assert ranks.device("cuda") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ranks.device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ranks.device("auto") == "cuda:1"
    with pytest.raises(RequestError, match="each process has a GPU of its own; write cuda"):
        ranks.device("cuda:0")


class Store(dict):
    def set(self, name, value):
        self[name] = value

    def add(self, name, amount):
        self[name] = self.get(name, 0) + amount
        return self[name]


def two(rank=0):
    ranks = ProcessGroup(rank, 2, rank, 2)
    ranks._store = Store()
    return ranks


def test_after_half_a_fit_nothing_is_tried_again():
    ranks = two()
    ranks.brief = lambda: {"most": None}
    with ranks.training():
        pass
    ranks.check()
    with pytest.raises(ValueError, match="mine"), ranks.training():
        raise ValueError("mine")
    with pytest.raises(CellError, match="cannot try again alone; the same command goes on"):
        ranks.check()
    assert ranks._store["order 0"] == ranks._store["order 1"] == '{"most": null}'
    assert ranks.first_to_fail()
    assert not ranks.first_to_fail()  # another rank was


def test_a_lost_rank_is_named_as_such():
    ranks, said = two(), "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:2"
    with (
        pytest.raises(CellError, match=r"another of the 2 processes was lost .*the same command goes on"),
        ranks.training(),
    ):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match=r"^sizes"), two().training():
        raise RuntimeError("sizes do not match")


def test_backbones_are_found_by_name():
    inner, outer = nn.Module(), nn.Module()
    inner.backbone = nn.Linear(1, 1)
    outer.model = inner
    assert backbones(outer) == [inner.backbone]
    whole = nn.Module()
    whole.backbone = inner  # the outer one counts
    assert backbones(whole) == [inner]
    assert backbones(nn.Linear(1, 1)) == []
