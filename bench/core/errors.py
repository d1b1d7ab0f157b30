"""Errors of the harness, and errors of the machine that stop the work or may pass."""

from __future__ import annotations

import errno
import os
import re

# No room: on the disk, in the quota, or for a file of that size.
_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM}
# torch and safetensors write files in C++ and Rust: the number of the error, if any, is in the text.
_NUMBER = re.compile(r"(?:os error|code:|Errno) (\d+)")
_UNNUMBERED = re.compile(r"PytorchStreamWriter failed|file write failed|unexpected pos|disk is full")


class BenchError(Exception):
    """Problem that a user can understand and mend; the message names the remedy."""


class RequestError(BenchError):
    """Wrong request: nothing was run. The command line ends with exit code 2."""


class CellError(BenchError):
    """Failure of one cell (NaN loss, broken image, ...). It is recorded; the other cells continue."""


class NotApplicable(CellError):
    """Metric without a meaning for this model or data: it is ``n/a`` with this reason, the other metrics continue."""


class DeviceLost(CellError):
    """GPU that serves this process no more, after an error in a kernel: another process can go on with the cell."""


class StorageError(BenchError):
    """Disk that accepts no more data: no cell can be completed, and finished work is safe."""


def storage_error(error: BaseException) -> StorageError | None:
    """Return the error with its remedy in the message, if it means that the disk refuses; else ``None``."""
    if isinstance(error, StorageError):
        return error
    number, path = _number(error), getattr(error, "filename", None)
    prefix = f"{path}: " if path else ""
    if number in _ROOM or (number is None and _UNNUMBERED.search(str(error))):
        problem = os.strerror(number).lower() if number else "the disk took only a part of a file"
        return StorageError(f"{prefix}{problem}: make room there, then the same command resumes")
    if number in _ACCESS and isinstance(error, OSError):
        problem = os.strerror(number).lower()
        return StorageError(
            f"{prefix}{problem}: give write access there, or name another folder with BENCH_HOME or --out"
        )
    return None


def is_transient(error: Exception) -> bool:
    """Return whether trying again can help: a network file system that hiccups, a device that was lost.

    The harness's own errors (a wrong request, a loss that is not finite, a broken image, out of memory) follow from the
    seed and the data, and mistakes in code do not mend themselves.
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
    match = _NUMBER.search(str(error))
    return int(match.group(1)) if match else None
