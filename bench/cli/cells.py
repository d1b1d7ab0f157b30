"""Commands on cells: run one, take over those that ran elsewhere, export a run's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.core.console import Console, say
from bench.core.paths import home as find_home


@click.command()
@click.argument("folder", metavar="CELL", type=options.FOLDER)
@options.device
@options.memory
@options.retries
@options.data_elsewhere
@options.starting_weights("Starting weights on this machine. Default: the planned file.")
@options.choice("--only", ["data", "black-box"], "Only preprocess the images, or only train the black box.")
def cell(
    folder: Path,
    device: str,
    memory_limit: int | None,
    retries: int,
    data_root: Path | None,
    weights: dict[str, Path],
    only: Any,
) -> None:
    """Run one cell, given by its id in BENCH_HOME or the folder of its cell.json; every launcher starts this command.

    Several GPUs train one cell together when torchrun starts the command once for each:

    \b
    torchrun --nproc-per-node 2 -m bench cell CELL

    Each takes its share of every batch; the batch size stays the recipe's, and the numbers are those of one process up
    to the order of sums. Rank 0 alone measures and writes. A decomposition and all measuring use one GPU.
    """  # noqa: D301 (click reads the character itself)
    from bench.contract import RequestError
    from bench.core import environment
    from bench.core.memory import check_limit
    from bench.results.store import Store
    from bench.runner.cell import CellRunner
    from bench.runner.fit_cache import repair
    from bench.runner.launchers.tasks import join_training, run_stage
    from bench.runner.progress import ConsoleProgress
    from bench.runner.retries import retry
    from bench.training.distributed import ProcessGroup

    folder = Store(find_home()).place(folder)
    if not (folder / "cell.json").is_file() or folder.parent.name != "cells":
        raise RequestError(f"{folder} is not a cell: expected .../cells/ID with a cell.json in it")
    store = Store(folder.parent.parent)
    backbone = store.specification(folder.name)["spec"]["backbone"]
    for name in weights:
        if name != backbone:
            raise RequestError(f"--weights {name}=...: this cell has the backbone {backbone}")
    elsewhere = options.elsewhere(data_root)
    if weights:
        elsewhere["weights"] = str(weights[backbone].resolve())
    ranks = ProcessGroup.of_torchrun()
    picked = environment.pick_device(ranks.device(device))
    ranks.join(picked)
    with ConsoleProgress(Console(quiet=ranks.rank > 0), quiet=ranks.rank > 0) as progress:
        if not ranks.rank and only is None:
            repair([folder.name], store, progress)
        more = {"memory_limit": memory_limit, "elsewhere": elsewhere, "ranks": ranks}
        found = CellRunner(store, folder.name, find_home(), picked, progress, **more)
        try:
            if not (ranks.rank or found.folder.done):
                # Errors of the call itself are reported, and are no failure of the cell.
                check_limit(picked, memory_limit)
                if data_root is not None:
                    found.inputs.dataset()
            if ranks.rank:
                join_training(found)
            elif only is not None:
                run_stage(found, only, retries)
            else:
                if found.folder.done:
                    say("done before")
                retry(found.run, retries, progress, picked)
        finally:
            ranks.leave()


@click.command()
@click.argument("homes", metavar="HOME...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.home
def gather(homes: tuple[Path, ...], out: Path | None) -> None:
    """Copy finished cells and black boxes from the HOMEs of other machines into this one.

    Existing cells stay unchanged. A later `run` that requests these cells finds them done and prints the table.
    """
    from bench.results.merge import gather as take
    from bench.runner.progress import ConsoleProgress

    home = find_home()
    with ConsoleProgress(Console()) as progress:
        for other in homes:
            say(f"{other}: {take(other, options.open_store(out), home, progress)}")


@click.command()
@click.argument("folder", type=options.FOLDER)
@click.option("--suite", help="Export the newest run of this suite.")
@click.option("--run", "stamp", help="Export this run, by its time stamp. Default: the newest.")
@options.home
def export(folder: Path, suite: str | None, stamp: str | None, out: Path | None) -> None:
    """Export a run's results to FOLDER for publication: settings, scores and per-item tables.

    FOLDER gets a folder for the suite, with one JSON file and one Parquet file; a former run of the suite is replaced.
    Fits, logs and paths of this machine are omitted. Every command reads the folder as a home (--out FOLDER), and
    `gather FOLDER` copies the results into another home, where they count as done.
    """
    from bench.results.export import export as write
    from bench.runner.progress import ConsoleProgress

    store = options.open_store(out)
    with ConsoleProgress(Console(stderr=True)) as progress:
        say(f"{folder}: {write(store, store.chosen_run(stamp, suite), folder, progress)}")


COMMANDS = (cell, gather, export)
