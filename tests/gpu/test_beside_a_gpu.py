"""The rest of a run where a GPU is: cells after an error in a kernel, devices of jobs, what other libraries print."""

import pytest
import torch
from torch import nn

from bench.core import environment
from bench.core.energy import GpuMeter, NotMeasured
from bench.runner import cell
from tests.support.classifiers import data_parallel, net
from tests.support.small_birds import QUICK, bench, called, few_birds

pytestmark = pytest.mark.gpu


def test_a_wrapper_for_several_gpus_leaves_the_network_where_it_is():
    network = net()
    assert isinstance(data_parallel(network), nn.DataParallel)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_cells_after_an_error_in_a_kernel_run_in_other_processes(tmp_path, monkeypatch):
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def refuse(*_):
        raise error

    def fail(*_):
        # From then on every call of CUDA in this process says so.
        monkeypatch.setattr(torch.cuda, "synchronize", refuse)
        refuse()

    monkeypatch.setattr(cell, "evaluate", fail)
    words = ["--methods", "constant,center", "--no-controls", "--metrics", "consistency", "--no-tracking"]
    words += ["--device", "cuda:0"]
    ran = called(tmp_path, "run", *QUICK[:6], *words, "--data-root", str(few_birds(tmp_path)), "--retries", "0")
    assert ran.stdout.count("trying again: lost (exit code 75") == 1, ran.stdout + ran.stderr
    assert "illegal memory access was encountered: this process can use cuda:0 no more" in ran.stdout
    assert "2 of 2 cells done (0 before), 0 failed" in ran.stdout


def test_a_device_that_works_is_not_lost():
    device = torch.device("cuda:0")
    with pytest.raises(IndexError):
        torch.ones(3, device=device)[5]
    assert not environment.lost(device)


def test_training_prints_no_advice_of_other_libraries(tmp_path):
    words = ["--methods", "blackbox", "--no-controls", "--metrics", "accuracy", "--no-tracking", "--precision", "bf16"]
    ran = bench(tmp_path, "run", *QUICK, *words, "--device", "cuda", "--data-root", str(few_birds(tmp_path)))
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
