"""What the C library does with memory that a process has freed: keep it for the next tensor, or give it back."""

from __future__ import annotations

import ctypes
import gc

# Of <malloc.h>. Setting either also ends glibc's own moving of both thresholds.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let this process use again what it has freed, instead of asking the system for cleared pages.

    By default glibc returns large tensors to the system whenever nothing in use lies behind them, so that each batch
    pays for its pages anew (``bench speed data``: reports/cost.md). Only glibc has this call, and only glibc needs it:
    elsewhere nothing happens. Variables of the environment (``MALLOC_TRIM_THRESHOLD_``) are overruled.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_TRIM_THRESHOLD, 2**31 - 1)
        change(_MMAP_THRESHOLD, 2**30)


def give_back_free_memory() -> None:
    """Return to the system what the process has freed but still holds: using it again would not show as growth."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
