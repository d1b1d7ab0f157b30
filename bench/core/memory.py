"""Memory: peak in use, limits, and allocations that failed."""

from __future__ import annotations

import os
import re
import sysconfig
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.core.compat import give_back_free_memory
from bench.core.errors import CellError, RequestError

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
# Messages of torch (on a CPU and on a GPU) and NumPy; the first alternative is in bytes without a unit.
_TRIED = re.compile(r"allocate (?:(\d+) bytes|([\d.]+) ([KMGT]iB))")
# Messages of a plain RuntimeError from torch, its C++ and its convolution libraries (oneDNN, cuDNN: an engine whose
# workspace does not fit is none to it).
_SIGNS = re.compile(
    r"can't allocate memory|bad_alloc|out of memory|ALLOC_FAILED|could not create a primitive$"
    r"|unable to find an engine to execute this computation"
)
_STATM = Path("/proc/self/statm")
# Compiled code does not survive its own failed small allocations, so the kernel refuses only beyond this reserve.
_RESERVE = 2**28


class PeakMemory:
    """Context that measures the most memory in use inside it.

    On a GPU the allocator's own count. On a CPU the resident memory of the process, sampled every few milliseconds, on
    systems that report it (Linux); elsewhere the process's peak so far.

    Attributes:
        before: bytes in use at the beginning.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0
        self._most = 0
        self._done = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
            return self
        give_back_free_memory()
        self.before = self._most = resident()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._most = self.most
        self._done.set()
        if self._watcher is not None:
            self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._most = max(self._most, resident())

    @property
    def most(self) -> int:
        """Most bytes in use from the beginning until now, or until the end."""
        if self._done.is_set():
            return self._most
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(self._most, resident())

    def check(self, limit: int | None) -> None:
        """Compare the peak with a limit in bytes.

        Raises:
            OverLimit: if more was in use.
        """
        if limit is not None and self.most > limit:
            raise OverLimit(f"{format_bytes(self.most)} were in use, {format_bytes(limit)} are allowed")

    @property
    def growth(self) -> int:
        """Most bytes in use beyond those at the beginning."""
        return self.most - self.before


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor of the host to a device without waiting: to a GPU from pinned memory, in the order of its work."""
    cuda = torch.device(device).type == "cuda" and tensor.device.type == "cpu"
    # From other memory the copy would begin only after all that the device has to do. The pinned copy is not used again
    # before it has been read: torch's allocator sees to that.
    return tensor.pin_memory().to(device, non_blocking=True) if cuda else tensor.to(device)


class OverLimit(MemoryError):
    """More memory in use than allowed."""


@contextmanager
def memory_limit(device: torch.device, limit: int | None) -> Iterator[None]:
    """Let an allocation far beyond the limit fail in the thread that asks for it, as on a small machine.

    On a GPU: a fraction of the device for torch's allocator, exactly (memory of the driver itself is not counted).
    On a CPU under Linux: the kernel refuses private memory (``RLIMIT_DATA``) beyond the resident memory, the rest of
    the limit and a reserve. It stops the one large allocation before it is made, and torch's message then names its
    size; ``RLIMIT_AS`` would count mapped files and address space that is only reserved as well. The reserve is for
    small allocations: much compiled code, unlike torch's allocator, does not survive that one of its own fails. So on a
    CPU the limit itself is kept by comparing it with :class:`PeakMemory` at safe points.

    Args:
        device: the device whose memory is limited.
        limit: bytes of the whole process; ``None`` for no limit.

    Raises:
        RequestError: if the process takes more than that already.
    """
    if limit is None:
        yield
    elif device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    else:
        check_limit(device, limit)
        if not _STATM.exists():
            yield
            return
        import resource  # not on Windows

        # An OpenMP thread that cannot be started ends the process: all of them are started before the limit is set.
        torch.ones(2**20).add_(1)
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        ceiling = _private() + limit - resident() + _RESERVE
        bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([ceiling, *bounds]), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def check_limit(device: torch.device, limit: int | None) -> None:
    """Refuse a limit that leaves nothing to work with.

    Raises:
        RequestError: with the memory that the process takes by itself.
    """
    if limit is None or device.type == "cuda":
        return
    give_back_free_memory()
    taken = resident()
    if taken >= limit:
        raise RequestError(
            f"--memory-limit {format_bytes(limit)}: the process takes {format_bytes(taken)} before it begins; write "
            f"more, for example --memory-limit {2 * taken // 2**30 + 1}GiB"
        )


