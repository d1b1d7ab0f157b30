"""Slurm, through submitit: the cells that can begin are submitted together, as one array job."""

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

_DAY = 24 * 60
_ABREAST = 256
_ARRAY = 1000  # Slurm's own limit, MaxArraySize, is 1001 where nobody has changed it
_HOPELESS = ("CANCELLED", "OUT_OF_MEMORY", "DEADLINE")


@dataclass(frozen=True)
class _OnNode:
    """What submitit runs on a node; it is queued again when its time is over, and the cell goes on where it was."""

    job: Job

    def __call__(self) -> ProcessExit:
        return execute(self.job)

    def checkpoint(self) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class SlurmWorkers:
    """Array jobs of one cell per task.

    Args:
        folder: where submitit keeps scripts, logs and results; all nodes must see it.
        jobs: the most cells at a time; ``None``: 256.
        cpus: for each cell.
        gpus: whether cells want one where nothing else is said.
        options: of sbatch: ``partition``, ``time``, ``mem``, ``account``, ...; and ``cluster=local``, which tries the
            same on this machine without Slurm, all cells at once.

    Raises:
        RequestError: where submitit or Slurm is not there, or an option is wrong.
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
        """Refuse shares of a GPU; what machines there are, Slurm knows.

        Raises:
            RequestError: where it is no whole number.
        """
        _gpus(gpus)

    @property
    def free(self) -> int:
        """Slurm takes any number."""
        return 10**6

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit these, those with as many GPUs in one array."""
        for gpus, group in groupby(sorted(jobs, key=lambda job: job.gpus), key=lambda job: job.gpus):
            executor, own = self._executor(gpus), list(group)
            for chunk in (own[first : first + _ARRAY] for first in range(0, len(own), _ARRAY)):
                with executor.batch():
                    submitted = [executor.submit(_OnNode(job)) for job in chunk]
                self.running.update({job.name: found for job, found in zip(chunk, submitted, strict=True)})

    def wait(self, seconds: float) -> Iterator[tuple[str, ProcessExit]]:
        """Those that have ended."""
        time.sleep(seconds)
        for name, found in list(self.running.items()):
            if found.done():
                del self.running[name]
                yield name, self._end(found)

    def stop(self) -> None:
        """Cancel all that are queued or run."""
        found = list(self.running.values())
        if self.local:
            for job in found:
                job.cancel()
            for job in found:
                job._process.wait(timeout=30)
        elif found:
            subprocess.run(["scancel", *sorted({job.job_id.partition("_")[0] for job in found})], check=False)
        self.running.clear()

    def close(self) -> None:
        """Nothing of ours is left running."""

    def _executor(self, gpus: float) -> Any:
        if self.local:
            executor = self.submitit.LocalExecutor(self.folder)
            executor.update_parameters(timeout_min=self.parameters["time"], gpus_per_node=int(gpus))
        else:
            executor = self.submitit.SlurmExecutor(self.folder)
            executor.update_parameters(**self.parameters, **_gpus(gpus))
        return executor

    def _end(self, found: Any) -> ProcessExit:
        error = found.exception()
        if error is None:
            done: ProcessExit = found.result()
            return done
        state = str(found.state).upper()
        lost = isinstance(error, self.submitit.core.utils.UncompletedJobError) and not state.startswith(_HOPELESS)
        return ProcessExit(-9 if lost else 1, "", f"{str(error).strip()}\nSlurm: {state.lower()}, job {found.job_id}")


def require() -> None:
    """Say what is missing.

    Raises:
        RequestError: where submitit is not installed.
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
    """What sbatch would be given for an array of so many cells; Slurm need not be here."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder / '%j'))}"
    return str(
        _make_sbatch_string(
            command, folder / "%j", map_count=count, **parameters(options, jobs, cpus or 1), **_gpus(gpus)
        )
    )


def parameters(options: Mapping[str, str], jobs: int | None, cpus: int) -> dict[str, Any]:
    """What submitit's executor takes."""
    own = {"job_name": "partbench", "cpus_per_task": cpus, "array_parallelism": jobs or _ABREAST}
    return {**own, **read_options(options)}


def read_options(options: Mapping[str, str]) -> dict[str, Any]:
    """What submitit takes: ``time`` in minutes, numbers as numbers; what it does not know goes to sbatch as it is.

    Example:
        >>> read_options({"partition": "gpu", "time": "1-00:30:00", "reservation": "cvpr"})
        {'time': 1470, 'partition': 'gpu', 'additional_parameters': {'reservation': 'cvpr'}}

    Raises:
        RequestError: where a time cannot be read or a name is nearly that of another option.
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
            found[name] = int(value) if value.isdigit() else value
        elif near := difflib.get_close_matches(name, known, 1, cutoff=0.8):
            raise RequestError(f"--slurm {name}={value}: unknown option; did you mean {near[0]!r}?")
        else:
            others[name] = value
    return {**found, **({"additional_parameters": others} if others else {})}


def _minutes(text: str) -> int:
    """Slurm's ways to write a time: minutes, hours:minutes:seconds, days-hours:minutes:seconds."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
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
