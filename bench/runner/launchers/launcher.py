"""Launcher options of the command line, and the run of cells by the chosen launcher."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.config import schema
from bench.config.spec import PlannedCell
from bench.contract import RequestError
from bench.core import environment, registry
from bench.core.memory import check_limit
from bench.core.paths import config_file
from bench.results.store import Store
from bench.runner.launchers import slurm
from bench.runner.launchers.callbacks import RunCallback, Summary
from bench.runner.launchers.inline import ThisProcess
from bench.runner.launchers.processes import Processes
from bench.runner.launchers.ray import RayWorkers, own_cpus
from bench.runner.launchers.scheduler import Scheduler
from bench.runner.launchers.subprocess_job import Job
from bench.runner.launchers.tasks import CellTask
from bench.runner.progress import ConsoleProgress
from bench.runner.retries import RETRIES

THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Launcher:
    """Launcher and the resources of its cells.

    Attributes:
        name: ``inline``, ``ray`` or ``slurm``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        memory_limit: bytes for each cell.
        jobs: largest number of cells at a time; ``None``: inline one for each GPU, else as many as there is room for.
        gpus: number of GPUs, or share of one, by method; the name ``""`` means all others. With several, the cell is
            trained by as many processes (on a CPU too).
        cpus: CPUs of each cell.
        ray_address: address of a running cluster.
        slurm: options of sbatch.
        retries: number of retries of a cell after transient failures.
    """

    name: Literal["inline", "ray", "slurm"] = "inline"
    device: str = "auto"
    memory_limit: int | None = None
    jobs: int | None = None
    gpus: Mapping[str, float] = field(default_factory=dict)
    cpus: int | None = None
    ray_address: str | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)
    retries: int = RETRIES

    def check(self) -> None:
        """Refuse inconsistent options, before anything is planned.

        Raises:
            RequestError: naming the option.
        """
        for option, given, owner in (
            ("--ray-address", self.ray_address, ("ray",)),
            ("--slurm", self.slurm, ("slurm",)),
            ("--gpus-per-cell", any(number < 2 for number in self.gpus.values()), ("ray", "slurm")),
            ("--cpus-per-cell", self.cpus, ("ray", "slurm")),
        ):
            if given and self.name not in owner:
                raise RequestError(f"{option} belongs to --launcher {' or '.join(owner)}; this is {self.name}")
        for name, number in self.gpus.items():
            if name and name not in registry.names("methods"):
                raise RequestError(
                    f"--gpus-per-cell {name}=...{registry.nearest(name, registry.names('methods'), 'methods')}"
                )
            if number > 1 and number != int(number):
                raise RequestError(f"--gpus-per-cell {number}: a share of one GPU, or whole ones; write {int(number)}")
        if self.name == "inline" and not (self.gpus and self.device.startswith("cuda:")):
            check_limit(environment.pick_device(self.device), self.memory_limit)
        elif self.device.startswith("cuda:"):
            raise RequestError(f"--device {self.device}: {self.name} chooses the GPU of each cell; write cuda")
        elif self.device not in ("auto", "cpu", "cuda"):
            raise RequestError(f"--device {self.device!r}: write auto, cpu or cuda")

    def run(
        self,
        cells: Sequence[PlannedCell],
        store: Store,
        home: Path,
        progress: ConsoleProgress,
        events: RunCallback,
        places: Any,
        *,
        rerun: bool = False,
    ) -> Summary:
        """Run the cells that are not finished.

        The workers ``places`` are those of :meth:`ready`.
        """
        if not self.several:
            device = environment.pick_device(self.device)
            worker = ThisProcess(cells, store, home, device, progress, self.memory_limit, self.retries)

            def own_process(task: CellTask) -> Job:
                folder = str(store.cell(task.name).path.resolve())
                return Job(task.name, folder, self._options(task), self._environment(home, None))

            return Scheduler(cells, store, home, worker, events, own_process, rerun=rerun, stages=False).run()
        shares = self._shares(cells, places)

        def job(task: CellTask) -> Job:
            own = task.cell.spec
            ranks = 1 if task.stage == "data" else max(1, int(shares[own.method]))
            return Job(
                name=task.name,
                folder=str(store.cell(own.id).path.resolve()),
                options=self._options(task),
                environment=self._environment(home, max(1, places.cpus // ranks)),
                gpus=shares[own.method],
                ranks=ranks,
            )

        return Scheduler(cells, store, home, places, events, job, rerun=rerun).run()

    @contextmanager
    def ready(self, cells: Sequence[PlannedCell], home: Path) -> Iterator[Any]:
        """Start the workers of :meth:`run` and check that they can run the cells; ``None``: this process.

        Raises:
            RequestError: if the launcher cannot be used here, or has no resources for some cell.
        """
        if not self.several:
            yield None
            return
        with self.workers(home) as workers:
            for gpus in set(self._shares(cells, workers).values()):
                workers.check(gpus)
            yield workers

    def _shares(self, cells: Sequence[PlannedCell], workers: Any) -> dict[str, float]:
        return {cell.spec.method: self.share(cell.spec.method, workers.default_gpus) for cell in cells}

    @property
    def where(self) -> str:
        """Device, as far as it is known before a cell runs."""
        return str(environment.pick_device(self.device)) if self.name == "inline" else self.device

    @property
    def several(self) -> bool:
        """Whether cells run in processes of their own, several at a time."""
        return self.name != "inline" or self._at_once > 1 or bool(self.gpus)  # inline: of several processes each

    @property
    def _visible_gpus(self) -> list[str]:
        """GPUs that inline hands out to its jobs; none if the command line names a device."""
        return environment.visible_gpus() if self.device in ("auto", "cuda") else []

    @property
    def _at_once(self) -> int:
        """Number of cells that inline runs at a time."""
        of_a_cell = max([1, *map(int, self.gpus.values())])
        return self.jobs or max(1, len(self._visible_gpus) // of_a_cell)

    @contextmanager
    def workers(self, home: Path) -> Iterator[Any]:
        """Start the workers of the launcher, and stop them at the end of the context."""
        gpus = {"cuda": True, "cpu": False}.get(self.device)
        workers: Any
        if self.name == "ray":
            workers = RayWorkers(self.ray_address, self.jobs, self.cpus, gpus)
        elif self.name == "slurm":
            workers = slurm.SlurmWorkers(home.resolve() / "slurm", self.jobs, self.cpus, gpus, self.slurm)
        else:
            jobs = self._at_once
            workers = Processes(jobs, max(1, own_cpus() // jobs), self._visible_gpus)
        try:
            yield workers
        finally:
            workers.close()

    def share(self, method: str, otherwise: float) -> float:
        """Return the GPUs of a cell of a method: by the command line, else its YAML, else ``otherwise``."""
        # `gpus: 0.5` at the top of a method's YAML is a resource, not a setting: it enters no id.
        for name in (method, ""):
            if name in self.gpus:
                return self.gpus[name]
        file = config_file("methods", method)
        written = schema.read_yaml(file).get("gpus") if file.is_file() and otherwise else None
        if written is None:
            return otherwise
        if not isinstance(written, int | float) or written < 0:
            raise RequestError(f"{file}: gpus: write a number such as 1 or 0.5 (got {written!r})")
        return float(written)

    def script(self, home: Path, cells: Sequence[PlannedCell]) -> str:
        """Return the sbatch script of the cells; of several numbers of GPUs, that of the first cell."""
        slurm.require()
        otherwise = 1.0 if self.device == "cuda" else 0.0
        shares = [self.share(cell.spec.method, otherwise) for cell in cells]
        folder = home.resolve() / "slurm"
        return slurm.script(folder, self.slurm, self.jobs, self.cpus, shares[0], shares.count(shares[0]))

    def _options(self, task: CellTask) -> tuple[str, ...]:
        # As `bench cell` reads them: a cell runs the same by hand.
        options = ["--device", self.device, "--retries", str(self.retries)]
        if self.memory_limit is not None:
            options += ["--memory-limit", f"{self.memory_limit / 2**10!r}KiB"]
        if task.stage is not None:
            options += ["--only", task.stage]
        return tuple(options)

    def _environment(self, home: Path, cpus: int | None) -> dict[str, str]:
        """Return the environment of a cell's process: the home, this code, as many threads as it has CPUs."""
        code = str(Path(__file__).resolve().parents[3])
        others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != code]
        return {
            "BENCH_HOME": str(home.resolve()),
            "PYTHONPATH": os.pathsep.join([code, *others]),
            # Sums over other numbers of threads differ in the last bits.
            **({} if cpus is None else {THREADS: os.environ.get(THREADS, str(cpus))}),
        }
