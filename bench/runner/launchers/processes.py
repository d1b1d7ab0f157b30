"""Launcher of several processes on this machine: ``--launcher inline --jobs N``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.runner.launchers.scheduler import Workers
from bench.runner.launchers.subprocess_job import Job, ProcessExit, ended, start

_POLL = 0.02  # seconds
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


class Processes(Workers):
    """Pool of local processes.

    Each of the ``gpus`` goes to the next job; without any, all jobs share the GPU of ``--device``.
    The processes of a cell check their GPUs themselves.
    """

    def __init__(self, jobs: int, cpus: int, gpus: Sequence[str] = ()) -> None:
        self.jobs, self.cpus = jobs, cpus
        self._load = dict.fromkeys(gpus, 0)  # running jobs on each
        self._held: dict[str, list[str]] = {}
        self.running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}

    @property
    def free(self) -> int:
        """Number of jobs that could begin now."""
        return self.jobs - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Start a process for each job."""
        for job in jobs:
            # The GPUs with the fewest jobs, in their order; a cell of several processes gets as many.
            held = sorted(self._load, key=self._load.__getitem__)[: job.ranks]
            # Of more processes than GPUs each says itself which one it lacks.
            chosen = {"CUDA_VISIBLE_DEVICES": ",".join(held)} if len(held) == job.ranks else {}
            self._held[job.name] = held
            for gpu in held:
                self._load[gpu] += 1
            self.running[job.name] = (job, start(job, chosen))

    def wait(self, seconds: float) -> Iterator[tuple[str, ProcessExit]]:
        """Yield name and end of processes that have ended; return as soon as any has."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            finished = [name for name, (_, process) in self.running.items() if process.poll() is not None]
            for name in finished:
                job, process = self.running.pop(name)
                for gpu in self._held.pop(name):
                    self._load[gpu] -= 1
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
