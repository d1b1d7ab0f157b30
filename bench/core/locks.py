"""Locks between processes on one file; the kernel releases them when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

# Errors of file systems without locks: NFS without its lock daemon, Lustre mounted with `noflock`, some FUSE.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EREMOTEIO}

# Seconds within which a lock counts as free: a process that only asks holds it for a moment.
_AT_ONCE = 0.2

# Seconds between two attempts at a lock that another process holds.
_EVERY = 0.25

_log = logging.getLogger(__name__)
_warned: set[Path] = set()


@contextlib.contextmanager
def exclusive(file: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of that file; a second process waits.

    On a file system without locks, a file beside it names the holder: left behind by a process that was killed, it is
    taken over on the same machine. A warning is printed once.

    Args:
        file: the lock file, made if it is missing; its content does not matter. Its folder must exist.
        waiting: callback, called once if another process holds the lock.

    Raises:
        OSError: if the file cannot be written.
    """
    import filelock  # imported here: reading a store needs no lock

    lock: filelock.BaseFileLock = filelock.FileLock(file)
    if not _has_locks(file):
        _warn(file)
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
    """Return whether a living process holds the lock of that file; works without write access."""
    if _beside(file).exists():
        return _held_softly(_beside(file))
    try:
        import fcntl
    except ImportError:
        return file.exists() and _held_softly(file)
    try:
        # A shared lock is refused as long as another process holds the exclusive one, and disturbs no other reader.
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
        return True  # not writable for us: taken as held


def _has_locks(file: Path) -> bool:
    try:
        import fcntl  # not on Windows, which has others
    except ImportError:
        return True
    try:
        # Open to read and write: network file systems need the first for shared locks, the second for exclusive ones.
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


def _warn(file: Path) -> None:
    """Warn once for each process, not for each of thousands of cells."""
    if not _warned:
        _warned.add(file)
        _log.warning(
            "warning: %s: this file system has no locks (flock); files named *%s name the process at work instead. "
            "Those that a crashed machine left behind have to be deleted by hand",
            file.parent,
            _SUFFIX,
        )
