"""One process at a time, on every file system, and nothing left of a process that was killed."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from bench.core import locks

HOLDER = """
import errno, fcntl, pathlib, sys
from bench.core import locks
if sys.argv[2] != "0":
    def refused(*_):
        raise OSError(int(sys.argv[2]), "no locks")
    fcntl.flock = refused
with locks.exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[0, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def refusal(request, monkeypatch):
    """What the file system answers to ``flock``; 0: it knows locks."""
    if request.param:

        def refused(*_):
            raise OSError(request.param, "no locks")

        monkeypatch.setattr("fcntl.flock", refused)
    monkeypatch.setattr(locks, "_warned", set())
    return request.param


@pytest.fixture
def holder(tmp_path, refusal):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock"), str(refusal)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_lock_falls_with_a_killed_process(tmp_path, holder):
    file, waited = tmp_path / ".lock", []
    assert locks.is_held(file)

    def waiting():
        waited.append(True)
        holder.kill()
        holder.wait()

    with locks.exclusive(file, waiting):
        assert waited == [True]
    assert not locks.is_held(file)


def test_a_stopped_process_keeps_its_lock(tmp_path, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    assert locks.is_held(tmp_path / ".lock")
    os.kill(holder.pid, signal.SIGCONT)
    holder.stdin.close()
    holder.wait()
    assert not locks.is_held(tmp_path / ".lock")


def test_a_file_system_without_locks_is_told_once(tmp_path, refusal, caplog):
    with caplog.at_level(logging.WARNING):
        for name in "abc":
            with locks.exclusive(tmp_path / name):
                assert locks.is_held(tmp_path / name)
            assert not locks.is_held(tmp_path / name)
    assert len(caplog.messages) == bool(refusal)


def test_asking_leaves_nothing_behind(tmp_path, refusal):
    assert not locks.is_held(tmp_path / "absent" / ".lock")
    assert list(tmp_path.iterdir()) == []


def test_asking_hinders_nobody(tmp_path):
    file = tmp_path / ".lock"
    file.touch()
    import fcntl

    with file.open() as opened:
        fcntl.flock(opened, fcntl.LOCK_SH)  # another process asks at this moment, and for long
        assert not locks.is_held(file)


def test_a_place_that_may_not_be_written_is_an_error(tmp_path):
    began = time.monotonic()
    with pytest.raises(OSError), locks.exclusive(tmp_path / "absent" / ".lock"):  # noqa: PT011 (whatever the system says)
        pass
    assert time.monotonic() - began < 5
