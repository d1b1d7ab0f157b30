"""What a cell took: counters of the machine, and the table that survives killed attempts."""

import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from bench.core.energy import GpuMeter, NotMeasured, ProcessorMeter
from bench.core.resource_usage import COLUMNS, Usage, read_usage

CPU = torch.device("cpu")


def zone(root, number, name, microjoules, end=1_000_000_000):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", end)):
        (folder / file).write_text(f"{content}\n")


def test_processors_spend_what_their_counters_rise(tmp_path):
    zone(tmp_path, "0", "package-0", 5_000_000)
    zone(tmp_path, "0:0", "core", 1)  # a part of the package
    zone(tmp_path, "0:1", "dram", 0)
    zone(tmp_path, "1", "package-1", 999_000_000)
    zone(tmp_path, "2", "psys", 7)  # all of it once more
    meter = ProcessorMeter(tmp_path)
    assert meter.joules() == 0
    zone(tmp_path, "0", "package-0", 8_000_000)
    zone(tmp_path, "0:0", "core", 900_000_000)
    zone(tmp_path, "0:1", "dram", 500_000)
    zone(tmp_path, "1", "package-1", 1_000_000)  # past its end: 1 J and one microjoule to it, 1 J from zero
    zone(tmp_path, "2", "psys", 900_000_000)
    assert meter.joules() == pytest.approx(3 + 0.5 + 2.000001)
    assert meter.joules() == 0


def test_a_machine_without_counters_says_so(tmp_path):
    with pytest.raises(NotMeasured, match=f"no counter of the processor's energy below {tmp_path}"):
        ProcessorMeter(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_counters_for_root_only_say_what_to_do(tmp_path):
    zone(tmp_path, "0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").chmod(0)
    with pytest.raises(NotMeasured, match=r"may be read by root only: chmod a\+r"):
        ProcessorMeter(tmp_path)


class Driver:
    """Stands in for NVML, which needs a GPU: a driver of one GPU with the counters that are given."""

    class NVMLError(Exception):
        pass

    def __init__(self, **counters):
        self.counters = counters

    def nvmlInit(self):
        if not self.counters:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByUUID(self, name):
        assert name == "GPU-1234"
        return name

    def __getattr__(self, name):
        def tell(_handle):
            if name not in self.counters:
                raise self.NVMLError("Not Supported")
            return self.counters[name]

        return tell


def gpu(monkeypatch, driver):
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="1234"))
    return GpuMeter(torch.device("cuda", 0))


def test_a_gpu_tells_energy_load_and_memory(monkeypatch):
    driver = Driver(
        nvmlDeviceGetTotalEnergyConsumption=10_000,
        nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=75),
        nvmlDeviceGetMemoryInfo=SimpleNamespace(used=2**30),
    )
    meter = gpu(monkeypatch, driver)
    driver.counters["nvmlDeviceGetTotalEnergyConsumption"] = 12_500
    assert (meter.joules(5.0), meter.busy(), meter.memory()) == (2.5, 0.75, 2**30)


def test_a_gpu_without_a_counter_tells_its_power(monkeypatch):
    meter = gpu(monkeypatch, Driver(nvmlDeviceGetPowerUsage=200_000))
    assert (meter.joules(5.0), meter.busy(), meter.memory()) == (1000.0, None, None)


def test_a_gpu_that_cannot_be_asked_says_why(monkeypatch):
    with pytest.raises(NotMeasured, match="the driver does not tell: NVML Shared Library Not Found"):
        gpu(monkeypatch, Driver())
    with pytest.raises(NotMeasured, match="pip install nvidia-ml-py"):
        gpu(monkeypatch, None)


def test_time_is_summed_over_attempts_despite_a_half_row(tmp_path):
    def work():
        with Usage(tmp_path, CPU, every=0.02) as usage:
            until = time.process_time() + 0.1
            while time.process_time() < until:
                pass
        return usage.record()

    first = work()
    assert first["wall_seconds"] >= first["cpu_seconds"] * 0.9 > 0.05
    with (tmp_path / "usage.csv").open("a") as stream:
        stream.write("1795634850.7,4.6")  # killed here
    second = work()
    assert second["wall_seconds"] >= first["wall_seconds"] + 0.09
    assert second["not_measured"]["gpu"] == "no GPU was used"
    assert second["gpu_joules"] is second["gpu_busy_seconds"] is None
    rows = read_usage(tmp_path)
    assert sum(row["seconds"] for row in rows) == pytest.approx(second["wall_seconds"], abs=0.01)
    assert all(row["memory_bytes"] > 2**20 for row in rows)
    assert (tmp_path / "usage.csv").read_text().count(",".join(COLUMNS)) == 1


def test_a_folder_without_a_table_has_no_rows(tmp_path):
    assert read_usage(tmp_path) == []
