"""Energy counters of the machine: of its processors through Linux's powercap, of an NVIDIA GPU through NVML.

They count for the whole device: what other processes spend on it at the same time is in the sum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")


class NotMeasured(Exception):
    """Why the machine does not tell."""


class ProcessorMeter:
    """Energy of all processor packages and their memory (RAPL).

    Args:
        root: where the kernel keeps the counters.

    Raises:
        NotMeasured: where there are none, or they are not for everybody to read.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if _counted(zone)]
        if not zones:
            raise NotMeasured(f"no counter of the processor's energy below {root}")
        self._zones = [(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())) for zone in zones]
        try:
            self._last = self._read()
        except PermissionError as error:
            raise NotMeasured(f"{error.filename} may be read by root only: chmod a+r it to have energy") from error

    def joules(self) -> float:
        """What was spent since the last call; the first time, since the meter was made."""
        now = self._read()
        # A counter begins again at zero when it has come to its end.
        spent = sum((one - last) % (end + 1) for one, last, (_, end) in zip(now, self._last, self._zones, strict=True))
        self._last = now
        return spent / 1e6

    def _read(self) -> list[int]:
        return [int(file.read_text()) for file, _ in self._zones]


def _counted(zone: Path) -> bool:
    """Packages, and the memory beside them; the cores are part of a package, and `psys` is all of it once more."""
    name = zone / "name"
    return name.is_file() and name.read_text().strip().startswith(("package", "dram"))


class GpuMeter:
    """What an NVIDIA GPU spends, how busy it is, and how much of its memory is in use.

    Args:
        device: a CUDA device of torch.

    Raises:
        NotMeasured: where NVML is not there.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise NotMeasured("the driver is not asked: pip install nvidia-ml-py") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            # By its unique name: CUDA_VISIBLE_DEVICES changes the numbers, and NVML does not know of it.
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        except pynvml.NVMLError as error:
            raise NotMeasured(f"the driver does not tell: {error}") from error
        self._last = self._millijoules()

    def joules(self, seconds: float) -> float | None:
        """What was spent since the last call, that many seconds ago; GPUs without a counter tell their power now."""
        now = self._millijoules()
        if now is None or self._last is None:
            power = self._ask("nvmlDeviceGetPowerUsage")
            return None if power is None else power / 1e3 * seconds
        spent, self._last = (now - self._last) / 1e3, now
        return spent

    def busy(self) -> float | None:
        """Share of the last moments in which it computed: 0 to 1."""
        found = self._ask("nvmlDeviceGetUtilizationRates")
        return None if found is None else found.gpu / 100

    def memory(self) -> int | None:
        """Bytes in use, by all processes."""
        found = self._ask("nvmlDeviceGetMemoryInfo")
        return None if found is None else int(found.used)

    def _millijoules(self) -> int | None:
        return self._ask("nvmlDeviceGetTotalEnergyConsumption")

    def _ask(self, what: str) -> Any:
        try:
            return getattr(self._nvml, what)(self._handle)
        except self._nvml.NVMLError:
            return None  # this GPU, or a part of one, does not tell
