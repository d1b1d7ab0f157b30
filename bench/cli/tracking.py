"""Commands on the MLflow mirror, and the one that repeats a cell to compare its numbers."""

from __future__ import annotations

import sys
import time
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
@click.option("--follow", is_flag=True, help="Continue until Ctrl-C; curves grow while cells train.")
@click.option("--with-parent", is_flag=True, hidden=True)
def sync(out: Path | None, uri: str | None, stamp: str | None, follow: bool, with_parent: bool) -> None:
    """Update the MLflow mirror from the store; a deleted or missing mirror is rebuilt."""
    from bench.report.mlflow import Follower, until_end_of_input
    from bench.runner.progress import ConsoleProgress

    home = find_home()
    store = options.open_store(out)
    if not (follow or with_parent):
        store.chosen_run(stamp)  # raises with the reason
    with ConsoleProgress(Console()) as progress:
        follower = Follower(home, store, uri, [stamp] if stamp else None, progress.note)
        if with_parent:
            until_end_of_input(follower)
            return
        while follow:
            follower.look()
            time.sleep(1)
        say(str(follower.finish(progress)))


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of the server.")
@options.home
@options.tracking_uri
def ui(port: int, out: Path | None, uri: str | None) -> None:
    """Show the results in MLflow at http://127.0.0.1:PORT and print the address of a page that compares methods.

    Results of running cells appear as they are written. With the --tracking-uri of a server no other one is started.
    """
    from bench.contract import BenchError
    from bench.report.mlflow import Follower, Mirror, address, serve
    from bench.runner.progress import ConsoleProgress

    home = find_home()
    store = options.open_store(out)
    latest = store.chosen_run()
    with ConsoleProgress(Console()) as progress:
        found = Mirror(home, uri)
        follower = Follower(home, store, uri, said=progress.note)
        try:
            progress.note(str(follower.finish(progress)))
        except (BenchError, OSError) as error:
            progress.note(str(error))
        experiment = found.experiment(store.invocations()[latest]["suite"])
    if found.server:
        say(f"MLflow shows the results; to compare methods, open\n  {address(found.uri, experiment)}")
        return
    code = serve(home, port=port, uri=uri, page=lambda server: address(server, experiment), meanwhile=follower.look)
    sys.exit(code)


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
