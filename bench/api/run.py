"""Implementation of ``bench.run`` and the command ``run``: plan, run and mirror cells."""

from __future__ import annotations

import contextlib
import gc
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.api.plugins import check_reproducible, load_plugins
from bench.api.results import Results, separated
from bench.core import registry
from bench.core.compat import freed_memory_kept
from bench.core.console import Console, say
from bench.core.errors import RequestError
from bench.core.paths import all_plugins, decodable
from bench.core.paths import data_root as data_root_of_project
from bench.core.paths import home as find_home
from bench.runner.retries import RETRIES

if TYPE_CHECKING:
    from bench.config.spec import PlannedCell
    from bench.results.store import Store
    from bench.runner.progress import ConsoleProgress

_RERUN = (
    "the same command goes on in the cell where it stopped, and makes finished ones anew; without --existing rerun it "
    "goes on there too, and finished ones stay as they are"
)
Names = str | Sequence[str]
"""Names as a sequence, or as one text with commas."""


@freed_memory_kept()
def run(
    methods: Names = (),
    datasets: Names = (),
    *,
    backbones: Names | None = None,
    seeds: Sequence[int] | int | None = None,
    metrics: Names = (),
    suite: str | None = None,
    set: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    weights: Mapping[str, str | Path] | None = None,
    out: str | Path | None = None,
    recipe: Literal["published", "small", "demo"] | None = None,
    precision: Literal["fp32", "bf16", "tf32"] | None = None,
    controls: bool | None = None,
    split: Literal["test", "train"] | None = None,
    existing: Literal["skip", "rerun"] = "skip",
    device: str = "auto",
    memory_limit: int | None = None,
    retries: int = RETRIES,
    launcher: Literal["inline", "ray", "slurm"] = "inline",
    jobs: int | None = None,
    gpus: Mapping[str, float] | None = None,
    cpus: int | None = None,
    ray_address: str | None = None,
    slurm: Mapping[str, str] | None = None,
    tracking: bool = False,
    tracking_uri: str | None = None,
    dry_run: bool = False,
    plugins: Iterable[str | Path] = (),
    quiet: bool = False,
    command: str | None = None,
) -> Results:
    """Run methods on data sets and measure them; finished cells are not run again.

    >>> import bench
    >>> results = bench.run("ours,protopnet", "demo", set={"ours.k": 5}, seeds=[0, 1])  # doctest: +SKIP
    >>> results.to_pandas()  # doctest: +SKIP

    Args:
        methods: names in the catalogue, or ``all``.
        datasets: names of data sets.
        backbones: names; default: those of each data set.
        seeds: one cell for each; default 0.
        metrics: names or groups, or ``all``; default: those of every run.
        suite: name or YAML file of a suite, which the other arguments override.
        set: dotted setting -> value, for example ``{"ours.k": 5}``; a tuple gives one cell for each of its values.
        data_root: folder with the data sets, or one of them; default: that of ``partbench.toml``.
        weights: backbone -> file with its starting weights.
        out: folder of the results; default ``BENCH_HOME``, else ``.bench``.
        recipe: training schedules of all methods; default: that of each data set.
        precision: of training; default ``fp32``.
        controls: whether the black box and the content-free controls are added; default yes.
        split: on which metrics are measured; default ``test``.
        existing: ``rerun`` computes finished cells again.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        memory_limit: bytes for each cell; default: no limit.
        retries: attempts after a failure that may pass.
        launcher: this machine, a Ray cluster or Slurm.
        jobs: the most cells at a time.
        gpus: method -> GPUs of a cell; the name ``""`` is for all others.
        cpus: threads of a cell (``ray`` and ``slurm``).
        ray_address: of a running cluster.
        slurm: options of sbatch.
        tracking: whether results are mirrored to MLflow.
        tracking_uri: of the mirror; default: a database in ``BENCH_HOME``.
        dry_run: print the cells and stop; the results are then those of an empty run.
        plugins: Python files that register methods, metrics or data sets, beside those of ``BENCH_PLUGINS``
            and ``partbench.toml``.
        quiet: print nothing.
        command: recorded as the origin of the results, by a command line that has loaded the plugins; default: the
            command that is equivalent to this call.

    Returns:
        The results of these cells. A failed cell is part of them (:attr:`Results.failed`) and no exception.

    Raises:
        RequestError: if the request is wrong; nothing has been written then.
        UnknownName: if a name is unknown, with the nearest one.
        StorageError: if the disk takes nothing more; finished work is safe.
    """
    from bench.config import overrides, request_names, suites

    files = all_plugins(map(Path, plugins))
    data_root = data_root_of_project() if data_root is None else data_root
    if command is None:  # the command has loaded them to read its options
        load_plugins(files)
    starting = {name: Path(file) for name, file in (weights or {}).items()}
    gpus, slurm = dict(gpus or {}), dict(slurm or {})
    single, several = _settings(set)
    fields = {
        "methods": separated(methods), "datasets": separated(datasets), "backbones": separated(backbones or ()),
        "seeds": (seeds,) if isinstance(seeds, int) else tuple(seeds or ()), "metrics": separated(metrics),
        "recipe": recipe, "precision": precision, "controls": controls, "split": split,
    }  # fmt: skip
    asked = []
    for values in suites.read_suites(suite) if suite is not None else [{}]:
        given = {name: value for name, value in fields.items() if value not in (None, ())}
        values = {**suites.replaced(values, given), **given}
        for name in ("methods", "datasets"):
            if not values.get(name):
                known = "ours,protopnet" if name == "methods" else "demo"
                raise RequestError(f"no {name} given: --{name} {known}, or --suite NAME; `bench ls suites` lists them")
        asked += overrides.by_dataset(overrides.with_settings(values, single, several))
    request_names.check_requests(asked, gpus, starting)
    # With torch from here on, which takes seconds to import: a wrong name is refused before.
    from bench.config import schema
    from bench.config.plan import Context, plan_all
    from bench.results.store import Store
    from bench.runner.eta import print_plan
    from bench.runner.launchers.launcher import Launcher
    from bench.runner.progress import ConsoleProgress

    requests = [schema.validate(schema.Request, values, "run") for values in asked]
    how = Launcher(launcher, device, memory_limit, jobs, gpus, cpus, ray_address, slurm, retries)
    how.check()
    for request in requests:
        chosen = registry.chosen_methods(request.methods)
        check_reproducible("methods", request_names.with_controls(chosen, request.controls), how.several)
        check_reproducible("metrics", registry.chosen_metrics(request.metrics, shared=True), how.several)
        check_reproducible("datasets", request.datasets, how.several)
    home = find_home()
    kept = decodable(Path(out), "out") if out is not None else None
    store = Store(kept or home)
    if not dry_run:
        for place in {home, store.root}:
            Store(place).check_writable()
    console = Console(quiet=quiet)
    with ConsoleProgress(console, quiet) as progress:
        root = None if data_root is None else Path(data_root)
        context = Context(home, progress, root, starting, tuple(str(file.resolve()) for file in files))
        cells = plan_all(requests, context)
        if dry_run:
            print_plan(console, cells, store, home)
            if launcher == "slurm":
                console.print(how.script(home, cells), soft_wrap=True)
            return Results(store, cells=())
        command = command or _command(fields, suite, single, several, root, kept, starting, files)
        origin = {"suite": requests[0].suite, "command": command, "cells": [cell.spec.id for cell in cells]}
        log = _logging(home, kept, tracking_uri, progress) if tracking else lambda stamp: contextlib.nullcontext()
        stamp, summary = _execute(cells, store, home, how, progress, console, origin, log, existing == "rerun")
    return Results(store, stamp, cells=[cell.spec.id for cell in cells], summary=summary, home=home)


