"""What a machine can do: how fast it copies, how long something takes on it."""

from __future__ import annotations

from collections.abc import Callable
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
