"""Retries of a cell after transient failures, such as a lost device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.core.errors import BenchError, DeviceLost, is_transient

if TYPE_CHECKING:
    import torch

    # Of the contract, which imports torch: the command line reads the number below for its help.
    from bench.contract import Progress

# Retries of a cell, unless the caller asks for another number.
RETRIES = 1


def retry(work: Callable[[], Any], retries: int, progress: Progress, device: torch.device) -> Any:
    """Run the work, and again after transient failures such as a lost device; it resumes from its checkpoint.

    Raises:
        DeviceLost: if the device serves this process no more.
        Exception: the last failure.
    """
    from bench.core import environment

    while True:
        try:
            return work()
        except Exception as error:
            if environment.lost(device):
                raise DeviceLost(f"{reason_of(error)}: this process can use {device} no more") from error
            # Any other failure would only repeat itself.
            if not retries or not is_transient(error):
                raise
            retries -= 1
            progress.note(f"{reason_of(error)}: trying again")


def reason_of(error: Exception) -> str:
    """Return the failure in one line, for the footnote of a table."""
    text = str(error).split("\n")[0]
    return text if isinstance(error, BenchError) else f"{type(error).__name__}: {text}"
