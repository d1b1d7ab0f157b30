"""The rest of a run where a GPU is: cells after an error in a kernel, devices of jobs, what other libraries print."""

import pytest
import torch
from torch import nn

from bench.core import environment, registry
from bench.core.energy import GpuMeter, NotMeasured
from bench.results.store import Store
from bench.runner import cell
from bench.runner.launchers.tasks import write_down
from tests.support.classifiers import data_parallel, net
from tests.support.small_birds import QUICK, bench, called, few_birds, planned

pytestmark = pytest.mark.gpu


def test_a_wrapper_for_several_gpus_leaves_the_network_where_it_is():
    network = net()
    assert isinstance(data_parallel(network), nn.DataParallel)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def run(home, *words):
    words = ("--methods", "constant", "--no-controls", "--no-tracking", "--device", "cuda:0", *words)
    return called(home, "run", *QUICK[:6], *words, "--data-root", str(few_birds(home)), "--retries", "0")


def test_a_cell_runs_in_another_process(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the process of the run would hold memory of the GPU until its end")

    monkeypatch.setattr(cell, "evaluate", refuse)
    ran = run(tmp_path, "--metrics", "consistency")
    assert "1 of 1 cells done (0 before), 0 failed" in ran.stdout


FAILS_ONCE = """
from pathlib import Path

import torch

import bench
from bench.contract import Metric, Score


def refuse(*_):
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@bench.register_metric("fails_once")
class FailsOnce(Metric):
    "An error in a kernel, in the first process that it meets."

    name, version = "fails_once", "1"

    def update(self, seen):
        if not (mark := Path(__file__).with_suffix(".failed")).exists():
            mark.touch()
            torch.cuda.synchronize = refuse  # from then on every call of CUDA in this process says so
            refuse()

    def compute(self):
        return Score(1.0, 1)
"""


def test_after_an_error_in_a_kernel_another_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})
    (tmp_path / "plugin.py").write_text(FAILS_ONCE)
    ran = run(tmp_path, "--plugin", str(tmp_path / "plugin.py"), "--metrics", "fails_once")
    assert ran.stdout.count("trying again: lost (exit code 75") == 1, ran.stdout + ran.stderr
    assert "illegal memory access was encountered: this process can use cuda:0 no more" in ran.stdout
    assert "1 of 1 cells done (0 before), 0 failed" in ran.stdout


def test_a_device_that_works_is_not_lost():
    device = torch.device("cuda:0")
    with pytest.raises(IndexError):
        torch.ones(3, device=device)[5]
    assert not environment.lost(device)


def test_training_prints_no_advice_of_other_libraries(tmp_path):
    request = {"methods": ("blackbox",), "controls": False, "metrics": ("accuracy",), "precision": "bf16"}
    (one,) = planned(few_birds(tmp_path), tmp_path, **request)
    write_down([one], Store(tmp_path), lambda _: "")
    ran = bench(tmp_path, "cell", one.spec.id, "--device", "cuda")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for advice in ("set_float32_matmul_precision", "Automatic Mixed Precision", "does not have a deterministic"):
        assert advice not in ran.stdout + ran.stderr


def test_the_driver_is_asked_for_energy():
    pytest.importorskip("pynvml")
    if torch.cuda.get_device_name() == "Pretended CUDA device":
        with pytest.raises(NotMeasured, match="the driver does not tell"):
            GpuMeter(torch.device("cuda:0"))
    else:
        assert GpuMeter(torch.device("cuda:0")).memory()
