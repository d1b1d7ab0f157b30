"""Processes of this machine: ``--launcher inline --jobs N``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.runner.launchers.subprocess_job import Job, ProcessExit, ended, start

_POLL = 0.02
_GRACE = 5.0


class Processes:
    """So many processes at a time; they share whatever GPU ``--device`` names.

    Args:
        jobs: how many.
        cpus: for each.
    """

    default_gpus = 0.0

    def __init__(self, jobs: int, cpus: int) -> None:
        self.jobs, self.cpus = jobs, cpus
        self.running: dict[str, tuple[Job, subprocess.Popen[bytes]]] = {}

    def check(self, gpus: float) -> None:
        """The processes of a cell find their GPUs, or say what is missing, themselves."""

    @property
    def free(self) -> int:
        """How many could begin now."""
        return self.jobs - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin these."""
        for job in jobs:
            self.running[job.name] = (job, start(job, {}))

    def wait(self, seconds: float) -> Iterator[tuple[str, ProcessExit]]:
        """Those that have ended; comes back early when one has."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            over = [name for name, (_, process) in self.running.items() if process.poll() is not None]
            for name in over:
                job, process = self.running.pop(name)
                yield name, ended(job, process.returncode)
            if over:
                return
            time.sleep(_POLL)

    def stop(self) -> None:
        """Ask all to end, and end those that do not."""
        for _, process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE
        for _, process in self.running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def close(self) -> None:
        """Nothing of ours is left running."""
