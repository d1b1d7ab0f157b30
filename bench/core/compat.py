"""Settings and stand-ins for libraries that are used as they are: glibc's allocator, torchvision's operators.

Importing this module imports neither torch nor torchvision: ``python -m bench`` sets the allocator before anything
else.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of <malloc.h>. Setting either also ends glibc's own moving of both thresholds.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# The largest threshold that glibc moves to by itself, after a block of that size was freed (64-bit systems).
_LARGEST = 2**25
_CHOSEN = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
# How often freed memory is kept at present: by the command line once for all, by calls of the library while they last.
_keeping = 0
_counting = threading.Lock()
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
# Libraries of `torch.library`, which last as long as they are referenced.
_declared: list[Any] = []


def keep_freed_memory() -> None:
    """Let this process use again the memory that it has freed, instead of asking the system for cleared pages.

    By default glibc returns large tensors to the system whenever nothing in use is behind them, so that each batch
    pays for its pages again (``bench speed data``: reports/cost.md). Only glibc has this call, and only glibc needs it:
    elsewhere nothing happens. Environment variables (``MALLOC_TRIM_THRESHOLD_``) are overruled.
    """
    global _keeping
    with _counting:
        _keeping += 1
        _set_thresholds(2**31 - 1, 2**30)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Do the same while the context, or the function that this decorates, lasts; then give back what is free.

    glibc does not tell its thresholds, and they no longer move once they are set: afterwards they are those that a
    process has anyway once it has freed a tensor of 32 MiB. Nothing changes in a process that keeps freed memory all
    the time, or whose environment sets the thresholds.
    """
    global _keeping
    if any(name in os.environ for name in _CHOSEN):
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        with _counting:
            _keeping -= 1
            if not _keeping:
                _set_thresholds(2 * _LARGEST, _LARGEST)
                _trim()


def _set_thresholds(trim: int, mmap: int) -> None:
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_TRIM_THRESHOLD, trim)
        change(_MMAP_THRESHOLD, mmap)


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def give_back_free_memory() -> None:
    """Return freed memory that the process still holds to the system, so that using it again shows as growth."""
    gc.collect()
    _trim()


def declare_torchvision_operators() -> None:
    """Make ``import torchvision`` work if its compiled operators cannot be loaded.

    torchvision's wheels link against one build of torch. With another (a CPU build of torch and the usual CUDA build of
    torchvision) the compiled extension does not load, and the import then stops at the first operator whose schema it
    wants to annotate. Only torchvision's Python parts are used here (models, transforms), so it is enough that the
    schemas of ``nms`` and ``qnms`` exist. Nothing is replaced: calling such an operator still fails, with torch's own
    message.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _declared:
        return
    import torch

    try:
        for extension in sorted(Path(spec.origin).parent.glob("_C*.so")):
            torch.ops.load_library(extension)
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(name + _SCHEMA)
        _declared.append(library)
