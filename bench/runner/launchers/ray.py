"""Launcher on a Ray cluster, a new local or an existing one, which queues by CPU and by GPU."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from bench.core.errors import RequestError
from bench.runner.launchers.subprocess_job import Job, ProcessExit, execute

_STORE_BYTES = 100 * 2**20  # nothing but exit codes goes through Ray; its least is 75 MiB


def _on_worker(job: Job) -> ProcessExit:
    """Run a job in a Ray worker; the cell sees only the GPUs that Ray gave this task."""
    import ray

    # Under Slurm Ray may leave all of the job's GPUs visible.
    return execute(job, {"CUDA_VISIBLE_DEVICES": ",".join(str(number) for number in ray.get_gpu_ids())})


class RayWorkers:
    """Ray tasks, each of which waits for one cell's process.

    Args:
        address: address of a running cluster; ``None``: one is started on this machine and stopped at the end.
        jobs: largest number of cells at a time; ``None``: as many as the cluster has room for.
        cpus: CPUs of each cell; ``None``: its part of this machine, or one CPU of an existing cluster.
        gpus: whether a cell takes a GPU by default; ``None``: if the cluster has any.

    Raises:
        RequestError: if Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str | None, jobs: int | None, cpus: int | None, gpus: bool | None) -> None:
        if find_spec("ray") is None:
            raise RequestError("--launcher ray: Ray is not installed here; pip install 'partbench[ray]'")
        # Before the first import of Ray, which reads them.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address is None:
            # Nobody else on this machine may use the cluster; Ray itself would leave a token in the home folder.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        import ray

        self.ray = ray
        self.jobs, self.folder = jobs, ""
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        machine = own_cpus()
        if address is None:
            # On a disk of this machine, and short: the path of a Unix socket has at most 107 bytes.
            temporary = tempfile.gettempdir()
            self.folder = tempfile.mkdtemp(prefix="ray-", dir=temporary if len(temporary) < 30 else "/tmp")
            local = {"_temp_dir": self.folder, "_node_ip_address": "127.0.0.1", "object_store_memory": _STORE_BYTES}
            slots = max(machine, (jobs or 1) * (cpus or 1))
            self._init(address="local", num_cpus=slots, include_dashboard=False, **local, **quiet)
        else:
            self._init(address=address, **quiet)
        cards = ray.cluster_resources().get("GPU", 0.0)
        self.default_gpus = 1.0 if (cards > 0 if gpus is None else gpus) else 0.0
        if cpus is None and address is None:
            # One of the machine's GPUs, or else one of its CPUs, for each.
            abreast = jobs or (int(cards) if self.default_gpus else machine)
            cpus = max(1, machine // max(1, abreast))
        self.cpus = cpus or 1
        # The scheduler decides which cells are tried again, not Ray.
        self.task = ray.remote(max_retries=0, max_calls=0)(_on_worker)
        self.running: dict[Any, Job] = {}

    def _init(self, **options: Any) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            self.ray.init(**options)
            signal.signal(signal.SIGTERM, handler)  # Ray installs its own handler
        except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
            self.close()
            cluster = f"--ray-address {options['address']}" if options["address"] != "local" else "a Ray cluster here"
            raise RequestError(f"{cluster} cannot be used: {str(error).strip().splitlines()[0]}") from error
        except BaseException:  # Ctrl-C: half a cluster must not stay
            self.close()
            raise

    def check(self, gpus: float) -> None:
        """Refuse resources that no machine of the cluster has: Ray would wait for such a machine silently.

        Raises:
            RequestError: with the resources of the cluster.
        """
        machines = [machine["Resources"] for machine in self.ray.nodes() if machine["Alive"]]
        shapes = {(machine.get("CPU", 0.0), machine.get("GPU", 0.0)) for machine in machines}
        if not any(cores >= self.cpus and cards >= gpus for cores, cards in shapes):
            sizes = "; ".join(f"{cores:g} and {cards:g}" for cores, cards in sorted(shapes, reverse=True))
            raise RequestError(
                f"a cell wants {self.cpus} CPUs and {gpus:g} GPUs, which no machine of the Ray cluster has "
                f"(CPUs and GPUs: {sizes}); lower --cpus-per-cell or --gpus-per-cell"
            )

    @property
    def free(self) -> int:
        """Number of cells that could begin now; Ray queues one for which it has no room after all."""
        if self.jobs is not None:
            return self.jobs - len(self.running)
        total = self.ray.cluster_resources()
        room = int(total.get("CPU", 0) // self.cpus) - len(self.running)
        if self.default_gpus:
            used = sum(job.gpus for job in self.running.values())
            room = min(room, math.ceil(total.get("GPU", 0) - used))
        return room

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit the jobs to Ray."""
        for job in jobs:
            self.running[self.task.options(num_cpus=self.cpus, num_gpus=job.gpus, name=job.name).remote(job)] = job

    def wait(self, seconds: float) -> Iterator[tuple[str, ProcessExit]]:
        """Yield name and end of jobs that have ended, also by the loss of a worker or a machine."""
        if not self.running:
            time.sleep(seconds)
            return
        finished, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds)
        for reference in finished:
            yield self.running.pop(reference).name, self._end(reference)

    def _end(self, reference: Any) -> ProcessExit:
        try:
            ended: ProcessExit = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            return ProcessExit(1, "", str(error))
        except self.ray.exceptions.RayError as error:
            return ProcessExit(-9, "", f"its Ray worker was lost: {str(error).strip().splitlines()[0]}")
        return ended

    def stop(self) -> None:
        """Cancel all running tasks, and with them their cells."""
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        if (
            not self.folder
        ):  # a shared cluster keeps running: it must have received the cancellation before we disconnect
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=10)
        self.running.clear()

    def close(self) -> None:
        """Disconnect from the cluster; stop it if it was started here."""
        self.ray.shutdown()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def own_cpus(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of CPUs for this process: those that Slurm allotted, else those of its affinity mask.

    Example:
        >>> own_cpus({"SLURM_CPUS_PER_TASK": "8"})
        8
    """
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if environment.get(name, "").isdigit():
            return int(environment[name])
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
