"""Launcher of several processes on this machine: ``--launcher inline --jobs N``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.runner.launchers.subprocess_job import Job, ProcessExit, ended, start

_POLL = 0.02  # seconds
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


class Processes:
    """Pool of local processes; they share the GPU of ``--device``.

    Args:
        jobs: number of processes at a time.
        cpus: CPUs of each.
    """

    default_gpus = 0.0

    def __init__(self, jobs: int, cpus: int) -> None:
        self.jobs, self.cpus = jobs, cpus
        self.running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}

    def check(self, gpus: float) -> None:
        """Accept any number of GPUs: the processes of a cell check theirs themselves."""

    @property
    def free(self) -> int:
        """Number of jobs that could begin now."""
        return self.jobs - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Start a process for each job."""
        for job in jobs:
            self.running[job.name] = (job, start(job, {}))

    def wait(self, seconds: float) -> Iterator[tuple[str, ProcessExit]]:
        """Yield name and end of processes that have ended; return as soon as any has."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            finished = [name for name, (_, process) in self.running.items() if process.poll() is not None]
            for name in finished:
                job, process = self.running.pop(name)
                yield name, ended(job, process.returncode)
            if finished:
                return
            time.sleep(_POLL)

    def stop(self) -> None:
        """Terminate all processes, and kill those that do not end."""
        for _, process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE  # for all of them together
        for _, process in self.running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def close(self) -> None:
        """Do nothing: all processes have ended or were stopped."""
