"""Launcher on Slurm, through submitit: cells that can begin are submitted together as an array job.

The process must live until the last array is submitted, because cells wait for stages that they share; after an end
before that, the same command resumes.
"""

from __future__ import annotations

import difflib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError
from bench.runner.launchers.subprocess_job import Job, ProcessExit, execute

_DAY = 24 * 60  # minutes; the default time limit
_ABREAST = 256  # default of the cells at a time
_ARRAY = 1000  # Slurm's default of MaxArraySize is 1001
# Ends that a retry would meet again; after any other, such as a failed node, the job counts as lost.
_HOPELESS = ("CANCELLED", "OUT_OF_MEMORY", "DEADLINE")


@dataclass(frozen=True)
class _OnNode:
    """Job that submitit runs on a node; after its time limit it is queued again, and the cell resumes."""

    job: Job

    def __call__(self) -> ProcessExit:
        return execute(self.job)

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class SlurmWorkers:
    """Array jobs of one cell per task.

    Args:
        folder: folder of submitit's scripts, logs and results; all nodes must see it.
        jobs: largest number of cells at a time; ``None``: 256.
        cpus: CPUs of each cell.
        gpus: whether a cell takes a GPU by default.
        options: options of sbatch: ``partition``, ``time``, ``mem``, ``account``, ...; and ``cluster=local``, which
            runs the same on this machine without Slurm, all cells at once.

    Raises:
        RequestError: if submitit or Slurm is missing, or an option is wrong.
    """

    def __init__(
        self, folder: Path, jobs: int | None, cpus: int | None, gpus: bool | None, options: Mapping[str, str]
    ) -> None:
        require()
        import submitit

        self.submitit = submitit
        self.local = options.get("cluster", "slurm") == "local"
        self.folder, self.cpus, self.default_gpus = folder / "%j", cpus or 1, 1.0 if gpus else 0.0
        self.parameters = parameters(options, jobs, self.cpus)
        if not self.local:
            try:
                submitit.SlurmExecutor(self.folder)
            except RuntimeError as error:
                raise RequestError(f"--launcher slurm: {error} (cluster=local tries it without)") from error
        self.running: dict[str, Any] = {}

    def check(self, gpus: float) -> None:
        """Refuse shares of a GPU; the machines of the cluster are checked by Slurm.

        Raises:
            RequestError: if the number is not whole.
        """
        _gpus(gpus)

    @property
    def free(self) -> int:
        """Number of jobs that could begin now: Slurm queues any number."""
        return 10**6

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit the jobs, those with the same number of GPUs as one array."""
        for gpus, group in groupby(sorted(jobs, key=lambda job: job.gpus), key=lambda job: job.gpus):
            executor, members = self._executor(gpus), list(group)
            for chunk in (members[first : first + _ARRAY] for first in range(0, len(members), _ARRAY)):
                with executor.batch():
                    submitted = [executor.submit(_OnNode(job)) for job in chunk]
                self.running.update({job.name: handle for job, handle in zip(chunk, submitted, strict=True)})

    def wait(self, seconds: float) -> Iterator[tuple[str, ProcessExit]]:
        """Yield name and end of jobs that have ended."""
        time.sleep(seconds)
        for name, handle in list(self.running.items()):
            if handle.done():
                del self.running[name]
                yield name, self._end(handle)

    def stop(self) -> None:
        """Cancel all queued and running jobs."""
        handles = list(self.running.values())
        if self.local:
            for handle in handles:
                handle.cancel()
            for handle in handles:
                handle._process.wait(timeout=30)
        elif handles:
            subprocess.run(["scancel", *sorted({handle.job_id.partition("_")[0] for handle in handles})], check=False)
        self.running.clear()

    def close(self) -> None:
        """Do nothing: all jobs have ended or were cancelled."""

    def _executor(self, gpus: float) -> Any:
        if self.local:
            executor = self.submitit.LocalExecutor(self.folder)
            executor.update_parameters(timeout_min=self.parameters["time"], gpus_per_node=int(gpus))
        else:
            executor = self.submitit.SlurmExecutor(self.folder)
            executor.update_parameters(**self.parameters, **_gpus(gpus))
        return executor

    def _end(self, handle: Any) -> ProcessExit:
        error = handle.exception()
        if error is None:
            done: ProcessExit = handle.result()
            return done
        state = str(handle.state).upper()
        lost = isinstance(error, self.submitit.core.utils.UncompletedJobError) and not state.startswith(_HOPELESS)
        return ProcessExit(-9 if lost else 1, "", f"{str(error).strip()}\nSlurm: {state.lower()}, job {handle.job_id}")


def require() -> None:
    """Check that submitit is installed.

    Raises:
        RequestError: if it is not.
    """
    if find_spec("submitit") is None:
        raise RequestError("--launcher slurm: submitit is not installed here; pip install 'partbench[slurm]'")


def _gpus(gpus: float) -> dict[str, int]:
    if gpus != int(gpus):
        raise RequestError(f"--gpus-per-cell {gpus}: Slurm hands out whole GPUs; write 1")
    return {"gpus_per_node": int(gpus)} if gpus else {}


def script(
    folder: Path, options: Mapping[str, str], jobs: int | None, cpus: int | None, gpus: float, count: int
) -> str:
    """Return the sbatch script of an array of ``count`` cells; Slurm need not be installed."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder / '%j'))}"
    return str(
        _make_sbatch_string(
            command, folder / "%j", map_count=count, **parameters(options, jobs, cpus or 1), **_gpus(gpus)
        )
    )


