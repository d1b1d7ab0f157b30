"""Subprocess ``python -m bench cell DIR`` of one job, the same for every launcher.

It imports only the standard library: of this project, a Ray worker and a Slurm job import this file alone. Several
processes train one cell together through ``python -m bench.runner.launchers.subprocess_job N DIR``.
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

# Environment variable with the process id of a cell's parent.
PARENT = "BENCH_PARENT"

# File beside a cell's ``cell.json`` with the output of its last process, if that failed.
OUTPUT = "output.txt"

# Exit code of a cell whose process can use its GPU no more (``EX_TEMPFAIL`` of sysexits.h).
DEVICE_LOST = 75

# Seconds for a network file system to show a new file.
_LATE = 10.0
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


@dataclass(frozen=True)
class Job:
    """Description of a task for a worker.

    Attributes:
        name: name of the task.
        folder: folder of the cell.
        options: options of ``bench cell`` after the folder.
        environment: variables added to the worker's own.
        gpus: number of GPUs, or share of one.
        ranks: number of processes that train the cell together, by torchrun.
    """

    name: str
    folder: str
    options: tuple[str, ...]
    environment: Mapping[str, str]
    gpus: float = 0.0
    ranks: int = 1


@dataclass(frozen=True)
class ProcessExit:
    """End of a job's process.

    Attributes:
        code: exit code, or minus the signal that ended it.
        host: its machine; empty: unknown.
        output: last part of its output, or another description of the end.
    """

    code: int
    host: str = ""
    output: str = ""

    @property
    def lost(self) -> bool:
        """Whether it was ended from outside, or lost its GPU, so that a retry in another process may succeed."""
        signals = (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
        return self.code < 0 or self.code in (DEVICE_LOST, *(128 + number for number in signals))

    @property
    def summary(self) -> str:
        """Reason in one line, for a process that recorded none."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        reason = f"ended by signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        if self.code == 0:
            reason = "ended without a result (exit code 0)"
        host = f" on {self.host}" if self.host else ""
        return f"{reason}{host}" + (f": {lines[-1]}" if lines else "")


def start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process of a job, in a session of its own: Ctrl-C reaches the launcher, which then ends its jobs."""
    module = ["bench", "cell"] if job.ranks == 1 else ["bench.runner.launchers.subprocess_job", str(job.ranks)]
    command = [sys.executable, "-m", *module, job.folder, *job.options]
    variables = {**os.environ, **job.environment, **environment, PARENT: str(os.getpid())}
    # To a file: a pipe that nobody reads fills up and blocks the cell.
    with (Path(job.folder) / OUTPUT).open("wb") as output:
        return subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def ended(job: Job, code: int) -> ProcessExit:
    """Return the end of a process of :func:`start`."""
    output = Path(job.folder) / OUTPUT
    try:
        text = output.read_text(errors="replace")
        if code == 0:
            output.unlink()
    except OSError as error:
        text = str(error)
    return ProcessExit(code, socket.gethostname(), text[-2000:])


def execute(job: Job, environment: Mapping[str, str] | None = None) -> ProcessExit:
    """Run a job and wait for its end; any exception kills the process."""
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
    """Let the kernel kill this process when its parent ends, if a launcher has started it.

    A worker that dies must not leave a cell behind that computes on a machine it was not given. Linux only; elsewhere
    such a cell finishes, and other runs wait for it.
    """
    # Not inherited: the processes that a cell starts are its own.
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # Slurm sends this to all processes of a job before it takes the machine back; submitit answers it.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # The parent may have ended before the call above.
    if os.getppid() != int(parent):
        sys.exit(128 + signal.SIGKILL)


def main() -> None:
    """Run a cell in N processes by torchrun; the exit code is that of the first that failed, as in a shell.

    The arguments of the command line are N, the folder of the cell and options of ``bench cell``.
    """
    tie_to_parent()
    os.environ[PARENT] = str(os.getpid())  # the processes die with this one
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    count, *rest = sys.argv[1:]
    try:
        run.main(["--standalone", "--nproc-per-node", count, "-m", "bench", "cell", *rest])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        sys.stderr.write(f"rank {first.local_rank} of {count} ended first, with {first.exitcode}\n")
        sys.exit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == "__main__":
    main()