def repeating(store: Store, name: str, home: Path) -> str:
    """Return the command that runs one cell again."""
    return f"BENCH_HOME={shlex.quote(str(home))} python -m bench cell {shlex.quote(str(store.cell(name).path))}"


def _execute(
    cells: Sequence[PlannedCell],
    store: Store,
    home: Path,
    how: Any,
    progress: ConsoleProgress,
    console: Console,
    origin: Mapping[str, Any],
    log: Callable[[str], contextlib.AbstractContextManager[Callable[[str], None] | None]],
    rerun: bool,
) -> tuple[str, Any]:
    """Record the run, run its cells, and return its stamp and the summary."""
    from bench.runner.fit_cache import repair
    from bench.runner.launchers.callbacks import ConsoleCallback
    from bench.runner.launchers.tasks import write_down
    from bench.runner.status import Board, Overview

    # Everything that can refuse the run comes before its record is written.
    with how.ready(cells, home) as places:
        write_down(cells, store, lambda cell: repeating(store, cell.spec.id, home))
        stamp = store.new_invocation({**origin, "launcher": how.name, "device": how.where})
        repair(origin["cells"], store, progress)
        overview = Overview(store, origin["cells"], from_now=True)
        try:
            with log(stamp) as ended, progress.above(Board(overview, origin["suite"])):
                lines = ConsoleCallback(console, cells, how.several, ended)
                if not gc.isenabled():  # the command turned it off while it planned: all of that stays
                    gc.freeze()
                    gc.enable()
                return stamp, how.run(cells, store, home, progress, lines, places, rerun=rerun)
        except KeyboardInterrupt:
            say(f"\n{overview.summary()}", err=True)
            if rerun:
                raise KeyboardInterrupt(_RERUN) from None
            raise


def _logging(home: Path, out: Path | None, uri: str | None, progress: ConsoleProgress) -> Callable[[str], Any]:
    def log(stamp: str) -> contextlib.AbstractContextManager[Callable[[str], None]]:
        from bench.report.mlflow.tracking import logged  # a plain import loads none of the reports

        return logged(home, out, uri, stamp, progress)

    return log


def _settings(given: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """Return settings of one value, and those with several."""
    given = {} if given is None else given
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise RequestError("set: write a mapping of names to values, for example {'ours.k': 5}")
    several = {name: value for name, value in given.items() if isinstance(value, tuple)}
    return {name: value for name, value in given.items() if name not in several}, several


def _command(
    fields: Mapping[str, Any],
    suite: str | None,
    single: Mapping[str, Any],
    several: Mapping[str, tuple[Any, ...]],
    data_root: Path | None,
    out: Path | None,
    weights: Mapping[str, Path],
    plugins: Iterable[Path],
) -> str:
    """Return the command line that asks for the same cells."""
    import json

    words = ["python", "-m", "bench", "run"]
    words += ["--suite", suite] if suite else []
    for name, value in fields.items():
        if name == "controls" and value is not None:
            words.append("--controls" if value else "--no-controls")
        elif value not in (None, ()):
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    # JSON is YAML, the language of --set.
    for name, value in single.items():
        words += ["--set", f"{name}={json.dumps(value, default=str)}"]
    for name, values in several.items():
        words += ["--set", f"{name}={','.join(json.dumps(value, default=str) for value in values)}"]
    words += ["--data-root", str(data_root)] if data_root else []
    words += ["--out", str(out)] if out else []
    words += [word for name, file in weights.items() for word in ("--weights", f"{name}={file}")]
    return shlex.join([*words, *(word for file in plugins for word in ("--plugin", str(file)))])