def parameters(options: Mapping[str, str], jobs: int | None, cpus: int) -> dict[str, Any]:
    """Return the parameters of submitit's executor."""
    defaults = {"job_name": "partbench", "cpus_per_task": cpus, "array_parallelism": jobs or _ABREAST}
    return {**defaults, **read_options(options)}


def read_options(options: Mapping[str, str]) -> dict[str, Any]:
    """Convert options to submitit's: ``time`` in minutes, numbers as numbers; unknown options go to sbatch unchanged.

    Example:
        >>> read_options({"partition": "gpu", "time": "1-00:30:00", "reservation": "cvpr"})
        {'time': 1470, 'partition': 'gpu', 'additional_parameters': {'reservation': 'cvpr'}}

    Raises:
        RequestError: if a time cannot be read or a name is nearly that of another option.
    """
    from submitit.slurm.slurm import _get_default_parameters

    known = sorted(_get_default_parameters())
    found: dict[str, Any] = {"time": _DAY}
    others: dict[str, str] = {}
    for name, value in options.items():
        if name == "cluster":
            if value not in ("slurm", "local"):
                raise RequestError(f"--slurm cluster={value}: write slurm or local")
        elif name == "time":
            found["time"] = _minutes(value)
        elif name in ("setup", "teardown", "srun_args"):
            found[name] = [value]
        elif name in known:
            found[name] = int(value) if re.fullmatch("[0-9]{1,9}", value) else value
        elif near := difflib.get_close_matches(name, known, 1, cutoff=0.8):
            raise RequestError(f"--slurm {name}={value}: unknown option; did you mean {near[0]!r}?")
        else:
            others[name] = value
    return {**found, **({"additional_parameters": others} if others else {})}


def _minutes(text: str) -> int:
    """Convert a time of Slurm to minutes: minutes, hours:minutes:seconds or days-hours:minutes:seconds."""
    found = re.fullmatch(r"(?:([0-9]{1,6})-)?([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?", text)
    if found is None:
        raise RequestError(f"--slurm time={text}: write minutes, 8:00:00 or 2-00:00:00")
    days, first, second, third = (int(part) if part else 0 for part in found.groups())
    if found[1]:
        minutes = days * _DAY + first * 60 + second
    elif found[4]:
        minutes = first * 60 + second
    else:
        minutes = first
    return max(1, minutes + (1 if third or (second and not found[1] and not found[4]) else 0))
