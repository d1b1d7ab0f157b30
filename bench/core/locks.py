"""Locks between processes on one file; the kernel lets go of them when their process ends, in whatever way."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EREMOTEIO}
"""What file systems without locks answer: NFS without its lock daemon, Lustre mounted with ``noflock``, some FUSE."""

_AT_ONCE = 0.2
"""Seconds within which a lock counts as free: whoever only asks holds it for a moment."""

_EVERY = 0.25
"""Seconds between two looks at a lock that another process holds."""

_log = logging.getLogger(__name__)
_told: set[Path] = set()


@contextlib.contextmanager
def exclusive(file: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of that file; a second process waits.

    Where the file system knows no locks, a file beside it says who holds it: left behind by a process that was killed,
    it is taken over on the same machine. That is said once.

    Args:
        file: made where it is not there; what it holds does not matter. Its folder must be there.
        waiting: called once where another process holds the lock.

    Raises:
        OSError: where the file cannot be written.
    """
    import filelock  # here: reading a store needs no lock

    lock: filelock.BaseFileLock = filelock.FileLock(file)
    if not _has_locks(file):
        _tell(file)
        lock = filelock.SoftFileLock(_beside(file))
    try:
        lock.acquire(timeout=_AT_ONCE)
    except filelock.Timeout:
        waiting()
        lock.acquire(poll_interval=_EVERY)
    try:
        yield
    finally:
        lock.release()


def is_held(file: Path) -> bool:
    """Whether a living process holds the lock of that file; only asks, also where nothing may be written."""
    if _beside(file).exists():
        return _held_softly(_beside(file))
    try:
        import fcntl
    except ImportError:
        return file.exists() and _held_softly(file)
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no such file, or no locks on this file system and no sign of a holder
    return False


def _held_softly(file: Path) -> bool:
    import filelock

    kind = filelock.SoftFileLock if file.suffix == _SUFFIX else filelock.FileLock
    try:
        with kind(file).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return True  # it may not be written by us: believed


def _has_locks(file: Path) -> bool:
    try:
        import fcntl  # not on Windows, which has others
    except ImportError:
        return True
    try:
        # To read and to write: network file systems take the one for a shared lock, the other for an exclusive one.
        with file.open("a+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


_SUFFIX = ".holder"


def _beside(file: Path) -> Path:
    return file.with_name(file.name + _SUFFIX)


def _tell(file: Path) -> None:
    """Say it once for each process and folder of locks, not for each of thousands of cells."""
    if not _told:
        _told.add(file)
        _log.warning(
            "warning: %s: this file system has no locks (flock); files named *%s say who works there instead. What a "
            "crashed machine left of them has to be deleted by hand",
            file.parent,
            _SUFFIX,
        )
