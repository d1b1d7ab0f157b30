"""Command that shows the progress of runs, from any shell."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click

from bench.cli import options
from bench.core.console import Console, say
from bench.core.project_file import project_file


@click.command()
@options.home
@click.option("--suite", help="Show the newest run of this suite. Default: the newest run of all.")
@click.option("--all", "everything", is_flag=True, help="Show all cells of the store.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@options.as_json
def status(out: Path | None, suite: str | None, everything: bool, watch: bool, as_json: bool) -> None:
    """Show the progress of the newest run: finished, running, killed and failed cells.

    It reads only the files of the store, so it works from any shell or machine that sees them.
    """
    from rich.live import Live

    from bench.runner.status import Board, Overview

    if project := project_file():
        say(str(project), err=True)
    store = options.open_store(out)
    stamp = None if everything else store.chosen_run(suite=suite)
    names = store.cells() if stamp is None else list(store.invocations()[stamp]["cells"])
    # Cells at work that are not of this run are shown too.
    names += [name for name in store.cells() if name not in set(names) and store.cell(name).busy]
    overview = Overview(store, names)
    if as_json:
        say(json.dumps([asdict(one) for one in overview.look()], indent=1))
        return
    board = Board(overview, f"run {stamp}" if stamp else "all cells", failures=True)
    console = Console()
    if not watch:
        console.print(board())
        return
    with Live(get_renderable=board, console=console, refresh_per_second=2):
        while True:
            time.sleep(1)


COMMANDS = (status,)