def available(device: torch.device) -> int:
    """Return the bytes still available: on the GPU, or on this machine within its control group (container)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    bounds = []
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text().splitlines())
        bounds.append(int(lines["MemAvailable"].split()[0]) * 2**10)
    else:
        bounds.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    # A container's limit may be below the memory that the machine has free.
    group = Path("/sys/fs/cgroup")
    most, now = group / "memory.max", group / "memory.current"
    if most.is_file() and now.is_file() and most.read_text().strip() != "max":
        bounds.append(int(most.read_text()) - int(now.read_text()))
    return max(0, min(bounds))


@dataclass(frozen=True)
class AllocationFailure:
    """Allocation that failed.

    Attributes:
        stage: stage of the cell or measurement, such as ``fit``.
        batch_size: images at a time, if the stage works in batches.
        tried_bytes: size of the tensor that did not fit, if the message names it.
        peak_bytes: most memory in use before.
        limit_bytes: memory allowed; ``None`` for all there is.
        place: the line of code that asked for it.
    """

    stage: str
    batch_size: int | None
    tried_bytes: int | None
    peak_bytes: int
    limit_bytes: int | None
    place: str

    @classmethod
    def of(
        cls, error: BaseException, stage: str, batch_size: int | None, peak: int, limit: int | None
    ) -> AllocationFailure:
        """Return the failure behind an error that :func:`is_out_of_memory` recognises."""
        return cls(stage, batch_size, tried_bytes(error), peak, limit, failing_line(error))

    def __str__(self) -> str:
        batch = f" at batch size {self.batch_size}" if self.batch_size else ""
        tried = f"tried to allocate {format_bytes(self.tried_bytes)}, " if self.tried_bytes else ""
        limit = f", limit {format_bytes(self.limit_bytes)}" if self.limit_bytes else ""
        line = f" ({self.place})" if self.place else ""
        return f"{self.stage}{batch}: {tried}peak {format_bytes(self.peak_bytes)}{limit}{line}"


class OutOfMemory(CellError):
    """Work that does not fit into memory at any batch size that was tried."""

    def __init__(self, overruns: Sequence[AllocationFailure]) -> None:
        super().__init__("; before that: ".join(str(overrun) for overrun in reversed(overruns)))
        self.overruns = tuple(overruns)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that there was not enough memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None


def tried_bytes(error: BaseException) -> int | None:
    """Return the size in bytes of the allocation that failed, if the message names it.

    Example:
        >>> tried_bytes(RuntimeError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has ..."))
        1610612736
    """
    match = _TRIED.search(str(error))
    if match is None:
        return None
    whole, amount, unit = match.groups()
    return int(whole) if whole else int(float(amount) * UNITS[unit])


def failing_line(error: BaseException) -> str:
    """Return the innermost line of the harness's or a plugin's code, not of a library: ``file:line code``.

    Empty for :class:`OverLimit`, which is raised later than the allocation itself.
    """
    if isinstance(error, OverLimit):
        return ""
    library = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(library)]
    if not frames:
        return ""
    last = frames[-1]
    return f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno} {last.line}"


def format_bytes(size: int) -> str:
    """Return a number of bytes with a unit.

    Example:
        >>> format_bytes(24 * 2**30), format_bytes(1_500_000)
        ('24.0 GiB', '1.4 MiB')
    """
    unit = next((unit for unit in ("TiB", "GiB", "MiB") if size >= UNITS[unit]), "KiB")
    return f"{size / UNITS[unit]:.1f} {unit}"


def resident() -> int:
    """Return the bytes of the process that are in memory now; its peak on systems that report only that."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)


def _private() -> int:
    # Private writable pages, requested whether or not they were touched: RLIMIT_DATA counts them.
    return int(_STATM.read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
