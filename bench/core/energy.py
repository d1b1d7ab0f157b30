"""Energy counters of the machine: of its processors through Linux's powercap, of an NVIDIA GPU through NVML.

They count for the whole device: the energy that other processes spend on it at the same time is included.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")


class NotMeasured(Exception):
    """Reason why the machine has no reading."""


class ProcessorMeter:
    """Energy of all processor packages and their memory (RAPL).

    Raises:
        NotMeasured: if there are none, or only root may read them.
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
        """Return the energy spent since the last call or, at the first call, since the meter was made."""
        now = self._read()
        # A counter begins again at zero after its largest value.
        spent = sum((new - last) % (end + 1) for new, last, (_, end) in zip(now, self._last, self._zones, strict=True))
        self._last = now
        return spent / 1e6

    def _read(self) -> list[int]:
        return [int(file.read_text()) for file, _ in self._zones]


def _counted(zone: Path) -> bool:
    """Return whether a zone is a package or its memory: cores are part of a package, and `psys` repeats the sum."""
    name = zone / "name"
    return name.is_file() and name.read_text().strip().startswith(("package", "dram"))


class GpuMeter:
    """Energy, utilisation and memory in use of an NVIDIA GPU.

    Raises:
        NotMeasured: if NVML is not available.
    """

    def __init__(self, device: torch.device) -> None:
        # Imported here: the table of a finished cell is read without torch.
        import torch

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
        # GPUs older than Volta have no energy counter: `joules` then integrates their power.
        self._last = self._millijoules()

    def joules(self, seconds: float) -> float | None:
        """Return the energy spent since the last call, ``seconds`` ago; without a counter, present power times time."""
        now = self._millijoules()
        if now is None or self._last is None:
            power = self._ask("nvmlDeviceGetPowerUsage")
            return None if power is None else power / 1e3 * seconds
        spent, self._last = (now - self._last) / 1e3, now
        return spent

    def busy(self) -> float | None:
        """Return the share of the last moments in which it computed: 0 to 1."""
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        return None if rates is None else rates.gpu / 100

    def memory(self) -> int | None:
        """Return the bytes in use, by all processes."""
        info = self._ask("nvmlDeviceGetMemoryInfo")
        return None if info is None else int(info.used)

    def _millijoules(self) -> int | None:
        return self._ask("nvmlDeviceGetTotalEnergyConsumption")

    def _ask(self, function: str) -> Any:
        try:
            return getattr(self._nvml, function)(self._handle)
        except self._nvml.NVMLError:
            return None  # this GPU, or a part of one, has no such reading
