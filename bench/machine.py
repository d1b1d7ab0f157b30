"""What a machine can do, and how much of it something takes."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy of 256 MiB reads and writes, the best of five."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    best = min(timed(device, target.copy_, source)[1] for _ in range(6))
    return 2 * source.numel() * source.element_size() / best


def timed(device: torch.device, function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and the seconds until the device has finished it."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    begin = perf_counter()
    result = function(*arguments)
    wait()
    return result, perf_counter() - begin


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """A list whose one element is, at the end, the most memory in use beyond that at the beginning.

    On a GPU the allocator's own count. On a CPU resident memory, looked at every few milliseconds, where the system
    tells it (Linux); elsewhere the growth of the process's peak.
    """
    found = [0]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found[0] = torch.cuda.max_memory_allocated(device) - before
        return
    _give_back_free_memory()
    before = _resident()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], _resident() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found[0] = max(found[0], _resident() - before)


def _give_back_free_memory() -> None:
    """Return to the system what the process has freed but still holds: using it again would not show as growth."""
    gc.collect()
    # Only glibc has this call, and only glibc needs it here.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident() -> int:
    table = Path("/proc/self/statm")
    if table.exists():
        return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
