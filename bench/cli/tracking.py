"""Commands on the MLflow mirror, and the one that repeats a cell to compare its numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.core.console import Console, say
from bench.core.paths import home as find_home


@click.command()
@options.home
@options.tracking_uri
@click.option("--run", "stamp", metavar="STAMP", help="Mirror only this run. Default: all runs.")
@click.option("--with-parent", is_flag=True, hidden=True)
def sync(out: Path | None, uri: str | None, stamp: str | None, with_parent: bool) -> None:
    """Update the MLflow mirror from the store; a deleted or missing mirror is rebuilt."""
    from bench.report.mlflow import Mirror
    from bench.report.mlflow.tracking import log_with_parent
    from bench.runner.progress import ConsoleProgress

    home = find_home()
    store = options.open_store(out)
    latest = store.chosen_run(stamp)  # raises with the reason
    if with_parent:
        say(log_with_parent(store, home, uri, latest))
        return
    with ConsoleProgress(Console()) as progress:
        say(str(Mirror(home, uri).sync(store, [stamp] if stamp else None, progress)))


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of the server.")
@options.home
@options.tracking_uri
def ui(port: int, out: Path | None, uri: str | None) -> None:
    """Show the results in MLflow at http://127.0.0.1:PORT and print the address of a page that compares methods.

    Cells that end meanwhile appear there. With the --tracking-uri of a server no other one is started.
    """
    from bench.core.errors import BenchError
    from bench.report.mlflow import Mirror, address, serve
    from bench.runner.progress import ConsoleProgress

    home = find_home()
    store = options.open_store(out)
    latest = store.chosen_run()
    mirror = Mirror(home, uri)
    with ConsoleProgress(Console()) as progress:
        try:
            progress.note(str(mirror.sync(store, progress=progress)))
        except (BenchError, OSError) as error:
            progress.note(str(error))
    experiment = mirror.experiment(store.invocations()[latest]["suite"])
    if mirror.server:
        say(f"MLflow shows the results; to compare methods, open\n  {address(mirror.uri, experiment)}")
        return
    sys.exit(serve(home, port=port, uri=uri, page=lambda server: address(server, experiment)))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@options.device
@options.memory
def repeat(folder: Path, device: str, memory_limit: int | None) -> None:
    """Recompute a finished cell in an empty BENCH_HOME and compare the numbers.

    FOLDER is the folder of the cell (`python -m bench show CELL` prints the whole command). The black box is retrained
    too. Exit code 0: equal numbers; 1: different ones, which are listed with the differences of the environment.
    """
    from bench.core import environment
    from bench.runner.progress import ConsoleProgress
    from bench.runner.reproduce import reproduce

    home = find_home()
    with ConsoleProgress(Console()) as progress:
        found = reproduce(folder.resolve(), home, environment.pick_device(device), progress, memory_limit)
    _tell(found)
    sys.exit(1 if found.numbers else 0)


def _tell(found: Any) -> None:
    if not found.numbers:
        say(f"the same {found.compared} numbers")
        return
    say(f"{len(found.numbers)} of {found.compared} numbers differ:")
    for name, (before, now) in found.numbers.items():
        say(f"  {name}: {before} before, {now} now")
    if found.surroundings:
        say("other differences:")
    for name, (before, now) in found.surroundings.items():
        say(f"  {name}: {before} before, {now} now")


COMMANDS = (sync, ui, repeat)
