"""What the machine does wrong, told apart: a disk that refuses, what may pass, what stays wrong however often tried."""

from __future__ import annotations

import errno
import os
import re

from bench.core.errors import BenchError

_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM}
# torch and safetensors write files in C++ and Rust: the number of the error, if any, is in the text.
_NUMBER = re.compile(r"(?:os error|code:|Errno) (\d+)")
_UNNUMBERED = re.compile(r"PytorchStreamWriter failed|file write failed|unexpected pos|disk is full")


class StorageError(BenchError):
    """The disk takes nothing more: no cell can be completed, and what has been done is safe."""


def storage_error(error: BaseException) -> StorageError | None:
    """The error as one that says what to do, where it means that the disk refuses; else ``None``."""
    if isinstance(error, StorageError):
        return error
    number, place = _number(error), getattr(error, "filename", None)
    where = f"{place}: " if place else ""
    if number in _ROOM or (number is None and _UNNUMBERED.search(str(error))):
        what = os.strerror(number).lower() if number else "the disk took only a part of a file"
        return StorageError(f"{where}{what}: make room there, then the same command goes on where it stopped")
    if number in _ACCESS and isinstance(error, OSError):
        what = os.strerror(number).lower()
        return StorageError(f"{where}{what}: give write access there, or name another folder with BENCH_HOME or --out")
    return None


def may_pass(error: Exception) -> bool:
    """Whether trying again can help: a network file system that hiccups, a device that was lost; not our own verdicts.

    What the harness says itself (a wrong request, a loss that is not finite, a broken image, out of memory) follows
    from the seed and the data, and mistakes in code do not mend themselves.
    """
    if isinstance(error, BenchError) or storage_error(error) is not None:
        return False
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
    # torch's own error for a device that fails (`AcceleratorError`) is a RuntimeError too.
    return isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError | RecursionError)


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found.group(1)) if found else None
