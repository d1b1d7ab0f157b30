"""One ``python -m bench cell DIR`` in a process of its own, the same for every launcher.

Only the standard library: what a Ray worker and a Slurm job import of ours is this file.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PARENT = "BENCH_PARENT"
"""The variable that tells a cell whose child it is."""

OUTPUT = "output.txt"
"""Beside a cell's ``cell.json``: what its last process printed, where it did not end well."""

_LATE = 10.0
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class Job:
    """What a worker is given.

    Attributes:
        name: of the task of work.
        folder: the cell's.
        options: of ``bench cell``, after the folder.
        environment: set on top of the worker's own.
        gpus: how many, or which share of one.
        ranks: processes that train it together, by torchrun.
    """

    name: str
    folder: str
    options: tuple[str, ...]
    environment: Mapping[str, str]
    gpus: float = 0.0
    ranks: int = 1


@dataclass(frozen=True)
class ProcessExit:
    """How the process ended.

    Attributes:
        code: exit code, or minus the signal that ended it.
        host: the machine it ran on; empty where that is not known.
        output: the end of what it printed, or what is known otherwise.
    """

    code: int
    host: str = ""
    output: str = ""

    @property
    def lost(self) -> bool:
        """Whether it was ended from outside, so that the same again may well succeed."""
        return self.code < 0 or self.code in (128 + signal.SIGINT, 128 + signal.SIGKILL, 128 + signal.SIGTERM)

    @property
    def summary(self) -> str:
        """One line about an end that recorded nothing."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        how = f"ended by signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        if self.code == 0:
            how = "ended without a result (exit code 0)"
        where = f" on {self.host}" if self.host else ""
        return f"{how}{where}" + (f": {lines[-1]}" if lines else "")


def start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """The running process, in a session of its own: Ctrl-C reaches the launcher, which then ends what it started."""
    module = ["bench", "cell"] if job.ranks == 1 else ["bench.runner.launchers.torchrun", str(job.ranks)]
    command = [sys.executable, "-m", *module, job.folder, *job.options]
    surroundings = {**os.environ, **job.environment, **environment, PARENT: str(os.getpid())}
    with (Path(job.folder) / OUTPUT).open("wb") as output:
        return subprocess.Popen(
            command,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ended(job: Job, code: int) -> ProcessExit:
    """How a process of :func:`start` ended."""
    output = Path(job.folder) / OUTPUT
    try:
        text = output.read_text(errors="replace")
        if code == 0:
            output.unlink()
    except OSError as error:
        text = str(error)
    return ProcessExit(code, socket.gethostname(), text[-2000:])


def execute(job: Job, environment: Mapping[str, str] | None = None) -> ProcessExit:
    """Start it and wait for its end; whatever ends the waiting ends the process."""
    # A network file system may show a new file late.
    deadline = time.monotonic() + _LATE
    while not (Path(job.folder) / "cell.json").is_file():
        if time.monotonic() > deadline:
            problem = (
                f"{socket.gethostname()} does not see {job.folder}: all machines need the same BENCH_HOME (and --out)"
            )
            return ProcessExit(2, socket.gethostname(), problem)
        time.sleep(0.2)
    process = start(job, environment or {})
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return ended(job, code)


def tie_to_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, where a launcher has asked for it.

    A worker that dies must not leave a cell behind that computes on a machine it was not given. Linux only; elsewhere
    such a cell finishes, and whoever wants it meanwhile waits for it.
    """
    # Not handed on: the processes that a cell starts are its own.
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # Slurm sends this to all processes of a job before it takes the machine back; submitit answers it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if os.getppid() != int(parent):
        sys.exit(128 + signal.SIGKILL)
